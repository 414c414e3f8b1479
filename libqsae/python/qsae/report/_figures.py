# SPDX-License-Identifier: BSD-2-Clause
"""The figures about whole models: what compression costs, by bits, tokens, layers and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from ._draw import SERIES, series_style
from ._plot import Figure, Panel, Row, Series, Spot, lines, rows
from ._read import Interval, Result, at, interval, items, num, string
from ._words import family, fixed, percent, shorts, sig, signed

__all__ = [
    "Place",
    "contexts",
    "degradation",
    "names",
    "noise",
    "places",
    "sensitivity",
    "snapshots",
    "studies",
    "weights",
]

MOST_SERIES = 12


class Place(NamedTuple):
    """An SAE of a result: its index in every entry's `saes`, and what it is called."""

    result: Result
    i: int
    name: str

    def of(self, entry: Any) -> dict[str, Any]:
        found = at(entry, "saes", self.i)
        return found if isinstance(found, dict) else {}


def places(result: Result, several: bool = False) -> list[Place]:
    """The SAEs of a result; several: with the model's name in front."""
    out = []
    for i, sae in enumerate(items(result.reference, "saes")):
        layer = num(sae, "layer")
        name = string(sae, "name") + (f" @{layer:.0f}" if layer is not None else "")
        if string(sae, "site") not in ("", "resid_post"):
            name += f" {string(sae, 'site')}"
        out.append(Place(result, i, f"{result.name}: {name}" if several else name))
    return out


def names(result: Result) -> dict[str, str]:
    """What the page calls the conditions, by label; the reference is "reference"."""
    entries = result.conditions(controls=True)
    return shorts([c["label"] for c in entries], [num(c, "sparsity") for c in entries])


def _groups(results: Sequence[Result]) -> list[tuple[str, int, list[dict[str, Any]], Result]]:
    """Conditions in series: by model where there are several, else by kind of condition."""
    out: list[tuple[str, int, list[dict[str, Any]], Result]] = []
    for k, result in enumerate(results):
        kinds: dict[str, list[dict[str, Any]]] = {}
        for c in result.conditions():
            kinds.setdefault(family(c["label"]), []).append(c)
        for i, members in enumerate(kinds.values()):
            name = result.name if len(results) > 1 else ""
            out.append((name, k if len(results) > 1 else i, members, result))
    return out


_LINES = ("rtn", "ggml")  # kinds whose widths are one family


def _curve(results: Sequence[Result], value: Any) -> tuple[list[Series], list[list[object]]]:
    """A figure of all conditions against bits per weight."""
    series, data = [], []
    for name, style, members, result in _groups(results):
        called = names(result)
        spots = []
        for c in members:
            bits, (v, pair) = num(c, "bits_per_weight"), value(result, c)
            if bits is None or v is None:
                continue
            spots.append(Spot(bits, v, pair, called[c["label"]]))
            data.append([result.name, c["label"], bits, v, *(pair or (None, None))])
        spots.sort(key=lambda s: s.x)
        if spots:
            series.append(Series(name, spots, style, family(members[0]["label"]) in _LINES))
    return series, data


