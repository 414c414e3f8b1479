#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The programs as a user runs them: options, table, result file, interruption, errors. Prints TAP.
# Arguments: source folder, folder of the programs.
src=$1
bin=$2
data=$src/examples/data
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=0

# check NAME COMMAND...: one case, passed if the command succeeds
check() {
    name=$1
    shift
    n=$((n + 1))
    if "$@" >"$tmp/out" 2>&1; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        sed 's/^/# /' "$tmp/out"
    fi
}

evaluate() {
    "$bin/evaluate" "$data/tiny-gemma3" --text "$data/eval.jsonl" --context 256 "$@"
}

table() {
    evaluate --sae "$data/tiny-gemma3-sae" --condition nf4 --condition rtn:bits=4 --tokens 8000 \
        --json "$tmp/r.json" >"$tmp/table" &&
        grep -q 'nf4:block=64,double=1' "$tmp/table" && grep -q 'survived' "$tmp/table" &&
        grep -q '"format": "qsae-result"' "$tmp/r.json" && grep -q 'tok/s' "$tmp/table" &&
        [ "$(ls "$tmp"/r.json*)" = "$tmp/r.json" ]
}

no_progress() { # stderr is no terminal: nothing but errors there
    evaluate --tokens 3000 2>"$tmp/err" >/dev/null && [ ! -s "$tmp/err" ]
}

# Interrupted: status 130, no result file, no temporary file; with a state file the run goes on.
interrupted() {
    rm -f "$tmp/i.json" "$tmp/state"
    evaluate --sae "$data/tiny-gemma3-sae" --condition nf4 --condition llm.int8 --threads 1 \
        --json "$tmp/i.json" --state "$tmp/state" 2>"$tmp/err" &
    pid=$!
    sleep 1
    kill -INT $pid
    wait $pid
    code=$?
    # A machine fast enough to be done in a second has nothing to interrupt.
    [ $code = 0 ] && return 0
    [ $code = 130 ] && [ -z "$(ls "$tmp" | grep 'i.json')" ] && grep -q canceled "$tmp/err" &&
        evaluate --sae "$data/tiny-gemma3-sae" --condition nf4 --condition llm.int8 --threads 2 \
            --json "$tmp/i.json" --state "$tmp/state" && grep -q '"complete": true' "$tmp/i.json"
}

fails_with() { # STATUS TEXT COMMAND...
    want=$1
    text=$2
    shift 2
    "$@" >"$tmp/o" 2>&1
    [ $? = "$want" ] && grep -q -- "$text" "$tmp/o"
}

unwritable() {
    fails_with 1 nowhere evaluate --tokens 3000 --json /nowhere/at/all.json
}

inspect_model() {
    "$bin/inspect" "$data/tiny-gemma3" >"$tmp/o" && grep -q 'gemma3_text' "$tmp/o" &&
        grep -q 'runs' "$tmp/o" && grep -q '2048 entries' "$tmp/o"
}

inspect_sae() {
    "$bin/inspect" --tensors "$data/tiny-gemma3-sae" >"$tmp/o" && grep -q 'jumprelu' "$tmp/o" &&
        grep -q 'W_enc' "$tmp/o"
}

inspect_pickle() {
    mkdir -p "$tmp/p"
    printf '\200\002}q.' >"$tmp/p/ae.pt"
    ! "$bin/inspect" "$tmp/p/ae.pt" >"$tmp/o" && grep -qi 'pickle' "$tmp/o"
}

stream() {
    "$bin/stream_residuals" "$data/tiny-gemma3-sae" >"$tmp/o" && [ "$(grep -c FVU "$tmp/o")" = 8 ]
}

echo 1..15
check "evaluate prints the table and writes the result" table
check "no progress line without a terminal" no_progress
check "an interrupted run leaves no result and goes on" interrupted
check "unknown option" fails_with 2 usage evaluate --nonsense
check "missing text" fails_with 2 'MODEL and --text' "$bin/evaluate" "$data/tiny-gemma3"
check "bad number" fails_with 2 'whole number' evaluate --context many
check "bad choice" fails_with 2 'f32, bf16' evaluate --compute f64
check "bad condition" fails_with 1 'nf5' evaluate --condition nf5
check "missing model" fails_with 1 '/nowhere' "$bin/evaluate" /nowhere --text "$data/eval.jsonl"
check "unwritable result" unwritable
check "inspect a model" inspect_model
check "inspect an SAE" inspect_sae
check "inspect refuses a pickle" inspect_pickle
check "stream_residuals" stream
check "help" fails_with 0 '--condition' "$bin/evaluate" --help
