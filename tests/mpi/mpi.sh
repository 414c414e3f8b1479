#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# evaluate_mpi: whatever the number of ranks, and whatever became of some of them, the result is
# that of one process. QSAE_LONG_TESTS=1: up to 8 ranks of a longer text, 20 ranks killed. TAP.
# Arguments: source folder, folder of the programs, plain or sanitized.
src=$1
bin=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"
. "$src/tests/mpi/common.sh"

why=
[ -x "$bin/evaluate_mpi" ] || why="built without MPI"
[ -n "$why" ] || command -v mpiexec >/dev/null || why="mpiexec is missing"
[ "$3" = plain ] || why="built with a sanitizer"
if [ -n "$why" ]; then
    skip "evaluate_mpi" "$why"
    finish
    exit
fi

long=${QSAE_LONG_TESTS:-}
counts="1 2 3 5"
kills=1
of=2
if [ "$long" = 1 ]; then
    counts="1 2 3 4 5 6 7 8"
    kills=20
    of=4
    small="$data/tiny-gemma3 --text $data/eval.jsonl --sae $data/tiny-gemma3-sae --condition nf4
        --condition llm.int8 --tokens 12000 --context 64 --batch 3 --slice class --keep-tail"
fi
mkdir "$tmp/tmp"
TMPDIR=$tmp/tmp
export TMPDIR

one() { # what all others are compared with
    # shellcheck disable=SC2086
    "$bin/evaluate" $small --json "$tmp/one.json" >/dev/null
}

ranks() { # N OPTION...
    n=$1
    shift
    # shellcheck disable=SC2086
    mpiexec -n "$n" "$bin/evaluate_mpi" $small "$@"
}

whole() { # N OPTION...: the result of one process, and nothing is left behind
    rm -f "$tmp/r.json"
    ranks "$@" --quiet --json "$tmp/r.json" >"$tmp/out" && same "$tmp/one.json" "$tmp/r.json" &&
        grep -q '^#  predictions' "$tmp/out" && [ -z "$(ls "$TMPDIR")" ]
}

# Processes of the ranks of the run whose standard error is $tmp/err, once that line is whole.
pids() {
    for _ in $(seq 500); do
        [ ! -e "$tmp/err" ] || while IFS= read -r line; do
            case $line in
            *" are processes "*)
                echo "${line##* are processes }"
                return
                ;;
            esac
        done <"$tmp/err"
        sleep 0.02
    done
}

begun() { # FOLDER: until a state is there
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        ls "$1" 2>/dev/null | grep -q '^part-.*state$' && return
        sleep 0.1
    done
}

nth() { # N WORD...
    shift "$1"
    echo "$1"
}

# One rank is told to end: all do, with 130, and go on later. Of a text that takes a while.
told() (
    small="$small --tokens 20000"
    tmp=$tmp/told
    mkdir "$tmp" && one || return 1
    ranks 2 --state "$tmp/told" --json "$tmp/t.json" >"$tmp/out" 2>"$tmp/err" &
    job=$!
    # shellcheck disable=SC2046
    kill -TERM "$(nth 2 $(pids))" || return 1
    wait $job
    [ $? = 130 ] && grep -q "goes on from $tmp/told" "$tmp/err" && [ ! -e "$tmp/t.json" ] &&
        whole 2 --state "$tmp/told"
)

# A rank cannot measure: it says why, by its number; the others keep what they have.
failed() {
    rm -rf "$tmp/failed"
    mkdir "$tmp/failed"
    echo "no state" >"$tmp/failed/part-0002-of-0002.state"
    ranks 2 --state "$tmp/failed" --json "$tmp/f.json" >"$tmp/out" 2>"$tmp/err"
    [ $? = 1 ] && grep -q 'rank 1 on .*part-0002-of-0002.state: not a state' "$tmp/err" &&
        grep -q '1 of 2 ranks failed, rank 1 on' "$tmp/err" && [ ! -e "$tmp/f.json" ] &&
        rm "$tmp/failed/part-0002-of-0002.state" && whole 2 --state "$tmp/failed"
}

