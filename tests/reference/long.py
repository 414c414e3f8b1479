# SPDX-License-Identifier: BSD-2-Clause
"""A long window of a tiny Gemma 3, and rotary tables at large positions.

long.safetensors: oracle.nll F64 of every 64th position of TOKENS ids 3 + i * i * 7 mod (vocab - 3)
through models/gemma3_sharded in binary64 (f32 rotary tables, as in models.py), f32.nll of torch in
f32; rope.THETA.cos and .sin F32 [positions, pairs] of torch at "rope.positions", 64 entries.
"""

import pathlib

from common import DATA, one_thread, output_folder, save

torch = one_thread()

import numpy as np
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

MODEL, TOKENS, STEP, CHUNK = "gemma3_sharded", 32768, 64, 512
POSITIONS = [0, 1, 4095, 8191, 32767, 65535, 99999, 131071]


def attention(module, query, key, value, attention_mask, scaling=None, **unused):
    """Eager attention a few hundred queries at a time, on the keys that they see."""
    window = getattr(module, "sliding_window", None)
    key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    out = []
    for q0 in range(0, query.shape[2], CHUNK):
        q1 = min(q0 + CHUNK, query.shape[2])
        k0 = max(0, q0 - window + 1) if window else 0
        i, j = torch.arange(q0, q1)[:, None], torch.arange(k0, q1)[None]
        hidden = (j > i) | (j <= i - window if window else torch.tensor(False))
        s = query[:, :, q0:q1] @ key[:, :, k0:q1].transpose(2, 3) * scaling
        p = torch.softmax(s.masked_fill(hidden, float("-inf")), -1)
        out.append(p @ value[:, :, k0:q1])
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register("pieces", attention)
AttentionMaskInterface.register("pieces", lambda *args, **kwargs: None)


def nll(dtype, ids):
    model = AutoModelForCausalLM.from_pretrained(DATA / "models" / MODEL, dtype=torch.float32,
                                                 attn_implementation="pieces").to(dtype).eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        logp = torch.log_softmax(logits.double(), -1)
    return -logp.gather(1, ids[0, 1:, None]).squeeze(1).numpy()[::STEP]


def rope(theta):
    c = LlamaConfig(hidden_size=64, num_attention_heads=1, head_dim=64,
                    rope_parameters={"rope_type": "default", "rope_theta": theta})
    cos, sin = LlamaRotaryEmbedding(c)(torch.zeros(1, dtype=torch.float32),
                                       torch.tensor([POSITIONS]))
    return cos[0, :, :32].numpy(), sin[0, :, :32].numpy()


def main():
    vocab = 128
    i = np.arange(TOKENS, dtype=np.int64)
    ids = torch.tensor(3 + i * i * 7 % (vocab - 3))[None]
    oracle, own = nll(torch.float64, ids), nll(torch.float32, ids)
    print("rms of torch f32:", np.sqrt(np.mean((own - oracle) ** 2)), "mean nll", oracle.mean())
    tensors = {"oracle.nll": oracle, "f32.nll": own.astype(np.float32),
               "rope.positions": np.array(POSITIONS, np.int32)}
    for theta in (10000, 1000000):
        tensors[f"rope.{theta}.cos"], tensors[f"rope.{theta}.sin"] = rope(float(theta))
    save(pathlib.Path(output_folder("long")) / "long.safetensors", tensors)


if __name__ == "__main__":
    main()
