# SPDX-License-Identifier: BSD-2-Clause
"""llama.cpp's files and report, entropies and overlaps against NumPy."""

import os

import numpy as np

from support import DATA, MODEL, TEXT, Case

import qsae
from qsae import metrics


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class Llama(Case):
    def test_report(self):
        """The stored report's figures from the same logits, as llama.cpp prints them."""
        context, vocab, chunks = 32, 61, 9
        state, values = 2024, np.empty(chunks * context * vocab * 2, np.float32)
        for i in range(values.size):
            state = (state * 1664525 + 1013904223) & 0xffffffff
            values[i] = ((state >> 16) - 32768) / 4096
        r, step = values.reshape(chunks, context, vocab, 2).transpose(3, 0, 1, 2)
        q = (r + step / np.float32(8)).astype(np.float32)
        folder = os.path.join(DATA, "metrics", "llama")
        reader = metrics.LogitsReader(self.ctx, os.path.join(folder, "base.kld"))
        self.assertEqual((reader.context, reader.vocab, reader.chunks, reader.first, reader.rows),
                         (context, vocab, chunks, 16, 15))
        tokens = np.stack([reader.tokens(c) for c in range(chunks)])
        path = os.path.join(self.folder(), "copy.kld")
        with metrics.LogitsWriter(self.ctx, path, tokens, vocab) as writer:
            writer.add(r[:, 16:31])
            writer.finish()
        with open(path, "rb") as a, open(os.path.join(folder, "base.kld"), "rb") as b:
            self.assertEqual(a.read(), b.read())
        based = metrics.LlamaCpp(self.ctx, batch_rows=context)
        whole = metrics.LlamaCpp(self.ctx, batch_rows=context)
        for c in range(chunks):
            based.update_base(reader, c, q[c, 16:31])
            whole.update(r[c, 16:31], q[c, 16:31], tokens[c, 17:], first=c * context + 16)
            near = np.maximum(log_softmax(r[c, 16:31]), log_softmax(r[c, 16:31]).max(-1)[:, None]
                              - 16)
            np.testing.assert_allclose(reader.log_p(c), near, atol=2e-4)
        np.testing.assert_equal(based.result(), whole.result())
        with open(os.path.join(folder, "report.txt"), encoding="utf-8") as file:
            report = file.read()
        result = based.result()
        self.assertIn(f"Mean PPL(Q)                   : {result['ppl_q']:10.6f}", report)
        self.assertIn(f"99.9%   KLD: {result['kld_q99_9']:10.6f}", report)
        self.assertIn(f"RMS \u0394p    : {100 * result['dp_rms']:6.3f}", report)
        index, lines = based.lines()
        self.assertEqual(list(index), list(range(chunks)))
        self.assertIn(f"{lines[4, 0]:9.4f} \u00b1 {lines[4, 1]:9.4f}", report)

    def test_errors(self):
        tokens, path = np.zeros((2, 8), np.int32), os.path.join(self.folder(), "x.kld")
        writer = metrics.LogitsWriter(self.ctx, path, tokens, 5)
        writer.add(np.zeros((5, 5)))
        with self.assertRaisesRegex(qsae.Error, "expected 6 rows"):
            writer.finish()
        writer.close()
        self.assertEqual(os.listdir(os.path.dirname(path)), [])
        with self.assertRaisesRegex(qsae.Error, "_logits_"):
            metrics.LogitsReader(self.ctx, TEXT)

    def test_evaluate(self):
        path = os.path.join(self.folder(), "base.kld")
        settings = dict(text=TEXT, conditions=["rtn:bits=4"], context=48, tokens=480, ctx=self.ctx)
        first = qsae.evaluate(MODEL, kl_divergence=True, save_logits=path, **settings)
        again = qsae.evaluate(MODEL, kl_divergence_base=path, **dict(settings, text=None))
        for result in first, again:
            self.assertEqual(result["corpus"]["predicted_tokens"], 230)
        a, b = (result["conditions"][0]["llama_cpp"] for result in (first, again))
        self.assertEqual([a.pop("base"), b.pop("base")], [None, path])
        self.assertEqual(a, b)
        self.assertIsNone(first["reference"]["llama_cpp"])
        self.assertEqual(again["reference"]["llama_cpp"]["same_top"], 1)

    def test_distributions(self):
        """Entropies and overlaps of an audit against its models' own logits."""
        ids = qsae.Tokenizer(self.ctx, MODEL).encode("Once upon a time there was a dog. " * 9)
        ids = np.asarray(ids[:64], np.int32)[None]
        logits = [qsae.Model(self.ctx, MODEL, quantizer=q).forward(ids, logits=True).logits[0]
                  for q in (None, "nf4")]
        labels = np.append(ids[0, 1:], -100)
        for k in (1, 5, 10):
            metric = metrics.Divergence(self.ctx, overlap_k=k)
            metric.update(logits_r=logits[0], logits_q=logits[1], labels=labels)
            p = [log_softmax(x[:-1]) for x in logits]
            for name, x in zip(("entropy_r", "entropy_q"), p):
                self.near(metric[name], -(np.exp(x) * x).sum(-1).mean(), 1e-7)
            best = [np.argsort(-x[:-1], -1, kind="stable")[:, :k] for x in logits]
            both = np.mean([len(set(a) & set(b)) / k for a, b in zip(*best)])
            self.near(metric["topk_overlap"], both, 1e-6)
