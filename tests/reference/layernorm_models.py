# SPDX-License-Identifier: BSD-2-Clause
"""Tiny random GPT-NeoX and GPT-2 models with the results transformers gives for them.

Files, tensors and reports are those of models.py.
"""

import sys

import models
from common import folder_size, output_folder, save, save_json, versions
from models import STORAGE, compare, rewrite, torch, worst

import contextlib
import json
import shutil

from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.gpt_neox import modeling_gpt_neox


def neox(**keys):
    base = dict(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    )
    return GPTNeoXConfig(**{**base, **keys})


def gpt2(**keys):
    base = dict(vocab_size=64, n_embd=24, n_layer=2, n_head=3, n_positions=24)
    return GPT2Config(**{**base, **keys})


# As in models.py; outlier: a column of the residual stream made this much larger.
MODELS = {
    "neox_parallel": dict(
        config=neox(),
        tokens=20,
        outlier=12.0,
        json={
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "vocab_size": 64,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "hidden_act": "gelu",
            "max_position_embeddings": 64,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "layer_norm_eps": 1e-05,
            "torch_dtype": "float16",
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
        },
        dtype="f16",
    ),
    "neox_sequential": dict(
        config=neox(
            hidden_size=20,
            num_attention_heads=5,
            use_parallel_residual=False,
            attention_bias=False,
            rope_parameters={"rope_theta": 500.0, "partial_rotary_factor": 1.0},
        ),
        tokens=16,
        outlier=5.0,
    ),
    "neox_tied": dict(
        config=neox(
            num_attention_heads=2,
            tie_word_embeddings=True,
            hidden_act="gelu_new",
            layer_norm_eps=1e-3,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.6},
        ),
        tokens=16,
    ),
    "gpt2_small": dict(config=gpt2(), tokens=24, outlier=12.0),
    "gpt2_layers": dict(
        config=gpt2(
            n_embd=20,
            n_positions=160,
            n_head=4,
            n_inner=28,
            activation_function="gelu",
            scale_attn_by_inverse_layer_idx=True,
            layer_norm_epsilon=1e-3,
            tie_word_embeddings=False,
        ),
        tokens=16,
        dtype="f16",
    ),
}


