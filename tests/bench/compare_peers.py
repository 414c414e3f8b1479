#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Time libqsae beside PyTorch, transformers, bitsandbytes, SAELens and llama.cpp.

Both sides do the same jobs on the same saved random weights, alternately (peer, libqsae, peer, ...),
each in a process of its own, and what they compute is compared too. Printed per row: the medians
over the rounds, their ratio (over 1: libqsae is faster), the smallest and largest ratio of a round.

Wants a quiet machine: `foreign` is the processor time of others during a row, in cores. Weights are
written to --folder once (270m 0.5 GB, 1b 2 GB, 4b 8 GB, SAEs up to 1.3 GB each).
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "reference"))

import gemma3
import random_sae

ROWS = ("gemm", "linear", "codec", "sae", "pass", "evaluate", "llama")
SIZES = [
    f"{m}x{k}x{n}"
    for k, n in ((640, 2048), (1152, 6912), (2560, 10240), (10240, 2560))
    for m in (512, 2048)
]
CONDITIONS = {
    "fp32": "none@compute=f32",
    "bf16": "none@compute=bf16",
    "int8": "llm.int8@compute=bf16",
    "nf4": "nf4@compute=bf16",
    "nf4 shipped": "nf4@compute=bf16",
}
BATCHES, SEQUENCES, TOKENS, L0, WIDTH = 2, 4, 512, 64, 16384

# What keeps the peers to a kernel level of ours: oneDNN, MKL and ATen each have a switch.
MASKS = {
    "amx": {},
    "avx512bf16": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512_E3",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
}
# Large blocks stay with the process and lie on huge pages: 1.5 times the speed of the defaults.
ALLOCATOR = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}


class Failure(Exception):
    pass


def output_of(command, environment=None):
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Failure(f"{command[0]} ({done.returncode}): {done.stderr.strip()[-600:]}")
    return done.stdout


