# SPDX-License-Identifier: BSD-2-Clause
"""Tiny random Gemma 4 models (text) with the results transformers gives for them.

Files, tensors and reports are those of models.py, as far as tests/model/reference.c reads them.
"""

import sys

from common import folder_size, output_folder, save, save_json, versions
from models import STORAGE, compare, needed, rewrite, run, text_model, torch, trim, worst

import contextlib
import json
import shutil

from transformers import Gemma4Config, Gemma4ForCausalLM, Gemma4ForConditionalGeneration
from transformers import Gemma4TextConfig
from transformers.models.gemma4 import modeling_gemma4
from transformers.models.llama.modeling_llama import repeat_kv

S, F = "sliding_attention", "full_attention"


def gemma4(**keys):
    base = dict(
        vocab_size=32,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=4,
        global_head_dim=8,
        sliding_window=6,
        max_position_embeddings=64,
        layer_types=[S, F],
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=32,
    )
    return Gemma4TextConfig(**{**base, **keys})


# torch's grouped product wants rows of whole 16 bytes.
MOE = dict(
    hidden_size=16,
    enable_moe_block=True,
    num_experts=5,
    top_k_experts=2,
    moe_intermediate_size=8,
)

# As in models.py; flat: keys of config.json as published files have them. No seed gives two experts
# the same probability where one of them is chosen: torch has no rule for that.
MODELS = {
    # An odd width; one of the four pairs of a full layer's head rotates.
    "gemma4_dense": dict(
        config=gemma4(
            hidden_size=13,
            num_hidden_layers=3,
            layer_types=[F, S, F],
            final_logit_softcapping=4.0,
            rope_parameters={
                S: {"rope_type": "default", "rope_theta": 500.0},
                F: {
                    "rope_type": "proportional",
                    "rope_theta": 5000.0,
                    "partial_rotary_factor": 0.4,
                    "factor": 2.0,
                },
            },
        ),
        tokens=14,
    ),
    "gemma4_keys": dict(
        config=gemma4(
            num_attention_heads=6,
            num_key_value_heads=2,
            num_global_key_value_heads=3,
            attention_k_eq_v=True,
            attention_bias=True,
            tie_word_embeddings=False,
        ),
        flat=dict(global_head_dim=8, num_global_key_value_heads=3),
        tokens=14,
    ),
    "gemma4_shared": dict(
        config=gemma4(
            num_hidden_layers=5,
            layer_types=[F, S, F, S, F],
            num_kv_shared_layers=3,
            use_double_wide_mlp=True,
            hidden_size_per_layer_input=6,
            final_logit_softcapping=30.0,
        ),
        tokens=14,
        dtype="bf16",
        outliers=True,
    ),
    "gemma4_experts": dict(config=gemma4(**MOE), tokens=14, dtype="bf16"),
    "gemma4_wrapper": dict(
        config=gemma4(
            num_hidden_layers=3,
            layer_types=[S, F, F],
            attention_k_eq_v=True,
            num_kv_shared_layers=1,
            hidden_size_per_layer_input=4,
            vocab_size=64,
            vocab_size_per_layer_input=70,
            **MOE,
        ),
        tokens=14,
        dtype="bf16",
        wrapper=True,
        seed=86,
    ),
}


