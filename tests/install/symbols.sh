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
if [ "$2" = --update ]; then
    {
        printf 'QSAE_0 {\n    global:\n'
        declared | sed 's/.*/        &;/'
        printf '    local:\n        *;\n};\n'
    } >"$map"
    exit
fi
shared=$2
static=$3

declared >"$work/declared"
sed -n 's/^ *\(qsae_[a-z0-9_]*\);$/\1/p' "$map" >"$work/listed"
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
