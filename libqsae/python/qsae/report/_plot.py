# SPDX-License-Identifier: BSD-2-Clause
"""Charts: scales, axes, and the three kinds of panel that the figures are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

from ._draw import Drawing, series_style
from ._read import Interval
from ._words import cut, fixed, signed, width

__all__ = ["Bar", "Figure", "Panel", "Row", "Scale", "Series", "Spot", "bars", "lines", "rows",
           "sheet"]

NARROW, WIDE = 360.0, 720.0
LIMIT = 1e100  # beyond it a value is left out of a chart: differences would overflow


class Spot(NamedTuple):
    """A point with its interval; name: written beside it."""

    x: float
    y: float
    interval: Optional[Interval] = None
    name: str = ""


class Series(NamedTuple):
    name: str
    spots: list[Spot]
    style: int
    joined: bool = True


class Row(NamedTuple):
    """A figure of a named row, its interval, what is written at its right."""

    name: str
    value: Optional[float]
    interval: Optional[Interval] = None
    said: str = ""
    style: int = 0
    strong: bool = False


class Bar(NamedTuple):
    """Parts of a whole, in the order of the band styles."""

    name: str
    parts: list[float]
    said: str


class Panel(NamedTuple):
    """title, what it shows in words, and how to draw it at a width."""

    title: str
    desc: str
    draw: Callable[[float], Drawing]
    wide: bool = False        # over the whole page, drawn again for phones


class Figure(NamedTuple):
    """A figure of the page: panels, caption, and its data as a table."""

    slug: str
    title: str
    caption: str
    panels: list[Panel]
    columns: list[str]
    data: list[list[object]]
    key: Sequence[tuple[str, str, str]] = ()   # legend: style, shape, words


def usable(v: Optional[float]) -> bool:
    return v is not None and abs(v) < LIMIT


class Scale:
    """Values to pixels, linear or logarithmic, with round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False,
                 zero: bool = False, ticks: int = 5, pad: float = 0.06) -> None:
        found = [v for v in values if usable(v) and (v > 0 or not log)]
        low, high = (min(found), max(found)) if found else (1.0 if log else 0.0, 1.0)
        if zero and not log:
            low, high = min(low, 0.0), max(high, 0.0)
        self.log, self.start, self.end, self.n = log, start, end, ticks
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            half = 0.5 if log else max(abs(low) * 0.05, 1e-9)
            low, high = low - half, high + half
        room = (high - low) * pad
        # A bound that is zero by design stays where the axis begins.
        self.low = low if zero and low == 0 else low - room
        self.high = high if zero and high == 0 else high + room

    def __call__(self, v: float) -> float:
        if self.log:
            v = math.log10(max(v, 1e-300))
        t = (v - self.low) / (self.high - self.low)
        return self.start + min(max(t, -0.02), 1.02) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if self.log and self.high - self.low >= 1:
            return self._decades()
        low, high = (10 ** self.low, 10 ** self.high) if self.log else (self.low, self.high)
        rough = (high - low) / self.n
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
        digits = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if step / power == 2.5 else 0))
        first = math.ceil(low / step - 1e-9)
        out = []
        for i in range(first, first + 20):
            if i * step > high * (1 + 1e-12) + step * 1e-9:
                break
            out.append((i * step, self._text(i * step, digits)))
        return out

    @staticmethod
    def _text(v: float, digits: int) -> str:
        if digits > 6 or abs(v) >= 1e7:
            return f"{v:.2g}".replace("-", "\u2212") if v else "0"
        return fixed(v, digits)

    def _decades(self) -> list[tuple[float, str]]:
        step = max(1, math.ceil((self.high - self.low) / 6))
        out = []
        for power in range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1, step):
            v = 10.0 ** power
            digits = max(0, -power)
            out.append((v, fixed(v, digits) if -4 <= power <= 5 else f"1e{power}"))
        if len(out) < 3:  # thirds of a decade, nearly
            below = out[0][0] / 10 if out else 10 ** math.floor(self.low)
            more = [v * m for v in [*(v for v, _ in out), below] for m in (2, 5)]
            out += [(v, self._text(v, max(0, -math.floor(math.log10(v))))) for v in more
                    if self.low <= math.log10(v) <= self.high]
            out.sort()
        return out


