#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What programs that were built against an earlier libqsae rely on. baseline.xml is the ABI of the headers
# of `commit` (abidw), constants their public constants, released the symbols of releases.
#   - Released symbols keep their version node, and nothing joins a released node.
#   - Constants keep their values.
#   - abidiff finds no change in functions and types of the library; canaries show that it would.
#   - A program of `commit`, built against the headers of that time, runs on the library of today.
# usage: abi.sh SOURCE LIBQSAE.SO   TAP; skips say what is missing (abigail-tools, git history, debug information)
#        abi.sh SOURCE --update     a new baseline, of the headers as they are, on purpose: the change of
#                                   baseline.xml shows what old programs will not find any more
#        abi.sh SOURCE --release    the symbols of libqsae/qsae.map are released
# QSAE_LONG_TESTS=1: evaluate of `commit` runs too.
set -u
export LC_ALL=C
source=$(cd "$1" && pwd)
here=$source/tests/abi
. "$source/tests/install/tap.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
map=$source/libqsae/qsae.map
cc=${CC:-cc}

# INCLUDE_DIR MAP OUT: a library of empty functions with the ABI of these headers.
stub() {
    cat "$1"/qsae/*.h | awk -f "$here/stub.awk" >"$3.c"
    # shellcheck disable=SC2086
    $cc -g -fPIC -shared -fvisibility=hidden -w -I"$1" -Wl,-soname,libqsae.so.0 \
        -Wl,--version-script="$2" "$3.c" -o "$3"
}

# INCLUDE_DIR
constants() {
    echo '#include <qsae/qsae.h>' >"$work/all.c"
    # shellcheck disable=SC2086
    { $cc -E -P -I"$1" "$work/all.c"; $cc -E -dM -I"$1" "$work/all.c"; } |
        awk -f "$here/constants.awk" | grep '^QSAE_' | grep -v '_COUNT \|_H \|API_VERSION' | sort -u
}

xml() {
    abidw --headers-dir "$1" --no-corpus-path --no-comp-dir-path --drop-private-types --no-elf-needed "$2" |
        sed "s|filepath='[^']*/qsae/|filepath='include/qsae/|"
}

case $2 in
--update)
    stub "$source/include" "$map" "$work/stub.so" && xml "$source/include" "$work/stub.so" >"$work/xml" &&
        mv "$work/xml" "$here/baseline.xml" && constants "$source/include" >"$here/constants" &&
        git -C "$source" rev-parse HEAD >"$here/commit"
    exit ;;
--release)
    awk -f "$here/nodes.awk" "$map" | while read -r line; do
        grep -qx "$line" "$here/released" || echo "$line" >>"$here/released"
    done
    exit ;;
esac
library=$2

# ---- version nodes ----

# RELEASED MAP: complaints.
moved() {
    awk -f "$here/nodes.awk" "$2" | sort >"$work/nodes"
    grep -v '^#' "$1" | sort | comm -23 - "$work/nodes" | sed 's/^/gone or moved: /'
    grep -v '^#' "$1" | cut -d' ' -f1 | sort -u | while read -r node; do
        grep "^$node " "$work/nodes" | grep -vxFf "$1" | sed 's/^/new in a released node: /'
    done
}

empty "released symbols keep their node" "$(moved "$here/released" "$map")"
nm -D --defined-only "$library" | awk '$2 != "A" { sub(/.*@@/, "&", $3); split($3, s, "@@"); print s[2], s[1] }' |
    sort >"$work/exported"
awk -f "$here/nodes.awk" "$map" | sort >"$work/nodes"
check "the library exports each symbol in the node of qsae.map" diff "$work/nodes" "$work/exported"
awk -f "$here/nodes.awk" "$map" >"$work/released"
sed 's/qsae_version;/qsae_moved;/' "$map" >"$work/map"
check "canary: a symbol that is gone is seen" test -n "$(moved "$work/released" "$work/map")"
sed 's/^\( *\)qsae_version;/&\n\1qsae_zzz;/' "$map" >"$work/map"
check "canary: a symbol added to a released node is seen" test -n "$(moved "$work/released" "$work/map")"
first=$(awk -f "$here/nodes.awk" "$map" | sed -n '1s/ .*//p')
{ cat "$map"; printf '%s.9 {\n    global:\n        qsae_zzz;\n} %s;\n' "$first" "$first"; } >"$work/map"
empty "a symbol in a node of its own release is fine" "$(moved "$work/released" "$work/map")"

# ---- constants ----

constants "$source/include" >"$work/constants"
check "there are constants to compare" test "$(wc -l <"$here/constants")" -gt 100
empty "public constants keep their values" "$(comm -23 "$here/constants" "$work/constants")"

# ---- functions and types ----

# HEADERS LIBRARY: exit status of abidiff against the baseline. Everything but 0 is a break: 4 is a changed
# type as well as a struct that has grown, and only a new baseline, made on purpose, allows the latter.
gate() {
    abidiff --no-added-syms --headers-dir2 "$1" "$here/baseline.xml" "$2" >"$work/report" 2>&1
}

