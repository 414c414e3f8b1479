# SPDX-License-Identifier: BSD-2-Clause
"""What the figures of a condition allow to conclude, in plain words."""

from __future__ import annotations

from typing import Any, Optional

from ._figures import Place, names, places
from ._read import Result, at, interval, items, num, string
from ._tables import Page, tag
from ._words import Html, fixed, join, percent, sig, signed, span

__all__ = ["WORDS", "reason_of", "section"]

# A sign, so that no verdict rests on colour, and its words.
WORDS: dict[str, tuple[str, str, str]] = {
    "hidden_damage": ("\u25d0", "Hidden damage", "bad"),
    "damage": ("\u25cf", "Damage", "bad"),
    "output_damage": ("\u25d1", "Damage to predictions", "bad"),
    "no_damage_seen": ("\u25cb", "No damage seen", "good"),
    "": ("\u2013", "No verdict", "open"),
}
FLAT = {
    "informative": "the drift of the residual stream is at least as large as the SAE\u2019s own "
                   "error, so what FVU does is a finding",
    "uninformative": "the drift is less than a tenth of the SAE\u2019s own error, so an unchanged "
                     "FVU says nothing about the features",
    "interpret with care": "the drift is neither clearly above the SAE\u2019s own error nor "
                           "clearly below a tenth of it, so a flat FVU is weak evidence",
}
REASONS = {
    "too few documents": "the text has fewer than 20 documents",
    "too few blocks of documents": "the documents make fewer than 16 blocks",
    "no active feature": "no feature is active in the reference",
    "no SAE": "the run had no SAE, and a verdict is about predictions and features",
}


def reason_of(entry: Any, key: str = "intervals_reason") -> str:
    """Why a figure has no interval or verdict, in words."""
    found = string(entry, key)
    return REASONS.get(found, found) or "the result gives none"


def badge(verdict: str) -> Html:
    sign, words, cls = WORDS.get(verdict, ("\u2013", verdict, "open"))
    return tag("span", join([tag("span", sign, aria_hidden="true"), " ", words]),
               cls=f"badge {cls}")


def predictions(c: dict[str, Any]) -> str:
    """The change in cross-entropy, and what its interval says."""
    dce, pair, part = num(c, "dce"), interval(c, "dce"), num(c, "dce_percent")
    if dce is None:
        return "Its predictions were not compared."
    of = f" ({signed(part, 2)}\u00a0% of the reference\u2019s)" if part is not None else ""
    if pair is None:
        said = (f"Cross-entropy changes by {signed(dce, 5)} nats per token{of}; there is no "
                f"interval ({reason_of(c)}), so nothing says whether that is more than chance.")
    elif pair[0] > 0:
        said = (f"Predictions get worse: cross-entropy rises by {fixed(dce, 5)} nats per "
                f"token{of}, 95\u00a0% interval {span(pair, 5)}.")
    elif pair[1] < 0:
        said = (f"Predictions get better on this text: cross-entropy falls by {fixed(-dce, 5)} "
                f"nats per token{of}, 95\u00a0% interval {span(pair, 5)}.")
    elif pair == (0.0, 0.0):
        said = "Predictions are unchanged: cross-entropy differs by exactly 0."
    else:
        said = (f"A change in cross-entropy cannot be told from none: {signed(dce, 5)} nats per "
                f"token{of}, 95\u00a0% interval {span(pair, 5)}.")
    top = num(c, "top1_agreement")
    if top is not None:
        said += f" {percent(100 * (1 - top), 2)} of the likeliest tokens change."
    return said


def features(p: Place, c: dict[str, Any]) -> str:
    """What becomes of an SAE's features, and whether its FVU can tell."""
    sae = p.of(c)
    if string(sae, "reason"):
        return f"{p.name}: no figures: {string(sae, 'reason')}."
    v, active = at(sae, "verdict"), num(sae, "survival", "active")
    lost, pair = num(v, "non_survivors_percent"), at(v, "non_survivors_interval")
    parts = []
    if lost is not None:
        said = f"{percent(lost)} of {fixed(active or 0, 0)} active features are lost (r \u2264 0.9)"
        if isinstance(pair, list):
            said += f", 95\u00a0% interval {fixed(pair[0], 1)} to {fixed(pair[1], 1)}\u00a0%"
        else:
            said += f" (no interval: {reason_of(v, 'reason')})"
        parts.append(said)
    fvu, change = num(sae, "fvu_dim"), num(sae, "dfvu_dim")
    if fvu is not None and change is not None:
        said = f"FVU {fixed(fvu, 4)} ({signed(change, 4)}"
        both = interval(sae, "dfvu_dim")
        parts.append(said + (f", interval {span(both, 4)})" if both else ")"))
    ratio, flat = num(sae, "noise", "ratio"), string(v, "flat_fvu")
    if ratio is not None:
        said = f"P/R {fixed(ratio, 2)}: "
        words = FLAT.get(flat or string(sae, "noise", "verdict"), "")
        parts.append(said + words + ("" if flat else ", by the ratio alone, without its interval"))
    return f"{p.name}: " + "; ".join(parts) + "." if parts else ""


