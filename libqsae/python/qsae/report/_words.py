# SPDX-License-Identifier: BSD-2-Clause
"""Numbers, names and hostile text as HTML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Optional, Union

from ._read import Interval

__all__ = ["Html", "count", "esc", "family", "fixed", "join", "percent", "plain", "shorts", "sig",
           "signed", "size", "span", "visible"]

MINUS = "\u2212"


class Html(str):
    """Markup. Any other str is text and is escaped before it gets into a page."""


# Invisible characters that change how text runs (bidirectional controls, zero widths), and
# characters that HTML and SVG cannot hold, are shown as <U+202E>.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e"
                     "\u2060-\u206f\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")


def plain(text: str) -> str:
    """The text without characters that cannot be shown; white space as single spaces."""
    text = _UNSEEN.sub(lambda m: f"<U+{ord(m.group()):04X}>", text)
    return re.sub(r"\s+", " ", text).strip()


def esc(text: Union[str, Html]) -> Html:
    """Markup of a text; markup stays what it is."""
    if isinstance(text, Html):
        return text
    text = _UNSEEN.sub(lambda m: f"<U+{ord(m.group()):04X}>", text)
    return Html(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
                .replace('"', "&quot;").replace("'", "&#39;"))


def visible(text: str, limit: int = 160, tail: bool = False) -> Html:
    """Text of a model, with line feeds and tabs shown; its end (tail) or beginning if too long."""
    if len(text) > limit:
        text = "\u2026" + text[-limit:] if tail else text[:limit] + "\u2026"
    if text and not text.strip(" "):
        text = "\u2423" * len(text)
    return esc(text.replace("\r", "\u240d").replace("\n", "\u21b5").replace("\t", "\u21e5"))


def join(parts: Sequence[Union[str, Html]], between: str = "") -> Html:
    """Texts and markup in a row."""
    return Html(esc(between).join(esc(part) for part in parts))


def fixed(v: float, digits: int) -> str:
    """1,234.50 with a true minus; no minus before a rounded zero."""
    if abs(v) >= 1e15:
        return f"{v:.3e}".replace("-", MINUS)
    text = f"{v:,.{digits}f}"
    if text.startswith("-") and not text.strip("-0.,"):
        text = text[1:]
    return text.replace("-", MINUS)


def signed(v: float, digits: int) -> str:
    """The same with a plus."""
    text = fixed(v, digits)
    return text if text.startswith(MINUS) or not text.strip("0.,") else "+" + text


def sig(v: float, digits: int = 3) -> str:
    """That many significant digits; powers of ten below 0.001."""
    if v == 0:
        return "0"
    text = f"{v:.{digits}g}" if 1e-3 <= abs(v) < 1e6 else f"{v:.{digits - 1}e}"
    if "e" in text:
        mantissa, power = text.split("e")
        text = f"{mantissa}\u00d710{_superscript(int(power))}"
    return text.replace("-", MINUS)


def _superscript(n: int) -> str:
    return str(n).translate(str.maketrans(
        "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"))


def percent(v: float, digits: int = 1) -> str:
    return fixed(v, digits) + "\u00a0%"


def count(v: float) -> str:
    return fixed(v, 0)


def size(v: float) -> str:
    """Bytes."""
    return fixed(v / 1e9, 2) + " GB" if v >= 1e9 else fixed(v / 1e6, 1) + " MB"


def span(pair: Interval, digits: int, sign: bool = True) -> str:
    """An interval in words: low to high."""
    write = signed if sign else fixed
    return f"{write(pair[0], digits)} to {write(pair[1], digits)}"


# Options that need not be said because they are the defaults of doc/conditions.md.
_DEFAULTS = {"threshold=6", "rules=cuda", "outliers=batch", "block=64", "double=1", "compute=model",
             "axis=row", "group=0", "sym=1", "arith=f32", "fallback=0", "sink=0", "ties=all",
             "scope=tensor"}
_NAMES = {"llm.int8": "LLM.int8", "nf4": "NF4", "fp4": "FP4", "none": "unchanged"}


def family(label: str) -> str:
    """The kind of condition, for colours: rtn, nf4, ggml, prune, control, path ..."""
    if label.startswith(("control:", "mix(")):
        return "control" if label[0] == "c" else "mix"
    head = re.match(r"[a-z][a-z0-9.]*(?=[:@+]|$)", label)
    if head is None or head.group() not in ("none", "llm.int8", "nf4", "fp4", "rtn", "ggml"):
        return "checkpoint"
    if head.group() == "none":
        return "prune" if "+prune" in label else "kv" if "+kv" in label else "none"
    return head.group()


def _options(text: str) -> list[str]:
    return [o for o in text.split(",") if o and o not in _DEFAULTS]


def _part(text: str, sparsity: Optional[float]) -> str:
    """One + part: pruning, or the cache."""
    name, _, options = text.partition(":")
    if name == "prune":
        if sparsity is not None:
            return f"pruned {100 * sparsity:.4g} %"
        return "pruned " + ", ".join(_options(options))
    if name == "kv":
        return "KV " + ", ".join(_options(options))
    return text


def short(label: str, sparsity: Optional[float] = None) -> str:
    """What a reader calls a condition: "RTN 4-bit", "NF4", "pruned 17.5 %"."""
    kind = family(label)
    if kind == "checkpoint":
        return label.rstrip("/").rsplit("/", 1)[-1] or label
    if kind in ("control", "mix"):
        control = re.match(r"control:(gauss|permute)\((.*)\)$", label)
        if control:
            return f"{short(control.group(2))}, {control.group(1)} noise"
        return label.replace("control:", "control ") if kind == "control" else "mixed plan"
    head, *parts = re.split(r"\+(?=prune|kv)", label)
    codec, *selectors = head.split("@")
    name, _, text = codec.partition(":")
    options = _options(text)
    said = _NAMES.get(name, name)
    if name == "rtn":
        bits = next((o[5:] for o in options if o.startswith("bits=")), "?")
        said = f"RTN {bits}-bit"
        options = [o for o in options if not o.startswith("bits=") and o != "arith=weight"]
    elif name == "ggml" and options:
        said = options.pop(0).upper()
    said = ", ".join([said, *options])
    if parts and name == "none" and not selectors:
        said = ""
    more = [_part(p, sparsity) for p in parts]
    return " + ".join(x for x in [" @".join([said, *selectors]), *more] if x)


def shorts(labels: Sequence[str], sparsities: Sequence[Optional[float]]) -> dict[str, str]:
    """Short names by label; two that would be called the same keep their labels. Options that all
    widths of round to nearest share are left out."""
    named = {label: short(label, s) for label, s in zip(labels, sparsities)}
    rounded = {label: name.partition(", ") for label, name in named.items()
               if family(label) == "rtn"}
    if len(rounded) > 1 and len({rest for _, _, rest in rounded.values()}) == 1 and \
            not any(c in rest for _, _, rest in rounded.values() for c in "@+"):
        named.update({label: head for label, (head, _, _) in rounded.items()})
    values = list(named.values())
    return {label: name if values.count(name) == 1 else label for label, name in named.items()}


def width(text: str) -> float:
    """About how wide a text is, in units of its font's size."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else
               0.3 if c in "il.,:;|!'()[] " else 0.58 for c in text)


def cut(text: str, room: float) -> str:
    """The text, or its beginning with an ellipsis, within so much width."""
    if width(text) <= room:
        return text
    while text and width(text) + 0.8 > room:
        text = text[:-1]
    return text + "\u2026"
