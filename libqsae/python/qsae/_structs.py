# SPDX-License-Identifier: BSD-2-Clause
"""The C structs, constants and prototypes, mirrored. tests/python/test_layout.py compares all three
with the headers, so that this file cannot drift from them."""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from typing import Any

API_MAJOR, API_MINOR = 0, 1

CONSTANTS = {
    "QSAE_LOG_DEFAULT": 0, "QSAE_LOG_NONE": 1, "QSAE_LOG_ERROR": 2, "QSAE_LOG_WARNING": 3,
    "QSAE_LOG_INFO": 4, "QSAE_LOG_DEBUG": 5,
    "QSAE_FILES_DEFAULT": 0, "QSAE_FILES_MAP": 1, "QSAE_FILES_READ": 2,
    "QSAE_MASK_EXCLUDED": 1, "QSAE_MASK_SPECIAL": 2, "QSAE_MASK_FIRST": 4,
    "QSAE_BOS_DEFAULT": 0, "QSAE_BOS_NONE": 1, "QSAE_BOS_STREAM_START": 2,
    "QSAE_BOS_DOC_START": 3, "QSAE_BOS_CHUNK_START": 4,
    "QSAE_BOS_CHUNK_REPLACE": 5,
    "QSAE_PACK_DEFAULT": 0, "QSAE_PACK_STREAM": 1, "QSAE_PACK_TL": 2, "QSAE_PACK_SAELENS": 3,
    "QSAE_PACK_TL2": 4,
    "QSAE_TEXT_DEFAULT": 0, "QSAE_TEXT_PLAIN": 1, "QSAE_TEXT_JSONL": 2,
    "QSAE_TEXT_IDS": 3, "QSAE_TEXT_WHOLE": 4,
    "QSAE_COMPUTE_DEFAULT": 0, "QSAE_COMPUTE_F32": 1, "QSAE_COMPUTE_BF16": 2,
    "QSAE_ATTN_DEFAULT": 0, "QSAE_ATTN_EAGER": 1, "QSAE_ATTN_SDPA": 2, "QSAE_ATTN_FP32": 3,
    "QSAE_SITE_RESID_POST": 1,
    "QSAE_FEATURE_SET": 1, "QSAE_FEATURE_ADD": 2, "QSAE_FEATURE_SCALE": 3,
    "QSAE_SITE_RESID_PRE": 2,
    "QSAE_SITE_RESID_MID": 3,
    "QSAE_SITE_ATTN_OUT": 4,
    "QSAE_SITE_MLP_OUT": 5,
    "QSAE_SITE_Z": 6,
    "QSAE_SITE_MLP_IN": 7,
    "QSAE_SITE_EMBED": 8,
    "QSAE_SITE_FINAL_NORM": 9,
    "QSAE_SITE_LN2_NORMALIZED": 10,
    "QSAE_SITE_FINAL_NORMALIZED": 11,
    "QSAE_SITE_LN1_NORMALIZED": 12,
    "QSAE_SITE_MLP_POST": 13,
    "QSAE_SITE_POS_EMBED": 14,
    "QSAE_METRIC_LEAF": 256, "QSAE_METRIC_LLAMA_LINE": 10,
    "QSAE_PROFILE_DEFAULT": 0, "QSAE_PROFILE_ARTICLE": 1, "QSAE_PROFILE_PAPER": 2,
    "QSAE_MEMORY_DEFAULT": 0, "QSAE_MEMORY_RESIDENT": 1, "QSAE_MEMORY_STREAMED": 2,
    "QSAE_MERGE_NUMERICS": 1, "QSAE_MEMORY_IN_TURN": 3,
    "QSAE_SWEEP_NONE": 0, "QSAE_SWEEP_LAYERS": 1, "QSAE_SWEEP_MODULES": 2, "QSAE_SWEEP_KINDS": 3,
    "QSAE_LAYOUT_STRUCT": 1, "QSAE_LAYOUT_MEMBER": 2, "QSAE_LAYOUT_CONSTANT": 3,
    "QSAE_API_VERSION_MAJOR": API_MAJOR, "QSAE_API_VERSION_MINOR": API_MINOR,
    "QSAE_API_VERSION_PATCH": 0,
}
LAYOUT_STRUCT, LAYOUT_MEMBER, LAYOUT_CONSTANT = (
    CONSTANTS["QSAE_LAYOUT_" + kind] for kind in ("STRUCT", "MEMBER", "CONSTANT"))


