#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Writes a Gemma-3-1B-shaped random checkpoint (2 GB) and times passes over it, in a session of its own
# with raised priority where that is allowed. Arguments: folder of the build, folder for the checkpoint.
set -eu
build=$1
folder=${2:-$(mktemp -d)/gemma3-1b}
here=$(dirname "$0")
[ -f "$folder/config.json" ] || python3 "$here/../reference/gemma3_1b.py" "$folder"
exec setsid -w sh -c 'echo -15 >/proc/self/autogroup 2>/dev/null; exec "$@"' sh \
    "$build/tests/bench/bench_model" "$folder"
