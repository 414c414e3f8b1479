# SPDX-License-Identifier: BSD-2-Clause
"""Tiny random models with the results transformers gives for them.

Per model: the checkpoint, token ids, a binary64 oracle, fp32 runs with their distance from it, and
bf16 runs with the distances between runs that differ only in threads and matrix library.
"""

from common import folder_size, one_thread, output_folder, save, save_json, versions

torch = one_thread()

import contextlib
import json
import os
import shutil
import warnings

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
warnings.filterwarnings("ignore")

import transformers
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
from transformers import MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen3 import modeling_qwen3

transformers.utils.logging.disable_progress_bar()

TINY_VISION = dict(
    model_type="siglip_vision_model",
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    image_size=8,
    patch_size=4,
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def llama(**keys):
    base = dict(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
    )
    return LlamaConfig(**{**base, **keys})


def gemma(**keys):
    base = dict(
        vocab_size=128,
        hidden_size=40,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=20,
        sliding_window=8,
        max_position_embeddings=64,
    )
    return Gemma3TextConfig(**{**base, **keys})


def qwen3(**keys):
    base = dict(
        vocab_size=48,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    return Qwen3Config(**{**base, **keys})


def mistral(**keys):
    base = dict(
        vocab_size=48,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        sliding_window=6,
    )
    return MistralConfig(**{**base, **keys})


def gemma2(**keys):
    base = dict(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=20,
        sliding_window=8,
        max_position_embeddings=64,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=4.0,
    )
    return Gemma2Config(**{**base, **keys})


# config: how the model is built. json: replaces the written config.json, for the older spellings.
# rename: prefix pairs applied to tensor names. dtype: storage type. shard: bytes per shard.
# outliers: two columns of the residual stream are ten times larger. seed: instead of the number in
# this table. compact: store and report only what tests/model/reference.c reads.
MODELS = {
    "llama_gqa": dict(config=llama(), tokens=24),
    "llama_bias": dict(
        config=llama(
            hidden_size=36,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=16,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
        ),
        tokens=24,
    ),
    "llama_rope3": dict(
        config=llama(
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            rope_parameters={"rope_theta": 500000.0, **LLAMA3},
        ),
        tokens=32,
        json={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "rope_scaling": LLAMA3,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    ),
    "llama_linear": dict(
        config=llama(
            num_hidden_layers=2,
            num_key_value_heads=4,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        ),
        tokens=24,
        json={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": None,
            "rope_scaling": {"type": "linear", "factor": 4.0},
            "unknown_key": [1, {"a": None}],
        },
    ),
    "gemma3_types": dict(
        config=gemma(
            layer_types=[
                "sliding_attention",
                "full_attention",
                "full_attention",
                "sliding_attention",
            ],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        tokens=32,
    ),
    "gemma3_pattern": dict(
        config=gemma(
            num_key_value_heads=1,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
            layer_types=[
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
            ],
        ),
        tokens=32,
        json={
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "vocab_size": 128,
            "hidden_size": 40,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 20,
            "sliding_window": 8,
            "sliding_window_pattern": 3,
            "rope_theta": 50000.0,
            "rope_local_base_freq": 500.0,
            "rope_scaling": {"factor": 4.0, "rope_type": "linear"},
            "max_position_embeddings": 64,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "torch_dtype": "float32",
        },
    ),
    "gemma3_cap": dict(
        config=gemma(
            hidden_size=24,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=40,
            num_hidden_layers=2,
            final_logit_softcapping=5.0,
            attention_bias=True,
            tie_word_embeddings=False,
            layer_types=["full_attention", "sliding_attention"],
        ),
        tokens=24,
    ),
    # Head counts and widths are not in this text_config: their defaults are 8, 4 and 256.
    "gemma3_wrapper": dict(
        config=Gemma3TextConfig(
            vocab_size=96,
            hidden_size=8,
            intermediate_size=24,
            num_hidden_layers=2,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        tokens=24,
        dtype="bf16",
        wrapper="language_model.model.",
        json={
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "mm_tokens_per_image": 4,
            "image_token_index": 90,
            "torch_dtype": "bfloat16",
            "text_config": {
                "hidden_size": 8,
                "intermediate_size": 24,
                "model_type": "gemma3_text",
                "num_hidden_layers": 2,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 8,
                "sliding_window_pattern": 2,
                "vocab_size": 96,
            },
            "vision_config": {
                "hidden_size": 8,
                "intermediate_size": 8,
                "model_type": "siglip_vision_model",
                "num_attention_heads": 1,
                "num_hidden_layers": 1,
                "patch_size": 4,
                "image_size": 8,
            },
        },
    ),
    "gemma3_wrapper_new": dict(
        config=gemma(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]),
        tokens=24,
        dtype="bf16",
        wrapper="model.language_model.",
    ),
    "gemma3_sharded": dict(
        config=gemma(
            hidden_size=24,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=12,
            intermediate_size=40,
            num_hidden_layers=7,
            query_pre_attn_scalar=12,
        ),
        tokens=24,
        dtype="f16",
        shard="30KB",
    ),
    # Three heads of 10 on a width of 23; layers from max_window_layers on slide; biases.
    "qwen3_windows": dict(
        config=qwen3(
            hidden_size=23,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=10,
            num_hidden_layers=3,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=6,
            max_window_layers=1,
        ),
        tokens=20,
        seed=40,
        outliers=True,
        compact=True,
    ),
    # As published files say it: flat rope keys, a window that is not used.
    "qwen3_flat": dict(
        config=qwen3(
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
        ),
        tokens=16,
        seed=41,
        dtype="bf16",
        compact=True,
        json={
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 3,
            "eos_token_id": 4,
            "head_dim": 16,
            "hidden_act": "silu",
            "hidden_size": 24,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
            "max_window_layers": 1,
            "model_type": "qwen3",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "rope_theta": 50000.0,
            "sliding_window": 4,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_sliding_window": False,
            "vocab_size": 48,
        },
    ),
    "mistral_window": dict(
        config=mistral(head_dim=12), tokens=20, seed=42, outliers=True, compact=True
    ),
    # No window; head_dim and num_key_value_heads by default; attention_bias has no effect.
    "mistral_full": dict(
        config=mistral(
            hidden_size=32,
            num_attention_heads=8,
            num_key_value_heads=8,
            sliding_window=None,
            tie_word_embeddings=True,
            rope_parameters={"rope_theta": 500000.0, **LLAMA3},
        ),
        tokens=24,
        seed=43,
        dtype="f16",
        compact=True,
        json={
            "architectures": ["MistralForCausalLM"],
            "attention_bias": True,
            "hidden_size": 32,
            "intermediate_size": 32,
            "model_type": "mistral",
            "num_attention_heads": 8,
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-05,
            "rope_scaling": LLAMA3,
            "rope_theta": 500000.0,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "vocab_size": 48,
        },
    ),
    "gemma2_cap": dict(config=gemma2(), tokens=20, seed=100),
    "gemma2_types": dict(
        config=gemma2(
            hidden_size=30,
            num_attention_heads=5,
            num_key_value_heads=5,
            num_hidden_layers=2,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=None,
            attention_bias=True,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
            layer_types=["full_attention", "sliding_attention"],
        ),
        tokens=20,
        dtype="bf16",
        seed=101,
    ),
    # Caps, scale and layers are not in this file: their defaults are those of the 2B model.
    "gemma2_old": dict(
        config=gemma2(
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            query_pre_attn_scalar=256,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        ),
        tokens=20,
        seed=102,
        json={
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "head_dim": 8,
            "hidden_act": "silu",
            "hidden_size": 24,
            "intermediate_size": 40,
            "max_position_embeddings": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rope_theta": 500.0,
            "sliding_window": 8,
            "torch_dtype": "float32",
            "vocab_size": 64,
        },
    ),
}
CLASSES = {
    "llama": LlamaForCausalLM,
    "gemma2": Gemma2ForCausalLM,
    "gemma3_text": Gemma3ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "mistral": MistralForCausalLM,
}
KEPT = ("embed", "resid", "final_norm", "logits", "nll")
STORAGE = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def fill(model, seed):
    """Weights large enough that attention is peaked and logits spread over several nats."""
    gen = torch.Generator().manual_seed(seed)
    gemma_like = "Gemma" in type(model).__name__
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=gen)
        with torch.no_grad():
            if name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif "q_norm" in name or "k_norm" in name:
                p.copy_(0.5 + 0.3 * noise)
            elif "norm" in name:
                p.copy_((0.0 if gemma_like else 1.0) + 0.3 * noise)
            elif "embed_tokens" in name:
                tied = model.config.get_text_config().tie_word_embeddings
                p.copy_((3.0 / p.shape[1] ** 0.5 if tied or gemma_like else 1.0) * noise)
            elif "lm_head" in name:
                p.copy_(3.0 / p.shape[1] ** 0.5 * noise)
            elif "language_model" not in name and "model.layers" not in name:
                p.copy_(0.1 * noise)  # parts a text model skips
            else:
                gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.3
                p.copy_(gain / p.shape[-1] ** 0.5 * noise)


def add_outliers(model):
    """Columns that everything writes to ten times as large; norms before products keep them."""
    with torch.no_grad():
        for column in (1, model.config.hidden_size - 2):
            model.model.embed_tokens.weight[:, column] *= 10
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[column] *= 10
                layer.mlp.down_proj.weight[column] *= 10


def build(folder, name, seed):
    plan = MODELS[name]
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    config = plan["config"]
    if "wrapper" in plan:
        config = Gemma3Config(
            text_config=config,
            vision_config=TINY_VISION,
            mm_tokens_per_image=4,
            image_token_index=90,
            boi_token_index=91,
            eoi_token_index=92,
        )
        cls = Gemma3ForConditionalGeneration
    else:
        cls = CLASSES[config.model_type]
    model = cls(config)
    fill(model, seed)
    if plan.get("outliers"):
        add_outliers(model)
    model = model.to(STORAGE[plan.get("dtype", "f32")])
    model.save_pretrained(target, max_shard_size=plan.get("shard", "1GB"))
    (target / "generation_config.json").unlink(missing_ok=True)
    if "json" in plan:
        save_json(target / "config.json", plan["json"])
    for path in sorted(target.glob("*.safetensors")):
        # Written again with sorted keys: the usual writer's order is not reproducible.
        rewrite(path, plan.get("wrapper"))
    for path in target.glob("*.json"):
        text = json.loads(path.read_text())
        if "weight_map" in text:
            text["weight_map"] = dict(sorted(text["weight_map"].items()))
        text.pop("transformers_version", None)
        save_json(path, text)
    return cls, target


def rewrite(path, prefix):
    from safetensors.torch import load_file

    tensors = load_file(path)
    if prefix:
        tensors = {new_name(key, prefix): value for key, value in tensors.items()}
    save(path, tensors, {"format": "pt"})


def new_name(key, prefix):
    """Published wrappers say language_model.model., newer saves model.language_model."""
    for old in ("model.language_model.", "language_model.model."):
        if key.startswith(old):
            return prefix + key[len(old) :]
    key = key.removeprefix("model.")
    return key if prefix.startswith("language_model") else "model." + key


def text_model(model):
    body = model.model
    return body.language_model if hasattr(body, "language_model") else body


def run(model, ids, taps=None):
    """Embedding, raw block outputs, final norm, logits, nll; `taps`: sub-results of one layer."""
    body, out, hooks = text_model(model), {}, []

    def keep(name, value):
        out[name] = (value[0] if isinstance(value, tuple) else value).detach().clone()

    hooks.append(
        body.layers[0].register_forward_pre_hook(
            lambda m, a, k: keep("embed", a[0] if a else k["hidden_states"]), with_kwargs=True
        )
    )
    for i, layer in enumerate(body.layers):
        hooks.append(layer.register_forward_hook(lambda m, a, o, i=i: keep(f"resid.{i}", o)))
    hooks.append(body.norm.register_forward_hook(lambda m, a, o: keep("final_norm", o)))
    if taps is not None:
        layer = body.layers[taps]
        gemma_like = hasattr(layer, "pre_feedforward_layernorm")
        attn_out = layer.post_attention_layernorm if gemma_like else layer.self_attn.o_proj
        mlp_out = layer.post_feedforward_layernorm if gemma_like else layer.mlp.down_proj
        middle = layer.pre_feedforward_layernorm if gemma_like else layer.post_attention_layernorm
        for name, module, side in (
            ("z", layer.self_attn.o_proj, 0),
            ("attn_out", attn_out, 1),
            ("resid_mid", middle, 0),
            ("mlp_in", middle, 1),
            ("mlp_out", mlp_out, 1),
            ("mlp_act", layer.mlp.down_proj, 0),
        ):
            hooks.append(
                module.register_forward_hook(
                    lambda m, a, o, n=name, s=side: keep(f"{n}.{taps}", o if s else a[0])
                )
            )
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
    """Make the model code keep binary64: norms and softmax cast to fp32 otherwise.

    The rotary tables stay what they are, fp32 numbers widened.
    """

    def gemma_norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight)

    def llama_norm(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (x * scale)

    def attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **unused):
        groups = module.num_key_value_groups
        key, value = (modeling_llama.repeat_kv(t, groups) for t in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        p = torch.softmax(scores + attention_mask, dim=-1)
        return (p @ value).transpose(1, 2).contiguous(), p

    changes = [
        (norm, "forward", gemma_norm)
        for norm in (modeling_gemma2.Gemma2RMSNorm, modeling_gemma3.Gemma3RMSNorm)
    ]
    changes += [
        (norm, "forward", llama_norm)
        for norm in (
            modeling_llama.LlamaRMSNorm,
            modeling_qwen3.Qwen3RMSNorm,
            modeling_mistral.MistralRMSNorm,
        )
    ]
    changes += [
        (module, "eager_attention_forward", attention)
        for module in (
            modeling_gemma2,
            modeling_gemma3,
            modeling_llama,
            modeling_qwen3,
            modeling_mistral,
        )
    ]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, function in changes:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for owner, name, function in saved:
            setattr(owner, name, function)


@contextlib.contextmanager
def online_cap():
    """Gemma 2 with capped scores in PyTorch's CPU flash kernel, which itself has no cap.

    transformers runs this family in eager attention alone; what "sdpa" means for it here. The
    kernel takes the scores as its mask, in fp32, on top of products that are zero.
    """

    def attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **unused):
        groups = module.num_key_value_groups
        key, value = (modeling_llama.repeat_kv(t, groups) for t in (key, value))
        scores = query.float() @ key.float().transpose(2, 3) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(attention_mask != 0, -torch.inf)
        sdpa = torch.nn.functional.scaled_dot_product_attention
        out = sdpa(torch.zeros_like(query), key, value, attn_mask=scores)
        return out.transpose(1, 2).contiguous(), None

    saved = modeling_gemma2.eager_attention_forward
    modeling_gemma2.eager_attention_forward = attention
    try:
        yield
    finally:
        modeling_gemma2.eager_attention_forward = saved


def distance(a, b):
    """max and rms of a - b, and rms relative to b."""
    a, b = a.double(), b.double()
    gap, size = a - b, float(b.pow(2).mean().sqrt())
    rms = float(gap.pow(2).mean().sqrt())
    return {
        "max": float("%.6g" % gap.abs().max()),
        "rms": float("%.6g" % rms),
        "rel": float("%.6g" % (rms / size if size else 0.0)),
    }


def compare(a, b):
    return {name: distance(a[name], b[name]) for name in b if name in a}


def worst(reports):
    names = reports[0]
    return {n: {k: max(r[n][k] for r in reports) for k in ("max", "rms", "rel")} for n in names}


def reorder(model, seed):
    """Permute hidden channels, MLP neurons and value channels: the same function, other sums.

    What this changes in a bf16 run is what any other summation order may change. Returns the order
    that puts hidden channels back.
    """
    gen = torch.Generator().manual_seed(seed)
    body, config = text_model(model), model.config.get_text_config()
    heads, kv, h = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    d = torch.randperm(config.hidden_size, generator=gen)

    def take(parameter, index, axis):
        if parameter is not None:
            parameter.data = parameter.data.index_select(axis, index)

    for module in [*body.modules()]:
        if hasattr(module, "weight") and module.weight.shape == (config.hidden_size,):
            take(module.weight, d, 0)
    take(body.embed_tokens.weight, d, 1)
    if model.lm_head.weight is not body.embed_tokens.weight:
        take(model.lm_head.weight, d, 1)
    for layer in body.layers:
        attn, mlp = layer.self_attn, layer.mlp
        for linear in (attn.q_proj, attn.k_proj, attn.v_proj, mlp.gate_proj, mlp.up_proj):
            take(linear.weight, d, 1)
        for linear in (attn.o_proj, mlp.down_proj):
            take(linear.weight, d, 0)
            take(linear.bias, d, 0)
        f = torch.randperm(config.intermediate_size, generator=gen)
        for linear in (mlp.gate_proj, mlp.up_proj):
            take(linear.weight, f, 0)
            take(linear.bias, f, 0)
        take(mlp.down_proj.weight, f, 1)
        inner = torch.stack([torch.randperm(h, generator=gen) for _ in range(kv)])
        rows = (torch.arange(kv)[:, None] * h + inner).reshape(-1)
        take(attn.v_proj.weight, rows, 0)
        take(attn.v_proj.bias, rows, 0)
        spread = inner.repeat_interleave(heads // kv, 0)
        take(attn.o_proj.weight, (torch.arange(heads)[:, None] * h + spread).reshape(-1), 1)
    return torch.argsort(d)


def reordered_run(model, ids, back):
    out = run(model, ids)
    return {k: v if k in ("logits", "nll") else v[..., back] for k, v in out.items()}


def needed(name):
    """Whether tests/model/reference.c reads a tensor."""
    result = name.endswith((".logits", ".nll"))
    return name == "ids" or name.startswith("oracle.resid.") or result and name[:4] != "f32."


def trim(report):
    """The same of a table of distances, which may be one per attention back end."""
    if "sdpa" in report:
        return {k: trim(v) for k, v in report.items()}
    return {k: v for k, v in report.items() if k in ("logits", "nll") or k.startswith("resid.")}


def reference(cls, target, plan, seed):
    gen = torch.Generator().manual_seed(seed + 1000)
    config = plan["config"]
    ids = torch.randint(3, config.vocab_size, (2, plan["tokens"]), generator=gen)
    if "wrapper" in plan:
        ids[(ids >= 90) & (ids <= 92)] = 5  # image ids would ask for an image
    ids[:, 0] = 2
    tap = 1 % config.num_hidden_layers
    capped = config.model_type == "gemma2"
    slim = KEPT[-2:] if capped else KEPT  # all that the C tests read
    tensors = {"ids": ids.to(torch.int32)}
    report = {
        "versions": versions("torch", "transformers"),
        "tokens": plan["tokens"],
        "tap_layer": tap,
        "storage": plan.get("dtype", "f32"),
    }

    def backend(attention):
        return online_cap() if capped and attention == "sdpa" else contextlib.nullcontext()

    def model(dtype, attention):
        m, info = cls.from_pretrained(
            target,
            dtype=dtype,
            attn_implementation="eager" if capped else attention,
            output_loading_info=True,
        )
        assert not any(info.values()), info
        return m.eval()

    with binary64():
        oracle = run(model(torch.float32, "eager").double(), ids, tap)
    for name, value in oracle.items():
        # Sub-results of the tapped layer are wide and need no more than fp32.
        if name.split(".")[0] in KEPT or not capped:
            tensors[f"oracle.{name}"] = value if name.split(".")[0] in KEPT else value.float()
    report["f32_error"] = {}
    for attention in ("sdpa", "eager"):
        with backend(attention):
            got = run(model(torch.float32, attention), ids, tap)
        report["f32_error"][attention] = compare(got, oracle)
        kept = got if attention == "sdpa" else {k: got[k] for k in ("logits", "nll")}
        for name, value in kept.items():
            if name.split(".")[0] in KEPT and not capped:
                tensors[f"f32.{attention}.{name}"] = value
    # Reordering is no change of the function: in binary64 nothing but rounding may move.
    with binary64():
        m = model(torch.float32, "eager").double()
        moved = compare(reordered_run(m, ids, reorder(m, 1)), oracle)
    assert all(v["rel"] < 1e-12 for v in moved.values()), moved
    report["bf16_spread"], report["bf16_reordered"], report["bf16_error"], base = {}, {}, {}, {}
    for attention in ("sdpa", "eager"):
        with backend(attention):
            m = model(torch.bfloat16, attention)
            base[attention] = run(m, ids, tap)
            others = []
            for threads in (1, 2):
                for library in (True, False):
                    torch.set_num_threads(threads)
                    with torch.backends.mkldnn.flags(enabled=library):
                        others.append(run(m, ids, tap))
            torch.set_num_threads(1)
            pairs = [compare(a, b) for i, a in enumerate(others) for b in others[:i]]
            report["bf16_spread"][attention] = worst(pairs)
            report["bf16_error"][attention] = compare(base[attention], oracle)
            others = [base[attention]]
            for order in range(8):
                m = model(torch.bfloat16, attention)
                others.append(reordered_run(m, ids, reorder(m, order)))
        pairs = [compare(a, b) for i, a in enumerate(others) for b in others[:i]]
        report["bf16_reordered"][attention] = worst(
            [{k: v for k, v in pair.items() if k.split(".")[0] in KEPT} for pair in pairs]
        )
        for name, value in base[attention].items():
            if name.split(".")[0] in slim:
                tensors[f"bf16.{attention}.{name}"] = value
    report["bf16_sdpa_eager"] = compare(base["sdpa"], base["eager"])
    if plan.get("compact"):
        tensors = {k: v for k, v in tensors.items() if needed(k)}
        report = {k: trim(v) if k.startswith(("f32", "bf16")) else v for k, v in report.items()}
    save(target / "reference.safetensors", tensors, {"content": "see tests/data/README.md"})
    save_json(target / "reference.json", report)
    return report


# --- one layer, operation by operation, in bf16 -------------------------------------------------


def operations(folder):
    """Every step of a layer on stored bf16 inputs, so that a rounding can be blamed on one step."""
    from transformers.activations import ACT2FN

    tensors = {}
    gen = torch.Generator().manual_seed(4242)
    length = 40

    def put(name, value):
        tensors[name] = value.float() if value.dtype == torch.bfloat16 else value

    def layer(prefix, body, config, kind, ids):
        """kind: attention type of the layer looked at, the last one of the model."""
        gemma_like = config.model_type != "llama"
        block = body.layers[-1]
        attn, mlp = block.self_attn, block.mlp
        for name, p in block.named_parameters():
            put(f"{prefix}weight.{name}", p.data)
        put(f"{prefix}weight.embed", body.embed_tokens.weight.data)
        put(f"{prefix}weight.norm", body.norm.weight.data)
        tensors[f"{prefix}ids"] = ids.to(torch.int32)
        embed = body.embed_tokens(ids)
        put(f"{prefix}embed", embed)
        x = (torch.randn(1, length, config.hidden_size, generator=gen) * 4).bfloat16()
        put(f"{prefix}x", x[0])
        n1 = block.input_layernorm(x)
        put(f"{prefix}norm1", n1[0])
        heads, kv, h = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        q, k, v = attn.q_proj(n1), attn.k_proj(n1), attn.v_proj(n1)
        for name, value in (("q", q), ("k", k), ("v", v)):
            put(f"{prefix}{name}", value[0])
        q = q.view(1, length, heads, h).transpose(1, 2)
        k = k.view(1, length, kv, h).transpose(1, 2)
        v = v.view(1, length, kv, h).transpose(1, 2)
        if gemma_like:
            q, k = attn.q_norm(q), attn.k_norm(k)
            put(f"{prefix}q_norm", q[0])
            put(f"{prefix}k_norm", k[0])
        position = torch.arange(length)[None]
        args = (kind,) if gemma_like else ()
        # The fp32 tables as well: the bf16 ones are their roundings.
        cos32, sin32 = body.rotary_emb(x.float(), position, *args)
        cos, sin = body.rotary_emb(x, position, *args)
        tensors[f"{prefix}cos_f32"], tensors[f"{prefix}sin_f32"] = cos32[0], sin32[0]
        put(f"{prefix}cos", cos[0])
        put(f"{prefix}sin", sin[0])
        apply = (modeling_gemma3 if gemma_like else modeling_llama).apply_rotary_pos_emb
        q, k = apply(q, k, cos, sin)
        put(f"{prefix}q_rot", q[0])
        put(f"{prefix}k_rot", k[0])
        i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
        seen = j <= i
        if kind == "sliding_attention":
            seen = seen & (j > i - config.sliding_window)
        groups = heads // kv
        kk, vv = (modeling_llama.repeat_kv(t, groups) for t in (k, v))
        scale = attn.scaling
        mask = torch.zeros(length, length, dtype=torch.bfloat16)
        mask.masked_fill_(~seen, torch.finfo(torch.bfloat16).min)
        dot = torch.matmul(q, kk.transpose(2, 3))
        put(f"{prefix}eager.dot", dot[0])
        scaled = dot * scale
        put(f"{prefix}eager.scaled", scaled[0])
        p = torch.softmax(scaled + mask, dim=-1, dtype=torch.float32).bfloat16()
        put(f"{prefix}eager.softmax", p[0])
        z = torch.matmul(p, vv).transpose(1, 2).reshape(1, length, heads * h)
        put(f"{prefix}eager.z", z[0])
        sdpa = torch.nn.functional.scaled_dot_product_attention
        if kind == "sliding_attention":
            fused = sdpa(q, kk, vv, attn_mask=seen[None, None], scale=scale)
        else:
            fused = sdpa(q, k, v, is_causal=True, scale=scale, enable_gqa=groups > 1)
            same = sdpa(q, kk, vv, attn_mask=seen[None, None], scale=scale)
            report[f"{prefix}mask_against_causal"] = distance(same, fused)
        z = fused.transpose(1, 2).reshape(1, length, heads * h)
        put(f"{prefix}sdpa.z", z[0])
        o = attn.o_proj(z)
        put(f"{prefix}o", o[0])
        if gemma_like:
            o = block.post_attention_layernorm(o)
            put(f"{prefix}norm2", o[0])
        mid = x + o
        put(f"{prefix}mid", mid[0])
        norm = block.pre_feedforward_layernorm if gemma_like else block.post_attention_layernorm
        n3 = norm(mid)
        put(f"{prefix}norm3", n3[0])
        gate, up = mlp.gate_proj(n3), mlp.up_proj(n3)
        put(f"{prefix}gate", gate[0])
        put(f"{prefix}up", up[0])
        act = mlp.act_fn(gate)
        put(f"{prefix}act", act[0])
        act = act * up
        put(f"{prefix}act_up", act[0])
        down = mlp.down_proj(act)
        put(f"{prefix}down", down[0])
        if gemma_like:
            down = block.post_feedforward_layernorm(down)
            put(f"{prefix}norm4", down[0])
        y = mid + down
        put(f"{prefix}y", y[0])
        final = body.norm(y)
        put(f"{prefix}final_norm", final[0])
        # The head is the embedding matrix here, tied or not: one matrix less to store.
        put(f"{prefix}logits", torch.nn.functional.linear(final, body.embed_tokens.weight)[0])

    report = {"versions": versions("torch", "transformers")}
    with torch.no_grad():
        plans = [
            (
                "gemma.sliding.",
                gemma(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]),
                "sliding_attention",
            ),
            (
                "gemma.full.",
                gemma(
                    num_hidden_layers=2,
                    rope_parameters={
                        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                    },
                    layer_types=["sliding_attention", "full_attention"],
                ),
                "full_attention",
            ),
            (
                "llama.",
                llama(
                    attention_bias=True,
                    mlp_bias=True,
                    num_hidden_layers=1,
                    hidden_size=48,
                    num_attention_heads=4,
                    head_dim=12,
                ),
                None,
            ),
        ]
        for prefix, config, kind in plans:
            cls = LlamaForCausalLM if config.model_type == "llama" else Gemma3ForCausalLM
            model = cls(config)
            fill(model, 5)
            scratch = folder / "scratch"
            model.save_pretrained(scratch)
            # Loaded in bf16 rather than converted: conversion would round the rotary frequencies.
            model = cls.from_pretrained(scratch, dtype=torch.bfloat16).eval()
            shutil.rmtree(scratch)
            ids = torch.randint(0, config.vocab_size, (length,), generator=gen)
            layer(prefix, model.model, config, kind, ids)
            report[prefix.rstrip(".")] = {
                "hidden_size": config.hidden_size,
                "intermediate_size": config.intermediate_size,
                "heads": config.num_attention_heads,
                "kv_heads": config.num_key_value_heads,
                "head_dim": config.head_dim,
                "eps": config.rms_norm_eps,
                "window": getattr(config, "sliding_window", 0)
                if kind == "sliding_attention"
                else 0,
                "scale": model.model.layers[-1].self_attn.scaling,
            }
        # More keys than one block of the fused kernel, so that its running maximum is rescaled.
        q = (torch.randn(1, 2, 640, 8, generator=gen) * 2).bfloat16()
        k = (torch.randn(1, 1, 640, 8, generator=gen) * 2).bfloat16()
        k[0, 0, 530:] *= 3
        v = torch.randn(1, 1, 640, 8, generator=gen).bfloat16()
        z = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=8**-0.5, enable_gqa=True
        )
        for name, value in (("q", q), ("k", k), ("v", v), ("z", z)):
            tensors[f"long.{name}"] = value[0]
        # Activation functions on their own.
        x = torch.cat(
            [torch.linspace(-12, 12, 1537), torch.randn(511, generator=gen) * 3]
        ).bfloat16()
        put("act.x", x)
        for name in ("gelu_pytorch_tanh", "silu", "gelu", "gelu_new"):
            put(f"act.{name}", ACT2FN[name](x))
    save(folder / "operations.safetensors", tensors, {"content": "see tests/data/README.md"})
    save_json(folder / "operations.json", report)
    return len(tensors)


def main():
    folder = output_folder("models")
    for number, (name, plan) in enumerate(MODELS.items()):
        seed = plan.get("seed", number)
        cls, target = build(folder, name, seed)
        report = reference(cls, target, plan, seed)
        last = f"resid.{plan['config'].num_hidden_layers - 1}"
        print(
            f"{name}: {folder_size(target) / 1e3:.0f} kB, {last} relative: f32 "
            f"{report['f32_error']['sdpa'][last]['rel']:.1e}, bf16 "
            f"{report['bf16_error']['sdpa'][last]['rel']:.1e}, spread "
            f"{report['bf16_spread']['sdpa'][last]['rel']:.1e}, reordered "
            f"{report['bf16_reordered']['sdpa'][last]['rel']:.1e}, eager-sdpa "
            f"{report['bf16_sdpa_eager'][last]['rel']:.1e}",
            flush=True,
        )
    print(f"operations: {operations(folder)} tensors")
    print(f"{folder_size(folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
