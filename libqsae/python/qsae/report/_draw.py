# SPDX-License-Identifier: BSD-2-Clause
"""Drawings as lists of marks, written as SVG or, with matplotlib, as PNG.

Coordinates are pixels from the upper left corner. Every mark names a style; STYLES and PALETTE say
what it looks like in a light and in a dark page.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, NoReturn

from .. import _lib
from ._words import esc, plain

__all__ = ["BANDS", "PALETTE", "SERIES", "Drawing", "css", "png", "svg", "variables"]

_fail: Callable[[str, str], NoReturn] = _lib.fail
Point = tuple[float, float]

# Light and dark; text and series have a contrast of at least 4.5 : 1 with the paper, and series
# differ in lightness or in the blue-yellow direction, which all kinds of colour vision keep.
PALETTE: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#15171a"),
    "soft": ("#f4f5f6", "#1f2226"),
    "ink": ("#1b1d20", "#e8e9ea"),
    "muted": ("#595d63", "#a9aeb5"),
    "rule": ("#d5d8dc", "#3a3f45"),
    "link": ("#1d4f8c", "#8fbdf0"),
    "mark": ("#ffe9b8", "#5a4306"),
    "s0": ("#1d5a9c", "#7fb5ee"),
    "s1": ("#b0440c", "#f2a169"),
    "s2": ("#12705a", "#5fcbb0"),
    "s3": ("#7c3a8c", "#d7a3e4"),
    "s4": ("#7a5c00", "#dcbc4c"),
    "s5": ("#4a4f55", "#c3c7cc"),
    "b0": ("#2c6fb0", "#6aa6e3"),
    "b1": ("#8fb4d9", "#40678f"),
    "b2": ("#c9b46a", "#8f7d3c"),
    "b3": ("#d9862f", "#d98a3a"),
    "b4": ("#9c3210", "#ef7a52"),
}
SERIES = 6
BANDS = ("r > 0.95", "0.9 to 0.95", "0.8 to 0.9", "0.5 to 0.8", "r < 0.5")

STYLES: dict[str, dict[str, Any]] = {
    "grid": {"stroke": "rule", "width": 1},
    "axis": {"stroke": "muted", "width": 1},
    "zero": {"stroke": "ink", "width": 1.2},
    "guide": {"stroke": "ink", "width": 1.2, "dash": (5, 3)},
    "t": {"fill": "ink", "size": 12},
    "tm": {"fill": "muted", "size": 11},
    "tb": {"fill": "ink", "size": 12, "bold": True},
    "row": {"fill": "soft"},
}
for _i in range(SERIES):
    STYLES[f"l{_i}"] = {"stroke": f"s{_i}", "width": 1.8}
    STYLES[f"e{_i}"] = {"stroke": f"s{_i}", "width": 1.6}
    STYLES[f"f{_i}"] = {"fill": f"s{_i}"}
    STYLES[f"o{_i}"] = {"fill": "paper", "stroke": f"s{_i}", "width": 1.8}
    STYLES[f"x{_i}"] = {"fill": f"s{_i}", "size": 11}
for _i in range(len(BANDS)):
    STYLES[f"b{_i}"] = {"fill": f"b{_i}"}
for _i, _name in ((0, "survived"), (3, "degraded"), (4, "damaged")):
    STYLES[f"d-{_name}"] = {"stroke": f"b{_i}", "width": 3 if _i == 0 else 1.2}


class Mark(NamedTuple):
    kind: str                 # line, path, rect, dots, text, group of points
    style: str
    points: Sequence[Point]
    text: str = ""            # of a text; the shape of dots
    size: float = 0.0         # rect: not used; dots: half the width
    anchor: str = "start"     # text
    turned: bool = False      # text, upwards
    note: str = ""            # shown when the mark is pointed at


class Drawing:
    """Marks on a sheet of that size."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.marks: list[Mark] = []

    def line(self, style: str, *points: Point) -> None:
        self.marks.append(Mark("path", style, points))

    def rect(self, style: str, x: float, y: float, w: float, h: float, note: str = "") -> None:
        self.marks.append(Mark("rect", style, ((x, y), (max(w, 0.0), max(h, 0.0))), note=note))

    def text(self, style: str, x: float, y: float, text: str, anchor: str = "start",
             turned: bool = False) -> None:
        self.marks.append(Mark("text", style, ((x, y),), text, 0.0, anchor, turned))

    def dot(self, style: str, shape: str, x: float, y: float, size: float = 4.5,
            note: str = "") -> None:
        """circle, square, diamond, up or down (triangles), cross."""
        self.marks.append(Mark("shape", style, ((x, y),), shape, size, note=note))

    def dots(self, style: str, shape: str, points: Sequence[Point], size: float) -> None:
        """Many of one kind as one mark: round, dash, saltire."""
        self.marks.append(Mark("dots", style, points, shape, size))

    def add(self, other: Drawing, dx: float, dy: float) -> None:
        """Another drawing, moved."""
        for mark in other.marks:
            if mark.kind == "rect":
                (x, y), extent = mark.points
                self.marks.append(mark._replace(points=((x + dx, y + dy), extent)))
            else:
                self.marks.append(mark._replace(points=[(x + dx, y + dy) for x, y in mark.points]))


