# SPDX-License-Identifier: BSD-2-Clause
"""Data sets as JSON lines that libqsae reads: `qsae corpus` and convert(); see doc/text.md."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import (
    IO,
    Any,
    Callable,
    NoReturn,
    Optional,
    Union,
)

import numpy as np

from . import _lib, _rows, _zstd
from ._rows import Reading, Row, Source

__all__ = ["PRESETS", "convert", "main"]

_fail: Callable[[str, str], NoReturn] = _lib.fail
Path = Union[str, "os.PathLike[str]"]

# What two published studies scored (arguments of convert). The article (specs: pile-10k, shuffled
# with seed 0, empty texts left out); the paper (WikiText-2: rows that are not blank, with their
# newlines, joined by "\n\n" to one text).
PRESETS: dict[str, dict[str, Any]] = {
    "article": {"metadata": "all", "shuffle": 0, "min_bytes": 1},
    "paper": {"join": "blank-line"},
}
_ARTICLE_ROWS = 10000
_JOINS = {"blank-line": "\n\n", "newline": "\n", "none": ""}


def _reading(text_field: str, metadata: Union[str, Sequence[str], None], lines: bool,
             separator: str) -> Reading:
    keys: Optional[Sequence[str]] = () if metadata is None else metadata
    if isinstance(keys, str):
        keys = None if keys == "all" else [key for key in keys.split(",") if key]
    if keys is not None and len(set(keys)) != len(keys):
        _fail("QSAE_EINVAL", f"metadata: {','.join(keys)}: a key twice")
    if not text_field:
        _fail("QSAE_EINVAL", "text_field: expected a key, found ''")
    return Reading(text_field, keys, lines, separator)


class _Counted:
    """The rows of all sources, in order; counts them per source."""

    def __init__(self, sources: Sequence[Source], reading: Reading) -> None:
        self.sources = sources
        self.reading = reading
        self.counts = [0] * len(sources)

    def __iter__(self) -> Iterator[Row]:
        for i, source in enumerate(self.sources):
            for row in _rows.read(source.path, self.reading):
                self.counts[i] += 1
                yield row


def _joined(rows: Iterable[Row], between: str, chomp: bool) -> Iterator[Row]:
    """One row: the rows that are not blank, with `between` between them."""
    texts = [_chomped(row.text) if chomp else row.text for row in rows if row.text.strip()]
    if texts:
        yield Row(between.join(texts), {}, "the joined text")


def _chomped(text: str) -> str:
    if text.endswith("\r\n"):
        return text[:-2]
    return text[:-1] if text.endswith(("\n", "\r")) else text


def _shuffled(rows: Iterable[Row], seed: int) -> list[Row]:
    """In the order of datasets.Dataset.shuffle(seed=seed): NumPy's permutation of the indices."""
    held = list(rows)
    return [held[i] for i in np.random.default_rng(seed).permutation(len(held))]


def _size(row: Row) -> int:
    try:
        return len(row.text.encode("utf-8"))
    except UnicodeEncodeError as error:
        _fail("QSAE_EFORMAT", f"{row.place}: text is not Unicode: half a surrogate pair at "
                              f"character {error.start}")


def _split(rows: list[Row], split: dict[str, float], seed: int) -> list[Row]:
    """Rows with the key "split": the first fraction of a permutation of them is the first name's,
    and so on; what the fractions leave is left out. Rows keep their order."""
    if not all(name and 0 < fraction <= 1 for name, fraction in split.items()):
        _fail("QSAE_EINVAL", f"split: expected names and fractions above 0, up to 1, found {split}")
    if sum(split.values()) > 1 + 1e-9:
        _fail("QSAE_EINVAL", f"split: expected fractions that sum to at most 1, found {split}")
    order = np.random.default_rng(seed).permutation(len(rows))
    names: list[Optional[str]] = [None] * len(rows)
    start, total = 0, 0.0
    for name, fraction in split.items():
        total += fraction
        end = min(round(total * len(rows)), len(rows))
        if end == start:
            _fail("QSAE_EINVAL", f"split: {name}={fraction} of {len(rows)} documents are none")
        for i in order[start:end]:
            names[i] = name
        start = end
    out = []
    for row, chosen in zip(rows, names):
        if "split" in row.metadata:
            _fail("QSAE_EINVAL", f"{row.place}: has a key 'split' of its own; leave it out with "
                                 "metadata, or do without a split")
        if chosen is not None:
            out.append(row._replace(metadata={**row.metadata, "split": chosen}))
    return out


