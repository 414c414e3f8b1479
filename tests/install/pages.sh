#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Manual pages and completions against the programs they are of. Prints TAP.
# Arguments: source folder, folder of the programs and pages.
src=$1
bin=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"

options() { # of a program's --help
    "$bin/qsae-$1" --help | sed -n 's/^  \(-.*\)/\1/p' | grep -oE -- '(^|, )--?[a-z][a-z-]*' |
        sed 's/^, //'
}

in_page() { # every spelling of every option, each program's own page
    page=$bin/qsae-$1.1
    grep -q "^\.Nm qsae-$1\$" "$page" || { echo "no name"; return 1; }
    options "$1" >"$tmp/options"
    [ -s "$tmp/options" ] || { echo "no options"; return 1; }
    while read -r option; do
        grep -qE -- "^\.It( |.* )Fl ${option#-}( |\$)" "$page" || echo "$option"
    done <"$tmp/options" >"$tmp/missing"
    cat "$tmp/missing"
    [ ! -s "$tmp/missing" ]
}

lint() { # pages name each other; whether they are installed is not asked
    mandoc -Tlint -Wstyle "$1" | grep -v 'referenced manual not found'
}

complete_words() { # LINE: what bash would offer for a command line up to its end
    bash -c '. "$1"
        COMP_LINE=$2 COMP_POINT=${#2}
        _qsae_evaluate 2>/dev/null
        printf "%s\n" "${COMPREPLY[@]}"' bash "$bin/qsae-evaluate.bash" "$1"
}

offers() { # LINE WORD...: exactly these
    complete_words "$1" | sort >"$tmp/found"
    shift
    printf '%s\n' "$@" | sort >"$tmp/wanted"
    diff "$tmp/wanted" "$tmp/found"
}

has() { # LINE WORD...: these among others
    complete_words "$1" >"$tmp/found"
    shift
    for word; do
        grep -Fxq -- "$word" "$tmp/found" || { echo "$word"; cat "$tmp/found"; return 1; }
    done
}

files() {
    mkdir -p "$tmp/files/folder" && : >"$tmp/files/two words" && cd "$tmp/files" &&
        offers 'qsae-evaluate fo' folder && offers 'qsae-evaluate --text=tw' 'two words' &&
        offers 'qsae-evaluate --cache ' folder && offers 'qsae-evaluate --context ' ''
}

fish_offers() {
    fish -c "source '$bin/qsae-evaluate.fish'; complete -C 'qsae-evaluate --comput'
        complete -C 'qsae-evaluate --compute '
        complete -C 'qsae-evaluate --condition nf'" >"$tmp/found" &&
        grep -q '^--compute	' "$tmp/found" && grep -q '^bf16' "$tmp/found" &&
        grep -q '^nf4:block=64,double=1' "$tmp/found"
}

# zsh itself, as it asks its completion system.
zsh_offers() {
    cat >"$tmp/ask.zsh" <<'END'
compdef() { }
typeset -ga asked
_arguments() { asked+=("$@") }
_files() { }
. $1
print -l -- "${asked[@]}"
END
    zsh -f "$tmp/ask.zsh" "$bin/_qsae-evaluate" >"$tmp/found" 2>"$tmp/err" &&
        grep -q '^\*--compute=\[arithmetic of the models\]:f32|bf16:(f32 bf16)$' "$tmp/found" &&
        grep -q '^\*-t+\[' "$tmp/found" && grep -q '^\*--condition=.*:_qsae_condition$' "$tmp/found"
}

mpi=
[ ! -x "$bin/qsae-evaluate-mpi" ] || mpi=evaluate-mpi
for program in evaluate inspect merge published quantize rows $mpi; do
    check "options of $program in its page" in_page $program
    if command -v mandoc >/dev/null; then
        empty "mandoc on qsae-$program.1" "$(lint "$bin/qsae-$program.1")"
    else
        skip "mandoc on qsae-$program.1" "mandoc is missing"
    fi
    for shell in bash zsh fish; do
        case $shell in
        zsh) file=$bin/_qsae-$program ;;
        *) file=$bin/qsae-$program.$shell ;;
        esac
        if command -v $shell >/dev/null; then
            check "$shell reads the completion of $program" $shell -n "$file"
        else
            skip "$shell reads the completion of $program" "$shell is missing"
        fi
    done
done
if command -v mandoc >/dev/null; then
    empty "mandoc on qsae-stream-residuals.1" "$(lint "$src/doc/man/qsae-stream-residuals.1")"
else
    skip "mandoc on qsae-stream-residuals.1" "mandoc is missing"
fi
if command -v bash >/dev/null; then
    check "bash: an option" offers 'qsae-evaluate model --comput' --compute
    check "bash: a choice" offers 'qsae-evaluate --compute ' f32 bf16
    check "bash: a choice behind =" offers 'qsae-evaluate --memory=s' streamed
    check "bash: a choice of a letter's option" has 'qsae-evaluate model --cpu avx' avx2 avx512
    check "bash: conditions" has 'qsae-evaluate --condition ' nf4 llm.int8 control:null
    check "bash: a condition behind its colon" has 'qsae-evaluate --condition ggml:q4' q4_0 q4_k
    check "bash: a condition behind =" has 'qsae-evaluate --condition rtn:bits=' 4 8
    check "bash: files" files
else
    skip "bash: what it offers" "bash is missing"
fi
if command -v fish >/dev/null; then
    check "fish: what it offers" fish_offers
else
    skip "fish: what it offers" "fish is missing"
fi
if command -v zsh >/dev/null; then
    check "zsh: what it offers" zsh_offers
else
    skip "zsh: what it offers" "zsh is missing"
fi
finish
