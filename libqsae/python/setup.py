# SPDX-License-Identifier: BSD-2-Clause
"""The release number is kept in meson.build alone; a source archive carries PKG-INFO."""
import pathlib
import re

from setuptools import setup

here = pathlib.Path(__file__).resolve().parent
build = here.parent.parent / "meson.build"
if build.exists():
    version = re.search(r"^\s*version: '([^']+)'", build.read_text(), re.M).group(1)
else:
    version = re.search(r"^Version: (\S+)", (here / "PKG-INFO").read_text(), re.M).group(1)
setup(version=version)
