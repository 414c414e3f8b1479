# SPDX-License-Identifier: BSD-2-Clause
"""Tables, figures and definitions as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional, Union

from ._draw import svg
from ._plot import NARROW, WIDE, Figure, key_drawing
from ._read import Interval
from ._words import Html, esc, join, span

__all__ = ["DEFINITIONS", "Column", "Page", "tag"]

# What the figures mean; formulas: doc/metrics.md.
DEFINITIONS: dict[str, str] = {
    "CE": "Cross-entropy: mean of \u2212ln p(next token) over the scored tokens, in nats.",
    "PPL": "Perplexity: exp(CE).",
    "\u0394CE": "CE of the condition less CE of the reference on the same tokens. In percent: of "
                "the reference\u2019s CE in nats, which is less than the percent of perplexity.",
    "KL": "Kullback-Leibler divergence of the condition\u2019s prediction from the "
          "reference\u2019s, over the whole vocabulary, in nats, mean over tokens. 0: the same "
          "predictions.",
    "top-1": "Share of tokens for which both models hold the same token for the likeliest.",
    "bits/weight": "Bits per replaced weight, scales included. Of all weights where none is "
                   "replaced.",
    "FVU": "Fraction of variance unexplained: the squared error of an SAE\u2019s reconstruction "
           "over the variance of what it reconstructs, one mean per dimension. 0 is perfect. "
           "Each model is measured on its own activations.",
    "FVU one mean": "The same with one mean over all tokens and dimensions, as \u201cA Black Box "
                    "Made Less Opaque (part 4)\u201d has it. It is smaller, and a few tokens of "
                    "large norm can rule it.",
    "\u0394FVU": "FVU of the condition less that of the reference.",
    "L0": "Active features per token.",
    "P/R": "Noise ratio. P is the drift of the residual stream, sqrt(\u03a3|x_q \u2212 x_r|\u00b2 "
           "/ \u03a3|x_r|\u00b2); R the SAE\u2019s own error, sqrt(\u03a3|x_q \u2212 y_q|\u00b2 "
           "/ \u03a3|x_q|\u00b2). Below 1 the drift is smaller than what the SAE leaves "
           "unexplained anyway.",
    "r": "Pearson\u2019s correlation of a feature\u2019s activations in both models over all "
         "tokens, zeros included.",
    "survived": "Share of the active features with r > 0.9. Active: firing on more than "
                "0.1\u00a0% of tokens in the reference. Degraded: r from 0.5 to 0.9; damaged: "
                "below 0.5.",
    "gain": "\u03a3 f_r f_q / \u03a3 f_r\u00b2 of a feature\u2019s activations: the factor by "
            "which they are multiplied, in the least-squares sense.",
    "interval": "95\u00a0% intervals are over documents, the unit that can be drawn anew: a "
                "bootstrap of whole documents, widened where there are few. Conditions are "
                "paired with the reference. There is none below 20 documents.",
    "q": "p that a part\u2019s \u0394CE equals that of all tokens, corrected for the number of "
         "parts (Benjamini and Hochberg): below 0.05 the part differs.",
    "hidden damage": "Predictions do not look worse (the interval of \u0394CE includes 0 or lies "
                     "below it) while more features are lost than in a run of the reference "
                     "against itself.",
    "flat FVU": "Whether an FVU that hardly changes means anything. Informative: P/R is at least "
                "1, in the energy and in the median over tokens, each with its interval. "
                "Uninformative: both below 0.1. Else to be read with care.",
    "CE recovered": "(CE zero \u2212 CE SAE) / (CE zero \u2212 CE): what a reconstruction put in "
                    "place of the activations keeps of their worth; 1 is all of it.",
    "margin": "ln p(good) \u2212 ln p(bad) of a pair of continuations, in nats; a pair is right "
              "if it is above 0.",
    "Jaccard": "Features lost in both conditions over those lost in either; the ceiling is the "
               "largest it can be with these numbers, chance what independent sets would have.",
    "AUC": "Of a feature that survives and one that does not, how often the predictor ranks the "
           "first higher; 0.5 is chance.",
    "relative error": "Norm of (stored \u2212 original weights) over the norm of the original.",
}


def slug(term: str) -> str:
    return "def-" + "".join(c if c.isalnum() and c.isascii() else f"-{ord(c):x}-" if ord(c) > 127
                            else "-" for c in term)


def tag(name: str, content: Union[str, Html], **attributes: str) -> Html:
    """An element. cls is class."""
    names = "".join(f' {k.replace("cls", "class").replace("_", "-")}="{esc(v)}"'
                    for k, v in attributes.items())
    return Html(f"<{name}{names}>{esc(content)}</{name}>")


class Column(NamedTuple):
    name: str
    term: str = ""        # of DEFINITIONS
    number: bool = True


class Page:
    """What is being written: counts figures, remembers which definitions were used."""

    def __init__(self) -> None:
        self.used: list[str] = ["interval"]
        self.figures: list[Figure] = []
        self._notes: list[str] = []

    def term(self, name: str, words: str = "") -> Html:
        """A link to a definition, which the page then has."""
        if name not in self.used:
            self.used.append(name)
        return Html(f'<a class="term" href="#{slug(name)}">{esc(words or name)}</a>')

    def none(self, reason: str) -> Html:
        """A dash for a value that is not defined; the reason stands below the table."""
        reason = reason or "not measured in this run"
        if reason not in self._notes:
            self._notes.append(reason)
        letter = "abcdefghijklmnopqrstuvwxyz"[min(self._notes.index(reason), 25)]
        return Html(f'<span class="na" title="{esc(reason)}">\u2013<sup>{letter}</sup></span>')

    def value(self, v: Optional[float], write: Callable[[float], str], reason: str = "") -> Html:
        return esc(write(v)) if v is not None else self.none(reason)

    def ranged(self, v: Optional[float], pair: Optional[Interval], digits: int, reason: str = "",
               sign: bool = True, write: Optional[Callable[[float], str]] = None) -> Html:
        """A figure with its interval below it; without one, a dash with the reason."""
        from ._words import fixed, signed
        if v is None:
            return self.none(reason)
        said = write(v) if write else (signed if sign else fixed)(v, digits)
        below = span(pair, digits, sign) if pair else self.none(reason or "no interval")
        return join([said, Html('<span class="ci">'), below, Html("</span>")])

    def table(self, caption: Union[str, Html], columns: Sequence[Column],
              rows: Sequence[Sequence[Union[str, Html]]], cls: str = "") -> Html:
        """A table whose rows become cards on a phone. The first cell of a row is its heading."""
        heads = []
        for c in columns:
            name = self.term(c.term, c.name) if c.term else esc(c.name)
            heads.append(tag("th", name, scope="col", role="columnheader",
                             cls="num" if c.number else "txt"))
        body = []
        for row in rows:
            cells = [tag("th", row[0], scope="row", role="rowheader")]
            for c, cell in zip(columns[1:], row[1:]):
                cells.append(Html(f'<td role="cell" data-label="{esc(c.name)}" '
                                  f'class="{"num" if c.number else "txt"}"><span class="v">'
                                  f"{esc(cell)}</span></td>"))
            body.append(tag("tr", join(cells), role="row"))
        notes = join([join([Html(f"<sup>{'abcdefghijklmnopqrstuvwxyz'[min(i, 25)]}</sup>\u00a0"),
                            reason]) for i, reason in enumerate(self._notes)], "; ")
        below = tag("p", join([Html("\u2013 not defined: "), notes, "."]), cls="note") \
            if self._notes else Html("")
        self._notes = []
        head = tag("thead", tag("tr", join(heads), role="row"), role="rowgroup")
        return Html(f'<table role="table" class="cards {cls}">{tag("caption", caption)}{head}'
                    f'{tag("tbody", join(body, Html(chr(10))), role="rowgroup")}</table>{below}')

    def figure(self, figure: Optional[Figure], level: str = "h3") -> Html:
        """A figure of the page, its panels side by side where there is room."""
        if figure is None:
            return Html("")
        self.figures.append(figure)
        k = len(self.figures)
        uid = f"fig{k}"
        panels = []
        for i, p in enumerate(figure.panels):
            title = p.title or figure.title
            head = tag("h4", p.title) if p.title else Html("")
            if p.wide:  # drawn twice: labels beside the rows, or above them
                drawn = svg(p.draw(WIDE), title, p.desc, f"{uid}-{i}w", css_class="chart wide") \
                    + svg(p.draw(NARROW), title, p.desc, f"{uid}-{i}n", css_class="chart narrow")
            else:
                drawn = svg(p.draw(NARROW), title, p.desc, f"{uid}-{i}", css_class="chart")
            panels.append(tag("div", join([head, Html(drawn)]),
                              cls="panel full" if p.wide else "panel"))
        marks = []
        for style, shape, words in figure.key:
            d = key_drawing(style, shape)
            mark = svg(d, words, words, "x").replace(
                'role="img" aria-labelledby="x-t x-d"', 'class="chart" aria-hidden="true"')
            mark = mark[:mark.index("<title")] + mark[mark.index("</desc>") + 7:]
            marks.append(tag("li", join([Html(mark), words])))
        legend = tag("ul", join(marks), cls="key") if marks else Html("")
        caption = tag("figcaption", join([tag("b", f"Figure {k}. "), figure.caption]))
        return tag("figure", join([tag(level, figure.title), legend,
                                   tag("div", join(panels), cls="panels"), caption]),
                   id=f"figure-{k}-{figure.slug}")

    def definitions(self) -> Html:
        """The terms that were used, in the order of DEFINITIONS."""
        parts = []
        for term, meaning in DEFINITIONS.items():
            if term in self.used:
                parts.append(tag("dt", "95\u00a0% interval" if term == "interval" else term,
                                 id=slug(term)))
                parts.append(tag("dd", meaning))
        return tag("dl", join(parts, "\n"))
