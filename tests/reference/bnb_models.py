# SPDX-License-Identifier: BSD-2-Clause
"""Tiny models, and the bitsandbytes folders that transformers makes of them.

models/bnb_source, neox_source and gpt2_source are plain; each models/bnb_*, neox_nf4 and so on is
what save_pretrained writes after loading one with a BitsAndBytesConfig, with reference.safetensors:
token ids, logits of the loaded model (its bf16 dtype), and its decoded weights. bitsandbytes'
AVX-512 decoding of matrices whose rows are no whole blocks is wrong (bitsandbytes.md F), and its
AVX512-BF16 layers round block maxima: here every layer multiplies by what the package's own
portable decoder gives.
"""

from common import one_thread, output_folder, save

torch = one_thread()

import os
import shutil
import warnings

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import bitsandbytes as bnb
import transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.backends.utils import _get_4bit_code
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

transformers.utils.logging.disable_progress_bar()
F = bnb.functional


def four(kind, double, compute, **keys):
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=compute,
        **keys,
    )


FOLDERS = {
    "bnb_nf4": four("nf4", True, torch.bfloat16),
    "bnb_fp4": four("fp4", False, torch.float32),
    "bnb_storage": four(
        "nf4",
        True,
        torch.float32,
        bnb_4bit_quant_storage=torch.bfloat16,
        llm_int8_skip_modules=["q_proj", "lm_head"],
    ),
    "bnb_int8": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=1.5),
}

# The fused matrix is one layer to bitsandbytes; GPT-2's are turned to [out, in].
OTHERS = {
    "neox_source": GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=48,
            hidden_size=24,
            intermediate_size=44,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=64,
        )
    ),
    "gpt2_source": GPT2LMHeadModel(
        GPT2Config(vocab_size=48, n_embd=24, n_layer=2, n_head=3, n_inner=44, n_positions=32)
    ),
}


def decode(weight, state, dtype):
    absmax = state.absmax
    if state.nested:
        absmax = F.dequantize_blockwise(absmax, state.state2) + state.offset
    code = _get_4bit_code(state.quant_type, weight.device)
    data = weight.contiguous().view(torch.uint8).reshape(-1)
    return _dequantize_4bit_compute(data, absmax, code, state.blocksize, state.shape, dtype)


def multiply(x, weight, quant_state, out=None, bias=None):
    return torch.nn.functional.linear(x, decode(weight, quant_state, x.dtype), bias)


bnb.matmul_4bit = multiply


def source(folder):
    torch.manual_seed(20)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=48,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=64,
        attention_bias=True,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def decoded(module):
    if isinstance(module, bnb.nn.Linear4bit):
        return decode(module.weight.data, module.weight.quant_state, torch.float32)
    return F.int8_vectorwise_dequant(module.weight.data, module.weight.SCB).float()


def other_source(folder, model):
    gen = torch.Generator().manual_seed(22)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=gen)
        norm = p.ndim == 1 and "weight" in name
        p.copy_(1 + 0.1 * noise if norm else (0.1 if p.ndim == 1 else 0.3) * noise)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink()


def write(out, name, config, ids, source="bnb_source"):
    shutil.rmtree(out / name, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(
        out / source, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(out / name)
    model = AutoModelForCausalLM.from_pretrained(out / name, dtype=torch.bfloat16).eval()
    kinds = bnb.nn.Linear4bit, bnb.nn.Linear8bitLt
    layers = {n: m for n, m in model.named_modules() if isinstance(m, kinds)}
    kept = "1.mlp.down_proj", "1.self_attn.k_proj", "1.attention.query_key_value", "1.attn.c_attn"
    values = {"decoded." + n: decoded(m) for n, m in layers.items() if n.endswith(kept)}
    for module in layers.values():
        module.support_avx512bf16_for_cpu = False
    values |= {"ids": ids.int(), "logits": model(input_ids=ids).logits.float()}
    save(out / name / "reference.safetensors", values)
    (out / name / "generation_config.json").unlink()
    (out / name / "model.safetensors").chmod(0o644)


@torch.no_grad()
def main():
    out = output_folder("models")
    shutil.rmtree(out / "bnb_source", ignore_errors=True)
    source(out / "bnb_source")
    ids = torch.randint(3, 48, (2, 12), generator=torch.Generator().manual_seed(21))
    for name, config in FOLDERS.items():
        write(out, name, config, ids)
    for name, model in OTHERS.items():
        shutil.rmtree(out / name, ignore_errors=True)
        other_source(out / name, model)
        for kind in ("nf4", "int8"):
            write(out, name.replace("source", kind), FOLDERS["bnb_" + kind], ids, name)


if __name__ == "__main__":
    main()
