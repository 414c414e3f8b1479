# SPDX-License-Identifier: BSD-2-Clause
"""What did compressing this language model do to its predictions and to its SAE features?

ctypes bindings of libqsae; see doc/python.md. Arrays in and out are NumPy's.
"""

from . import edits, metrics
from ._arrays import Sparse, from_bf16, to_bf16
from ._lib import LIBRARY_PATH, Error, version as _version
from .audit import Audit, evaluate, merge_states
from .context import Context, cpu_best
from .model import EditInfo, Model, Output, Weights
from .probes import Probes
from .predictor import Predictor
from .quantizer import QMatrix, Quantizer, int8_quantize
from .sae import SAE
from .sae_layers import SAELayers
from .tensors import Tensors
from .text import Chunk, Corpus, Tokenizer

__version__ = _version()

__all__ = ["Audit", "Chunk", "Context", "Corpus", "EditInfo", "Error", "LIBRARY_PATH", "Model",
           "Output", "Predictor", "Probes", "QMatrix", "Quantizer", "SAE", "SAELayers", "Sparse",
           "Tensors", "Tokenizer", "Weights", "cpu_best", "edits", "evaluate", "from_bf16",
           "int8_quantize", "merge_states", "metrics", "to_bf16"]
