#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Includes point down only (doc/design.md).
# usage: layers.sh SOURCE_DIR
set -u
source=$1
here=$source/tests/install
. "$here/tap.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Complaints about the files of a tree.
complaints() {
    (cd "$1" && find include libqsae examples -name '*.[ch]' | sort |
        xargs awk -f "$here/layers.awk")
}

# TREE FILE INCLUDE: adds a file with one include to a tree.
plant() {
    mkdir -p "$1/$(dirname "$2")"
    printf '/* */\n#include %s\n' "$3" >"$1/$2"
}

# NAME FILE INCLUDE: the rule sees this.
refused() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree/include" "$work/tree/libqsae" "$work/tree/examples"
    plant "$work/tree" "$2" "$3"
    if [ -n "$(complaints "$work/tree")" ]; then pass "$1"; else no "$1" "$2 may include $3"; fi
}

found=$(cd "$source" && find include libqsae examples -name '*.[ch]' | wc -l)
check "the tree is there ($found files)" test "$found" -gt 60
all=$(complaints "$source")
for folder in include core kernels formats codecs model sae text metrics audit examples; do
    empty "includes of $folder" "$(printf '%s\n' "$all" | grep -E "^(libqsae/)?$folder/")"
done
empty "no other folder" "$(printf '%s\n' "$all" | grep 'unknown folder')"

refused "core may not include kernels" libqsae/core/a.c '"kernels/gemm.h"'
refused "formats may not include gemm" libqsae/formats/a.c '"kernels/gemm.h"'
refused "model may not include sae" libqsae/model/a.h '"sae/sae.h"'
refused "metrics may not include text" libqsae/metrics/a.c '"text/utf8.h"'
refused "codecs may not include model" libqsae/codecs/a.c '"model/model.h"'
refused "text may not include the model's public header" libqsae/text/a.c '<qsae/model.h>'
refused "the umbrella header is for users" libqsae/core/a.c '<qsae/qsae.h>'
refused "audit may not include kernels" libqsae/audit/a.c '"kernels/ops.h"'
refused "examples may not include internals" examples/a.c '"core/core.h"'
refused "public headers may not include internals" include/qsae/a.h '"core/core.h"'
refused "public headers stay with standard ones" include/qsae/a.h '<jansson.h>'
refused "no way around by .." libqsae/text/a.c '"../model/model.h"'
refused "a new folder needs a rule" libqsae/extra/a.c '"core/core.h"'
finish
