# SPDX-License-Identifier: BSD-2-Clause
import json
import math
import os
import pathlib
import signal
import threading

import numpy as np

from support import MODEL, ROOT, SAE, TEXT, Case

import qsae

SMALL = {"saes": [SAE], "text": TEXT, "conditions": ["rtn:bits=4"], "context": 64, "tokens": 2000,
         "threads": 2}


def without_timing(document):
    """The document but for what a clock decides."""
    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items()
                    if k not in ("timing", "tokens_per_second", "peak_rss_bytes")}
        return [strip(v) for v in value] if isinstance(value, list) else value
    return json.dumps(strip(document))


class Evaluate(Case):
    def test_document(self):
        result = qsae.evaluate(MODEL, **SMALL)
        self.assertEqual((result["format"], result["version"], result["profile"]),
                         ("qsae-result", 1, "default"))
        self.assertTrue(result["complete"])
        self.assertEqual(result["corpus"]["tokens"], 2048)
        self.assertEqual(result["corpus"]["context"], 64)
        condition = result["conditions"][0]
        self.assertTrue(condition["label"].startswith("rtn:bits=4"))
        self.assertAlmostEqual(condition["dce"], condition["ce"] - result["reference"]["ce"], 12)
        self.assertEqual(condition["saes"][0]["layer"], result["reference"]["saes"][0]["layer"])
        json.dumps(result, allow_nan=False)

    def test_streamed(self):
        resident = qsae.evaluate(MODEL, memory="resident", **SMALL)
        streamed = qsae.evaluate(MODEL, memory="streamed", stream_bytes=1 << 20, **SMALL)
        self.assertEqual(resident["timing"]["memory"], "resident")
        self.assertEqual(streamed["timing"]["memory"], "streamed")
        self.assertEqual(without_timing(resident), without_timing(streamed))
        automatic = qsae.evaluate(MODEL, memory="auto", **SMALL)
        self.assertEqual(automatic["timing"]["memory"], "resident")
        with self.assertRaisesRegex(qsae.Error, "memory"):
            qsae.evaluate(MODEL, memory="mapped", **SMALL)

    def test_every_key_is_described(self):
        def keys(value):
            if isinstance(value, list):
                return set().union(*map(keys, value))
            if not isinstance(value, dict):
                return set()
            return set(value).union(*map(keys, value.values()))

        with open(os.path.join(ROOT, "doc", "result.md"), encoding="utf-8") as file:
            page = file.read()
        found = keys(qsae.evaluate(MODEL, **{**SMALL, "tokens": 6000, "conditions": ["llm.int8"]}))
        more = {**SMALL, "tokens": 500}
        match = "none+prune:match=(rtn:bits=4)"
        found |= keys(qsae.evaluate(MODEL, **{**more, "conditions": [match, MODEL]}))
        found |= keys(qsae.evaluate(MODEL, sweep="kinds", **more))
        self.assertGreater(len(found), 170)
        self.assertEqual([key for key in sorted(found) if f"`{key}`" not in page], [])

    def test_sweep_and_checkpoints(self):
        settings = {**SMALL, "tokens": 500, "conditions": ["rtn:bits=3", pathlib.Path(MODEL)]}
        result = qsae.evaluate(MODEL, sweep="layers", **settings)
        layers = qsae.Model(self.ctx, MODEL).layers
        parts = result["sweep"]["parts"]
        self.assertEqual([part["layer"] for part in parts], list(range(layers)))
        self.assertEqual(sorted(result["sweep"]["ranking"]["dce"]), list(range(layers)))
        self.assertEqual(result["conditions"][-1]["label"], MODEL)
        self.assertEqual(result["conditions"][-1]["kl_max"], 0)
        self.assertEqual(result["conditions"][-1]["checkpoint"]["differences"], [])
        with self.assertRaises(qsae.Error):
            qsae.evaluate(MODEL, sweep="rows", **settings)

    def test_matched_pruning(self):
        settings = {**SMALL, "tokens": 500, "conditions": ["none+prune:match=3.5"]}
        phases = set()
        result = qsae.evaluate(MODEL, progress=lambda d, t, u, phase: phases.add(phase), **settings)
        match = result["conditions"][0]["match"]
        self.assertEqual(len(match["visited"]), 6)
        best = min(match["visited"], key=lambda pair: abs(pair[1] - 3.5))
        self.assertEqual(match["chosen"], best[0])
        self.assertTrue({"match", "measure"} <= phases)

    def test_equals_the_parts(self):
        """The same measurement, put together by hand from Model, SAE and metrics."""
        result = qsae.evaluate(MODEL, **SMALL)
        tokenizer, sae = qsae.Tokenizer(self.ctx, MODEL), qsae.SAE(self.ctx, SAE)
        corpus = qsae.Corpus(self.ctx, tokenizer, TEXT, context=64, max_tokens=2000)
        self.assertEqual(corpus.info["token_hash"], result["corpus"]["token_hash"])
        models = [qsae.Model(self.ctx, MODEL), qsae.Model(self.ctx, MODEL, quantizer="rtn:bits=4")]
        ce = [qsae.metrics.CrossEntropy(self.ctx) for _ in models]
        fvu = [qsae.metrics.Reconstruction(self.ctx, sae.width, sae.features) for _ in models]
        drift, features = (qsae.metrics.Drift(self.ctx, sae.width),
                           qsae.metrics.Features(self.ctx, sae.features))
        mask = np.zeros((4, 64), np.uint8)
        mask[:, 0] = qsae.metrics.EXCLUDED
        for start in range(0, len(corpus), 4):
            ids = np.stack([corpus[i].ids for i in range(start, start + 4)])
            outs = [model.forward(ids, taps=[sae.hook]) for model in models]
            x = [out.taps[sae.hook].reshape(-1, sae.width) for out in outs]
            acts, y = [sae.encode_sparse(a) for a in x], [sae.reconstruct(a) for a in x]
            at = {"first": 64 * start, "mask": mask}
            for i in range(2):
                ce[i].update(outs[i].nll)
                fvu[i].update(x[i], y[i], acts[i], **at)
            drift.update(x[0], x[1], y[0], y[1], **at)
            features.update(acts[0], acts[1], **at)
        for i, who in enumerate([result["reference"], result["conditions"][0]]):
            self.near(ce[i]["ce"], who["ce"], 1e-12)
            for name in ("fvu_dim", "fvu_scalar", "mse", "l0"):
                self.assertEqual(fvu[i][name], who["saes"][0][name], name)
        sae_part = result["conditions"][0]["saes"][0]
        self.assertEqual(drift["ratio"], sae_part["noise"]["ratio"])
        for name in ("active", "survived", "damaged", "median_r"):
            self.assertEqual(features[name], sae_part["survival"][name], name)

    def test_progress(self):
        lines = []
        result = qsae.evaluate(MODEL, **SMALL, progress=lambda *line: lines.append(line))
        self.assertEqual(lines[-1][:3], (2048, 2048, "tokens"))
        self.assertEqual(without_timing(result), without_timing(qsae.evaluate(MODEL, **SMALL)))

    def test_exception_of_progress(self):
        def stop(done, total, unit, phase):
            raise RuntimeError(f"{done} {unit}")

        self.assertRaises(RuntimeError, qsae.evaluate, MODEL, **SMALL, progress=stop)

    def interrupted_then_resumed(self, interrupt, **arguments):
        old = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, old)
        state = os.path.join(self.folder(), "state")
        with self.assertRaises(KeyboardInterrupt):
            qsae.evaluate(MODEL, **arguments, state=state, progress=interrupt)
        return state

    def test_interrupt_in_progress_and_resume(self):
        def interrupt(done, total, unit, phase):
            if phase == "measure" and done >= 1024:
                signal.raise_signal(signal.SIGINT)

        state = self.interrupted_then_resumed(interrupt, **SMALL)
        self.assertTrue(os.path.exists(state))
        starts = []
        resumed = qsae.evaluate(MODEL, **SMALL, state=state,
                                progress=lambda done, *rest: starts.append((done, *rest)))
        self.assertGreaterEqual(next(s[0] for s in starts if s[3] == "measure"), 1024)
        self.assertEqual(without_timing(resumed), without_timing(qsae.evaluate(MODEL, **SMALL)))
        self.fails("QSAE_EMISMATCH", "another measurement", qsae.evaluate, MODEL,
                   **{**SMALL, "conditions": ["nf4"]}, state=state)

    def test_interrupt_while_c_code_runs(self):
        timers = []

        def interrupt(done, total, unit, phase):
            if phase == "measure" and not timers:
                timers.append(threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)))
                timers[0].start()

        long = {**SMALL, "tokens": 0, "conditions": ["rtn:bits=4", "nf4", "llm.int8", "rtn:bits=3"]}
        self.interrupted_then_resumed(interrupt, **long)
        timers[0].join()

    def test_audit_goes_on(self):
        arguments = {k: v for k, v in SMALL.items() if k != "threads"}
        calls = []

        def stop_once(done, total, unit, phase):
            if phase == "measure" and done and not calls:
                calls.append(done)
                raise RuntimeError

        with qsae.Audit(self.ctx, MODEL, **arguments, progress=stop_once) as audit:
            self.assertRaises(RuntimeError, audit.run)
            self.assertFalse(audit.result()["complete"])
            audit.run()
            result = audit.result()
        self.assertEqual(without_timing(result), without_timing(qsae.evaluate(MODEL, **SMALL)))

    def test_other_checkpoint_and_quantizer_object(self):
        result = qsae.evaluate(MODEL, text=TEXT, context=64, tokens=600, ctx=self.ctx,
                               conditions=[MODEL, qsae.Quantizer(self.ctx, "nf4")])
        same, nf4 = result["conditions"]
        self.assertEqual((same["label"], same["dce"], same["kl_mean"]), (MODEL, 0, 0))
        self.assertGreater(nf4["kl_mean"], 0)
        self.assertTrue(math.isfinite(nf4["ppl"]))

    def test_profiles(self):
        result = qsae.evaluate(MODEL, saes=[SAE], text=TEXT, profile="article", context=64,
                               tokens=600, threads=2)
        self.assertEqual((result["compute"], result["corpus"]["bos_policy"]), ("bf16", "doc_start"))
        self.assertEqual([c["label"].split(":")[0] for c in result["conditions"]],
                         ["llm.int8", "nf4"])

    def test_refusals(self):
        evaluate = qsae.evaluate
        self.fails("QSAE_EINVAL", "text is missing", evaluate, MODEL)
        self.fails("QSAE_EINVAL", "default, article", evaluate, MODEL, text=TEXT, profile="book")
        self.fails("QSAE_EINVAL", "a list", evaluate, MODEL, text=TEXT, conditions="nf4")
        self.fails("QSAE_EINVAL", "belong to ctx", evaluate, MODEL, text=TEXT, ctx=self.ctx,
                   threads=1)
        self.fails("QSAE_EINVAL", "nf7", evaluate, MODEL, text=TEXT, conditions=["nf7"])
        self.fails("QSAE_EMISMATCH", "layer 9", evaluate, MODEL, text=TEXT, saes=[SAE + "@9"])
        self.fails("QSAE_ENOENT", "nothing", evaluate, "/nothing", text=TEXT)
