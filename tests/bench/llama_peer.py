# SPDX-License-Identifier: BSD-2-Clause
"""llama.cpp's side of compare_peers.py. write() converts a random Gemma 3 folder to GGUF;
as a program it times passes that keep the logits of every token: FILE IDS THREADS, prints JSON.
"""

import ctypes
import json
import sys
import time

import gguf
import llama_cpp.llama_cpp as llama
import numpy as np

TOKENS = 512
FTYPES = {"f32": 0, "q4_0": 2, "q8_0": 7, "bf16": 32}  # enum llama_ftype

NAMES = {
    "input_layernorm": "attn_norm",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.v_proj": "attn_v",
}


def gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def safetensors(path):
    """(name, shape, bf16 bits) of every tensor."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                bits = np.frombuffer(file.read(end - begin), "<u2")
                yield name, entry["shape"], bits.reshape(entry["shape"])


def describe(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_sliding_window(config["sliding_window"])
    vocabulary = config["vocab_size"]
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{i}>".encode() for i in range(vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([1] * vocabulary)
    for number, add in enumerate((writer.add_pad_token_id, writer.add_eos_token_id,
                                  writer.add_bos_token_id, writer.add_unk_token_id)):
        add(number)


def convert(folder, path):
    writer = gguf.GGUFWriter(path, "gemma3")
    describe(writer, json.loads((folder / "config.json").read_text()))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for name, shape, bits in safetensors(folder / "model.safetensors"):
        if len(shape) == 1:  # the norms' gains are 1 + w here
            values = (bits.astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(gguf_name(name), values + np.float32(1))
        else:
            writer.add_tensor(gguf_name(name), bits.view(np.uint8),
                              raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(folder, name):
    """folder/NAME.gguf, every matrix of that type, the embedding (and so the head) too."""
    source, path = folder / "bf16.gguf", folder / f"{name}.gguf"
    if not source.exists():
        convert(folder, source)
    if not path.exists():
        settings = llama.llama_model_quantize_default_params()
        settings.ftype, settings.pure = FTYPES[name], True
        llama.llama_backend_init()
        code = llama.llama_model_quantize(str(source).encode(), str(path).encode(),
                                          ctypes.byref(settings))
        if code:
            raise OSError(f"{path}: llama_model_quantize: {code}")
    return path


def open_context(path, threads):
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = TOKENS
    settings.n_threads = settings.n_threads_batch = threads
    return llama.llama_init_from_model(model, settings)


def run(context, batch, ids):
    """Seconds of one sequence with all its logits."""
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i] = int(token), i
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    start = time.perf_counter()
    code = llama.llama_decode(context, batch)
    seconds = time.perf_counter() - start
    if code:
        raise OSError(f"llama_decode: {code}")
    return seconds


def cross_entropy(context, ids):
    logits = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(len(ids), 262144))
    logits = logits[:-1].astype(np.float64)
    top = logits.max(1)
    total = np.log(np.exp(logits - top[:, None]).sum(1)) + top
    return float((total - logits[np.arange(len(ids) - 1), ids[1:]]).mean())


def main():
    ids = np.fromfile(sys.argv[2], np.int32).reshape(-1, TOKENS)
    context = open_context(sys.argv[1], int(sys.argv[3]))
    batch = llama.llama_batch_init(TOKENS, 0, 1)
    run(context, batch, ids[0])
    ce = cross_entropy(context, ids[0])
    seconds = [run(context, batch, row) for row in ids[1:6]]
    print(json.dumps({"forward": TOKENS / float(np.median(seconds)), "ce": ce}))


if __name__ == "__main__":
    main()
