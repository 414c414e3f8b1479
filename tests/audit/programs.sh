#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The programs as a user runs them: options, table, result file, interruption, errors. Prints TAP.
# Arguments: source folder, folder of the programs.
src=$1
bin=$2
data=$src/examples/data
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"

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

sweep() {
    evaluate --sae "$data/tiny-gemma3-sae" --condition rtn:bits=3 --sweep layers --tokens 2000 \
        --json "$tmp/s.json" >"$tmp/table" && grep -q 'by layers of rtn:bits=3' "$tmp/table" &&
        grep -q "^  5 *[+-]0" "$tmp/table" && ! grep -q 'layers=5-5' "$tmp/table" &&
        grep -q 'layers=5-5' "$tmp/s.json" && grep -q '"by": "layers"' "$tmp/s.json"
}

matched() {
    evaluate --condition 'none+prune:match=(rtn:bits=3)' --tokens 1000 >"$tmp/table" &&
        grep -q 'none+prune:sparsity=0' "$tmp/table" && grep -q 'nearest to perplexity' "$tmp/table"
}

sliced() {
    evaluate --condition rtn:bits=3 --tokens 40000 --slice class --slice length >"$tmp/table" &&
        grep -q 'worst: class' "$tmp/table" && grep -q 'length  *0-255 .*e-' "$tmp/table" &&
        grep -q 'too few' "$tmp/table"
}

probed() {
    evaluate --condition rtn:bits=3 --tokens 1000 --probes "$data/probes.jsonl" >"$tmp/table" &&
        grep -q '^300 probes' "$tmp/table" && grep -q 'steps' "$tmp/table" &&
        grep -q 'rtn:bits=3.* -[0-9]* *+[0-9]' "$tmp/table"
}

at_lengths() {
    evaluate --condition rtn:bits=3 --tokens 3000 --contexts 64,16 --contexts-scored 10 \
        --contexts-stride 32 >"$tmp/table" &&
        grep -q 'at 2 context lengths: the last 10' "$tmp/table" &&
        grep -q '^ *16  0  none' "$tmp/table" &&
        grep -q '^ *64  1  rtn:bits=3.*dCE  *[+-]' "$tmp/table"
}

spliced() { # and every feature, as lines and as a table
    evaluate --sae "$data/tiny-gemma3-sae" --condition rtn:bits=3 --tokens 1000 --splice \
        --compat saelens-current \
        --features "$tmp/f.jsonl" --top 2 >"$tmp/table" && grep -q 'CE rec' "$tmp/table" &&
        grep -q 'ce_loss_score  *0\.' "$tmp/table" &&
        grep -q '"feature":0,.*"top":\[.*"band":' "$tmp/f.jsonl" &&
        evaluate --sae "$data/tiny-gemma3-sae" --condition rtn:bits=3 --tokens 1000 \
            --features "$tmp/f.csv" >/dev/null &&
        head -1 "$tmp/f.csv" | grep -q '^sae,layer,.*,condition,.*,q_consistent_activation,' &&
        [ "$(wc -l <"$tmp/f.csv")" = $(($(wc -l <"$tmp/f.jsonl") + 1)) ] &&
        ! ls "$tmp"/f.*.tmp-* 2>/dev/null
}

