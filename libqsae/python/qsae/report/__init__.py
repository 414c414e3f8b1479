# SPDX-License-Identifier: BSD-2-Clause
"""One self-contained page of result documents: `qsae report` and build(); see doc/report.md."""

from __future__ import annotations

from ._main import build, export, main

__all__ = ["build", "export", "main"]
