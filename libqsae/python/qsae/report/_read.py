# SPDX-License-Identifier: BSD-2-Clause
"""Result documents, features and weight errors from files: checked once, then plain dicts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Union

from .. import _lib

__all__ = ["Feature", "Interval", "Result", "at", "interval", "items", "num", "read_features",
           "read_result", "read_weights", "string"]

_fail: Callable[[str, str], NoReturn] = _lib.fail
Path = Union[str, "os.PathLike[str]"]
Interval = tuple[float, float]

# What a value may be besides null: a word, or the values of a dict, a list, a dict of any keys.
NUMBER, STRING, FLAG, PAIR = "a number", "a string", "true or false", "two numbers"


class _Map(NamedTuple):
    of: Any


_PROBED = {"label": STRING, "tags": [{"tag": STRING}], "intervals": _Map(PAIR),
           **dict.fromkeys(("items", "accuracy", "margin", "daccuracy", "dmargin",
                            "right_to_wrong", "wrong_to_right", "mcnemar_p"), NUMBER)}
_SPLICE = {"intervals": _Map(PAIR), "intervals_reason": STRING,
           **dict.fromkeys(("tokens", "ce", "ce_sae", "ce_zero", "ce_recovered", "kl_recovered",
                            "kl_sae", "top1_agreement_sae"), NUMBER)}
_SETS = {"a": NUMBER, "b": NUMBER, "both": NUMBER, "union": NUMBER, "jaccard": NUMBER,
         "ceiling": NUMBER, "chance": NUMBER}
_PLACE = {"name": STRING, "layer": NUMBER, "site": STRING}
_CONTROL = {"label": STRING, "dce": NUMBER, "kl_mean": NUMBER,
            "saes": [{**_PLACE, "dfvu_dim": NUMBER, "survived_percent": NUMBER,
                      "median_r": NUMBER}]}
_SAE = {
    **_PLACE, "architecture": STRING, "features": NUMBER, "hash": STRING, "reason": STRING,
    **dict.fromkeys(("fvu_dim", "fvu_scalar", "fvu_raw", "l0", "mse", "dfvu_dim", "dfvu_scalar",
                     "nonfinite_rows", "share_x2_top_0p1pct"), NUMBER),
    "intervals": _Map(PAIR), "intervals_reason": STRING,
    "noise": {"p": NUMBER, "r": NUMBER, "ratio": NUMBER, "ratio_token_median": NUMBER,
              "verdict": STRING, "intervals": _Map(PAIR)},
    "survival": {
        **dict.fromkeys(("active", "survived", "degraded", "damaged", "survived_percent",
                         "degraded_percent", "damaged_percent", "above_0p95", "above_0p8",
                         "mean_r", "median_r", "undetermined_percent", "newly_dead"), NUMBER),
        "intervals": _Map(PAIR), "intervals_reason": STRING,
        "survived_percent_by_decile": [NUMBER],
        "predictor": {"auc": NUMBER, "auc_sd": NUMBER, "auc_paper": NUMBER,
                      "auc_paper_sd": NUMBER, "auc_single": _Map(NUMBER),
                      "coefficients_paper": _Map(NUMBER)}},
    "verdict": {"verdict": STRING, "hidden_damage": FLAG, "reason": STRING,
                "non_survivors_percent": NUMBER, "non_survivors_interval": PAIR,
                "null_percent": NUMBER, "null_interval": PAIR, "flat_fvu": STRING},
    "splice": _SPLICE,
    "masks": {mask: {"fvu_dim": NUMBER, "fvu_scalar": NUMBER}
              for mask in ("no_specials", "no_first_position", "no_sinks")},
}
_WORST = {**dict.fromkeys(("dnll", "p_r", "p_q", "kl", "document", "chunk", "position"), NUMBER),
          **dict.fromkeys(("before", "token", "after", "top_r_text", "top_q_text"), STRING)}
_DOCUMENT = {**dict.fromkeys(("document", "line", "tokens", "dce", "dnll_total", "kl_mean"),
                             NUMBER), "source": STRING}
_ENTRY = {
    "label": STRING, "compute": STRING, "verdict": STRING, "verdict_reason": STRING,
    **dict.fromkeys(("weight_bytes", "bits_per_weight", "sparsity", "kv_bits_per_value", "ce",
                     "ppl", "dce", "dce_percent", "kl_mean", "kl_median", "kl_q99", "kl_max",
                     "top1_agreement", "right_to_wrong", "wrong_to_right", "predicted",
                     "ce_mean_of_batch_means", "nonfinite_rows", "tokens_per_second"), NUMBER),
    "intervals": _Map(PAIR), "intervals_reason": STRING, "batch_dependent": FLAG,
    "layers": [{"name": STRING, "calls": NUMBER, "calls_with_outliers": NUMBER,
                "outlier_columns": NUMBER, "outlier_share": NUMBER}],
    "match": {"target": NUMBER, "chosen": NUMBER, "visited": [PAIR]},
    "checkpoint": {"path": STRING, "storage": STRING, "sae_reason": STRING, "kl_reason": STRING,
                   "differences": [{"field": STRING, "reference": STRING, "condition": STRING}]},
    "controls": {"null": _CONTROL, "floor": _CONTROL, "gauss": _CONTROL, "permute": _CONTROL,
                 "shuffle": _CONTROL,
                 "beyond_floor": {"dce": FLAG, "kl_mean": FLAG,
                                  "saes": [{**_PLACE, "dfvu_dim": FLAG,
                                            "survived_percent": FLAG}]}},
    "saes": [_SAE],
    "sae_layers": [{"name": STRING, "kind": STRING, "features": NUMBER, "l0": NUMBER,
                    "fvu_dim": NUMBER, "fvu_raw": NUMBER, "splice": _SPLICE}],
    "worst_tokens": [_WORST],
    "worst_documents": {"by_total": [_DOCUMENT], "by_mean": [_DOCUMENT]},
}
_SNAPSHOT = {"label": STRING, "ce": NUMBER, "ppl": NUMBER, "dce": NUMBER, "dce_percent": NUMBER,
             "saes": [{**_PLACE, "fvu_dim": NUMBER, "fvu_scalar": NUMBER,
                       "noise": {"p": NUMBER, "r": NUMBER, "ratio": NUMBER}}]}
_RANKED = {"by": STRING,
           "parts": [{"condition": NUMBER, "of": STRING, "layer": NUMBER, "module": STRING}]}
_CONTEXT_ENTRY = {"label": STRING, "ce": NUMBER, "ppl": NUMBER, "dce": NUMBER,
                  "kl_mean": NUMBER, "intervals": _Map(PAIR),
                  "change": {"ce": NUMBER, "dce": NUMBER, "intervals": _Map(PAIR)}}
_SLICE_CONDITION = {"label": STRING, "ce": NUMBER, "dce": NUMBER, "dce_percent": NUMBER,
                    "kl_mean": NUMBER, "top1_agreement": NUMBER, "p": NUMBER, "q": NUMBER,
                    "intervals": _Map(PAIR)}
_PLANNED = {"label": STRING, "bits": NUMBER, "ce": NUMBER, "dce": NUMBER, "dce_interval": PAIR,
            "kl_mean": NUMBER}
_RESULT: dict[str, Any] = {
    "library": STRING, "profile": STRING, "compute": STRING, "attention": STRING,
    "process": STRING, "fingerprint": STRING, "complete": FLAG, "gaps": [PAIR],
    "corpus": {**dict.fromkeys(("tokens", "documents", "chunks", "predicted_tokens", "context",
                                "batch", "stride", "score_from", "available_tokens"), NUMBER),
               "bos_policy": STRING, "pack": STRING, "token_hash": STRING,
               "text_field": STRING, "exclude_tokens": STRING},
    "reference": _ENTRY,
    "conditions": [_ENTRY],
    "verdicts": [{**_PLACE, "min_ratio": NUMBER, "max_ratio": NUMBER, "verdict": STRING,
                  "flat_fvu": STRING}],
    "overlaps": [{**_PLACE, "label_a": STRING, "label_b": STRING, "active": NUMBER,
                  "non_survivors": _SETS, "damaged": _SETS, "damage_pearson": NUMBER,
                  "damage_spearman": NUMBER}],
    "slices": {"list": [{"dimension": STRING, "value": STRING, "tokens": NUMBER,
                         "documents": NUMBER, "enough": FLAG,
                         "conditions": [_SLICE_CONDITION]}],
               "summary": [{"label": STRING,
                            "macro": _Map({"dce": NUMBER, "slices": NUMBER})}]},
    "contexts": [{"context": NUMBER, "scored": NUMBER, "tokens": NUMBER,
                  "within_document": NUMBER, "reference": _CONTEXT_ENTRY,
                  "conditions": [_CONTEXT_ENTRY]}],
    "probes": {"items": NUMBER, "reference": _PROBED, "conditions": [_PROBED]},
    "sweep": _RANKED,
    "plan": {"condition": STRING, "budget_bits": NUMBER, "bits": NUMBER, "by": STRING,
             "figure": STRING, "predicted": NUMBER,
             "parts": [{"layer": NUMBER, "module": STRING, "weights": NUMBER, "chosen": STRING,
                        "bits": NUMBER}],
             "measured": _PLANNED, "uniform": [_PLANNED]},
    "snapshots": [{"budget": NUMBER, "tokens": NUMBER, "reference": _SNAPSHOT,
                   "conditions": [_SNAPSHOT]}],
    "stabilization": {"variant": STRING, "headline": NUMBER, "stable": FLAG,
                      "max_change_after_headline": NUMBER},
    "numerics": {"cpu": STRING, "gemm": STRING, "blis": STRING, "measured_with": STRING},
    "timing": {"seconds": NUMBER, "tokens_per_second": NUMBER, "threads": NUMBER,
               "memory": STRING},
}
_RESULT["sliding"] = {key: _RESULT[key] for key in ("reference", "conditions", "corpus")}
_FEATURE = {"feature": NUMBER, "name": STRING, "layer": NUMBER, "site": STRING,
            "density": NUMBER, "conditions": [{"label": STRING, "band": STRING, "r": NUMBER,
                                               "gain": NUMBER}]}
_WEIGHTS = {"files": [{"path": STRING, "errors": [{
    "condition": STRING, "other": STRING,
    "matrices": [{"layer": NUMBER, "module": STRING, "format": STRING, "bits_per_weight": NUMBER,
                  "frobenius_relative": NUMBER, "sqnr_db": NUMBER}]}]}]}


class Feature(NamedTuple):
    """One feature of an SAE under one condition."""

    number: int                   # its index in the SAE
    label: str
    density: float                # share of tokens it fires on in the reference
    band: str                     # survived, degraded, damaged, inactive
    r: Optional[float]
    gain: Optional[float]


class Result:
    """A result document and what belongs to it.

    name      what the page calls the model
    path      of the file
    document  the whole document, checked
    parts     indices of conditions that are parts of a sweep
    features  by (SAE name, layer): what --features wrote
    """

    def __init__(self, name: str, path: str, document: dict[str, Any]) -> None:
        self.name = name
        self.path = path
        self.document = document
        self.parts = {int(p["condition"]) for p in items(document, "sweep", "parts")
                      if num(p, "condition") is not None}
        self.features: dict[tuple[str, int], list[Feature]] = {}

    @property
    def reference(self) -> dict[str, Any]:
        reference: dict[str, Any] = self.document["reference"]
        return reference

    def conditions(self, controls: bool = False) -> list[dict[str, Any]]:
        """Conditions of the main tables: no parts of a sweep; noise controls if asked for."""
        return [c for i, c in enumerate(self.document["conditions"])
                if i not in self.parts and (controls or not c["label"].startswith("control:"))]


def at(value: Any, *path: Union[str, int]) -> Any:
    """The value at a path of keys and indices; None where there is none."""
    for key in path:
        if isinstance(key, int):
            if not isinstance(value, list) or not 0 <= key < len(value):
                return None
        elif not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def num(value: Any, *path: Union[str, int]) -> Optional[float]:
    """A number, or None."""
    found = at(value, *path)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def string(value: Any, *path: Union[str, int]) -> str:
    """A string; "" where there is none."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def items(value: Any, *path: Union[str, int]) -> list[Any]:
    """A list; empty where there is none."""
    found = at(value, *path)
    return found if isinstance(found, list) else []


