# SPDX-License-Identifier: BSD-2-Clause
"""Probes, and what evaluate() makes of them."""

import os
import unittest

import numpy as np

import qsae
from support import BUNDLED, MODEL, ROOT, SAE, TEXT, Case

PROBES = os.path.join(BUNDLED, "probes.jsonl")


class ProbesTest(Case):
    def setUp(self):
        super().setUp()
        self.ctx = qsae.Context(threads=2)
        self.tokenizer = qsae.Tokenizer(self.ctx, MODEL)

    def test_items(self):
        with qsae.Probes(self.ctx, self.tokenizer, PROBES) as probes:
            self.assertEqual(len(probes), 300)
            self.assertEqual(probes.tags, ("constraint", "rare_name", "exception", "steps"))
            item = probes[-1]
            self.assertEqual((item.line, item.tags), (300, ("steps",)))
            self.assertEqual(item.context[0], self.tokenizer.bos)
            with self.assertRaises(IndexError):
                probes[300]
        with qsae.Probes(self.ctx, self.tokenizer, PROBES, bos="none") as probes:
            self.assertEqual(probes.info["bos"], -1)
            self.assertNotEqual(probes[0].context[0], self.tokenizer.bos)

    def test_scores_are_those_of_forward(self):
        path = os.path.join(self.folder(), "few.jsonl")
        with open(PROBES, encoding="utf-8") as file, open(path, "w", encoding="utf-8") as out:
            out.writelines(file.readlines()[:5])
        model = qsae.Model(self.ctx, MODEL)
        probes = qsae.Probes(self.ctx, self.tokenizer, path)
        scores = probes.run(model)
        for item, pair in zip(probes, scores):
            for ids, score in zip((item.good, item.bad), pair):
                whole = np.concatenate([item.context, ids])
                labels = np.full((1, len(whole) - 1), -100, np.int32)
                labels[0, len(item.context) - 1:] = ids
                nll = model.forward(whole[None, :-1], labels=labels).nll[0, -len(ids):]
                self.assertEqual(-float(np.cumsum(nll.astype(np.float64))[-1]), score)

    def test_evaluate(self):
        result = qsae.evaluate(MODEL, text=TEXT, context=64,
                               tokens=256, conditions=["rtn:bits=3"], probes=PROBES, ctx=self.ctx)
        reference, condition = result["probes"]["reference"], result["probes"]["conditions"][0]
        self.assertGreater(reference["intervals"]["accuracy"][0], 0.7)
        self.assertEqual([t["items"] for t in condition["tags"]], [75] * 4)
        self.assertLess(condition["intervals"]["dmargin"][1], 0)
        self.assertLess(condition["mcnemar_p"], 0.05)
        self.check_described(result["probes"])

    def check_described(self, value):
        """Every key has a place in the manual."""
        with open(os.path.join(ROOT, "doc", "result.md"), encoding="utf-8") as file:
            page = file.read()
        pending = [value]
        while pending:
            value = pending.pop()
            for key in value if isinstance(value, dict) else ():
                self.assertIn(f"`{key}`", page)
            pending += (value.values() if isinstance(value, dict) else
                        value if isinstance(value, list) else ())

    def test_contexts(self):
        result = qsae.evaluate(MODEL, text=TEXT, context=64, tokens=400, conditions=["rtn:bits=3"],
                               contexts=[64, 16], contexts_scored=6, saes=[SAE],
                               ctx=self.ctx)
        short, long = result["contexts"]
        self.assertEqual((short["context"], long["context"], short["scored"]), (16, 64, 6))
        self.assertEqual(short["tokens"], long["tokens"])
        self.assertIsNone(short["reference"]["change"])
        self.check_described(result["contexts"])
        self.assertEqual(long["reference"]["change"]["ce"],
                         long["reference"]["ce"] - short["reference"]["ce"])

    def test_errors(self):
        with self.assertRaises(qsae.Error) as caught:
            qsae.Probes(self.ctx, self.tokenizer, TEXT)
        self.assertIn('eval.jsonl:1: key "context"', caught.exception.message)


if __name__ == "__main__":
    unittest.main()
