#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The long run: libFuzzer on the targets of this folder, one after the other, from the seeds and from what
# earlier runs have found worth keeping (build/fuzz/corpus). clang, AddressSanitizer and
# UndefinedBehaviorSanitizer; nothing masks an abort. Ends with a line per target; status 1 if one found
# something, which then lies in build/fuzz/found/TARGET-*.
# usage: run.sh MINUTES [TARGET...]      minutes of each target; all targets by default
# QSAE_FUZZ_TIMEOUT: seconds that one input may take (1)   QSAE_FUZZ_RSS: MiB that a process may (1024)
set -u
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { sed -n 's/^# usage: //p' "$0"; exit 2; }
minutes=$1
shift
build=build/fuzz
[ -f "$build/build.ninja" ] || CC=clang meson setup "$build" -Dfuzz=enabled -Db_lundef=false \
    -Dexamples=false -Dpython=disabled -Dtests_install=false >/dev/null || exit 2
all=$(sed -n "/^fuzz_targets/,/]/p" tests/fuzz/meson.build | grep -o "'[a-z_]*'" | tr -d "'")
[ $# -gt 0 ] || set -- $all
programs=$(for t in "$@"; do echo "tests/fuzz/fuzz-$t"; done)
# shellcheck disable=SC2086
ninja -C "$build" tests/fuzz/test_fuzz $programs >"$build/log.$$" || { cat "$build/log.$$"; exit 2; }
seeds=$build/seeds.$$
trap 'rm -rf "$seeds"' EXIT
cp -r tests/fuzz/seeds "$seeds"
mkdir -p "$seeds/metric_state" "$seeds/audit_state" "$seeds/audit_merge" "$build/found"
"$build/tests/fuzz/test_fuzz" --write "$seeds" || exit 2
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
status=0
for t in "$@"; do
    mkdir -p "$build/corpus/$t"
    dictionary=tests/fuzz/$t.dict
    "$build/tests/fuzz/fuzz-$t" -max_total_time=$((minutes * 60)) -timeout="${QSAE_FUZZ_TIMEOUT:-1}" \
        -rss_limit_mb="${QSAE_FUZZ_RSS:-1024}" -max_len=16384 -print_final_stats=1 \
        -artifact_prefix="$build/found/$t-" ${QSAE_FUZZ_SEED:+-seed="$QSAE_FUZZ_SEED"} \
        $([ -f "$dictionary" ] && echo "-dict=$dictionary") \
        "$build/corpus/$t" "$seeds/$t" >"$build/$t.log" 2>&1 && what=ok || { what=FOUND; status=1; }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$t.log")
    echo "$what $t: ${runs:-?} executions, $(grep -o 'cov: [0-9]*' "$build/$t.log" | tail -n 1)"
    [ "$what" = ok ] || grep -m 3 -E '^==|^SUMMARY|: runtime error|tests/fuzz/' "$build/$t.log"
done
rm -f "$build/log.$$"
exit $status
