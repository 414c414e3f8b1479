#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Installs into a temporary folder and uses the installation as others would: C and C++ programs
# through pkg-config, shared and static; the programs by their installed names; the Python package.
# usage: run.sh BUILD_DIR SOURCE_DIR VERSION    compilers: $CC, $CXX; Python: $PYTHON
set -u
build=$1
source=$2
version=$3
. "$source/tests/install/tap.sh"
CC=${CC:-cc}
CXX=${CXX:-c++}
python=${PYTHON:-python3}
sae=$source/examples/data/tiny-gemma3-sae
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Nothing outside the installation may help.
unset QSAE_LIBRARY LD_LIBRARY_PATH PYTHONPATH PKG_CONFIG_PATH

check "meson install" meson install -C "$build" --no-rebuild --quiet --destdir "$work/root"
pc=$(find "$work/root" -name qsae.pc)
if [ -z "$pc" ]; then
    no "qsae.pc is installed"
    finish
    exit 1
fi
pass "qsae.pc is installed"
configured=$(sed -n 's/^prefix=//p' "$pc")
prefix=$work/root$configured
libdir=$(dirname "$(dirname "$pc")")

# pkg-config on the installation, wherever it was moved to.
config() {
    PKG_CONFIG_LIBDIR=$(dirname "$pc"):$(pkg-config --variable pc_path pkg-config) \
        pkg-config --define-variable=prefix="$prefix" "$@"
}

found=$(config --modversion qsae)
if [ "$found" = "$version" ]; then
    pass "pkg-config --modversion"
else
    no "pkg-config --modversion" "expected $version, found $found"
fi

for header in "$source"/include/qsae/*.h "$source"/include/qsae/*.hpp; do
    check "header ${header##*/}" cmp "$header" "$prefix/include/qsae/${header##*/}"
done
api=$(sed -n 's/^#define QSAE_API_VERSION_MAJOR //p' "$source/include/qsae/version.h")
check "soname" sh -c "readelf -d '$libdir/libqsae.so' | grep -q 'SONAME.*\[libqsae.so.$api\]'"
check "static library" test -s "$libdir/libqsae.a"

# NAME COMPILER FILE LIBDIR FLAGS...: builds app.c outside the tree and runs it.
app() {
    name=$1 compiler=$2 file=$3 dir=$4
    shift 4
    cp "$source/tests/install/app.c" "$work/$file"
    # shellcheck disable=SC2046,SC2086
    check "$name builds" $compiler "$work/$file" -o "$work/app" \
        $(config --cflags "$@" --libs --define-variable=libdir="$dir" qsae) -lm
    if [ "$dir" = "$libdir" ]; then
        check "$name runs" env LD_LIBRARY_PATH="$libdir" "$work/app" "$sae"
    else
        check "$name runs" "$work/app" "$sae"
        empty "$name needs no shared libqsae" "$(readelf -d "$work/app" | grep 'NEEDED.*libqsae')"
    fi
    rm -f "$work/app"
}

warnings='-Wall -Wextra -Wpedantic -Werror'
# With the .a alone in its folder the linker takes it.
mkdir "$work/static"
cp "$libdir/libqsae.a" "$work/static"
app "a C program" "$CC -std=c11 $warnings" app.c "$libdir"
app "a static C program" "$CC -std=c11 $warnings" app.c "$work/static" --static
if command -v "${CXX%% *}" >/dev/null; then
    app "a C++ program" "$CXX -std=c++17 $warnings" app.cpp "$libdir"
    app "a static C++ program" "$CXX -std=c++17 $warnings" app.cpp "$work/static" --static
else
    skip "C++ programs" "no C++ compiler"
fi

if [ -d "$prefix/bin" ]; then
    # shellcheck disable=SC2012
    names=$(ls "$prefix/bin" | grep -vxE "qsae-(llama-residuals|evaluate-mpi)" | tr '\n' ' ')
    if [ "$names" = "qsae-evaluate qsae-inspect qsae-merge qsae-published qsae-quantize \
qsae-rows qsae-stream-residuals " ]; then
        pass "installed program names"
    else
        no "installed program names" "found $names"
    fi
    installed() {
        check "${1} ${2##*/}" env LD_LIBRARY_PATH="$libdir" "$prefix/bin/$1" "$2"
    }
    installed qsae-evaluate --version
    installed qsae-inspect "$sae"
    installed qsae-published --version
    installed qsae-quantize --help
    installed qsae-stream-residuals "$sae"
    for page in qsae-evaluate.1 qsae-stream-residuals.1 qsae-evaluate.bash _qsae-evaluate \
        qsae-evaluate.fish; do
        check "page $page" test -n "$(find "$prefix/share" -name "$page" -size +0)"
    done
else
    skip "installed program names" "built without examples"
fi

package=$(find "$work/root" -path '*/qsae/__init__.py')
if [ -z "$package" ]; then
    skip "the Python package" "built without it"
elif ! "$python" -c 'import numpy' 2>/dev/null; then
    skip "the Python package" "NumPy is missing"
else
    site=$(dirname "$(dirname "$package")")
    check "the Python package finds its library" sh -c "cd / && PYTHONPATH='$site' '$python' \
        -B -c 'import qsae, sys
assert qsae.__file__.startswith(\"$site\"), qsae.__file__
assert qsae.LIBRARY_PATH.startswith(\"$work/root\") or \"$libdir\" in qsae.LIBRARY_PATH
sae = qsae.SAE(qsae.Context(1), \"$sae\")
assert sae.reconstruct([[1.0] * sae.width]).shape == (1, sae.width)'"
fi

# pip, on a copy, because it leaves its build folders behind.
if ! "$python" -c 'import setuptools, pip, numpy' 2>/dev/null; then
    skip "pip install" "NumPy, pip or setuptools is missing"
else
    mkdir -p "$work/copy/libqsae"
    cp "$source/meson.build" "$work/copy"
    cp -r "$source/libqsae/python" "$work/copy/libqsae"
    check "pip install" "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index \
        --disable-pip-version-check --target "$work/site" "$work/copy/libqsae/python"
    check "the version pip sees" test -d "$work/site/qsae-$version.dist-info"
    check "its package works" sh -c "cd / && QSAE_LIBRARY='$libdir/libqsae.so' \
        PYTHONPATH='$work/site' '$python' -B -c 'import qsae; qsae.Context(1).close()'"
fi
finish
