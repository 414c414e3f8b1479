# SPDX-License-Identifier: BSD-2-Clause
"""examples/notebooks, each run as the program it is; skipped by name where a package is missing.

They take up to a minute of CPU time each, so they run only with QSAE_NOTEBOOKS=1.
"""

import importlib.util
import os
import re
import subprocess
import sys
import unittest

from support import ROOT, Case

FOLDER = os.path.join(ROOT, "examples", "notebooks")
PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "sae_lens", "transformer_lens")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


class Notebooks(Case):
    def run_one(self, name, *expected):
        if MISSING:
            self.skipTest("Python package not installed: " + ", ".join(MISSING))
        if not os.environ.get("QSAE_NOTEBOOKS"):
            self.skipTest("long: set QSAE_NOTEBOOKS=1")
        out = self.folder()
        path = [p for p in sys.path if p]
        done = subprocess.run([sys.executable, "-B", os.path.join(FOLDER, name)], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(path),
                                   "HF_HUB_OFFLINE": "1", "QSAE_OUT": out})
        self.assertEqual(done.returncode, 0, done.stderr.decode()[-3000:])
        for pattern in expected:
            self.assertRegex(done.stdout.decode(), pattern)
        return out

    def test_cells(self):
        """Percent cells that compile; code cells begin with code, text cells hold comments only."""
        names = [n for n in os.listdir(FOLDER) if n.endswith(".py")]
        self.assertEqual(len(names), 3)
        for name in names:
            with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
                text = file.read()
            compile(text, name, "exec")
            cells = re.split(r"^# %%", text, flags=re.M)[1:]
            self.assertGreater(len(cells), 6)
            for cell in cells:
                head, body = cell.split("\n", 1)
                lines = [line for line in body.strip().split("\n") if line]
                self.assertTrue(lines, name)
                if head == " [markdown]":
                    self.assertTrue(all(line.startswith("#") for line in lines), cell)
                else:
                    self.assertEqual(head, "")

    def test_saelens_eval(self):
        self.run_one("saelens_eval.py", r"run_evals +before +after", r"from the hook",
                     r"95% interval \d", r"FVU 0\.\d+ -> 0\.\d+")

    def test_quantized_hooks(self):
        self.run_one("quantized_hooks.py", r"hooks +evaluate", r"nf4 +noise ratio",
                     r"llm\.int8 +survived")

    def test_pruned_survival(self):
        out = self.run_one("pruned_survival.py", r"suffers most", r"hooks +evaluate")
        with open(os.path.join(out, "survival.csv"), encoding="utf-8") as file:
            rows = [line.split(",") for line in file.read().split()]
        self.assertEqual((rows[0], len(rows)), (["r_low", "r_high", "features"], 41))
        with open(os.path.join(out, "features.csv"), encoding="utf-8") as file:
            self.assertEqual(len(file.readlines()) - 1, sum(int(row[2]) for row in rows[1:]))


if __name__ == "__main__":
    unittest.main()
