#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Both studies on folders with the published names, and every published figure beside the measured
# one. See doc/reproduce.md.
set -u
usage="usage: reproduce.sh article|paper DIR [--work FOLDER] [--bin FOLDER] [--tokens N] [OPTION]...
  DIR      holds models, SAEs and corpora under their published names (doc/reproduce.md)
  --work   where results and converted corpora go (default: DIR/reproduced)
  --bin    where the programs are (default: build/examples, else the installed ones)
  --tokens a smaller budget: figures are then shown, not judged
  OPTION   of evaluate, after the others: --threads 8
Exit status 0: no figure is outside; 1: one is; 2: wrong usage, nothing to run; 3: a run failed."

fail() { # STATUS MESSAGE
    echo "reproduce.sh: $2" >&2
    exit "$1"
}

here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || fail 2 "$usage"
study=$1
dir=$2
shift 2
case $study in article | paper) ;; *) fail 2 "expected article or paper, found \"$study\"" ;; esac
[ -d "$dir" ] || fail 2 "$dir: no such folder"
work=$dir/reproduced bin=$here/../build/examples tokens=
while [ $# -gt 0 ]; do
    case $1 in
    --work) work=${2:?} ;;
    --bin) bin=${2:?} ;;
    --tokens) tokens=${2:?} ;;
    *) break ;;
    esac
    shift 2
done
program() { # NAME: in the build folder, or installed
    if [ -x "$bin/$1" ]; then echo "$bin/$1"; else command -v "qsae-$1"; fi
}
evaluate=$(program evaluate) && published=$(program published) ||
    fail 2 "evaluate and published: neither in $bin nor installed; give --bin"
mkdir -p "$work" || exit 2

# first PATH...: the first of them that is there
first() {
    for path in "$@"; do
        if [ -e "$path" ]; then
            echo "$path"
            return 0
        fi
    done
    return 1
}

missing() {
    echo "missing: $1" >&2
}

# corpus PRESET SOURCE NAME: SOURCE as qsae corpus makes it, in the work folder
corpus() {
    if [ ! -s "$work/$3" ]; then
        echo "converting $2" >&2
        library=$(first "$bin/../libqsae/libqsae.so")
        PYTHONPATH=$here/../libqsae/python${PYTHONPATH:+:$PYTHONPATH} \
            QSAE_LIBRARY=${QSAE_LIBRARY:-$library} \
            python3 -B -m qsae corpus "$1" "$2" -o "$work/$3" >/dev/null || return 1
    fi
    echo "$work/$3"
}

results= status=0 suffix=${tokens:+-$tokens}
# run NAME ARGUMENT...: one evaluation; its result goes to the comparison. An interrupted one goes
# on from its state file.
run() {
    name=$1
    shift
    echo "== $name" >&2
    if "$evaluate" "$@" --state "$work/$name$suffix.state" --json "$work/$name$suffix.json" \
        >"$work/$name$suffix.txt"; then
        cat "$work/$name$suffix.txt"
        results="$results $name"
    else
        code=$?
        [ $code = 130 ] && exit 130
        status=3
    fi
}

# ---- the article: CE and FVU of Gemma 3 under LLM.int8 and NF4 ----

