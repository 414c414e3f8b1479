#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What the programs have in common: options, help, exit statuses, streams, full disks, interruption.
# Prints TAP. Arguments: source folder, folder of the programs.
src=$1
bin=$2
data=$src/examples/data
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"

text=$tmp/text.txt
head -n 2 "$data/eval.jsonl" | cut -c 11-900 >"$text"
evaluate() {
    "$bin/evaluate" "$data/tiny-gemma3" --context 64 --tokens 300 --threads 1 "$@"
}

status() { # WANT TEXT COMMAND...: in what it prints
    want=$1
    words=$2
    shift 2
    "$@" >"$tmp/o" 2>&1
    found=$?
    [ $found = "$want" ] && grep -qe "$words" "$tmp/o" || {
        echo "status $found, expected $want and $words"
        cat "$tmp/o"
        return 1
    }
}

is_json() {
    python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$1"
}

# Figures, without what depends on the run.
steady() {
    grep -v '"\(seconds\|tokens_per_second\|peak_rss_bytes\|memory\|threads\)"' "$1"
}

help() {
    "$bin/$1" --help >"$tmp/o" 2>"$tmp/err" && [ ! -s "$tmp/err" ] &&
        [ -z "$(awk 'length > 100' "$tmp/o")" ] && grep -q "^usage: $1 " "$tmp/o" &&
        grep -q '^examples:' "$tmp/o" && grep -q '^exit status:' "$tmp/o" &&
        grep -q -- '-h, --help' "$tmp/o" && [ "$("$bin/$1" -h)" = "$(cat "$tmp/o")" ] &&
        "$bin/$1" --version | grep -q '^libqsae [0-9]*\.[0-9]*\.[0-9]'
}

spellings() {
    evaluate --text "$text" --batch 2 --json "$tmp/a.json" >"$tmp/table" &&
        "$bin/evaluate" -f "$text" -m "$data/tiny-gemma3" -c 64 --tokens=300 -t1 -b 2 \
            --output="$tmp/b.json" >"$tmp/table" &&
        "$bin/evaluate" --file="$text" --ctx_size 64 --toke 300 --threads=1 --batch=2 \
            -o "$tmp/c.json" -- "$data/tiny-gemma3" >"$tmp/table" &&
        for other in b c; do
            steady "$tmp/a.json" >"$tmp/a" && steady "$tmp/$other.json" >"$tmp/$other" &&
                cmp "$tmp/a" "$tmp/$other" || return 1
        done
}

# One document on standard output, nothing else; the tables go to standard error.
to_stdout() {
    evaluate --text "$text" --condition rtn:bits=4 --json - >"$tmp/out" 2>"$tmp/err" &&
        is_json "$tmp/out" && grep -q 'dCE \[95% interval\]' "$tmp/err" &&
        evaluate --text "$text" --condition rtn:bits=4 -o - --quiet >"$tmp/out" 2>"$tmp/err" &&
        is_json "$tmp/out" && [ ! -s "$tmp/err" ] &&
        evaluate --text "$text" --sae "$data/tiny-gemma3-sae" --features - >"$tmp/out" \
            2>"$tmp/err" && [ "$(grep -c '^{.*}$' "$tmp/out")" = "$(wc -l <"$tmp/out")" ] &&
        "$bin/inspect" --json "$data/tiny-gemma3" >"$tmp/out" && is_json "$tmp/out"
}

# A device is written as it is, not replaced.
full_disk() {
    status 1 '/dev/full: No space left' evaluate --text "$text" --json /dev/full &&
        [ -c /dev/full ] &&
        status 1 '/dev/full: No space left' evaluate --text "$text" \
            --sae "$data/tiny-gemma3-sae" --features /dev/full && [ -c /dev/full ] &&
        for program in 'evaluate --help' 'inspect --help' "inspect $data/tiny-gemma3" \
            "published $src/examples/published.json paper"; do
            # shellcheck disable=SC2086
            $bin/$program >/dev/full 2>"$tmp/err" && return 1
            grep -q 'standard output: No space left' "$tmp/err" || { cat "$tmp/err"; return 1; }
        done
}