class Struct(Structure):
    """A C struct whose first member is struct_size. Starts zeroed, as _init functions leave it."""

    def __init__(self, **members: Any) -> None:
        super().__init__(struct_size=sizeof(self), **members)

    def as_dict(self, *without: str) -> dict[str, Any]:
        """Members by name, strings decoded."""
        out: dict[str, Any] = {}
        for name, *_ in self._fields_:
            if name in ("struct_size", "reserved") or name in without:
                continue
            value = getattr(self, name)
            out[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return out


PROGRESS = CFUNCTYPE(c_int32, c_void_p, c_int64, c_int64, c_char_p, c_char_p)
LINE = CFUNCTYPE(c_int32, c_void_p, c_char_p, c_size_t)
LOG = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)
ALLOC = CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_size_t)
FREE = CFUNCTYPE(None, c_void_p, c_void_p)


class LayoutEntry(Struct):
    _fields_ = [("struct_size", c_size_t), ("name", c_char_p), ("type", c_char_p),
                ("value", c_int64), ("size", c_int64), ("kind", c_int32), ("reserved", c_int32)]


class ContextSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("cpu", c_char_p), ("log", LOG),
                ("log_cookie", c_void_p), ("alloc", ALLOC), ("free", FREE),
                ("alloc_cookie", c_void_p), ("threads", c_int32),
                ("log_level", c_int32), ("files", c_int32), ("pin", c_int32),
                ("share_folder", c_char_p)]


class Rows(Struct):
    _fields_ = [("struct_size", c_size_t), ("data", c_void_p), ("n_rows", c_int64),
                ("n_cols", c_int64), ("row_stride", c_int64), ("dtype", c_int32),
                ("reserved", c_int32)]


OBSERVER = CFUNCTYPE(c_int32, c_void_p, c_int32, c_int32, POINTER(Rows))


class Positions(Struct):
    _fields_ = [("struct_size", c_size_t), ("first_token", c_int64), ("document", c_void_p),
                ("position", c_void_p), ("mask", c_void_p), ("n_rows", c_int64)]


class TensorInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("name", c_char_p), ("file", c_char_p),
                ("shape", c_int64 * 8), ("bytes", c_uint64), ("rank", c_int32), ("dtype", c_int32)]


class TokenizerInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("vocab", c_int64), ("bos", c_int32), ("eos", c_int32),
                ("pad", c_int32), ("unk", c_int32), ("adds_bos", c_int32), ("adds_eos", c_int32),
                ("hash", c_char_p)]


class CorpusSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("text_field", c_char_p), ("separator", c_char_p),
                ("context", c_int64), ("max_tokens", c_int64), ("bos_policy", c_int32),
                ("format", c_int32), ("keep_tail", c_int32), ("cross_labels", c_int32),
                ("progress", PROGRESS), ("progress_cookie", c_void_p), ("cancel", c_void_p),
                ("stride", c_int64), ("score_from", c_int64), ("order", c_char_p),
                ("shuffle", c_char_p), ("where", POINTER(c_char_p)), ("n_where", c_int64),
                ("documents_from", c_int64), ("documents_to", c_int64), ("pack", c_int32),
                ("reserved", c_int32)]


class CorpusInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("tokens", c_int64), ("stream_tokens", c_int64),
                ("documents", c_int64), ("chunks", c_int64), ("context", c_int64),
                ("predicted_tokens", c_int64), ("bos_policy", c_int32), ("cross_labels", c_int32),
                ("token_hash", c_char_p), ("stride", c_int64), ("score_from", c_int64),
                ("scored_bytes", c_int64), ("scored_words", c_int64), ("pack", c_int32),
                ("reserved", c_int32)]


class DocumentInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("first_token", c_int64), ("n_tokens", c_int64),
                ("source", c_char_p), ("line", c_int64), ("metadata", c_char_p)]


class ModelInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("type", c_char_p), ("path", c_char_p),
                ("layers", c_int64), ("width", c_int64), ("vocab", c_int64), ("heads", c_int64),
                ("kv_heads", c_int64), ("head_dim", c_int64), ("mlp_width", c_int64),
                ("window", c_int64), ("max_positions", c_int64), ("parameters", c_int64),
                ("tied", c_int32), ("bos", c_int32), ("eos", c_int32), ("dtype", c_int32),
                ("storage", c_char_p), ("hash", c_char_p)]


class ModelSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("condition", c_char_p), ("compute", c_int32),
                ("attention", c_int32), ("progress", PROGRESS), ("progress_cookie", c_void_p),
                ("cancel", c_void_p), ("memory", c_int32), ("reserved", c_int32)]


class ModelCost(Struct):
    _fields_ = [("struct_size", c_size_t), ("weight_bytes", c_uint64),
                ("quantized_bytes", c_uint64), ("quantized_weights", c_int64),
                ("quantized_tensors", c_int64),
                ("bits_per_weight", c_double), ("condition", c_char_p), ("compute", c_int32),
                ("attention", c_int32), ("batch_dependent", c_int32),
                ("kv_bits_per_value", c_double)]


class Tap(Struct):
    _fields_ = [("struct_size", c_size_t), ("layer", c_int32), ("site", c_int32),
                ("observe", OBSERVER), ("edit", OBSERVER), ("cookie", c_void_p)]


class Pass(Struct):
    _fields_ = [("struct_size", c_size_t), ("ids", c_void_p), ("labels", c_void_p),
                ("n_seq", c_int64), ("n_tokens", c_int64), ("nll", c_void_p), ("logits", c_void_p),
                ("taps", POINTER(Tap)), ("n_taps", c_int64), ("stop_layer", c_int32),
                ("reserved", c_int32), ("progress", PROGRESS), ("progress_cookie", c_void_p),
                ("cancel", c_void_p)]


class Field(Struct):
    _fields_ = [("struct_size", c_size_t), ("name", c_char_p), ("data", c_void_p),
                ("bytes", c_uint64), ("shape", c_int64 * 4), ("rank", c_int32), ("dtype", c_int32)]


class WeightError(Struct):
    _fields_ = [("struct_size", c_size_t), ("module", c_char_p), ("format", c_char_p),
                ("layer", c_int64), ("rows", c_int64), ("cols", c_int64), ("nonfinite", c_int64),
                ("bytes", c_uint64), ("bits_per_weight", c_double),
                ("frobenius_relative", c_double), ("sqnr_db", c_double), ("max_abs", c_double),
                ("mean_abs", c_double), ("weight_norm", c_double), ("zeros", c_double)]


class SaveSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("dtype", c_int32), ("reserved", c_int32),
                ("max_shard_bytes", c_uint64), ("progress", PROGRESS),
                ("progress_cookie", c_void_p), ("cancel", c_void_p)]


class SaeSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("dtype", c_int32), ("reserved", c_int32),
                ("cancel", c_void_p), ("prefix", c_int64), ("scale", c_double), ("layer", c_char_p),
                ("activation", c_char_p), ("center_input", c_int32), ("reserved2", c_int32)]


class FeatureEdit(Struct):
    _fields_ = [("struct_size", c_size_t), ("feature", c_int64), ("operation", c_int32),
                ("value", c_float)]


class SaeInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("architecture", c_char_p), ("format", c_char_p),
                ("hook", c_char_p), ("normalize", c_char_p), ("hash", c_char_p), ("path", c_char_p),
                ("width", c_int64), ("width_out", c_int64), ("features", c_int64), ("k", c_int64),
                ("context_size", c_int64), ("min_threshold", c_float), ("prepend_bos", c_int32),
                ("apply_b_dec", c_int32), ("skip", c_int32), ("state_size", c_int32),
                ("widths", POINTER(c_int64)), ("n_widths", c_int64), ("prefix", c_int64),
                ("zero_rows", c_int64), ("center_input", c_int32), ("encode_only", c_int32),
                ("hook_out", c_char_p), ("model_name", c_char_p), ("neuronpedia_id", c_char_p),
                ("scale", c_double), ("norm_in", c_double), ("norm_out", c_double),
                ("transcoder", c_int32), ("head", c_int32)]


class SaeLayersInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("kind", c_char_p), ("format", c_char_p),
                ("hash", c_char_p), ("path", c_char_p), ("model_name", c_char_p),
                ("layers", c_int64), ("features", c_int64), ("width", c_int64),
                ("width_out", c_int64)]


class SaeActs(Struct):
    _fields_ = [("struct_size", c_size_t), ("indptr", c_void_p), ("indices", c_void_p),
                ("values", c_void_p)]


class MetricSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("batch_rows", c_int64), ("memory", c_uint64),
                ("fingerprint", c_char_p), ("active_rate", c_double), ("top", c_int64),
                ("prompt_tokens", c_int64), ("overlap_k", c_int64),
                ("documents_per_block", c_int64), ("seed", c_int64)]


class DivergenceRows(Struct):
    _fields_ = [("struct_size", c_size_t), ("n", c_int64), ("nll_r", c_void_p), ("nll_q", c_void_p),
                ("kl", c_void_p), ("top_r", c_void_p), ("top_q", c_void_p), ("label", c_void_p),
                ("entropy_r", c_void_p), ("entropy_q", c_void_p), ("topk_overlap", c_void_p)]


class LogitsInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("context", c_int64), ("vocab", c_int64),
                ("chunks", c_int64), ("first", c_int64), ("rows", c_int64)]


class SparseRows(Struct):
    _fields_ = [("struct_size", c_size_t), ("n", c_int64), ("indptr", c_void_p),
                ("indices", c_void_p), ("values", c_void_p)]


class MetricValue(Struct):
    _fields_ = [("struct_size", c_size_t), ("name", c_char_p), ("unit", c_char_p),
                ("description", c_char_p), ("value", c_double), ("low", c_double),
                ("high", c_double), ("jackknife_se", c_double)]


class AuditSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("model", c_char_p), ("text", c_char_p),
                ("conditions", POINTER(c_char_p)), ("saes", POINTER(c_char_p)),
                ("n_conditions", c_int64), ("n_saes", c_int64), ("text_field", c_char_p),
                ("state", c_char_p), ("context", c_int64), ("batch", c_int64),
                ("max_tokens", c_int64), ("profile", c_int32), ("compute", c_int32),
                ("attention", c_int32), ("bos_policy", c_int32), ("cross_labels", c_int32),
                ("keep_tail", c_int32),
                ("progress", PROGRESS), ("progress_cookie", c_void_p), ("cancel", c_void_p),
                ("sweep", c_int32), ("splice", c_int32), ("stride", c_int64),
                ("score_from", c_int64), ("order", c_char_p), ("shuffle", c_char_p),
                ("top_contexts", c_int64), ("exclude_tokens", c_char_p),
                ("slices", POINTER(c_char_p)), ("n_slices", c_int64),
                ("where", POINTER(c_char_p)), ("n_where", c_int64), ("documents_from", c_int64),
                ("documents_to", c_int64), ("pack", c_int32), ("reserved_pack", c_int32),
                ("process", c_char_p),
                ("stream_bytes", c_int64), ("memory", c_int32), ("reserved2", c_int32),
                ("overlap_k", c_int64),
                ("controls", c_int32), ("reserved_controls", c_int32),
                ("reference_only", c_int32), ("reserved3", c_int32),
                ("probes", c_char_p), ("kl_divergence_base", c_char_p),
                ("save_logits", c_char_p), ("kl_divergence", c_int32), ("reserved4", c_int32),
                ("plan", c_char_p), ("contexts", POINTER(c_int64)), ("n_contexts", c_int64),
                ("contexts_scored", c_int64), ("contexts_stride", c_int64),
                ("shard_index", c_int64), ("shard_count", c_int64), ("cache", c_char_p),
                ("seed", c_int64)]


class MergeInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("chunks", c_int64), ("measured_chunks", c_int64),
                ("gaps", c_int64), ("gap_from", c_int64), ("gap_to", c_int64)]


class ProbeSettings(Struct):
    _fields_ = [("struct_size", c_size_t), ("bos_policy", c_int32), ("reserved", c_int32)]


