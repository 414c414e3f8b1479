#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Reads and runs the library with the tools that find what tests do not see. Each stage ends with a
# line "STAGE: N findings", and says what it lacks if it cannot run. Status 1 if one finds something.
# What is explained stands with its reason in cppcheck.allow, tidy.allow, analyzer.allow, paths.allow
# and valgrind.allow; what the tools say in full in BUILD/tools-*.log.
#   cppcheck   warning, performance, portability
#   tidy       clang-tidy-14 with .clang-tidy
#   analyzer   gcc-12 -fanalyzer
#   paths      clang-tidy-14 with clang's path analyzer (clang-analyzer-*)
#   tsan       ThreadSanitizer: tests/threads with 64 threads and 1,000 rounds
#   valgrind   memcheck and leaks over the tests named below
#   msan       MemorySanitizer over tests, and over libraries built for it (msan.sh; needs the network)
#   levels     AddressSanitizer and UndefinedBehaviorSanitizer with more checks than tests/run.sh has,
#              at every kernel level of this machine
# usage: tools.sh BUILD [STAGE...]      BUILD: a build folder; all stages by default
# QSAE_JOBS: processes at a time (CPUs); QSAE_TESTS: other tests than those of the stage, by name;
# QSAE_SECONDS: the most that one may take (1800); QSAE_LEVELS: "c avx2 avx512 best", or some of these
set -u
cd "$(dirname "$0")/../.." || exit 2
[ $# -gt 0 ] || { sed -n 's/^# usage: //p' "$0"; exit 2; }
source=$PWD
build=$(cd "$OLDPWD" && cd "$1" && pwd) || exit 2
shift
[ -f "$build/build.ninja" ] || { echo "$build: no build folder"; exit 2; }
[ $# -gt 0 ] || set -- cppcheck tidy analyzer paths tsan valgrind msan levels
jobs=${QSAE_JOBS:-$(nproc)}
export QSAE_JOBS="$jobs"
status=0
shared=libqsae/libqsae.so.$(sed -n 's/^#define QSAE_API_VERSION_M[A-Z]* \|^#define QSAE_API_VERSION_PATCH //p' \
    include/qsae/version.h | paste -s -d .)

# NAME, ninja targets, meson options...: builds what is named in BUILD/tools-NAME.
compile() {
    dir=$build/tools-$1
    targets=$2
    shift 2
    [ -f "$dir/build.ninja" ] ||
        meson setup "$dir" "$source" -Dpython=disabled -Dtests_install=false -Dexamples=false "$@" \
            >"$dir.log" 2>&1 || { tail -n 20 "$dir.log"; return 1; }
    # shellcheck disable=SC2086
    ninja -j "$jobs" -C "$dir" $targets >"$dir.log" 2>&1 || { tail -n 20 "$dir.log"; return 1; }
}

# NAME, number, what ran: the line of a stage.
report() {
    echo "$1: $2 findings${3:+ ($3)}"
    [ "$2" = 0 ] || status=1
}

missing() {
    command -v "$2" >/dev/null && return 1
    echo "$1: skipped: $2 is not installed"
}

reads() {
    ninja -C "$build" libqsae/vcs_version.h libqsae/layout.c >/dev/null || { report "$1" 1; return; }
    python3 tests/tools/static.py "$1" "$build" || status=1
}

tsan() {
    missing tsan clang-14 && return
    CC=clang-14 compile tsan tests/threads/test_threads -Dbuildtype=debugoptimized -Db_sanitize=thread \
        -Db_lundef=false || { report tsan 1 "does not build"; return; }
    test=$dir/tests/threads/test_threads
    export TSAN_OPTIONS=halt_on_error=0:exitcode=0
    "$test" 4 50 race >"$dir-race.log" 2>&1
    grep -q 'WARNING: ThreadSanitizer: data race' "$dir-race.log" ||
        { report tsan 1 "it does not see the race of test_threads 4 50 race"; return; }
    QSAE_LONG_TESTS=1 "$test" >"$dir.log" 2>&1
    ended=$?
    found=$(grep -c 'WARNING: ThreadSanitizer' "$dir.log")
    grep -A 12 'WARNING: ThreadSanitizer' "$dir.log" | head -n 60
    [ $ended -eq 0 ] || { grep '^#\|^not ok' "$dir.log"; found=$((found + 1)); }
    report tsan "$found" "$(sed -n 's/^# //p' "$dir.log" | tail -n 1)"
}

# STAGE, folder, how a finding begins, tests... [-- wrapper...]: adds what is found.
tests() {
    n=$(python3 tests/tools/suites.py "$@") || n=1
    found=$((found + n))
}

# STAGE, folder, what the tool says, compiler and flags, cases of canary.c...: it sees them all, and
# nothing where there is nothing. $wrapper: what runs it.
canary() {
    stage=$1 dir=$2 says=$3 cc=$4
    shift 4
    # shellcheck disable=SC2086
    $cc -O0 -w -Iinclude tests/tools/canary.c -o "$dir/canary" "$dir/$shared" \
        -Wl,-rpath,"$dir/libqsae" || { report "$stage" 1 "the canary does not build"; return 1; }
    for how in well "$@"; do
        # shellcheck disable=SC2086
        ${wrapper:-} "$dir/canary" "$how" >"$dir/canary.log" 2>&1
        seen=$(grep -c "$says" "$dir/canary.log")
        if [ "$how" = well ]; then [ "$seen" = 0 ]; else [ "$seen" != 0 ]; fi && continue
        cat "$dir/canary.log"
        report "$stage" 1 "canary $how"
        return 1
    done
}

# The instructions beyond AVX2 are unknown to valgrind 3.19: the library takes the AVX2 kernels there.
valgrind_() {
    missing valgrind valgrind && return
    list=${QSAE_TESTS:-core formats script states intervals llama misuse process}
    wrapper="valgrind --quiet --error-exitcode=99 --leak-check=full \
        --show-leak-kinds=definite,indirect,possible --errors-for-leak-kinds=definite,indirect,possible \
        --suppressions=$source/tests/tools/valgrind.allow"
    ninja -j "$jobs" -C "$build" "$shared" >"$build/tools-valgrind.log" ||
        { report valgrind 1 "does not build"; return; }
    canary valgrind "$build" '^==[0-9]*== [CI]' gcc unset freed beyond || return
    found=0
    # shellcheck disable=SC2086
    MALLOC_PERTURB_=0 tests valgrind "$build" '==[0-9]*== [A-Z0-9]' $list -- $wrapper
    report valgrind "$found" "$list"
}

# clang with -O1 after all other options: instrumented kernels take too long to compile at their -O3.
clang_o1() {
    printf '#!/bin/sh\nexec clang-14 "$@" -O1\n' >"$build/tools-clang.sh"
    chmod +x "$build/tools-clang.sh"
    echo "$build/tools-clang.sh"
}

# level.h: QSAE_TEST_LEVEL bounds the level that is the best of the machine.
at_levels() {
    found=0
    for level in $levels; do
        if [ "$level" = best ]; then unset QSAE_TEST_LEVEL; else export QSAE_TEST_LEVEL="$level"; fi
        tests "$1-$level" "$dir" "$2" $list
    done
    unset QSAE_TEST_LEVEL
    report "$1" "$found" "$levels: $list"
}

# What runs BLIS, a compiler, Python or another library that is not instrumented is left out.
msan() {
    missing msan clang-14 && return
    sh tests/tools/msan.sh "$build/tools-msan-libraries" >"$build/tools-msan.log" 2>&1 || {
        echo "msan: skipped: the libraries beneath cannot be built: $(tail -n 1 "$build/tools-msan.log")"
        return
    }
    list=${QSAE_TESTS:-core kernels formats text script states trees keys hostile fuzz misuse metrics agreement \
        intervals llama tails damage slices}
    levels=${QSAE_LEVELS:-c best}
    prefix=$build/tools-msan-libraries/prefix
    clang-14 -O1 -c tests/tools/unset.c -o "$build/tools-msan-unset.o" || { report msan 1 "does not build"; return; }
    CC=$(clang_o1) PKG_CONFIG_LIBDIR=$prefix/lib/pkgconfig compile msan "$shared" \
        -Dmpi=disabled -Dllama=disabled -Ddebug=false -Doptimization=1 -Db_sanitize=memory -Db_lundef=false \
        -Dc_args="['-gline-tables-only', '-include', '$source/tests/tools/level.h']" \
        -Dc_link_args="-Wl,-rpath,$prefix/lib $build/tools-msan-unset.o" || { report msan 1 "does not build"; return; }
    export MSAN_OPTIONS=exitcode=99
    wrapper= canary msan "$dir" 'WARNING: MemorySanitizer' "clang-14 -fsanitize=memory" unset freed || return
    at_levels msan '.*(?:WARNING|ERROR): MemorySanitizer'
}

# Left out of what clang has: unsigned wrap and implicit conversions, which hashes, random numbers and packed
# codes make on purpose, and division by zero, whose NaN and infinities are results here.
levels() {
    missing levels clang-14 && return
    list=${QSAE_TESTS:-core kernels codecs sae metrics misuse}
    levels=${QSAE_LEVELS:-c avx2 avx512 best}
    CC=$(clang_o1) compile levels "$shared" -Dmpi=disabled -Dllama=disabled -Ddebug=false -Doptimization=1 \
        -Db_sanitize=address,undefined -Db_lundef=false \
        -Dc_args="['-gline-tables-only', '-fsanitize=local-bounds,nullability', '-fno-sanitize-recover=undefined', \
            '-mllvm', '-asan-detect-invalid-pointer-cmp', '-mllvm', '-asan-detect-invalid-pointer-sub', \
            '-include', '$source/tests/tools/level.h']" || { report levels 1 "does not build"; return; }
    export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1
    ASAN_OPTIONS=$ASAN_OPTIONS:detect_invalid_pointer_pairs=2
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    wrapper= canary levels "$dir" 'ERROR: AddressSanitizer' "clang-14 -fsanitize=address,undefined" freed beyond ||
        return
    at_levels levels '.*(?:ERROR: [A-Za-z]+Sanitizer|runtime error:)'
}

for stage; do
    case $stage in
    cppcheck|tidy|analyzer|paths) reads "$stage" ;;
    tsan) tsan ;;
    valgrind) valgrind_ ;;
    msan) msan ;;
    levels) levels ;;
    *) echo "$stage: no such stage"; exit 2 ;;
    esac
done
exit $status
