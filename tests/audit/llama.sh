#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# llama.cpp's options of evaluate as a user types them. Prints TAP.
# Arguments: source folder, folder of the programs.
src=$1
bin=$2
data=$src/examples/data
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"

model=$data/tiny-gemma3
evaluate() {
    "$bin/evaluate" "$model" --quiet "$@"
}

# Both at once, the file written on the way.
both() {
    evaluate --text "$data/eval.jsonl" --context 64 --tokens 640 --condition rtn:bits=4 \
        --kl-divergence --save-logits "$tmp/base" >"$tmp/both" &&
        [ "$(ls "$tmp")" = "base
both" ]
}

# The last report, from its head on.
report() {
    awk '/^chunk /{ text = "" } { text = text $0 "\n" } END { printf "%s", text }' "$1"
}

against_file() {
    evaluate --kl-divergence-base "$tmp/base" --condition rtn:bits=4 >"$tmp/file" &&
        [ "$(report "$tmp/both" | wc -l)" -eq 51 ] &&
        [ "$(report "$tmp/both")" = "$(report "$tmp/file")" ] &&
        grep -q '^Same top p: 100.000 ± 0.000 %$' "$tmp/file" && # MODEL against its own logits
        grep -q '^  10 ' "$tmp/file" && grep -q '^Mean    KLD: ' "$tmp/file"
}

# $1: what the message says
fails() {
    message=$1
    shift
    evaluate "$@" >"$tmp/out" 2>&1
    [ $? -eq 1 ] && grep -q "$message" "$tmp/out"
}

check 'report and file' both
check 'against the file' against_file
check 'another context' fails 'n_ctx: the file has chunks of 64' --kl-divergence-base "$tmp/base" \
    --context 128
check 'no such file' fails "_logits_" --kl-divergence-base "$data/eval.jsonl"
check 'not with windows' fails 'stride' --kl-divergence --text "$data/eval.jsonl" --stride 9
check 'overlap out of range' fails 'overlap_k' --overlap 65 --text "$data/eval.jsonl"
finish
