# SPDX-License-Identifier: BSD-2-Clause
"""Reference data of pruning, of RTN in the weight's dtype (torch) and of the controls' noise.

Pruned: torch.kthvalue, torch.nn.utils.prune.l1_unstructured and torch.ao.pruning. Noise: the normal
quantiles (statistics.NormalDist) of Philox4x32-10 words, whose model here is checked against the
published vectors and, where it is installed, randomgen.
"""

from common import folder_size, one_thread, output_folder, save, save_json, versions

torch = one_thread()

import math
from statistics import NormalDist

import numpy as np
import torch.nn.utils.prune as nn_prune
from torch.ao.pruning import WeightNormSparsifier

MASK = 0xFFFFFFFF


def matrices():
    rng = np.random.default_rng(77)
    normal = torch.from_numpy(rng.standard_normal((24, 40)).astype(np.float32))
    ties = torch.from_numpy((rng.integers(-6, 7, (19, 24)) / 8).astype(np.float32))
    zeros = torch.from_numpy((rng.standard_t(2, (8, 32)) * 1e-3).astype(np.float32))
    zeros[3], zeros[:, 5] = 0, -0.0
    tiny = torch.from_numpy((rng.standard_normal((6, 16)) * 3e-42).astype(np.float32))
    return {
        "f32": normal,
        "bf16": normal.bfloat16(),
        "f16": normal.half(),
        "ties": ties,
        "ties16": ties.bfloat16(),
        "zeros": zeros,
        "tiny": tiny,
    }


def smallest(w, k, dim=None):
    """Mask of what lies at or below the k-th smallest magnitude."""
    a = w.abs().float()
    if k == 0:
        return torch.zeros_like(w, dtype=torch.bool)
    if dim is None:
        return a <= torch.kthvalue(a.flatten(), k).values
    return a <= torch.kthvalue(a, k, dim=dim, keepdim=True).values


def first(w, k):
    """Mask of the k smallest magnitudes, of equal ones the earlier in row-major order."""
    order = torch.sort(w.abs().float().flatten(), stable=True).indices[:k]
    mask = torch.zeros(w.numel(), dtype=torch.bool)
    mask[order] = True
    mask = mask.reshape(w.shape)
    if 0 < k and int(smallest(w, k).sum()) == k:  # nothing equals the k-th: torch must agree
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
        layer.weight.data = w.clone()
        nn_prune.l1_unstructured(layer, "weight", amount=k)
        assert torch.equal(layer.weight_mask == 0, mask)
    return mask


def pattern(w, keep, of):
    """Mask of all but the `keep` largest of each `of`, of equal ones the earlier kept."""
    groups = w.abs().float().reshape(-1, of)
    order = torch.sort(groups, dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order.indices[:, keep:], True)
    net = torch.nn.Sequential(torch.nn.Linear(w.shape[1], w.shape[0], bias=False))
    net[0].weight.data = w.float().clone()
    sparsifier = WeightNormSparsifier(
        sparsity_level=1.0, sparse_block_shape=(1, of), zeros_per_block=of - keep, norm=1
    )
    sparsifier.prepare(net, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    theirs = ~net[0].parametrizations.weight[0].mask.bool().reshape(-1, of)
    unique = order.values[:, keep - 1] > order.values[:, keep]
    assert torch.equal(theirs[unique], mask[unique])
    return mask.reshape(w.shape)


def prune_group(tensors):
    cases = []
    for name, w in matrices().items():
        rows, cols = w.shape
        tensors[f"{name}.w"] = w
        runs = {}
        for s in (0.0, 0.175, 0.1625, 0.5, 0.8, 1.0):
            k = math.floor(s * w.numel())
            runs[f"sparsity={s},scope=tensor,ties=all"] = smallest(w, k)
            runs[f"sparsity={s},scope=tensor,ties=first"] = first(w, k)
            runs[f"sparsity={s},scope=row,ties=all"] = smallest(w, math.floor(s * cols), 1)
        for keep, of in ((2, 4), (4, 8), (1, 4), (1, 2)):
            runs[f"pattern={keep}:{of}"] = pattern(w, keep, of)
        for spec, mask in runs.items():
            key = f"{name}.{len(cases)}"
            tensors[f"{key}.zero"] = mask.to(torch.uint8)
            cases.append({"matrix": name, "key": key, "spec": spec})
    return cases


def rtn_group(tensors):
    """arith=weight: every operation is torch's own in the dtype of the weight."""
    cases = []
    rng = np.random.default_rng(78)
    for dtype in (torch.bfloat16, torch.float16):
        w = torch.from_numpy((rng.standard_t(3, (12, 37)) * 0.1).astype(np.float32)).to(dtype)
        w[4], w[:, 9] = 0, w[:, 9] * 30
        name = "rtn." + {torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
        tensors[f"{name}.w"] = w
        heads = 3
        axes = {
            "row": lambda v: v.amax(1, keepdim=True),
            "column": lambda v: v.amax(0, keepdim=True),
            "tensor": lambda v: v.amax().reshape(1, 1),
            # [head, d_head, d_model]: everything but the index within a head is reduced
            "tl": lambda v: v.reshape(heads, 4, 37).amax((0, 2)).reshape(4, 1).repeat(heads, 1),
        }
        for bits in range(8, 1, -1):
            for axis, amax in axes.items():
                high, low = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
                scale = amax(w.abs()) / high
                scale = torch.where(scale == 0, torch.ones_like(scale), scale)
                codes = torch.clamp(torch.round(w / scale), low, high)
                key = f"{name}.{axis}{bits}"
                tensors[f"{key}.codes"] = codes.to(torch.int8)
                tensors[f"{key}.value"] = codes * scale
                spec = f"rtn:bits={bits},axis={axis},group=0,sym=1,arith=weight"
                cases.append({"matrix": name, "key": key, "spec": spec, "heads": heads})
    return cases


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & MASK, a >> 32 ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def check_philox():
    """Random123's known answers, and randomgen where it is installed."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([MASK] * 4, [MASK] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    try:
        from randomgen import Philox
    except ImportError:
        return
    got = Philox(number=4, width=32, key=5 << 32 | 7, counter=9).random_raw(4)
    assert got.tolist() == philox([10, 0, 0, 0], [7, 5])


def noise_group(tensors):
    check_philox()
    normal, cases = NormalDist(), []
    for seed, stream in ((0, 0), (1, 0), (0, 1), (0x0123456789ABCDEF, 0xFEDCBA9876543210)):
        words = []
        for block in range(24):
            counter = [block, 0, stream & MASK, stream >> 32]
            words += philox(counter, [seed & MASK, seed >> 32])
        values = [normal.inv_cdf((word + 0.5) / 2**32) for word in words]
        tensors[f"normal.{len(cases)}"] = np.array(values, np.float32)
        cases.append({"seed": f"{seed:016X}", "stream": f"{stream:016X}"})
    return cases


def main():
    folder = output_folder("codecs")
    tensors = {}
    index = {
        "versions": versions("torch"),
        "prune": prune_group(tensors),
        "rtn": rtn_group(tensors),
        "noise": noise_group(tensors),
    }
    save(folder / "prune.safetensors", tensors, {"content": "pruning and controls, see README.md"})
    save_json(folder / "prune.json", index)
    print(f"{len(index['prune'])} pruned, {len(index['rtn'])} rounded")
    print(f"{folder_size(folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