def degradation(results: Sequence[Result]) -> Optional[Figure]:
    """Damage against bits per weight: predictions, then each SAE."""
    several = len(results) > 1
    wanted: list[tuple[str, str, str, Optional[bool], Any]] = [
        ("Cross-entropy", "\u0394CE, nats per token", "dce", None,
         lambda r, c: (num(c, "dce"), interval(c, "dce"))),
        ("Divergence of predictions", "mean KL, nats (log scale)", "kl_mean", True,
         lambda r, c: (num(c, "kl_mean"), interval(c, "kl_mean")))]
    by_index = max([len(places(r)) for r in results] + [0])
    for i in range(min(by_index, 4)):
        place = next(p for r in results for p in places(r) if p.i == i)
        title = f"SAE {i + 1} of each model" if several and by_index > 1 else \
            "SAE of each model" if several else place.name
        wanted.append((f"{title}: error", "\u0394FVU", f"dfvu_dim[{i}]", None,
                       lambda r, c, i=i: (num(c, "saes", i, "dfvu_dim"),
                                          interval(at(c, "saes", i), "dfvu_dim"))))
        wanted.append((f"{title}: features", "features that survive, %", f"survived_percent[{i}]",
                       False, lambda r, c, i=i: (num(c, "saes", i, "survival", "survived_percent"),
                                                 interval(at(c, "saes", i, "survival"),
                                                          "survived_percent"))))
    panels, data = [], []
    for title, axis, figure, log, value in wanted:
        series, found = _curve(results, value)
        if not found:
            continue
        data += [[row[0], row[1], figure, *row[2:]] for row in found]
        panels.append(Panel(title, f"{axis} against bits per weight: " + _said(series),
                            lines(series, "bits per weight", axis, log_y=log)))
    if not panels:
        return None
    key = [(f"f{series_style(k)[0]}", series_style(k)[1], r.name)
           for k, r in enumerate(results)] if several else []
    return Figure("degradation", "What each bit per weight costs",
                  "Bits per weight count codes and scales of the matrices a condition replaces; "
                  "conditions that replace none (pruning, caches) stand at the width of the "
                  "stored weights. Whiskers are 95\u00a0% intervals over documents; on a log "
                  "scale, one without an end reaches 0 or below. Lines join widths of one kind of "
                  "code; they are not fits." + of_more(4, by_index, "SAEs"), panels,
                  ["result", "condition", "figure", "bits_per_weight", "value", "low", "high"],
                  data, key)


def of_more(shown: int, n: int, what: str) -> str:
    """What a figure leaves out."""
    return f" The first {shown} of {n} {what} are drawn; the tables have all." if n > shown else ""


def _said(series: Sequence[Series], most: int = 12) -> str:
    """Figures as a sentence for screen readers: condition and value."""
    parts = [" ".join(x for x in (s.name, p.name, sig(p.y)) if x) for s in series for p in s.spots]
    return "; ".join(parts[:most]) + ("; and more." if len(parts) > most else ".")


# ---- against tokens ----

def _steps(result: Result) -> list[tuple[float, dict[str, Any]]]:
    """Snapshots in order of tokens, then the end of the run (with its intervals)."""
    out = [(t, s) for s in items(result.document, "snapshots")
           if (t := num(s, "tokens")) is not None]
    total = num(result.document, "corpus", "tokens") or 0.0
    return [*sorted([x for x in out if x[0] < total], key=lambda x: x[0]), (total, result.document)]


def snapshots(result: Result) -> Optional[Figure]:
    """Do the figures settle? Against the number of tokens."""
    steps = _steps(result)
    entries = [(i, c) for i, c in enumerate(result.document["conditions"])
               if i not in result.parts and not c["label"].startswith("control:")][:MOST_SERIES]
    if len(steps) < 2 or not all(items(s, "conditions") or not entries for _, s in steps):
        return None
    variant = string(result.document, "stabilization", "variant") or "fvu_dim"
    called = names(result)
    figures: list[tuple[str, str, Sequence[Any]]] = [
        ("Cross-entropy, reference", "CE, nats per token", ("ce",)),
        ("Rise in cross-entropy", "\u0394CE, nats per token", ("dce",))]
    for p in places(result)[:3]:
        axis = "FVU, one mean" if variant == "fvu_scalar" else "FVU"
        figures.append((f"{p.name}: error", axis, ("saes", p.i, variant)))
    panels, data = [], []
    for title, axis, path in figures:
        whom: list[tuple[str, int, Sequence[Any]]] = []
        if path[0] != "dce":
            whom.append(("reference", 0, ("reference",)))
        if path[0] != "ce":
            whom += [(called[c["label"]], k + 1, ("conditions", i))
                     for k, (i, c) in enumerate(entries)]
        series = []
        for name, style, where in whom:
            spots = []
            for tokens, step in steps:
                v = num(step, *where, *path)
                pair = interval(at(step, *where, *path[:-1]), path[-1]) \
                    if step is result.document else None
                if v is not None:
                    spots.append(Spot(tokens, v, pair))
                    data.append([result.name, name, ".".join(map(str, path)), tokens, v,
                                 *(pair or (None, None))])
            if len(spots) > 1:
                series.append(Series(name, spots, style))
        if series:
            panels.append(Panel(title, f"{axis} against tokens measured, to {steps[-1][0]:.0f}: "
                                + "; ".join(f"{s.name} {sig(s.spots[0].y, 5)} to "
                                            f"{sig(s.spots[-1].y, 5)}" for s in series) + ".",
                                lines(series, "tokens (log scale)", axis, log_x=True,
                                      log_y=None)))
    if not panels:
        return None
    key = [("f0", "circle", "reference")] + [
        (f"f{series_style(k + 1)[0]}", series_style(k + 1)[1], called[c["label"]])
        for k, (_, c) in enumerate(entries)]
    left = len(result.conditions()) - len(entries)
    return Figure("tokens", "Do the figures settle?",
                  "Figures after each budget of the profile and at the end, where whiskers are "
                  "95\u00a0% intervals over documents (earlier points have none)."
                  + of_more(len(entries), len(entries) + left, "conditions")
                  + of_more(3, len(places(result)), "SAEs"), panels,
                  ["result", "condition", "figure", "tokens", "value", "low", "high"], data, key)


