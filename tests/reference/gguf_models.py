# SPDX-License-Identifier: BSD-2-Clause
"""Tiny GGUF models as llama.cpp's converter writes them, with the results transformers gives.

Per model: the file, token ids, logits and nll in binary64 on the weights that the gguf package
decodes, the distance of a transformers fp32 run from them, and a hash of every decoded tensor under
its Hugging Face name. Blocks of Q4_K and Q6_K are made by ggml itself (llama-cpp-python's library).
"""

from common import one_thread, output_folder, save, save_json, versions

torch = one_thread()

import ctypes
import importlib.util
import math
import pathlib
import shutil

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, GPTNeoXForCausalLM

import layernorm_models
import models
from layernorm_models import gpt2, neox
from models import CLASSES, LLAMA3, distance, gemma, gemma2, llama, qwen3

MODELS = {
    # Every matrix in another type; the embedding too.
    "gguf_llama_mixed": dict(
        config=llama(vocab_size=64, intermediate_size=64, num_hidden_layers=2),
        types={
            "token_embd": T.Q8_0,
            "output": T.BF16,
            "attn_q": T.Q4_0,
            "attn_k": T.Q5_1,
            "attn_v": T.F16,
            "attn_output": T.Q5_0,
            "ffn_gate": T.Q4_1,
            "ffn_up": T.F32,
            "ffn_down": T.Q8_0,
        },
        transformers=True,
    ),
    # As Q4_K_M mixes them: rows that are no multiple of 256 fall back to Q5_0.
    "gguf_llama_q4_k_m": dict(
        config=llama(
            vocab_size=64,
            hidden_size=256,
            intermediate_size=32,
            num_hidden_layers=1,
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        ),
        types={
            "token_embd": T.Q6_K,
            "attn_q": T.Q4_K,
            "attn_k": T.Q4_K,
            "attn_v": T.Q6_K,
            "attn_output": T.Q5_0,
            "ffn_gate": T.Q4_K,
            "ffn_up": T.Q4_K,
            "ffn_down": T.Q5_0,
        },
        transformers=True,
    ),
    # The llama3 scaling as rope_freqs.weight; biases of q, k and v alone, as some converters leave.
    "gguf_llama_rope3": dict(
        config=llama(
            vocab_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            attention_bias=True,
            tie_word_embeddings=True,
            rope_parameters={"rope_theta": 500000.0, **LLAMA3},
        ),
        types={
            "attn_q": T.Q8_0,
            "attn_k": T.Q8_0,
            "token_embd": T.F16,
            "ffn_up": T.Q4_0,
            "ffn_gate": T.Q8_0,
            "ffn_down": T.Q8_0,
        },
        drop="attn_output.bias",
    ),
    # Window, linear scaling and local base as files of 2025 say them: the pattern is implied.
    "gguf_gemma3": dict(
        config=gemma(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=7,
            query_pre_attn_scalar=16,
            num_key_value_heads=1,
            num_attention_heads=2,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        ),
        types={
            "token_embd": T.Q8_0,
            "attn_q": T.Q5_1,
            "attn_k": T.F16,
            "attn_v": T.Q4_0,
            "attn_output": T.Q8_0,
            "ffn_gate": T.Q4_0,
            "ffn_up": T.Q5_0,
            "ffn_down": T.Q4_1,
        },
    ),
    # Keys of newer files, a cap, and a head of its own.
    "gguf_gemma3_new": dict(
        config=gemma(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            query_pre_attn_scalar=16,
            final_logit_softcapping=5.0,
            tie_word_embeddings=False,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        ),
        types={
            "token_embd": T.F16,
            "output": T.Q8_0,
            "attn_q": T.Q8_0,
            "attn_k": T.Q8_0,
            "ffn_gate": T.Q8_0,
            "ffn_down": T.BF16,
            "ffn_up": T.Q8_0,
        },
        new_keys=True,
    ),
    # Biases of q, k and v alone: llama.cpp reads no other in this architecture.
    "gguf_qwen3": dict(
        config=qwen3(
            vocab_size=64,
            hidden_size=32,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=16,
            rms_norm_eps=1e-5,
            attention_bias=True,
        ),
        types={
            "token_embd": T.Q8_0,
            "output": T.BF16,
            "attn_q": T.Q8_0,
            "attn_k": T.Q4_0,
            "attn_v": T.F16,
            "attn_output": T.F16,
            "ffn_gate": T.Q5_1,
            "ffn_up": T.Q8_0,
            "ffn_down": T.Q4_1,
        },
        drop="attn_output.bias",
        seed=505,
    ),
    # The converter writes neither a rotary base nor the layers: both are implied.
    "gguf_gemma2": dict(
        config=gemma2(
            hidden_size=96,
            intermediate_size=64,
            num_hidden_layers=2,
            head_dim=16,
            query_pre_attn_scalar=16,
        ),
        types={
            "token_embd": T.Q8_0,
            "attn_q": T.Q5_1,
            "attn_k": T.F16,
            "attn_v": T.Q4_0,
            "attn_output": T.BF16,
            "ffn_gate": T.Q4_0,
            "ffn_up": T.Q5_0,
            "ffn_down": T.Q4_1,
        },
        seed=505,
        transformers=True,
        # Its reader leaves these at the published models' values.
        keys=dict(
            attn_logit_softcapping=2.0, final_logit_softcapping=4.0, query_pre_attn_scalar=16
        ),
    ),
    # A part of each head rotates; q, k and v of each head together in the checkpoint, apart in the
    # file.
    "gguf_neox": dict(
        config=neox(hidden_size=32, num_attention_heads=4, intermediate_size=64),
        types={
            "token_embd": T.Q8_0,
            "output": T.BF16,
            "attn_qkv": T.Q4_0,
            "attn_output": T.Q5_1,
            "ffn_up": T.Q4_1,
            "ffn_down": T.F16,
        },
        seed=510,
    ),
    # One after the other, all of each head, linear scaling.
    "gguf_neox_sequential": dict(
        config=neox(
            hidden_size=32,
            intermediate_size=32,
            num_attention_heads=2,
            use_parallel_residual=False,
            rope_parameters={
                "rope_type": "linear",
                "factor": 4.0,
                "rope_theta": 500.0,
                "partial_rotary_factor": 1.0,
            },
        ),
        types={"token_embd": T.F16, "attn_qkv": T.Q8_0, "ffn_up": T.Q5_0, "ffn_down": T.Q4_0},
        seed=511,
    ),
    # Matrices transposed in the file.
    "gguf_gpt2": dict(
        config=gpt2(n_embd=32, n_head=4, bos_token_id=2, eos_token_id=1),
        types={
            "token_embd": T.Q8_0,
            "attn_qkv": T.Q4_0,
            "attn_output": T.Q8_0,
            "ffn_up": T.F16,
            "ffn_down": T.Q5_1,
        },
        seed=512,
    ),
}
TOKENS = 16
NEOX_NAMES = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "lm_head": "output",  # embed_out in checkpoints
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QWEN3_NAMES = {
    **LLAMA_NAMES,
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
GEMMA_NAMES = {
    **QWEN3_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def ggml():
    """The library that llama-cpp-python brings, inside its package or beside it."""
    package = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent
    for path in [*package.glob("lib/libggml-base.so"), *package.parent.glob("lib/libggml-base.so")]:
        library = ctypes.CDLL(str(path))
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        library.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        return library
    raise SystemExit("no libggml-base in llama_cpp")


def encode(x, kind):
    """[rows, columns] float32 to the bytes of a ggml type, [rows, bytes]."""
    if kind not in (T.Q4_K, T.Q6_K):
        return gguf.quants.quantize(x, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.empty((x.shape[0], x.shape[1] // block * size), np.uint8)
    x = np.ascontiguousarray(x)
    n = ggml().ggml_quantize_chunk(
        int(kind), x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], None
    )
    assert n == out.nbytes
    return out


def permute(x, heads):
    """The converter's order of rows: [2, h / 2] of each head becomes [h / 2, 2]."""
    parts = x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:])
    return parts.swapaxes(1, 2).reshape(x.shape)


def unpermute(x, heads):
    parts = x.reshape(heads, x.shape[0] // heads // 2, 2, *x.shape[1:])
    return parts.swapaxes(1, 2).reshape(x.shape)


def by_part(x, heads):
    """GPTNeoXModel.modify_tensors of the converter: [heads, 3, d] becomes [3, heads, d]."""
    return x.reshape(heads, 3, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def by_head(x, heads):
    return x.reshape(3, heads, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def heads_of(name, config):
    return config.num_attention_heads if "attn_q" in name else config.num_key_value_heads


def gguf_name(hf, names):
    module, suffix = hf.rsplit(".", 1)
    if module in names:
        return f"{names[module]}.{suffix}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{names[rest]}.{suffix}"


def rope_factors(config):
    """generate_extra_tensors of the converter."""
    rope, base = config.rope_parameters, config.rope_parameters["rope_theta"]
    old, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    freqs = 1.0 / (base**exponents)
    out = []
    for freq in freqs:
        wave = 2 * math.pi / freq
        if wave < old / high:
            out.append(1)
        elif wave > old / low:
            out.append(factor)
        else:
            smooth = (old / wave - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def write_layer_norm_keys(w, config, arch):
    """set_gguf_parameters of GPTNeoXModel and GPT2Model."""
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_head_count(config.num_attention_heads)
    w.add_file_type(0)
    w.add_tokenizer_model("none")
    w.add_bos_token_id(2)
    w.add_eos_token_id(1)
    if arch == "gpt2":
        w.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        w.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    rope = config.rope_parameters
    head = config.hidden_size // config.num_attention_heads
    w.add_feed_forward_length(config.intermediate_size)
    w.add_rope_dimension_count(int(rope["partial_rotary_factor"] * head))
    w.add_parallel_residual(config.use_parallel_residual)
    w.add_layer_norm_eps(config.layer_norm_eps)
    if rope["rope_theta"] != 10000.0:
        w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])


def write_keys(w, config, arch, plan):
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    w.add_key_length(config.head_dim)
    w.add_value_length(config.head_dim)
    w.add_file_type(0)
    w.add_tokenizer_model("none")
    w.add_bos_token_id(2)
    w.add_eos_token_id(1)
    rope = config.rope_parameters
    if arch in ("llama", "qwen3"):
        if arch == "llama":
            w.add_rope_dimension_count(config.head_dim)
        w.add_rope_freq_base(rope["rope_theta"])
        return
    if arch == "gemma2":
        w.add_attn_logit_softcapping(config.attn_logit_softcapping)
        w.add_final_logit_softcapping(config.final_logit_softcapping)
        w.add_sliding_window(config.sliding_window)
        return
    full = rope["full_attention"]
    w.add_rope_freq_base(full["rope_theta"])
    w.add_sliding_window(config.sliding_window)
    if full["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(full["factor"])
    if config.final_logit_softcapping:
        w.add_final_logit_softcapping(config.final_logit_softcapping)
    if plan.get("new_keys"):
        w.add_float32("gemma3.rope.freq_base_swa", rope["sliding_attention"]["rope_theta"])
        w.add_sliding_window_pattern([t == "sliding_attention" for t in config.layer_types])


NAMES = {"llama": LLAMA_NAMES, "qwen3": QWEN3_NAMES, "gptneox": NEOX_NAMES, "gpt2": GPT2_NAMES}


def write(model, path, plan):
    """The file, and the weights it stands for under their Hugging Face names."""
    config = model.config
    arch = config.model_type.removesuffix("_text").replace("gpt_neox", "gptneox")
    names = NAMES.get(arch, GEMMA_NAMES)
    w = gguf.GGUFWriter(path, arch)
    w.add_name(path.parent.name)
    if arch in ("gptneox", "gpt2"):
        write_layer_norm_keys(w, config, arch)
    else:
        write_keys(w, config, arch, plan)
    decoded, turned_names = {}, set()
    if arch == "llama" and config.rope_parameters["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", rope_factors(config))
    for hf, value in model.state_dict().items():
        if hf == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = gguf_name(hf, names)
        x = value.float().numpy()
        if "drop" in plan and name.endswith(plan["drop"]):
            decoded[hf] = np.zeros_like(x)
            continue
        turned = arch == "llama" and name.split(".")[-2] in ("attn_q", "attn_k")
        parts = arch == "gptneox" and "attn_qkv" in name
        turn = arch == "gpt2" and x.ndim == 2 and name.startswith("blk.")
        if turned:
            x = permute(x, heads_of(name, config))
        if parts:
            x = by_part(x, config.num_attention_heads)
        if turn:
            x = np.ascontiguousarray(x.T)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            x = x + np.float32(1)
        matrix = x.ndim == 2 and "position" not in name
        kind = plan["types"].get(name.split(".")[-2], T.F32) if matrix else T.F32
        if kind == T.F32:
            w.add_tensor(name, np.ascontiguousarray(x))
            y = x
        else:
            packed = encode(x, kind)
            w.add_tensor(name, packed, raw_dtype=kind)
            y = gguf.quants.dequantize(packed, kind)
        if turned:
            y = unpermute(y, heads_of(name, config))
        if parts:
            y = by_head(y, config.num_attention_heads)
        if turn:
            turned_names.add(hf)
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            y = y - np.float32(1)
        decoded[hf] = np.ascontiguousarray(y, np.float32)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return decoded, turned_names


def fnv(data):
    """FNV-1a, 64 bits."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return "%016x" % h


def first_embedding(state):
    return next(k for k in ("model.embed_tokens.weight", "transformer.wte.weight") if k in state)


def checkpoint_name(config, name):
    renamed = config.model_type == "gpt_neox" and name == "lm_head.weight"
    return "embed_out.weight" if renamed else name


def build(folder, name, seed):
    plan = MODELS[name]
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    config = plan["config"]
    cls = {**CLASSES, "gpt_neox": GPTNeoXForCausalLM, "gpt2": GPT2LMHeadModel}[config.model_type]
    layered = config.model_type in ("gpt_neox", "gpt2")
    run = layernorm_models.run if layered else models.run
    binary64 = layernorm_models.binary64 if layered else models.binary64
    # Gemma 2 runs in eager attention alone.
    fastest = "eager" if config.model_type == "gemma2" else "sdpa"

    def model(dtype, attention, weights):
        m = cls._from_config(config, dtype=dtype, attn_implementation=attention)
        if weights is None and layered:
            layernorm_models.fill(m, plan, seed)
        elif weights is None:
            models.fill(m, seed)
        else:
            state = {k: torch.from_numpy(v.T if k in turned else v) for k, v in weights.items()}
            for name, value in m.state_dict().items():
                if name == "lm_head.weight" and name not in state:
                    state[name] = state[first_embedding(state)]
            m.load_state_dict(state)
        return m.eval()

    path = target / "model.gguf"
    turned = set()  # what model() asks for when it is given weights
    decoded, turned = write(model(torch.float32, "eager", None), path, plan)
    gen = torch.Generator().manual_seed(seed + 1000)
    ids = torch.randint(3, config.vocab_size, (2, TOKENS), generator=gen)
    ids[:, 0] = 2
    with binary64():
        oracle = run(model(torch.float32, "eager", decoded).double(), ids)
    got = run(model(torch.float32, fastest, decoded), ids)
    if plan.get("transformers"):
        # Its own reader of GGUF files, bit for bit.
        own = AutoModelForCausalLM.from_pretrained(
            target,
            gguf_file="model.gguf",
            dtype=torch.float32,
            attn_implementation=fastest,
            **plan.get("keys", {}),
        )
        assert torch.equal(run(own.eval(), ids)["logits"], got["logits"])
    report = {
        "versions": versions("torch", "transformers", "gguf", "llama-cpp-python"),
        "f32_error": {k: distance(got[k], oracle[k]) for k in ("logits", "nll")},
        "fnv": {checkpoint_name(config, k): fnv(v.tobytes()) for k, v in sorted(decoded.items())},
    }
    tensors = {"ids": ids.to(torch.int32), "logits": oracle["logits"], "nll": oracle["nll"]}
    save(target / "reference.safetensors", tensors, {"content": "see tests/data/README.md"})
    save_json(target / "reference.json", report)


def main():
    folder = output_folder("models")
    for i, name in enumerate(MODELS):
        build(folder, name, MODELS[name].get("seed", 500 + i))


if __name__ == "__main__":
    main()
