# SPDX-License-Identifier: BSD-2-Clause
"""The tables of two published studies, as `evaluate` prints them for their profiles.

article  "A Black Box Made Less Opaque (part 4)"
paper    arXiv 2606.03002
"""

from __future__ import annotations

import math
import re
from typing import Any, Optional, Union

from ._figures import Place, headline, names, places
from ._read import Result, at, items, num, string
from ._tables import Column, Page, tag
from ._words import Html, count, fixed, join, signed

__all__ = ["article", "paper"]

Cell = Union[str, Html]
_FLAT = {"informative": "informative: every condition moves the residual stream by more than the "
                        "SAE\u2019s error, so a flat FVU is a finding",
         "uninformative": "uninformative: no condition moves it by a tenth of the SAE\u2019s error",
         "interpret with care": "interpret with care: the ratios lie between 0.1 and 1, or on both "
                                "sides of 1"}


def article(page: Page, result: Result) -> Html:
    """CE, PPL, drift, error, ratio, FVU by tokens, and the verdict over all conditions."""
    if result.document.get("profile") != "article" or result.parts:
        return Html("")
    place, called = headline(result), names(result)
    steps = [s for s in items(result.document, "snapshots") if num(s, "tokens") is not None]
    tokens = num(place, "corpus", "tokens") if place is result.document else num(place, "tokens")
    whom: list[tuple[str, tuple[Union[str, int], ...]]] = [("reference", ("reference",))] + [
        (called[c["label"]], ("conditions", i))
        for i, c in enumerate(result.document["conditions"])
        if not c["label"].startswith("control:")]
    out: list[Html] = []
    for p in places(result) or [Place(result, 0, "")]:
        rows: list[list[Cell]] = []
        for name, path in whom:
            e = at(place, *path)
            s = at(e, "saes", p.i)
            self_ = "a change against the reference" if name == "reference" else "no SAE figures"
            row: list[Cell] = [name, page.value(num(e, "ce"), lambda v: fixed(v, 5)),
                               page.value(num(e, "ppl"), lambda v: fixed(v, 4)),
                               page.value(num(e, "dce_percent"), lambda v: signed(v, 3), self_)]
            if p.name:
                row += [page.value(num(s, "noise", "p"), lambda v: fixed(v, 4), self_),
                        page.value(num(s, "noise", "r"), lambda v: fixed(v, 4), self_),
                        page.value(num(s, "noise", "ratio"), lambda v: fixed(v, 3), self_)]
            rows.append(row)
        head = [Column("Condition", "", False), Column("CE", "CE"), Column("PPL", "PPL"),
                Column("\u0394CE, %", "\u0394CE")]
        if p.name:
            head += [Column("drift P", "P/R"), Column("error R", "P/R"), Column("P/R", "P/R")]
        at_ = f" at {count(tokens)} tokens" if tokens is not None else ""
        out.append(page.table(join([tag("b", p.name or "Predictions"), at_]), head, rows))
        if p.name and steps:
            rows = [[name, *[page.value(num(at(step, *path), "saes", p.i, "fvu_scalar"),
                                        lambda v: fixed(v, 6), "no SAE figures")
                             for step in steps]] for name, path in whom]
            head = [Column("Condition", "", False)]
            head += [Column(f"{count(num(s, 'tokens') or 0)} tokens") for s in steps]
            out.append(page.table(join([tag("b", p.name), ": FVU with one mean, by tokens"]), head,
                                  rows))
            page.term("FVU one mean")
        verdict = at(result.document, "verdicts", p.i)
        low, high = num(verdict, "min_ratio"), num(verdict, "max_ratio")
        words = string(verdict, "verdict")
        if p.name and words and low is not None and high is not None:
            said = tag("b", _FLAT.get(words, words))
            out.append(tag("p", join(["The study\u2019s verdict: ", said,
                                      f" (P/R {fixed(low, 3)} to {fixed(high, 3)})."])))
    return join(out)


# ---- the paper ----

def _ppl(entry: Any) -> Optional[float]:
    """Exp of the mean of the batches' mean losses, as the paper has it."""
    v = num(entry, "ce_mean_of_batch_means")
    return math.exp(v) if v is not None and v < 700 else None


def _bits(label: str) -> Optional[str]:
    found = re.match(r"rtn:bits=(\d+),", label)
    return found.group(1) if found else None


def _sliding(result: Result, label: str) -> Any:
    """The condition of as many bits in the second measurement, or None."""
    bits = _bits(label)
    for c in items(result.document, "sliding", "conditions"):
        if bits is not None and _bits(string(c, "label")) == bits:
            return c
    return None


def paper(page: Page, result: Result) -> Html:
    """Perplexity and survival by width, what 6 bits and pruning damage in common, the predictor."""
    if result.document.get("profile") != "paper" or result.parts:
        return Html("")
    out: list[Html] = []
    for p in places(result) or [Place(result, 0, "")]:
        out.append(_sweep(page, result, p))
        if p.name:
            out += [_overlap(page, result, p), _predictor(page, result, p)]
    return join(out)


