# SPDX-License-Identifier: BSD-2-Clause
"""The figures about features (survival, gain) and about parts of the text (forest plots)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional

from ._draw import BANDS, Drawing, series_style
from ._figures import MOST_SERIES, Place, names, of_more, places
from ._plot import (
    Bar,
    Figure,
    Panel,
    Row,
    Scale,
    Series,
    Spot,
    _axes,
    _left,
    bars,
    columns,
    lines,
    rows,
)
from ._read import Feature, Result, interval, items, num, string
from ._words import fixed, percent, signed

__all__ = ["deciles", "forests", "gains", "histograms", "survival", "worst_slice"]

BAND_KEY = [(f"b{i}", "square", words) for i, words in enumerate(BANDS)]
SCATTER = 4000  # points of a panel


def survival(results: Sequence[Result]) -> Optional[Figure]:
    """Bands of r per condition: how alike the features fire."""
    several = len(results) > 1
    panels, data = [], []
    for result in results:
        called = names(result)
        for p in places(result, several):
            entries = []
            for c in result.conditions():
                s = p.of(c).get("survival")
                bands = _bands(s)
                if bands is None:
                    continue
                active = num(s, "active") or 1.0
                entries.append(Bar(called[c["label"]], [100 * b / active for b in bands],
                                   f"{fixed(num(s, 'survived_percent') or 0.0, 1)}\u00a0%"))
                data.append([result.name, p.name, c["label"], active, *bands])
            if entries:
                panels.append(Panel(f"{p.name}", "Share of active features by r: " + "; ".join(
                    f"{b.name} {b.said} survive" for b in entries) + ".",
                    bars(entries, "% of the active features"), True))
    if not panels:
        return None
    return Figure("survival", "How many features still fire as they did",
                  "r: Pearson\u2019s correlation of a feature\u2019s activations in both models "
                  "over all tokens, of the features that fire on more than 0.1\u00a0% of tokens "
                  "in the reference. At the right, the share with r > 0.9.", panels,
                  ["result", "sae", "condition", "active", "above_0.95", "0.9_to_0.95",
                   "0.8_to_0.9", "0.5_to_0.8", "below_0.5"], data, BAND_KEY)


def _bands(s: Any) -> Optional[list[float]]:
    """Numbers of features from r > 0.95 down to r < 0.5, from the counts above thresholds."""
    got = [num(s, k) for k in ("above_0p95", "survived", "above_0p8", "active", "damaged")]
    if any(v is None for v in got):
        return None
    a95, a90, a80, active, damaged = (v or 0.0 for v in got)
    if active <= 0:
        return None
    return [max(v, 0.0) for v in (a95, a90 - a95, a80 - a90, active - damaged - a80, damaged)]


def deciles(result: Result) -> Optional[Figure]:
    """Survival by tenths of the firing rate."""
    panels, data = [], []
    called = names(result)
    key: dict[str, tuple[str, str, str]] = {}
    for p in places(result):
        series = []
        for k, c in enumerate(result.conditions()[:MOST_SERIES]):
            values = items(p.of(c), "survival", "survived_percent_by_decile")
            spots = [Spot(i + 1.0, float(v)) for i, v in enumerate(values) if v is not None]
            if len(spots) > 1:
                series.append(Series(called[c["label"]], spots, k))
                colour, shape = series_style(k)
                key[c["label"]] = (f"f{colour}", shape, called[c["label"]])
                data.append([result.name, p.name, c["label"], *values])
        if series:
            panels.append(Panel(p.name, "Features that survive in each tenth, rarest first: "
                                + "; ".join(f"{s.name} {fixed(s.spots[0].y, 1)} to "
                                            f"{percent(s.spots[-1].y)}" for s in series) + ".",
                                lines(series, "tenth of the active features, rarest first",
                                      "features that survive, %")))
    if not panels:
        return None
    width = max(len(row) for row in data) - 3
    return Figure("deciles", "Rare features and common ones",
                  "The active features in ten groups of equal size by how often they fire in the "
                  "reference." + of_more(MOST_SERIES, len(result.conditions()), "conditions"),
                  panels,
                  ["result", "sae", "condition", *[f"tenth_{i + 1}" for i in range(width)]], data,
                  list(key.values()))


# ---- from the features of --features ----

def _of(result: Result, place: Place) -> dict[str, list[Feature]]:
    """Features of an SAE by condition, the silent ones left out."""
    sae = items(result.reference, "saes")[place.i]
    found = result.features.get((string(sae, "name"), int(num(sae, "layer") or 0)), [])
    out: dict[str, list[Feature]] = {}
    for f in found:
        if f.band in ("survived", "degraded", "damaged"):
            out.setdefault(f.label, []).append(f)
    return out


def _shown(result: Result, place: Place) -> list[tuple[str, list[Feature]]]:
    """Up to eight conditions that are no controls."""
    found = _of(result, place)
    called = names(result)
    return [(called[c["label"]], found[c["label"]]) for c in result.conditions()
            if c["label"] in found][:8]


def _eight(result: Result) -> str:
    n = len({f.label for found in result.features.values() for f in found})
    return " The first eight conditions." if n > 8 else ""


def histograms(result: Result) -> Optional[Figure]:
    """How r is spread over the features."""
    panels, data = [], []
    low = 0.0
    for p in places(result):
        for _, found in _shown(result, p):
            low = min([low] + [f.r for f in found if f.r is not None])
    low = max(math.floor(low * 4) / 4, -1.0)
    edges = [i / 20 for i in range(round(20 * low), 21)]
    styles = ["b4" if e < 0.499 else "b3" if e < 0.799 else "b2" if e < 0.899 else
              "b1" if e < 0.949 else "b0" for e in edges[:-1]]
    for p in places(result):
        for name, found in _shown(result, p):
            heights = [0.0] * (len(edges) - 1)
            for f in found:
                r = f.r if f.r is not None else 0.0
                heights[min(max(math.floor((r - edges[0]) * 20 + 1e-9), 0), len(heights) - 1)] += 1
            title = name if len(places(result)) == 1 else f"{p.name}, {name}"
            lost = sum(1 for f in found if (f.r or 0.0) <= 0.9)
            panels.append(Panel(title, f"Histogram of r of {len(found)} active features: {lost} at "
                                "or below 0.9, "
                                f"{sum(1 for f in found if (f.r or 0.0) < 0.5)} below 0.5.",
                                columns(heights, edges, styles, "r", "features",
                                        [t for t in (-1, -0.5, 0, 0.2, 0.5, 0.8, 1)
                                         if t >= low and (t != 0.2 or low == 0)])))
            data += [[result.name, p.name, name, edges[i], edges[i + 1], int(h)]
                     for i, h in enumerate(heights)]
    if not panels:
        return None
    return Figure("histogram", "r of every active feature",
                  "Bins of 0.05; the colours are those of the bands above." + _eight(result),
                  panels,
                  ["result", "sae", "condition", "from", "to", "features"], data, BAND_KEY)


_SHAPES = {"survived": ("round", 1.5), "degraded": ("dash", 2.4), "damaged": ("saltire", 2.4)}


def _sample(found: list[Feature], most: int) -> list[Feature]:
    """Every k-th in order of index, so that the same file gives the same points."""
    step = -(-len(found) // most)
    return sorted(found, key=lambda f: f.number)[::step] if step > 1 else found


def gains(result: Result) -> Optional[Figure]:
    """Least-squares gain of every feature against how often it fires."""
    panels: list[Panel] = []
    data: list[list[object]] = []
    thinned = False
    reach = [_held(f) for p in places(result) for _, found in _shown(result, p) for f in found
             if f.gain is not None]
    for p in places(result):
        for name, found in _shown(result, p):
            found = [f for f in found if f.gain is not None and f.density > 0]
            if not found:
                continue
            data += [[result.name, p.name, name, f.number, f.density, f.gain, f.r, f.band]
                     for f in found]
            by_band = {band: [f for f in found if f.band == band] for band in _SHAPES}
            drawn = {}
            for band, members in by_band.items():
                room = max(200, SCATTER * len(members) // len(found))
                drawn[band] = _sample(members, room)
                thinned = thinned or len(drawn[band]) < len(members)
            median = sorted(f.gain or 0.0 for f in found)[(len(found) - 1) // 2]
            title = name if len(places(result)) == 1 else f"{p.name}, {name}"
            panels.append(Panel(title, f"Gain of {len(found)} active features against their firing "
                                f"rate; median {fixed(median, 3)}.", _scatter(drawn, reach)))
    if not panels:
        return None
    key = [("d-" + band, shape, words) for (band, (shape, _)), words in
           zip(_SHAPES.items(), ("survived (r > 0.9)", "degraded (0.5 to 0.9)",
                                 "damaged (r < 0.5)"))]
    return Figure("gain", "Are features weaker or stronger?",
                  "Gain: the factor by which a feature\u2019s activations are multiplied, in the "
                  "least-squares sense; 1 is unchanged, below 1 it fires more weakly. A point per "
                  "active feature. Gains outside \u22120.25 to 2 are drawn at the edge."
                  + (f" Of each band every k-th feature by index is drawn, so that a panel has "
                     f"about {SCATTER} points; the exported CSV has all." if thinned else "")
                  + _eight(result),
                  panels, ["result", "sae", "condition", "feature", "density", "gain", "r", "band"],
                  data, key)


def _held(f: Feature) -> float:
    """The gain, within what is drawn."""
    return min(max(f.gain or 0.0, -0.25), 2.0)


def _scatter(drawn: dict[str, list[Feature]], reach: Sequence[float]) -> Any:
    """All panels have the same scale of gain, which reaches over all of them."""
    def draw(wide: float) -> Drawing:
        d = Drawing(wide, 250)
        every = [f for members in drawn.values() for f in members]
        y = Scale([*reach, 0.9, 1.1], 206, 26)
        x = Scale([f.density for f in every], _left(y), wide - 12, log=True, ticks=6)
        _axes(d, x, y, "share of tokens it fires on (log scale)", "gain")
        d.line("guide", (x.start, y(1)), (x.end, y(1)))
        for band, members in drawn.items():
            shape, r = _SHAPES[band]
            d.dots(f"d-{band}", shape, [(x(f.density), y(_held(f)))
                                        for f in members], r)
        return d
    return draw


# ---- parts of the text ----

def worst_slice(result: Result, label: str) -> Optional[tuple[dict[str, Any], dict[str, Any]]]:
    """The part with the largest rise in cross-entropy under a condition, and its figures."""
    best: Optional[tuple[dict[str, Any], dict[str, Any]]] = None
    for part in items(result.document, "slices", "list"):
        for c in items(part, "conditions"):
            v = num(c, "dce")
            if string(c, "label") == label and v is not None and (
                    best is None or v > (num(best[1], "dce") or 0.0)):
                best = (part, c)
    return best


def slice_name(part: dict[str, Any]) -> str:
    return f"{string(part, 'dimension')}: {string(part, 'value')}"


def forests(result: Result) -> list[Figure]:
    """A forest plot of the parts of the text per condition, the costliest conditions first."""
    out = []
    called = names(result)
    chosen = sorted(result.conditions(), key=lambda c: -(num(c, "dce") or 0.0))[:6]
    for k, condition in enumerate(c for c in result.conditions() if c in chosen):
        label = condition["label"]
        worst = worst_slice(result, label)
        found: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for part in items(result.document, "slices", "list"):
            found += [(part, c) for c in items(part, "conditions")
                      if string(c, "label") == label and num(c, "dce") is not None]
        if not found or worst is None:
            continue
        found.sort(key=lambda x: (string(x[0], "dimension"), -(num(x[1], "dce") or 0.0)))
        total = num(condition, "dce")
        most, full = 40, found
        if len(found) > most:
            kept = sorted(found, key=lambda x: -abs((num(x[1], "dce") or 0.0) - (total or 0.0)))
            kept = kept[:most]
            ids = {id(c) for _, c in kept}
            found = [x for x in found if id(x[1]) in ids]
        entries = []
        if total is not None:
            entries.append(Row("all tokens", total, interval(condition, "dce"),
                               signed(total, 4), 5, True))
        for part, c in found:
            q = num(c, "q")
            entries.append(Row(slice_name(part), num(c, "dce"), interval(c, "dce"),
                               signed(num(c, "dce") or 0.0, 4)
                               + (" *" if q is not None and q < 0.05 else ""),
                               1 if part is worst[0] else 0, part is worst[0]))
        data: list[list[object]] = [[
            result.name, label, string(p, "dimension"), string(p, "value"), num(p, "tokens"),
                 num(p, "documents"), num(c, "dce"), *(interval(c, "dce") or (None, None)),
                 num(c, "p"), num(c, "q")] for p, c in full]
        desc = (f"Rise in cross-entropy of {len(found)} parts of the text; all tokens "
                f"{signed(total or 0.0, 4)}; the worst is {slice_name(worst[0])} with "
                f"{signed(num(worst[1], 'dce') or 0.0, 4)}.")
        guides = ((total, "all tokens"),) if total is not None else ()
        out.append(Figure(f"slices-{k + 1}", called[label],
                          f"Worst: {slice_name(worst[0])}. * differs from all tokens (q < 0.05, "
                          "Benjamini and Hochberg over all parts)."
                          + (f" The {most} parts of {len(full)} that differ most from all tokens "
                             "are drawn." if len(full) > most else ""),
                          [Panel("", desc, rows(entries, "\u0394CE, nats per token", guides),
                                 True)],
                          ["result", "condition", "dimension", "value", "tokens", "documents",
                           "dce", "low", "high", "p", "q"], data))
    return out
