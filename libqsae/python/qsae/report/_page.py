# SPDX-License-Identifier: BSD-2-Clause
"""The page: its order, its style, nothing fetched and nothing run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from . import _features, _figures, _sections, _studies, _verdict
from ._draw import css, variables
from ._plot import Figure
from ._read import Result, at, items, num, string
from ._tables import Page, tag
from ._words import Html, count, esc, join

__all__ = ["build"]

_STYLE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;
overflow-wrap:break-word}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 20px}
h1{font-size:1.75rem;line-height:1.2;margin:2rem 0 .4rem;font-weight:650;letter-spacing:-.01em}
h2{font-size:1.3rem;line-height:1.25;margin:3rem 0 .8rem;padding-top:.7rem;font-weight:650;
border-top:2px solid var(--ink)}
h1,h3,figcaption,li,p{overflow-wrap:anywhere}
h3{font-size:1.05rem;line-height:1.3;margin:1.8rem 0 .5rem;font-weight:650}
h4{font-size:.9rem;margin:.6rem 0 .3rem;font-weight:600;overflow-wrap:anywhere}
p{margin:.4rem 0;max-width:44rem}
a{color:var(--link);text-underline-offset:2px}
a:focus-visible{outline:2px solid var(--link);outline-offset:2px}
a.term{color:inherit;text-decoration:underline dotted;text-decoration-color:var(--muted)}
code{font:.82em/1.35 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
color:var(--muted);overflow-wrap:break-word}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;margin:.8rem 0;
font-size:.9rem}
.muted,.note,.sub{color:var(--muted)}
.note,.sub{font-size:.85rem}
.lead{font-size:1.1rem}
ul.verdicts{list-style:none;padding:0;margin:1rem 0}
ul.verdicts li{border-top:1px solid var(--rule);padding:.7rem 0}
ul.verdicts p{margin:.15rem 0;max-width:52rem}
ul.caveats{padding-left:1.2rem;color:var(--muted);font-size:.9rem}
.badge{display:inline-block;border:1px solid currentColor;border-radius:3px;padding:0 .45em;
font-size:.82rem;font-weight:600;white-space:nowrap}
.badge.bad{color:var(--s1)}.badge.good{color:var(--s2)}.badge.open{color:var(--muted)}
table{border-collapse:collapse;width:100%;font-size:.87rem;margin:1.2rem 0 .3rem}
caption{text-align:left;color:var(--muted);padding-bottom:.4rem;font-size:.9rem}
caption b{color:var(--ink)}
th,td{padding:.38rem .6rem .38rem 0;vertical-align:top;text-align:left;
border-bottom:1px solid var(--rule)}
thead th{border-bottom:1.5px solid var(--ink);font-weight:600;vertical-align:bottom;
font-size:.82rem}
tbody th{font-weight:400;max-width:19rem;min-width:7rem}
tbody th,td.txt,caption,th code{overflow-wrap:anywhere}
th .cond{font-weight:600;display:block;overflow-wrap:anywhere}
th code{display:block;font-size:.72rem}
.num{text-align:right}
th+.txt,td+.txt,th.num+th.txt{padding-left:.5rem}
th:last-child,td:last-child{padding-right:0}
.ci{display:block;color:var(--muted);font-size:.78rem;white-space:nowrap}
.na{color:var(--muted)}
sup{font-size:.7em;line-height:0}
table.worst tbody th{max-width:26rem}
.context{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.82rem;
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
bdi{unicode-bidi:isolate;overflow-wrap:anywhere}
mark{background:var(--mark);color:inherit;font-weight:650;border-bottom:2px solid var(--s1)}
figure{margin:1.8rem 0 2.2rem}
figcaption{color:var(--muted);font-size:.85rem;max-width:52rem}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));
gap:.4rem 1.6rem}
.panel{min-width:0;max-width:400px}
.panel.full{grid-column:1/-1;max-width:820px}
.chart{display:block;width:100%;height:auto;font-family:inherit}
.chart.narrow{display:none}
ul.key{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;padding:0;margin:.3rem 0;
font-size:.85rem}
ul.key li{display:flex;align-items:center;gap:.35rem;overflow-wrap:anywhere}
ul.key svg{width:14px;height:14px;flex:none}
dl{margin:.6rem 0;font-size:.9rem}
dt{font-weight:600}
dd{margin:0 0 .5rem;max-width:52rem;overflow-wrap:anywhere}
dl.facts{display:grid;grid-template-columns:minmax(9rem,16rem) 1fr;gap:.15rem 1rem}
dl.facts dt{font-weight:400;color:var(--muted)}
dl.facts dd{margin:0}
.flag{border-left:4px solid var(--s1);padding:.3rem .8rem;max-width:52rem}
footer{color:var(--muted);font-size:.85rem;padding:2rem 20px 3rem}
@media (max-width:1040px){
.ci,.badge{white-space:normal}
}
@media screen and (max-width:760px){
main,header,footer{padding-left:14px;padding-right:14px}
h1{font-size:1.45rem}
.chart.wide{display:none}.chart.narrow{display:block}
table.cards,table.cards tbody,table.cards caption{display:block}
table.cards thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table.cards tr{display:block;border-top:1.5px solid var(--ink);padding:.4rem 0 .6rem}
table.cards th,table.cards td{display:flex;justify-content:space-between;gap:1rem;
border-bottom:1px solid var(--rule);padding:.22rem 0;text-align:right}
table.cards tbody th{display:block;text-align:left;max-width:none;border:0}
table.cards td::before{content:attr(data-label);color:var(--muted);text-align:left;flex:none;
max-width:48%}
table.cards td .v{min-width:0;overflow-wrap:anywhere}
.ci{white-space:normal}
dl.facts{display:block}
dl.facts dd{margin-bottom:.35rem}
}
@media print{
:root{color-scheme:light;LIGHT}
body{font-size:10pt}
main,header,footer{max-width:none;padding:0}
nav{display:none}
a,a.term{color:inherit;text-decoration:none}
h2{break-after:avoid;margin-top:1.6rem}
h3,h4,caption{break-after:avoid}
tr,li,.panel,figcaption{break-inside:avoid}
thead{display:table-header-group}
table,thead th{font-size:7.2pt}
th,td{padding-right:.4em}
.ci{font-size:6.4pt;white-space:normal}
.badge,caption,.note,figcaption,ul.key{font-size:7.6pt}
.badge{white-space:normal;padding:0 .3em}
th code{font-size:5.8pt}
.context{font-size:7pt}
figcaption{break-before:avoid}
tbody th{min-width:5rem}
.panels{grid-template-columns:1fr 1fr}
@page{margin:14mm}
}
"""

