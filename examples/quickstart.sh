#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Fresh machine to a comparison table: installs packages, builds, runs the main job on the bundled
# model. The whole result is written to build/quickstart.json.
set -eu
cd "$(dirname "$0")/.."
examples/packages.sh
[ -f build/build.ninja ] ||
    meson setup build -Dtests=false -Dpython=disabled >build-setup.log 2>&1 ||
    { cat build-setup.log; exit 1; }
rm -f build-setup.log
ninja -C build examples/evaluate >/dev/null
exec build/examples/evaluate examples/data/tiny-gemma3 \
    --sae examples/data/tiny-gemma3-sae \
    --text examples/data/eval.jsonl \
    --context 256 --bos doc_start \
    --condition llm.int8:threshold=6 \
    --condition nf4:block=64,double=1 \
    --condition rtn:bits=6 \
    --condition rtn:bits=4 \
    --condition rtn:bits=3 \
    --probes examples/data/probes.jsonl \
    --json build/quickstart.json "$@"
