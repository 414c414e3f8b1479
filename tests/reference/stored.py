# SPDX-License-Identifier: BSD-2-Clause
"""Matrices and tiny models in the formats of quantized checkpoints, decoded by their packages.

codecs/stored/NAME.safetensors holds modules m0, m1, ... of one quantization_config, NAME.json that
configuration and, per module, its shape and the CRC32 of what the package decodes for an f32, a
bf16 and an f16 model; where the format quantizes activations also x.m0, ... [rows, n_in] and the
CRC32 of what becomes of them in each dtype. models/stored_NAME are folders with the logits of
transformers' from_pretrained.

Needs compressed-tensors, gptqmodel (its source folder is enough) and optimum on PYTHONPATH.
"""

from common import one_thread, output_folder, save, save_json

torch = one_thread()

import importlib.metadata
import json
import os
import shutil
import struct
import warnings
import zlib

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GPTQ_TORCH_TRITON_DEQUANT"] = "0"
warnings.filterwarnings("ignore")

version = importlib.metadata.version
importlib.metadata.version = lambda name: "7.7.0" if name == "gptqmodel" else version(name)

import compressed_tensors.compressors.pack_quantized.base as packed
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization import QuantizationStatus
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, _dequantize_fp8_weight

transformers.utils.logging.disable_progress_bar()

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
E4M3 = torch.float8_e4m3fn


def crc(x):
    """Of the bytes, zeros without their sign; NaN as the quiet one without."""
    x = x.contiguous() + 0.0
    bits = {4: torch.int32, 2: torch.int16}[x.element_size()]
    quiet = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}[x.dtype]
    x = torch.where(x.isnan(), torch.tensor(quiet, dtype=bits).view(x.dtype), x)
    return "%08x" % zlib.crc32(x.view(bits).numpy().tobytes())


def words(*shape):
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).to(torch.int32)


def octets(*shape):
    return torch.randint(0, 256, shape).to(torch.uint8)


def scales(shape, dtype):
    s = (torch.rand(shape) + 0.01) * torch.exp(2 * torch.randn(shape)) * 0.02
    s.view(-1)[0] = 0
    return s.to(dtype)


