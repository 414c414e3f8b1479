# SPDX-License-Identifier: BSD-2-Clause
"""The other side of compare_peers.py: the jobs as PyTorch, transformers, bitsandbytes and SAELens
do them at their best settings. One job per process: peers.py JOB '{"argument": ...}' prints JSON.
"""

import json
import logging
import pathlib
import resource
import sys
import time
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np
import torch
from torch.nn import functional as F

CE_ROWS = 1024  # rows of logits at once: larger is faster and takes more memory
KL_ROWS = 512
SAE_ROWS = 512


def median(values):
    return float(np.median(values))


def timed(call, seconds=0.6, repeats=3):
    """Median seconds of a call after one unmeasured."""
    call()
    times = []
    while len(times) < 50 and (len(times) < repeats or sum(times) < seconds):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
        del result
    return median(times)


def gemm(job):
    out = {}
    for size in job["sizes"]:
        m, k, n = map(int, size.split("x"))
        for kind in job["types"]:
            if kind == "int8":
                x = torch.randint(-127, 128, (m, k), dtype=torch.int8)
                w = torch.randint(-127, 128, (n, k), dtype=torch.int8)
                seconds = timed(lambda: torch._int_mm(x, w.t()))
            else:
                dtype = torch.float32 if kind == "f32" else torch.bfloat16
                x, w = torch.randn(m, k).to(dtype), (torch.randn(n, k) * 0.02).to(dtype)
                seconds = timed(lambda: F.linear(x, w))
            out[f"{kind} {size}"] = 2e-9 * m * k * n / seconds
    return out


def quantized_linear(kind, weight):
    import bitsandbytes as bnb

    n, k = weight.shape
    if kind == "llm.int8":
        layer = bnb.nn.Linear8bitLt(k, n, bias=False, has_fp16_weights=False, threshold=6.0)
        layer.weight = bnb.nn.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(
            k, n, bias=False, quant_type="nf4", compress_statistics=True, compute_dtype=torch.bfloat16
        )
        layer.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, quant_type="nf4", compress_statistics=True, blocksize=64
        )
    layer = layer.to("cpu").eval()
    if kind == "nf4":
        layer.support_avx512bf16_for_cpu = False
    return layer


