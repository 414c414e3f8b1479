#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The package under mypy --strict and ruff, as libqsae/python/pyproject.toml sets them.
# usage: typing.sh PYTHON SOURCE_DIR
set -u
python=$1
source=$2
. "$source/tests/install/tap.sh"
package=$source/libqsae/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if "$python" -c 'import mypy, numpy' 2>/dev/null; then
    check "mypy --strict" "$python" -m mypy --strict --config-file "$package/pyproject.toml" \
        --cache-dir "$work/mypy" "$package/qsae"
    # What a program sees of it: types of results, misuse found.
    cat >"$work/good.py" <<'END'
from typing import Any

import numpy as np
import numpy.typing as npt

import qsae

with qsae.Context(threads=1) as ctx, qsae.Model(ctx, "model") as model:
    rows: npt.NDArray[np.float32] = next(model.iter_taps([[1]], [(0, "resid_post")])).rows
    nll: npt.NDArray[np.float32] | None = model.forward([[1]]).nll
    layers: int = model.layers
result: dict[str, Any] = qsae.evaluate("model", text="text")
END
    printf 'import qsae\n\nqsae.Model("no context", 5, compute=3)\n' >"$work/bad.py"
    export MYPYPATH="$package"
    check "a program's types" "$python" -m mypy --strict --config-file "$package/pyproject.toml" \
        --cache-dir "$work/mypy" "$work/good.py"
    found=$("$python" -m mypy --strict --config-file "$package/pyproject.toml" \
        --cache-dir "$work/mypy" "$work/bad.py" | grep -c 'bad.py:3: error: Argument')
    if [ "$found" = 3 ]; then
        pass "misuse is found"
    else
        no "misuse is found" "3 errors expected, $found found"
    fi
else
    skip "mypy --strict" "mypy or NumPy is missing"
fi
if "$python" -m ruff --version >/dev/null 2>&1; then
    check "ruff" "$python" -m ruff check --no-cache --config "$package/pyproject.toml" "$package"
else
    skip "ruff" "it is missing"
fi
check "py.typed is there" test -e "$package/qsae/py.typed"
finish
