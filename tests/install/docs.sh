#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The manual against the tree: links lead somewhere, every option of evaluate is described.
# usage: docs.sh SOURCE_DIR
set -u
source=$1
. "$source/tests/install/tap.sh"

for page in "$source"/README.md "$source"/doc/*.md; do
    dead=
    for link in $(awk '/^```/ { code = !code } !code' "$page" | grep -oE '\]\([^)#: ]+' | sed 's/^](//'); do
        [ -e "$(dirname "$page")/$link" ] || dead="$dead $link"
    done
    empty "links of ${page##*/}" "$dead"
done

options=$(sed -n 's/^    { "\([a-z-]*\)", .*/\1/p' "$source/examples/evaluate_options.c")
check "evaluate has options" test "$(echo "$options" | wc -l)" -gt 15
missing=
for option in $options; do
    grep -q -- "\`--$option[ \`]" "$source/doc/evaluate.md" || missing="$missing --$option"
done
empty "options in doc/evaluate.md" "$missing"

own=$(sed -n 's/^ *{ "\([a-z-]*\)", .*/\1/p' "$source/examples/evaluate_mpi.c")
check "evaluate_mpi has options" test "$(echo "$own" | wc -l)" -ge 3
missing=
for option in $own; do
    grep -q -- "\`--$option[ \`]" "$source/doc/scaling.md" || missing="$missing --$option"
done
empty "options in doc/scaling.md" "$missing"
finish