# Ranks killed at any moment: the job ends, and later goes on from what was written last. Of a text
# that takes a while.
killed() (
    small="$small --tokens 20000"
    tmp=$tmp/killed
    done=0
    tries=0
    mkdir "$tmp" && one || return 1
    while [ $done -lt $kills ]; do
        tries=$((tries + 1))
        [ $tries -le $((kills + 20)) ] || return 1
        rm -f "$tmp/err"
        ranks "$of" --state "$tmp/states" --save-every 0.05 --json "$tmp/k.json" \
            >"$tmp/out" 2>"$tmp/err" &
        job=$!
        list=$(pids)
        begun "$tmp/states"
        sleep "0.$((done * 7 % 10))"
        # shellcheck disable=SC2086
        kill -KILL "$(nth $((done % of + 1)) $list)" 2>/dev/null
        if wait $job; then # it was done before
            same "$tmp/one.json" "$tmp/k.json" || return 1
            rm -rf "$tmp/states"
        else
            done=$((done + 1))
            [ ! -e "$tmp/k.json" ] || same "$tmp/one.json" "$tmp/k.json" || return 1
        fi
        rm -f "$tmp/k.json"
    done
    whole "$of" --state "$tmp/states" && ! ls "$tmp/states" | grep -q tmp-
)

others() { # states of another number of ranks
    ranks 3 --state "$tmp/failed" >"$tmp/out" 2>"$tmp/err"
    [ $? = 1 ] && grep -q 'has states of 2 ranks, these are 3' "$tmp/err"
}

usage() { # said once
    ranks 2 --shard 1/2 >"$tmp/out" 2>"$tmp/err"
    [ $? = 2 ] && [ "$(grep -c 'option --shard is unknown' "$tmp/err")" = 1 ]
}

# Weights of two ranks, all of which have a codec here so that there is something to share.
coded="--condition rtn:bits=8@with=embed|head"

files() { # PROCESS: of others' weights that it has mapped
    sed -n 's|.* \(/.*/qsae-weights-[^/]*\)/.*|\1|p' "/proc/$1/maps" 2>/dev/null | sort -u
}

# While they measure both have mapped files of one folder, which is gone: nothing could be left. Of a
# text that takes a while, which is not gone through.
shared() (
    small="$small $coded --tokens 20000"
    tmp=$tmp/shared
    mkdir "$tmp" || return 1
    ranks 2 >"$tmp/out" 2>"$tmp/err" &
    job=$! list=
    for _ in $(seq 200); do
        [ -n "$list" ] || list=$(pids)
        [ -n "$list" ] || continue
        # shellcheck disable=SC2086
        first=$(files "$(nth 1 $list)") second=$(files "$(nth 2 $list)")
        [ -n "$first" ] && [ "$first" = "$second" ] && [ ! -e "$first" ] && break
        sleep 0.02
    done
    # shellcheck disable=SC2086
    [ -n "$list" ] && kill -TERM "$(nth 1 $list)"
    wait $job
    [ $? = 130 ] && [ -n "$first" ] && [ "$first" = "$second" ] && [ ! -e "$first" ]
)

named_folder() ( # by themselves; --share-weights: files stay there, for evaluate too; or none at all
    small="$small $coded --tokens 1000"
    tmp=$tmp/named
    mkdir "$tmp" && mkdir -m 700 "$tmp/weights" && one && whole 2 &&
        whole 2 --share-weights "$tmp/weights" && [ -n "$(ls "$tmp/weights")" ] || return 1
    ls "$tmp/weights" >"$tmp/before"
    # shellcheck disable=SC2086
    "$bin/evaluate" $small --share-weights "$tmp/weights" --json "$tmp/e.json" >/dev/null &&
        same "$tmp/one.json" "$tmp/e.json" && ls "$tmp/weights" | cmp - "$tmp/before" &&
        whole 2 --share-weights no
)

plan() { # the sweep is shared out, too
    set -- "$data/tiny-gemma3" --text "$data/eval.jsonl" --tokens 1000 --context 32 --batch 2 \
        --condition rtn:bits=3 --condition rtn:bits=8 --plan 4.5
    "$bin/evaluate" "$@" --json "$tmp/p.json" >/dev/null &&
        mpiexec -n 2 "$bin/evaluate_mpi" "$@" --quiet --json "$tmp/q.json" >/dev/null &&
        grep -q '"condition": "mix(' "$tmp/q.json" && same "$tmp/p.json" "$tmp/q.json"
}

check "one process" one
for n in $counts; do
    check "$n ranks" whole "$n"
done
check "a rank is told to end; the job goes on later" told
check "a rank fails; the others' states are kept" failed
check "states of another number of ranks" others
check "killed ranks: $kills" killed
check "weights are shared, and nothing is left of them" shared
check "weights in a folder that is named, or in none" named_folder
check "a wrong command line" usage
if [ "$long" = 1 ]; then
    check "a plan" plan
else
    skip "a plan" "QSAE_LONG_TESTS is not 1"
fi
finish
