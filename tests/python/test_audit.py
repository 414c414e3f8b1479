# SPDX-License-Identifier: BSD-2-Clause
import json
import math
import os
import pathlib
import shutil
import signal
import tempfile
import threading

import numpy as np

from support import MODEL, ROOT, SAE, TEXT, Case, data, write_safetensors, read_safetensors

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

    def planned(self, **more):
        """A plan of layers, and the document of its measurement."""
        more.pop("threads")
        ctx = qsae.Context(threads=2)
        with qsae.Audit(ctx, MODEL, sweep="layers", **more) as audit:
            audit.run()
            plan = audit.plan(10)
            self.assertEqual(audit.plan(10, by="dce")["figure"], "dce")
            with self.assertRaisesRegex(qsae.Error, "at least"):
                audit.plan(1)
        more["conditions"] = [*more["conditions"], plan["condition"]]
        with qsae.Audit(ctx, MODEL, plan=plan, **more) as audit:
            audit.run()
            return plan, audit.result()

    def test_plan(self):
        plan, result = self.planned(**SMALL)
        self.assertLessEqual(plan["bits"], 10)
        self.assertEqual(result["plan"]["parts"], plan["parts"])
        measured = result["plan"]["measured"]
        condition = result["conditions"][measured["condition"]]
        self.assertEqual(condition["label"], plan["condition"])
        self.assertEqual(measured["dce"], condition["dce"])
        self.assertLess(measured["kl_mean"], result["plan"]["uniform"][0]["kl_mean"])

    def test_controls(self):
        result = qsae.evaluate(MODEL, controls=True, **SMALL)
        controls = result["conditions"][0]["controls"]
        self.assertEqual(controls["null"]["kl_mean"], 0)
        self.assertTrue(controls["beyond_floor"]["kl_mean"])
        self.assertEqual(controls["gauss"]["label"], result["conditions"][1]["label"])

    def test_every_key_is_described(self):
        def keys(value):
            if isinstance(value, list):
                return set().union(*map(keys, value))
            if not isinstance(value, dict):
                return set()
            inner = [v for key, v in value.items() if key != "metadata"] # the text's own keys
            return set(value).union(*map(keys, inner))

        with open(os.path.join(ROOT, "doc", "result.md"), encoding="utf-8") as file:
            page = file.read()
        found = keys(qsae.evaluate(MODEL, **{**SMALL, "tokens": 6000, "conditions": ["llm.int8"]}))
        more = {**SMALL, "tokens": 500}
        match = "none+prune:match=(rtn:bits=4)"
        found |= keys(qsae.evaluate(MODEL, **{**more, "conditions": [match, MODEL]}))
        found |= keys(qsae.evaluate(MODEL, sweep="kinds", **more))
        found |= keys(qsae.evaluate(MODEL, splice=True, **more))
        found |= keys(qsae.evaluate(MODEL, controls=True, **more))
        found |= keys(self.planned(**more)[1])
        self.assertGreater(len(found), 170)
        self.assertEqual([key for key in sorted(found) if f"`{key}`" not in page], [])

    def test_layers_that_read_more_than_the_residual(self):
        # Gemma 4: keys and values of earlier layers, embeddings for each layer. Streamed as
        # resident, and splices as edits of a whole pass.
        rng, letters = np.random.default_rng(0), " abcdefghijklmnopqrstuvwxyz"
        for name in ("gemma4_shared", "gemma4_experts"):
            folder = os.path.join(self.folder(), name)
            shutil.copytree(data("models", name), folder)
            with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
                json.dump({"added_tokens": [], "normalizer": None, "pre_tokenizer": None,
                           "post_processor": None, "decoder": None,
                           "model": {"type": "BPE", "merges": [],
                                     "vocab": {c: i for i, c in enumerate(letters)}}}, file)
            text = os.path.join(folder, "text.txt")
            with open(text, "w", encoding="utf-8") as file:
                file.write("".join(rng.choice(list(letters), 700)))
            width, path = qsae.Model(self.ctx, folder).width, os.path.join(folder, "sae")
            os.mkdir(path)
            write_safetensors(os.path.join(path, "sae_weights.safetensors"), {
                key: (0.3 * rng.standard_normal(shape)).astype(np.float32)
                for key, shape in (("W_enc", (width, 48)), ("W_dec", (48, width)), ("b_enc", (48,)),
                                   ("b_dec", (width,)))})
            with open(os.path.join(path, "cfg.json"), "w", encoding="utf-8") as file:
                json.dump({"architecture": "standard", "d_in": width, "d_sae": 48,
                           "metadata": {"sae_lens_version": "6.54"}}, file)
            places = [(1, "resid_post"), (0, "mlp_out")]
            settings = {"saes": [f"{path}@{layer}:{site}" for layer, site in places], "text": text,
                        "conditions": ["nf4", "llm.int8", "rtn:bits=4@layers=1"], "context": 32,
                        "bos": "none", "splice": True, "ctx": self.ctx}
            results = [qsae.evaluate(folder, memory=memory, **settings)
                       for memory in ("resident", "streamed")]
            self.assertEqual(*map(without_timing, results))
            sae, corpus = qsae.SAE(self.ctx, path), qsae.Corpus(
                self.ctx, qsae.Tokenizer(self.ctx, folder), text, context=32, bos="none")
            for i, spec in enumerate([None, "nf4"]):
                model, who = qsae.Model(self.ctx, folder, quantizer=spec), results[0]["reference"]
                who = results[0]["conditions"][0] if i else who
                for place, got in zip(places, who["saes"]):
                    def splice(rows, info):
                        y = sae.reconstruct(rows)
                        y[0] = rows[0]
                        return y
                    nll = [model.forward(chunk.ids, edits={place: splice}).nll[0, 1:]
                           for chunk in corpus]
                    self.near(got["splice"]["ce_sae"], np.concatenate(nll).mean(dtype=np.float64),
                              1e-12, 0)

    def test_slices(self):
        folder = self.folder()
        path = os.path.join(folder, "text.jsonl")
        with open(TEXT, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file][:90]
        for i, line in enumerate(lines):
            line["meta"] = {"kind": ("a", "b", "c", 7)[i % 4 if i < 80 else 3]}
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        settings = {**SMALL, "text": path, "tokens": 26000}
        plain = qsae.evaluate(MODEL, **settings)
        result = qsae.evaluate(MODEL, slices=["meta.kind", "position", "class"], **settings)
        parts = result["slices"]["list"]
        with open(os.path.join(ROOT, "doc", "result.md"), encoding="utf-8") as file:
            page = file.read()
        for key in {*parts[0], *parts[0]["reference"], *parts[0]["conditions"][0],
                    *result["slices"]["summary"][0]}:
            self.assertIn(f"`{key}`", page)
        kinds = [part for part in parts if part["dimension"] == "meta.kind"]
        self.assertEqual([part["value"] for part in kinds], ["a", "b", "c", "7"])
        total = plain["reference"]["predicted"]
        for dimension in ("meta.kind", "position", "class"):
            self.assertEqual(total, sum(part["tokens"] for part in parts
                                        if part["dimension"] == dimension))
        # One chunk length, one position bucket: all tokens.
        whole = [part for part in parts if part["value"] == "0-255"][0]
        condition = plain["conditions"][0]
        self.assertEqual(whole["conditions"][0]["dce"], condition["dce"])
        self.assertEqual(whole["conditions"][0]["kl_mean"], condition["kl_mean"])
        self.near(whole["conditions"][0]["saes"][0]["fvu_dim"], condition["saes"][0]["fvu_dim"],
                  1e-12, 0)
        self.assertEqual(whole["conditions"][0]["p"], 1)
        # The parts' means weighted by their tokens are the mean of all.
        enough = [part for part in kinds if part["enough"]]
        self.assertEqual(len(enough), 4)
        mean = sum(part["tokens"] * part["conditions"][0]["dce"] for part in enough) / total
        self.near(mean, condition["dce"], 1e-9, 0)
        macro = result["slices"]["summary"][0]["macro"]["meta.kind"]
        self.near(macro["dce"], np.mean([part["conditions"][0]["dce"] for part in enough]), 1e-12,
                  0)
        # Benjamini and Hochberg.
        p = np.array([part["conditions"][0]["p"] for part in parts if part["enough"]])
        q = np.array([part["conditions"][0]["q"] for part in parts if part["enough"]])
        order = p.argsort()
        want = np.minimum.accumulate((p[order] * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
        self.near(q[order], want, 1e-12, 0)
        del result["slices"], plain["slices"], result["fingerprint"], plain["fingerprint"]
        self.assertEqual(without_timing(result), without_timing(plain))
        for bad in (["meta.nothing"], [""]):
            with self.assertRaises(qsae.Error):
                qsae.evaluate(MODEL, slices=bad, **settings)

    def test_exclude_tokens(self):
        plain = qsae.evaluate(MODEL, **SMALL)
        sae = plain["reference"]["saes"][0]
        ids = np.concatenate([chunk.ids for chunk in qsae.Corpus(
            self.ctx, qsae.Tokenizer(self.ctx, MODEL), SMALL["text"], context=64, max_tokens=2000,
            bos="chunk_start")])
        values, counts = np.unique(ids, return_counts=True)
        often = values[counts.argsort()[-3:-1]].tolist()
        without = qsae.evaluate(MODEL, exclude_tokens=often, splice=True, **SMALL)
        first = np.arange(len(ids)) % 64 == 0
        out = (np.isin(ids, often) | first).sum()
        got = without["reference"]["saes"][0]
        self.assertEqual(got["excluded_tokens"], out)
        self.assertEqual(got["tokens"], len(ids) - out)
        self.assertEqual(sae["tokens"], len(ids) - first.sum())
        self.assertNotEqual(got["fvu_dim"], sae["fvu_dim"])
        self.assertEqual(without["reference"]["ce"], plain["reference"]["ce"])
        self.assertNotEqual(without["fingerprint"], plain["fingerprint"])
        self.assertEqual(without["corpus"]["exclude_tokens"], ",".join(map(str, often)))
        with self.assertRaises(qsae.Error):
            qsae.evaluate(MODEL, exclude_tokens="2,x", **SMALL)

    def test_features(self):
        settings = {**SMALL, "tokens": 1500, "conditions": ["rtn:bits=3"]}
        del settings["threads"]
        with qsae.Audit(self.ctx, MODEL, top_contexts=4, **settings) as audit:
            audit.run()
            lines, result = audit.features(), audit.result()
        with open(os.path.join(ROOT, "doc", "result.md"), encoding="utf-8") as file:
            page = file.read()
        survival = result["conditions"][0]["saes"][0]["survival"]
        self.assertEqual([line["feature"] for line in lines], list(range(len(lines))))
        bands = [line["conditions"][0]["band"] for line in lines]
        for band in ("survived", "degraded", "damaged"):
            self.assertEqual(bands.count(band), survival[band])
        self.assertEqual(sum(line["fires"] for line in lines) / survival["tokens"],
                         survival["l0_r"])
        for line in lines:
            for entry in (line, line["conditions"][0]):
                self.assertEqual([k for k in sorted(entry) if f"`{k}`" not in page], [])
                values = [top["value"] for top in entry["top"]]
                self.assertEqual(values, sorted(values, reverse=True))
                self.assertEqual(len(values), min(4, entry["fires"]))
                self.assertEqual(values[0] if values else 0, entry["max"])
        for name in ("encoder_norm", "encoder_decoder_cosine"):
            self.near(np.array([line[name] for line in lines]),
                      qsae.SAE(self.ctx, SMALL["saes"][0]).geometry(name), 1e-8)
        # Each context is where its activation is, as another pass finds it.
        corpus = qsae.Corpus(self.ctx, qsae.Tokenizer(self.ctx, MODEL), SMALL["text"],
                             context=64, max_tokens=1500,
                             bos="chunk_start")
        model, sae = qsae.Model(self.ctx, MODEL), qsae.SAE(self.ctx, SMALL["saes"][0])
        line = max(lines, key=lambda line: line["fires"])
        chunks = [chunk.ids.copy() for chunk in corpus]
        for top in line["top"]:
            ids = chunks[top["chunk"]]
            acts = sae.encode(model.forward(ids, taps=[sae.hook], nll=False).taps[sae.hook][0])
            self.assertEqual(np.float32(top["value"]), acts[top["position"], line["feature"]])
            self.assertEqual(top["id"], ids[top["position"]])
        with qsae.Audit(self.ctx, MODEL, **settings) as audit, self.assertRaises(qsae.Error):
            audit.features()

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

    def test_process(self):
        settings = {**SMALL, "tokens": 500}
        plain = qsae.evaluate(MODEL, **settings)
        folded = qsae.evaluate(MODEL, process="fold_ln", **settings)
        self.assertEqual((plain["process"], folded["process"]), ("none", "fold_ln"))
        self.assertNotEqual(plain["fingerprint"], folded["fingerprint"])
        self.assertAlmostEqual(plain["reference"]["ce"], folded["reference"]["ce"], 5)

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

    def write_tensors(self, path, tensors):
        header, body = {}, b""
        for name, value in tensors.items():
            raw = np.asarray(value).astype("<f4").tobytes()
            header[name] = {"dtype": "F32", "shape": np.shape(value),
                            "data_offsets": [len(body), len(body) + len(raw)]}
            body += raw
        text = json.dumps(header).encode()
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + body)

    def write_sae(self, width, features, architecture="standard", hook=""):
        """A random SAE as SAELens saves one."""
        rng, folder = np.random.default_rng(width), self.folder()
        self.write_tensors(os.path.join(folder, "sae_weights.safetensors"), {
            "W_enc": rng.standard_normal((width, features)) / width ** 0.5,
            "W_dec": rng.standard_normal((features, width)) / features ** 0.5,
            "b_enc": 0.1 * rng.standard_normal(features),
            "b_dec": 0.1 * rng.standard_normal(width)})
        with open(os.path.join(folder, "cfg.json"), "w", encoding="utf-8") as file:
            json.dump({"architecture": architecture, "d_in": width, "d_sae": features,
                       "dtype": "float32", "normalize_activations": "none",
                       "apply_b_dec_to_input": architecture == "standard",
                       "metadata": {"hook_name": hook} if hook else {}}, file)
        return folder

    def test_saes_at_other_sites(self):
        """Every kind of place, several at once, against the parts."""
        inner = self.write_sae(384, 96, hook="blocks.2.mlp.hook_post")
        given = {inner: (2, "mlp_post"), SAE + "@1:z": (1, "z"), SAE + "@5:mlp_out": (5, "mlp_out"),
                 SAE + "@0:embed": (0, "embed"), SAE + "@5:final_norm": (5, "final_norm"),
                 SAE + "@3:resid_pre": (3, "resid_pre"), SAE + "@3": (3, "resid_post"),
                 self.write_sae(128, 64, hook="model.layers.4.self_attn.o_proj.input"): (4, "z")}
        spec = "rtn:bits=4@layers=3-5"
        result = qsae.evaluate(MODEL, saes=list(given), text=TEXT, conditions=[spec], context=32,
                               tokens=600, threads=2)
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)
        corpus = qsae.Corpus(self.ctx, tokenizer, TEXT, context=32, max_tokens=600)
        models = [qsae.Model(self.ctx, MODEL), qsae.Model(self.ctx, MODEL, quantizer=spec)]
        mask = np.zeros((4, 32), np.uint8)
        mask[:, 0] = qsae.metrics.EXCLUDED
        for i, (name, place) in enumerate(given.items()):
            sae = qsae.SAE(self.ctx, name.split("@")[0])
            for who, model in zip((result["reference"], result["conditions"][0]), models):
                fvu = qsae.metrics.Reconstruction(self.ctx, sae.width, sae.features)
                for start in range(0, len(corpus), 4):
                    ids = np.stack([c.ids for c in (corpus[k] for k in range(
                        start, min(start + 4, len(corpus))))])
                    x = model.forward(ids, taps=[place], nll=False).taps[place]
                    x = x.reshape(-1, sae.width)
                    fvu.update(x, sae.reconstruct(x), sae.encode_sparse(x), first=32 * start,
                               mask=mask[:len(ids)])
                part = who["saes"][i]
                self.assertEqual((part["layer"], part["site"]), place)
                for key in ("fvu_dim", "fvu_scalar", "mse", "l0"):
                    self.assertEqual(fvu[key], part[key], (place, key))

    def test_shards(self):
        """Parts measured apart and merged in any order, one of them one model at a time."""
        arguments = dict(text=TEXT, conditions=["nf4"], context=64, tokens=1500, ctx=self.ctx)
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, str(i)) for i in range(3)]
            for i, state in enumerate(files):
                part = qsae.evaluate(MODEL, state=state, shard=(i, 3),
                                     memory="in-turn" if i else None, cache=folder, **arguments)
                self.assertFalse(part["complete"])
            whole = os.path.join(folder, "whole")
            info = qsae.merge_states([files[2], files[0]], whole, ctx=self.ctx)
            self.assertEqual(info["gaps"], 1)
            info = qsae.merge_states([whole, files[1]], whole)
            self.assertEqual(info["measured_chunks"], info["chunks"])
            merged = qsae.evaluate(MODEL, state=whole, **arguments)
        once = qsae.evaluate(MODEL, **arguments)
        self.assertTrue(merged["complete"])
        self.assertEqual(merged["corpus"], once["corpus"])
        for key in ("dce", "kl_mean", "kl_q99", "intervals"):
            self.assertEqual(merged["conditions"][0][key], once["conditions"][0][key])
        with self.assertRaises(qsae.Error):
            qsae.evaluate(MODEL, shard=(3, 3), **arguments)

    def test_splices_at_other_sites(self):
        """Spliced and ablated models against edited passes, at every kind of place."""
        inner = self.write_sae(384, 96, hook="blocks.2.mlp.hook_post")
        given = {inner: (2, "mlp_post"), SAE + "@1:z": (1, "z"),
                 SAE + "@4:attn_out": (4, "attn_out"), SAE + "@0:embed": (0, "embed"),
                 SAE + "@5:final_norm": (5, "final_norm"), SAE + "@3:resid_pre": (3, "resid_pre"),
                 SAE + "@3:resid_mid": (3, "resid_mid"),
                 SAE + "@2:ln2_normalized": (2, "ln2_normalized"), SAE + "@5": (5, "resid_post")}
        spec = "rtn:bits=4@layers=2-5"
        for compute in ("f32", "bf16"):
            result = qsae.evaluate(MODEL, saes=list(given), text=TEXT, conditions=[spec],
                                   context=32, batch=4, tokens=128, threads=2, splice=True,
                                   compute=compute)
            corpus = qsae.Corpus(self.ctx, qsae.Tokenizer(self.ctx, MODEL), TEXT, context=32,
                                 max_tokens=128)
            self.assertEqual(len(corpus), 4)
            ids = np.stack([corpus[k].ids for k in range(4)])
            where = np.ones((4, 32), bool)
            where[:, 0] = False  # the profile does not count first positions
            models = [qsae.Model(self.ctx, MODEL, compute=compute),
                      qsae.Model(self.ctx, MODEL, compute=compute, quantizer=spec)]
            for i, (name, place) in enumerate(given.items()):
                sae = qsae.SAE(self.ctx, name.split("@")[0])
                for who, model in zip((result["reference"], result["conditions"][0]), models):
                    x = model.forward(ids, taps=[place]).taps[place]
                    mean = x[where].astype(np.float64).mean(0)
                    part = who["saes"][i]["splice"]
                    for key, edit in (("ce_sae", qsae.edits.splice(sae, where=where)),
                                      ("ce_zero", qsae.edits.zero()),
                                      ("ce_mean", qsae.edits.mean(mean, where=where))):
                        nll = model.forward(ids, edits={place: edit}).nll[:, 1:]
                        self.near(part[key], nll.astype(np.float64).mean(), 1e-6)

    def test_checkpoint_of_another_inner_width(self):
        """Equal residual streams: figures of an SAE on them, none of one on the inner rows."""
        folder = self.folder()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(MODEL, name), folder)
        tensors = read_safetensors(os.path.join(MODEL, "model.safetensors"))
        for name, value in tensors.items():
            if ".mlp.down_proj" in name:
                tensors[name] = value[:, :320]
            elif ".mlp." in name:
                tensors[name] = value[:320]
        self.write_tensors(os.path.join(folder, "model.safetensors"), tensors)
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump({**config, "intermediate_size": 320}, file)
        inner = self.write_sae(384, 16, hook="blocks.2.mlp.hook_post")
        for sae, part in ((inner, "320 columns at mlp_post"), (SAE + "@2:mlp_out", None)):
            result = qsae.evaluate(MODEL, saes=[sae], text=TEXT, conditions=[folder], context=32,
                                   tokens=200)
            reason = result["conditions"][0]["checkpoint"]["sae_reason"]
            if part:
                self.assertIn(part, reason)
            else:
                self.assertIsNone(reason)
                self.assertGreater(result["conditions"][0]["saes"][0]["fvu_dim"], 0)

    def test_places_that_an_sae_has_not(self):
        def refused(status, part, sae, model=MODEL):
            self.fails(status, part, qsae.evaluate, model, saes=[sae], text=TEXT, tokens=64,
                       context=32)
        refused("QSAE_EMISMATCH", "384 at mlp_post", SAE + "@2:mlp_post")
        refused("QSAE_EMISMATCH", "embed is at layer 0", SAE + "@2:embed")
        refused("QSAE_EMISMATCH", "final_norm is at layer 5", SAE + "@0:final_norm")
        refused("QSAE_EUNSUPPORTED", "no pos_embed", SAE + "@0:pos_embed")
        refused("QSAE_EUNSUPPORTED", "site nothing", SAE + "@2:nothing")
        refused("QSAE_EUNSUPPORTED", "mlp.output", self.write_sae(
            128, 8, hook="model.layers.2.mlp.output"))
        refused("QSAE_EINVAL", "where its output belongs", self.write_sae(
            128, 8, "transcoder", "model.layers.2.pre_feedforward_layernorm.output"))
        refused("QSAE_EMISMATCH", "layer 6", self.write_sae(128, 8, hook="blocks.6.attn.hook_z"))
        refused("QSAE_EINVAL", "no hook", self.write_sae(128, 8))

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