def interval(value: Any, name: str) -> Optional[Interval]:
    """The 95 % interval of a figure of this object, or None."""
    found = at(value, "intervals", name)
    return (float(found[0]), float(found[1])) if isinstance(found, list) else None


def _found(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {dict: "an object", list: "a list", str: "a string", int: "a number",
             float: "a number", type(None): "null"}
    return kinds[type(value)]


def _check(value: Any, spec: Any, where: str) -> None:
    """The value is null or as the specification has it; keys it does not name are left alone."""
    if value is None:
        return
    good, expected = True, spec
    if spec is NUMBER:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif spec is STRING:
        good = isinstance(value, str)
    elif spec is FLAG:
        good = isinstance(value, bool)
    elif spec is PAIR:
        good = isinstance(value, list) and len(value) == 2 and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    elif isinstance(spec, list):
        good, expected = isinstance(value, list), "a list"
    else:
        good, expected = isinstance(value, dict), "an object"
    if not good:
        _fail("QSAE_EFORMAT", f"{where}: expected {expected} or null, found {_found(value)}")
    if isinstance(spec, list):
        for i, one in enumerate(value):
            if one is None and isinstance(spec[0], dict):
                _fail("QSAE_EFORMAT", f"{where}[{i}]: expected an object, found null")
            _check(one, spec[0], f"{where}[{i}]")
    elif isinstance(spec, _Map):
        for key, one in value.items():
            _check(one, spec.of, f"{where}.{key}")
    elif isinstance(spec, dict):
        for key in spec:
            if key in value:
                _check(value[key], spec[key], where + ("" if where[-1:] == " " else ".") + key)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return out


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no f64")
    return value


def _whole(text: str) -> Union[int, float]:
    return _real(text) if len(text) > 18 else int(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text}, which a result never holds")


def _json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_float=_real,
                          parse_int=_whole, parse_constant=_constant)
    except UnicodeDecodeError as error:
        _fail("QSAE_EFORMAT", f"{where}: expected UTF-8, found another byte at {error.start}")
    except RecursionError:
        _fail("QSAE_EFORMAT", f"{where}: expected a document, found values nested too deep")
    except ValueError as error:  # of json, too
        _fail("QSAE_EFORMAT", f"{where}: expected JSON, found {error}")