class ProbesInfo(Struct):
    _fields_ = [("struct_size", c_size_t), ("items", c_int64), ("tags", c_int64),
                ("longest", c_int64), ("scored_tokens", c_int64), ("bos", c_int32),
                ("bos_policy", c_int32), ("hash", c_char_p)]


class Probe(Struct):
    _fields_ = [("struct_size", c_size_t), ("context", POINTER(c_int32)),
                ("good", POINTER(c_int32)), ("bad", POINTER(c_int32)), ("tags", POINTER(c_int32)),
                ("n_context", c_int64), ("n_good", c_int64), ("n_bad", c_int64),
                ("n_tags", c_int64), ("good_bytes", c_int64), ("bad_bytes", c_int64),
                ("line", c_int64)]


class ProbeScore(Struct):
    _fields_ = [("struct_size", c_size_t), ("item", c_int64), ("good", c_double),
                ("bad", c_double)]


PROBE_SCORE = CFUNCTYPE(c_int32, c_void_p, POINTER(ProbeScore))

# C name of each struct, for the comparison with the headers.
STRUCTS = {
    "qsae_context_settings": ContextSettings, "qsae_rows": Rows, "qsae_positions": Positions,
    "qsae_tensor_info": TensorInfo, "qsae_tokenizer_info": TokenizerInfo,
    "qsae_corpus_settings": CorpusSettings, "qsae_corpus_info": CorpusInfo,
    "qsae_document_info": DocumentInfo, "qsae_model_info": ModelInfo,
    "qsae_model_settings": ModelSettings, "qsae_model_cost": ModelCost, "qsae_tap": Tap,
    "qsae_pass": Pass, "qsae_field": Field, "qsae_weight_error": WeightError,
    "qsae_save_settings": SaveSettings, "qsae_sae_settings": SaeSettings,
    "qsae_sae_info": SaeInfo, "qsae_feature_edit": FeatureEdit,
    "qsae_sae_layers_info": SaeLayersInfo, "qsae_sae_acts": SaeActs,
    "qsae_metric_settings": MetricSettings,
    "qsae_logits_info": LogitsInfo,
    "qsae_divergence_rows": DivergenceRows, "qsae_sparse_rows": SparseRows,
    "qsae_value": MetricValue, "qsae_audit_settings": AuditSettings,
    "qsae_probe_settings": ProbeSettings, "qsae_probes_info": ProbesInfo, "qsae_probe": Probe,
    "qsae_probe_score": ProbeScore,
    "qsae_merge_info": MergeInfo, "qsae_layout_entry": LayoutEntry,
}


def layout() -> dict[str, tuple[int, int, int]]:
    """What qsae_layout_get says of all that is mirrored here: name: (kind, value, size)."""
    out = {}
    for name, struct in STRUCTS.items():
        out[name] = (LAYOUT_STRUCT, 0, sizeof(struct))
        for member, *_ in struct._fields_:
            at = getattr(struct, member)
            out[f"{name}.{member}"] = (LAYOUT_MEMBER, at.offset, at.size)
    for name, value in CONSTANTS.items():
        out[name] = (LAYOUT_CONSTANT, value, 0)
    # May differ in a library of the same API.
    for part in ("MINOR", "PATCH"):
        del out["QSAE_API_VERSION_" + part]
    return out


class Status:
    """Result type of calls that return a status: a negative one raises."""


# Handles and arrays are plain addresses; ref is where a handle is stored, text a C string.
_ptr, _text, _i32, _i64, _size = c_void_p, c_char_p, c_int32, c_int64, c_size_t
_ref = POINTER(c_void_p)
_out_i32, _out_i64, _out_size, _out_text = (POINTER(c_int32), POINTER(c_int64), POINTER(c_size_t),
                                            POINTER(c_char_p))
_rows, _at = POINTER(Rows), POINTER(Positions)


def _init(struct: type[Struct]) -> tuple[Any, ...]:
    return (None, POINTER(struct), _size)