def fill(model, plan, seed):
    """Weights large enough that attention is peaked and logits spread over several nats."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=gen)
        with torch.no_grad():
            if name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif p.ndim == 1:
                p.copy_(1.0 + 0.3 * noise)
            elif "embed_in" in name or "wte" in name or "wpe" in name:
                tied = model.config.tie_word_embeddings
                p.copy_((3.0 / p.shape[1] ** 0.5 if tied else 1.0) * noise)
            elif "lm_head" in name:
                p.copy_(3.0 / p.shape[1] ** 0.5 * noise)
            else:
                fan = p.shape[0] if model.config.model_type == "gpt2" else p.shape[1]
                gain = 2.0 if "query_key_value" in name or "c_attn" in name else 1.3
                p.copy_(gain / fan**0.5 * noise)
            if "outlier" in plan and p.shape[-1] == model.config.hidden_size:
                if "embed_in" in name or "wte" in name:
                    p[:, 7] *= plan["outlier"]


def body(model):
    return model.gpt_neox if hasattr(model, "gpt_neox") else model.transformer


def parts(model):
    """Blocks, final norm, tables with one row per token or position."""
    b = body(model)
    if hasattr(model, "gpt_neox"):
        return b.layers, b.final_layer_norm, [b.embed_in]
    return b.h, b.ln_f, [b.wte, b.wpe]


def run(model, ids):
    blocks, norm, _ = parts(model)
    out, hooks = {}, []

    def keep(name, value):
        out[name] = (value[0] if isinstance(value, tuple) else value).detach().clone()

    hooks.append(
        blocks[0].register_forward_pre_hook(
            lambda m, a, k: keep("embed", a[0] if a else k["hidden_states"]), with_kwargs=True
        )
    )
    for i, block in enumerate(blocks):
        hooks.append(block.register_forward_hook(lambda m, a, o, i=i: keep(f"resid.{i}", o)))
    hooks.append(norm.register_forward_hook(lambda m, a, o: keep("final_norm", o)))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    out["logits"] = logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    logp = torch.log_softmax(wide[:, :-1], dim=-1)
    out["nll"] = -logp.gather(2, ids[:, 1:, None]).squeeze(2)
    return out


@contextlib.contextmanager
def binary64():
    """GPT-NeoX casts its softmax to fp32; everything else keeps binary64, on fp32 rotary tables."""

    def attention(module, query, key, value, attention_mask, scaling=None, **unused):
        p = torch.softmax(query @ key.transpose(2, 3) * scaling + attention_mask, dim=-1)
        return (p @ value).transpose(1, 2).contiguous(), p

    saved = modeling_gpt_neox.eager_attention_forward
    modeling_gpt_neox.eager_attention_forward = attention
    try:
        yield
    finally:
        modeling_gpt_neox.eager_attention_forward = saved


def reorder(model, seed):
    """Permute hidden channels, MLP neurons and value channels: the same function, other sums."""
    gen = torch.Generator().manual_seed(seed)
    config = model.config
    blocks, norm, tables = parts(model)
    width, heads = config.hidden_size, config.num_attention_heads
    conv, h = config.model_type == "gpt2", width // heads
    d = torch.randperm(width, generator=gen)

    def take(parameter, index, axis):
        if parameter is not None:
            parameter.data = parameter.data.index_select(axis, index)

    def outputs(linear, index):
        take(linear.weight, index, 1 if conv else 0)
        take(linear.bias, index, 0)

    def inputs(linear, index):
        take(linear.weight, index, 0 if conv else 1)

    for module in body(model).modules():
        if isinstance(module, torch.nn.LayerNorm):
            take(module.weight, d, 0)
            take(module.bias, d, 0)
    for table in tables:
        take(table.weight, d, 1)
    if model.lm_head.weight is not tables[0].weight:
        take(model.lm_head.weight, d, 1)
    for block in blocks:
        if conv:
            qkv, out = block.attn.c_attn, block.attn.c_proj
            up, down = block.mlp.c_fc, block.mlp.c_proj
        else:
            qkv, out = block.attention.query_key_value, block.attention.dense
            up, down = block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h
        inputs(qkv, d)
        inputs(up, d)
        outputs(out, d)
        outputs(down, d)
        f = torch.randperm(down.weight.shape[0 if conv else 1], generator=gen)
        outputs(up, f)
        inputs(down, f)
        inner = torch.stack([torch.randperm(h, generator=gen) for _ in range(heads)])
        flat = (torch.arange(heads)[:, None] * h + inner).reshape(-1)
        rows = torch.arange(3 * width)
        if conv:
            rows[2 * width :] = 2 * width + flat
        else:
            rows.view(heads, 3, h)[:, 2] = torch.arange(heads)[:, None] * 3 * h + 2 * h + inner
        outputs(qkv, rows)
        inputs(out, flat)
    return torch.argsort(d)


def reordered_run(model, ids, back):
    out = run(model, ids)
    return {k: v if k in ("logits", "nll") else v[..., back] for k, v in out.items()}


def build(folder, name, seed):
    plan = MODELS[name]
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    cls = GPT2LMHeadModel if plan["config"].model_type == "gpt2" else GPTNeoXForCausalLM
    model = cls(plan["config"])
    fill(model, plan, seed)
    model.to(STORAGE[plan.get("dtype", "f32")]).save_pretrained(target)
    (target / "generation_config.json").unlink(missing_ok=True)
    config = plan.get("json") or json.loads((target / "config.json").read_text())
    config.pop("transformers_version", None)
    save_json(target / "config.json", config)
    rewrite(target / "model.safetensors", None)
    return cls, target


def reference(cls, target, plan, seed):
    gen = torch.Generator().manual_seed(seed + 2000)
    ids = torch.randint(0, plan["config"].vocab_size, (2, plan["tokens"]), generator=gen)
    tensors = {"ids": ids.to(torch.int32)}
    report = {"versions": versions("torch", "transformers"), "tokens": plan["tokens"]}

    def model(dtype, attention):
        m, info = cls.from_pretrained(
            target, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
        assert not any(info.values()), info
        return m.eval()

    with binary64():
        oracle = run(model(torch.float32, "eager").double(), ids)
        m = model(torch.float32, "eager").double()
        moved = compare(reordered_run(m, ids, reorder(m, 1)), oracle)
    assert all(v["rel"] < 1e-12 for v in moved.values()), moved
    tensors |= {f"oracle.{k}": v for k, v in oracle.items() if k not in ("embed", "final_norm")}
    report["f32_error"] = {
        a: compare(run(model(torch.float32, a), ids), oracle) for a in ("sdpa", "eager")
    }
    report["bf16_spread"], report["bf16_reordered"], report["bf16_error"], base = {}, {}, {}, {}
    for attention in ("sdpa", "eager"):
        m = model(torch.bfloat16, attention)
        base[attention] = run(m, ids)
        others = []
        for threads in (1, 2):
            for library in (True, False):
                torch.set_num_threads(threads)
                with torch.backends.mkldnn.flags(enabled=library):
                    others.append(run(m, ids))
        torch.set_num_threads(1)
        pairs = [compare(a, b) for i, a in enumerate(others) for b in others[:i]]
        report["bf16_spread"][attention] = worst(pairs)
        report["bf16_error"][attention] = compare(base[attention], oracle)
        others = [base[attention]]
        for order in range(8):
            m = model(torch.bfloat16, attention)
            others.append(reordered_run(m, ids, reorder(m, order)))
        pairs = [compare(a, b) for i, a in enumerate(others) for b in others[:i]]
        report["bf16_reordered"][attention] = worst(pairs)
        for name in ("logits", "nll"):
            tensors[f"bf16.{attention}.{name}"] = base[attention][name]
    report["bf16_sdpa_eager"] = compare(base["sdpa"], base["eager"])
    save(target / "reference.safetensors", tensors, {"content": "see tests/data/README.md"})
    save_json(target / "reference.json", report)
    return report


def main():
    folder = output_folder("models")
    for seed, (name, plan) in enumerate(MODELS.items()):
        cls, target = build(folder, name, seed + 50)
        report = reference(cls, target, plan, seed + 50)
        print(
            f"{name}: {folder_size(target) / 1e3:.0f} kB, logits relative: f32 "
            f"{report['f32_error']['sdpa']['logits']['rel']:.1e}, bf16 "
            f"{report['bf16_error']['sdpa']['logits']['rel']:.1e}, reordered "
            f"{report['bf16_reordered']['sdpa']['logits']['rel']:.1e}, eager-sdpa "
            f"{report['bf16_sdpa_eager']['logits']['rel']:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
