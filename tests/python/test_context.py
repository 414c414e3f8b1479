# SPDX-License-Identifier: BSD-2-Clause
import gc
import logging
import os
import pathlib
import tempfile
import threading
import unittest

from support import DATA, MODEL, SAE, Case

import qsae


class Contexts(Case):
    def test_properties(self):
        with qsae.Context(threads=3, cpu="c") as ctx:
            self.assertEqual((ctx.threads, ctx.cpu), (3, "c"))
            self.assertTrue(ctx.gemm)
            self.assertTrue(ctx.blis)
        self.assertIn(qsae.cpu_best(), ("c", "avx2", "avx512", "avx512bf16", "amx"))
        self.assertRegex(qsae.__version__, r"^\d+\.\d+\.\d+")

    def test_bad_settings(self):
        self.fails("QSAE_EINVAL", "pentium", qsae.Context, cpu="pentium")
        self.fails("QSAE_EINVAL", "threads", qsae.Context, threads=-1)
        self.fails("QSAE_EINVAL", "threads", qsae.Context, threads=2000)
        self.fails("QSAE_EINVAL", "threads", qsae.Context, threads=2**40)
        self.fails("QSAE_EINVAL", "expected an integer", qsae.Context, threads="two")
        self.fails("QSAE_EINVAL", "NUL", qsae.Context, cpu="c\0d")
        self.fails("QSAE_EINVAL", "none, error", qsae.Context, log_level="loud")
        self.fails("QSAE_EINVAL", "map, read", qsae.Context, files="copy")

    def test_share_folder(self):
        self.fails("QSAE_ENOENT", "nowhere", qsae.Context, share_folder=os.path.join(DATA, "nowhere"))
        with tempfile.TemporaryDirectory() as folder:
            figures = []
            for shared in (None, folder, pathlib.Path(folder)):
                with qsae.Context(threads=1, share_folder=shared) as ctx:
                    model = qsae.Model(ctx, MODEL, compute="bf16", quantizer="rtn@with=embed|head")
                    figures.append(model.forward([[1, 2, 3, 4]], logits=True).logits)
            self.same(figures[1], figures[0])
            self.same(figures[2], figures[0])
            files = os.listdir(folder)
            self.assertTrue(files)
            for name in files:
                self.assertRegex(name, r"^[0-9a-f]{32}-[0-9]+$")

    def test_error(self):
        with self.assertRaises(qsae.Error) as caught:
            qsae.Context(cpu="pentium")
        error = caught.exception
        self.assertEqual((error.status, error.name), (-1, "QSAE_EINVAL"))
        self.assertEqual(str(error), "QSAE_EINVAL: " + error.message)
        self.assertEqual(error.args, (error.status, error.name, error.message))

    def test_closed_handles(self):
        ctx = qsae.Context(threads=1)
        self.assertFalse(ctx.closed)
        ctx.close()
        ctx.close()
        self.assertTrue(ctx.closed)
        self.fails("QSAE_EINVAL", "Context is closed", lambda: ctx.threads)
        self.fails("QSAE_EINVAL", "Context is closed", qsae.Quantizer, ctx, "nf4")
        self.fails("QSAE_EINVAL", "Context is closed", ctx.__enter__)

    def test_objects_outlive_their_context(self):
        ctx = qsae.Context(threads=2)
        sae = qsae.SAE(ctx, SAE)
        before = sae.reconstruct([[0.5] * sae.width])
        ctx.close()
        del ctx
        gc.collect()
        self.same(sae.reconstruct([[0.5] * sae.width]), before)

    def test_log(self):
        # Scoring without BOS a model whose tokenizer adds it is worth a warning.
        lines = []
        with qsae.Context(threads=1, log=lambda *line: lines.append(line)) as ctx:
            qsae.Audit(ctx, MODEL, os.path.join(MODEL, "..", "eval.jsonl"), bos="none",
                       tokens=600).close()
        self.assertEqual([level for level, _ in lines], [logging.WARNING])
        self.assertIn("BOS", lines[0][1])
        with self.assertLogs("qsae", logging.WARNING), qsae.Context(threads=1) as ctx:
            qsae.Audit(ctx, MODEL, os.path.join(MODEL, "..", "eval.jsonl"), bos="none",
                       tokens=600).close()

    def test_two_threads_on_one_handle(self):
        sae, results = qsae.SAE(self.ctx, SAE), []
        x = [[0.1 * i for i in range(sae.width)]] * 40
        threads = [threading.Thread(target=lambda: results.append(sae.encode(x).tobytes()))
                   for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(results), 8)
        self.assertEqual(len(set(results)), 1)

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_fork(self):
        ctx = qsae.Context(threads=2)
        sae = qsae.SAE(ctx, SAE)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                try:
                    sae.encode([[1.0] * sae.width] * 200)
                except qsae.Error as error:
                    code = 0 if error.name == "QSAE_EENV" else 2
                del sae, ctx
                gc.collect()
            finally:
                os._exit(code)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)


class TensorsTest(Case):
    def test_listing(self):
        with qsae.Tensors(self.ctx, os.path.join(DATA, "models", "llama_gqa")) as tensors:
            entries = list(tensors)
            self.assertEqual([e["name"] for e in entries], sorted(e["name"] for e in entries))
            named = {e["name"]: e for e in entries}
            embed = named["model.embed_tokens.weight"]
            self.assertEqual(embed["dtype"], "F32")
            self.assertEqual(embed["bytes"], 4 * embed["shape"][0] * embed["shape"][1])
            self.assertEqual(tensors[-1]["name"], entries[-1]["name"])
            self.assertRaises(IndexError, tensors.__getitem__, len(entries))

    def test_missing(self):
        self.fails("QSAE_ENOENT", "nothing-here", qsae.Tensors, self.ctx, "/nothing-here")
        self.fails("QSAE_EINVAL", "NUL", qsae.Tensors, self.ctx, "a\0b")