# ---- noise floor ----

def noise(results: Sequence[Result]) -> Optional[Figure]:
    """Drift over the SAE's error, with the line at 1."""
    several = len(results) > 1
    entries, data = [], []
    for k, result in enumerate(results):
        called = names(result)
        for p in places(result, several):
            for c in result.conditions():
                ratio = num(p.of(c), "noise", "ratio")
                pair = interval(at(p.of(c), "noise"), "ratio")
                if ratio is None:
                    continue
                title = called[c["label"]]
                if several or len(places(result)) > 1:
                    title = f"{p.name}, {title}"
                entries.append(Row(title, ratio, pair, fixed(ratio, 2), k % SERIES))
                data.append([result.name, p.name, c["label"], ratio, *(pair or (None, None))])
    if not entries:
        return None
    desc = "Noise ratio P/R of each condition: " + "; ".join(
        f"{r.name} {fixed(r.value or 0, 3)}" for r in entries[:20]) + "."
    return Figure("noise", "Is the change above what the SAE can see?",
                  "P/R: drift of the residual stream in units of the SAE's own error. From 1 on, "
                  "an unchanged FVU is a finding; below 0.1 it says nothing; in between it is to "
                  "be read with care. Whiskers: 95\u00a0% intervals over documents."
                  + of_more(60, len(entries), "rows"),
                  [Panel("", desc, rows(entries[:60], "P / R",
                                        ((0.1, "0.1"), (1.0, "1: as large as the SAE's error")),
                                        bar=True), True)],
                  ["result", "sae", "condition", "ratio", "low", "high"], data)


# ---- sensitivity, weights ----

def sensitivity(result: Result) -> list[Figure]:
    """A figure per condition that was swept: what each part alone costs."""
    out = []
    parts = items(result.document, "sweep", "parts")
    by = string(result.document, "sweep", "by")
    for k, of in enumerate(dict.fromkeys(string(p, "of") for p in parts)):
        data: list[list[object]] = []
        entries: dict[str, list[Row]] = {"dce": [], "kl_mean": []}
        for p in parts:
            index = num(p, "condition")
            c = at(result.document, "conditions", int(index)) if index is not None else None
            if string(p, "of") != of or c is None:
                continue
            layer, module = num(p, "layer"), string(p, "module")
            name = " ".join(x for x in (f"layer {layer:.0f}" if layer is not None else "", module)
                            if x)
            for figure, found in entries.items():
                found.append(Row(name, num(c, figure), interval(c, figure),
                                 sig(num(c, figure) or 0.0), k % SERIES))
            data.append([result.name, of, layer, module, num(c, "dce"), num(c, "kl_mean"),
                         *(interval(c, "dce") or (None, None)),
                         *[num(c, "saes", i, "survival", "survived_percent")
                           for i in range(len(places(result)))]])
        panels = []
        for figure, axis in (("dce", "\u0394CE, nats per token"), ("kl_mean", "mean KL, nats")):
            found = [r for r in entries[figure] if r.value is not None]
            most = 40
            cut = sorted(found, key=lambda r: -(r.value or 0.0))[:most] if len(found) > most \
                else found
            if cut:
                panels.append(Panel(axis + (f": the {most} largest of {len(found)}"
                                            if cut is not found else ""),
                                    f"{axis} of each part: " + "; ".join(
                                        f"{r.name} {r.said}" for r in cut[:20]) + ".",
                                    rows(cut, axis, bar=True), True))
        if panels:
            out.append(Figure(f"sensitivity-{k + 1}" if k else "sensitivity",
                              f"Sensitivity of the {by}: {of}",
                              "One part at a time is changed and nothing else, so a bar is what "
                              "this part alone costs. Whiskers: 95\u00a0% intervals over "
                              "documents.",
                              panels,
                              ["result", "condition", "layer", "module", "dce", "kl_mean",
                               "dce_low", "dce_high", *[f"survived_percent[{i}]"
                                             for i in range(len(places(result)))]], data))
    return out