def _line(row: Row, text_field: str) -> bytes:
    """The row as a line of JSON. Its text is under "text", where libqsae looks first."""
    if "text" in row.metadata:
        _fail("QSAE_EINVAL", f"{row.place}: the text is {text_field!r}, but there is a key 'text' "
                             "among the metadata as well; name the ones to keep with metadata")
    line = json.dumps({"text": row.text, **row.metadata}, ensure_ascii=False, allow_nan=False,
                      separators=(",", ":"))
    try:
        return line.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        _fail("QSAE_EFORMAT", f"{row.place}: expected Unicode, found half a surrogate pair in it")


class _Hashing:
    """A file that counts and hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


@contextlib.contextmanager
def _appearing(path: str) -> Iterator[IO[bytes]]:
    """A new file that appears under its name whole, or not at all."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".tmp-", dir=folder)
    except OSError as error:
        _fail("QSAE_EIO", f"{path}: {error.strerror or error}")
    try:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _fail("QSAE_EIO", f"{path}: {error.strerror or error}")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _write(rows: Iterable[Row], output: str, level: int, text_field: str) -> dict[str, Any]:
    """Writes all rows; what the manifest says of the output."""
    documents = text_bytes = 0
    splits: dict[str, int] = {}
    with _appearing(output) as file, contextlib.ExitStack() as stack:
        sink = file
        if output.endswith(".zst"):
            sink = stack.enter_context(_zstd.writer(file, output, level))
        lines = _Hashing(sink)
        for row in rows:
            lines.write(_line(row, text_field))
            documents += 1
            text_bytes += len(row.text.encode("utf-8"))
            if "split" in row.metadata and isinstance(row.metadata["split"], str):
                splits[row.metadata["split"]] = splits.get(row.metadata["split"], 0) + 1
        if documents == 0:
            _fail("QSAE_EINVAL", f"{output}: no document is left to write")
    digest, size = _rows.file_digest(output)
    out = {"output": output, "documents": documents, "text_bytes": text_bytes, "bytes": size,
           "sha256": digest, "lines_bytes": lines.size, "lines_sha256": lines.digest.hexdigest()}
    return {**out, "splits": splits} if splits else out


def _number(what: str, value: Optional[int], low: int = 0) -> Optional[int]:
    number: Callable[..., int] = _lib.count
    return None if value is None else number(what, value, low)