def _bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        _fail("QSAE_EIO", f"{os.fspath(path)}: {reason}")


def _document(path: Path, kind: str, what: str) -> dict[str, Any]:
    """A JSON object of that format, version 1."""
    where = os.fspath(path)
    document = _json(_bytes(path), where)
    if not isinstance(document, dict):
        _fail("QSAE_EFORMAT", f"{where}: expected {what}, found {_found(document)}")
    found = document.get("format")
    if found != kind:
        _fail("QSAE_EFORMAT", f"{where}: format: expected {kind!r} ({what}), found "
                              + (repr(found) if isinstance(found, str) else
                                 "none" if found is None else _found(found)))
    version = document.get("version")
    if version != 1 or isinstance(version, bool):
        _fail("QSAE_EUNSUPPORTED", f"{where}: version: expected 1, found {version!r}"[:400])
    return document


def read_result(path: Path, name: Optional[str] = None) -> Result:
    """Reads and checks what `evaluate --json` wrote.

    path  of the file
    name  what the page calls the model; default: the file's name without .json

    Raises Error with file, key, expected and found: QSAE_EIO, QSAE_EFORMAT, QSAE_EUNSUPPORTED
    (another version).
    """
    where = os.fspath(path)
    document = _document(path, "qsae-result", "a result of evaluate --json")
    for key, kind in (("corpus", dict), ("reference", dict), ("conditions", list)):
        if not isinstance(document.get(key), kind):
            _fail("QSAE_EFORMAT", f"{where}: {key}: expected "
                                  f"{'an object' if kind is dict else 'a list'}, found "
                                  + (_found(document[key]) if key in document else "no such key"))
    _check(document, _RESULT, where + ": ")
    for i, entry in enumerate([document["reference"], *document["conditions"]]):
        if not isinstance(entry.get("label"), str):
            place = f"conditions[{i - 1}]" if i else "reference"
            _fail("QSAE_EFORMAT", f"{where}: {place}.label: expected a string, found none")
    if num(document, "corpus", "tokens") is None:
        _fail("QSAE_EFORMAT", f"{where}: corpus.tokens: expected a number, found none")
    stem = os.path.basename(where)
    return Result(name or (stem[:-5] if stem.endswith(".json") else stem), where, document)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with open(path, "rb") as file:
            for i, line in enumerate(file, 1):
                if line.strip():
                    yield i, line
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        _fail("QSAE_EIO", f"{os.fspath(path)}: {reason}")