def weights(errors: Sequence[dict[str, Any]]) -> Optional[Figure]:
    """Relative error of the weights by layer, a line per module."""
    panels: list[Panel] = []
    data: list[list[object]] = []
    key: dict[str, tuple[str, str, str]] = {}
    for error in errors:
        of = string(error, "condition") or string(error, "other")
        series: dict[str, list[Spot]] = {}
        for m in items(error, "matrices"):
            layer, v = num(m, "layer"), num(m, "frobenius_relative")
            if v is not None:
                data.append([string(error, "path"), of, layer, string(m, "module"), v,
                             num(m, "sqnr_db"), num(m, "bits_per_weight")])
            if layer is not None and v is not None and layer >= 0:
                series.setdefault(string(m, "module"), []).append(Spot(layer, v))
        drawn = []
        for i, (module, spots) in enumerate(list(series.items())[:MOST_SERIES]):
            drawn.append(Series(module, spots, i))
            key[module] = (f"f{series_style(i)[0]}", series_style(i)[1], module)
        if drawn and len(panels) < 8:
            said = "; ".join(f"{s.name} {sig(min(p.y for p in s.spots))} to "
                             f"{sig(max(p.y for p in s.spots))}" for s in drawn)
            panels.append(Panel(
                of, f"Relative Frobenius error of the weights by layer: {said}.",
                lines(drawn, "layer", "relative error", zero_y=True)))
    if not panels:
        return None
    return Figure("weights", "By layer",
                  "Norm of (stored \u2212 original) over the norm of the original, per matrix, as "
                  "inspect measured it without running the model."
                  + (" The first eight conditions, of each the first twelve modules; the exported "
                     "CSV has all." if len(errors) > 8 or len(key) >= MOST_SERIES else ""), panels,
                  ["model", "condition", "layer", "module", "frobenius_relative", "sqnr_db",
                   "bits_per_weight"], data, list(key.values()))


# ---- context lengths ----

def contexts(result: Result) -> Optional[Figure]:
    """The same tokens after contexts of several lengths."""
    lengths = items(result.document, "contexts")
    called = names(result)
    series, data = [], []
    every = [c["label"] for c in result.conditions()]
    labels = every[:MOST_SERIES]
    for k, label in enumerate(labels):
        spots = []
        for length in lengths:
            c = next((c for c in items(length, "conditions") if string(c, "label") == label), None)
            n, v = num(length, "context"), num(c, "dce")
            if n is not None and v is not None:
                spots.append(Spot(n, v, interval(c, "dce")))
                data.append([result.name, label, n, v, *(interval(c, "dce") or (None, None))])
        if len(spots) > 1:
            series.append(Series(called[label], spots, k))
    if not series:
        return None
    key = [(f"f{series_style(s.style)[0]}", series_style(s.style)[1], s.name) for s in series]
    reference = [Spot(n, v, interval(at(x, "reference"), "ce")) for x in lengths
                 if (n := num(x, "context")) is not None
                 and (v := num(x, "reference", "ce")) is not None]
    panels = [Panel("Cost of compression", "Rise in cross-entropy by context length: " + "; ".join(
        f"{s.name} {signed(s.spots[0].y, 4)} to {signed(s.spots[-1].y, 4)}" for s in series) + ".",
        lines(series, "context, tokens (log scale)", "\u0394CE, nats per token", log_x=True,
              log_y=None))]
    if len(reference) > 1:
        panels.append(Panel("What context is worth", "Cross-entropy of the reference by context "
                            f"length: {fixed(reference[0].y, 4)} to {fixed(reference[-1].y, 4)}.",
                            lines([Series("reference", reference, 5)],
                                  "context, tokens (log scale)", "CE of the reference, nats",
                                  log_x=True)))
    return Figure("contexts", "Cost by context length",
                  "The same tokens are measured at every length, so a difference between lengths "
                  "is what is farther back and nothing else. Whiskers: 95\u00a0% intervals over "
                  "documents." + of_more(len(labels), len(every), "conditions"),
                  panels, ["result", "condition", "context", "dce", "low", "high"], data, key)