def linear(job):
    m, k, n = job["m"], job["k"], job["n"]
    weight = (torch.randn(n, k) * 0.02).bfloat16()
    x = torch.randn(m, k).clamp_(-5, 5).bfloat16()
    spiky = x.clone()
    spiky[:, :: k // 8] *= 15
    work = 2e-9 * m * k * n
    int8 = quantized_linear("llm.int8", weight)
    dequantizing, shipped = quantized_linear("nf4", weight), quantized_linear("nf4 shipped", weight)
    return {
        "bf16": work / timed(lambda: F.linear(x, weight)),
        "llm.int8": work / timed(lambda: int8(x)),
        "llm.int8 with outlier columns": work / timed(lambda: int8(spiky)),
        "nf4": work / timed(lambda: dequantizing(x)),
        "nf4 shipped": work / timed(lambda: shipped(x), repeats=2),
    }


def codec(job):
    import bitsandbytes.functional as bf

    n, k = job["n"], job["k"]
    weight = (torch.randn(n, k) * 0.02).bfloat16()
    work, out = 2e-9 * n * k, {}
    for name in ("nf4", "fp4"):
        for double in (0, 1):

            def encode():
                return bf.quantize_4bit(
                    weight, blocksize=64, quant_type=name, compress_statistics=bool(double)
                )

            packed, state = encode()
            label = f"{name}:double={double}"
            out[f"encode {label}"] = work / timed(encode)
            out[f"decode {label}"] = work / timed(lambda: bf.dequantize_4bit(packed, state))
    half = weight.half()
    codes, scales, _ = bf.int8_vectorwise_quant(half.clone())
    out["encode llm.int8"] = work / timed(lambda: bf.int8_vectorwise_quant(half))
    out["decode llm.int8"] = work / timed(lambda: bf.int8_vectorwise_dequant(codes, scales))
    return out


def load_sae(folder):
    from sae_lens import SAE

    return SAE.load_from_disk(folder, device="cpu").eval()


def sae(job):
    module = load_sae(job["folder"])
    x = torch.randn(job["rows"], module.cfg.d_in)
    acts = module.encode(x)

    def both():
        for part in x.split(SAE_ROWS):
            module.decode(module.encode(part))

    return {
        "encode": job["rows"] / timed(lambda: [module.encode(p) for p in x.split(SAE_ROWS)][:0]),
        "decode": job["rows"] / timed(lambda: [module.decode(p) for p in acts.split(SAE_ROWS)][:0]),
        "both": job["rows"] / timed(both),
        "l0": float((acts > 0).sum() / len(x)),
    }


def load_model(folder, condition):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options = {"dtype": torch.float32 if condition == "fp32" else torch.bfloat16}
    if condition == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if condition not in ("fp32", "bf16"):
        options |= {"quantization_config": config, "device_map": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="sdpa", **options
    ).eval()
    if condition == "nf4":
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":
                module.support_avx512bf16_for_cpu = False
    return model


class Tapped:
    """A model and its residual rows after the middle layer."""

    def __init__(self, folder, condition):
        start = time.perf_counter()
        self.model = load_model(folder, condition)
        self.load = time.perf_counter() - start
        layers = self.model.model.layers
        self.rows = None
        layers[len(layers) // 2].register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.rows = output[0] if isinstance(output, tuple) else output

    def forward(self, ids):
        """Final rows and labels of the positions that predict something, and the tapped rows."""
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        width = hidden.shape[-1]
        final = hidden[:, :-1].reshape(-1, width)
        return final, self.rows.reshape(-1, width).float()

    def logits(self, final):
        return F.linear(final, self.model.lm_head.weight).float()


def nll_rows(tapped, final, labels):
    out = []
    for rows, wanted in zip(final.split(CE_ROWS), labels.split(CE_ROWS)):
        logits = tapped.logits(rows)
        out.append(torch.logsumexp(logits, -1) - logits.gather(1, wanted[:, None])[:, 0])
    return torch.cat(out)


class Reconstruction:
    """Sums for FVU and L0."""

    def __init__(self):
        self.error, self.square, self.sum, self.active, self.rows = 0.0, 0.0, 0.0, 0, 0

    def add(self, x, y, acts):
        self.error += float((x - y).square_().sum(dtype=torch.float64))
        self.square += float(x.square().sum(dtype=torch.float64))
        self.sum = self.sum + x.sum(0, dtype=torch.float64)
        self.active += int(torch.count_nonzero(acts))
        self.rows += len(x)

    def result(self):
        variance = self.square - float(self.sum.square().sum()) / self.rows
        return {"fvu": self.error / variance, "l0": self.active / self.rows}


def reconstruct(module, rows, sums):
    for part in rows.split(SAE_ROWS):
        acts = module.encode(part)
        sums.add(part, module.decode(acts), acts)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def whole_pass(job):
    ids = torch.from_numpy(np.fromfile(job["ids"], np.int32).reshape(job["shape"])).long()
    tapped, module, sums = Tapped(job["folder"], job["condition"]), load_sae(job["sae"]), Reconstruction()
    nll = []
    for batch in ids:  # the numbers, and the warm-up
        final, rows = tapped.forward(batch)
        nll.append(nll_rows(tapped, final, batch[:, 1:].reshape(-1)))
        reconstruct(module, rows, sums)
    memory = peak_mb()
    forward, whole = [], []
    while len(whole) < job["repeats"] or (sum(whole) < job["seconds"] and len(whole) < 50):
        batch, again = ids[len(whole) % len(ids)], Reconstruction()
        start = time.perf_counter()
        final, rows = tapped.forward(batch)
        nll_rows(tapped, final, batch[:, 1:].reshape(-1))
        forward.append(time.perf_counter() - start)
        reconstruct(module, rows, again)
        whole.append(time.perf_counter() - start)
    tokens = ids[0].numel()
    return {
        "forward": tokens / median(forward),
        "whole": tokens / median(whole),
        "load_s": tapped.load,
        "peak_mb": memory,
        "ce": float(torch.cat(nll).double().mean()),
        **sums.result(),
    }


def calibrate(job):
    """The threshold above which `l0` of `width` random unit directions lie on the tapped rows."""
    ids = torch.from_numpy(np.fromfile(job["ids"], np.int32).reshape(job["shape"])).long()
    _, rows = Tapped(job["folder"], "bf16").forward(ids[0])
    g = torch.Generator().manual_seed(5)
    directions = torch.randn(4096, rows.shape[1], generator=g)
    directions /= directions.norm(dim=1, keepdim=True)
    inputs = (rows[::4] @ directions.T).flatten()
    keep = int(len(inputs) * job["l0"] / job["width"])
    return {"threshold": float(inputs.topk(keep).values[-1])}


class Survival:
    """Per-feature correlation of the activations of two models."""

    def __init__(self):
        self.sums = [0.0] * 5

    def add(self, r, q):
        parts = (r.sum(0), q.sum(0), (r * r).sum(0), (q * q).sum(0), (r * q).sum(0))
        self.sums = [total + part.double() for total, part in zip(self.sums, parts)]

    def result(self, n):
        r, q, rr, qq, rq = (s / n for s in self.sums)
        correlation = (rq - r * q) / ((rr - r * r) * (qq - q * q)).sqrt()
        return {"median_r": float(correlation[(rr > 0) & (qq > 0)].nanmedian())}


class Against:
    """What is measured of a condition beside the reference."""

    def __init__(self):
        self.nll, self.kl, self.agree = [], [], []
        self.reconstruction, self.survival = Reconstruction(), Survival()
        self.drift = 0.0

    def result(self, reference):
        square_r, own = reference.reconstruction.square, self.reconstruction
        return {
            "ce": float(torch.cat(self.nll).double().mean()),
            "kl_mean": float(torch.cat(self.kl).double().mean()) if self.kl else 0.0,
            "top1_agreement": float(torch.cat(self.agree).double().mean()) if self.agree else 1.0,
            "noise": (self.drift / square_r / (own.error / own.square)) ** 0.5,
            **own.result(),
            **(self.survival.result(own.rows) if self.kl else {}),
        }


def compare_heads(models, finals, labels, sums):
    """nll, KL to the first model and agreement with it, a chunk of rows at a time."""
    for start in range(0, len(labels), KL_ROWS):
        part = slice(start, start + KL_ROWS)
        for i, (tapped, final) in enumerate(zip(models, finals)):
            logits = tapped.logits(final[part])
            top = logits.argmax(-1)
            logp = torch.log_softmax(logits, -1)
            sums[i].nll.append(-logp.gather(1, labels[part, None])[:, 0])
            if i == 0:
                logp_r, p_r, top_r = logp, logp.exp(), top
                continue
            sums[i].kl.append(logp.neg_().add_(logp_r).mul_(p_r).sum(-1))
            sums[i].agree.append(top == top_r)


def compare_features(module, rows, sums):
    for parts in zip(*(r.split(SAE_ROWS) for r in rows)):
        x_r, acts_r = parts[0], module.encode(parts[0])
        y_r = module.decode(acts_r)
        for i, x in enumerate(parts):
            acts = module.encode(x) if i else acts_r
            sums[i].reconstruction.add(x, module.decode(acts) if i else y_r, acts)
            if i:
                sums[i].drift += float((x - x_r).square_().sum(dtype=torch.float64))
                sums[i].survival.add(acts_r, acts)


def evaluate(job):
    """Reference and conditions on one text, side by side: the numbers of qsae-evaluate."""
    from tokenizers import Tokenizer

    start = time.perf_counter()
    tokenizer = Tokenizer.from_file(str(pathlib.Path(job["folder"]) / "tokenizer.json"))
    stream = []
    for line in open(job["text"], encoding="utf-8"):
        stream += tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
    ids = torch.tensor(stream[: job["tokens"]]).reshape(-1, job["batch"], job["context"])
    models = [Tapped(job["folder"], condition) for condition in job["conditions"]]
    module = load_sae(job["sae"])
    loaded = time.perf_counter()
    sums = [Against() for _ in models]
    for batch in ids:
        finals, rows = zip(*(tapped.forward(batch) for tapped in models))
        compare_heads(models, finals, batch[:, 1:].reshape(-1), sums)
        compare_features(module, rows, sums)
    numbers = [s.result(sums[0]) for s in sums]
    end = time.perf_counter()
    return {
        "load_s": loaded - start,
        "run_s": end - loaded,
        "total_s": end - start,
        "peak_mb": peak_mb(),
        "numbers": dict(zip(job["conditions"], numbers)),
    }


JOBS = {
    "gemm": gemm,
    "linear": linear,
    "codec": codec,
    "sae": sae,
    "pass": whole_pass,
    "calibrate": calibrate,
    "evaluate": evaluate,
}


def main():
    job = json.loads(sys.argv[2])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    with torch.inference_mode():
        print(json.dumps(JOBS[sys.argv[1]](job)))


if __name__ == "__main__":
    main()
