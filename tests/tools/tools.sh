#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Reads and runs the library with the tools that find what tests do not see. Each stage ends with a
# line "STAGE: N findings", and says what it lacks if it cannot run. Status 1 if one finds something.
# What is explained stands with its reason in cppcheck.allow, tidy.allow, analyzer.allow and
# valgrind.allow; what the tools say in full in BUILD/tools-*.log.
#   cppcheck   warning, performance, portability
#   tidy       clang-tidy-14 with .clang-tidy
#   analyzer   gcc-12 -fanalyzer
#   tsan       ThreadSanitizer: tests/threads with 64 threads and 1,000 rounds
#   valgrind   memcheck and leaks over the tests of core
# usage: tools.sh BUILD [STAGE...]      BUILD: a build folder; all stages by default
# QSAE_JOBS: processes at a time (CPUs)
set -u
cd "$(dirname "$0")/../.." || exit 2
[ $# -gt 0 ] || { sed -n 's/^# usage: //p' "$0"; exit 2; }
source=$PWD
build=$(cd "$OLDPWD" && cd "$1" && pwd) || exit 2
shift
[ -f "$build/build.ninja" ] || { echo "$build: no build folder"; exit 2; }
[ $# -gt 0 ] || set -- cppcheck tidy analyzer tsan valgrind
jobs=${QSAE_JOBS:-$(nproc)}
export QSAE_JOBS="$jobs"
status=0

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

# The instructions beyond AVX2 are unknown to valgrind 3.19: the library takes the AVX2 kernels there.
valgrind_() {
    missing valgrind valgrind && return
    list=core
    # shellcheck disable=SC2046
    ninja -j "$jobs" -C "$build" $(for t in $list; do echo "tests/$t/test_$t"; done) >"$build/tools-valgrind.log" ||
        { report valgrind 1 "does not build"; return; }
    found=0
    for t in $list; do
        log=$build/tools-valgrind-$t.log
        (cd "$build" && MALLOC_PERTURB_=0 valgrind --quiet --error-exitcode=99 --leak-check=full \
            --show-leak-kinds=definite,indirect,possible --errors-for-leak-kinds=definite,indirect,possible \
            --suppressions="$source/tests/tools/valgrind.allow" "tests/$t/test_$t") >"$log" 2>&1 && continue
        n=$(grep -c '^==[0-9]*== [A-Z0-9]' "$log")
        grep -m 30 '^==\|FAILED\|^not ok' "$log"
        found=$((found + (n > 0 ? n : 1)))
    done
    report valgrind "$found" "$list"
}

for stage; do
    case $stage in
    cppcheck|tidy|analyzer) reads "$stage" ;;
    tsan) tsan ;;
    valgrind) valgrind_ ;;
    *) echo "$stage: no such stage"; exit 2 ;;
    esac
done
exit $status