# NAME HEADER SED-EXPRESSION: the gate sees this change.
canary() {
    rm -rf "$work/include"
    cp -r "$source/include" "$work/include"
    sed -i -E "$3" "$work/include/qsae/$2"
    if cmp -s "$source/include/qsae/$2" "$work/include/qsae/$2"; then
        no "canary: $1" "the expression changes nothing in $2"
        return
    fi
    if ! stub "$work/include" "$map" "$work/canary.so"; then
        no "canary: $1" "it does not build"
        return
    fi
    gate "$work/include" "$work/canary.so" && no "canary: $1" "abidiff has not seen it" || pass "canary: $1"
}

if ! command -v abidiff >/dev/null; then
    skip "functions and types" "abidiff is not installed (abigail-tools)"
elif ! readelf -S "$library" | grep -q '\.debug_info'; then
    skip "functions and types" "the library has no debug information, without which abidiff sees nothing"
else
    check "the library has the ABI of baseline.xml (abi.sh SOURCE --update, if that is meant)" \
        gate "$source/include" "$library"
    stub "$source/include" "$map" "$work/stub.so"
    check "so has a library of empty functions made of the headers" gate "$source/include" "$work/stub.so"
    canary "two fields of a struct change places" tensor.h \
        's/int64_t n_rows; /int64_t T_; /; s/int64_t n_cols; /int64_t n_rows; /; s/int64_t T_; /int64_t n_cols; /'
    canary "a field becomes another type of the same size" tensor.h 's/int64_t row_stride; /double row_stride; /'
    canary "a field in the middle" tensor.h 's/int64_t row_stride;/int64_t new_; &/'
    canary "a field at the end" tensor.h 's|int32_t reserved;    |&int64_t new_; |'
    canary "a parameter of another width" sae.h \
        's/(qsae_sae_set_prefix\(qsae_sae \*sae, )int64_t/\1int32_t/'
    canary "a result of another width" sae.h 's/int32_t (qsae_sae_set_prefix)/int64_t \1/'
    canary "a callback's parameter" common.h 's/\(void \*cookie, int64_t done/(void *cookie, int32_t done/'
    # And on the library itself: it is not what a baseline with exchanged fields says.
    sed "s/name='n_rows'/name='t_'/; s/name='n_cols'/name='n_rows'/; s/name='t_'/name='n_cols'/" \
        "$here/baseline.xml" >"$work/swapped.xml"
    abidiff --no-added-syms --headers-dir2 "$source/include" "$work/swapped.xml" "$library" >/dev/null 2>&1
    check "canary: the library against a baseline with exchanged fields" test $? -ge 4
fi

# ---- programs of then on the library of now ----

commit=$(cat "$here/commit")
mkdir -p "$work/then" "$work/now"
ln -s "$(readlink -f "$library")" "$work/now/libqsae.so.0"
if ! git -C "$source" cat-file -e "$commit^{commit}" 2>/dev/null; then
    skip "a program of commit $commit" "its commit is not in this clone"
else
    git -C "$source" archive "$commit" include libqsae/qsae.map tests/install/app.c examples |
        tar -xf - -C "$work/then"
    then=$work/then
    stub "$then/include" "$then/libqsae/qsae.map" "$work/libqsae.so"
    sae=$source/examples/data/tiny-gemma3-sae
    # shellcheck disable=SC2086
    {
        check "the app of then builds" \
            $cc -w -I"$then/include" "$then/tests/install/app.c" -o "$work/app" "$work/libqsae.so" -lm
        $cc -w -I"$source/include" "$source/tests/install/app.c" -o "$work/app_now" "$library" -lm
    }
    export LD_LIBRARY_PATH="$work/now"
    check "it runs on the library of now" "$work/app" "$sae"
    "$work/app" "$sae" >"$work/a" 2>&1
    "$work/app_now" "$sae" >"$work/b" 2>&1
    check "and prints what one of now prints" cmp "$work/a" "$work/b"
    if [ -n "${QSAE_LONG_TESTS:-}" ]; then
        data=$source/examples/data
        # shellcheck disable=SC2046,SC2086
        check "evaluate of then builds" $cc -w -D_GNU_SOURCE -I"$then/include" "$then/examples/evaluate.c" \
            $(grep -L -e 'int main' -e '<mpi.h>' "$then"/examples/*.c) -o "$work/evaluate" "$work/libqsae.so" -ljansson -lm
        check "and runs on the library of now" "$work/evaluate" "$data/tiny-gemma3" --sae "$sae@2" \
            --text "$data/eval.jsonl" --tokens 2048 --condition nf4 --json "$work/result.json"
        check "with a result" grep -q '"kl_mean": [0-9]' "$work/result.json"
    else
        skip "evaluate of then" "QSAE_LONG_TESTS is not set"
    fi
fi
finish