# Part of a text: the same numbers as that part alone, and the result says what was asked for.
selection() {
    sed 's/^{/{"set": "rest", /; 1,3s/"rest"/"few"/' "$data/eval.jsonl" >"$tmp/sets.jsonl"
    head -n 3 "$tmp/sets.jsonl" >"$tmp/three.jsonl"
    set -- --json "$tmp/a.json" --context 64
    evaluate --text "$tmp/three.jsonl" "$@" && mv "$tmp/a.json" "$tmp/b.json" &&
        evaluate --text "$tmp/sets.jsonl" --where set=few --where set!=rest "$@" &&
        tr -d ' \n' <"$tmp/a.json" | grep -q '"where":\["set=few","set!=rest"\]' &&
        [ "$(grep -o '"fingerprint": "[0-9a-f]*"' "$tmp/a.json")" = \
            "$(grep -o '"fingerprint": "[0-9a-f]*"' "$tmp/b.json")" ] &&
        evaluate --text "$tmp/sets.jsonl" --documents :3 "$@" &&
        [ "$(grep -o '"token_hash": "[0-9a-f]*"' "$tmp/a.json")" = \
            "$(grep -o '"token_hash": "[0-9a-f]*"' "$tmp/b.json")" ] &&
        evaluate --text "$tmp/sets.jsonl" --pack saelens --tokens 640 "$@" &&
        grep -q '"pack": "saelens"' "$tmp/a.json" &&
        tr -d ' \n' <"$tmp/a.json" | grep -q '"documents_range":\[0,null\]'
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

# Shards, merged and shown: the result of one process but for what depends on the run.
sharded() {
    steady() { grep -v '"\(seconds\|tokens_per_second\|peak_rss_bytes\)"' "$1"; }
    set -- --sae "$data/tiny-gemma3-sae" --condition nf4 --tokens 3000 --batch 1 --threads 1
    rm -f "$tmp"/s*.state
    evaluate "$@" --json "$tmp/a.json" && for i in 1 2 3; do
        evaluate "$@" --shard $i/3 --state "$tmp/s$i.state" || return 1
    done
    "$bin/merge" "$tmp/m.state" "$tmp/s3.state" "$tmp/s1.state" 2>"$tmp/err"
    [ $? = 3 ] && grep -q 'missing: chunks 4 to 8$' "$tmp/err" &&
        "$bin/merge" "$tmp/m.state" "$tmp/s2.state" "$tmp/m.state" &&
        evaluate "$@" --state "$tmp/m.state" --json "$tmp/b.json" &&
        steady "$tmp/a.json" | grep -v '"memory"' >"$tmp/a" &&
        steady "$tmp/b.json" | grep -v '"memory"' >"$tmp/b" && cmp "$tmp/a" "$tmp/b"
}

foreign() {
    evaluate --tokens 600 --state "$tmp/f.state" &&
        fails_with 1 'context: 256 here, 128 in' evaluate --tokens 600 --context 128 \
            --state "$tmp/f.state"
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

# A row for each matrix: what the selector leaves alone is exact.
inspect_errors() {
    "$bin/inspect" --condition nf4@layers=0 --threads 1 "$data/tiny-gemma3" >"$tmp/o" &&
        [ "$(grep -c ' nf4 ' "$tmp/o")" = 7 ] && [ "$(grep -c ' exact ' "$tmp/o")" = 37 ] &&
        grep -q '^  total ' "$tmp/o" && [ "$(awk 'length > 100' "$tmp/o" | wc -l)" = 0 ]
}

inspect_json() {
    "$bin/inspect" --json --condition rtn:bits=4 --condition none "$data/tiny-gemma3" >"$tmp/o" &&
        grep -q '"qsae-inspect"' "$tmp/o" && [ "$(grep -c '"layer": 5' "$tmp/o")" = 14 ] &&
        grep -q '"sqnr_db": null' "$tmp/o" && ! grep -q 'runs' "$tmp/o"
}

# Another checkpoint of the model.
inspect_other() {
    rm -rf "$tmp/i" && quantize nf4 "$tmp/i" 2>"$tmp/err" &&
        "$bin/inspect" --other "$tmp/i" "$data/tiny-gemma3" >"$tmp/o" &&
        [ "$(grep -c '^  [0-5] .* nf4 ' "$tmp/o")" = 42 ]
}

inspect_pickle() {
    mkdir -p "$tmp/p"
    printf '\200\002}q.' >"$tmp/p/ae.pt"
    ! "$bin/inspect" "$tmp/p/ae.pt" >"$tmp/o" && grep -qi 'pickle' "$tmp/o"
}

quantize() {
    "$bin/quantize" "$data/tiny-gemma3" "$@"
}

# A bitsandbytes folder, which the other programs read; nothing else is left beside it.
quantized() {
    rm -rf "$tmp/q" && quantize nf4 "$tmp/q" --shard-size 200KB 2>"$tmp/err" &&
        [ ! -s "$tmp/err" ] &&
        grep -q '"bnb_4bit_quant_type": "nf4"' "$tmp/q/config.json" &&
        cmp "$data/tiny-gemma3/tokenizer.json" "$tmp/q/tokenizer.json" &&
        [ -f "$tmp/q/model.safetensors.index.json" ] && [ "$(ls -d "$tmp"/q*)" = "$tmp/q" ] &&
        "$bin/inspect" "$tmp/q" >"$tmp/o" && grep -q 'gemma3_text' "$tmp/o"
}

quantize_twice() {
    mkdir -p "$tmp/full" && : >"$tmp/full/x" &&
        fails_with 1 'empty or does not exist' quantize rtn:bits=4 "$tmp/full" &&
        [ "$(ls "$tmp/full")" = x ]
}

stream() {
    "$bin/stream_residuals" "$data/tiny-gemma3-sae" >"$tmp/o" && [ "$(grep -c FVU "$tmp/o")" = 8 ]
}

echo 1..48
check "evaluate prints the table and writes the result" table
check "evaluate ranks the parts of a sweep" sweep
check "evaluate finds a sparsity" matched
check "evaluate splices SAEs and writes their features" spliced
check "evaluate shows parts of the tokens" sliced
check "evaluate asks probes" probed
check "evaluate measures several context lengths" at_lengths
check "bad lengths" fails_with 2 'whole number' evaluate --contexts 16,,32
check "one length" fails_with 1 '2..16 lengths' evaluate --contexts 16
check "a text is no probe set" fails_with 1 'eval.jsonl:1: key "context"' evaluate \
    --probes "$data/eval.jsonl"
check "an unknown slice" fails_with 1 "no document has it" evaluate --slice nothing
check "features need an SAE" fails_with 2 "there is no SAE" evaluate --features /nowhere/f
check "no progress line without a terminal" no_progress
check "an interrupted run leaves no result and goes on" interrupted
check "shards merge to the result of one process" sharded
check "a state of other settings" foreign
check "a shard needs a state" fails_with 2 '--state' evaluate --shard 1/2
check "bad shard" fails_with 2 'I/N' evaluate --shard 3/2 --state "$tmp/x"
check "merge: no files" fails_with 2 'at least one' "$bin/merge" "$tmp/x"
check "merge: no state" fails_with 1 'not a state' "$bin/merge" "$tmp/x" "$data/eval.jsonl"
check "unknown option" fails_with 2 usage evaluate --nonsense
check "missing text" fails_with 2 'MODEL and --text' "$bin/evaluate" "$data/tiny-gemma3"
check "bad number" fails_with 2 'whole number' evaluate --context many
check "bad choice" fails_with 2 'f32, bf16' evaluate --compute f64
check "bad sweep" fails_with 2 'layers, modules, kinds' evaluate --sweep rows
check "evaluate reads part of a text" selection
check "bad range" fails_with 2 'FROM:TO' evaluate --documents 3
check "empty range" fails_with 2 'at least 4' evaluate --documents 3:3
check "bad packing" fails_with 2 'stream, tl, saelens, tl2' evaluate --pack rows
check "no such documents" fails_with 1 'no document where set=x' evaluate --where set=x
check "missing checkpoint" fails_with 1 'no such folder or file' evaluate --condition /nowhere/m
check "bad condition" fails_with 1 'nf5' evaluate --condition nf5
check "missing model" fails_with 1 '/nowhere' "$bin/evaluate" /nowhere --text "$data/eval.jsonl"
check "unwritable result" unwritable
check "inspect a model" inspect_model
check "inspect an SAE" inspect_sae
check "inspect refuses a pickle" inspect_pickle
check "inspect: errors of the weights" inspect_errors
check "inspect: JSON" inspect_json
check "inspect: another checkpoint" inspect_other
check "inspect: bad condition" fails_with 1 'nf5' "$bin/inspect" --condition nf5 "$data/tiny-gemma3"
check "inspect: bad option" fails_with 2 'usage' "$bin/inspect" --frob "$data/tiny-gemma3"
check "stream_residuals" stream
check "help" fails_with 0 '--condition' "$bin/evaluate" --help
check "quantize writes a folder that runs" quantized
check "quantize keeps what is there" quantize_twice
check "quantize: bad size" fails_with 2 'whole number' quantize nf4 "$tmp/z" --shard-size 5PB
check "quantize: help" fails_with 0 'llm.int8' "$bin/quantize" --help
