#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Installs packages, builds and runs all tests. With --all: gcc, clang and the sanitizers, warnings as
# errors. Ends with one line over all test cases: N passed, N failed, N skipped.
set -u
cd "$(dirname "$0")/.."
all=
[ "${1:-}" = --all ] && all=yes
sh examples/packages.sh g++ python3 python3-numpy ${all:+clang libclang-rt-14-dev abigail-tools mandoc doxygen patchelf mpich libmpich-dev zsh fish} || exit 1
log=build/tests.log
mkdir -p build
: >"$log"
status=0

# NAME, then meson options: builds in build/NAME and runs the tests (those in $only, if set; of
# programs that divide them, the groups in $groups). With $lean no more is built than they need.
configuration() {
    name=$1
    shift
    dir=build/$name
    echo "== $name"
    rm -rf "$dir"
    meson setup "$dir" --werror "$@" >"$dir.log" 2>&1 &&
        { [ -n "${lean:-}" ] || ninja -C "$dir" >>"$dir.log" 2>&1; } || {
        tail -n 60 "$dir.log"
        echo "not ok - $name does not build" | tee -a "$log"
        status=1
        return
    }
    run_only=--no-rebuild
    [ -z "${lean:-}" ] || run_only=
    # shellcheck disable=SC2086
    if ! meson test -C "$dir" $run_only --num-processes 2 ${groups:+--test-args "$groups"} \
        ${only:-} >"$dir.log" 2>&1; then
        status=1
        grep -n 'error:' "$dir.log"
    fi
    sed -n 's/^ *[0-9]*\/[0-9]* /  /p' "$dir.log"
    [ -s "$dir/meson-logs/testlog.txt" ] || echo "not ok - $name runs no test" | tee -a "$log"
    cat "$dir/meson-logs/testlog.txt" >>"$log"
    # A program that dies in the middle of a case leaves no line for it.
    sed -n 's/^ *[0-9]*\/[0-9]* \(.*\(FAIL\|TIMEOUT\|ERROR\).*\)/not ok - program \1/p' "$dir.log" >>"$log"
}

configuration gcc
if [ -n "$all" ]; then
    # What runs the same code at length (golden, splice, streamed, ...) is left to gcc's build; model, sae and
    # metrics run by clang under the sanitizers, whose instrumented kernels compile in a quarter of gcc's time.
    only="core kernels kernels-blis codecs bundled contexts mixed probes windows headers cpp rows faults misuse habits" CC=clang CXX=clang++ configuration clang
    lean=yes
    only="core kernels kernels-blis formats text script codecs model metrics agreement intervals tails llama sae \
        checkpoints llama_audit transcoders damage fuzz hostile trees keys states same threads misuse habits" \
        CC=clang CXX=clang++ UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1 \
        configuration sanitize -Db_sanitize=address,undefined -Db_lundef=false -Dpython=disabled -Dtests_install=false
    only="core kernels model threads" groups="invariance pass sites head memory streamed" \
        configuration threads -Db_sanitize=thread -Db_lundef=false \
        -Dpython=disabled -Dtests_install=false -Dexamples=false
fi
awk -f tests/count.awk "$log"
[ $? -eq 0 ] && [ $status -eq 0 ]
