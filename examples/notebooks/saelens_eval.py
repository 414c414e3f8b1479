# SPDX-License-Identifier: BSD-2-Clause
# %% [markdown]
# # A SAELens evaluation, before and after
#
# Before: `run_evals` of SAELens on a model and its SAE. After: the same call with a qsae SAE in
# SAELens' place; then the same figures from hooks, with intervals; then what the notebook could not
# say at all: what four bits do to it.
#
# Needs the Python packages torch, transformers, transformer-lens, sae-lens. Run it from the top of
# the repository, or here; nothing is downloaded.

# %%
import json
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens.model_bridge import TransformerBridge

import qsae
from qsae import compat

torch.set_grad_enabled(False)
DATA = next(p for p in (Path("examples/data"), Path("../data")) if p.exists())
MODEL, FOLDER, TEXT = (str(DATA / n) for n in ("tiny-gemma3", "tiny-gemma3-sae", "eval.jsonl"))


def compare(title, a, b, bound):
    """Prints two dicts side by side; every number agrees to the relative bound."""
    print(f"\n{title:36}{'before':>12}{'after':>12}")
    for key in sorted(a.keys() & b.keys()):
        print(f"{key:36}{a[key]:12.6f}{b[key]:12.6f}")
    for key in a.keys() & b.keys():
        assert abs(a[key] - b[key]) <= bound * max(abs(a[key]), 1e-3), key
    assert a.keys() & b.keys()


# %% [markdown]
# ## Before

# %%
model = TransformerBridge.boot_transformers(MODEL, device="cpu", dtype=torch.float32)
sae = SAE.load_from_disk(FOLDER)
documents = Dataset.from_list([{"text": json.loads(line)["text"]}
                               for line in open(TEXT, encoding="utf-8")])
BATCHES, PROMPTS, CONTEXT = 6, 4, 128


def store_of(sae):
    return ActivationsStore.from_sae(
        model, sae, dataset=documents, context_size=CONTEXT, streaming=False, total_tokens=5000,
        store_batch_size_prompts=PROMPTS, n_batches_in_buffer=4, train_batch_size_tokens=512)


def flat(metrics):
    return {key: value for group in metrics.values() for key, value in group.items()}


config = get_eval_everything_config(PROMPTS, BATCHES, BATCHES)
store, seen = store_of(sae), []
get_batch_tokens = store.get_batch_tokens


def remember(*arguments):
    seen.append(get_batch_tokens(*arguments))
    return seen[-1]


store.get_batch_tokens = remember
metrics, by_feature = run_evals(sae, store, model, ActivationScaler(), config,
                                exclude_special_tokens=False)
before = flat(metrics)

# %% [markdown]
# ## After, 1: the SAE alone is another
#
# Any format that qsae opens (doc/saes.md), in the shape that SAELens' code expects.

# %%
ctx = qsae.Context(threads=2)
ours = compat.SAELensSAE(qsae.SAE(ctx, FOLDER))
metrics, ours_by_feature = run_evals(ours, store_of(ours), model, ActivationScaler(), config,
                                     exclude_special_tokens=False)
compare("run_evals", before, flat(metrics), 1e-4)
assert by_feature["feature_density"] == ours_by_feature["feature_density"]

# %% [markdown]
# ## After, 2: the figures from a hook, and how sure they are
#
# Every batch is a batch of `PROMPTS * CONTEXT` tokens; SAELens' legacy figure depends on it. The
# text is one stream with `<bos>` (id 2) before each document: documents are what intervals are
# about. SAELens takes the first batches for predictions, those after them for the SAE.

# %%
HOOK = sae.cfg.metadata.hook_name
collector = compat.Collector(ctx, ours, document_start=2, batch_rows=PROMPTS * CONTEXT)
for ids in seen[BATCHES:]:
    with collector.batch(ids):
        model.run_with_hooks(ids, fwd_hooks=[(HOOK, collector.lens_hook())])
compare("from the hook", before, compat.named(collector.reconstruction, "sae_lens"), 1e-4)
predictions = compat.Collector(ctx, document_start=2)
for ids in seen[:BATCHES]:
    with predictions.batch(ids) as batch:
        batch.logits(model(ids))
compare("cross-entropy", {"ce": before["ce_loss_without_sae"]},
        {"ce": predictions.cross_entropy["ce"]}, 1e-4)
value = {v.name: v for v in collector.reconstruction.values()}["fvu_dim"]
print(f"\nexplained variance {1 - value.value:.4f}, 95% interval "
      f"{1 - value.high:.4f} to {1 - value.low:.4f} over "
      f"{collector.reconstruction['documents']:.0f} documents")

# %% [markdown]
# ## After, 3: without torch
#
# The model, the SAE and a four-bit copy in one call: what compression does to all of it.

# %%
result = qsae.evaluate(MODEL, saes=[FOLDER], text=TEXT, conditions=["nf4:block=64,double=1"],
                       context=CONTEXT, batch=PROMPTS, tokens=BATCHES * PROMPTS * CONTEXT, ctx=ctx)
reference, four = result["reference"]["saes"][0], result["conditions"][0]["saes"][0]
print(f"\nFVU {reference['fvu_dim']:.4f} -> {four['fvu_dim']:.4f}, "
      f"noise ratio {four['noise']['ratio']:.2f}, dCE {result['conditions'][0]['dce']:+.4f} nats, "
      f"{four['survival']['survived']} of {four['survival']['active']} features survive")
assert four["survival"]["active"] > 0