Part = Callable[[Page, Result], Html]


def _figure(make: Callable[[Result], Any]) -> Part:
    def part(page: Page, result: Result) -> Html:
        made = make(result)
        return join([page.figure(f) for f in made]) if isinstance(made, list) \
            else page.figure(made)
    return part


# Sections after the verdict and the headline: title, an id, its parts, how to get it.
_SECTIONS: list[tuple[str, str, list[Part], str]] = [
    ("Against the number of tokens", "by-tokens", [_figure(_figures.snapshots)], ""),
    ("Features one by one", "by-feature",
     [_figure(_figures_of) for _figures_of in (_features.histograms, _features.gains,
                                              _features.deciles)],
     "histogram of r and gains: evaluate --features FILE.jsonl, then qsae report --features "
     "FILE.jsonl"),
    ("Parts of the text", "by-slice", [_sections.slices, _figure(_features.forests)],
     "parts of the text: evaluate --slice class --slice position ..."),
    ("The worst tokens and documents", "worst", [_sections.worst], ""),
    ("Layers", "layers", [_figure(_figures.sensitivity), _sections.ranking, _sections.layers],
     "sensitivity of the layers: evaluate --sweep layers, modules or kinds"),
    ("Mixed-precision plan", "plan", [_sections.plan], ""),
    ("Context lengths", "by-context", [_figure(_figures.contexts), _sections.contexts],
     "context lengths: evaluate --contexts 512,2048,..."),
    ("Probes", "probes", [_sections.probes],
     "pairs of continuations: evaluate --probes FILE"),
    ("Noise controls", "controls", [_sections.controls],
     "noise controls: evaluate --controls"),
    ("The SAE in place of the activations", "splice", [_sections.splices],
     "what a reconstruction is worth: evaluate --splice"),
    ("What conditions damage in common", "overlaps", [_sections.overlaps], ""),
    ("Tables of \u201cA Black Box Made Less Opaque (part 4)\u201d", "article",
     [_studies.article], ""),
    ("Tables of arXiv 2606.03002", "paper", [_studies.paper], ""),
]


def _several(page: Page, results: Sequence[Result],
             part: Callable[[Page, Result], Html]) -> Html:
    """The part for every result that has it, under the models' names where there are several."""
    out = []
    for result in results:
        made = part(page, result)
        if made and len(results) > 1:
            out.append(tag("h3", result.name))
        out.append(made)
    return join(out)


