# SPDX-License-Identifier: BSD-2-Clause
"""The command `qsae report`."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Callable, NoReturn, Optional, Union

from .. import _lib
from ._draw import png, svg
from ._page import build as _build
from ._plot import Figure, sheet
from ._read import Result, read_features, read_result, read_weights
from ._words import plain

__all__ = ["build", "export", "main"]

_fail: Callable[[str, str], NoReturn] = _lib.fail
Path = Union[str, "os.PathLike[str]"]
FORMATS = ("svg", "png", "csv")


def _made(paths: Sequence[Path], names: Sequence[str], features: Sequence[Path],
          weights: Sequence[Path], title: Optional[str]) -> tuple[str, list[Figure]]:
    if not paths:
        _fail("QSAE_EINVAL", "report: expected at least one result, found none")
    if len(names) not in (0, len(paths)):
        _fail("QSAE_EINVAL", f"names: expected one for each of {len(paths)} results, found "
                             f"{len(names)}")
    if len(features) > len(paths):
        _fail("QSAE_EINVAL", f"features: expected at most one file for each of {len(paths)} "
                             f"results, found {len(features)}")
    results: list[Result] = []
    for i, path in enumerate(paths):
        results.append(read_result(path, names[i] if names else None))
    _distinct(results)
    for result, path in zip(results, features):
        read_features(path, result)
    errors = [error for path in weights for error in read_weights(path)]
    if title is None:
        title = "What compression did to " + ", ".join(r.name for r in results)
    return _build(results, errors, title)


def _distinct(results: Sequence[Result]) -> None:
    """Two results of one name get a number."""
    seen: dict[str, int] = {}
    for r in results:
        seen[r.name] = seen.get(r.name, 0) + 1
        if seen[r.name] > 1:
            r.name = f"{r.name} ({seen[r.name]})"


def build(results: Sequence[Path], names: Sequence[str] = (), features: Sequence[Path] = (),
          weights: Sequence[Path] = (), title: Optional[str] = None) -> str:
    """The page as a string.

    results   files of `evaluate --json`
    names     what the page calls the models, one per result; default: names of the files
    features  files of `evaluate --features FILE.jsonl`, of the results in their order
    weights   files of `inspect --condition SPEC --json`
    title     of the page

    The same files give the same bytes. Raises Error: QSAE_EIO, QSAE_EFORMAT, QSAE_EUNSUPPORTED
    (another version of the format), QSAE_EMISMATCH (features of another run), QSAE_EINVAL.
    """
    return _made(results, names, features, weights, title)[0]


def _csv(figure: Figure) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(figure.columns)
    for row in figure.data:
        writer.writerow(["" if v is None else repr(v) if isinstance(v, float) else _cell(v)
                         for v in row])
    return out.getvalue().encode("utf-8", "replace")


def _cell(v: object) -> str:
    """Text that no spreadsheet takes for a formula."""
    text = plain(str(v))
    return "'" + text if text[:1] in ("=", "+", "-", "@") and not isinstance(v, int) else text


def export(results: Sequence[Path], folder: Path, kind: str = "svg", names: Sequence[str] = (),
           features: Sequence[Path] = (), weights: Sequence[Path] = ()) -> list[str]:
    """Writes every figure of the page into a folder, made if it is not there.

    kind  svg; csv, the figure's data; png, which needs matplotlib

    Returns the names of the files. Raises Error as build().
    """
    return _export(_made(results, names, features, weights, None)[1], folder, kind)


def _export(figures: Sequence[Figure], folder: Path, kind: str) -> list[str]:
    if kind not in FORMATS:
        _fail("QSAE_EINVAL", f"format: expected {', '.join(FORMATS)}, found {kind!r}")
    written, seen = [], set()
    for i, figure in enumerate(figures):
        name = figure.slug if figure.slug not in seen else f"{figure.slug}-{i + 1}"
        seen.add(name)
        if kind == "csv":
            data = _csv(figure)
        else:
            drawing = sheet(figure)
            desc = " ".join(p.desc for p in figure.panels)
            data = png(drawing) if kind == "png" else svg(
                drawing, figure.title, desc, "q", alone=True).encode("utf-8", "replace")
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            _fail("QSAE_EIO", f"{os.fspath(folder)}: {error.strerror}")
        path = os.path.join(os.fspath(folder), f"{name}.{kind}")
        _write(path, data)
        written.append(path)
    return written


def _write(path: str, data: bytes) -> None:
    """The file appears complete or not at all."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".",
                                             prefix=os.path.basename(path)[:40] + ".")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        _fail("QSAE_EIO", f"{path}: {error.strerror}")


_EPILOG = """examples:
  qsae report result.json -o report.html
  qsae report 4b.json 12b.json --name gemma-3-4b --name gemma-3-12b -o report.html
  qsae report result.json --features features.jsonl --figures figures --format svg

Exit status: 0 done; 1 failed, the reason on standard error; 2 wrong usage."""


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="qsae report", usage="qsae report RESULT... [-o OUT.html] [--figures DIR] [options]",
        description="Writes one self-contained page, or its figures, from results of evaluate "
                    "--json.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results", nargs="+", metavar="RESULT", help="what evaluate --json wrote")
    p.add_argument("-o", "--output", metavar="OUT.html", help="the page; - is standard output")
    p.add_argument("--name", action="append", default=[], metavar="NAME",
                   help="what the page calls a model, once for each RESULT (its file's name)")
    p.add_argument("--title", help="of the page")
    p.add_argument("--features", action="append", default=[], metavar="FILE",
                   help="what evaluate --features FILE.jsonl wrote in the run of a RESULT, in "
                        "their order")
    p.add_argument("--weights", action="append", default=[], metavar="FILE",
                   help="what inspect --condition SPEC --json printed")
    p.add_argument("--figures", metavar="DIR", help="write every figure into this folder")
    p.add_argument("--format", choices=FORMATS, default="svg",
                   help="of the figures: svg (default), png (needs matplotlib), csv (their data)")
    return p


def main(argv: list[str]) -> int:
    """The command; returns 0. Raises Error, and SystemExit(2) for wrong usage."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.output is None and options.figures is None:
        parser.error("expected -o OUT.html, --figures DIR, or both")
    if options.name and len(options.name) != len(options.results):
        parser.error(f"--name: expected one for each of {len(options.results)} results, found "
                     f"{len(options.name)}")
    if len(options.features) > len(options.results):
        parser.error("--features: more files than results")
    html, figures = _made(options.results, options.name, options.features, options.weights,
                          options.title)
    if options.figures is not None:
        written = _export(figures, options.figures, options.format)
        print(f"{options.figures}: {len(written)} figures", file=sys.stderr)
    if options.output == "-":
        sys.stdout.buffer.write(html.encode("utf-8"))
        sys.stdout.buffer.flush()
    elif options.output is not None:
        data = html.encode("utf-8")
        _write(options.output, data)
        print(f"{options.output}: {len(figures)} figures, {len(data)} bytes", file=sys.stderr)
    return 0
