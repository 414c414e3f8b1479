# SPDX-License-Identifier: BSD-2-Clause
"""Hooks of TransformerLens models, built offline from random transformers models, beside libqsae's
rows by the same names. Used by compare_sites.py --lens."""

import tempfile

import numpy as np

import qsae
import sites
from models import torch

FAMILIES = ("gpt2", "gpt_neox", "llama", "gemma2")
LAYER_HOOKS = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out",
               "hook_resid_post", "attn.hook_z", "ln1.hook_normalized", "ln2.hook_normalized",
               "mlp.hook_post", "hook_mlp_in")


def lens_config(c, family):
    base = dict(d_model=c.hidden_size, n_layers=c.num_hidden_layers, n_heads=c.num_attention_heads,
                d_vocab=c.vocab_size, n_ctx=64, dtype=torch.float32, device="cpu", seed=1)
    if family == "gpt2":
        return base | dict(d_head=c.n_embd // c.n_head, d_mlp=c.n_inner, act_fn="gelu_new",
                           eps=c.layer_norm_epsilon, normalization_type="LN", n_ctx=c.n_positions,
                           scale_attn_by_inverse_layer_idx=c.scale_attn_by_inverse_layer_idx)
    base |= dict(d_mlp=c.intermediate_size, positional_embedding_type="rotary",
                 rotary_adjacent_pairs=False)
    if family == "gpt_neox":
        d = c.hidden_size // c.num_attention_heads
        return base | dict(d_head=d, act_fn="gelu", eps=c.layer_norm_eps, normalization_type="LN",
                           parallel_attn_mlp=c.use_parallel_residual,
                           rotary_dim=int(d * c.rope_parameters["partial_rotary_factor"]))
    base |= dict(d_head=c.head_dim, eps=c.rms_norm_eps, normalization_type="RMS", final_rms=True,
                 n_key_value_heads=c.num_key_value_heads, rotary_base=10000,
                 rotary_dim=c.head_dim, gated_mlp=True)
    if family == "llama":
        return base | dict(act_fn="silu")
    return base | dict(act_fn="gelu_pytorch_tanh", attn_scores_soft_cap=c.attn_logit_softcapping,
                       output_logits_soft_cap=c.final_logit_softcapping,
                       attn_scale=c.query_pre_attn_scalar**0.5,
                       use_normalization_before_and_after=True)


def lens_model(hf, c, family):
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions as convert

    model = HookedTransformer(HookedTransformerConfig(**lens_config(c, family)))
    state = {"gpt2": convert.convert_gpt2_weights, "gpt_neox": convert.convert_neox_weights,
             "llama": convert.convert_llama_weights,
             "gemma2": convert.convert_gemma_weights}[family]
    model.cfg.original_architecture = type(hf).__name__
    with torch.no_grad():
        model.load_and_process_state_dict(state(hf, model.cfg), fold_ln=False,
                                          center_writing_weights=False, center_unembed=False,
                                          fold_value_biases=False)
    model.set_use_hook_mlp_in(True)
    return model.eval()


def compare(family, number, seed, tally, build, classes):
    if family not in FAMILIES:
        return
    rng = np.random.default_rng([seed, number, 1000 + FAMILIES.index(family)])
    with tempfile.TemporaryDirectory() as folder:
        c = build(family, rng, folder)
        # What TransformerLens has no weights or no formula for.
        if getattr(c, "attention_bias", False) and family in ("llama", "gemma2") or \
                getattr(c, "mlp_bias", False) or \
                family == "gpt_neox" and lens_config(c, family)["rotary_dim"] % 2:
            tally.counts["skipped"] += 1
            return
        tokens = int(rng.integers(2, min(20, getattr(c, "sliding_window", 20) or 20)))
        ids = torch.from_numpy(rng.integers(3, c.vocab_size, (2, tokens)))
        hf = sites.load(folder, torch.float32, "eager")
        model = lens_model(hf, c, family)
        with torch.no_grad():
            logits, cache = model.run_with_cache(ids)
        names = [f"blocks.{i}.{h}" for i in range(c.num_hidden_layers) for h in LAYER_HOOKS]
        names += ["hook_embed", "hook_pos_embed", "ln_final.hook_normalized"]
        mine = qsae.Model(qsae.Context(threads=1), folder)
        parallel = getattr(c, "use_parallel_residual", False)
        names = [n for n in names if n in cache.cache_dict
                 and not (parallel and n.endswith(("resid_mid", "hook_mlp_in")))]
        out = mine.forward(ids.numpy(), taps=names, logits=True)
        shift = logits.numpy()
        for name in names + ["logits"]:
            want = shift if name == "logits" else cache[name].numpy().reshape(2, tokens, -1)
            got = out.logits if name == "logits" else out.taps[name]
            if want.shape[0] != got.shape[0]:
                want = np.broadcast_to(want, got.shape)
            gap = np.sqrt(np.mean((want - got) ** 2.0)) / np.sqrt(np.mean(want.astype(float) ** 2))
            tally.counts["lens"] += 1
            tally.ratio["lens, relative distance", name.split(".", 2)[-1]].append(gap)
            if not gap < 2e-5:
                tally.bad.append(f"lens {family} {name}: {gap:.2g}")