class Runner:
    """Starts both sides with the same threads under the same limits."""

    def __init__(self, args):
        self.args = args
        threads = str(args.threads)
        self.environment = {
            **os.environ,
            **ALLOCATOR,
            **(MASKS[args.cpu] if args.cpu else {}),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "active",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def peer(self, task, **job):
        job["threads"] = self.args.threads
        command = [sys.executable, str(HERE / "peers.py"), task, json.dumps(job)]
        return json.loads(output_of(command, self.environment).splitlines()[-1])

    def limits(self):
        cpu = ["--cpu", self.args.cpu] if self.args.cpu else []
        return ["--threads", str(self.args.threads), *cpu]

    def bench(self, program, *options):
        path = str(self.args.build / "tests" / "bench" / f"bench_{program}")
        lines = output_of([path, *self.limits(), *map(str, options)]).splitlines()
        return [json.loads(line) for line in lines]


def busy():
    """(processor seconds of the machine, of the processes this one has waited for)"""
    fields = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
    own = os.times()
    used = sum(fields) - fields[3] - fields[4]
    return used / os.sysconf("SC_CLK_TCK"), own.children_user + own.children_system


class Table:
    """Rates of both sides by row, one value a round; printed as they are complete."""

    def __init__(self):
        self.rows = []

    def alternate(self, title, rounds, peer, ours, skip=()):
        """peer() and ours() return {name: rate}; a rate by both is a row."""
        theirs, own = [], []
        before, start = busy(), time.monotonic()
        for _ in range(rounds):
            theirs.append(peer())
            own.append(ours())
        after, wall = busy(), time.monotonic() - start
        foreign = max(0.0, (after[0] - before[0] - after[1] + before[1]) / wall)
        for name in theirs[0]:
            if name in own[0] and name not in skip:
                self.add(f"{title} {name}".strip(), theirs, own, name, foreign)
        return theirs, own

    def add(self, title, theirs, own, name, foreign):
        a, b = [r[name] for r in theirs], [r[name] for r in own]
        ratios = [y / x for x, y in zip(a, b)]
        peer, qsae = statistics.median(a), statistics.median(b)
        row = dict(row=title, peer=peer, libqsae=qsae, ratio=qsae / peer, low=min(ratios),
                   high=max(ratios), rounds=len(a), foreign=round(foreign, 2))
        self.rows.append(row)
        print(f"{title:52s} {peer:10.4g} {qsae:10.4g} {row['ratio']:7.2f}x  "
              f"{row['low']:6.2f}..{row['high']:<6.2f} {foreign:5.2f}", flush=True)

    def note(self, text, **values):
        self.rows.append(dict(note=text, **values))
        print("  " + text, flush=True)


def fmt(value):
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def both_numbers(theirs, own, names):
    return ", ".join(f"{n} {fmt(theirs[n])} / {fmt(own[n])}" for n in names if n in theirs and n in own)


def run_gemm(run, table):
    types = run.args.types.split(",")

    def ours():
        out = {}
        for r in run.bench("gemm", "--sizes", ",".join(SIZES), "--types", run.args.types):
            kind = "f32" if r["what"].startswith("f32 in") else r["what"]
            key = f"{kind} {r['m']}x{r['k']}x{r['n']}"
            out[key] = max(out.get(key, 0), r["median"])
        return out

    table.alternate("gemm", run.args.rounds,
                    lambda: run.peer("gemm", sizes=SIZES, types=[t for t in types if t != "split"]), ours)


def run_linear(run, table):
    def ours():
        rates = {r["what"]: r["median"] for r in run.bench("linear")}
        return {**rates, "nf4 shipped": rates["nf4"]}

    table.alternate("linear", run.args.rounds,
                    lambda: run.peer("linear", m=2048, k=2560, n=10240), ours)


def run_codec(run, table):
    codecs = "nf4:double=0;nf4:double=1;fp4:double=0;fp4:double=1;llm.int8"
    table.alternate(
        "codec", run.args.rounds, lambda: run.peer("codec", n=10240, k=2560),
        lambda: {f"{r['what']} {r['codec']}": r["median"] for r in run.bench("codec", "--codecs", codecs)})


def run_sae(run, table):
    for width in run.args.widths:
        for architecture in run.args.architectures.split(","):
            folder = run.args.folder / f"sae-{architecture}-{width}"
            if not (folder / "cfg.json").exists():
                random_sae.write(folder, architecture, 2560, width,
                                 random_sae.threshold_for(L0, width), L0)
            theirs, own = table.alternate(
                f"sae {architecture} {width}", run.args.rounds,
                lambda: run.peer("sae", folder=str(folder), rows=2048),
                lambda: {r["what"]: r["median"] for r in run.bench("sae", folder)})
            table.note(f"L0 of the peer {theirs[0]['l0']:.1f}")


def ids_of(folder, batches):
    path = folder / "ids.bin"
    if not path.exists():
        ids = np.random.default_rng(2).integers(3, 262144, (BATCHES, SEQUENCES, TOKENS))
        ids.astype("<i4").tofile(path)
    return dict(ids=str(path), shape=[batches, SEQUENCES, TOKENS])


def prepare(run, shape):
    """Checkpoint, ids, SAE and text of a shape, made once; returns (folder, middle layer)."""
    folder = run.args.folder / shape
    config = gemma3.config_of(shape)
    layer = config["num_hidden_layers"] // 2
    if not (folder / "model.safetensors").exists():
        gemma3.write(folder, config, 0)
    tiny = ROOT / "examples" / "data"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "tiny-gemma3" / name, folder / name)
    sae = folder / f"sae-{WIDTH}"
    if not (sae / "cfg.json").exists():
        found = run.peer("calibrate", folder=str(folder), l0=L0, width=WIDTH, **ids_of(folder, BATCHES))
        random_sae.write(sae, "jumprelu", config["hidden_size"], WIDTH, found["threshold"], L0,
                         f"blocks.{layer}.hook_resid_post")
    return folder, layer


def run_pass(run, table):
    args = run.args
    for shape in args.shapes.split(","):
        folder, layer = prepare(run, shape)
        ids, sae = ids_of(folder, BATCHES), folder / f"sae-{WIDTH}"
        for condition in args.conditions.split(","):

            def ours():
                lines = run.bench("pass", "--sae", sae, "--layer", layer, "--ids", ids["ids"],
                                  "--sequences", SEQUENCES, "--tokens", TOKENS, "--batches", BATCHES,
                                  "--repeats", args.repeats, "--conditions", CONDITIONS[condition],
                                  folder)
                out = {r["what"]: r["median"] for r in lines}
                return {**{k: lines[0][k] for k in ("ce", "fvu", "l0", "load_s", "peak_mb")}, **out}

            def peer():
                return run.peer("pass", folder=str(folder), sae=str(sae), condition=condition,
                                repeats=args.repeats, seconds=0.6, **ids)

            names = ("ce", "fvu", "l0", "load_s", "peak_mb")
            theirs, own = table.alternate(f"pass {shape} {condition}", args.rounds, peer, ours, names)
            table.note(both_numbers(theirs[-1], own[-1], names), peer=theirs[-1], libqsae=own[-1])


