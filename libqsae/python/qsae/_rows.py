# SPDX-License-Identifier: BSD-2-Clause
"""Rows of text with what is known of them, from the files that data sets come in."""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import gzip
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import (
    IO,
    Any,
    Callable,
    NamedTuple,
    NoReturn,
    Optional,
    Union,
    cast,
)

from . import _lib, _zstd

_fail: Callable[[str, str], NoReturn] = _lib.fail

COMPRESSED = (".zst", ".gz")
TABLES = (".parquet", ".arrow")
LINES = (".jsonl", ".ndjson")


class Row(NamedTuple):
    """One text; place says where it stands ("FILE: row 7"), for messages."""

    text: str
    metadata: dict[str, Any]
    place: str


class Reading(NamedTuple):
    """How files become rows.

    text_field  key or column of the text; dots lead into objects
    metadata    keys or columns to keep, with dots too; None = all
    lines       plain text: each line is a row, with its newline, as the data sets package reads
                WikiText; else documents that separator divides
    """

    text_field: str
    metadata: Optional[Sequence[str]]
    lines: bool
    separator: str


class Source(NamedTuple):
    """A file to read; revision: the commit of its repository, where the folder says it."""

    path: str
    revision: Optional[str]


def _ending(path: str) -> str:
    """Ending of a name, in lower case, without that of a compression."""
    name = path.lower()
    for ending in COMPRESSED:
        if name.endswith(ending):
            name = name[:-len(ending)]
    return os.path.splitext(name)[1]


def _hub_snapshot(folder: str) -> tuple[str, Optional[str]]:
    """The snapshot of a hub's cache folder (refs/main, snapshots/REVISION), or the folder."""
    reference = os.path.join(folder, "refs", "main")
    if os.path.isdir(os.path.join(folder, "snapshots")) and os.path.isfile(reference):
        with open(reference, encoding="utf-8") as file:
            revision = file.read().strip()
        snapshot = os.path.join(folder, "snapshots", revision)
        if revision != os.path.basename(revision) or not os.path.isdir(snapshot):
            _fail("QSAE_ENOENT", f"{reference}: expected the name of a folder in snapshots, found "
                                 f"{revision!r}")
        return snapshot, revision
    parent, name = os.path.split(os.path.abspath(folder))
    return folder, name if os.path.basename(parent) == "snapshots" else None


def find(inputs: Sequence[str], files: Optional[str]) -> list[Source]:
    """Files of files and folders. A folder stands for all below it, by path; where it holds tables
    (parquet, arrow) for these alone, without the package's own cache-*.arrow."""
    found: list[Source] = []
    for path in inputs:
        if not os.path.isdir(path):
            found.append(Source(path, None))
            continue
        folder, revision = _hub_snapshot(path)
        names = sorted(os.path.relpath(os.path.join(base, name), folder)
                       for base, _, inside in os.walk(folder) for name in inside
                       if not name.startswith("."))
        names = [n for n in names if not os.path.basename(n).startswith("cache-")
                 and not any(part.startswith(".") for part in n.split(os.sep))]
        if files is not None:
            names = [n for n in names if fnmatch.fnmatch(n, files)
                     or fnmatch.fnmatch(os.path.basename(n), files)]
        tables = [n for n in names if _ending(n) in TABLES]
        if not names:
            _fail("QSAE_ENOENT", f"{path}: expected files"
                  + (f" like {files!r}" if files is not None else "") + ", found none")
        found += [Source(os.path.join(folder, n), revision) for n in tables or names]
    return found


