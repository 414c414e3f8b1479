# SPDX-License-Identifier: BSD-2-Clause
"""Write an SAE with random weights as a SAELens folder, for timing. Only NumPy is needed.

Decoder rows are unit vectors and the encoder is their transpose, so a feature's input on random
rows of root mean square r is normal with deviation r: the threshold follows from the wanted L0.
"""

import argparse
import json
import pathlib
import statistics
import struct
import sys

import numpy as np


def threshold_for(l0, width, rms=1.0):
    """Above it lies a normal input of deviation rms with probability l0 / width."""
    return rms * statistics.NormalDist().inv_cdf(1 - l0 / width)


def config_of(architecture, d, width, k, hook):
    config = {
        "d_in": d,
        "d_sae": width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "model_name": "random", "hook_name": hook},
        "architecture": architecture,
    }
    if architecture == "topk":
        config |= {"k": k, "rescale_acts_by_decoder_norm": False}
    return config


def write(folder, architecture, d, width, threshold, k=64, hook="blocks.0.hook_resid_post", seed=0):
    decoder = np.random.default_rng(seed).standard_normal((width, d), np.float32)
    decoder /= np.sqrt(np.einsum("ij,ij->i", decoder, decoder))[:, None]
    zeros = np.zeros(width, np.float32)
    tensors = {
        "W_dec": decoder,
        "W_enc": np.ascontiguousarray(decoder.T),
        "b_dec": np.zeros(d, np.float32),
        "b_enc": zeros - np.float32(threshold) if architecture == "standard" else zeros,
    }
    if architecture == "jumprelu":
        tensors["threshold"] = zeros + np.float32(threshold)
    header, offset = {}, 0
    for name, value in tensors.items():
        end = offset + value.nbytes
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config_of(architecture, d, width, k, hook)) + "\n")
    with open(folder / "sae_weights.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            value.tofile(out)
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--architecture", choices=["jumprelu", "topk", "standard"], default="jumprelu")
    parser.add_argument("--d", type=int, default=2560)
    parser.add_argument("--width", type=int, default=16384)
    parser.add_argument("--l0", type=int, default=64)
    parser.add_argument("--rms", type=float, default=1.0, help="root mean square of the rows")
    parser.add_argument("--hook", default="blocks.0.hook_resid_post")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    size = write(
        args.folder,
        args.architecture,
        args.d,
        args.width,
        threshold_for(args.l0, args.width, args.rms),
        args.l0,
        args.hook,
        args.seed,
    )
    print(f"{size / 1e9:.2f} GB", file=sys.stderr)


if __name__ == "__main__":
    main()
