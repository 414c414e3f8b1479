# SPDX-License-Identifier: BSD-2-Clause
"""The command `qsae` (also `python -m qsae`): one word per job."""

from __future__ import annotations

import sys
from typing import Callable, Optional

from . import corpus, report
from ._lib import Error, version

COMMANDS: dict[str, Callable[[list[str]], int]] = {"corpus": corpus.main, "report": report.main}

USAGE = """usage: qsae COMMAND ...

  corpus    a data set (parquet, WikiText, JSON lines, text) as JSON lines that libqsae reads
  report    a page with tables and figures of results of evaluate --json

qsae COMMAND --help says more; qsae --version names the library."""


def main(argv: Optional[list[str]] = None) -> int:
    """Runs a command; returns its exit status: 0, 1 (failed, said on standard error), 2 (usage)."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if arguments == ["--version"]:
        print("libqsae", version())
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except Error as error:
        print(f"qsae {arguments[0]}: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
