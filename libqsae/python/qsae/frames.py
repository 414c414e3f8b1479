# SPDX-License-Identifier: BSD-2-Clause
"""Result documents as pandas frames, one row per thing measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ._lib import fail

# Lists and deep objects have tables of their own, or no place in one.
_LEFT_OUT = ("saes", "conditions", "masks", "intervals", "jackknife_se", "top", "predictor")
# Units by the last part of a column's name; what is in neither list is a number without one.
_UNITS = {
    "weight_bytes": "bytes", "quantized_bytes": "bytes", "peak_rss_bytes": "bytes",
    "bits_per_weight": "bits", "kv_bits_per_value": "bits", "bits_per_byte": "bits",
    "tokens_per_second": "tokens/s", "tokens": "tokens", "predicted": "tokens",
    "documents": "documents", "features": "features", "active": "features",
    "survived": "features", "degraded": "features", "damaged": "features",
    "dead_features": "features", "l0": "features/token", "l0_r": "features/token",
    "l0_q": "features/token", "dl0": "features/token",
    "ce": "nats", "ce_r": "nats", "ce_q": "nats", "dce": "nats", "nll_sum": "nats",
    "entropy_r": "nats", "entropy_q": "nats", "ce_mean_of_batch_means": "nats",
    "mean": "activation", "max": "activation", "max_activation": "activation",
}
_ENDINGS = (("_percent", "%"), ("_se", None), ("_low", None), ("_high", None), ("_bytes", "bytes"),
            ("_tokens", "tokens"), ("_features", "features"))
_NATS = ("kl_", "dnll_")
_TABLES = ("conditions", "saes", "slices", "features", "snapshots")


def _unit(column: str) -> str:
    name = column.rsplit(".", 1)[-1]
    if name in _UNITS:
        return _UNITS[name]
    for ending, unit in _ENDINGS:
        if name.endswith(ending):
            return _unit(name[:-len(ending)]) if unit is None else unit
    if name.startswith(_NATS) and "share" not in name:
        return "nats"
    return "1"


def _flat(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Scalars by name, with dots for those of inner objects; intervals as NAME_low, NAME_high."""
    intervals = entry.get("intervals")
    for name, value in entry.items():
        if isinstance(value, Mapping):
            if name not in _LEFT_OUT:
                yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, (list, tuple)):
            yield prefix + name, value
    if isinstance(intervals, Mapping):
        for name, ends in intervals.items():
            low, high = ends if isinstance(ends, (list, tuple)) and len(ends) == 2 else (None, None)
            yield f"{prefix}{name}_low", low
            yield f"{prefix}{name}_high", high


def _entries(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The reference, then the conditions."""
    if document.get("reference") is not None:
        yield document["reference"]
    yield from document.get("conditions") or ()


def _of_conditions(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in _entries(result):
        yield dict(_flat(entry))


def _of_saes(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in _entries(result):
        for sae in entry.get("saes") or ():
            yield {"label": entry.get("label"), **dict(_flat(sae))}


def _of_slices(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (result.get("slices") or {}).get("list") or ():
        whole = {name: part.get(name)
                 for name in ("dimension", "value", "tokens", "documents", "enough")}
        reference = part.get("reference") or {}
        for entry in part.get("conditions") or ():
            row = {**whole, "ce_r": reference.get("ce"), "ppl_r": reference.get("ppl"),
                   **dict(_flat(entry))}
            saes = entry.get("saes") or ()
            if not saes:
                yield row
            for sae in saes:
                places = {key: sae.get(key) for key in ("name", "layer", "site")}
                rest = {key: value for key, value in sae.items() if key not in places}
                yield {**row, **places, **dict(_flat(rest))}


def _of_snapshots(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for snapshot in result.get("snapshots") or ():
        whole = {name: snapshot.get(name) for name in ("budget", "tokens", "chunks")}
        for entry in _entries(snapshot):
            row = {**whole, **dict(_flat(entry))}
            saes = entry.get("saes") or ()
            if not saes:
                yield row
            for sae in saes:
                yield {**row, **dict(_flat(sae))}


def _of_features(features: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for feature in features:
        row = dict(_flat(feature))
        conditions = feature.get("conditions") or ()
        if not conditions:
            yield row
        for entry in conditions:
            inner = dict(_flat(entry))
            label = inner.pop("label", None)
            # As in the CSV of evaluate --features.
            interval = entry.get("r_interval")
            if isinstance(interval, (list, tuple)) and len(interval) == 2:
                inner["r_low"], inner["r_high"] = interval
            inner.pop("r_interval", None)
            yield {**row, "label": label, **{f"q_{key}": value for key, value in inner.items()}}


_MAKERS = {"conditions": _of_conditions, "saes": _of_saes, "slices": _of_slices,
           "snapshots": _of_snapshots}


def frame(result: Any, table: str = "conditions") -> Any:
    """A table of a result as a pandas.DataFrame.

    result  a result document (dict), or for "features" the list that Audit.features() gives
    table   "conditions": a row per model, the reference first
            "saes": a row per model and SAE
            "slices": per part of the tokens, condition and SAE
            "snapshots": per snapshot, model and SAE
            "features": per feature and condition; what is of the condition begins with q_

    Columns have the names of doc/result.md, dots lead into inner objects ("noise.ratio"), the ends
    of an interval are NAME_low and NAME_high. frame.attrs["units"] is a dict of each column's unit
    ("1": none). Values that are not defined are missing (NaN). Lists, such as worst tokens, are
    left out.

    Raises Error: QSAE_EUNSUPPORTED without pandas, QSAE_EINVAL for another table or document.
    """
    if table not in _TABLES:
        fail("QSAE_EINVAL", f"table: {table!r} is unknown; expected {', '.join(_TABLES)}")
    try:
        import pandas  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        fail("QSAE_EUNSUPPORTED", "frame: expected the Python package pandas; found none "
                                  "(python3 -m pip install pandas)")
    if table == "features":
        if isinstance(result, Mapping):
            fail("QSAE_EINVAL", "frame: features are not in the result document; expected the list "
                                "that Audit.features() gives, found a dict")
        rows = list(_of_features(result))
    else:
        if not isinstance(result, Mapping) or result.get("format") != "qsae-result":
            fail("QSAE_EINVAL", "frame: expected a result document (a dict with format "
                                f"'qsae-result'), found {type(result).__name__}")
        rows = list(_MAKERS[table](result))
    out = pandas.DataFrame(rows)
    for column in out.columns:
        values = [value for value in out[column] if value is not None]
        # None among numbers makes a column of objects; here it means missing.
        if (values and all(type(value) in (int, float) for value in values)) or not values:
            out[column] = out[column].astype("float64") if out[column].dtype == object \
                else out[column]
    out.attrs["units"] = {column: _unit(column) for column in out.columns
                          if out[column].dtype.kind in "fiu"}
    return out
