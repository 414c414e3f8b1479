# SPDX-License-Identifier: BSD-2-Clause
# Shared by the scripts of this folder: $src, $bin, $tmp are set.
data=$src/examples/data
small="$data/tiny-gemma3 --text $data/eval.jsonl --condition nf4 --tokens 2000 --context 32
    --batch 2 --slice class --keep-tail"

# A result without what depends on the run: its time, its memory.
steady() {
    grep -vE '"(seconds|tokens_per_second|peak_rss_bytes|threads|memory)"' "$1"
}

same() { # RESULT RESULT
    steady "$1" >"$tmp/a" && steady "$2" >"$tmp/b" && [ -s "$tmp/a" ] && cmp "$tmp/a" "$tmp/b"
}

# NAME PROGRAM: the program under the name that it has when it is installed.
named() {
    mkdir -p "$tmp/bin"
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$2" >"$tmp/bin/$1"
    chmod +x "$tmp/bin/$1"
}

# Open MPI: as root, and more ranks than CPUs. MPICH needs no leave.
OMPI_ALLOW_RUN_AS_ROOT=1
OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
OMPI_MCA_rmaps_base_oversubscribe=1
PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM OMPI_MCA_rmaps_base_oversubscribe \
    PRTE_MCA_rmaps_default_mapping_policy