def _flags(results: Sequence[Result]) -> Html:
    """What keeps results from being compared."""
    out = []
    for key, words in (("token_hash", "other tokens"), ("context", "another context length"),
                       ("bos_policy", "another BOS policy")):
        found: dict[Any, list[str]] = {}
        for r in results:
            found.setdefault(at(r.document, "corpus", key), []).append(r.name)
        if len(found) > 1:
            groups = "; ".join(", ".join(members) for members in found.values())
            out.append(f"These results are of {words}: {groups}. Their figures stand side by side, "
                       "but differences between them are not those of the models alone.")
            break
    profiles = sorted({string(r.document, "profile") for r in results})
    if len(profiles) > 1:
        out.append(f"These results are of several profiles: {', '.join(profiles)}.")
    return join([tag("p", words, cls="flag") for words in out])


def _subject(result: Result) -> str:
    c = at(result.document, "corpus")
    parts = [f"{count(num(c, 'tokens') or 0)} tokens"]
    if num(c, "documents") is not None:
        parts.append(f"{count(num(c, 'documents') or 0)} documents")
    if num(c, "context") is not None:
        parts.append(f"context {count(num(c, 'context') or 0)}")
    for key, words in (("bos_policy", "BOS {}"),):
        if string(c, key):
            parts.append(words.format(string(c, key)))
    for key, words in (("compute", "arithmetic {}"), ("profile", "profile {}")):
        if string(result.document, key):
            parts.append(words.format(string(result.document, key)))
    return ", ".join(parts)


def _missing(results: Sequence[Result], absent: Sequence[str]) -> Html:
    asked = [words for words in absent if words]
    if any(items(r.reference, "saes") == [] for r in results):
        asked.insert(0, "features and FVU: evaluate --sae SAE")
    if not asked:
        return Html("")
    return join([tag("h2", "What this page does not have", id="missing"),
                 tag("p", "Not measured in these results, and how to get it:"),
                 tag("ul", join([tag("li", words) for words in asked]))])


def build(results: Sequence[Result], errors: Sequence[dict[str, Any]], title: str
          ) -> tuple[str, list[Figure]]:
    """The page, and its figures for export."""
    page = Page()
    body: list[Html] = []
    links: list[tuple[str, str]] = []

    def add(name: str, anchor: str, content: Html) -> bool:
        if content:
            links.append((name, anchor))
            body.append(join([tag("h2", name, id=anchor), content]))
        return bool(content)

    add("Verdict", "verdict", _several(page, results, _verdict.section))
    add("Figures", "figures", _several(page, results, _sections.headline))
    add("Cost of compression", "cost", join([
        page.figure(_figures.degradation(results)), page.figure(_figures.studies(results)),
        page.figure(_figures.noise(results)), page.figure(_features.survival(results))]))
    absent = []
    for name, anchor, parts, how in _SECTIONS:
        there = add(name, anchor, join([_several(page, results, part) for part in parts]))
        if not there or (anchor == "by-feature" and not any(r.features for r in results)):
            absent.append(how)
    if not add("Error of the weights", "weights", page.figure(_figures.weights(errors))):
        absent.append("error of the weights by layer: inspect --condition SPEC --json MODEL > "
                      "FILE, then qsae report --weights FILE")
    body.append(_missing(results, absent))
    if any(f.slug in ("gain",) for f in page.figures):
        page.term("gain")
    if any(f.slug == "weights" for f in page.figures):
        page.term("relative error")
    add("Definitions", "definitions", page.definitions())
    add("Provenance", "provenance", _several(page, results, _sections.provenance))
    return _document(title, results, links, body), page.figures


def _document(title: str, results: Sequence[Result], links: Sequence[tuple[str, str]],
              body: Sequence[Html]) -> str:
    style = (f":root{{color-scheme:light dark;{variables(False)}}}\n"
             f"@media (prefers-color-scheme:dark){{:root{{{variables(True)}}}}}"
             + _STYLE.replace("LIGHT", variables(False)) + css(".chart"))
    head = join([
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width,initial-scale=1">'),
        Html('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
             'style-src \'unsafe-inline\'; img-src data:">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", title), Html(f"<style>{style}</style>")], "\n")
    several = len(results) > 1
    subjects = [tag("p", join([tag("b", r.name + ": ") if several else "", _subject(r)]),
                    cls="sub") for r in results]
    menu = tag("nav", tag("ul", join([tag("li", tag("a", name, href=f"#{anchor}"))
                                      for name, anchor in links])), aria_label="Sections")
    top = tag("header", join([tag("h1", title), join(subjects), _flags(results), menu]))
    library = ", ".join(sorted({string(r.document, "library") for r in results}))
    foot = tag("footer", join(["Made by qsae report from results of libqsae ", library,
                               ". The page holds everything it shows; nothing is fetched."]))
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{top}\n'
            f"{tag('main', join(body, esc(chr(10))))}\n{foot}\n</body>\n</html>\n")