def shape_points(shape: str, x: float, y: float, r: float) -> list[Point]:
    """Corners of a mark that is no circle."""
    if shape == "square":
        r *= 0.88
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if shape == "diamond":
        r *= 1.2
        return [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
    if shape == "down":
        return [(x - r, y - 0.8 * r), (x + r, y - 0.8 * r), (x, y + r)]
    if shape == "cross":
        a = 0.4 * r
        return [(x - a, y - r), (x + a, y - r), (x + a, y - a), (x + r, y - a), (x + r, y + a),
                (x + a, y + a), (x + a, y + r), (x - a, y + r), (x - a, y + a), (x - r, y + a),
                (x - r, y - a), (x - a, y - a)]
    return [(x - r, y + 0.8 * r), (x + r, y + 0.8 * r), (x, y - r)]


def n(v: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    text = f"{v:.1f}"
    return "0" if text == "-0.0" else text[:-2] if text.endswith(".0") else text


def _path(points: Sequence[Point], closed: bool) -> str:
    return "M" + "L".join(f"{n(x)} {n(y)}" for x, y in points) + ("Z" if closed else "")


def _dots(mark: Mark) -> str:
    s = n(mark.size)
    if mark.text == "round":  # a line of no length with round ends
        return "".join(f"M{n(x)} {n(y)}h0" for x, y in mark.points)
    dash = f"h{n(2 * mark.size)}"
    if mark.text == "dash":
        return "".join(f"M{n(x - mark.size)} {n(y)}{dash}" for x, y in mark.points)
    return "".join(f"M{n(x - mark.size)} {n(y - mark.size)}l{n(2 * mark.size)} {n(2 * mark.size)}"
                   f"m-{n(2 * mark.size)} 0l{n(2 * mark.size)} -{n(2 * mark.size)}"
                   for x, y in mark.points) if s else ""


def _svg_mark(mark: Mark) -> str:
    close = f"><title>{esc(plain(mark.note))}</title></{{}}>" if mark.note else "/>"
    if mark.kind == "path":
        return f'<path class="{mark.style}" d="{_path(mark.points, False)}"/>'
    if mark.kind == "dots":
        return f'<path class="{mark.style}" d="{_dots(mark)}"/>'
    x, y = mark.points[0]
    if mark.kind == "rect":
        w, h = mark.points[1]
        return (f'<rect class="{mark.style}" x="{n(x)}" y="{n(y)}" width="{n(w)}" '
                f'height="{n(h)}"' + close.format("rect"))
    if mark.kind == "text":
        end = {"start": "", "middle": ' text-anchor="middle"', "end": ' text-anchor="end"'}
        turn = f' transform="rotate(-90 {n(x)} {n(y)})"' if mark.turned else ""
        return (f'<text class="{mark.style}" x="{n(x)}" y="{n(y)}"{end[mark.anchor]}{turn}>'
                f"{esc(plain(mark.text))}</text>")
    if mark.text == "circle":
        return (f'<circle class="{mark.style}" cx="{n(x)}" cy="{n(y)}" r="{n(mark.size)}"'
                + close.format("circle"))
    outline = _path(shape_points(mark.text, x, y, mark.size), True)
    return f'<path class="{mark.style}" d="{outline}"' + close.format("path")


def css(where: str) -> str:
    """Rules for the styles, below a selector."""
    out = [f"{where} path{{fill:none;stroke-linecap:round;stroke-linejoin:round}}",
           f"{where} text{{paint-order:stroke;stroke:var(--paper);stroke-width:3px;"
           "stroke-linejoin:round}"]
    for name, style in STYLES.items():
        rules = [f"fill:var(--{style['fill']})" if "fill" in style else "fill:none"]
        if "stroke" in style:
            rules += [f"stroke:var(--{style['stroke']})", f"stroke-width:{style['width']}"]
        if "dash" in style:
            rules.append("stroke-dasharray:{} {};stroke-linecap:butt".format(*style["dash"]))
        if "size" in style:
            rules.append(f"font-size:{style['size']}px")
        if style.get("bold"):
            rules.append("font-weight:600")
        out.append(f"{where} .{name}{{{';'.join(rules)}}}")
    return "\n".join(out)


def variables(dark: bool) -> str:
    """The palette as CSS variables."""
    return ";".join(f"--{name}:{pair[dark]}" for name, pair in PALETTE.items())


def svg(drawing: Drawing, title: str, desc: str, uid: str, alone: bool = False,
        css_class: str = "") -> str:
    """<svg> with a title and a description for screen readers; alone: a file of its own, with the
    light colours and a white ground."""
    w, h = n(drawing.width), n(drawing.height)
    head = (f'<svg viewBox="0 0 {w} {h}" role="img" '
            f'aria-labelledby="{uid}-t {uid}-d"'
            + (f' class="{css_class}"' if css_class else ""))
    inner = (f'<title id="{uid}-t">{esc(plain(title))}</title>'
             f'<desc id="{uid}-d">{esc(plain(desc))}</desc>')
    if alone:
        head = head.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" '
                            f'height="{h}" ', 1)
        inner += (f"<style>svg{{{variables(False)};font-family:system-ui,sans-serif}}\n"
                  f"{css('svg')}</style>"
                  f'<rect fill="#ffffff" width="{w}" height="{h}"/>')
    return head + ">" + inner + "".join(_svg_mark(m) for m in drawing.marks) + "</svg>"


def _matplotlib() -> Any:
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        _fail("QSAE_EUNSUPPORTED", f"png: matplotlib is needed ({error}): install it, or export "
                                   "svg or csv, which need nothing")


def _png_mark(axes: Any, mark: Mark, scale: float) -> None:
    style = STYLES[mark.style]
    fill = PALETTE[style["fill"]][0] if "fill" in style else "none"
    stroke = PALETTE[style["stroke"]][0] if "stroke" in style else "none"
    line = style.get("width", 0) * scale
    xs, ys = [p[0] for p in mark.points], [p[1] for p in mark.points]
    if mark.kind == "text":
        anchor = {"start": "left", "middle": "center", "end": "right"}[mark.anchor]
        text = axes.text(xs[0], ys[0], plain(mark.text).replace("$", r"\$"), color=fill,
                         ha=anchor, va="baseline", fontsize=style["size"] * scale,
                         rotation=90 if mark.turned else 0, rotation_mode="anchor",
                         weight="bold" if style.get("bold") else "normal")
        halo = importlib.import_module("matplotlib.patheffects").withStroke
        text.set_path_effects([halo(linewidth=2.2, foreground="#ffffff")])
    elif mark.kind == "path":
        dash: Any = "-"
        if "dash" in style:
            dash = (0, tuple(d / style["width"] for d in style["dash"]))
        axes.plot(xs, ys, color=stroke, linewidth=line, linestyle=dash, solid_capstyle="round")
    elif mark.kind == "dots":
        shape = {"round": "o", "saltire": "x", "dash": "_"}[mark.text]
        axes.plot(xs, ys, linestyle="none", marker=shape, markeredgewidth=line / 2, color=stroke,
                  markersize=max(2 * mark.size, style["width"]) * scale)
    elif mark.kind == "rect":
        axes.fill([xs[0], xs[0] + xs[1], xs[0] + xs[1], xs[0]],
                  [ys[0], ys[0], ys[0] + ys[1], ys[0] + ys[1]], facecolor=fill, edgecolor=stroke,
                  linewidth=line)
    elif mark.text == "circle":
        axes.plot(xs, ys, linestyle="none", marker="o", markersize=2 * mark.size * scale,
                  markerfacecolor=fill, markeredgecolor=stroke, markeredgewidth=line)
    else:
        corners = shape_points(mark.text, xs[0], ys[0], mark.size)
        axes.fill([p[0] for p in corners], [p[1] for p in corners], facecolor=fill,
                  edgecolor=stroke, linewidth=line)


def png(drawing: Drawing, dpi: int = 200) -> bytes:
    """The drawing as PNG. Raises Error (QSAE_EUNSUPPORTED) where matplotlib is missing."""
    pyplot = _matplotlib()
    scale = 72 / 96  # points per pixel
    figure = pyplot.figure(figsize=(drawing.width / 96, drawing.height / 96), dpi=dpi)
    try:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for mark in drawing.marks:
            _png_mark(axes, mark, scale)
        axes.set_xlim(0, drawing.width)
        axes.set_ylim(drawing.height, 0)
        out = io.BytesIO()
        figure.savefig(out, format="png", facecolor="#ffffff", metadata={"Software": None})
        return out.getvalue()
    finally:
        pyplot.close(figure)


def series_style(i: int) -> tuple[str, str]:
    """Number of the colour's styles, and the shape, of series i: all pairs differ up to 30."""
    shapes = ("circle", "square", "up", "diamond", "down", "cross")
    return str(i % SERIES), shapes[(i + i // SERIES) % len(shapes)]