class Labels:
    """Places texts where nothing lies yet; a text without room is left out."""

    def __init__(self, drawing: Drawing, right: float, bottom: float) -> None:
        self.drawing = drawing
        self.right = right
        self.bottom = bottom
        self.taken: list[tuple[float, float, float, float]] = []

    def take(self, x: float, y: float, r: float = 5) -> None:
        self.taken.append((x - r, y - r, x + r, y + r))

    def put(self, style: str, x: float, y: float, text: str, left: float) -> None:
        text = cut(text, 17)
        w = width(text) * 11
        for dx, dy, anchor in ((8, 4, "start"), (-8, 4, "end"), (0, -9, "middle"),
                               (0, 17, "middle"), (6, -8, "start"), (6, 16, "start"),
                               (-6, -8, "end"), (-6, 16, "end")):
            at = x + dx - (0 if anchor == "start" else w if anchor == "end" else w / 2)
            box = (at, y + dy - 9, at + w, y + dy + 2)
            free = all(box[2] < t[0] or box[0] > t[2] or box[3] < t[1] or box[1] > t[3]
                       for t in self.taken)
            if free and at >= left and box[2] <= self.right and \
                    box[1] >= 16 and box[3] <= self.bottom:
                self.taken.append(box)
                self.drawing.text(style, x + dx, y + dy, text, anchor)
                return


def _axes(d: Drawing, x: Scale, y: Scale, x_name: str, y_name: str) -> None:
    """Grid, ticks and names; y's name stands above the plot, so that it is read level."""
    for v, text in y.ticks():
        d.line("grid", (x.start, y(v)), (x.end, y(v)))
        d.text("tm", x.start - 6, y(v) + 4, text, "end")
    ticks = x.ticks()
    while len(ticks) > 2 and sum(width(t) * 11 + 12 for _, t in ticks) > x.end - x.start:
        ticks = ticks[::2]
    for v, text in ticks:
        d.line("axis", (x(v), y.start), (x(v), y.start + 4))
        d.text("tm", x(v), y.start + 16, text, "middle")
    d.line("axis", (x.start, y.start), (x.end, y.start))
    d.text("tm", (x.start + x.end) / 2, y.start + 33, x_name, "middle")
    d.text("tm", 2, 12, y_name)


def _left(y: Scale) -> float:
    return max([width(t) * 11 for _, t in y.ticks()] + [16.0]) + 10


def _marks(d: Drawing, x: Scale, y: Scale, series: Sequence[Series]) -> None:
    """Intervals first, lines, then marks above them, then names where there is room."""
    labels = Labels(d, d.width - 2, y.start)
    for s in series:
        colour, _ = series_style(s.style)
        good = [p for p in s.spots if usable(p.x) and usable(p.y) and (p.y > 0 or not y.log)]
        if s.joined and len(good) > 1:
            d.line(f"l{colour}", *[(x(p.x), y(p.y)) for p in good])
        for p in good:
            if p.interval and all(usable(v) for v in p.interval):
                low, high = y(p.interval[0]), y(p.interval[1])
                d.line(f"e{colour}", (x(p.x), min(low, y.start)), (x(p.x), min(high, y.start)))
                for bound, end in zip(p.interval, (low, high)):
                    if bound > 0 or not y.log:  # a whisker to 0 or below has no end here
                        d.line(f"e{colour}", (x(p.x) - 3, end), (x(p.x) + 3, end))
            labels.take(x(p.x), y(p.y))
    for s in series:
        colour, shape = series_style(s.style)
        for p in s.spots:
            if usable(p.x) and usable(p.y) and (p.y > 0 or not y.log):
                note = f"{s.name}{', ' if s.name and p.name else ''}{p.name}".strip()
                d.dot(f"f{colour}", shape, x(p.x), y(p.y), 4.2, note)
    for s in series:
        colour, _ = series_style(s.style)
        for p in s.spots:
            if p.name and usable(p.x) and usable(p.y) and (p.y > 0 or not y.log):
                labels.put(f"x{colour}", x(p.x), y(p.y), p.name, x.start)


def _steep(series: Sequence[Series]) -> bool:
    values = [p.y for s in series for p in s.spots if usable(p.y)]
    return bool(values) and min(values) > 0 and max(values) > 30 * min(values)


