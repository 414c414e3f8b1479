#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The two studies as a user runs them: their tables, the second perplexity, features at risk. TAP.
# Arguments: source folder, folder of the programs.
src=$1
bin=$2
data=$src/examples/data
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"

fails_with() { # STATUS TEXT COMMAND...
    want=$1
    text=$2
    shift 2
    "$@" >"$tmp/o" 2>&1
    [ $? = "$want" ] && grep -q -- "$text" "$tmp/o"
}

evaluate() {
    "$bin/evaluate" "$data/tiny-gemma3" --text "$data/eval.jsonl" "$@"
}

lines() { # COUNT PATTERN: in the table
    [ "$(grep -c "$2" "$tmp/table")" = "$1" ] || { cat "$tmp/table"; return 1; }
}

# The whole sweep from one option; the second measurement has the same widths by row.
paper() {
    head -n 6 "$data/eval.jsonl" >"$tmp/other.jsonl"
    evaluate --sae "$data/tiny-gemma3-sae" --profile paper --tokens 2048 \
        --sliding "$tmp/other.jsonl" --json "$tmp/p.json" >"$tmp/table" || return 1
    for row in 'reference  *[0-9.]*  *0.00  *1.000  *1.000  *100.000' 'INT8  ' 'INT7  ' \
        'INT6   .* [+-][0-9.]*$' 'INT5  ' 'INT4  ' 'pruned [0-9.]*% .* -$'; do
        lines 1 "^$row" || return 1
    done
    lines 1 'arXiv 2606.03002, reference CE' && lines 1 '^overlap of INT6 and pruned' &&
        lines 1 'damage score: Pearson 0' && lines 1 '^INT6 survival in tenths' &&
        grep -q 'rtn:bits=4,axis=row' "$tmp/p.json"
}

article() {
    evaluate --sae "$data/tiny-gemma3-sae" --profile article --tokens 21000 --json "$tmp/a.json" \
        >"$tmp/table" || return 1
    lines 1 '^bf16 ' && lines 1 '^8bit ' && lines 1 '^4bit ' && lines 1 '6144 .*20480$' &&
        lines 1 '^verdict: '
}

# A fit, then the same SAE's features from a pass of the model alone, and from the lines of a run.
predict() {
    evaluate --sae "$data/tiny-gemma3-sae" --condition rtn:bits=3,axis=tl --profile paper \
        --tokens 2048 --json "$tmp/f.json" --features "$tmp/f.jsonl" >"$tmp/table" &&
        lines 1 'peak activation' && lines 1 '  AUC 0\.' &&
        evaluate --sae "$data/tiny-gemma3-sae" --profile paper --tokens 2048 \
            --predict "$tmp/f.json" --at-risk "$tmp/risk.jsonl" >"$tmp/table" &&
        lines 1 '^features at risk of tiny-gemma3-sae @3' && lines 1 '^ *1  ' &&
        lines 0 'rtn:bits=8' &&
        "$bin/evaluate" --predict "$tmp/f.json" --predict-features "$tmp/f.jsonl" \
            --at-risk "$tmp/risk2.jsonl" >"$tmp/table" &&
        cmp "$tmp/risk.jsonl" "$tmp/risk2.jsonl" &&
        [ "$(wc -l <"$tmp/risk.jsonl")" = "$(wc -l <"$tmp/f.jsonl")" ] &&
        head -n 1 "$tmp/risk.jsonl" | grep -q '"rank":1,"probability":0\..*"risk":0\.' &&
        "$bin/evaluate" --predict "$tmp/f.json" --predict-features "$tmp/f.jsonl" \
            --predict-condition rtn:bits=3 --at-risk "$tmp/risk.csv" >"$tmp/table" &&
        head -n 1 "$tmp/risk.csv" | grep -q '^sae,layer,feature,rank,probability,risk,' &&
        [ "$(wc -l <"$tmp/risk.csv")" = $(($(wc -l <"$tmp/risk.jsonl") + 1)) ] &&
        ! ls "$tmp"/risk*.tmp-* 2>/dev/null
}

# A token of a result may be U+0000.
nul_token() {
    sed 's/"top_r_text": "[^"]*"/"top_r_text": "\\u0000"/' "$tmp/f.json" >"$tmp/nul.json" &&
        grep -q 'u0000' "$tmp/nul.json" &&
        "$bin/evaluate" --predict "$tmp/nul.json" --predict-features "$tmp/f.jsonl" \
            --at-risk "$tmp/risk3.jsonl" >"$tmp/table" && cmp "$tmp/risk.jsonl" "$tmp/risk3.jsonl"
}

bad_lines() {
    printf '{"name":"x","layer":1,"feature":0,"density":0.1,"mean":1,"max":2}\n{"name":\n' \
        >"$tmp/bad"
    fails_with 1 'line 2: expected a feature' "$bin/evaluate" --predict "$tmp/f.json" \
        --predict-features "$tmp/bad" || return 1
    { printf '{"name":"'; head -c 1048576 /dev/zero | tr '\0' x; printf '"}\n'; } >"$tmp/bad"
    fails_with 1 'line 1: expected at most 1048576 bytes' "$bin/evaluate" \
        --predict "$tmp/f.json" --predict-features "$tmp/bad" || return 1
    truncate -s 67108865 "$tmp/bad" # a hole
    fails_with 2 'expected at most 67108864 bytes, found 67108865' "$bin/published" "$tmp/bad" \
        article run="$tmp/f.json"
}

# Interrupted in the second measurement: it goes on from its own state file, to the same result.
interrupted() {
    set -- --condition rtn:bits=4,axis=tl --profile paper --tokens 2048 --sliding "$data/eval.jsonl"
    evaluate "$@" --json "$tmp/whole.json" >"$tmp/table" || return 1
    evaluate "$@" --threads 1 --state "$tmp/state" --json "$tmp/i.json" >"$tmp/table" 2>"$tmp/err" &
    pid=$!
    while kill -0 $pid 2>/dev/null && [ ! -f "$tmp/state" ]; do sleep 0.02; done
    kill -INT $pid 2>/dev/null
    wait $pid
    code=$?
    if [ $code != 0 ]; then # a fast machine has nothing to interrupt
        [ $code = 130 ] && [ ! -e "$tmp/i.json" ] && grep -q canceled "$tmp/err" || return 1
    fi
    evaluate "$@" --state "$tmp/state" --json "$tmp/i.json" >"$tmp/table" || return 1
    for file in whole i; do
        sed '/"seconds"/d; /tokens_per_second/d; /peak_rss_bytes/d; /"threads"/d; /"memory"/d' \
            "$tmp/$file.json" >"$tmp/$file.figures"
    done
    cmp "$tmp/whole.figures" "$tmp/i.figures" && [ -s "$tmp/state.sliding" ]
}

echo 1..10
check "interrupted in the second measurement" interrupted
check "the paper's sweep and tables" paper
check "the article's tables" article
check "features at risk" predict
check "a result with a token U+0000" nul_token
check "a damaged line of features" bad_lines
check "no such fit" fails_with 1 'no condition begins with' "$bin/evaluate" \
    --predict "$tmp/f.json" --predict-features "$tmp/f.jsonl" --predict-condition nf4
check "prediction takes no condition" fails_with 2 'takes no condition' evaluate \
    --predict "$tmp/f.json" --condition nf4
check "prediction needs an SAE" fails_with 2 'there is no SAE' evaluate --predict "$tmp/f.json"
check "an output without a prediction" fails_with 2 'need --predict' evaluate --at-risk "$tmp/x"
