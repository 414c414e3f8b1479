# SPDX-License-Identifier: BSD-2-Clause
# %% [markdown]
# # Hooks on a model and its quantized copy
#
# transformers runs the model in bf16 and as bitsandbytes quantizes it (NF4 with double
# quantization, and LLM.int8); forward hooks feed both into `qsae.metrics`. Then `qsae.evaluate`
# does the same without torch, on the same tokens.
#
# Needs the Python packages torch, transformers, accelerate, bitsandbytes. Run it from the top of
# the repository, or here; nothing is downloaded.

# %%
import logging
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers import logging as hf_logging

import qsae
from qsae import compat

hf_logging.set_verbosity_error()
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
torch.set_grad_enabled(False)
DATA = next(p for p in (Path("examples/data"), Path("../data")) if p.exists())
MODEL, FOLDER, TEXT = (str(DATA / n) for n in ("tiny-gemma3", "tiny-gemma3-sae", "eval.jsonl"))

# %% [markdown]
# ## The models, and tokens in batches of 4 x 128
#
# `qsae.Corpus` cuts the text as `qsae.evaluate` does, and knows which document a token is from. Ids
# of your own tokenizer do as well: then every sequence is a document.

# %%
CONTEXT, BATCH, TOKENS = 128, 4, 2048
ctx = qsae.Context(threads=2)
sae = qsae.SAE(ctx, FOLDER)
corpus = qsae.Corpus(ctx, qsae.Tokenizer(ctx, MODEL), TEXT, context=CONTEXT, max_tokens=TOKENS)
chunks = [corpus[i] for i in range(len(corpus))]
batches = [(torch.stack([torch.from_numpy(c.ids).long() for c in chunks[a:a + BATCH]]),
            [c.document for c in chunks[a:a + BATCH]]) for a in range(0, len(chunks), BATCH)]
SPECIAL = (0, 1, 2, 3)

bits = {
    "nf4:block=64,double=1,rules=torch": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16),
    "llm.int8:threshold=6,rules=torch": BitsAndBytesConfig(load_in_8bit=True)}


def load(**how):
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16, device_map="cpu",
                                                **how).eval()


reference = load()

# %% [markdown]
# ## Hooks
#
# A `Pair` takes the rows of both models at one place, here the output of layer 3, where the SAE
# belongs. The rows come in whatever dtype the model has; only the reference's are copied, as they
# wait for the others.

# %%
measured = {}
for condition, quantization in bits.items():
    quantized = load(quantization_config=quantization)
    pair = compat.Pair(ctx, sae, special=SPECIAL, exclude_first=True)
    with pair.attach(reference.model.layers[3], "r"), pair.attach(quantized.model.layers[3], "q"):
        for ids, documents in batches:
            with pair.batch(ids, documents=torch.tensor(documents)) as batch:
                batch.logits(reference(ids), quantized(ids))
    measured[condition] = pair
    print(f"\n{condition}")
    for name, value in pair.summary().items():
        print(f"  {name:18}{value:12.6f}")

# %% [markdown]
# ## The same by `qsae.evaluate`
#
# `rules=torch` is what bitsandbytes does on a CPU. Both paths hold the same codes; what they differ
# by is the order of sums and what that moves when it is rounded to bf16 (bitsandbytes also rounds
# scales of NF4 to bf16 on CPUs with such instructions). Where hardly anything has changed (LLM.int8
# here) that is a part of the divergence itself.

# %%
result = qsae.evaluate(MODEL, saes=[FOLDER], text=TEXT, conditions=list(bits), compute="bf16",
                       context=CONTEXT, batch=BATCH, tokens=TOKENS, ctx=ctx)
print(f"\n{'':34}{'hooks':>12}{'evaluate':>12}")
for one, (condition, pair) in zip(result["conditions"], measured.items()):
    entry = one["saes"][0]
    rows = [("ce_q", pair.divergence["ce_q"], one["ce"], 0.001),
            ("kl_mean", pair.divergence["kl_mean"], one["kl_mean"], 0.1),
            ("fvu_dim", pair.reconstruction_q["fvu_dim"], entry["fvu_dim"], 0.005),
            ("l0", pair.reconstruction_q["l0"], entry["l0"], 0.005),
            ("noise p", pair.drift["P"], entry["noise"]["p"], 0.02),
            ("noise ratio", pair.drift["ratio"], entry["noise"]["ratio"], 0.02),
            ("active", pair.features["active"], entry["survival"]["active"], 0.01),
            ("survived", pair.features["survived"], entry["survival"]["survived"], 0.02),
            ("mean_r", pair.features["mean_r"], entry["survival"]["mean_r"], 0.005)]
    for name, ours, theirs, bound in rows:
        print(f"{condition.split(':')[0]:10}{name:24}{ours:12.6f}{theirs:12.6f}")
        assert abs(ours - theirs) <= bound * abs(theirs), name
    assert pair.tokens == result["corpus"]["tokens"]
