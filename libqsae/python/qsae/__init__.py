# SPDX-License-Identifier: BSD-2-Clause
"""What did compressing this language model do to its predictions and to its SAE features?

ctypes bindings of libqsae; see doc/python.md. Arrays in and out are NumPy's.
"""

from __future__ import annotations

from . import edits, metrics
from ._arrays import Sparse, from_bf16, to_bf16
from ._handle import CancelToken
from ._lib import LIBRARY_PATH, Error
from ._lib import version as _version
from .audit import Audit, Result, evaluate, merge_states
from .context import Context, cpu_best
from .frames import frame
from .model import EditInfo, Model, Output, Weights
from .predictor import Predictor
from .probes import Probes
from .quantizer import QMatrix, Quantizer, int8_quantize
from .sae import SAE
from .sae_layers import SAELayers
from .sources import TextSource
from .taps import TapRows
from .tensors import Tensors
from .text import Chunk, Corpus, Tokenizer

__version__ = _version()

__all__ = ["LIBRARY_PATH", "SAE", "Audit", "CancelToken", "Chunk", "Context", "Corpus", "EditInfo",
           "Error", "Model", "Output", "Predictor", "Probes", "QMatrix", "Quantizer", "Result",
           "SAELayers", "Sparse", "TapRows", "Tensors", "TextSource", "Tokenizer", "Weights",
           "cpu_best", "edits", "evaluate", "frame", "from_bf16", "int8_quantize", "merge_states",
           "metrics", "to_bf16"]
