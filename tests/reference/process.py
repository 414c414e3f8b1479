# SPDX-License-Identifier: BSD-2-Clause
"""Weights of the tiny checkpoints as TransformerLens processes them, and what its f32 runs are off.

process.safetensors: per model "MODEL/LAYER.PATH.weight" [out, in] (of layer 1) and ".bias",
"embed", "positions", "head", "head.bias", all after from_pretrained's default steps;
"codes/MODEL/..." I8, round to nearest of TransformerLens' tensors in NumPy (arXiv 2606.03002: 6
bits, one scale per index of the last axis). process.json: root mean square distance of a processed
f32 run from the processed binary64 values, which the model's reference.safetensors gives without
processing.
"""

import json
import pathlib

from common import DATA, load, one_thread, output_folder, save, save_json, versions

torch = one_thread()

import numpy as np
import transformer_lens.pretrained.weight_conversions as conversions
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoModelForCausalLM

MODELS = ["gpt2_small", "neox_parallel", "llama_gqa", "gemma2_cap"]
STEPS = ["fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"]


def tl_config(c, dtype):
    """What TransformerLens' loading_from_pretrained makes of a transformers configuration."""
    heads = c.num_attention_heads
    common = dict(n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_heads=heads,
                  d_head=getattr(c, "head_dim", None) or c.hidden_size // heads,
                  d_vocab=c.vocab_size, n_ctx=c.max_position_embeddings, dtype=dtype,
                  device="cpu", seed=0)
    rope = getattr(c, "rope_parameters", None) or {}
    if c.model_type == "gpt2":
        own = dict(d_mlp=c.n_inner or 4 * c.n_embd, eps=c.layer_norm_epsilon,
                   act_fn=c.activation_function, use_attn_scale=c.scale_attn_weights,
                   scale_attn_by_inverse_layer_idx=c.scale_attn_by_inverse_layer_idx,
                   normalization_type="LN")
    elif c.model_type == "gpt_neox":
        part = rope.get("partial_rotary_factor", 0.25)
        own = dict(d_mlp=c.intermediate_size, eps=c.layer_norm_eps, act_fn=c.hidden_act,
                   parallel_attn_mlp=c.use_parallel_residual, normalization_type="LN",
                   positional_embedding_type="rotary", rotary_adjacent_pairs=False,
                   rotary_dim=int(part * common["d_head"]), rotary_base=rope["rope_theta"])
    elif c.model_type == "llama":
        own = dict(d_mlp=c.intermediate_size, eps=c.rms_norm_eps, act_fn=c.hidden_act,
                   normalization_type="RMS", positional_embedding_type="rotary",
                   rotary_adjacent_pairs=False, rotary_dim=common["d_head"], final_rms=True,
                   gated_mlp=True, rotary_base=rope["rope_theta"],
                   n_key_value_heads=c.num_key_value_heads)
    else:
        local = ["local" if t == "sliding_attention" else "global" for t in c.layer_types]
        own = dict(d_mlp=c.intermediate_size, eps=c.rms_norm_eps, act_fn="gelu_pytorch_tanh",
                   normalization_type="RMS", positional_embedding_type="rotary",
                   rotary_base=rope["rope_theta"], rotary_dim=common["d_head"],
                   n_key_value_heads=c.num_key_value_heads, window_size=c.sliding_window,
                   use_local_attn=True, attn_types=local, gated_mlp=True, final_rms=True,
                   use_normalization_before_and_after=True,
                   attn_scale=float(c.query_pre_attn_scalar) ** 0.5,
                   attn_scores_soft_cap=c.attn_logit_softcapping or -1.0,
                   output_logits_soft_cap=c.final_logit_softcapping or -1.0)
    return HookedTransformerConfig(**common, **own)


CONVERT = {"gpt2": conversions.convert_gpt2_weights, "gpt_neox": conversions.convert_neox_weights,
           "llama": conversions.convert_llama_weights, "gemma2": conversions.convert_gemma_weights}


def hooked(folder, steps, dtype=torch.float32):
    """The model as from_pretrained(steps...) has it, and its transformers configuration."""
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(dtype)
    config = tl_config(hf.config, dtype)
    with torch.no_grad():
        state = {k: v.detach().clone() for k, v in CONVERT[hf.config.model_type](hf,
                                                                                 config).items()}
    model = HookedTransformer(config)
    if config.output_logits_soft_cap > 0:  # from_pretrained does so
        steps = [s for s in steps if s != "center_unembed"]
    model.load_and_process_state_dict(state, **{s: s in steps for s in STEPS})
    return model.eval(), hf.config


def flat(w):
    """[head, d_model, d_head] as outputs x inputs."""
    return w.permute(0, 2, 1).reshape(-1, w.shape[1])