def lines(series: Sequence[Series], x_name: str, y_name: str, log_x: bool = False,
          log_y: Optional[bool] = False, zero_y: bool = False, guide: Optional[float] = None
          ) -> Callable[[float], Drawing]:
    """Points over an axis of numbers, joined where a series says so.

    log_y  None: where all values are above 0 and the largest is 30 times the least
    guide  a level line
    """
    if log_y is None:
        log_y = _steep(series)
        y_name += " (log scale)" if log_y else ""

    def draw(wide: float) -> Drawing:
        height = 250.0
        d = Drawing(wide, height)
        xs = [p.x for s in series for p in s.spots]
        ys = [p.y for s in series for p in s.spots]
        ys += [v for s in series for p in s.spots if p.interval for v in p.interval
               if v > 0 or not log_y]
        if guide is not None:
            ys.append(guide)
        y = Scale(ys, height - 44, 26, log_y, zero_y)
        x = Scale(xs, _left(y), wide - 12, log_x, ticks=6)
        _axes(d, x, y, x_name, y_name)
        if guide is not None:
            d.line("guide", (x.start, y(guide)), (x.end, y(guide)))
        elif not log_y and y.low < 0 < y.high:
            d.line("zero", (x.start, y(0)), (x.end, y(0)))
        _marks(d, x, y, series)
        return d
    return draw


def _row_places(wide: float, names: Sequence[str], said: Sequence[str]
                ) -> tuple[float, float, bool]:
    """Left and right of the plot, and whether names stand above their rows (phones)."""
    above = wide < 500
    right = max([width(t) * 11 for t in said] + [0.0]) + 14 if any(said) else 14.0
    left = 16.0 if above else min(max(width(t) * 12 for t in names) + 14, 250.0)
    return left, wide - min(right, 0.42 * wide), above


def rows(entries: Sequence[Row], x_name: str, guides: Sequence[tuple[float, str]] = (),
         zero: bool = True, bar: bool = False, log: bool = False) -> Callable[[float], Drawing]:
    """A row per figure: a mark with its interval (a forest plot), or a bar from zero.

    guides  levels drawn through all rows, with their names
    """
    def draw(wide: float) -> Drawing:
        left, right, above = _row_places(wide, [r.name for r in entries],
                                         [r.said for r in entries])
        step, top = (36.0 if above else 24.0), 24.0 if any(t for _, t in guides) else 8.0
        height = top + step * len(entries) + 40
        d = Drawing(wide, height)
        values = [r.value for r in entries if r.value is not None]
        values += [v for r in entries if r.interval for v in r.interval]
        x = Scale(values + [g for g, _ in guides], left, right, log, zero, ticks=5)
        bottom = height - 38
        for v, text in x.ticks():
            d.line("grid", (x(v), top), (x(v), bottom))
            d.text("tm", x(v), bottom + 15, text, "middle")
        for level, name in guides:
            d.line("guide", (x(level), top - 4), (x(level), bottom))
            d.text("tm", x(level), 12, name,
                   "end" if x(level) > (left + right) / 2 else "start")
        if zero and not log and x.low <= 0 <= x.high:
            d.line("zero", (x(0), top), (x(0), bottom))
        d.text("tm", (left + right) / 2, height - 4, x_name, "middle")
        for i, r in enumerate(entries):
            _row(d, r, top + step * i, step, above, (left, right, wide), x, bar)
        return d
    return draw


def _row(d: Drawing, r: Row, top: float, step: float, above: bool,
         extent: tuple[float, float, float], x: Scale, bar: bool) -> None:
    left, right, wide = extent
    y = top + (26 if above else step / 2)
    name = "tb" if r.strong else "t"
    if above:
        d.text(name, 2, top + 13, cut(r.name, (right if not r.said else wide) / 12))
    else:
        d.text(name, left - 8, y + 4, cut(r.name, (left - 12) / 12), "end")
    if r.said:
        d.text("tm", right + 8, y + 4, r.said)
    if not usable(r.value) or r.value is None or (x.log and r.value <= 0):
        return
    colour, shape = series_style(r.style)
    if bar:
        zero = x(0)
        d.rect(f"f{colour}", min(zero, x(r.value)), y - 5, abs(x(r.value) - zero), 10, r.name)
    if r.interval and all(usable(v) for v in r.interval):
        low, high = x(r.interval[0]), x(r.interval[1])
        style = "axis" if bar else f"e{colour}"
        d.line(style, (low, y), (high, y))
        for end in (low, high):
            d.line(style, (end, y - 4), (end, y + 4))
    if not bar:
        d.dot(f"f{colour}", shape, x(r.value), y, 4.5, r.name)