# The reader leaves after one line: the files are complete, the status is that of SIGPIPE.
broken_pipe() {
    mkfifo "$tmp/pipe" || return 1
    (exec <"$tmp/pipe"; exit 0) &
    evaluate --text "$text" --json "$tmp/p.json" >"$tmp/pipe" 2>"$tmp/err"
    code=$?
    wait
    [ $code = 141 ] && is_json "$tmp/p.json" && [ ! -s "$tmp/err" ] || {
        echo "status $code"
        cat "$tmp/err"
        return 1
    }
}

permissions() { # of a file that is renamed into place: what the umask leaves
    (umask 027 && evaluate --text "$text" --json "$tmp/mode.json" >"$tmp/table") &&
        [ "$(stat -c %a "$tmp/mode.json")" = 640 ]
}

# A link stays one; its target is replaced.
link() {
    mkdir -p "$tmp/elsewhere" && echo old >"$tmp/elsewhere/r.json" &&
        ln -s elsewhere/r.json "$tmp/link.json" &&
        evaluate --text "$text" --json "$tmp/link.json" >"$tmp/table" && [ -L "$tmp/link.json" ] &&
        grep -q '"qsae-result"' "$tmp/elsewhere/r.json" &&
        [ "$(ls "$tmp/elsewhere")" = r.json ] &&
        evaluate --text "$text" --json /dev/stdout >"$tmp/out" 2>"$tmp/err" &&
        [ "$(head -n 1 "$tmp/out")" = '{' ] && grep -q predictions "$tmp/err"
}

# Twice: at once, without a message of the program's.
interrupted_twice() {
    "$bin/evaluate" "$data/tiny-gemma3" --text "$data/eval.jsonl" --condition nf4 --condition fp4 \
        --context 256 --threads 1 --json "$tmp/i.json" >"$tmp/table" 2>"$tmp/err" &
    pid=$!
    sleep 0.5
    kill -INT $pid
    kill -INT $pid 2>/dev/null
    wait $pid
    code=$?
    [ $code = 0 ] || { [ $code = 130 ] && [ ! -e "$tmp/i.json" ]; }
}

for program in evaluate inspect merge published quantize rows; do
    check "$program --help, --version" help $program
    check "$program: the nearest option" status 2 'did you mean --help' "$bin/$program" --hepl
    check "$program: no option at all" status 2 'is unknown$' "$bin/$program" --xyzzyxyzzy
    check "$program: nothing to do" status 2 'expected ' "$bin/$program"
done
for program in evaluate inspect quantize rows; do
    check "$program: threads" status 2 '1 to 1024, found "4294967297"' "$bin/$program" --threads 4294967297
done
check "stream_residuals --help" status 0 '^usage' "$bin/stream_residuals" --help
check "the nearest of many" status 2 'did you mean --condition' evaluate --condtion nf4
check "an ambiguous beginning" status 2 'ambiguous: --contexts' evaluate --contexts- 3
check "a missing argument" status 2 'needs an argument: N' evaluate --batch
check "an argument too many" status 2 'takes no argument' evaluate --splice=1
check "a letter" status 2 '-z is unknown' evaluate -z
check "two models" status 2 'one MODEL' evaluate --text "$text" /other
if command -v python3 >/dev/null; then
    check "results on standard output" to_stdout
    check "a reader that leaves" broken_pipe
else
    skip "results on standard output" "python3 is missing"
    skip "a reader that leaves" "python3 is missing"
fi
check "the spellings of an option" spellings
check "one document on standard output" status 2 'only one' evaluate --text "$text" \
    --sae "$data/tiny-gemma3-sae" --json - --features -
if [ -c /dev/full ]; then
    check "a full disk" full_disk
else
    skip "a full disk" "there is no /dev/full"
fi
check "permissions of a result" permissions
check "a link as a result" link
check "interrupted twice" interrupted_twice
finish