# name: (result, parameter...)
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    # version.h, common.h
    "qsae_version": (_text,),
    "qsae_version_api": (c_uint32,),
    "qsae_layout_count": (_i64,),
    "qsae_layout_get": (Status, _i64, POINTER(LayoutEntry)),
    "qsae_status_name": (_text, _i32),
    "qsae_status_message": (_text, _i32),
    "qsae_status_count": (_i32,),
    "qsae_error_message": (_text,),
    "qsae_cancel_token_open": (Status, _ref),
    "qsae_cancel_token_cancel": (None, _ptr),
    "qsae_cancel_token_reset": (None, _ptr),
    "qsae_cancel_token_close": (None, _ref),
    # context.h
    "qsae_context_settings_init": _init(ContextSettings),
    "qsae_context_open": (Status, POINTER(ContextSettings), _ref),
    "qsae_context_close": (None, _ref),
    "qsae_context_threads": (_i32, _ptr),
    "qsae_context_cpu": (_text, _ptr),
    "qsae_cpu_best": (_text,),
    "qsae_context_gemm": (_text, _ptr),
    "qsae_context_blis": (_text, _ptr),
    # tensor.h
    "qsae_dtype_name": (_text, _i32),
    "qsae_dtype_bits": (_i32, _i32),
    "qsae_dtype_block": (_i32, _i32, _out_i64, _out_i64),
    "qsae_dtype_from_name": (_i32, _text),
    "qsae_tensors_open": (Status, _ptr, _text, _ref),
    "qsae_tensors_close": (None, _ref),
    "qsae_tensors_count": (_i64, _ptr),
    "qsae_tensors_get": (Status, _ptr, _i64, POINTER(TensorInfo)),
    # text.h
    "qsae_tokenizer_open": (Status, _ptr, _text, _ref),
    "qsae_tokenizer_close": (None, _ref),
    "qsae_tokenizer_encode": (Status, _ptr, _text, _size, _i32, _ptr, _i64, _out_i64),
    "qsae_tokenizer_encode_cancelable": (Status, _ptr, _text, _size, _i32, _ptr, _ptr, _i64,
                                         _out_i64),
    "qsae_tokenizer_token": (Status, _ptr, _i32, _ref, _out_size),
    "qsae_tokenizer_get_info": (Status, _ptr, POINTER(TokenizerInfo)),
    "qsae_tokenizer_is_special": (_i32, _ptr, _i32),
    "qsae_bos_name": (_text, _i32),
    "qsae_bos_from_name": (_i32, _text),
    "qsae_pack_name": (_text, _i32),
    "qsae_pack_from_name": (_i32, _text),
    "qsae_corpus_settings_init": _init(CorpusSettings),
    "qsae_corpus_open": (Status, _ptr, _ptr, _text, POINTER(CorpusSettings), _ref),
    "qsae_corpus_open_ids": (Status, _ptr, _ptr, _i64, _i64, _ref),
    "qsae_corpus_close": (None, _ref),
    "qsae_corpus_get_info": (Status, _ptr, POINTER(CorpusInfo)),
    "qsae_corpus_chunk": (Status, _ptr, _i64, _ref, _ref, _ref, _out_i64),
    "qsae_corpus_document": (Status, _ptr, _i64, POINTER(DocumentInfo)),
    # model.h
    "qsae_weights_open": (Status, _ptr, _text, _ref),
    "qsae_weights_close": (None, _ref),
    "qsae_weights_get_info": (Status, _ptr, POINTER(ModelInfo)),
    "qsae_weights_process": (Status, _ptr, _text, _ref),
    "qsae_weights_processing": (_text, _ptr),
    "qsae_weights_matrix": (Status, _ptr, _text, _ref),
    "qsae_weights_matrix_count": (_i64, _ptr, _ptr),
    "qsae_weights_error": (Status, _ptr, _ptr, _text, _i64, POINTER(WeightError)),
    "qsae_save_settings_init": _init(SaveSettings),
    "qsae_weights_save": (Status, _ptr, _text, _text, POINTER(SaveSettings)),
    "qsae_model_settings_init": _init(ModelSettings),
    "qsae_model_open": (Status, _ptr, POINTER(ModelSettings), _ref),
    "qsae_model_close": (None, _ref),
    "qsae_model_get_info": (Status, _ptr, POINTER(ModelInfo)),
    "qsae_model_get_cost": (Status, _ptr, POINTER(ModelCost)),
    "qsae_site_name": (_text, _i32),
    "qsae_site_from_name": (_i32, _text, _out_i32),
    "qsae_model_site": (_i32, _ptr, _text, _out_i32),
    "qsae_model_site_width": (_i64, _ptr, _i32),
    "qsae_model_site_width_at": (_i64, _ptr, _i32, _i32),
    "qsae_pass_init": _init(Pass),
    "qsae_model_forward": (Status, _ptr, POINTER(Pass)),
    # quantizer.h
    "qsae_quantizer_open": (Status, _ptr, _text, _ref),
    "qsae_quantizer_close": (None, _ref),
    "qsae_quantizer_spec": (_text, _ptr),
    "qsae_quantizer_encode": (Status, _ptr, _rows, _i64, _i32, _ref),
    "qsae_qmatrix_close": (None, _ref),
    "qsae_qmatrix_rows": (_i64, _ptr),
    "qsae_qmatrix_cols": (_i64, _ptr),
    "qsae_qmatrix_bytes": (c_uint64, _ptr),
    "qsae_qmatrix_decode": (Status, _ptr, _rows),
    "qsae_qmatrix_field_count": (_i32, _ptr),
    "qsae_qmatrix_field": (Status, _ptr, _i32, POINTER(Field)),
    "qsae_tensors_matrix": (Status, _ptr, _text, _ref),
    "qsae_qmatrix_error": (Status, _ptr, _rows, POINTER(WeightError)),
    "qsae_qmatrix_linear": (Status, _ptr, _rows, _ptr, _i32, _rows),
    "qsae_int8_quantize": (Status, _ptr, _rows, c_float, _ptr, _ptr, _ptr),
    # sae.h
    "qsae_sae_settings_init": _init(SaeSettings),
    "qsae_sae_open": (Status, _ptr, _text, POINTER(SaeSettings), _ref),
    "qsae_sae_close": (None, _ref),
    "qsae_sae_get_info": (Status, _ptr, POINTER(SaeInfo)),
    "qsae_sae_set_prefix": (Status, _ptr, _i64),
    "qsae_sae_encode_sparse": (Status, _ptr, _rows, _ptr, _ptr, _ptr, _i64, _ptr, _out_i64),
    "qsae_sae_encode": (Status, _ptr, _rows, _rows, _ptr),
    "qsae_sae_decode_sparse": (Status, _ptr, _i64, _ptr, _ptr, _ptr, _ptr, _rows),
    "qsae_sae_decode": (Status, _ptr, _rows, _ptr, _rows),
    "qsae_sae_reconstruct": (Status, _ptr, _rows, _rows),
    "qsae_sae_features": (Status, _ptr, _text, _ptr, _i64),
    "qsae_sae_intervene": (Status, _ptr, _rows, POINTER(FeatureEdit), _i64, _i32, _rows),
    "qsae_sae_layers_open": (Status, _ptr, _text, POINTER(SaeSettings), _ref),
    "qsae_sae_layers_close": (None, _ref),
    "qsae_sae_layers_get_info": (Status, _ptr, POINTER(SaeLayersInfo)),
    "qsae_sae_layers_get": (Status, _ptr, _i64, _out_i64, _ref),
    "qsae_sae_layers_decode_sparse": (Status, _ptr, POINTER(SaeActs), _i64, _i64, _rows),
    "qsae_sae_layers_reconstruct": (Status, _ptr, POINTER(_rows), POINTER(_rows)),
    # metrics.h
    "qsae_metric_leaf": (_i64,),
    "qsae_metric_settings_init": _init(MetricSettings),
    "qsae_metric_open_cross_entropy": (Status, _ptr, POINTER(MetricSettings), _ref),
    "qsae_metric_open_divergence": (Status, _ptr, POINTER(MetricSettings), _ref),
    "qsae_metric_open_reconstruction": (Status, _ptr, _i64, _i64, POINTER(MetricSettings), _ref),
    "qsae_metric_open_features": (Status, _ptr, _i64, POINTER(MetricSettings), _ref),
    "qsae_metric_open_drift": (Status, _ptr, _i64, POINTER(MetricSettings), _ref),
    "qsae_metric_close": (None, _ref),
    "qsae_metric_kind": (_text, _ptr),
    "qsae_metric_update_cross_entropy": (Status, _ptr, _at, _i64, _ptr),
    "qsae_metric_update_divergence": (Status, _ptr, _at, POINTER(DivergenceRows)),
    "qsae_metric_update_divergence_logits": (Status, _ptr, _at, _rows, _rows, _ptr),
    "qsae_metric_update_cross_entropy_logits": (Status, _ptr, _at, _rows, _ptr),
    "qsae_logits_reader_open": (Status, _ptr, _text, _ref),
    "qsae_logits_reader_close": (None, _ref),
    "qsae_logits_reader_get_info": (Status, _ptr, POINTER(LogitsInfo)),
    "qsae_logits_reader_tokens": (Status, _ptr, _i64, _ref),
    "qsae_logits_reader_rows": (Status, _ptr, _i64, _ptr, _i64),
    "qsae_logits_writer_open": (Status, _ptr, _text, POINTER(LogitsInfo), _ptr, _ref),
    "qsae_logits_writer_add": (Status, _ptr, _rows),
    "qsae_logits_writer_finish": (Status, _ptr),
    "qsae_logits_writer_close": (None, _ref),
    "qsae_metric_open_llama_cpp": (Status, _ptr, POINTER(MetricSettings), _ref),
    "qsae_metric_update_llama_cpp_logits": (Status, _ptr, _at, _rows, _rows, _ptr),
    "qsae_metric_update_llama_cpp_base": (Status, _ptr, _ptr, _i64, _rows),
    "qsae_metric_llama_line": (_i64,),
    "qsae_metric_llama_lines": (Status, _ptr, _ptr, _ptr, _i64, _out_i64),
    "qsae_metric_update_reconstruction": (Status, _ptr, _at, _rows, _rows, POINTER(SparseRows)),
    "qsae_metric_update_features": (Status, _ptr, _at, POINTER(SparseRows), POINTER(SparseRows)),
    "qsae_metric_update_drift": (Status, _ptr, _at, _rows, _rows, _rows, _rows),
    "qsae_metric_count": (_i32, _ptr),
    "qsae_metric_value": (Status, _ptr, _i32, POINTER(MetricValue)),
    "qsae_metric_get": (Status, _ptr, _text, POINTER(c_double)),
    "qsae_metric_top": (Status, _ptr, _i64, _i32, _ptr, _ptr, _i64, _out_i64),
    "qsae_metric_features": (Status, _ptr, _text, _ptr, _i64),
    "qsae_metric_merge": (Status, _ptr, _ptr),
    "qsae_metric_reset": (None, _ptr),
    "qsae_metric_save": (Status, _ptr, _text),
    "qsae_metric_load": (Status, _ptr, _text),
    # audit.h
    "qsae_audit_settings_init": _init(AuditSettings),
    "qsae_audit_open": (Status, _ptr, POINTER(AuditSettings), _ref),
    "qsae_audit_close": (None, _ref),
    "qsae_audit_run": (Status, _ptr),
    "qsae_audit_merge": (Status, _ptr, POINTER(c_char_p), _i64, _text, _i32, POINTER(MergeInfo)),
    "qsae_audit_features": (Status, _ptr, _i64, LINE, _ptr),
    "qsae_audit_result": (Status, _ptr, _out_text, _out_size),
    # predictor.h
    "qsae_predictor_open": (Status, _ptr, _text, _text, _text, _ref),
    "qsae_predictor_close": (None, _ref),
    "qsae_predictor_json": (Status, _ptr, _out_text, _out_size),
    "qsae_predictor_run": (Status, _ptr, _ptr, _ptr, _ptr, _i64, _ptr, _ptr),
    # probe.h
    "qsae_probe_settings_init": _init(ProbeSettings),
    "qsae_probes_open": (Status, _ptr, _ptr, _text, POINTER(ProbeSettings), _ref),
    "qsae_probes_close": (None, _ref),
    "qsae_probes_get_info": (Status, _ptr, POINTER(ProbesInfo)),
    "qsae_probes_tag": (_text, _ptr, _i64),
    "qsae_probes_item": (Status, _ptr, _i64, POINTER(Probe)),
    "qsae_probes_run": (Status, _ptr, _ptr, _ptr, PROBE_SCORE, _ptr),
    "qsae_audit_plan": (Status, _ptr, c_double, c_int32, _out_text),
}