def evaluate_numbers(document):
    """The result document in the peer's terms."""

    def of(part, reference):
        features = part["saes"][0]
        out = {"ce": part["ce"], "fvu": features["fvu_dim"], "l0": features["l0"]}
        if not reference:
            out |= {n: part[n] for n in ("kl_mean", "top1_agreement")}
            out |= {"noise": features["noise"]["ratio"], "median_r": features["survival"]["median_r"]}
        return out

    return [of(document["reference"], True)] + [of(c, False) for c in document["conditions"]]


def run_evaluate(run, table):
    """Three conditions with KL and one SAE in one go: seconds from the checkpoint to the numbers,
    imports of the peer not counted, and without loading on either side."""
    args = run.args
    for shape in args.shapes.split(","):
        folder, layer = prepare(run, shape)
        sae, text = folder / f"sae-{WIDTH}", ROOT / "examples" / "data" / "eval.jsonl"
        count, result = 2 * SEQUENCES * TOKENS, folder / "result.json"
        command = [str(args.build / "examples" / "evaluate"), str(folder), "--text", str(text),
                   "--sae", f"{sae}@{layer}", "--condition", "llm.int8", "--condition", "nf4",
                   "--profile", "paper", "--compute", "bf16", "--tokens", str(count), "--json",
                   str(result), "--quiet", *run.limits()]
        documents = []

        def ours():
            start = time.monotonic()
            output_of(command)
            total = time.monotonic() - start
            documents.append(json.loads(result.read_text()))
            return {"total": count / total, "run": count / documents[-1]["timing"]["seconds"]}

        def peer():
            got = run.peer("evaluate", folder=str(folder), sae=str(sae), text=str(text), tokens=count,
                           batch=SEQUENCES, context=TOKENS, conditions=["bf16", "int8", "nf4"])
            return {"total": count / got["total_s"], "run": count / got["run_s"], **got}

        theirs, _ = table.alternate(f"evaluate {shape} bf16+int8+nf4", args.rounds, peer, ours)
        for (label, numbers), own in zip(theirs[-1]["numbers"].items(), evaluate_numbers(documents[-1])):
            table.note(f"{label}: " + both_numbers(numbers, own, numbers), peer=numbers, libqsae=own)
        table.note(f"peak of the peer {theirs[-1]['peak_mb']:.0f} MB, loading {theirs[-1]['load_s']:.1f} s")


def run_llama(run, table):
    """llama.cpp's all-logits pass (without cross-entropy) on the 270m weights."""
    try:
        import llama_peer
    except ImportError as missing:
        table.note(f"llama.cpp is left out: {missing}")
        return
    folder, _ = prepare(run, "270m")
    ids = ids_of(folder, BATCHES)
    pairs = (("f32", "none@compute=f32"), ("bf16", "none@compute=bf16"),
             ("q8_0", "llm.int8@compute=bf16"), ("q4_0", "nf4@compute=bf16"))
    for name, condition in pairs:
        path = llama_peer.write(folder, name)

        def ours():
            lines = run.bench("pass", "--ids", ids["ids"], "--sequences", SEQUENCES, "--tokens", TOKENS,
                              "--batches", BATCHES, "--conditions", condition, folder)
            return {"forward": lines[0]["median"]}

        def peer():
            command = [sys.executable, str(HERE / "llama_peer.py"), str(path), ids["ids"],
                       str(run.args.threads)]
            return json.loads(output_of(command, run.environment).splitlines()[-1])

        table.alternate(f"llama.cpp 270m {name}, libqsae {condition}", run.args.rounds, peer, ours)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__.split("\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="build folder of libqsae")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for weights; reused")
    parser.add_argument("--rows", default=",".join(ROWS), help="of " + ",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="passes a round at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", choices=MASKS, help="limit for both sides")
    parser.add_argument("--shapes", default="270m,1b,4b")
    parser.add_argument("--conditions", default=",".join(CONDITIONS))
    parser.add_argument("--types", default="f32,split,bf16,int8", help="of the products")
    parser.add_argument("--widths", type=int, nargs="+", default=[16384, 65536])
    parser.add_argument("--architectures", default="jumprelu,topk,standard")
    parser.add_argument("--json", type=pathlib.Path, help="where to write all rows")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    run, table = Runner(args), Table()
    print(f"{'':52s} {'peer':>10s} {'libqsae':>10s} {'ratio':>8s}  {'of rounds':>14s} foreign")
    failed = False
    for name in args.rows.split(","):
        try:
            globals()[f"run_{name}"](run, table)
        except Failure as error:
            failed = True
            table.note(f"{name} FAILED: {error}")
    if args.json:
        settings = {k: str(v) for k, v in vars(args).items()}
        args.json.write_text(json.dumps({"settings": settings, "rows": table.rows}, indent=1) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