def _condition(page: Page, result: Result, c: dict[str, Any], name: str) -> Html:
    verdict = string(c, "verdict")
    lines = [predictions(c)]
    if not verdict:
        lines[0] += f" No verdict: {reason_of(c, 'verdict_reason')}." \
            if string(c, "verdict_reason") else ""
    lines += [x for x in (features(p, c) for p in places(result)) if x]
    why = string(c, "checkpoint", "sae_reason")
    if why:
        lines = [lines[0], f"No SAE figures: {why}."]
    bits, cache = num(c, "bits_per_weight"), num(c, "kv_bits_per_value")
    stored = f" {fixed(bits, 2)} bits per weight" if bits is not None else ""
    if cache is not None and cache < 16:
        stored += f", {fixed(cache, 2)} bits per cached key or value"
    head = join([badge(verdict), " ", tag("b", name),
                 tag("span", stored, cls="muted")])
    return tag("li", join([tag("p", head, cls="head"),
                           join([tag("p", line) for line in lines])]))


def _summary(result: Result) -> str:
    """The verdicts counted, and the smallest condition without seen damage."""
    every = result.conditions()
    counts: dict[str, int] = {}
    for c in every:
        counts[string(c, "verdict")] = counts.get(string(c, "verdict"), 0) + 1
    said = ", ".join(f"{counts[key]} \u00d7 {words.lower()}" for key, (_, words, _) in WORDS.items()
                     if counts.get(key))
    out = f"{len(every)} condition{'s' if len(every) != 1 else ''}: {said}."
    unharmed = [(num(c, "bits_per_weight"), c) for c in every
                if string(c, "verdict") == "no_damage_seen"]
    sized = sorted(((b, c["label"]) for b, c in unharmed if b is not None), key=lambda x: x[0])
    if sized and counts.get("no_damage_seen", 0) < len(every):
        out += (f" The smallest without seen damage is {names(result)[sized[0][1]]}, with "
                f"{fixed(sized[0][0], 2)} bits per weight.")
    return out


def _caveats(result: Result) -> list[str]:
    """What a reader must know before quoting anything."""
    d = result.document
    out = []
    if d.get("complete") is False:
        out.append("The run is not complete: figures are of the part of the text that was "
                   "measured.")
    stable = at(d, "stabilization", "stable")
    change = num(d, "stabilization", "max_change_after_headline")
    if stable is False and change is not None:
        out.append(f"FVU still moves by up to {sig(change, 2)} between the last two budgets: not "
                   "yet stable.")
    entries = [result.reference, *result.conditions(controls=True)]
    bad = sum(1 for e in entries if (num(e, "nonfinite_rows") or 0) > 0
              or any((num(s, "nonfinite_rows") or 0) > 0 for s in items(e, "saes")))
    if bad:
        out.append(f"{bad} model(s) gave rows with values that are not finite; these rows are "
                   "left out of all figures.")
    called = names(result)
    for c in result.conditions():
        if c.get("batch_dependent") is True:
            out.append(f"{called[c['label']]}: outlier columns come from the whole batch, so its "
                       "figures depend on the batch.")
    for sae in items(result.reference, "saes"):
        share = num(sae, "share_x2_top_0p1pct")
        if share is not None and share > 0.2:
            out.append(f"{string(sae, 'name')}: 0.1\u00a0% of the tokens hold "
                       f"{percent(100 * share)} of "
                       "the energy of the residual stream, so a few tokens rule FVU and P/R.")
    return out


def section(page: Page, result: Result) -> Html:
    """The verdict on one result."""
    if not result.conditions():
        what = "The run is a sweep: its parts are below." if result.parts else \
            "The run measured the reference alone: there is no condition to judge."
        return tag("p", what)
    called = names(result)
    entries = [_condition(page, result, c, called[c["label"]]) for c in result.conditions()]
    for word in ("\u0394CE", "r", "FVU", "P/R", "flat FVU", "hidden damage"):
        if word == "\u0394CE" or places(result):
            page.term(word)
    caveats = _caveats(result)
    below: Optional[Html] = tag("ul", join([tag("li", c) for c in caveats]), cls="caveats") \
        if caveats else None
    return join([tag("p", _summary(result), cls="lead"), tag("ul", join(entries), cls="verdicts"),
                 below or Html("")])
