# SPDX-License-Identifier: BSD-2-Clause
# %% [markdown]
# # Which features survive pruning, with TransformerLens
#
# The model in TransformerLens and a copy with the smallest weights set to 0; hook functions feed
# both into `qsae.metrics`. Correlations of each feature go to a CSV file that any plotting program
# draws.
#
# Needs the Python packages torch, transformers, transformer-lens. Run it from the top of the
# repository, or here; nothing is downloaded. `QSAE_OUT` is where the CSV files go (a temporary
# folder).

# %%
import csv
import os
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformer_lens.model_bridge import TransformerBridge

import qsae
from qsae import compat

torch.set_grad_enabled(False)
DATA = next(p for p in (Path("examples/data"), Path("../data")) if p.exists())
MODEL, FOLDER, TEXT = (str(DATA / n) for n in ("tiny-gemma3", "tiny-gemma3-sae", "eval.jsonl"))
OUT = Path(os.environ.get("QSAE_OUT") or tempfile.mkdtemp())
CONTEXT, BATCH, TOKENS, SPARSITY = 128, 4, 4096, 0.175

# %% [markdown]
# ## The model and its pruned copy
#
# Magnitude pruning as in arXiv 2606.03002: in every matrix of the layers, the floor(s n) smallest
# weights become 0.


# %%
def load():
    hf = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    return hf, TransformerBridge.boot_transformers(MODEL, hf_model=hf, device="cpu",
                                                   dtype=torch.float32)


_, reference = load()
inner, pruned = load()
for module in inner.model.layers.modules():
    if isinstance(module, torch.nn.Linear):
        weight = module.weight
        k = int(SPARSITY * weight.numel())
        limit = weight.abs().flatten().kthvalue(k).values
        weight[weight.abs() <= limit] = 0

# %% [markdown]
# ## Hook functions

# %%
ctx = qsae.Context(threads=2)
sae = qsae.SAE(ctx, FOLDER)
corpus = qsae.Corpus(ctx, qsae.Tokenizer(ctx, MODEL), TEXT, context=CONTEXT, max_tokens=TOKENS)
chunks = [corpus[i] for i in range(len(corpus))]
pair = compat.Pair(ctx, sae, exclude_first=True, top=5)
for a in range(0, len(chunks), BATCH):
    ids = torch.from_numpy(np.stack([c.ids for c in chunks[a:a + BATCH]])).long()
    documents = np.stack([c.document for c in chunks[a:a + BATCH]])
    with pair.batch(ids, documents=documents) as batch:
        batch.logits(*[model.run_with_hooks(ids, fwd_hooks=[(sae.hook, pair.lens_hook(side))])
                       for model, side in ((reference, "r"), (pruned, "q"))])
for name, value in pair.summary().items():
    print(f"{name:18}{value:12.6f}")

# %% [markdown]
# ## Data of the plots
#
# A feature a row: firing rate, correlation r, gain; and the histogram of r over active features.

# %%
columns = {name: pair.features.features(name) for name in ("rate_r", "rate_q", "r", "gain")}
active = columns["rate_r"] > 0.001
with open(OUT / "features.csv", "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(["feature", *columns])
    for i in np.flatnonzero(active):
        table.writerow([i, *(f"{column[i]:.6g}" for column in columns.values())])
counts, edges = np.histogram(columns["r"][active], np.linspace(-1, 1, 41))
with open(OUT / "survival.csv", "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(["r_low", "r_high", "features"])
    table.writerows([f"{a:.2f}", f"{b:.2f}", n] for a, b, n in zip(edges, edges[1:], counts))
print(f"\n{active.sum()} features in {OUT / 'features.csv'}, histogram in {OUT / 'survival.csv'}")
assert active.sum() == counts.sum() == pair.features["active"]
worst = int(np.where(active, columns["r"], np.inf).argmin())
tokens, values = pair.features.top(worst)
print(f"feature {worst} suffers most: r {columns['r'][worst]:.3f}, "
      f"largest at tokens {tokens.tolist()}")

# %% [markdown]
# ## The same by `qsae.evaluate`

# %%
result = qsae.evaluate(MODEL, saes=[FOLDER], text=TEXT, compute="f32", context=CONTEXT, batch=BATCH,
                       conditions=[f"none+prune:sparsity={SPARSITY}"], tokens=TOKENS, ctx=ctx)
one = result["conditions"][0]
entry = one["saes"][0]
print(f"\n{'':24}{'hooks':>12}{'evaluate':>12}")
for name, ours, theirs in (
        ("ce_q", pair.divergence["ce_q"], one["ce"]),
        ("kl_mean", pair.divergence["kl_mean"], one["kl_mean"]),
        ("fvu_dim", pair.reconstruction_q["fvu_dim"], entry["fvu_dim"]),
        ("noise ratio", pair.drift["ratio"], entry["noise"]["ratio"]),
        ("survived", pair.features["survived"], entry["survival"]["survived"]),
        ("mean_r", pair.features["mean_r"], entry["survival"]["mean_r"])):
    print(f"{name:24}{ours:12.6f}{theirs:12.6f}")
    assert abs(ours - theirs) <= 1e-4 * abs(theirs), name