# ---- the article's figures ----

def width_of(label: str, bits: Optional[float]) -> str:
    """Bit width as the studies write it."""
    kind = family(label)
    if kind == "llm.int8":
        return "8bit"
    if kind in ("nf4", "fp4"):
        return "4bit"
    if kind == "rtn" and "@" not in label and "+" not in label:
        return "INT" + label.partition("bits=")[2].partition(",")[0]
    return fixed(bits, 2) + " bits" if bits is not None else "?"


def headline(result: Result) -> dict[str, Any]:
    """Where the article quotes its figures: the snapshot of that budget, or the end of the run."""
    for s in items(result.document, "snapshots"):
        if num(s, "budget") == 200000 and isinstance(s, dict):
            return s
    return result.document


def studies(results: Sequence[Result]) -> Optional[Figure]:
    """CE, PPL and FVU by bit width, as the article draws them; models side by side."""
    asked = [r for r in results if r.document.get("profile") == "article" and not r.parts
             and r.conditions()]
    if not asked:
        return None
    figures: list[tuple[str, str, Sequence[Any]]] = [
        ("Cross-entropy", "CE, nats per token", ("ce",)), ("Perplexity", "PPL", ("ppl",)),
        ("Rise in cross-entropy", "\u0394CE, % of the reference's", ("dce_percent",))]
    for i in range(min(3, max(len(places(r)) for r in asked))):
        figures.append(("FVU, one mean over tokens and dimensions"
                        + (f", SAE {i + 1}" if i else ""), "FVU", ("saes", i, "fvu_scalar")))
    panels, data = [], []
    for title, axis, path in figures:
        entries = []
        for k, result in enumerate(asked):
            place = headline(result)
            called = names(result)
            whom = [("reference", ("reference",))] + [
                (called[c["label"]], ("conditions", i))
                for i, c in enumerate(result.document["conditions"])
                if not c["label"].startswith("control:")]
            for name, where in whom:
                v = num(place, *where, *path)
                if v is None:
                    continue
                entry = at(place, *where, *path[:-1])
                pair: Optional[Interval] = interval(entry, str(path[-1]))
                bits = "16bit" if name == "reference" else width_of(
                    string(at(place, *where), "label"), None)
                title_ = f"{result.name}, {name}" if len(asked) > 1 else name
                said = percent(v, 2) if path[-1] == "dce_percent" else sig(v, 5)
                entries.append(Row(title_, v, pair, said, k % SERIES))
                data.append([result.name, name, bits, ".".join(map(str, path)), v,
                             *(pair or (None, None))])
        if len(entries) > 1:
            panels.append(Panel(title, f"{axis}: " + "; ".join(
                f"{r.name} {r.said}" for r in entries[:20]) + ".",
                rows(entries, axis, zero=path[-1] == "dce_percent"), True))
    if not panels:
        return None
    return Figure("widths", "By bit width",
                  "As \u201cA Black Box Made Less Opaque (part 4)\u201d draws them, at 200,000 "
                  "tokens or the end of a shorter run. The axes of CE, PPL and FVU do not begin at "
                  "zero." + of_more(3, max(len(places(r)) for r in asked), "SAEs"), panels,
                  ["result", "condition", "width", "figure", "value", "low", "high"], data)
