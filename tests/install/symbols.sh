#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What the libraries export against the version script libqsae/qsae.map, and that against the headers.
# usage: symbols.sh SOURCE_DIR LIBQSAE.SO LIBQSAE.A
#        symbols.sh SOURCE_DIR --update    writes the version script from the headers
set -u
export LC_ALL=C
source=$1
here=$source/tests/install
. "$here/tap.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

declared() {
    for header in "$source"/include/qsae/*.h; do awk -f "$here/symbols.awk" "$header"; done | sort
}

map=$source/libqsae/qsae.map
# Released symbols stay in their node (tests/abi); the others make up that of the coming release.
if [ "$2" = --update ]; then
    released=$source/tests/abi/released
    nodes=$(grep -v '^#' "$released" | cut -d' ' -f1 | uniq)
    version() { sed -n "s/^#define QSAE_API_VERSION_$1 //p" "$source/include/qsae/version.h"; }
    {
        before=
        for node in $nodes; do
            printf '%s {\n    global:\n' "$node"
            sed -n "s/^$node \(.*\)/        \1;/p" "$released"
            [ -n "$before" ] || printf '    local:\n        *;\n'
            printf '}%s;\n' "${before:+ $before}"
            before=$node
        done
        grep -v '^#' "$released" | cut -d' ' -f2 | sort >"$work/old"
        declared | comm -23 - "$work/old" >"$work/new"
        if [ -s "$work/new" ]; then
            printf '%s {\n    global:\n' "QSAE_$(version MAJOR)${before:+.$(version MINOR)}"
            sed 's/.*/        &;/' "$work/new"
            [ -n "$before" ] || printf '    local:\n        *;\n'
            printf '}%s;\n' "${before:+ $before}"
        fi
    } >"$work/map"
    mv "$work/map" "$map"
    exit
fi
shared=$2
static=$3

declared >"$work/declared"
sed -n 's/^ *\(qsae_[a-z0-9_]*\);$/\1/p' "$map" | sort >"$work/listed"
empty "no function is declared twice" "$(uniq -d "$work/declared")"
check "qsae.map is what the headers declare (else: symbols.sh SOURCE_DIR --update)" \
    diff "$work/listed" "$work/declared"

nm -D --defined-only "$shared" | awk '$2 != "A" { print $3 }' | sed 's/@.*//' | sort \
    >"$work/exported"
check "the shared library exports qsae.map, no more and no less" \
    diff "$work/listed" "$work/exported"
empty "every exported symbol has a version" \
    "$(nm -D --defined-only "$shared" | awk '$2 != "A" && $3 !~ /@@QSAE_[0-9]/')"
empty "all it exports is code" "$(nm -D --defined-only "$shared" | awk '$2 != "A" && $2 != "T"')"

nm --defined-only --extern-only "$static" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u \
    >"$work/globals"
empty "the static library has every public function" \
    "$(comm -23 "$work/listed" "$work/globals")"
# Coverage, sanitizers and profiling add symbols of their own.
empty "all globals of the static library start with qsae_" \
    "$(grep -vE '^(qsae_|__asan|__ubsan|__odr_asan|__gcov|__llvm|__start|__stop)' "$work/globals")"
empty "what is public is not called qsae__" "$(grep '^qsae__' "$work/listed")"

ours='abort|_?exit|_Exit|quick_exit|__assert_fail|__assert|perror'
print='printf|vprintf|puts|putchar|putc|stdout|stderr|__printf_chk|__vprintf_chk'
undefined() {
    nm -D --undefined-only "$shared" | sed 's/@.*//' | awk '{ print $2 }' | grep -xE "$1"
}
empty "nothing ends the process" "$(undefined "$ours")"
empty "nothing prints" "$(undefined "$print")"
finish
