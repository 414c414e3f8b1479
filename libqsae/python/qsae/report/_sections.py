# SPDX-License-Identifier: BSD-2-Clause
"""The tables of the page. A section without data in the result is empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from ._features import slice_name, worst_slice
from ._figures import Place, names, places
from ._read import Result, at, interval, items, num, string
from ._tables import Column, Page, tag
from ._verdict import badge, reason_of
from ._words import Html, count, esc, fixed, join, percent, plain, sig, signed, size, visible

__all__ = ["contexts", "controls", "headline", "layers", "overlaps", "plan", "probes",
           "provenance", "ranking", "slices", "splices", "worst"]

Cell = Union[str, Html]


def _name(short: str, label: str) -> Html:
    """A condition: what readers call it, and its canonical form."""
    if short == label:
        return tag("span", label, cls="cond")
    return join([tag("span", short, cls="cond"), tag("code", _breaks(label))])


def _breaks(label: str) -> Html:
    """A label that may be broken after its commas."""
    return Html(esc(label).replace(",", ",<wbr>").replace("/", "/<wbr>"))


def _whom(result: Result) -> list[tuple[Html, dict[str, Any], bool]]:
    called = names(result)
    return [(_name("reference", "none"), result.reference, True)] + [
        (_name(called[c["label"]], c["label"]), c, False) for c in result.conditions()]


def headline(page: Page, result: Result) -> Html:
    """Predictions, then a table per SAE."""
    head = [Column("Condition", "", False), Column("bits/weight", "bits/weight"),
            Column("weights"), Column("CE", "CE"), Column("\u0394CE", "\u0394CE"),
            Column("\u0394CE, %"), Column("PPL", "PPL"), Column("KL", "KL"),
            Column("top-1", "top-1")]
    if not result.conditions():
        head = [head[0], head[1], head[2], head[3], head[6]]
    rows: list[list[Cell]] = []
    for name, c, reference in _whom(result):
        why, self_ = reason_of(c), "a change against the reference"
        kl = string(c, "checkpoint", "kl_reason") or why
        row: list[Cell] = [name, page.value(num(c, "bits_per_weight"), lambda v: fixed(v, 3)),
                           page.value(num(c, "weight_bytes"), size),
                           page.ranged(num(c, "ce"), interval(c, "ce"), 5, why, False)]
        if reference and not result.conditions():
            row.append(page.ranged(num(c, "ppl"), interval(c, "ppl"), 3, why, False))
        elif reference:
            row += [page.none(self_), page.none(self_),
                    page.ranged(num(c, "ppl"), interval(c, "ppl"), 3, why, False),
                    page.none(self_), page.none(self_)]
        else:
            row += [page.ranged(num(c, "dce"), interval(c, "dce"), 5, why),
                    page.value(num(c, "dce_percent"), lambda v: signed(v, 2), why),
                    page.ranged(num(c, "ppl"), interval(c, "ppl"), 3, why, False),
                    page.value(num(c, "kl_mean"), sig, kl),
                    page.value(num(c, "top1_agreement"), lambda v: percent(100 * v, 2), why)]
        rows.append(row)
    out = [page.table("Predictions; below each figure its 95\u00a0% interval", head, rows)]
    for p in places(result):
        out += [_sae_table(page, result, p), _masks(page, result, p)]
    out.append(_checkpoints(page, result))
    return join(out)


def _sae_table(page: Page, result: Result, p: Place) -> Html:
    sae = p.of(result.reference)
    scalar = result.document.get("profile") == "article"
    fvu, term = ("fvu_scalar", "FVU one mean") if scalar else ("fvu_dim", "FVU")
    mean = ", one mean" if scalar else ""
    head = [Column("Condition", "", False), Column("FVU" + mean, term),
            Column("\u0394FVU" + mean, "\u0394FVU"), Column("L0", "L0"), Column("P/R", "P/R"),
            Column("survived", "survived"), Column("median r", "r"), Column("verdict", "", False)]
    if not result.conditions():
        head = [head[0], head[1], head[3]]
    rows: list[list[Cell]] = []
    for name, c, reference in _whom(result):
        s = p.of(c)
        self_ = "a change against the reference" if reference else \
            string(s, "reason") or reason_of(s)
        noise, survival = at(s, "noise"), at(s, "survival")
        row: list[Cell] = [name, page.ranged(num(s, fvu), interval(s, fvu), 5, self_ if not
                                             reference else reason_of(s), False),
                           page.ranged(num(s, "d" + fvu), interval(s, "d" + fvu), 5, self_)
                           if not reference else page.none(self_),
                           page.value(num(s, "l0"), lambda v: fixed(v, 2), self_)]
        if reference and not result.conditions():
            del row[2]
        elif reference:
            row += [page.none(self_)] * 4
        else:
            row += [page.ranged(num(noise, "ratio"), interval(noise, "ratio"), 3, self_, False),
                    page.ranged(num(survival, "survived_percent"),
                                interval(survival, "survived_percent"), 1,
                                reason_of(survival) if survival else self_, False, percent),
                    page.value(num(survival, "median_r"), lambda v: fixed(v, 4), self_),
                    badge(string(s, "verdict", "verdict")) if string(s, "verdict", "verdict")
                    else page.none(reason_of(s.get("verdict"), "reason"))]
        rows.append(row)
    shape = ", ".join(x for x in (string(sae, "architecture"), f"{count(num(sae, 'features') or 0)}"
                                  " features") if x)
    which = " FVU has one mean over tokens and dimensions, as in the article." if scalar else ""
    return page.table(join([tag("b", p.name), f" ({shape}).{which}"]), head, rows)


_MASKS = (("all tokens", ()), ("no special tokens", ("masks", "no_specials")),
          ("no first positions", ("masks", "no_first_position")),
          ("|x| up to 10 medians", ("masks", "no_sinks")))


def _masks(page: Page, result: Result, p: Place) -> Html:
    """Both denominators of FVU, with and without the few tokens that may rule them: profile
    article, and where 0.1 % of the tokens hold more than a tenth of the energy."""
    share = num(p.of(result.reference), "share_x2_top_0p1pct")
    if result.document.get("profile") != "article" and (share is None or share <= 0.1):
        return Html("")
    rows: list[list[Cell]] = []
    for name, c, _ in _whom(result):
        why = string(p.of(c), "reason") or "no such tokens"
        rows.append([name, *[page.value(num(p.of(c), *path, key), lambda v: fixed(v, 5), why)
                             for key in ("fvu_scalar", "fvu_dim") for _, path in _MASKS]])
    head = [Column("Condition", "", False)]
    for words, term in (("one mean", "FVU one mean"), ("FVU", "FVU")):
        head += [Column(f"{words}, {mask}", term) for mask, _ in _MASKS]
    energy = f" 0.1\u00a0% of the tokens hold {percent(100 * share)} of the energy." \
        if share is not None else ""
    return page.table(join([tag("b", p.name), ": does FVU rest on a few tokens?", energy]), head,
                      rows)


def _checkpoints(page: Page, result: Result) -> Html:
    """What other checkpoints differ in."""
    rows: list[list[Cell]] = []
    called = names(result)
    for c in result.conditions():
        for d in items(c, "checkpoint", "differences"):
            rows.append([called[c["label"]], string(d, "field"), string(d, "reference"),
                         string(d, "condition")])
    if not rows:
        return Html("")
    return page.table("What other checkpoints differ in, apart from the values of their weights",
                      [Column("Checkpoint", "", False), Column("field", "", False),
                       Column("reference", "", False), Column("checkpoint", "", False)], rows)


def slices(page: Page, result: Result) -> Html:
    """The worst part beside the average, per condition."""
    called = names(result)
    rows: list[list[Cell]] = []
    page_reason = "no part has 2,000 tokens and 20 documents"
    for c in result.conditions():
        worst = worst_slice(result, c["label"])
        if worst is None:
            continue
        part, figures = worst
        rows.append([_name(called[c["label"]], c["label"]),
                     page.ranged(num(c, "dce"), interval(c, "dce"), 5, reason_of(c)),
                     slice_name(part), page.value(num(part, "tokens"), count),
                     page.ranged(num(figures, "dce"), interval(figures, "dce"), 5, page_reason),
                     page.value(num(figures, "q"), lambda v: sig(v, 2), "no interval, so no test"),
                     page.value(num(figures, "kl_mean"), sig)])
    every = items(result.document, "slices", "list")
    if not every:
        return Html("")
    few = sum(1 for s in every if s.get("enough") is False)
    note = tag("p", f"{len(every)} parts; {few} of them have fewer than 2,000 tokens or 20 "
                    "documents and no figures.", cls="note")
    if not rows:
        return note
    first = page.table("The average, and the part of the text that suffers most", [
        Column("Condition", "", False), Column("\u0394CE, all tokens", "\u0394CE"),
        Column("worst part", "", False), Column("tokens"), Column("\u0394CE there"),
        Column("q", "q"), Column("KL there", "KL")], rows)
    return join([first, note, _macro(page, result)])


def _macro(page: Page, result: Result) -> Html:
    """Averages that give every part of a division the same weight."""
    called = names(result)
    summary = {string(s, "label"): s for s in items(result.document, "slices", "summary")}
    divisions: list[str] = []
    for s in summary.values():
        divisions += [d for d in (at(s, "macro") or {}) if d not in divisions]
    rows: list[list[Cell]] = []
    for c in result.conditions():
        s = summary.get(c["label"])
        rows.append([called[c["label"]], page.value(num(c, "dce"), lambda v: signed(v, 5)),
                     *[page.value(num(s, "macro", d, "dce"), lambda v: signed(v, 5),
                                  "no part has figures") for d in divisions]])
    if not rows or not divisions:
        return Html("")
    return page.table("\u0394CE with the same weight for every part of a division, beside that of "
                      "all tokens", [Column("Condition", "", False),
                                 Column("all tokens", "\u0394CE"),
                                 *[Column(d) for d in divisions]], rows)


def worst(page: Page, result: Result, most: int = 10) -> Html:
    """The tokens and documents that each condition hurts most, in context."""
    called = names(result)
    out: list[Html] = []
    if len(result.conditions()) > 2:
        most = 5
    for c in result.conditions():
        tokens = items(c, "worst_tokens")[:most]
        if not tokens:
            continue
        rows: list[list[Cell]] = []
        for t in tokens:
            context = tag("span", join([
                tag("bdi", visible(string(t, "before"), 90, tail=True)),
                tag("mark", tag("bdi", visible(string(t, "token"), 40) or Html("\u2423"))),
                tag("bdi", visible(string(t, "after"), 50))]), cls="context", dir="auto")
            rows.append([context, page.value(num(t, "dnll"), lambda v: signed(v, 3)),
                         page.value(num(t, "p_r"), _probability),
                         page.value(num(t, "p_q"), _probability),
                         tag("bdi", visible(string(t, "top_r_text"), 30)),
                         tag("bdi", visible(string(t, "top_q_text"), 30)),
                         page.value(num(t, "document"), count)])
        caption = f": the {len(tokens)} tokens with the largest rise in \u2212ln p, in context"
        out.append(page.table(join([tag("b", called[c["label"]]), caption]),
                              [Column("Token in its context", "", False), Column("rise, nats"),
                               Column("p, reference"), Column("p, condition"),
                               Column("reference says", "", False),
                               Column("condition says", "", False), Column("document")], rows,
                              "worst"))
        documents = items(c, "worst_documents", "by_total")[:3]
        if documents:
            out.append(_documents(page, called[c["label"]], documents))
    return join(out)


def _probability(v: float) -> str:
    return fixed(v, 4) if v >= 5e-5 else sig(v, 2)


def _documents(page: Page, name: str, documents: Sequence[Any]) -> Html:
    rows: list[list[Cell]] = []
    for d in documents:
        line = num(d, "line")
        source = plain(string(d, "source")).rsplit("/", 1)[-1]
        rows.append([page.value(num(d, "document"), count),
                     f"{source}, {count(line)}" if line is not None else source or "text",
                     page.value(num(d, "tokens"), count),
                     page.value(num(d, "dnll_total"), lambda v: signed(v, 2)),
                     page.value(num(d, "dce"), lambda v: signed(v, 4)),
                     page.value(num(d, "kl_mean"), sig)])
    return page.table(join([tag("b", name), ": the documents with the largest rise in all"]),
                      [Column("Document", "", False), Column("file, line", "", False),
                       Column("scored tokens"), Column("rise in all, nats"),
                       Column("\u0394CE", "\u0394CE"), Column("KL", "KL")], rows)


def probes(page: Page, result: Result) -> Html:
    """Answers that compression turned."""
    p = at(result.document, "probes")
    if not isinstance(p, dict):
        return Html("")
    called = names(result)
    out: list[Html] = []
    reference = at(p, "reference")
    groups: list[tuple[str, Any, list[tuple[str, Any]]]] = [("All pairs", reference, [
        (called.get(string(c, "label"), string(c, "label")), c) for c in items(p, "conditions")])]
    for k, t in enumerate(items(reference, "tags")):
        groups.append((f"Pairs tagged {string(t, 'tag')}", t, [
            (called.get(string(c, "label"), string(c, "label")), at(c, "tags", k))
            for c in items(p, "conditions")]))
    most = 13
    for title, ref, entries in groups[:most]:
        n = num(ref, "items") or num(p, "items") or 0.0
        few = "fewer than 20 pairs, or not asked yet"
        rows: list[list[Cell]] = []
        for name, c in [("reference", ref), *entries]:
            self_ = "a change against the reference" if c is ref else few
            pp = num(c, "mcnemar_p")
            turned = (num(c, "right_to_wrong"), num(c, "wrong_to_right"))
            change = page.none(self_) if c is ref or num(c, "daccuracy") is None else _points(
                page, num(c, "daccuracy") or 0.0, at(c, "intervals", "daccuracy"), few)
            rows.append([name, page.value(num(c, "accuracy"), lambda v: percent(100 * v), few),
                         change,
                         f"{count(turned[0])} / {count(turned[1])}" if None not in turned
                         and turned[0] is not None and turned[1] is not None
                         else page.none(self_),
                         page.value(pp, lambda v: sig(v, 2), self_),
                         page.ranged(num(c, "margin"), interval(c, "margin"), 3, few, True)])
        out.append(page.table(join([tag("b", title), f", {count(n)} of them"]), [
            Column("Model", "", False), Column("right"), Column("change, points"),
            Column("turned wrong / right"), Column("McNemar p"), Column("margin", "margin")],
            rows))
    if len(groups) > most:
        out.append(tag("p", f"The first {most - 1} of {len(groups) - 1} tags.", cls="note"))
    return join(out)


def _points(page: Page, v: float, pair: Any, few: str) -> Html:
    both = (100 * pair[0], 100 * pair[1]) if isinstance(pair, list) else None
    return page.ranged(100 * v, both, 1, few)


def contexts(page: Page, result: Result) -> Html:
    """Cost by context length, and its change since the shortest."""
    called = names(result)
    lengths = items(result.document, "contexts")
    if not lengths:
        return Html("")
    rows: list[list[Cell]] = []
    for label in [c["label"] for c in result.conditions()]:
        for length in lengths:
            c = next((c for c in items(length, "conditions") if string(c, "label") == label), None)
            if c is None:
                continue
            first = length is lengths[0]
            why = "the shortest length, with which the others are compared" if first else \
                "too few documents for an interval"
            change = at(c, "change")
            rows.append([called[label], page.value(num(length, "context"), count),
                         page.ranged(num(c, "dce"), interval(c, "dce"), 5,
                                     "too few documents for an interval"),
                         page.ranged(num(change, "dce"), interval(change, "dce"), 5, why),
                         page.value(num(c, "kl_mean"), sig)])
    within = num(lengths[-1], "within_document")
    note = f" {percent(100 * within)} of the measured tokens have their whole longest window in " \
           "their own document." if within is not None else ""
    return page.table("Cost of compression by context length." + note, [
        Column("Condition", "", False), Column("context"), Column("\u0394CE", "\u0394CE"),
        Column("change since the shortest"), Column("KL", "KL")], rows)


def controls(page: Page, result: Result) -> Html:
    """Conditions beside rounding alone, and noise of the same size."""
    called = names(result)
    out: list[Html] = []
    kinds = (("floor", "rounding alone"), ("gauss", "Gaussian noise of its size"),
             ("permute", "its errors in random places"), ("shuffle", "unrelated tokens"),
             ("null", "the reference again"))
    for c in result.conditions():
        of_it = at(c, "controls")
        if not isinstance(of_it, dict):
            continue
        entries: list[tuple[str, Any]] = [("the condition itself", c)]
        entries += [(words, of_it[kind]) for kind, words in kinds
                    if isinstance(of_it.get(kind), dict)]
        rows: list[list[Cell]] = []
        for name, e in entries:
            row: list[Cell] = [name, page.value(num(e, "dce"), lambda v: signed(v, 5)),
                               page.value(num(e, "kl_mean"), sig)]
            for p in places(result)[:2]:
                s = p.of(e)
                lost = num(s, "survival", "survived_percent") if e is c else \
                    num(s, "survived_percent")
                row += [page.value(num(s, "dfvu_dim"), lambda v: signed(v, 5)),
                        page.value(lost, lambda v: percent(v))]
            rows.append(row)
        beyond = at(of_it, "beyond_floor", "dce")
        said = {True: "beyond the numeric floor", False: "within the numeric floor"}.get(
            beyond, "not compared with a floor")
        head = [Column("Run", "", False), Column("\u0394CE", "\u0394CE"), Column("KL", "KL")]
        for k in range(min(len(places(result)), 2)):
            of = f", SAE {k + 1}" if len(places(result)) > 1 else ""
            head += [Column("\u0394FVU" + of, "\u0394FVU"), Column("survived" + of, "survived")]
        out.append(page.table(join([tag("b", called[c["label"]]), f": its change in cross-entropy "
                                    f"is {said}" + _first_two(result)]), head, rows))
    return join(out)


def _first_two(result: Result) -> str:
    n = len(places(result))
    return f". Columns of SAEs are those of the first two of {n}" if n > 2 else ""


def splices(page: Page, result: Result) -> Html:
    """What the reconstruction is worth to each model."""
    called = names(result)
    out: list[Html] = []
    for p in places(result):
        rows: list[list[Cell]] = []
        for name, e in [("reference", result.reference)] + [
                (called[c["label"]], c) for c in result.conditions()]:
            s = at(p.of(e), "splice")
            if isinstance(s, dict):
                rows.append(_splice_row(page, name, s))
        if rows:
            out.append(page.table(join([tag("b", p.name), ": the SAE put in place of the "
                                        "activations"]), _SPLICE, rows))
    for k, layers_of in enumerate(items(result.reference, "sae_layers")):
        rows = [_splice_row(page, name, s) for name, e in [("reference", result.reference)] + [
            (called[c["label"]], c) for c in result.conditions()]
            if isinstance(s := at(e, "sae_layers", k, "splice"), dict)]
        if rows:
            out.append(page.table(join([tag("b", string(layers_of, "name")), ": all layers put in "
                                        "place at once"]), _SPLICE, rows))
    return join(out)


_SPLICE = [Column("Model", "", False), Column("CE alone", "CE"), Column("CE with the SAE"),
           Column("CE with zeros"), Column("CE recovered", "CE recovered"),
           Column("KL of the splice", "KL")]


def _splice_row(page: Page, name: str, s: dict[str, Any]) -> list[Cell]:
    why = reason_of(s)
    return [name, page.value(num(s, "ce"), lambda v: fixed(v, 5)),
            page.value(num(s, "ce_sae"), lambda v: fixed(v, 5)),
            page.value(num(s, "ce_zero"), lambda v: fixed(v, 5)),
            page.ranged(num(s, "ce_recovered"), interval(s, "ce_recovered"), 4, why, False),
            page.value(num(s, "kl_sae"), sig)]


def overlaps(page: Page, result: Result, most: int = 20) -> Html:
    """What pairs of conditions damage in common."""
    called = names(result)
    found = [o for o in items(result.document, "overlaps")
             if string(o, "label_a") in called and string(o, "label_b") in called
             and not string(o, "label_a").startswith("control:")
             and not string(o, "label_b").startswith("control:")
             and num(o, "non_survivors", "jaccard") is not None
             and (num(o, "non_survivors", "union") or 0) >= 5]
    found.sort(key=lambda o: -(num(o, "non_survivors", "jaccard") or 0.0))
    if not found:
        return Html("")
    rows: list[list[Cell]] = []
    for o in found[:most]:
        s = at(o, "non_survivors")
        rows.append([f"{called[o['label_a']]} and {called[o['label_b']]}",
                     *[page.value(num(s, k), count) for k in ("a", "b", "both", "union")],
                     *[page.value(num(s, k), lambda v: fixed(v, 3), "no such sets")
                       for k in ("jaccard", "ceiling", "chance")],
                     page.value(num(o, "damage_spearman"), lambda v: fixed(v, 3), "r is constant")])
    more = f" (the {most} of {len(found)} pairs with the largest Jaccard index)" \
        if len(found) > most else ""
    caption = "Features that do not survive (r \u2264 0.9), in pairs of conditions"
    return page.table(caption + more, [
        Column("Pair", "", False), Column("lost in the first"), Column("in the second"),
        Column("in both"), Column("in either"), Column("Jaccard", "Jaccard"), Column("ceiling"),
        Column("chance"), Column("rank correlation of 1 \u2212 r")], rows)


def ranking(page: Page, result: Result, most: int = 20) -> Html:
    """The costliest parts of a sweep."""
    parts = []
    for p in items(result.document, "sweep", "parts"):
        index = num(p, "condition")
        c = at(result.document, "conditions", int(index)) if index is not None else None
        if c is not None:
            parts.append((p, c))
    parts.sort(key=lambda x: -(num(x[1], "kl_mean") or 0.0))
    if not parts:
        return Html("")
    rows: list[list[Cell]] = []
    for p, c in parts[:most]:
        layer = num(p, "layer")
        where = " ".join(x for x in (f"layer {layer:.0f}" if layer is not None else "all layers",
                                     string(p, "module")) if x)
        row: list[Cell] = [where, tag("code", string(p, "of")),
                           page.ranged(num(c, "dce"), interval(c, "dce"), 5, reason_of(c)),
                           page.value(num(c, "kl_mean"), sig)]
        for place in places(result)[:2]:
            row += [page.value(num(place.of(c), "dfvu_dim"), lambda v: signed(v, 5)),
                    page.value(num(place.of(c), "survival", "survived_percent"), percent)]
        rows.append(row)
    head = [Column("Part", "", False), Column("condition", "", False),
            Column("\u0394CE", "\u0394CE"), Column("KL", "KL")]
    head += [Column("\u0394FVU", "\u0394FVU"), Column("survived", "survived")] * \
        min(len(places(result)), 2)
    more = f": the {most} of {len(parts)} with the largest KL" if len(parts) > most else \
        ", the largest KL first"
    return page.table("What each part costs alone" + more + _first_two(result), head, rows)


def plan(page: Page, result: Result) -> Html:
    """A mixed-precision plan, what it was made of and what came of it."""
    p = at(result.document, "plan")
    if not isinstance(p, dict):
        return Html("")
    rows: list[list[Cell]] = []
    for part in items(p, "parts"):
        layer = num(part, "layer")
        rows.append([" ".join(x for x in (f"layer {layer:.0f}" if layer is not None
                                          else "all layers", string(part, "module")) if x),
                     tag("code", string(part, "chosen")) if string(part, "chosen")
                     else "kept as stored", page.value(num(part, "bits"), lambda v: fixed(v, 3)),
                     page.value(num(part, "weights"), count)])
    out = [page.table("What each part gets, the costliest first", [
        Column("Part", "", False), Column("condition", "", False),
        Column("bits/weight", "bits/weight"), Column("weights")], rows)]
    measured: list[list[Cell]] = []
    for name, m in [("the plan", at(p, "measured"))] + [
            (string(u, "label"), u) for u in items(p, "uniform")]:
        if not isinstance(m, dict):
            continue
        pair = at(m, "dce_interval")
        both = (float(pair[0]), float(pair[1])) if isinstance(pair, list) else None
        measured.append([name, page.value(num(m, "bits"), lambda v: fixed(v, 3)),
                         page.ranged(num(m, "dce"), both, 5, "too few documents"),
                         page.value(num(m, "kl_mean"), sig)])
    if measured:
        out.append(page.table("The plan measured, beside the same conditions on the whole model", [
            Column("Condition", "", False), Column("bits/weight", "bits/weight"),
            Column("\u0394CE", "\u0394CE"), Column("KL", "KL")], measured))
    predicted, budget = num(p, "predicted"), num(p, "budget_bits")
    said = f"Budget {fixed(budget, 2)} bits per weight" if budget is not None else "A plan"
    if predicted is not None:
        said += f"; the sum of {string(p, 'figure')} over the chosen parts was {sig(predicted)}, " \
                "if costs add up"
    return join([tag("p", said + "."), *out])


def layers(page: Page, result: Result, most: int = 12) -> Html:
    """LLM.int8: the layers with the most outlier columns."""
    called = names(result)
    out: list[Html] = []
    for c in result.conditions():
        found = [x for x in items(c, "layers") if (num(x, "outlier_share") or 0.0) > 0]
        if not found:
            continue
        found.sort(key=lambda x: -(num(x, "outlier_share") or 0.0))
        rows: list[list[Cell]] = [[
            tag("code", string(x, "name")),
            page.value(num(x, "outlier_share"), lambda v: percent(100 * v, 2)),
            page.value(num(x, "calls_with_outliers"), count),
            page.value(num(x, "calls"), count)] for x in found[:most]]
        out.append(page.table(join([tag("b", called[c["label"]]), f": the linear layers with the "
                                    f"most outlier columns ({len(found)} have some)"]),
                              [Column("Layer", "", False), Column("share of its inputs"),
                               Column("calls with outliers"), Column("calls")], rows))
    return join(out)


def provenance(page: Page, result: Result) -> Html:
    """What was measured, and by what: enough to tell whether two results are comparable."""
    d, c = result.document, at(result.document, "corpus")

    def whole(*path: Union[str, int]) -> str:
        v = num(d, *path)
        return count(v) if v is not None else ""

    facts: list[tuple[str, str]] = [
        ("file", plain(result.path).rsplit("/", 1)[-1]), ("libqsae", string(d, "library")),
        ("fingerprint of the measurement", string(d, "fingerprint")),
        ("hash of the tokens", string(c, "token_hash")), ("profile", string(d, "profile")),
        ("arithmetic", string(d, "compute")), ("attention", string(d, "attention")),
        ("weights processed", string(d, "process")),
        ("tokens, predicted", f"{whole('corpus', 'tokens')}, "
                              f"{whole('corpus', 'predicted_tokens')}"),
        ("documents", whole("corpus", "documents")),
        ("context, batch", f"{whole('corpus', 'context')}, {whole('corpus', 'batch')}"),
        ("BOS policy", string(c, "bos_policy")), ("packing", string(c, "pack")),
        ("windows begin every", whole("corpus", "stride")),
        ("positions not in feature statistics", string(c, "exclude_tokens")),
        ("kernel level", string(d, "numerics", "cpu")),
        ("f32 products", string(d, "numerics", "gemm")),
        ("time", f"{fixed(num(d, 'timing', 'seconds') or 0.0, 1)} s, "
                 f"{whole('timing', 'threads')} threads, {whole('timing', 'tokens_per_second')} "
                 "tokens/s" if num(d, "timing", "seconds") is not None else "")]
    for p in places(result):
        facts.append((f"SAE {p.name}", string(p.of(result.reference), "hash")))
    gaps = items(d, "gaps")
    if gaps:
        facts.append(("chunks not measured", ", ".join(
            f"{fixed(float(g[0]), 0)} to {fixed(float(g[1]) - 1, 0)}" for g in gaps[:8]
            if isinstance(g, list))))
    with_ = string(d, "numerics", "measured_with").splitlines()
    if len(with_) > 1:
        facts.append(("measured on several machines", "; ".join(with_)))
    return tag("dl", join([join([tag("dt", k), tag("dd", v)]) for k, v in facts if v.strip(" ,")]),
               cls="facts")