def read_features(path: Path, result: Result) -> None:
    """Adds what `evaluate --features FILE.jsonl` wrote in the run of this result.

    Raises Error: QSAE_EIO, QSAE_EFORMAT, QSAE_EMISMATCH (a condition or an SAE that the result
    does not have).
    """
    labels = {c["label"] for c in result.document["conditions"]}
    saes = {(s.get("name"), s.get("layer")) for s in items(result.reference, "saes")}
    n = 0
    for i, line in _lines(path):
        where = f"{os.fspath(path)}: line {i}"
        one = _json(line, where)
        if not isinstance(one, dict) or "feature" not in one or "conditions" not in one:
            _fail("QSAE_EFORMAT", f"{where}: expected a feature of evaluate --features")
        _check(one, _FEATURE, where + ": ")
        if None in (num(one, "feature"), num(one, "layer"), num(one, "density")):
            _fail("QSAE_EFORMAT", f"{where}: expected feature, layer and density, found null")
        place = (string(one, "name"), int(one["layer"]))
        if place not in saes:
            _fail("QSAE_EMISMATCH", f"{where}: SAE {place[0]} at layer {place[1]}, which "
                                    f"{result.path} does not have")
        out = result.features.setdefault(place, [])
        n += 1
        for c in items(one, "conditions"):
            if string(c, "label") not in labels:
                _fail("QSAE_EMISMATCH", f"{where}: condition {string(c, 'label')!r}, which "
                                        f"{result.path} does not have")
            out.append(Feature(int(one["feature"]), c["label"], float(one["density"]),
                               string(c, "band"), num(c, "r"), num(c, "gain")))
    if n == 0:
        _fail("QSAE_EFORMAT", f"{os.fspath(path)}: expected features, found an empty file")


def read_weights(path: Path) -> list[dict[str, Any]]:
    """The `errors` of all files in what `inspect --condition SPEC --json` printed, `path` added.

    Raises Error as read_result.
    """
    where = os.fspath(path)
    document = _document(path, "qsae-inspect", "what inspect --json prints")
    _check(document, _WEIGHTS, where + ": ")
    out = [{"path": string(file, "path"), **error}
           for file in items(document, "files") for error in items(file, "errors")]
    if not any(items(error, "matrices") for error in out):
        _fail("QSAE_EFORMAT", f"{where}: files: expected errors of matrices (inspect --condition "
                              "SPEC --json), found none")
    return out
