#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The lines of the how-to pages, run as they stand in a clean folder against an installation, with
# the bundled model where doc/getting-started.md puts it. One TAP line per page.
# usage: tasks.sh BUILD_DIR SOURCE_DIR [PAGE...]    compilers: $CC, $CXX; Python: $PYTHON
set -u
build=$1
source=$2
shift 2
. "$source/tests/install/tap.sh"
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset QSAE_LIBRARY PYTHONPATH

check "meson install" meson install -C "$build" --no-rebuild --quiet --destdir "$work/root"
pc=$(find "$work/root" -name qsae.pc)
if [ -z "$pc" ]; then
    no "qsae.pc is installed"
    finish
    exit 1
fi
prefix=$work/root$(sed -n 's/^prefix=//p' "$pc")
mkdir "$work/bin" "$work/pc" "$work/pages" "$work/home"
sed "s|^prefix=.*|prefix=$prefix|" "$pc" >"$work/pc/qsae.pc"
site=$(find "$work/root" -path '*/qsae/__init__.py' | head -n 1)
# NAME COMMAND...: what the pages call so is that of this build. Without it there is none.
named() {
    tool=$work/bin/$1
    program=$(command -v "$2") || program=/nonexistent
    shift 2
    printf '#!/bin/sh\nexec %s %s "$@"\n' "$program" "$*" >"$tool"
    chmod +x "$tool"
}
# shellcheck disable=SC2086
named cc ${CC:-cc}
# shellcheck disable=SC2086
named c++ ${CXX:-c++}
named python3 "$python" -B
PATH=$work/bin:$prefix/bin:$PATH
LD_LIBRARY_PATH=$(dirname "$(dirname "$pc")")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
PKG_CONFIG_PATH=$work/pc
PYTHONPATH=${site%/qsae/__init__.py}
HOME=$work/home
export PATH LD_LIBRARY_PATH PKG_CONFIG_PATH PYTHONPATH HOME
ln -s "$source" "$work/libqsae"

# PAGE: why its lines cannot be run here, or nothing.
missing() {
    [ -x "$prefix/bin/qsae-evaluate" ] || { echo "built without examples"; return; }
    if grep -q '^<!-- run: llama' "$1" && [ ! -x "$prefix/bin/qsae-llama-residuals" ]; then
        echo "built without llama.cpp"
    elif grep -qE '^```python|python3' "$1"; then
        if [ -z "$site" ]; then
            echo "built without the Python package"
        elif ! python3 -c 'import numpy' 2>/dev/null; then
            echo "NumPy is missing"
        elif grep -q '^<!-- run: report' "$1" &&
             ! python3 -m qsae report --help >/dev/null 2>&1; then
            echo "the Python package has no command report"
        fi
    elif grep -q '^```c++' "$1" && ! c++ --version >/dev/null 2>&1; then
        echo "no C++ compiler"
    fi
}

# FOLDER PLAN: runs the plan there; says what went wrong.
follow() {
    cd "$1" || return
    while read -r what first rest; do
        case $what in
        save) cp "$first" "$rest" ;;
        run)
            case $first in
            sh) timeout 120 sh -eu "$rest" >"$work/output" 2>&1 ;;
            python) timeout 120 python3 "$rest" >"$work/output" 2>&1 ;;
            *) false ;;
            esac || { echo "a block ($first) failed:"; cat "$rest" "$work/output"; return; } ;;
        expect)
            [ "$first" = - ] && first=$work/output
            grep -qE -e "$rest" "$first" || { echo "expected $rest in:"; head -c 3000 "$first"; } ;;
        *) echo "$what $first $rest" ;;
        esac </dev/null
    done <"$2"
}

# The folder of doc/getting-started.md, made by its own lines.
mkdir "$work/setup"
awk -v out="$work/setup" -f "$source/tests/install/tasks.awk" "$source/doc/getting-started.md" \
    >"$work/setup/plan"
setup=$(awk '$1 == "run" { print $3; exit }' "$work/setup/plan")
check "doc/getting-started.md makes the folder" sh -c \
    "cd '$work' && sh -eu '$setup' && test -d try/model"

[ $# -gt 0 ] || set -- getting-started howto-nf4 howto-gguf howto-sae howto-numpy howto-resume \
    howto-shards howto-report howto-slice howto-embed howto-llama
for page in "$@"; do
    file=$source/doc/$page.md
    blocks=$work/pages/$page
    mkdir "$blocks"
    awk -v out="$blocks" -f "$source/tests/install/tasks.awk" "$file" >"$blocks/plan"
    # The lines that made the folder are not run twice.
    [ "$page" != getting-started ] || sed -i 1d "$blocks/plan"
    why=$(missing "$file")
    if ! grep -q '^run' "$blocks/plan"; then
        no "$page has lines to run"
    elif [ -n "$why" ]; then
        skip "$page" "$why"
    else
        cp -r "$work/try" "$work/$page"
        empty "$page" "$(follow "$work/$page" "$blocks/plan")"
        rm -rf "${work:?}/$page"
    fi
done
for file in "$source"/doc/howto-*.md; do
    grep -q '^<!-- run' "$file" || no "$(basename "$file") has lines to run"
done
finish