@contextlib.contextmanager
def _bytes_of(path: str) -> Iterator[IO[bytes]]:
    """A file's bytes, decompressed if its name says so."""
    try:
        if path.lower().endswith(".zst"):
            with open(path, "rb"):
                pass
            with _zstd.reader(path) as stream:
                yield stream
        elif path.lower().endswith(".gz"):
            with gzip.open(path, "rb") as packed:
                yield cast("IO[bytes]", packed)
        else:
            with open(path, "rb") as file:
                yield file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        _fail("QSAE_EFORMAT", f"{path}: expected gzip data, found: {error}")
    except OSError as error:
        _fail("QSAE_ENOENT" if isinstance(error, FileNotFoundError) else "QSAE_EIO",
              f"{path}: {error.strerror or error}")


def file_digest(path: str) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and size of a file."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def lookup(row: dict[str, Any], key: str) -> tuple[list[str], Any]:
    """Path and value of a key; one that is there as it is written counts before its dots do.
    KeyError if there is none."""
    if key in row:
        return [key], row[key]
    at: Any = row
    parts = key.split(".")
    for part in parts:
        if not isinstance(at, dict) or part not in at:
            raise KeyError(key)
        at = at[part]
    return parts, at


def _json_value(value: Any, place: str, key: str) -> Any:
    """A value as JSON has it: NaN and infinities are null, times are ISO 8601 strings."""
    if isinstance(value, int) and not -2**63 <= value < 2**63:
        _fail("QSAE_EUNSUPPORTED", f"{place}: key {key!r}: expected an integer of 64 bits, found "
                                   f"{value}; leave it out with --metadata")
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(k): _json_value(v, place, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(v, place, key) for v in value]
    _fail("QSAE_EUNSUPPORTED", f"{place}: key {key!r}: expected a value that JSON has, found "
                               f"{type(value).__name__}; leave it out with --metadata")
    return None


def _kept(row: dict[str, Any], text: list[str], reading: Reading, place: str) -> dict[str, Any]:
    """The metadata of a row: all but the text, or what was asked for, in its own nesting."""
    if reading.metadata is None:
        kept = dict(row)
        if len(text) == 1:
            kept.pop(text[0], None)
        else:
            kept = _without(kept, text)
        return {k: _json_value(v, place, k) for k, v in kept.items()}
    out: dict[str, Any] = {}
    for key in reading.metadata:
        try:
            path, value = lookup(row, key)
        except KeyError:
            _fail("QSAE_EFORMAT", f"{place}: expected the key {key!r} that --metadata names, found "
                                  f"{', '.join(map(repr, row)) or 'none'}")
        if path == text:
            _fail("QSAE_EINVAL", f"--metadata: {key!r} is the text itself")
        at = out
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = _json_value(value, place, key)
    return out


def _without(row: dict[str, Any], path: list[str]) -> dict[str, Any]:
    out = dict(row)
    if len(path) == 1:
        del out[path[0]]
    else:
        out[path[0]] = _without(out[path[0]], path[1:])
    return out


def json_row(row: dict[str, Any], reading: Reading, place: str) -> Row:
    """The Row of an object with the text among its keys."""
    try:
        path, text = lookup(row, reading.text_field)
    except KeyError:
        _fail("QSAE_EFORMAT", f"{place}: expected the text under {reading.text_field!r}, found "
                              f"{', '.join(map(repr, row)) or 'no key'} (--text-field)")
    if text is None:
        text = ""
    if not isinstance(text, str):
        _fail("QSAE_EFORMAT", f"{place}: key {reading.text_field!r}: expected string, found "
                              f"{type(text).__name__}")
    return Row(text, _kept(row, path, reading, place), place)


def _strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: dict[str, int] = {}
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key!r} twice")
            seen[key] = 1
    return out


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which JSON lacks")


def _json_rows(path: str, reading: Reading) -> Iterator[Row]:
    decoder = json.JSONDecoder(object_pairs_hook=_strict, parse_constant=_no_constant)
    with _bytes_of(path) as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            if not line.strip(b" \t\r\n"):
                continue
            try:
                row = decoder.decode(line.decode("utf-8"))
            except RecursionError:
                _fail("QSAE_EFORMAT", f"{place}: expected JSON, found too many levels of it")
            except ValueError as error:
                _fail("QSAE_EFORMAT", f"{place}: expected a JSON object, found: {error}")
            if not isinstance(row, dict):
                _fail("QSAE_EFORMAT", f"{place}: expected object, found {type(row).__name__}")
            yield json_row(row, reading, place)


