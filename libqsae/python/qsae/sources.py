# SPDX-License-Identifier: BSD-2-Clause
"""What users hold in memory where the library reads files: rows of text, SAELens modules.

Such a source is written to a folder of its own that only this user may enter, under the system's
temporary folder (TMPDIR), which is gone when the library has read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ._lib import Error, fail
from ._rows import Reading, json_row, lookup


class TextSource:
    """Rows of text that lie in no file, as the argument text of evaluate() or path of Corpus.

    rows        a datasets.Dataset or IterableDataset, a pandas DataFrame, or any iterable of
                mappings or of str; read once, to its end: take(n) of an endless one first
    text_field  key or column of the text, dots lead into objects; None = "text"
    metadata    keys or columns that documents keep, for slices and filters; None = all that the
                rows have, which must then be values that JSON has
    """

    def __init__(self, rows: Any, text_field: str | None = None,
                 metadata: Sequence[str] | None = None) -> None:
        if isinstance(metadata, str):
            fail("QSAE_EINVAL", "metadata: expected a list, found one string")
        if isinstance(rows, Mapping):
            fail("QSAE_EINVAL", f"text: expected rows, found {type(rows).__name__} of "
                                f"{', '.join(map(str, rows))}: choose one of them")
        if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
            fail("QSAE_EINVAL", "text: expected rows (a datasets.Dataset, an iterable of str or "
                                f"of mappings), found {type(rows).__name__}")
        self.label = f"<{type(rows).__name__}>"
        self._rows = rows
        self.text_field = text_field
        self._reading = Reading(text_field or "text", metadata, False, "")

    def _objects(self) -> Iterator[Any]:
        # A DataFrame's own iterator gives the names of its columns.
        if hasattr(self._rows, "to_dict") and hasattr(self._rows, "iloc") and \
                hasattr(self._rows, "columns"):
            return iter(self._rows.to_dict("records"))
        return iter(self._rows)

    def lines(self) -> Iterator[bytes]:
        """The rows as JSON lines."""
        for number, row in enumerate(self._objects()):
            place = f"{self.label}: row {number}"
            if isinstance(row, str):
                if number == 0 and len(row) < 1024 and "\0" not in row and os.path.exists(row):
                    fail("QSAE_EINVAL", f"{place}: expected text, found {row!r}, the name of a "
                                        "file; a path is given by itself, not in a list")
                row = {self._reading.text_field: row}
            if not isinstance(row, Mapping):
                fail("QSAE_EFORMAT", f"{place}: expected str or a mapping, found "
                                     f"{type(row).__name__}")
            row = dict(row)
            found = json_row(row, self._reading, place)
            line = found.metadata
            at, path = line, lookup(row, self._reading.text_field)[0]
            for part in path[:-1]:
                at = at.setdefault(part, {})
            at[path[-1]] = found.text
            try:
                yield json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"
            except UnicodeEncodeError as error:
                fail("QSAE_EFORMAT", f"{place}: expected Unicode text, found a lone surrogate: "
                                     f"{error}")


def source_label(text: Any) -> str:
    """What a text that is no file is called."""
    return text.label if isinstance(text, TextSource) else f"<{type(text).__name__}>"


@contextlib.contextmanager
def private_folder() -> Iterator[str]:
    """A folder for one source, deleted at the end."""
    folder = tempfile.mkdtemp(prefix="qsae-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def text_source(text: Any, text_field: str | None) -> Iterator[tuple[Any, str | None]]:
    """The file of a text, and its own text_field if it has one; a path is its own file."""
    if isinstance(text, (str, bytes, os.PathLike)):
        yield text, None
        return
    source = text if isinstance(text, TextSource) else TextSource(text, text_field)
    if text_field is not None and source.text_field not in (None, text_field):
        fail("QSAE_EINVAL", f"text_field: {text_field!r}, but the text source has "
                            f"{source.text_field!r}")
    with private_folder() as folder:
        path = os.path.join(folder, "text.jsonl")
        with open(path, "wb") as file:
            file.writelines(source.lines())
        try:
            yield path, source.text_field
        except Error as error:
            raise Error(error.status, error.name, error.message.replace(path, source.label)) \
                from None


def is_saelens(sae: Any) -> bool:
    """Whether this is a module that can write itself as SAELens does."""
    return hasattr(sae, "cfg") and (hasattr(sae, "save_model")
                                    or hasattr(sae, "save_inference_model"))


def _hook(sae: Any) -> str:
    """The hook name that a SAELens module says it belongs to."""
    for holder in (getattr(sae.cfg, "metadata", None), sae.cfg):
        name = getattr(holder, "hook_name", None)
        if isinstance(name, str) and name:
            return name
    return "sae"


def write_saelens(sae: Any, folder: str) -> str:
    """Writes a SAELens module below a folder; the new folder, named after its hook."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", _hook(sae)).strip(".")[:100] or "sae"
    path = os.path.join(folder, name)
    os.mkdir(path)
    # A module in training writes what it is when it infers: BatchTopK as JumpReLU.
    write = getattr(sae, "save_inference_model", None) or sae.save_model
    write(path)
    return path


@contextlib.contextmanager
def sae_source(path: Any) -> Iterator[Any]:
    """The folder of an SAE; a path is its own."""
    if not is_saelens(path):
        yield path
        return
    with private_folder() as folder:
        written = write_saelens(path, folder)
        try:
            yield written
        except Error as error:
            raise Error(error.status, error.name,
                        error.message.replace(written, f"<{type(path).__name__}>")) from None