def modules(model, c):
    """{name: (TransformerLens' tensor as [out, in], the tensors a code has scales for)}."""
    out, state = {}, model.state_dict()
    scale = c.hidden_size**0.5 if c.model_type == "gemma2" else 1.0
    out["embed"] = state["embed.W_E"] / scale
    if c.model_type == "gpt2":
        out["positions"] = state["pos_embed.W_pos"]
    out["head"], out["head.bias"] = state["unembed.W_U"].T, state["unembed.b_U"]
    for n in range(c.num_hidden_layers):
        s = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"blocks.{n}.")}
        q, k, v = (s.get(f"attn.W_{x}", s.get(f"attn._W_{x}")) for x in "QKV")
        bq, bk, bv = (s.get(f"attn.b_{x}", s.get(f"attn._b_{x}")) for x in "QKV")
        o, bo = s["attn.W_O"].flatten(0, 1).T, s["attn.b_O"]
        up, down, bu, bd = s["mlp.W_in"].T, s["mlp.W_out"].T, s["mlp.b_in"], s["mlp.b_out"]
        if c.model_type == "gpt2":
            names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
            qkv, bias = torch.cat([flat(q), flat(k), flat(v)]), torch.cat(
                [bq.flatten(), bk.flatten(), bv.flatten()])
        elif c.model_type == "gpt_neox":
            names = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h",
                     "mlp.dense_4h_to_h")
            qkv = torch.stack([w.permute(0, 2, 1) for w in (q, k, v)], 1).reshape(-1, q.shape[1])
            bias = torch.stack([bq, bk, bv], 1).flatten()
        else:
            parts = {"self_attn.q_proj": (flat(q), bq), "self_attn.k_proj": (flat(k), bk),
                     "self_attn.v_proj": (flat(v), bv), "self_attn.o_proj": (o, bo),
                     "mlp.gate_proj": (s["mlp.W_gate"].T, None), "mlp.up_proj": (up, bu),
                     "mlp.down_proj": (down, bd)}
            for name, (w, b) in parts.items():
                out[f"{n}.{name}.weight"] = w
                if b is not None and b.any():
                    out[f"{n}.{name}.bias"] = b.flatten()
            continue
        for name, w, b in zip(names, (qkv, o, up, down), (bias, bo, bu, bd)):
            out[f"{n}.{name}.weight"], out[f"{n}.{name}.bias"] = w, b
    return {k: v.detach().to(torch.float64).numpy().astype(np.float32) for k, v in out.items()}


def rtn_codes(w, bits):
    """Codes of a tensor [..., d_out] with one scale per index of the last axis, in f32."""
    w = np.asarray(w, np.float32)
    qmax = np.float32(2 ** (bits - 1) - 1)
    scale = np.abs(w).max(axis=tuple(range(w.ndim - 1)), keepdims=True) / qmax
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.clip(np.rint(w / scale), -qmax - 1, qmax).astype(np.int8)


def codes(model, c, bits):
    """modules() of a model whose matrices in blocks are their codes."""
    state = model.state_dict()
    names = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_gate")
    for k, v in state.items():
        if k.startswith("blocks.") and k.split(".")[-1].lstrip("_") in names:
            state[k] = torch.from_numpy(rtn_codes(v.numpy(), bits).astype(np.float32))

    class Coded:
        def state_dict(self):
            return state
    out = modules(Coded(), c)
    return {k: v.astype(np.int8) for k, v in out.items() if k.endswith(".weight")}


def centred(reference, name, c, steps):
    """A binary64 value of the unprocessed model as the processed one has it."""
    x = reference[f"oracle.{name}"].astype(np.float64)
    norm = c.model_type in ("gpt2", "gpt_neox")
    if name == "logits" and "center_unembed" in steps and not getattr(
            c, "final_logit_softcapping", None):
        x = x - x.mean(-1, keepdims=True)
    if name.startswith("resid") and "center_writing_weights" in steps and norm:
        x = x - x.mean(-1, keepdims=True)
    return x


def run(model, ids, layers):
    hooks = [f"blocks.{n}.hook_resid_post" for n in range(layers)]
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor(ids.tolist()), names_filter=hooks)
    out = {f"resid.{n}": cache[h].numpy() for n, h in enumerate(hooks)}
    out["logits"] = logits.numpy()
    logp = torch.log_softmax(logits[:, :-1].double(), -1)
    out["nll"] = -logp.gather(2, torch.tensor(ids.tolist())[:, 1:, None]).squeeze(2).numpy()
    return out


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def main():
    folder = output_folder("process")
    tensors, report = {}, {"versions": versions("torch", "transformers", "transformer-lens")}
    for name in MODELS:
        model, c = hooked(DATA / "models" / name, STEPS)
        reference = load(DATA / "models" / name / "reference.safetensors")
        own = modules(model, c)
        for k, v in own.items():
            if not k.endswith(".weight") or k.startswith("1."):
                tensors[f"{name}/{k}"] = v
        for k, v in codes(model, c, 6).items():
            tensors[f"codes/{name}/{k}"] = v
        out = run(model, reference["ids"], c.num_hidden_layers)
        report[name] = {
            k: rms(v - centred(reference, k, c, STEPS)) for k, v in sorted(out.items())
        }
        print(name, report[name], {k: rms(reference[f"oracle.{k}"]) for k in ("logits", "nll")})
    save(pathlib.Path(folder) / "process.safetensors", tensors)
    save_json(pathlib.Path(folder) / "process.json", report)


if __name__ == "__main__":
    main()
