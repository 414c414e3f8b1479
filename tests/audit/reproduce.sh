#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# examples/reproduce.sh on random checkpoints in the layout of the published ones, and the program
# published on results that are as published, or are not. TAP.
# Arguments: source folder, folder of the programs.
src=$1
bin=$2
tests=$src/tests/audit
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"

python3 -c 'import numpy' 2>/dev/null || {
    echo "1..0 # SKIP python3 with NumPy makes the checkpoints"
    exit 0
}

status() { # STATUS COMMAND...: its output is in $tmp/o
    want=$1
    shift
    "$@" >"$tmp/o" 2>&1
    got=$?
    [ $got = "$want" ] || { echo "status $got, expected $want"; tail -n 80 "$tmp/o"; return 1; }
}

has() { # COUNT PATTERN
    found=$(grep -c -- "$2" "$tmp/o")
    [ "$found" = "$1" ] || { echo "$found lines, expected $1: $2"; cat "$tmp/o"; return 1; }
}

# compare STATUS STUDY FIGURE=VALUE...: on results as published but for those figures
compare() {
    want=$1 study=$2
    shift 2
    rm -rf "$tmp/results" && mkdir "$tmp/results" &&
        python3 "$tests/published_results.py" "$src/examples/published.json" "$study" \
            "$tmp/results" "$@" || return 1
    set --
    for file in "$tmp"/results/*.json; do
        set -- "$@" "$(basename "$file" .json)=$file"
    done
    status "$want" "$bin/published" "$src/examples/published.json" "$study" "$@"
}

as_published() { # STUDY WITHIN
    compare 0 "$1" && has 1 "^$2 within, 0 outside, 0 not at the published budget, 0 not measured"
}

outside() { # STUDY FIGURE=VALUE...
    compare 1 "$@" && has $(($# - 1)) ' outside$' && has 1 "within, $(($# - 1)) outside"
}

edges() { # a tolerance is part of what is within
    compare 0 paper "gemma-2-2b/survived%, INT8=97.09" && has 0 ' outside$' &&
        compare 1 paper "gemma-2-2b/survived%, INT8=97.08" && has 1 'survived%, INT8 .* outside$'
}

undefined() { # at the published budget a figure that is not defined is not the published one
    compare 1 paper "pythia-70m-deduped/predictor: AUC=null" && has 1 'predictor: AUC .* outside$'
}

smaller() {
    compare 0 paper "pythia-70m-deduped/tokens=100000" "pythia-70m-deduped/PPL, INT6=1e9" &&
        has 0 ' outside$' && has 1 'PPL, INT6 .*not at published budget'
}

one_run() {
    compare 0 paper && status 0 "$bin/published" "$src/examples/published.json" paper \
        "gemma-2-2b=$tmp/results/gemma-2-2b.json" && has 1 'PPL, INT8 .*not measured$'
}

reproduce() { # STUDY DIR OPTION...
    what=$1 where=$2
    shift 2
    "$src/examples/reproduce.sh" "$what" "$where" --bin "$bin" --work "$tmp/work" "$@"
}

article() {
    status 0 reproduce article "$tmp/published" --tokens 600 --threads 2 && has 0 missing &&
        has 1 '^== gemma-3-12b-pt' && has 2 'noise ratio, 4bit .*0\..*not at published budget' &&
        has 2 '^verdict: ' && has 1 '^0 within, 0 outside' &&
        grep -q '"batch_dependent": true' "$tmp/work/gemma-3-4b-pt-600.json"
}

paper() {
    status 0 reproduce paper "$tmp/published" --tokens 200 && has 0 missing &&
        has 1 '^pruned .* -$' && has 2 '^INT6   ' && has 1 '^0 within, 0 outside' &&
        has 1 'quantized tensors  *182  *182  *not' && has 2 'predictor: AUC of log_max alone .*0\.'
}

again() { # from the state files: nothing is measured twice, the same figures
    cp "$tmp/o" "$tmp/before"
    status 0 reproduce paper "$tmp/published" --tokens 200 || return 1
    for file in before o; do
        sed -n '/^pythia-70m/,$p' "$tmp/$file" >"$tmp/$file.figures"
    done
    [ -s "$tmp/o.figures" ] && cmp "$tmp/before.figures" "$tmp/o.figures"
}

partly() { # names what is not there, runs what is
    rm -r "$tmp/published/gemma-3-12b-pt" "$tmp/published/gemma-2-2b"
    rm -r "$tmp/published/pythia-70m-deduped-res-sm"
    status 0 reproduce article "$tmp/published" --tokens 600 && has 1 '^missing: gemma-3-12b-pt$' &&
        status 2 reproduce paper "$tmp/published" --tokens 200 && has 1 '^missing: gemma-2-2b$' &&
        has 1 '^missing: pythia-70m-deduped-res-sm/blocks.4' && has 1 'nothing to run'
}

broken() { # a run that fails
    : >"$tmp/published/gemma-3-4b-pt/config.json"
    status 3 reproduce article "$tmp/published" --tokens 500 && has 1 'evaluate: .*config.json'
}

echo 1..16
check "the article as published" as_published article 32
check "the paper as published" as_published paper 159
check "figures of the article that are outside" outside article \
    "gemma-3-4b-pt/CE rise %, 8bit=0.61" \
    "gemma-3-12b-pt/CE rise %, 4bit=2.4" 'gemma-3-4b-pt/verdict="uninformative"'
check "figures of the paper that are outside" outside paper "pythia-70m-deduped/mean r, INT8=0.97" \
    "gemma-2-2b/sparsity matched to INT6=0.175" "gemma-2-2b/damaged: Jaccard=0.5"
check "the edge of a tolerance" edges
check "a figure that is not defined" undefined
check "a smaller budget" smaller
check "one run of two" one_run
check "an unknown study" status 2 "$bin/published" "$src/examples/published.json" book
check "a file that is no result" status 2 "$bin/published" "$src/examples/published.json" paper \
    "gemma-2-2b=$src/examples/published.json"
mkdir "$tmp/published"
check "random checkpoints in the published layout" python3 "$tests/published_models.py" \
    "$tmp/published" "$src/examples/data/tiny-gemma3" "$src/examples/data/eval.jsonl"
check "reproduce.sh article" article
check "reproduce.sh paper" paper
check "reproduce.sh again" again
check "parts that are missing" partly
check "a run that fails" broken