def fill(model, plan, seed):
    """Weights large enough that attention, experts and logits are spread, no norm's is 1."""
    gen = torch.Generator().manual_seed(seed)
    state = [*model.named_parameters(), *model.named_buffers()]
    for name, p in sorted(state, key=lambda x: x[0]):
        if "rotary" in name or "embed_scale" in name:
            continue
        noise = torch.randn(p.shape, generator=gen)
        with torch.no_grad():
            if name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif "q_norm" in name or "k_norm" in name:
                p.copy_(0.7 + 0.3 * noise)
            elif p.ndim == 1:
                p.copy_(1.0 + 0.3 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                p.copy_(3.0 / p.shape[1] ** 0.5 * noise)
            elif "router" in name:
                p.copy_(1.5 * noise)
            else:
                p.copy_(1.3 / p.shape[-1] ** 0.5 * noise)
            if plan.get("outliers") and name.endswith(("embed_tokens.weight", "o_proj.weight")):
                (p[:, 3] if "embed" in name else p[3]).mul_(4)


@contextlib.contextmanager
def binary64():
    """The model code casts norms, the router's and attention's softmax to fp32; here it does not.

    The rotary tables stay what they are, fp32 numbers widened.
    """

    def norm(self, x):
        y = x * (x.pow(2).mean(-1, keepdim=True) + self.eps).pow(-0.5)
        return y * self.weight if self.with_scale else y

    def router(self, x):
        scores = self.proj(self.norm(x) * self.scale * self.scalar_root_size)
        p = torch.softmax(scores, dim=-1)
        weights, index = torch.topk(p, k=self.config.top_k_experts, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return p, weights * self.per_expert_scale[index], index

    def attention(module, query, key, value, attention_mask, scaling=None, **unused):
        key, value = (repeat_kv(t, module.num_key_value_groups) for t in (key, value))
        p = torch.softmax(query @ key.transpose(2, 3) * scaling + attention_mask, dim=-1)
        return (p @ value).transpose(1, 2).contiguous(), p

    changes = [
        (modeling_gemma4.Gemma4RMSNorm, "forward", norm),
        (modeling_gemma4.Gemma4TextRouter, "forward", router),
        (modeling_gemma4, "eager_attention_forward", attention),
    ]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, function in changes:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for owner, name, function in saved:
            setattr(owner, name, function)


def reorder(model, seed):
    """Permute hidden channels, neurons and value channels: the same function, other sums."""
    gen = torch.Generator().manual_seed(seed)
    body, config = text_model(model), model.config.get_text_config()
    d = torch.randperm(config.hidden_size, generator=gen)

    def take(parameter, index, axis):
        if parameter is not None:
            parameter.data = parameter.data.index_select(axis, index)

    for name, p in [*body.named_parameters()]:
        if "norm" in name and not any(x in name for x in ("q_norm", "k_norm", "per_layer_proj")):
            take(p, d, 0)
    take(body.embed_tokens.weight, d, 1)
    if model.lm_head.weight is not body.embed_tokens.weight:
        take(model.lm_head.weight, d, 1)
    if config.hidden_size_per_layer_input:
        take(body.per_layer_model_projection.weight, d, 1)
    inner = {}
    for i, layer in enumerate(body.layers):
        attn, mlp, kind = layer.self_attn, layer.mlp, config.layer_types[i]
        shared = attn.is_kv_shared_layer
        v_proj = None if shared else attn.v_proj
        reads = [attn.q_proj, mlp.gate_proj, mlp.up_proj]
        reads += [] if shared else [attn.k_proj]
        reads += [v_proj] if v_proj is not None else []
        writes = [attn.o_proj, mlp.down_proj]
        if config.hidden_size_per_layer_input:
            reads.append(layer.per_layer_input_gate)
            writes.append(layer.per_layer_projection)
        if config.enable_moe_block:
            reads.append(layer.router.proj)
            take(layer.router.scale, d, 0)
            take(layer.experts.gate_up_proj, d, 2)
            take(layer.experts.down_proj, d, 1)
            g = torch.randperm(config.moe_intermediate_size, generator=gen)
            both = torch.cat([g, g + config.moe_intermediate_size])
            take(layer.experts.gate_up_proj, both, 1)
            take(layer.experts.down_proj, g, 2)
        for linear in reads:
            take(linear.weight, d, 1)
        for linear in writes:
            take(linear.weight, d, 0)
            take(linear.bias, d, 0)
        f = torch.randperm(mlp.down_proj.weight.shape[1], generator=gen)
        for linear in (mlp.gate_proj, mlp.up_proj):
            take(linear.weight, f, 0)
        take(mlp.down_proj.weight, f, 1)
        h, heads = attn.head_dim, config.num_attention_heads
        kv = heads // attn.num_key_value_groups
        if not shared:  # values that are keys stay in their order, which rotation needs
            order = torch.stack([torch.randperm(h, generator=gen) for _ in range(kv)])
            inner[kind] = order if v_proj is not None else torch.arange(h).expand(kv, h)
        if v_proj is not None:
            rows = (torch.arange(kv)[:, None] * h + inner[kind]).reshape(-1)
            take(v_proj.weight, rows, 0)
            take(v_proj.bias, rows, 0)
        spread = inner[kind].repeat_interleave(heads // kv, 0)
        take(attn.o_proj.weight, (torch.arange(heads)[:, None] * h + spread).reshape(-1), 1)
    return torch.argsort(d)


def reordered_run(model, ids, back):
    out = run(model, ids)
    return {k: v if k in ("logits", "nll") else v[..., back] for k, v in out.items()}


def build(target, plan, seed):
    shutil.rmtree(target, ignore_errors=True)
    if plan.get("wrapper"):
        config = Gemma4Config(text_config=plan["config"], vision_config=None, audio_config=None)
        cls = Gemma4ForConditionalGeneration
    else:
        config, cls = plan["config"], Gemma4ForCausalLM
    model = cls(config)
    fill(model, plan, seed)
    model.to(STORAGE[plan.get("dtype", "f32")]).save_pretrained(target)
    (target / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((target / "config.json").read_text())
    config.pop("transformers_version", None)
    if "flat" in plan:
        config.pop("per_layer_config")
        config |= plan["flat"]
    save_json(target / "config.json", config)
    rewrite(target / "model.safetensors", None)
    return cls


def loader(cls, target):
    def model(dtype, attention, experts="grouped_mm"):
        m, info = cls.from_pretrained(
            target,
            dtype=dtype,
            attn_implementation=attention,
            experts_implementation=experts,
            output_loading_info=True,
        )
        assert not any(info.values()), info
        return m.eval()

    return model


def reference(cls, target, plan, seed):
    """Tensors and report of a checkpoint."""
    gen = torch.Generator().manual_seed(seed + 3000)
    ids = torch.randint(3, plan["config"].vocab_size, (2, plan["tokens"]), generator=gen)
    tensors = {"ids": ids.to(torch.int32)}
    report = {"versions": versions("torch", "transformers"), "tokens": plan["tokens"]}
    model = loader(cls, target)
    with binary64():
        oracle = run(model(torch.float32, "eager", "eager").double(), ids)
        m = model(torch.float32, "eager", "eager").double()
        moved = compare(reordered_run(m, ids, reorder(m, 1)), oracle)
    assert all(v["rel"] < 1e-12 for v in moved.values()), moved
    tensors |= {f"oracle.{k}": v for k, v in oracle.items()}
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
        tensors |= {f"bf16.{attention}.{k}": v for k, v in base[attention].items()}
    report["bf16_sdpa_eager"] = compare(base["sdpa"], base["eager"])
    return tensors, report


def main():
    folder = output_folder("models")
    for number, (name, plan) in enumerate(MODELS.items(), 70):
        seed = plan.get("seed", number)
        target = folder / name
        tensors, report = reference(build(target, plan, seed), target, plan, seed)
        tensors = {k: v for k, v in tensors.items() if needed(k)}
        report = {k: trim(v) if k.startswith(("f32", "bf16")) else v for k, v in report.items()}
        save(target / "reference.safetensors", tensors, {"content": "see tests/data/README.md"})
        save_json(target / "reference.json", report)
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
