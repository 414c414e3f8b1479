#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# sh tests/same/same.sh FOLDER: the same bits from gcc and clang at -O0, -O2 and -O3. Six builds in
# FOLDER (CC and CLANG in the environment: other names than gcc and clang), each run at every kernel
# level of this machine; digests of all cases of test_same in its long form are compared between the
# builds at each level, then between levels, then with glibc's routines for older CPUs. A folder
# ARM with what tests/same/aarch64.sh left is compared, too: sh tests/same/same.sh FOLDER ARM.
set -eu
[ $# -ge 1 ] || { echo "usage: sh tests/same/same.sh FOLDER [ARM]" >&2; exit 2; }
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
arm=${2:-}
clang=${CLANG:-clang}
command -v "$clang" > /dev/null || clang=clang-14
export QSAE_LONG_TESTS="${QSAE_LONG_TESTS:-1}"
failures=0
builds=

bad()
{
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# The kernels of the levels are built with -O3 of their own: the last -O wins.
for compiler in "${CC:-gcc}" "$clang"; do
    command -v "$compiler" > /dev/null || { echo "skipped: no $compiler"; continue; }
    for o in 0 2 3; do
        b=$compiler-$o
        printf '#!/bin/sh\nexec %s "$@" -O%s\n' "$compiler" $o > "$folder/$b.sh"
        chmod +x "$folder/$b.sh"
        [ -f "$folder/$b/build.ninja" ] || CC=$folder/$b.sh meson setup "$folder/$b" "$source_dir" \
            -Dexamples=false -Dpython=disabled -Ddebug=false -Doptimization=$o \
            > "$folder/$b.log" 2>&1 || { tail "$folder/$b.log"; exit 1; }
        ninja -C "$folder/$b" tests/same/test_same > "$folder/$b.log" 2>&1 ||
            { tail -20 "$folder/$b.log"; exit 1; }
        ! grep -q 'warning:' "$folder/$b.log" || bad "$b: warnings"
        builds="$builds $b"
    done
done

# digests PROGRAM LEVEL FILE [RUNNER...]
digests()
{
    program=$1 level=$2 file=$3
    shift 3
    "$@" "$program" digests "$level" > "$file.all" 2>&1 || { bad "$file"; tail -5 "$file.all"; }
    grep -E ' (everywhere|f32|bf16) [0-9]+ [0-9a-f]{32}$' "$file.all" > "$file" || true
}

# same WHAT FILE FILE [WHERE...]: cases that must be equal in both
same()
{
    what=$1 one=$2 other=$3
    shift 3
    for where in "$@"; do
        grep " $where " "$one" > "$folder/one" || true
        grep " $where " "$other" > "$folder/other" || true
        [ -s "$folder/one" ] || bad "$what: no cases"
        n=$(diff "$folder/one" "$folder/other" | grep -c '^[<>]') || true
        [ "$n" = 0 ] || { bad "$what, $where:"; diff "$folder/one" "$folder/other" | head -20; }
    done
}

set -- $builds
first=$1
levels=
for level in c avx2 avx512 avx512bf16 amx; do
    if "$folder/$first/tests/same/test_same" digests $level 2> /dev/null | grep -q '^skipped'; then
        echo "skipped: level $level is not on this machine"
        continue
    fi
    for b in $builds; do
        digests "$folder/$b/tests/same/test_same" $level "$folder/$b.$level"
        same "$level: $b against $first" "$folder/$first.$level" "$folder/$b.$level" \
            everywhere f32 bf16
    done
    echo "level $level: $# builds, $(awk '{ n += $3 } END { print NR " cases, " n " values" }' \
        "$folder/$first.$level")"
    levels="$levels $level"
done

# Between levels: bf16 sums have another order from avx512bf16 on, f32 ones at amx.
for level in $levels; do
    case $level in
    c) where= ;;
    avx2 | avx512) where="everywhere f32 bf16" ;;
    avx512bf16) where="everywhere f32" ;;
    *) where=everywhere ;;
    esac
    # shellcheck disable=SC2086
    same "level $level against c" "$folder/$first.c" "$folder/$first.$level" $where
done

# glibc chooses routines by CPU: without FMA and AVX2 it has others for double exp, log, sin, pow.
for without in -AVX2_Usable,-FMA_Usable,-AVX2,-FMA,-FMA4; do
    digests "$folder/$first/tests/same/test_same" c "$folder/libm" \
        env GLIBC_TUNABLES=glibc.cpu.hwcaps=$without
    n=$(diff "$folder/$first.c" "$folder/libm" | grep -c '^<') || true
    echo "libm without FMA and AVX2: $n cases differ"
    diff "$folder/$first.c" "$folder/libm" | sed -n 's/^< \([^ ]*\) .*/    \1/p'
done

if [ -n "$arm" ]; then
    digests "$arm/build/tests/same/test_same" c "$folder/aarch64" qemu-aarch64 -L "$arm/root"
    same "aarch64 against c" "$folder/$first.c" "$folder/aarch64" everywhere f32 bf16
    echo "aarch64: $(awk '{ n += $3 } END { print NR " cases, " n " values" }' "$folder/aarch64")"
fi
[ $failures = 0 ] || { echo "$failures failures"; exit 1; }
echo "all equal"