def up(a, b):
    return -(-a // b)


# The package's 4-bit path fails on zero points of a single row or column.
unpack_columns = packed.unpack_from_int32


def unpack(value, bits, shape, packed_dim=1):
    if packed_dim == 1:
        return unpack_columns(value, bits, shape)
    value = torch.cat([value, value])
    value = torch.cat([value, value], 1)
    return unpack_columns(value, bits, (shape[0], value.shape[1]), packed_dim=0)[:, : shape[1]]


packed.unpack_from_int32 = unpack


def gptq(config, n, k, order):
    bits, group = config["bits"], config["group_size"]
    m = TorchLinear(
        bits=bits,
        group_size=group,
        sym=False,
        desc_act=True,
        in_features=k,
        out_features=n,
        register_buffers=True,
    )
    m.qweight, m.qzeros = words(*m.qweight.shape), words(*m.qzeros.shape)
    m.scales = scales(m.scales.shape, torch.float16)
    index = torch.arange(k) // (k if group == -1 else group)
    m.g_idx = (index[torch.randperm(k)] if order else index).int()
    t = {name: getattr(m, name).clone() for name in ("qweight", "qzeros", "scales", "g_idx")}
    if config["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(m, bits=bits, pack_dtype=torch.int32)
    weight = m.eval().dequantize_weight().T
    return t, lambda d: weight.to(d)


def awq(config, n, k):
    group = k if config["group_size"] == -1 else config["group_size"]
    t = {
        "qweight": words(k, n // 8),
        "qzeros": words(k // group, n // 8),
        "scales": scales((k // group, n), torch.float16),
    }

    def decode(d):
        run = torch.float16 if d == torch.float32 else d
        m = AwqTorchLinear(
            bits=4,
            group_size=group,
            sym=False,
            desc_act=False,
            in_features=k,
            out_features=n,
            register_buffers=True,
        )
        m.qweight, m.qzeros, m.scales = (t[x].clone() for x in ("qweight", "qzeros", "scales"))
        m._ensure_runtime_dtype(device=torch.device("cpu"), dtype=run)
        x = torch.zeros(1, k, dtype=run)
        return m._dequantize_weight_for_inference(x, dtype=run).T.to(d)

    return t, decode


def fp8(config, n, k, scale_dtype):
    block = config["weight_block_size"]
    weight = octets(n, k).view(E4M3)
    shape = (up(n, block[0]), up(k, block[1])) if block else ()
    if scale_dtype in (torch.uint8, torch.float8_e8m0fnu):
        s = octets(*shape).view(scale_dtype)
    else:
        s = scales(shape, torch.float32).to(scale_dtype)
    whole = not block or (n % block[0] == 0 and k % block[1] == 0)

    def decode(d):
        if whole:
            return Fp8Dequantize(None)._dequantize_one(weight, s, d)
        return _dequantize_fp8_weight(weight, s, block, torch.float32).to(d)

    return {"weight": weight, "weight_scale_inv": s}, decode


def weight_tensors(scheme, n, k, dtype):
    w = scheme.weights
    shape = (1,) if w.strategy == "tensor" else (n, 1)
    if w.strategy == "block":
        shape = (up(n, w.block_structure[0]), up(k, w.block_structure[1]))
    elif w.strategy in ("group", "tensor_group"):
        shape = (n, k // w.group_size)
    t = {"weight_scale": scales(shape, dtype)}
    if scheme.format == "pack-quantized":
        t["weight_packed"] = words(n, up(k * w.num_bits, 32))
        t["weight_shape"] = torch.tensor([n, k])
        if not w.symmetric:
            t["weight_zero_point"] = words(up(n * w.num_bits, 32), shape[1])
    elif scheme.format == "nvfp4-pack-quantized":
        t["weight_packed"] = octets(n, k // 2)
        t["weight_scale"] = torch.randint(0, 127, shape).to(torch.uint8).view(E4M3)
        t["weight_global_scale"] = torch.rand(1) * 1000 + 0.01
    elif scheme.format == "mxfp4-pack-quantized":
        t |= {"weight_packed": octets(n, k // 2), "weight_scale": octets(*shape)}
    elif scheme.format == "mxfp8-quantized":
        t |= {"weight": octets(n, k).view(E4M3), "weight_scale": octets(*shape)}
    else:
        t["weight"] = octets(n, k).view(E4M3 if w.type == "float" else torch.int8)
        if not w.symmetric:
            t["weight_zero_point"] = octets(*shape).view(torch.int8)
    return t


def compressed(scheme, n, k, dtype):
    a = scheme.input_activations
    t = weight_tensors(scheme, n, k, dtype)
    if a and a.strategy == "tensor":
        t["input_scale"] = (torch.rand(1) * 0.1).to(dtype)
        if not a.symmetric:
            t["input_zero_point"] = octets(1).view(torch.int8)
    if a and a.strategy == "tensor_group":
        t["input_global_scale"] = torch.rand(1) * 1000 + 0.01

    def decode(d):
        copy = {name: x.clone() for name, x in t.items()}
        if copy["weight_scale"].dtype in DTYPES.values():
            copy["weight_scale"] = copy["weight_scale"].to(d)
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        return compressor.decompress(copy, scheme)["weight"].to(d)

    def act(x):
        m = torch.nn.Linear(1, 1)
        m.quantization_status = QuantizationStatus.DECOMPRESSED
        for name in ("input_scale", "input_zero_point", "input_global_scale"):
            if name in t:
                setattr(m, name, t[name].to(x.dtype) if name == "input_scale" else t[name])
        return forward_quantize(m, x[None].clone(), "input", a)[0]

    return t, decode, act if a else None


def rows(k):
    x = torch.randn(7, k) * torch.exp(3 * torch.randn(7, 1))
    x[0] = 0
    x[1, k // 2] = 1e4
    x[2] = torch.round(x[2] * 8) / 8
    x[3] *= 1e-6
    x[4, ::3] = 0
    x[5] = x[5].abs()
    return x


def scheme_config(scheme):
    group = json.loads(scheme.model_dump_json())
    return {
        "quant_method": "compressed-tensors",
        "format": scheme.format,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "config_groups": {"group_0": group},
    }


INT, FLOAT = dict(type="int", num_bits=8), dict(type="float", num_bits=8)
TOKEN = dict(strategy="token", dynamic=True)
NV = dict(
    type="float",
    num_bits=4,
    strategy="tensor_group",
    group_size=16,
    scale_dtype="torch.float8_e4m3fn",
)
MX = dict(type="float", strategy="group", group_size=32, scale_dtype="torch.uint8")
MX4, MX8 = dict(MX, num_bits=4), dict(MX, num_bits=8)
# name: format, weights, activations, shapes
SCHEMES = {
    "int4_group": ("pack-quantized", dict(num_bits=4, group_size=32), None, (9, 96), (33, 320)),
    "int4_asym": (
        "pack-quantized",
        dict(num_bits=4, group_size=16, symmetric=False),
        None,
        (9, 48),
        (33, 112),
    ),
    "int4_channel": ("pack-quantized", dict(num_bits=4, strategy="channel"), None, (9, 77)),
    "int3_asym": (
        "pack-quantized",
        dict(num_bits=3, group_size=8, symmetric=False),
        None,
        (13, 72),
    ),
    "int5_channel": ("pack-quantized", dict(num_bits=5, strategy="channel"), None, (7, 45)),
    "int8_asym": (
        "pack-quantized",
        dict(num_bits=8, group_size=32, symmetric=False),
        None,
        (10, 64),
    ),
    "w4a8_fp8": (
        "pack-quantized",
        dict(num_bits=4, group_size=32),
        dict(FLOAT, **TOKEN),
        (9, 64),
    ),
    "w8a8": ("int-quantized", dict(INT, strategy="channel"), dict(INT, **TOKEN), (11, 70)),
    "w8a8_asym": (
        "int-quantized",
        dict(INT, strategy="channel", symmetric=False),
        dict(INT, **TOKEN, symmetric=False),
        (11, 70),
    ),
    "w8a8_static": (
        "int-quantized",
        dict(INT, strategy="tensor"),
        dict(INT, strategy="tensor", symmetric=False),
        (11, 70),
    ),
    "naive_int8": ("naive-quantized", dict(INT, group_size=16), None, (5, 80)),
    "fp8_tensor": (
        "float-quantized",
        dict(FLOAT, strategy="tensor"),
        dict(FLOAT, strategy="tensor"),
        (12, 60),
    ),
    "fp8_channel": (
        "float-quantized",
        dict(FLOAT, strategy="channel"),
        dict(FLOAT, **TOKEN),
        (12, 60),
    ),
    "fp8_block": (
        "float-quantized",
        dict(FLOAT, strategy="block", block_structure=[16, 32]),
        dict(FLOAT, group_size=32, dynamic=True),
        (40, 96),
    ),
    "nvfp4_a16": ("nvfp4-pack-quantized", NV, None, (9, 80)),
    "nvfp4": ("nvfp4-pack-quantized", NV, dict(NV, dynamic="local"), (9, 80)),
    "mxfp4": ("mxfp4-pack-quantized", MX4, dict(MX4, dynamic=True), (9, 96)),
    "mxfp8": ("mxfp8-quantized", MX8, dict(MX8, dynamic=True), (9, 96)),
}


def write(out, name, config, modules):
    tensors, cases = {}, []
    for i, (shape, made) in enumerate(modules):
        t, decode, act = (*made, None)[:3]
        tensors |= {f"m{i}.{key}": value.contiguous() for key, value in t.items()}
        case = {"module": f"m{i}", "rows": shape[0], "cols": shape[1]}
        case["crc32"] = {key: crc(decode(d)) for key, d in DTYPES.items()}
        if act:
            x = rows(shape[1])
            tensors[f"x.m{i}"] = x
            case["act"] = {key: crc(act(x.to(d))) for key, d in DTYPES.items()}
        cases.append(case)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / f"{name}.safetensors")
    save_json(out / f"{name}.json", {"config": config, "cases": cases})


def matrices(out):
    dtypes = list(DTYPES.values())
    for name, (form, w, a, *shapes) in SCHEMES.items():
        w = dict(w, strategy=w.get("strategy", "group"))
        a = a and dict(a, strategy=a.get("strategy", "group"))
        scheme = QuantizationScheme(
            targets=["Linear"],
            weights=QuantizationArgs(**w),
            input_activations=QuantizationArgs(**a) if a else None,
            format=form,
        )
        made = [(s, compressed(scheme, *s, dtypes[(i + 1) % 3])) for i, s in enumerate(shapes)]
        write(out, name, scheme_config(scheme), made)
    for bits, group, form in ((4, 32, "gptq"), (4, -1, "gptq_v2"), (2, 16, "gptq"),
                              (3, 32, "gptq"), (8, 64, "gptq")):
        config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False,
                  "desc_act": True, "checkpoint_format": form}
        shapes = ((32, 96), (64, 32)) if bits == 3 else ((10, 50), (21, 130))
        made = [(s, gptq(config, *s, i == 1)) for i, s in enumerate(shapes)]
        write(out, f"gptq{bits}_{form}", config, made)
    for group in (32, -1):
        config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm",
                  "zero_point": True}
        write(out, "awq" if group > 0 else "awq_rows", config,
              [(s, awq(config, *s)) for s in ((16, 64), (40, 96))])
    for name, block, dtype, shape in (
        ("fp8_fine", [16, 32], torch.float32, (32, 96)),
        ("fp8_ragged", [16, 32], torch.float32, (37, 70)),
        ("fp8_ue8m0", [16, 32], torch.float8_e8m0fnu, (32, 96)),
        ("fp8_bytes", [16, 32], torch.uint8, (32, 96)),
        ("fp8_one", None, torch.bfloat16, (7, 30)),
    ):
        config = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                  "weight_block_size": block}
        write(out, name, config, [(shape, fp8(config, *shape, dtype))])


LLAMA = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)


def gptq_linear(w):
    n, k = w.shape
    order = torch.randperm(k)
    index = torch.empty(k, dtype=torch.int32)
    index[order] = (torch.arange(k) // 16).int()
    return {
        "qweight": words(k // 8, n),
        "qzeros": torch.full((k // 16, n // 8), 0x77777777, dtype=torch.int32),
        "scales": (torch.rand(k // 16, n) * 0.04).half(),
        "g_idx": index,
    }


def awq_linear(w):
    n, k = w.shape
    zeros = torch.full((k // 16, n // 8), -0x77777778, dtype=torch.int32)
    return {
        "qweight": words(k, n // 8),
        "qzeros": zeros,
        "scales": (torch.rand(k // 16, n) * 0.04).half(),
    }


def fp8_linear(w):
    n, k = w.shape
    blocks = w.float().reshape(n // 16, 16, k // 32, 32)
    s = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / s[:, None, :, None]).reshape(n, k).to(E4M3)
    return {"weight": codes, "weight_scale_inv": s}


def compressed_linear(scheme, w):
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args = scheme.weights
    if args.strategy == "channel":
        low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    elif args.strategy == "tensor":
        low, high = w.min().reshape(1), w.max().reshape(1)
    else:
        groups = w.unflatten(-1, (-1, args.group_size))
        low, high = groups.amin(-1), groups.amax(-1)
    t = {"weight": w}
    share = generate_gparam(w.min(), w.max()) if args.strategy == "tensor_group" else None
    t["weight_scale"], _ = calculate_qparams(low, high, args, global_scale=share)
    if share is not None:
        t["weight_global_scale"] = share
    t = BaseCompressor.get_value_from_registry(scheme.format).compress(t, scheme)
    a = scheme.input_activations
    if a and a.strategy == "tensor":
        t["input_scale"] = torch.tensor([0.01], dtype=w.dtype)
    if a and a.strategy == "tensor_group":
        t["input_global_scale"] = torch.tensor([800.0])
    return t


MODELS = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True, "sym": True,
         "checkpoint_format": "gptq", "backend": "torch"},
        gptq_linear,
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True,
         "version": "gemm", "backend": "torch_awq", "modules_to_not_convert": ["lm_head"]},
        awq_linear,
    ),
    "fp8": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 32],
         "modules_to_not_convert": ["lm_head"]},
        fp8_linear,
    ),
    "int4_group": None,
    "w8a8": None,
    "fp8_tensor": None,
    "nvfp4": None,
    "mxfp4": None,
}


def scheme_of(name):
    form, w, a = SCHEMES[name][:3]
    return QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**dict(w, strategy=w.get("strategy", "group"))),
        input_activations=a and QuantizationArgs(**dict(a, strategy=a.get("strategy", "group"))),
        format=form,
    )


def model(out, name, made):
    folder = out / f"stored_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = LlamaConfig(**LLAMA)
    torch.manual_seed(30)
    plain = LlamaForCausalLM(config)
    for p in plain.parameters():
        p.add_(torch.randn_like(p) * 0.08)
    if made:
        quantization, encode = made
    else:
        scheme = scheme_of(name)
        quantization = scheme_config(scheme)
        encode = lambda w: compressed_linear(scheme, w)  # noqa: E731
    tensors = {}
    for key, value in plain.to(torch.bfloat16).state_dict().items():
        if "_proj." in key:
            module = key.removesuffix(".weight")
            tensors |= {f"{module}.{x}": y.contiguous() for x, y in encode(value).items()}
        else:
            tensors[key] = value.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = {**config.to_diff_dict(), "architectures": ["LlamaForCausalLM"],
            "dtype": "bfloat16", "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    ids = torch.randint(3, 48, (2, 12), generator=torch.Generator().manual_seed(31))
    values = {"ids": ids.int()}
    for key in ("bf16", "f32"):
        try:
            loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[key]).eval()
            if name == "fp8":  # which leaves other tensors as they are stored
                loaded.to(DTYPES[key])
            values[f"logits.{key}"] = loaded(input_ids=ids).logits.float()
        except RuntimeError as e:  # the 4-bit floats are decoded to bf16 always
            if key == "bf16" or "dtype" not in str(e):
                raise
    save(folder / "reference.safetensors", values)


@torch.no_grad()
def main():
    out = output_folder("")
    torch.manual_seed(29)
    matrices(out / "codecs" / "stored")
    for name, made in MODELS.items():
        model(out / "models", name, made)


if __name__ == "__main__":
    main()