# pile-10k in the data set's own order, which --shuffle 0 turns into the study's; or as `qsae corpus
# article` wrote it, in the study's order already
pile() {
    if text=$(first "$dir/pile-10k.article.jsonl.zst" "$dir/pile-10k.article.jsonl"); then
        shuffle=
    elif text=$(first "$dir/pile-10k.jsonl.zst" "$dir/pile-10k.jsonl" \
        "$dir/pile-10k/pile-10k.jsonl" "$dir/pile-10k/pile-10k.jsonl.zst"); then
        shuffle="--shuffle 0"
    elif source=$(first "$dir/pile-10k.parquet" "$dir"/pile-10k/data/*.parquet \
        "$dir"/pile-10k/*.parquet); then
        text=$(corpus article "$source" pile-10k.article.jsonl) || return 1
        shuffle=
    else
        missing "pile-10k (pile-10k.jsonl, pile-10k.parquet or pile-10k/)"
        return 1
    fi
}

# gemma3 SIZE LAYER: gemma-3-SIZE-pt with the SAE of 16k features there
gemma3() {
    model=$dir/gemma-3-$1-pt
    id=layer_$2_width_16k_l0_medium
    [ -d "$model" ] || { missing "gemma-3-$1-pt"; return; }
    sae=$(first "$dir/gemma-scope-2-$1-pt-res/$id" "$dir/gemma-scope-2-$1-pt/resid_post/$id") ||
        { missing "gemma-scope-2-$1-pt-res/$id"; return; }
    size=$1 layer=$2
    shift 2
    # shellcheck disable=SC2086 # two words, or none
    run "gemma-3-$size-pt" "$model" --sae "$sae@$layer" --text "$text" $shuffle \
        --profile article ${tokens:+--tokens "$tokens"} "$@"
}

# ---- the paper: survival of features under round to nearest and pruning ----

# wikitext SPLIT: its rows that are not blank, joined by a blank line, as one document
wikitext() {
    if source=$(first "$dir/wikitext2-$1.jsonl" "$dir/wikitext2-$1.jsonl.zst"); then
        echo "$source"
        return 0
    fi
    source=$(first "$dir/wikitext-2-raw/wiki.$1.raw" "$dir"/wikitext-2-raw-v1/"$1"*.parquet \
        "$dir"/wikitext-2-raw/"$1"*.parquet) && corpus paper "$source" "wikitext2-$1.jsonl"
}

pythia() {
    [ -d "$dir/pythia-70m-deduped" ] || { missing pythia-70m-deduped; return; }
    sae=$(first "$dir/pythia-70m-deduped-res-sm/blocks.4.hook_resid_post" \
        "$dir/pythia-70m-deduped-res-sm/4-res-sm") ||
        { missing pythia-70m-deduped-res-sm/blocks.4.hook_resid_post; return; }
    run pythia-70m-deduped "$dir/pythia-70m-deduped" --sae "$sae@4" --text "$text" \
        --profile paper --tokens "${tokens:-199680}" "$@"
}

gemma2() {
    [ -d "$dir/gemma-2-2b" ] || { missing gemma-2-2b; return; }
    id=layer_12/width_16k
    sae=$(first "$dir/gemma-scope-2b-pt-res-canonical/$id/canonical" \
        "$dir/gemma-scope-2b-pt-res/$id/canonical" \
        "$dir/gemma-scope-2b-pt-res/$id/average_l0_82") ||
        { missing gemma-scope-2b-pt-res-canonical/$id/canonical; return; }
    sliding=$(wikitext test) || missing "wikitext-2, split test (sliding perplexity)"
    matched='none+prune:match=(rtn:bits=6,axis=tl),scope=tl,tokens=100000'
    for bits in 4 5 6 7 8; do
        set -- --condition rtn:bits=$bits,axis=tl "$@"
    done
    run gemma-2-2b "$dir/gemma-2-2b" --sae "$sae@12" --text "$text" --profile paper --compute bf16 \
        --context 256 --batch 1 --tokens "${tokens:-499968}" ${sliding:+--sliding "$sliding"} \
        "$@" --condition "$matched"
}

if [ "$study" = article ]; then
    if pile; then
        gemma3 4b 17 "$@"
        gemma3 12b 24 "$@"
    fi
elif text=$(wikitext train); then
    pythia "$@"
    gemma2 "$@"
else
    missing "wikitext-2, split train (wikitext-2-raw/wiki.train.raw, wikitext-2-raw-v1/*.parquet or
  wikitext2-train.jsonl)"
fi
[ -n "$results" ] || [ $status != 0 ] || fail 2 "nothing to run in $dir"
set --
for name in $results; do
    set -- "$@" "$name=$work/$name$suffix.json"
done
"$published" "$here/published.json" "$study" "$@"
code=$?
[ $status != 0 ] && exit $status
exit $code
