#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# qsae.hpp: without a warning as C++17 and C++20, every public function in it, a program that uses
# all of it on the bundled model.
# usage: cpp.sh SOURCE_DIR LIBQSAE.SO    compiler: $CXX
set -u
source=$1
shared=$2
. "$source/tests/install/tap.sh"
CXX=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
header=$source/include/qsae/qsae.hpp
warnings='-Wall -Wextra -Wpedantic -Wshadow -Wold-style-cast -Wconversion -Werror'

missing=
for name in $(sed -n 's/^ *\(qsae_[a-z0-9_]*\);$/\1/p' "$source/libqsae/qsae.map"); do
    grep -qw "$name" "$header" || missing="$missing $name"
done
empty "every public function is in qsae.hpp, or said to be left out" "$missing"

if ! command -v "${CXX%% *}" >/dev/null; then
    skip "qsae.hpp compiles" "no C++ compiler"
    finish
    exit
fi
printf '#include <qsae/qsae.hpp>\n#include <qsae/qsae.hpp>\nint other() { return 0; }\n' \
    >"$work/alone.cpp"
# shellcheck disable=SC2086
check "alone and twice, C++20" $CXX -std=c++20 $warnings -I"$source/include" -fsyntax-only \
    "$work/alone.cpp"
# Two files of one program may include it. With the sanitizers of the library, if it has any.
sanitizers=
nm -D --undefined-only "$shared" | grep -q __asan_ && sanitizers=-fsanitize=address,undefined
# shellcheck disable=SC2086
check "a program, C++17" $CXX -std=c++17 $warnings -Wno-conversion $sanitizers -I"$source/include" \
    "$source/tests/install/cpp.cpp" "$work/alone.cpp" -o "$work/cpp" -L"$(dirname "$shared")" -lqsae
mkdir "$work/out"
output=$(LD_LIBRARY_PATH=$(dirname "$shared") "$work/cpp" "$source/examples/data" "$work/out" 2>&1)
status=$?
if [ "$status" -eq 0 ] && [ "$(printf '%s\n' "$output" | grep -c '^ok')" -gt 50 ]; then
    pass "which runs"
else
    no "which runs" "$output"
fi
finish