def _plain_rows(path: str, reading: Reading) -> Iterator[Row]:
    with _bytes_of(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        _fail("QSAE_EFORMAT", f"{path}: text is not UTF-8: byte 0x{data[error.start]:02x} at "
                              f"offset {error.start}")
    if reading.lines:
        for number, line in enumerate(io.StringIO(text, newline=None), 1):
            yield Row(line, {}, f"{path}:{number}")
    else:
        parts = text.split(reading.separator) if reading.separator else [text]
        for number, part in enumerate(parts, 1):
            if part.strip():
                yield Row(part.strip(), {}, f"{path}: document {number}")


def _arrow(path: str) -> Any:
    try:
        import pyarrow  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        _fail("QSAE_EUNSUPPORTED", f"{path}: expected the Python package pyarrow, which reads such "
                                   "files; found none (python3 -m pip install pyarrow)")
    return pyarrow


def _columns(names: Sequence[str], reading: Reading) -> Optional[list[str]]:
    """Columns that must be read; None = all."""
    if reading.metadata is None:
        return None
    wanted = [key if key in names else key.split(".")[0]
              for key in [reading.text_field, *reading.metadata]]
    return [name for name in names if name in wanted]


def _batches(path: str, reading: Reading) -> Iterator[Any]:
    """Record batches of a parquet or arrow file (a stream, as the datasets package keeps it, or a
    file with a footer)."""
    pa = _arrow(path)
    if _ending(path) == ".parquet":
        import pyarrow.parquet as pq  # type: ignore[import-untyped,import-not-found,unused-ignore]
        with pq.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow.names, reading)
            yield from file.iter_batches(batch_size=512, columns=columns)
        return
    with pa.memory_map(path) as file:
        try:
            stream = pa.ipc.open_stream(file)
        except pa.ArrowInvalid:
            file.seek(0)
            stored = pa.ipc.open_file(file)
            stream = (stored.get_batch(i) for i in range(stored.num_record_batches))
        for batch in stream:
            columns = _columns(batch.schema.names, reading)
            yield batch if columns is None else batch.select(columns)


def _table_rows(path: str, reading: Reading) -> Iterator[Row]:
    if path.lower().endswith(COMPRESSED):
        _fail("QSAE_EUNSUPPORTED", f"{path}: a compressed table; decompress it first")
    pa = _arrow(path)
    number = 0
    try:
        for batch in _batches(path, reading):
            batch.validate(full=True)  # offsets of a broken file lead anywhere
            for row in batch.to_pylist():
                number += 1
                yield json_row(row, reading, f"{path}: row {number}")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        _fail("QSAE_EFORMAT", f"{path}: expected a table ({_ending(path)[1:]}), found: {error}")
    except OSError as error:
        if error.errno is None:  # pyarrow's word for broken data
            _fail("QSAE_EFORMAT", f"{path}: expected a table ({_ending(path)[1:]}), found: "
                                  f"{error}")
        _fail("QSAE_ENOENT" if isinstance(error, FileNotFoundError) else "QSAE_EIO",
              f"{path}: {error.strerror or error}")


def read(path: Union[str, os.PathLike[str]], reading: Reading) -> Iterator[Row]:
    """The rows of one file, by its name: parquet, arrow, JSON lines (.jsonl, .ndjson), else plain
    text; all but tables also as .zst and .gz."""
    name = os.fspath(path)
    ending = _ending(name)
    if ending in TABLES:
        return _table_rows(name, reading)
    if ending in LINES:
        return _json_rows(name, reading)
    return _plain_rows(name, reading)
