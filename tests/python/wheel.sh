#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# A wheel of this build, installed where nothing else of libqsae is, measures the bundled model.
# usage: wheel.sh PYTHON SOURCE_DIR LIBQSAE.SO
set -u
python=$1
source=$2
library=$3
. "$source/tests/install/tap.sh"
# Nothing but the wheel may help.
unset QSAE_LIBRARY LD_LIBRARY_PATH PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for need in patchelf readelf ldd; do
    if ! command -v "$need" >/dev/null; then
        skip "the wheel" "no $need"
        finish
        exit
    fi
done
# pip installs into another environment since 22.3.
if ! "$python" -c 'import numpy, tomllib, venv, pip
assert tuple(map(int, pip.__version__.split(".")[:2])) >= (22, 3)' 2>/dev/null; then
    skip "the wheel" "$python lacks NumPy, pip 22.3, venv, or is older than 3.11"
    finish
    exit
fi
# What is built with a sanitizer runs only under a program that has it too.
if nm -D "$library" | grep -qE ' U __(asan|tsan|msan|ubsan)_'; then
    skip "the wheel" "built with a sanitizer"
    finish
    exit
fi

check "it is built" "$python" -B "$source/libqsae/python/build_wheel.py" "$library" -o "$work/out"
wheel=$(find "$work/out" -name 'qsae-*.whl' 2>/dev/null)
if [ -z "$wheel" ]; then
    finish
    exit 1
fi
case $wheel in
*-py3-none-manylinux_2_*_"$(uname -m)".whl | *-py3-none-linux_"$(uname -m)".whl)
    pass "its platform tag" ;;
*) no "its platform tag" "$wheel" ;;
esac
check "an environment" "$python" -m venv --without-pip --system-site-packages "$work/venv"
check "pip installs it" "$python" -m pip --python "$work/venv/bin/python" install --quiet \
    --disable-pip-version-check --no-index --no-deps --ignore-installed "$wheel"
check "the command qsae" "$work/venv/bin/qsae" --version

cat >"$work/use.py" <<'END'
import os
import sys

import qsae

folder, data = sys.argv[1:]
assert qsae.__file__.startswith(folder), qsae.__file__
assert qsae.LIBRARY_PATH.startswith(folder), qsae.LIBRARY_PATH
result = qsae.evaluate(f"{data}/tiny-gemma3", saes=[f"{data}/tiny-gemma3-sae"],
                       text=f"{data}/eval.jsonl", conditions=["nf4:block=64,double=1"],
                       tokens=512, threads=1)
assert result["conditions"][0]["kl_mean"] > 0, result["conditions"][0]
assert result["conditions"][0]["saes"][0]["survival"]["active"] > 0
with open("/proc/self/maps", encoding="utf-8") as file:
    loaded = {line.split()[-1] for line in file if ".so" in line}
mine = {path for path in loaded if path.startswith(folder)}
assert len(mine) >= 8, mine
# Not zlib, bzip2 and OpenSSL: modules of Python load the system's copies.
for name in ("libblis", "libjansson", "libzip", "libpcre2", "libutf8proc", "libxxhash"):
    assert any(os.path.basename(path).startswith(name) for path in mine), (name, mine)
    assert not any(os.path.basename(path).startswith(name) for path in loaded - mine), loaded
END
check "it measures, with its own libraries alone" env -i PATH="$PATH" HOME="$work" \
    "$work/venv/bin/python" -B "$work/use.py" "$work/venv" "$source/examples/data"
licenses=$(find "$work/venv" -path '*/qsae-*.dist-info/licenses/*' | wc -l)
libraries=$(find "$work/venv" -path '*/qsae/lib*.so*' | wc -l)
check "a licence of each library ($licenses of $libraries)" test "$licenses" -ge "$libraries"
check "every file is the one that RECORD names" "$work/venv/bin/python" -B -c '
import base64, hashlib, importlib.metadata as m
files = m.distribution("qsae").files
assert len(files) > 30, files
for f in files:
    if f.hash is not None:
        d = base64.urlsafe_b64encode(hashlib.sha256(f.read_binary()).digest()).rstrip(b"=")
        assert d.decode() == f.hash.value, f
'
finish
