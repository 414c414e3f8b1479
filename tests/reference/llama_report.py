# SPDX-License-Identifier: BSD-2-Clause
"""A base-logit file and a report of llama.cpp's llama-perplexity, for tests/metrics/llama.c.

usage: llama_report.py LLAMA_CPP LIBRARIES

LLAMA_CPP: its source folder; LIBRARIES: folder of libllama.so and libllama-common.so of the same
version (as in the package llama-cpp-python). llama_report.cpp runs tools/perplexity/perplexity.cpp
on logits from a file instead of a model.
"""

import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "data", "metrics", "llama")
CONTEXT, VOCAB, CHUNKS = 32, 61, 9


def logits():
    """Both models' logits [chunks, context, vocab], by the generator of tests/metrics/llama.c."""
    n = CHUNKS * CONTEXT * VOCAB * 2
    state, values = 2024, np.empty(n, np.float32)
    for i in range(n):
        state = (state * 1664525 + 1013904223) & 0xffffffff
        values[i] = np.float32((state >> 16) - 32768) / np.float32(4096)
    values = values.reshape(-1, 2)
    r = values[:, 0]
    q = (r + values[:, 1] / np.float32(8)).astype(np.float32)
    return [x.reshape(CHUNKS, CONTEXT, VOCAB) for x in (r, q)]


def build(source, libraries, program):
    subprocess.run(
        ["c++", "-std=c++17", "-O2", "-o", program, os.path.join(HERE, "llama_report.cpp"),
         f'-DSOURCE="{source}/tools/perplexity/perplexity.cpp"', f"-I{source}/common",
         f"-I{source}/include", f"-I{source}/ggml/include", f"-L{libraries}", "-lllama-common",
         "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}", "-pthread"], check=True)


def main(source, libraries):
    os.makedirs(OUT, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "report")
        build(os.path.abspath(source), os.path.abspath(libraries), program)
        paths = [os.path.join(folder, name) for name in ("r", "q")]
        for path, values in zip(paths, logits()):
            values.tofile(path)
        base = os.path.join(OUT, "base.kld")
        run = subprocess.run([program, str(CONTEXT), str(VOCAB), *paths, base], check=True,
                             env=dict(os.environ, LD_LIBRARY_PATH=os.path.abspath(libraries)),
                             stdout=subprocess.PIPE)
    text = run.stdout.decode("utf-8")
    with open(os.path.join(OUT, "report.txt"), "w", encoding="utf-8") as file:
        file.write(text[text.index("\nchunk "):])


if __name__ == "__main__":
    main(*sys.argv[1:])