def bars(entries: Sequence[Bar], x_name: str) -> Callable[[float], Drawing]:
    """Stacked bars of 100 %, a row each."""
    def draw(wide: float) -> Drawing:
        left, right, above = _row_places(wide, [b.name for b in entries],
                                         [b.said for b in entries])
        step = 38.0 if above else 26.0
        height = 8 + step * len(entries) + 40
        d = Drawing(wide, height)
        x = Scale([0, 100], left, right, pad=0)
        bottom = height - 38
        for v, text in x.ticks():
            d.line("grid", (x(v), 8), (x(v), bottom))
            d.text("tm", x(v), bottom + 15, text, "middle")
        d.text("tm", (left + right) / 2, height - 4, x_name, "middle")
        for i, b in enumerate(entries):
            top = 8 + step * i
            y = top + (18 if above else 5)
            if above:
                d.text("t", 2, top + 13, cut(b.name, right / 12))
            else:
                d.text("t", left - 8, y + 12, cut(b.name, (left - 12) / 12), "end")
            start = 0.0
            for k, part in enumerate(b.parts):
                if part > 0:  # a hair of ground between neighbours
                    gap = 0.8 if start > 0 else 0.0
                    d.rect(f"b{k}", x(start) + gap, y, x(start + part) - x(start) - gap, 15,
                           f"{b.name}: {fixed(part, 1)} %")
                    start += part
            d.text("tm", right + 8, y + 12, b.said)
        return d
    return draw


def columns(heights: Sequence[float], edges: Sequence[float], styles: Sequence[str], x_name: str,
            y_name: str, ticks: Sequence[float]) -> Callable[[float], Drawing]:
    """A histogram: bins between edges, each with a style."""
    def draw(wide: float) -> Drawing:
        height = 230.0
        d = Drawing(wide, height)
        y = Scale([0.0, max([*heights, 1e-9])], height - 44, 26, zero=True)
        x = Scale([edges[0], edges[-1]], _left(y), wide - 12, pad=0)
        for v, text in y.ticks():
            d.line("grid", (x.start, y(v)), (x.end, y(v)))
            d.text("tm", x.start - 6, y(v) + 4, text, "end")
        for i, v in enumerate(heights):
            if v > 0:
                d.rect(styles[i], x(edges[i]) + 0.4, y(v), x(edges[i + 1]) - x(edges[i]) - 0.8,
                       y(0) - y(v), f"{signed(edges[i], 2)} to {signed(edges[i + 1], 2)}: {v:g}")
        for v in ticks:
            d.line("axis", (x(v), y.start), (x(v), y.start + 4))
            d.text("tm", x(v), y.start + 16, f"{v:g}".replace("-", "\u2212"), "middle")
        d.line("axis", (x.start, y.start), (x.end, y.start))
        d.text("tm", (x.start + x.end) / 2, y.start + 33, x_name, "middle")
        d.text("tm", 2, 12, y_name)
        return d
    return draw


def sheet(figure: Figure) -> Drawing:
    """The whole figure as one drawing, for export: title, legend, panels in two columns."""
    if any(p.wide for p in figure.panels):
        drawn = [p.draw(WIDE) for p in figure.panels]
        across = 1
    else:
        drawn = [p.draw(NARROW) for p in figure.panels]
        across = min(2, len(drawn))
    column = max(d.width for d in drawn)
    out = Drawing(16 + across * (column + 16), 0)
    out.text("tb", 16, 22, figure.title)
    y = 38.0
    x = 16.0
    for style, shape, words in figure.key:
        w = 22 + 12 * width(words)
        if x + w > out.width and x > 16:
            x, y = 16.0, y + 18
        _key(out, style, shape, x + 6, y)
        out.text("tm", x + 16, y + 4, words)
        x += w
    y += 14 if figure.key else -8
    for i in range(0, len(drawn), across):
        pair = drawn[i:i + across]
        for k, d in enumerate(pair):
            panel = figure.panels[i + k]
            if panel.title:
                out.text("t", 16 + k * (column + 16), y + 16, panel.title)
            out.add(d, 16 + k * (column + 16), y + 26)
        y += max(d.height for d in pair) + 36
    out.height = y
    return out


def _key(d: Drawing, style: str, shape: str, x: float, y: float) -> None:
    if shape in ("round", "dash", "saltire"):
        d.dots(style, shape, [(x, y)], 2.4)
    else:
        d.dot(style, shape, x, y, 4.5)


def key_drawing(style: str, shape: str) -> Drawing:
    """One mark of a legend."""
    d = Drawing(14, 14)
    _key(d, style, shape, 7, 7)
    return d
