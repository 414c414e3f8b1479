# SPDX-License-Identifier: BSD-2-Clause
"""SAELensSAE: a qsae SAE in the shape of SAELens' SAE. Imports torch, and TransformerLens where it
is installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import numpy as np

from ._arrays import Sparse
from ._lib import STATUS, Error, fail
from .compat_rows import rows, wide
from .context import Context
from .sae import SAE

try:
    torch: Any = importlib.import_module("torch")
except ImportError as _error:
    raise Error(STATUS["QSAE_EUNSUPPORTED"], "QSAE_EUNSUPPORTED",
                "compat.SAELensSAE: expected the Python package torch; found none "
                "(python3 -m pip install torch)") from _error

_Base: Any = torch.nn.Module
_HookPoint: Any = torch.nn.Identity
if importlib.util.find_spec("transformer_lens") is not None:
    _Base = importlib.import_module("transformer_lens.HookedTransformer").HookedRootModule
    _HookPoint = importlib.import_module("transformer_lens.hook_points").HookPoint

_ROWS = 2 ** 22  # floats of W_dec read at a time
_FAR = float(2.0 ** 60)


class Metadata:
    """SAELens' SAEMetadata: what is not known is None."""

    def __init__(self, **known: Any):
        self.__dict__.update(known)

    def __getattr__(self, _name: str) -> None:
        return None

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__

    def get(self, name: str, default: Any = None) -> Any:
        """What is known, else default."""
        return self.__dict__.get(name, default)

    def to_dict(self) -> dict[str, Any]:
        """All that is known."""
        return dict(self.__dict__)


class Config:
    """SAELens' SAEConfig. metadata.hook_name and the like are the files'."""

    def __init__(self, sae: SAE, dtype: Any, device: Any):
        info = sae.info
        self.d_in, self.d_out, self.d_sae = info["width"], info["width_out"], info["features"]
        self.dtype, self.device = str(dtype).replace("torch.", ""), str(device)
        self.apply_b_dec_to_input = bool(info["apply_b_dec"])
        self.normalize_activations = info["normalize"]
        self.reshape_activations = "hook_z" if info["hook"].endswith("hook_z") and \
            info["head"] < 0 else "none"
        self._architecture = info["architecture"]
        if info["k"]:
            self.k = info["k"]
        known = {"hook_name": info["hook"] or None, "model_name": info["model_name"] or None,
                 "neuronpedia_id": info["neuronpedia_id"] or None,
                 "context_size": info["context_size"] or None,
                 "prepend_bos": None if info["prepend_bos"] < 0 else bool(info["prepend_bos"]),
                 "hook_head_index": None if info["head"] < 0 else info["head"],
                 "hook_name_out": info["hook_out"] if info["transcoder"] else None}
        self.metadata = Metadata(**{k: v for k, v in known.items() if v is not None})

    def architecture(self) -> str:
        """As qsae names it: "standard", "topk", ..."""
        return str(self._architecture)

    def to_dict(self) -> dict[str, Any]:
        """All that is known."""
        out = {k: v for k, v in self.__dict__.items() if not k.startswith("_")}
        return {**out, "metadata": self.metadata.to_dict(), "architecture": self.architecture()}