def _sweep(page: Page, result: Result, p: Place) -> Html:
    called, base = names(result), _ppl(result.reference)
    second = at(result.document, "sliding")
    slid = num(second, "reference", "ppl")
    rows: list[list[Cell]] = []
    for name, c in [("reference", result.reference)] + [
            (called[c["label"]], c) for c in result.conditions()]:
        first = c is result.reference
        s = at(p.of(c), "survival")
        own = _ppl(c)
        change = 100 * (own / base - 1) if own is not None and base else None
        row: list[Cell] = [name, page.value(own, lambda v: fixed(v, 3)),
                           page.value(change, lambda v: signed(v, 2))]
        for key, same in (("mean_r", 1.0), ("median_r", 1.0), ("survived_percent", 100.0),
                          ("degraded_percent", 0.0), ("damaged_percent", 0.0)):
            if p.name:
                row.append(page.value(same if first else num(s, key), lambda v: fixed(v, 3),
                                      "no SAE figures"))
        if isinstance(second, dict):
            v = slid if first else num(_sliding(result, c["label"]), "ppl")
            why = "not measured in windows"
            row += [page.value(v, lambda x: fixed(x, 3), why),
                    page.value(100 * (v / slid - 1) if v is not None and slid else None,
                               lambda x: signed(x, 2), why)]
        rows.append(row)
    head = [Column("Condition", "", False), Column("PPL", "PPL"), Column("\u0394PPL, %")]
    if p.name:
        head += [Column("mean r", "r"), Column("median r", "r"),
                 Column("survived, %", "survived"), Column("degraded, %", "survived"),
                 Column("damaged, %", "survived")]
    if isinstance(second, dict):
        head += [Column("sliding PPL"), Column("\u0394, %")]
    return page.table(join([tag("b", p.name or "Predictions"), ". Perplexity: exp of the mean of "
                            "the batches\u2019 mean losses."]), head, rows)


def _overlap(page: Page, result: Result, p: Place) -> Html:
    called = names(result)
    six = next((c["label"] for c in result.conditions() if _bits(c["label"]) == "6"), None)
    pruned = next((c["label"] for c in result.conditions()
                   if c["label"].startswith("none+prune:")), None)
    sae = p.of(result.reference)
    for o in items(result.document, "overlaps"):
        if (string(o, "label_a"), string(o, "label_b")) != (six, pruned) or \
                [o.get(k) for k in ("name", "layer", "site")] != \
                [sae.get(k) for k in ("name", "layer", "site")]:
            continue
        rows: list[list[Cell]] = []
        for name, key in (("not surviving (r \u2264 0.9)", "non_survivors"),
                          ("damaged (r < 0.5)", "damaged")):
            s = at(o, key)
            rows.append([name, *[page.value(num(s, k), count) for k in ("a", "b", "both", "union")],
                         *[page.value(num(s, k), lambda v: fixed(v, 4), "no such features")
                           for k in ("jaccard", "ceiling", "chance")]])
        a, b = called[string(o, "label_a")], called[string(o, "label_b")]
        pearson, spearman = num(o, "damage_pearson"), num(o, "damage_spearman")
        more = f" Correlation of 1 \u2212 r: Pearson {fixed(pearson, 3)}, Spearman " \
               f"{fixed(spearman, 3)}." if pearson is not None and spearman is not None else ""
        return page.table(f"What {a} and {b} damage in common, of "
                          f"{count(num(o, 'active') or 0)} active features.{more}", [
                              Column("Features", "", False), Column(a), Column(b), Column("both"),
                              Column("either"), Column("Jaccard", "Jaccard"), Column("ceiling"),
                              Column("chance")], rows)
    return Html("")


_INPUTS = (("rarity", "rarity, \u2212ln(firing rate)"), ("log_mean", "ln(mean activation)"),
           ("log_concentration", "ln(max / mean)"), ("log_max", "ln(peak activation)"))


def _predictor(page: Page, result: Result, p: Place) -> Html:
    """Of 6 bits, else of the first condition that has a fit."""
    called = names(result)
    order = sorted(result.conditions(), key=lambda c: _bits(c["label"]) != "6")
    for c in order:
        found = at(p.of(c), "survival", "predictor")
        if isinstance(found, dict):
            break
    else:
        return Html("")
    rows: list[list[Cell]] = []
    alone: dict[str, Any] = found.get("auc_single") or {}
    weights: dict[str, Any] = found.get("coefficients_paper") or {}
    for key, words in _INPUTS:
        rows.append([words, page.value(num(weights, key), lambda v: signed(v, 2)),
                     page.value(num(alone, key), lambda v: fixed(v, 3))])
    said = []
    for key, words in (("auc_paper", "as the paper has it"),
                       ("auc", "standardized in each fold, without the redundant input")):
        v, sd = num(found, key), num(found, key + "_sd")
        if v is not None and sd is not None:
            said.append(f"{fixed(v, 3)} \u00b1 {fixed(sd, 3)} {words}")
    return page.table(join([tag("b", called[c["label"]]), ": which features survive, predicted "
                            "from the reference alone. AUC ", "; ".join(said), "."]),
                      [Column("Input", "", False), Column("coefficient"),
                       Column("AUC alone", "AUC")], rows)
