#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Which lines, branches and conditions (MC/DC) the tests reach. Builds with clang-19, whose coverage has
# MC/DC (else with clang-14 or later: branches only, said once), runs the programs below, prints a row per
# file and the places that nothing reached, and fails where a file lies below its figure in floors.txt.
# usage: coverage.sh BUILD [--quick | --state] [--update]
#   BUILD     build folder, made if it is not there
#   --quick   only the programs that reach the parsers; only their files are compared
#   --state   the same of states of runs and of files that are written
#   --update  writes the figures that were measured to floors.txt
set -u
[ $# -gt 0 ] && [ "${1#-}" = "$1" ] || { sed -n 's/^# usage: //p' "$0"; exit 2; }
build=$1
shift
quick=
update=
for o in "$@"; do
    case $o in
    --quick | --state) quick=$o ;;
    --update) update=--update ;;
    *) sed -n 's/^# usage: //p' "$0"; exit 2 ;;
    esac
done
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "$build" && build=$(cd "$build" && pwd) || exit 2
flags="-fprofile-instr-generate -fcoverage-mapping"
if command -v clang-19 >/dev/null && command -v llvm-cov-19 >/dev/null; then
    cc=clang-19 version=-19 flags="$flags -fcoverage-mcdc"
elif command -v clang-14 >/dev/null && command -v llvm-cov-14 >/dev/null; then
    cc=clang-14 version=-14
    echo "no clang-19 with llvm-19 and libclang-rt-19-dev: branches only, MC/DC is not measured"
else
    echo "coverage.sh: needs clang-19, llvm-19 and libclang-rt-19-dev" >&2
    exit 2
fi
# Of the kernels only those of this machine's level can run; their tests compare them with plain C.
if [ ! -f "$build/build.ninja" ]; then
    CC=$cc meson setup "$build" "$root" -Dbuildtype=plain -Dpython=disabled -Dtests_install=false \
        -Dexamples=false "-Dc_args=-O1 -g0 $flags" "-Dc_link_args=-fprofile-instr-generate" >"$build.log" ||
        { cat "$build.log"; exit 2; }
fi
# Not fuzz, which only sees that nothing crashes. readers has every failing call under the readers, merging,
# gathered and outputs those under states; of those under everything else faults has every 29th
# (QSAE_FAULTS_STEP).
programs="formats core text script codecs sae hostile trees readers keys model"
[ "$quick" != --state ] || programs="core outputs metrics states many_shards merging gathered"
[ -n "$quick" ] || programs="$programs kernels outputs metrics agreement intervals llama tails states misuse faults
$(sed -n 's,^build tests/audit/test_\([a-z_]*\): .*,\1,p' "$build/build.ninja" | tr '\n' ' ')"
places=
for p in $programs; do
    places="$places $(sed -n "s,^build \(tests/[a-z]*/test_$p\): .*,\1,p" "$build/build.ninja")"
done
# shellcheck disable=SC2086
ninja -C "$build" $places tests/hostile/corpus.bin >"$build/ninja.log" || { tail -n 30 "$build/ninja.log"; exit 2; }
rm -rf "$build/profiles"
mkdir "$build/profiles"
objects=
status=0
for p in $places; do
    long=0
    set --
    case $p in
    *test_readers | *test_keys | *test_faults) long=1 ;;
    *test_hostile) set -- tests/hostile/corpus.bin ;;
    *test_model) [ -z "$quick" ] || set -- configuration gguf keys "gemma 4" ;;
    esac
    start=$(date +%s)
    (cd "$build" && QSAE_LONG_TESTS=$long QSAE_FAULTS_STEP=${QSAE_FAULTS_STEP:-29} LLVM_PROFILE_FILE="$build/profiles/$(basename "$p")-%m.profraw" "./$p" "$@") \
        >"$build/$(basename "$p").log" 2>&1 || { echo "$p: fails, see $build/$(basename "$p").log"; status=1; }
    echo "$p: $(($(date +%s) - start)) s"
    objects="$objects ${objects:+-object }$build/$p"
done
# misuse, faults and what Python tests run the shared library.
if [ -z "$quick" ] && python3 -c 'import numpy' 2>/dev/null; then
    start=$(date +%s)
    shared=$(find "$build/libqsae" -maxdepth 1 -type f -name 'libqsae.so.*.*')
    QSAE_LIBRARY=$shared PYTHONPATH=$root/libqsae/python LLVM_PROFILE_FILE="$build/profiles/python-%m.profraw" \
        python3 -B "$root/tests/python/run.py" >"$build/python.log" 2>&1 || { echo "tests/python: fails, see $build/python.log"; status=1; }
    echo "tests/python: $(($(date +%s) - start)) s"
elif [ -z "$quick" ]; then
    echo "no python3 with NumPy: what tests/python reaches is not counted"
fi
[ -n "$quick" ] || objects="$objects -object $(find "$build/libqsae" -maxdepth 1 -type f -name 'libqsae.so.*.*')"
"llvm-profdata$version" merge -sparse "$build"/profiles/*.profraw -o "$build/profile" || exit 2
# shellcheck disable=SC2086
"llvm-cov$version" export -format=text -skip-expansions -skip-functions -ignore-filename-regex=/tests/ \
    -instr-profile "$build/profile" $objects >"$build/coverage.json" 2>"$build/export.log" || { cat "$build/export.log"; exit 2; }
python3 "$here/table.py" "$build/coverage.json" "$root" $quick $update || status=1
exit $status