def convert(inputs: Union[Path, Sequence[Path]], output: Path, *, text_field: str = "text",
            metadata: Union[str, Sequence[str], None] = None, shuffle: Optional[int] = None,
            join: Optional[str] = None, chomp: bool = False, strip: bool = False,
            min_bytes: int = 0, skip: int = 0, take: Optional[int] = None,
            split: Optional[dict[str, float]] = None, split_seed: int = 0,
            lines: Optional[bool] = None, separator: str = "<|endoftext|>",
            files: Optional[str] = None, level: int = 9) -> dict[str, Any]:
    r"""Writes texts as JSON lines, each {"text": ..., and its metadata}; returns a manifest.

    Rows are read in the order of the files, then, as far as each is asked for: shuffled, joined,
    stripped, left out if short, skipped and taken, split.

    inputs      files and folders: parquet, arrow, .jsonl and .ndjson, plain text under any other
                name; all but tables also compressed (.zst, .gz). A folder stands for all files
                below it, or for its tables if it has some; a hub's cache folder for its main
                snapshot
    output      NAME.jsonl, or NAME.jsonl.zst
    text_field  column or key of the text; dots lead into objects. Null is an empty text
    metadata    keys to keep beside the text, a list or "A,B.C"; "all"; None = none
    shuffle     seed: the order of datasets.Dataset.shuffle(seed=), over all rows
    join        "blank-line", "newline" or "none": all rows that are not blank become one document,
                with "\\n\\n", "\\n" or nothing between them
    chomp       joined rows lose the newline that ends them
    strip       white space around each text is dropped
    min_bytes   texts of fewer bytes (UTF-8) are left out
    skip, take  documents left out at the beginning; at most so many written
    split       {name: fraction}: each document gets the key "split", by a permutation with
                split_seed; documents that fall to no name are left out
    lines       plain text is a row per line, with its newline; None = if join is given. Else
                documents with separator between them
    files       pattern that files of a folder must match, e.g. "train-*"
    level       of compression, 1..19
    """
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    out = os.fspath(output)
    if not out.endswith((".jsonl", ".jsonl.zst")):
        _fail("QSAE_EINVAL", f"{out}: expected a name that ends in .jsonl or .jsonl.zst")
    if join is not None and join not in _JOINS:
        _fail("QSAE_EINVAL", f"join: expected {', '.join(_JOINS)}, found {join!r}")
    if join is not None and (metadata or split):
        _fail("QSAE_EINVAL", "join: makes one document of all rows, which has no metadata or split")
    if chomp and join is None:
        _fail("QSAE_EINVAL", "chomp: is about joined rows; there is no join")
    shuffle, take = _number("shuffle", shuffle), _number("take", take, 1)
    skip, min_bytes = _number("skip", skip) or 0, _number("min_bytes", min_bytes) or 0
    if not 1 <= level <= 19:
        _fail("QSAE_EINVAL", f"level: expected 1..19, found {level}")
    sources = _rows.find([os.fspath(path) for path in given], files)
    for source in sources:
        if os.path.exists(out) and os.path.exists(source.path) and \
                os.path.samefile(out, source.path):
            _fail("QSAE_EINVAL", f"{out}: is one of the inputs")
    counted = _Counted(sources, _reading(text_field, metadata, join is not None if lines is None
                                         else lines, separator))
    rows: Iterable[Row] = counted
    if shuffle is not None:
        rows = _shuffled(rows, shuffle)
    if join is not None:
        rows = _joined(rows, _JOINS[join], chomp)
    if strip:
        rows = (row._replace(text=row.text.strip()) for row in rows)
    if min_bytes:
        rows = (row for row in rows if _size(row) >= min_bytes)
    if skip or take is not None:
        rows = itertools.islice(rows, skip, None if take is None else skip + take)
    if split:
        rows = _split(list(rows), split, split_seed)
    manifest = _write(rows, out, level, text_field)
    manifest["rows"] = sum(counted.counts)
    manifest["sources"] = _described(sources, counted.counts)
    manifest["recipe"] = {
        "text_field": text_field, "metadata": metadata, "shuffle": shuffle, "join": join,
        "chomp": chomp, "strip": strip, "min_bytes": min_bytes, "skip": skip, "take": take,
        "split": split, "split_seed": split_seed if split else None, "lines": counted.reading.lines}
    return manifest


def _described(sources: Sequence[Source], counts: Sequence[int]) -> list[dict[str, Any]]:
    out = []
    for source, rows in zip(sources, counts):
        digest, size = _rows.file_digest(source.path)
        out.append({"path": source.path, "rows": rows, "bytes": size, "sha256": digest,
                    "revision": source.revision})
    return out


def _fraction(text: str) -> tuple[str, float]:
    name, equals, fraction = text.partition("=")
    try:
        return name, float(fraction) if equals else float("nan")
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME=FRACTION, found {text!r}") from None


