#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Each public header alone, as C11 and as C++17, without a warning.
# usage: headers.sh SOURCE_DIR    compilers: $CC, $CXX
set -u
source=$1
. "$source/tests/install/tap.sh"
CC=${CC:-cc}
CXX=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
warnings='-Wall -Wextra -Wpedantic -Wshadow -Wundef -Werror'

# The second inclusion must do nothing.
alone() {
    printf '#include <qsae/%s>\n#include <qsae/%s>\n' "$2" "$2" >"$work/header.$1"
}

for path in "$source"/include/qsae/*.h; do
    header=${path##*/}
    alone c "$header"
    # shellcheck disable=SC2086
    check "$header as C11" $CC -std=c11 $warnings -I"$source/include" -fsyntax-only "$work/header.c"
    if command -v ${CXX%% *} >/dev/null; then
        alone cpp "$header"
        # shellcheck disable=SC2086
        check "$header as C++17" $CXX -std=c++17 $warnings -Wold-style-cast -I"$source/include" \
            -fsyntax-only "$work/header.cpp"
    else
        skip "$header as C++17" "no C++ compiler"
    fi
    [ "$header" = qsae.h ] || grep -q "<qsae/$header>" "$source/include/qsae/qsae.h" ||
        no "$header is in the umbrella header"
done
finish
