# SPDX-License-Identifier: BSD-2-Clause
"""Parts of the tokens, tails, worst tokens and documents: an audit's against NumPy in f64, from the
logits and rows of the models."""

import json
import os
import unicodedata

import numpy as np

from support import MODEL, ROOT, SAE, TEXT, Case

import qsae

CONTEXT, BATCH, SPEC = 64, 4, "rtn:bits=3"
SLICES = ["entropy", "kind", "script", "frequency", "class*entropy", "position*kind"]
SETTINGS = {"text": TEXT, "conditions": [SPEC], "context": CONTEXT, "batch": BATCH,
            "tokens": 20000, "threads": 2}


def log_softmax(logits):
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def tail_mean(values, share):
    k = -(-len(values) * share // 1000)
    return np.sort(values)[len(values) - int(k):].mean()


class Slices(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.document_ = None

    @staticmethod
    def padded(nll):
        """The last row of a chunk predicts nothing."""
        return np.pad(nll, ((0, 0), (0, 1)), constant_values=np.nan).ravel()

    def measure(self):
        """The document, and what every row gave, in NumPy."""
        if self.document_ is not None:
            return self.document_, self.rows
        type(self).document_ = qsae.evaluate(MODEL, saes=[SAE], slices=SLICES, **SETTINGS)
        tokenizer, sae = qsae.Tokenizer(self.ctx, MODEL), qsae.SAE(self.ctx, SAE)
        corpus = qsae.Corpus(self.ctx, tokenizer, TEXT, context=CONTEXT, max_tokens=20000)
        models = [qsae.Model(self.ctx, MODEL), qsae.Model(self.ctx, MODEL, quantizer=SPEC)]
        parts = {}
        for start in range(0, len(corpus), BATCH):
            chunks = [corpus[i] for i in range(start, min(start + BATCH, len(corpus)))]
            ids = np.stack([chunk.ids for chunk in chunks])
            labels = np.stack([chunk.labels for chunk in chunks]).ravel()
            outs = [model.forward(ids, taps=[sae.hook], logits=True) for model in models]
            logp = [log_softmax(out.logits.reshape(labels.size, -1)) for out in outs]
            x = [out.taps[sae.hook].reshape(labels.size, -1) for out in outs]
            one = {"id": ids.ravel(), "label": labels,
                   "document": np.stack([chunk.document for chunk in chunks]).ravel(),
                   "position": np.tile(np.arange(CONTEXT), len(chunks)),
                   "nll_r": self.padded(outs[0].nll), "nll_q": self.padded(outs[1].nll),
                   "kl": (np.exp(logp[0]) * (logp[0] - logp[1])).sum(-1),
                   "entropy": -(np.exp(logp[0]) * logp[0]).sum(-1),
                   "top_r": logp[0].argmax(-1), "top_q": logp[1].argmax(-1),
                   "x_r": x[0], "x_q": x[1], "y_r": sae.reconstruct(x[0]),
                   "y_q": sae.reconstruct(x[1]), "f_r": sae.encode(x[0]), "f_q": sae.encode(x[1])}
            for name, value in one.items():
                parts.setdefault(name, []).append(value)
        type(self).rows = {name: np.concatenate(list_) for name, list_ in parts.items()}
        type(self).corpus, type(self).tokenizer = corpus, tokenizer
        self.rows["scored"] = self.rows["label"] >= 0
        return self.document_, self.rows

    def parts(self, dimension):
        return {part["value"]: part for part in self.document_["slices"]["list"]
                if part["dimension"] == dimension}

    def check(self, part, rows, where, slack=0):
        """Predictions of a part: the scored rows `where`; slack: rows at a border."""
        self.assertLessEqual(abs(part["tokens"] - where.sum()), slack)
        if part["tokens"] < 2000 or part["documents"] < 20:
            self.assertFalse(part["enough"])
            self.assertIsNone(part["conditions"][0]["dce"])
            return 0
        self.assertTrue(part["enough"])
        got, tolerance = part["conditions"][0], 1e-6 if slack == 0 else 2e-3
        r, q, kl = (rows[key][where].astype(np.float64) for key in ("nll_r", "nll_q", "kl"))
        label, top_r, top_q = (rows[key][where] for key in ("label", "top_r", "top_q"))
        self.near(part["reference"]["ce"], r.mean(), tolerance)
        self.near(got["dce"], (q - r).mean(), tolerance, 1e-9)
        self.near(got["dce_percent"], 100 * (q - r).mean() / r.mean(), tolerance, 1e-6)
        self.near(got["kl_mean"], kl.mean(), tolerance, 1e-7)
        self.near(got["top1_disagreement"], (top_r != top_q).mean(), tolerance, 1e-3)
        self.assertEqual(got["top1_disagreement"], 1 - got["top1_agreement"])
        if slack == 0:
            self.assertEqual(got["right_to_wrong"], ((top_r == label) & (top_q != label)).sum())
            self.assertEqual(got["wrong_to_right"], ((top_r != label) & (top_q == label)).sum())
            self.near(got["kl_median"], np.quantile(kl, 0.5), 1e-4, 1e-7)
            self.near(got["kl_q99"], np.quantile(kl, 0.99), 1e-4, 1e-7)
            self.near(got["dnll_q99"], np.quantile(q - r, 0.99), 1e-9)
        return 1

    def test_entropy(self):
        document, rows = self.measure()
        scored = rows["scored"]
        edges = document["slices"]["dimensions"][0]["entropy_edges"]
        self.near(edges, np.quantile(rows["entropy"][scored], [0.2, 0.4, 0.6, 0.8]), 1e-5)
        quintile = np.searchsorted(edges, rows["entropy"], side="right")
        shown = 0
        for i, part in enumerate(self.parts("entropy").values()):
            self.assertEqual(part["value"], f"q{i + 1}")
            self.assertLessEqual(abs(part["tokens"] - scored.sum() / 5), 2)
            shown += self.check(part, rows, scored & (quintile == i), 2)
            sae = part["conditions"][0]["saes"][0]
            where = scored & (rows["position"] > 0) & (quintile == i)
            x = rows["x_q"][where].astype(np.float64)
            error = ((x - rows["y_q"][where]) ** 2).sum()
            self.assertLessEqual(abs(sae["rows"] - where.sum()), 2)
            self.near(sae["fvu_dim"], error / ((x - x.mean(0)) ** 2).sum(), 2e-3)
        self.assertEqual(shown, 5)
        # Margins of a product are its factors.
        both = self.parts("class*entropy")
        for i in range(5):
            self.assertEqual(sum(part["tokens"] for value, part in both.items()
                                 if value.endswith(f"*q{i + 1}")),
                             self.parts("entropy")[f"q{i + 1}"]["tokens"])
        self.assertFalse(document["slices"]["dimensions"][0]["sampled"])

    def test_given_borders(self):
        """Borders that were found, given: the same figures to the last bit, now from the pass, and
        those of SAEs."""
        document, rows = self.measure()
        edges = document["slices"]["dimensions"][0]["entropy_edges"]
        name = "entropy=" + ",".join(map(repr, edges))
        result = qsae.evaluate(MODEL, saes=[SAE], slices=[name, "class*" + name], **SETTINGS)
        same = [part for part in result["slices"]["list"] if part["dimension"] == name]
        both = [part for part in result["slices"]["list"] if part["dimension"] != name]
        quintile = np.searchsorted(edges, rows["entropy"], side="right")
        counted = rows["scored"] & (rows["position"] > 0)
        for i, (late, part) in enumerate(zip(self.parts("entropy").values(), same)):
            noise = part["conditions"][0]["saes"][0]["noise"]
            where = counted & (quintile == i)
            x_r, x_q, y_q = (rows[key][where].astype(np.float64) for key in ("x_r", "x_q", "y_q"))
            self.near(noise["p"], np.sqrt(((x_q - x_r) ** 2).sum() / (x_r ** 2).sum()), 2e-3)
            self.near(noise["r"], np.sqrt(((x_q - y_q) ** 2).sum() / (x_q ** 2).sum()), 2e-3)
        for late, part in zip([*self.parts("entropy").values(),
                               *self.parts("class*entropy").values()], same + both):
            self.assertEqual([late["tokens"], late["documents"], late["reference"]["ce"]],
                             [part["tokens"], part["documents"], part["reference"]["ce"]])
            a, b = late["conditions"][0], part["conditions"][0]
            for key in a:
                if key not in ("saes", "q"): # q depends on what else is tested
                    self.assertEqual(a[key], b[key], key)
            self.same_saes(late, part)
        self.assertEqual(result["slices"]["dimensions"][0]["entropy_edges"], edges)

    def same_saes(self, late, part):
        """From the rows that are kept, here all of them, as from sums over the part."""
        a, b = late["conditions"][0]["saes"][0], part["conditions"][0]["saes"][0]
        self.assertIsNone(b["rows"])
        if a["rows"] is None: # too few
            self.assertEqual([a["fvu_dim"], a["dfvu_dim"], *a["noise"].values(),
                              *a["survival"].values()], [None] * 8)
            return
        self.assertGreaterEqual(a["rows"], 500)
        self.assertEqual(late["reference"]["saes"][0]["rows"], a["rows"])
        self.near(late["reference"]["saes"][0]["fvu_dim"],
                  part["reference"]["saes"][0]["fvu_dim"], 1e-9)
        self.near(a["fvu_dim"], b["fvu_dim"], 1e-9)
        self.near(a["dfvu_dim"], b["dfvu_dim"], 1e-7)
        for key, value in b["noise"].items():
            self.near(a["noise"][key], value, 1e-9)
        self.assertEqual(a["survival"], b["survival"])

    def script(self, text):
        """Of the bundled vocabulary: Latin, or nothing with a script."""
        try:
            characters = text.decode()
        except UnicodeDecodeError:
            return "bytes"
        letters = [c for c in characters if unicodedata.category(c)[0] == "L"]
        return "latin" if letters and "LATIN" in unicodedata.name(letters[0]) else "common"

    def test_tables(self):
        _, rows = self.measure()
        scored, label = rows["scored"], rows["label"]
        kinds = [json.loads(self.corpus.document(i)["metadata"])["kind"]
                 if isinstance(self.corpus.document(i)["metadata"], str)
                 else self.corpus.document(i)["metadata"]["kind"]
                 for i in range(rows["document"].max() + 1)]
        kind = np.array(kinds)[rows["document"]]
        shown = sum(self.check(part, rows, scored & (kind == value))
                    for value, part in self.parts("kind").items())
        self.assertGreaterEqual(shown, 1)
        for value, part in self.parts("position*kind").items():
            self.check(part, rows, scored & (kind == value[6:]) & (value[:6] == "0-255*"))
        scripts = np.array([self.script(self.tokenizer.token(i)) if not
                            self.tokenizer.is_special(i) else "common"
                            for i in range(self.tokenizer.info["vocab"])])
        for value, part in self.parts("script").items():
            self.check(part, rows, scored & (scripts[label] == value))
        counts = np.bincount(rows["id"], minlength=len(scripts))
        bucket = np.searchsorted([10, 100, 1000, 10000], counts, side="right")
        for i, part in enumerate(self.parts("frequency").values()):
            self.check(part, rows, scored & (bucket[label] == i))

    def test_features(self):
        """Noise and survival of parts: rows by the token they belong to, without first ones."""
        document, rows = self.measure()
        counts = np.bincount(rows["id"])
        bucket = np.searchsorted([10, 100, 1000, 10000], counts, side="right")[rows["id"]]
        counted = rows["position"] > 0
        f_r, f_q = rows["f_r"][counted].astype(np.float64), rows["f_q"][counted].astype(np.float64)
        a, b = f_r - f_r.mean(0), f_q - f_q.mean(0)
        r = (a * b).sum(0) / np.sqrt(np.maximum((a * a).sum(0) * (b * b).sum(0), 1e-12))
        active = (f_r > 0).mean(0) > 0.001
        self.assertEqual(active.sum(), document["conditions"][0]["saes"][0]["survival"]["active"])
        total = np.abs(f_r).sum(0)
        for i, part in enumerate(self.parts("frequency").values()):
            got = part["conditions"][0]["saes"][0]
            if not part["enough"]:
                self.assertIsNone(got["noise"]["ratio"])
                continue
            where = counted & (bucket == i)
            x_r, x_q, y_q = (rows[key][where].astype(np.float64) for key in ("x_r", "x_q", "y_q"))
            p = np.sqrt(((x_q - x_r) ** 2).sum() / (x_r ** 2).sum())
            residual = np.sqrt(((x_q - y_q) ** 2).sum() / (x_q ** 2).sum())
            self.near(got["noise"]["p"], p, 1e-9)
            self.near(got["noise"]["r"], residual, 1e-9)
            self.near(got["noise"]["ratio"], p / residual, 1e-9)
            fvu = ((x_q - y_q) ** 2).sum() / ((x_q - x_q.mean(0)) ** 2).sum()
            self.near(got["fvu_dim"], fvu, 1e-9)
            here = active & (2 * np.abs(rows["f_r"][where].astype(np.float64)).sum(0) >= total)
            self.assertEqual(got["survival"]["features"], here.sum())
            self.assertEqual(got["survival"]["survived"], (r[here] > 0.9).sum())
            if here.any():
                self.near(got["survival"]["survived_percent"], 100 * (r[here] > 0.9).mean(), 1e-12)

    def test_tails_and_worst(self):
        document, rows = self.measure()
        got, scored = document["conditions"][0], rows["scored"]
        dnll = (rows["nll_q"].astype(np.float64) - rows["nll_r"].astype(np.float64))[scored]
        kl = rows["kl"][scored]
        for name, f in (("median", 0.5), ("q90", 0.9), ("q95", 0.95), ("q99", 0.99),
                        ("q999", 0.999)):
            self.near(got[f"dnll_{name}"], np.quantile(dnll, f), 1e-9, 1e-12)
            self.near(got[f"kl_{name}"], np.quantile(kl, f), 1e-4, 1e-7)
        self.near(got["dnll_max"], dnll.max(), 1e-12)
        self.near(got["dnll_cvar_1pct"], tail_mean(dnll, 10), 1e-9)
        self.near(got["dnll_cvar_0p1pct"], tail_mean(dnll, 1), 1e-9)
        self.near(got["kl_cvar_1pct"], tail_mean(kl, 10), 1e-5)
        self.near(got["kl_cvar_0p1pct"], tail_mean(kl, 1), 1e-5)
        self.near(got["kl_share_worst_1pct"],
                  tail_mean(kl, 10) * -(-len(kl) // 100) / kl.sum(), 1e-5)
        self.assertEqual(got["quantile_error"], 0)
        at = np.flatnonzero(scored)
        order = at[np.argsort(-dnll, kind="stable")[:50]]
        self.assertEqual(len(got["worst_tokens"]), 50)
        for row, token in zip(order, got["worst_tokens"]):
            self.assertEqual((token["chunk"], token["position"]), divmod(row, CONTEXT))
            self.assertEqual(token["id"], rows["label"][row])
            self.assertEqual(token["document"], rows["document"][row])
            self.near(token["p_r"], np.exp(-np.float64(rows["nll_r"][row])), 1e-9)
            self.near(token["p_q"], np.exp(-np.float64(rows["nll_q"][row])), 1e-9)
            self.near(token["kl"], rows["kl"][row], 1e-4)
            self.near(token["entropy_r"], rows["entropy"][row], 1e-4)
            self.assertEqual((token["top_r"], token["top_q"]),
                             (rows["top_r"][row], rows["top_q"][row]))
            text = token["before"] + token["token"] + token["after"]
            want = b"".join(self.tokenizer.token(i) for i in
                            rows["id"][row // CONTEXT * CONTEXT:][:CONTEXT].tolist())
            self.assertIn(text, want.decode(errors="replace") + token["token"])
        owner = rows["document"][scored]
        tokens, total = np.bincount(owner), np.bincount(owner, dnll)
        by_total = np.argsort(-total, kind="stable")[:20]
        listed = got["worst_documents"]["by_total"]
        self.assertEqual([one["document"] for one in listed], by_total.tolist())
        self.near([one["dnll_total"] for one in listed], total[by_total], 1e-9)
        large = np.flatnonzero(tokens >= 50)
        by_mean = large[np.argsort(-(total / np.maximum(tokens, 1))[large], kind="stable")[:20]]
        listed = got["worst_documents"]["by_mean"]
        self.assertEqual([one["document"] for one in listed], by_mean.tolist())
        self.near([one["dce"] for one in listed], (total / np.maximum(tokens, 1))[by_mean], 1e-9)
        self.assertTrue(all(one["metadata"]["kind"] and one["line"] == one["document"] + 1
                            for one in listed))

    def test_ranking(self):
        """q of every part with figures: Benjamini and Hochberg; the worst beside the average."""
        try:
            from scipy.stats import false_discovery_control
        except ImportError:
            self.skipTest("no SciPy")
        document, _ = self.measure()
        parts = [part for part in document["slices"]["list"]
                 if part["enough"] and part["conditions"][0]["p"] is not None]
        p = [part["conditions"][0]["p"] for part in parts]
        self.near([part["conditions"][0]["q"] for part in parts], false_discovery_control(p), 1e-12,
                  1e-300)
        worst = max(parts, key=lambda part: part["conditions"][0]["dce"])
        summary = document["slices"]["summary"][0]
        self.assertEqual(summary["worst"]["value"], worst["value"])
        for key in ("dce", "kl_mean", "top1_agreement"):
            self.assertEqual(summary["micro"][key], document["conditions"][0][key])
            self.near(summary["macro"]["entropy"][key],
                      np.mean([part["conditions"][0][key] for part in self.parts("entropy").values()
                               if part["enough"]]), 1e-12)

    def test_supplied_frequencies(self):
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)
        folder, vocab = self.folder(), tokenizer.info["vocab"]
        corpus = qsae.Corpus(self.ctx, tokenizer, TEXT, context=CONTEXT, max_tokens=8000)
        counts = np.bincount(np.concatenate([chunk.ids for chunk in corpus]), minlength=vocab)
        npy, text = os.path.join(folder, "counts.npy"), os.path.join(folder, "counts.txt")
        np.save(npy, counts.astype(np.int64))
        with open(text, "w", encoding="utf-8") as file:
            file.write("# token count\n\n")
            file.writelines(f"{i}\t{n}  # a remark\n" for i, n in enumerate(counts) if n)
        names = ["frequency", f"frequency={npy}", f"frequency={text}"]
        document = qsae.evaluate(MODEL, slices=names, **{**SETTINGS, "tokens": 8000})
        parts = [[part for part in document["slices"]["list"] if part["dimension"] == name]
                 for name in names]
        self.assertGreaterEqual(sum(part["enough"] for part in parts[0]), 1)
        for part in parts[0] + parts[1] + parts[2]:
            del part["dimension"]
        self.assertEqual(parts[0], parts[1])
        self.assertEqual(parts[0], parts[2])
        small = {**SETTINGS, "tokens": 500}
        prints = []
        for n in (3, 4):
            with open(text, "w", encoding="utf-8") as file:
                file.write(f"5 {n}\n")
            prints.append(qsae.evaluate(MODEL, slices=[names[2]], **small)["fingerprint"])
        self.assertNotEqual(*prints)
        for bad in ("5\n", "5 x\n", "-1 3\n", f"{vocab} 1\n", "1 2 3\n", "1 -2\n", "a 1\n",
                    "1 1234567890123456789\n"):
            with open(text, "w", encoding="utf-8") as file:
                file.write("0 1\n" + bad)
            with self.assertRaisesRegex(qsae.Error, r"counts.txt:2: expected a token below"):
                qsae.evaluate(MODEL, slices=[names[2]], **small)
        np.save(npy, np.full(vocab, -1))
        with self.assertRaisesRegex(qsae.Error, "counts.npy: count of token 0"):
            qsae.evaluate(MODEL, slices=[names[1]], **small)
        np.save(npy, np.zeros(vocab + 1, np.int64))
        with self.assertRaisesRegex(qsae.Error, "counts.npy: expected at most"):
            qsae.evaluate(MODEL, slices=[names[1]], **small)

    def test_refused(self):
        small = {**SETTINGS, "tokens": 500}
        for name, message in (("class*", "expected a name"), ("*", "expected a name"),
                              ("class*nothing", "no document has it"),
                              ("class*kind*position*script", "more than 3 factors"),
                              ("script*frequency*class", "more than 512 combinations"),
                              ("frequency=/no/such/file", "no/such/file"),
                              ("frequency=", "."), ("entropy=", "expected up to 15"),
                              ("entropy=1,1", "ascending"), ("entropy=2,1", "ascending"),
                              ("entropy=1,", "ascending"), ("entropy=-1", "ascending"),
                              ("entropy=nan", "ascending"), ("entropy=1e999", "ascending"),
                              ("entropy=1.00000001,1.00000002", "six digits"),
                              ("entropy=" + ",".join(map(str, range(1, 17))), "up to 15")):
            with self.assertRaisesRegex(qsae.Error, message):
                qsae.evaluate(MODEL, slices=[name], **small)

    def test_every_key_is_described(self):
        def keys(value):
            if isinstance(value, list):
                return set().union(*map(keys, value))
            if not isinstance(value, dict):
                return set()
            inner = [v for key, v in value.items() if key != "metadata"] # the text's own keys
            return set(value).union(*map(keys, inner))

        document, _ = self.measure()
        with open(os.path.join(ROOT, "doc", "result.md"), encoding="utf-8") as file:
            page = file.read()
        own = {name for part in document["slices"]["summary"] for name in part["macro"]} | {
            "kind", "id"}
        found = keys(document["slices"]) | keys(document["conditions"][0])
        self.assertEqual([key for key in sorted(found - own) if f"`{key}`" not in page], [])