_EPILOG = """presets:
  article    pile-10k as "A Black Box Made Less Opaque (part 4)" reads it: --shuffle 0
             --metadata all --min-bytes 1
  paper      WikiText-2 raw as arXiv 2606.03002 reads it: --join blank-line

examples:
  qsae corpus article pile-10k.parquet -o pile.jsonl.zst
  qsae corpus paper wiki.train.raw -o wikitext2.jsonl.zst
  qsae corpus notes/ -o notes.jsonl --metadata all --split fit=0.8 --split held=0.2"""


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="qsae corpus", usage="qsae corpus [article|paper] INPUT... -o OUTPUT [options]",
        description="Writes texts as JSON lines that libqsae reads.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("inputs", nargs="+", metavar="INPUT",
                   help="parquet, arrow, .jsonl or plain text (also .zst, .gz), or a folder")
    p.add_argument("-o", "--output", required=True, help="NAME.jsonl or NAME.jsonl.zst")
    p.add_argument("--text-field", metavar="KEY", help="column or key of the text (text)")
    p.add_argument("--metadata", metavar="KEYS|all",
                   help="columns or keys to keep, with commas between them: meta.pile_set_name")
    p.add_argument("--shuffle", type=int, metavar="SEED",
                   help="the order of datasets.Dataset.shuffle(seed=SEED)")
    p.add_argument("--join", choices=list(_JOINS),
                   help="all rows that are not blank as one document")
    p.add_argument("--chomp", action="store_const", const=True,
                   help="joined rows lose the newline that ends them")
    p.add_argument("--strip", action="store_const", const=True,
                   help="drop white space around each text")
    p.add_argument("--min-bytes", type=int, metavar="N", help="leave shorter texts out")
    p.add_argument("--skip", type=int, metavar="N", help="leave the first N documents out")
    p.add_argument("--take", type=int, metavar="N", help="write at most N documents")
    p.add_argument("--split", action="append", type=_fraction, metavar="NAME=FRACTION",
                   help="give documents the key split (repeatable); evaluate --where split=NAME")
    p.add_argument("--split-seed", type=int, metavar="SEED", help="of --split (0)")
    p.add_argument("--lines", action="store_const", const=True,
                   help="plain text: a row per line (as --join reads it), not per document")
    p.add_argument("--separator", metavar="TEXT",
                   help="between the documents of plain text (<|endoftext|>)")
    p.add_argument("--files", metavar="PATTERN", help="files of a folder to read: train-*")
    p.add_argument("--level", type=int, metavar="N", help="of compression, 1 to 19 (9)")
    p.add_argument("--manifest", metavar="FILE", help="write the manifest to a file too")
    return p


def main(argv: list[str]) -> int:
    """The command: prints what was written, and as the last line the manifest (JSON)."""
    parser = _parser()
    options = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    inputs, output = options.pop("inputs"), options.pop("output")
    preset = inputs.pop(0) if len(inputs) > 1 and inputs[0] in PRESETS else None
    if preset is None and inputs == [inputs[0]] and inputs[0] in PRESETS and \
            not os.path.exists(inputs[0]):
        parser.error(f"{inputs[0]} of which INPUT?")
    manifest_path = options.pop("manifest", None)
    if "split" in options:
        pairs = options["split"]
        options["split"] = dict(pairs)
        if len(options["split"]) != len(pairs):
            parser.error("--split: a name twice")
    manifest = convert(inputs, output, **{**PRESETS.get(preset or "", {}), **options})
    manifest["preset"] = preset
    text = json.dumps(manifest, ensure_ascii=False)
    if manifest_path is not None:
        with _appearing(manifest_path) as file:
            file.write(text.encode("utf-8", "surrogateescape") + b"\n")
    if preset == "article" and manifest["rows"] != _ARTICLE_ROWS:
        print(f"qsae corpus: warning: the article's set has {_ARTICLE_ROWS} rows, this one "
              f"{manifest['rows']}: its order is another one", file=sys.stderr)
    print(f"{output}: {manifest['documents']} documents of {manifest['rows']} rows, "
          f"{manifest['text_bytes']} bytes of text, {manifest['bytes']} in the file")
    print("manifest:", text)
    return 0