class SAELensSAE(_Base):  # type: ignore[misc]
    """A qsae.SAE where code expects a SAELens SAE: encode, decode, forward, cfg, the hook points
    hook_sae_input, hook_sae_acts_post, hook_sae_recons, hook_sae_error and hook_sae_output, and
    HookedSAETransformer.add_sae.

    sae              qsae.SAE; it stays the caller's to close
    device, dtype    of the tensors that come out (torch.float32). Rows are computed by libqsae, in
                     f32 on the CPU, whatever they are
    use_error_term   forward() adds what the SAE does not explain

    qsae      the qsae.SAE
    W_dec     [d_sae, d_in] and b_dec [d_in]: as a SAELens file has them, of other formats as
              decoding uses them
    W_enc, b_enc, threshold, ...   as a SAELens file has them; other formats: AttributeError

    There is no gradient: inputs that require one are refused. Of SAEs that normalise their input
    decode() takes the activations of the last encode(), as in SAELens. There is no
    hook_sae_acts_pre: what lies before the activation is not kept.
    """

    def __init__(self, sae: SAE, device: Any = "cpu", dtype: Any = torch.float32,
                 use_error_term: bool = False):
        super().__init__()
        if not isinstance(sae, SAE):
            fail("QSAE_EINVAL", f"sae: expected a qsae.SAE, found {type(sae).__name__}")
        if sae.info["skip"] or sae.info["encode_only"]:
            fail("QSAE_EUNSUPPORTED", "sae: transcoders with a skip connection and single layers "
                                      "of cross-layer transcoders have no SAELens form here")
        self.qsae = sae
        self.device, self.dtype = torch.device(device), dtype
        self.cfg = Config(sae, dtype, self.device)
        self.use_error_term = use_error_term
        self.hook_z_reshaping_mode = self.cfg.reshape_activations == "hook_z"
        self.d_head: int | None = None
        self._kept: dict[str, Any] = {}
        self._state: tuple[tuple[int, ...], Any] | None = None
        for name in ("input", "acts_post", "recons", "output", "error"):
            setattr(self, "hook_sae_" + name, _HookPoint())
        if hasattr(self, "setup"):
            self.setup()

    @classmethod
    def load_from_disk(cls, path: Any, device: Any = "cpu", dtype: Any = None,
                       ctx: Context | None = None) -> SAELensSAE:
        """Opens any format of doc/saes.md; a context of its own if none is given."""
        return cls(SAE(ctx or Context(), path), device,
                   getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32)

    def turn_on_forward_pass_hook_z_reshaping(self) -> None:
        """Rows come as [..., heads, d_head]."""
        self.hook_z_reshaping_mode = True

    def turn_off_forward_pass_hook_z_reshaping(self) -> None:
        """Rows come as [..., d_in]."""
        self.hook_z_reshaping_mode = False

    def to(self, *args: Any, **kwargs: Any) -> SAELensSAE:
        """Of the tensors that come out."""
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
        if device is not None:
            self.device = torch.device(device)
            self.cfg.device = str(self.device)
        if dtype is not None:
            self.dtype = dtype
            self.cfg.dtype = str(dtype).replace("torch.", "")
        return self

    def _tensor(self, array: Any) -> Any:
        return torch.from_numpy(array).to(self.device, self.dtype)

    def _no_gradient(self, x: Any, what: str) -> None:
        if not isinstance(x, torch.Tensor):
            fail("QSAE_EINVAL", f"{what}: expected a torch tensor, found {type(x).__name__}")
        if x.requires_grad and torch.is_grad_enabled():
            fail("QSAE_EUNSUPPORTED", f"{what}: found a tensor that requires a gradient, which "
                                      "libqsae does not compute: run under torch.no_grad(), or "
                                      "pass x.detach()")

    def encode(self, x: Any) -> Any:
        """Activations [..., d_sae] of rows [..., d_in]; of hook_z also [..., heads, d_head]."""
        self._no_gradient(x, "encode")
        if self.hook_z_reshaping_mode:
            self.d_head = int(x.shape[-1])
            x = x.flatten(-2, -1)
        x = self.hook_sae_input(x)
        # SAELens computes in the SAE's dtype; libqsae rounds nothing.
        array, state = self.qsae.encode(rows(x), return_state=True)
        self._state = None if state is None else (tuple(array.shape[:-1]), state)
        return self.hook_sae_acts_post(self._tensor(array))

    def decode(self, feature_acts: Any) -> Any:
        """Rows [..., d_in] of activations [..., d_sae], sparse tensors too."""
        self._no_gradient(feature_acts, "decode")
        if feature_acts.layout is not torch.strided:
            feature_acts = feature_acts.to_dense()
        state = None
        if self.qsae.state_size:
            if self._state is None or self._state[0] != tuple(feature_acts.shape[:-1]):
                fail("QSAE_EINVAL", "decode: this SAE normalises its input "
                                    f"({self.cfg.normalize_activations}); expected the activations "
                                    "of the last encode()")
            state, self._state = self._state[1], None
        array = wide(feature_acts)
        y = self.hook_sae_recons(self._tensor(self.qsae.decode(array, state=state)))
        if self.hook_z_reshaping_mode and self.d_head:
            y = y.unflatten(-1, (-1, self.d_head))
        return y

    def forward(self, x: Any) -> Any:
        """decode(encode(x)), with the error added if use_error_term."""
        out = self.decode(self.encode(x))
        if self.use_error_term:
            with torch.no_grad():
                flat = x.flatten(-2, -1) if self.hook_z_reshaping_mode else x
                clean = self._tensor(self.qsae.reconstruct(rows(flat))).reshape(x.shape)
                error = self.hook_sae_error(x - clean)
            out = out + error
        return self.hook_sae_output(out)

    def get_name(self) -> str:
        """Of model, hook and size, as SAELens makes it."""
        meta = self.cfg.metadata
        return f"sae_{meta.model_name}_{meta.hook_name}_{self.cfg.d_sae}"

    @property
    def W_dec(self) -> Any:  # noqa: N802
        """Decoder rows [d_sae, d_in]."""
        return self._weight("W_dec")

    @property
    def b_dec(self) -> Any:
        """Decoder bias [d_in]."""
        return self._weight("b_dec")

    def _weight(self, name: str) -> Any:
        if name not in self._kept:
            info = self.qsae.info
            if info["format"] == "saelens" and not info["scale"]:
                self._kept[name] = self._stored()[name]
            elif self.qsae.state_size:
                fail("QSAE_EUNSUPPORTED", f"{name}: this SAE normalises its input; its weights are "
                                          "read from SAELens files only")
            elif name == "b_dec":
                zero = np.zeros((1, self.qsae.features), np.float32)
                self._kept[name] = torch.from_numpy(self.qsae.decode(zero)[0])
            else:
                self._kept[name] = torch.from_numpy(decoder(self.qsae))
        return self._kept[name].to(self.device, self.dtype)

    def _stored(self) -> dict[str, Any]:
        """The tensors of a SAELens folder, by their names."""
        if "stored" not in self._kept:
            load_file = importlib.import_module("safetensors.torch").load_file
            path = self.qsae.info["path"]
            if os.path.isdir(path):
                path = os.path.join(path, "sae_weights.safetensors")
            self._kept["stored"] = load_file(path)
        return dict(self._kept["stored"])

    def __getattr__(self, name: str) -> Any:
        """Weights that only the files have."""
        if name.startswith("_") or name not in ("W_enc", "b_enc", "threshold", "log_threshold",
                                                "b_gate", "b_mag", "r_mag"):
            return super().__getattr__(name)
        if self.qsae.info["format"] == "saelens":
            stored = self._stored()
            if name in stored:
                return stored[name].to(self.device, self.dtype)
        raise AttributeError(f"{name}: not known of this SAE ({self.qsae.info['format']}, "
                             f"{self.qsae.architecture})")


def decoder(sae: SAE) -> Any:
    """W_dec [features, width_out] by decoding. Decoding is linear, in f64 and rounded once: of
    activations +-2^60 the bias is lost and the difference has the bits of the row."""
    out = np.empty((sae.features, sae.width_out), np.float32)
    step, prefix = max(_ROWS // sae.width_out, 1), sae.prefix
    sae.prefix = 0
    try:
        for a in range(0, sae.features, step):
            index = np.arange(a, min(a + step, sae.features), dtype=np.int32)
            indptr = np.arange(len(index) + 1)
            far = np.full(len(index), _FAR, np.float32)
            up = sae.decode(Sparse(indptr, index, far, sae.features))
            down = sae.decode(Sparse(indptr, index, -far, sae.features))
            out[a:a + len(index)] = (up.astype(np.float64) - down) / (2 * _FAR)
    finally:
        sae.prefix = prefix
    return out
