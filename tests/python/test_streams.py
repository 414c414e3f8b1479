# SPDX-License-Identifier: BSD-2-Clause
"""Rows streamed from a pass; passes that are ended from outside."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

import numpy as np
from support import MODEL, SAE, TEXT, Case

import qsae


class Streams(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = qsae.Model(cls.ctx, MODEL)
        with qsae.Tokenizer(cls.ctx, MODEL) as tokenizer:
            cls.corpus = qsae.Corpus(cls.ctx, tokenizer, TEXT, context=64, max_tokens=640)
        cls.taps = [(1, "resid_post"), (3, "mlp_out"), "blocks.0.hook_resid_pre"]

    @classmethod
    def tearDownClass(cls):
        cls.model.close()
        super().tearDownClass()

    def ids(self):
        return np.stack([chunk.ids for chunk in self.corpus])

    def test_same_rows_as_forward(self):
        for batch in (1, 3, 4, 99):
            seen, ids = {}, self.ids()
            for tap in self.model.iter_taps(self.corpus, self.taps, batch=batch):
                seen.setdefault(tap.key, []).append(tap)
            self.assertEqual(set(seen), set(self.taps))
            expected = self.model.forward(ids, taps=self.taps, nll=False).taps
            for key, parts in seen.items():
                self.assertEqual(len(parts), -(-len(ids) // batch))
                self.same(np.concatenate([t.rows for t in parts]),
                          expected[key].reshape(-1, expected[key].shape[-1]))
                self.same(np.concatenate([t.ids for t in parts]), ids.reshape(-1))
                self.same(np.concatenate([t.document for t in parts]),
                          np.concatenate([c.document for c in self.corpus]))
                self.same(np.concatenate([t.position for t in parts]),
                          np.tile(np.arange(64, dtype=np.int32), len(ids)))
                first = 0
                for t in parts:
                    self.assertEqual(t.first, first)
                    first += len(t.rows)
            self.assertEqual([(t.layer, t.site) for t in (p[0] for p in seen.values())],
                             [(0, "resid_pre"), (1, "resid_post"), (3, "mlp_out")])

    def test_sources(self):
        ids = self.ids()[:5]
        expected = [t.rows for t in self.model.iter_taps(ids, self.taps[:1], batch=2)]
        self.assertEqual(len(expected), 3)
        chunks = [self.corpus[i] for i in range(5)]
        for source in (ids.tolist(), chunks, iter(chunks), (c for c in chunks)):
            found = [t.rows for t in self.model.iter_taps(source, self.taps[:1], batch=2)]
            self.assertEqual(len(found), 3)
            for a, b in zip(expected, found):
                self.same(a, b)
        (one,) = self.model.iter_taps(chunks[0], self.taps[:1])
        self.same(one.rows, expected[0][:64])
        # A last, shorter chunk is a batch of its own.
        tail = [chunks[0], qsae.Chunk(*(a[:10] for a in chunks[1])), chunks[2]]
        lengths = [len(t.rows) for t in self.model.iter_taps(tail, self.taps[:1])]
        self.assertEqual(lengths, [64, 10, 64])
        self.assertEqual(list(self.model.iter_taps([], self.taps[:1])), [])

    def test_edits(self):
        place = (1, "resid_post")
        rows = [t.rows for t in self.model.iter_taps(self.ids()[:2], [(2, "resid_post")],
                                                     edits={place: qsae.edits.zero()})]
        expected = self.model.forward(self.ids()[:2], taps=[(2, "resid_post")],
                                      edits={place: qsae.edits.zero()}).taps[2, "resid_post"]
        self.same(rows[0], expected.reshape(rows[0].shape))

    def test_metric_and_sae_in_the_loop(self):
        with qsae.SAE(self.ctx, SAE) as sae, \
                qsae.metrics.Reconstruction(self.ctx, sae.width) as fvu, \
                qsae.metrics.Reconstruction(self.ctx, sae.width) as whole:
            for t in self.model.iter_taps(self.corpus, [sae.hook], batch=3):
                fvu.update(t.rows, sae.reconstruct(t.rows), first=t.first, document=t.document,
                           position=t.position)
            rows = self.model.forward(self.ids(), taps=[sae.hook], nll=False).taps[sae.hook]
            rows = rows.reshape(-1, sae.width)
            whole.update(rows, sae.reconstruct(rows), first=0,
                         document=np.concatenate([c.document for c in self.corpus]),
                         position=np.tile(np.arange(64), len(self.corpus)))
            found, expected = fvu.result(), whole.result()
            self.assertEqual(list(found), list(expected))
            self.same(list(found.values()), list(expected.values()))

    def test_break(self):
        threads = threading.active_count()
        for _ in range(5):
            for tap in self.model.iter_taps(self.corpus, self.taps):
                break
            gc.collect()
            self.assertEqual(threading.active_count(), threads)
            self.model.forward([[1, 2, 3]])  # usable at once
        stream = self.model.iter_taps(self.corpus, self.taps)
        tap = next(stream)
        kept = tap.rows.copy()
        self.fails("QSAE_EBUSY", "stream", self.model.forward, [[1, 2, 3]])
        self.fails("QSAE_EBUSY", "stream", list, self.model.iter_taps(self.corpus, self.taps))
        next(stream)
        self.same(tap.rows, kept)  # the reader's own
        stream.close()
        self.model.forward([[1, 2, 3]])
        self.assertEqual(list(stream), [])
        self.assertEqual(threading.active_count(), threads)

    def test_exceptions(self):
        class Mine(Exception):
            pass

        def bad(rows, info):
            raise Mine

        with self.assertRaises(Mine):
            list(self.model.iter_taps(self.ids(), self.taps, edits={(0, "mlp_out"): bad}))
        with self.assertRaises(Mine):
            for _ in self.model.iter_taps(self.corpus, self.taps):
                raise Mine

        def source():
            yield self.corpus[0]
            raise Mine

        with self.assertRaises(Mine):
            list(self.model.iter_taps(source(), self.taps, batch=1))
        self.fails("QSAE_EINVAL", "batch", self.model.iter_taps, self.corpus, self.taps, 0)
        self.fails("QSAE_EINVAL", "at least one", self.model.iter_taps, self.corpus, [])
        self.fails("QSAE_EUNSUPPORTED", "no such place", self.model.iter_taps, self.corpus,
                   [(0, "nowhere")])
        self.fails("QSAE_EINVAL", "found int", list, self.model.iter_taps(iter([1]), self.taps))
        self.fails("QSAE_EINVAL", "token", list,
                   self.model.iter_taps([[1, 2, 10**6]], self.taps))
        self.model.forward([[1, 2, 3]])

    def test_closing_the_model_ends_the_stream(self):
        model = qsae.Model(self.ctx, MODEL)
        stream = model.iter_taps(self.corpus, self.taps)
        next(stream)
        model.close()
        self.assertEqual(list(stream), [])

    def test_canceled_stream(self):
        token, n = qsae.CancelToken(), 0
        with self.assertRaises(qsae.Error) as caught:
            for _ in self.model.iter_taps(self.corpus, self.taps, batch=1, cancel=token):
                n += 1
                token.cancel()
        self.assertEqual((caught.exception.name, n), ("QSAE_ECANCELED", 1))

    def test_a_program_may_end_in_the_middle(self):
        code = ("import qsae, sys\n"
                "m = qsae.Model(qsae.Context(1), sys.argv[1])\n"
                "s = m.iter_taps([[1, 2, 3]] * 9, [(0, 'resid_post')], batch=1)\n"
                "next(s)\nprint('ended')\n")
        done = subprocess.run([sys.executable, "-B", "-c", code, MODEL], capture_output=True,
                              text=True, timeout=60,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        self.assertEqual((done.stdout, done.returncode), ("ended\n", 0), done.stderr)


class Ending(Case):
    """Ctrl-C and CancelToken. What they end is made slow, so that it cannot end before."""

    @classmethod
    def setUpClass(cls):
        cls.ctx = qsae.Context(threads=1)

    def interrupted(self, call, after=0.06):
        """SIGINT while call runs: KeyboardInterrupt, soon."""
        timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
        start = time.perf_counter()
        timer.start()
        with self.assertRaises(KeyboardInterrupt):
            while time.perf_counter() - start < 20:  # again, where it ended before the signal
                call()
        self.assertLess(time.perf_counter() - start, 20)
        timer.join()

    def canceled(self, call, after=0.06):
        """The same by a token from another thread, of a call in a third one."""
        token, caught = qsae.CancelToken(), []

        def work():
            try:
                call(token)
            except qsae.Error as error:
                caught.append(error.name)

        for _ in range(5):  # again, where it ended before
            thread = threading.Thread(target=work)
            thread.start()
            time.sleep(after)
            running = thread.is_alive()
            token.cancel()
            thread.join(60)
            if running and caught:
                break
            token.reset()
        self.assertEqual(caught[-1:], ["QSAE_ECANCELED"])
        token.cancel()
        # A token that is set ends a call at once, until it is reset.
        self.fails("QSAE_ECANCELED", "", call, token)
        token.reset()
        self.assertFalse(token.canceled)

    def test_forward(self):
        with qsae.Model(self.ctx, MODEL) as model:
            ids = np.ones((150, 256), np.int64)
            before = model.forward(ids[:1, :9]).nll
            self.interrupted(lambda: model.forward(ids))
            self.canceled(lambda token: model.forward(ids, cancel=token))
            self.same(model.forward(ids[:1, :9]).nll, before)

    def test_stream(self):
        with qsae.Model(self.ctx, MODEL) as model:
            ids = np.ones((150, 256), np.int64)
            self.interrupted(lambda: list(model.iter_taps(ids, [(5, "resid_post")], batch=150)))
            self.assertEqual(len(list(model.iter_taps(ids[:4, :8], [(5, "resid_post")]))), 1)

    def test_evaluate(self):
        state = os.path.join(self.folder(), "state")
        options = dict(text=TEXT, saes=[SAE], conditions=["rtn:bits=4"], tokens=2048, batch=1,
                       threads=1)
        seen = []

        def progress(done, _total, unit, _phase):
            if unit == "tokens" and done > 0 and not seen:
                seen.append(done)
                os.kill(os.getpid(), signal.SIGINT)

        with self.assertRaises(KeyboardInterrupt):
            qsae.evaluate(MODEL, state=state, progress=progress, **options)
        self.assertTrue(seen)
        whole = qsae.evaluate(MODEL, **options)
        resumed = qsae.evaluate(MODEL, state=state, **options)
        for key in ("reference", "conditions"):
            for result in (whole, resumed):
                for entry in result[key] if key == "conditions" else [result[key]]:
                    entry.pop("tokens_per_second")
                    entry.pop("peak_rss_bytes")
            self.assertEqual(whole[key], resumed[key])
        token = qsae.CancelToken()
        token.cancel()
        self.fails("QSAE_ECANCELED", "", qsae.evaluate, MODEL, cancel=token, **options)

    def test_tokenizer(self):
        with qsae.Tokenizer(self.ctx, MODEL) as tokenizer:
            # Words that no cache has.
            text = np.random.default_rng(0).bytes(8000000).hex(" ", 5)
            before = tokenizer.encode(text[:2000])
            self.interrupted(lambda: tokenizer.encode(text))
            self.canceled(lambda token: tokenizer.encode(text, cancel=token))
            self.same(tokenizer.encode(text[:2000]), before)
            # One word without end.
            self.interrupted(lambda: tokenizer.encode("ab" * 4000000))
            self.canceled(lambda token: tokenizer.encode("ab" * 4000000, cancel=token))

    def test_sae(self):
        with qsae.Context(threads=1, cpu="c") as ctx, qsae.SAE(ctx, SAE) as sae:
            x = np.random.default_rng(0).normal(size=(1000, sae.width)).astype(np.float32)
            x = np.tile(x, (100, 1))
            before = sae.reconstruct(x[:9])
            for call in (sae.encode_sparse, sae.reconstruct):
                self.interrupted(lambda call=call: call(x))
                self.canceled(lambda token, call=call: call(x, cancel=token))
                self.same(sae.reconstruct(x[:9]), before)

    def test_other_threads_run_during_a_pass(self):
        # ctypes gives the interpreter's lock away: this thread's counter goes on.
        with qsae.Model(self.ctx, MODEL) as model:
            ids, count, done = np.ones((32, 256), np.int64), 0, threading.Event()

            def work():
                model.forward(ids)
                done.set()

            thread = threading.Thread(target=work)
            thread.start()
            while not done.is_set():
                count += 1
                time.sleep(0.001)
            thread.join()
            self.assertGreater(count, 20)

    def test_token_misuse(self):
        with qsae.Model(self.ctx, MODEL) as model:
            self.fails("QSAE_EINVAL", "cancel: expected a CancelToken", model.forward, [[1, 2]],
                       cancel=True)


if __name__ == "__main__":
    unittest.main()
