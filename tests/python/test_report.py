# SPDX-License-Identifier: BSD-2-Clause
"""qsae report: the page and its figures, from results made here and from one that was measured."""

import contextlib
import copy
import csv
import html.parser
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import unittest
import xml.etree.ElementTree as ET

from support import MODEL, SAE, TEXT, Case, read_json

import qsae
from qsae import __main__ as command
from qsae import report
from qsae.report import _draw, _plot, _words

HOSTILE = "</td><script>alert(1)</script>\" onload='x'&amp;\u202e\x00\ud800\u2028]]>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def sae(i, **more):
    return {"name": f"sae{i}", "layer": 3, "site": "resid_post", "architecture": "jumprelu",
            "features": 1024, "hash": "ab" * 16, "fvu_dim": 0.05, "fvu_scalar": 0.04, "l0": 20.5,
            "intervals": {"fvu_dim": [0.04, 0.06]}, "intervals_reason": None, **more}


def condition(label, bits, dce, verdict="damage", lost=5.0):
    """An entry with everything the page shows."""
    survived = 100 - lost
    inner = sae(
        0, dfvu_dim=dce, noise={"p": 0.1, "r": 0.2, "ratio": 0.5, "verdict": "interpret with care",
                                "intervals": {"ratio": [0.45, 0.55]}},
        survival={"active": 1000, "survived": 10 * survived, "degraded": 30, "damaged": 20,
                  "survived_percent": survived, "degraded_percent": 3.0, "damaged_percent": 2.0,
                  "above_0p95": 8 * survived, "above_0p8": 970, "mean_r": 0.95, "median_r": 0.97,
                  "intervals": {"survived_percent": [survived - 1, survived + 1]},
                  "intervals_reason": None, "survived_percent_by_decile": [90.0] * 9 + [None]},
        verdict={"verdict": verdict, "hidden_damage": verdict == "hidden_damage", "reason": None,
                 "non_survivors_percent": lost, "non_survivors_interval": [lost - 1, lost + 1],
                 "null_percent": 0, "null_interval": [0, 0], "flat_fvu": "interpret with care"},
        splice={"tokens": 10, "ce": 1.0, "ce_sae": 1.1, "ce_zero": 5.0, "ce_recovered": 0.97,
                "kl_sae": 0.1, "intervals": {"ce_recovered": None},
                "intervals_reason": "too few documents"})
    return {"label": label, "weight_bytes": 1e6, "bits_per_weight": bits, "ce": 1 + dce,
            "ppl": 2.7, "dce": dce, "dce_percent": 100 * dce, "kl_mean": abs(dce),
            "top1_agreement": 0.95, "intervals": {"dce": [dce - 0.01, dce + 0.01], "ce": None},
            "intervals_reason": None, "verdict": verdict, "verdict_reason": None,
            "batch_dependent": False, "ce_mean_of_batch_means": 1 + dce, "saes": [inner],
            "worst_tokens": [{"dnll": 3.5, "p_r": 0.9, "p_q": 0.01, "kl": 2.0, "document": 4,
                              "before": "before " + HOSTILE, "token": HOSTILE, "after": "\n\tx",
                              "top_r_text": HOSTILE, "top_q_text": " "}],
            "worst_documents": {"by_total": [{"document": 4, "source": "/a/" + HOSTILE, "line": 3,
                                              "tokens": 90, "dce": 0.1, "dnll_total": 9.0,
                                              "kl_mean": 0.2}], "by_mean": []}}


def document(**more):
    """A result with two conditions; sections are added by name."""
    out = {"format": "qsae-result", "version": 1, "library": "0.1.0-test", "profile": "default",
           "compute": "f32", "attention": "sdpa", "process": "none", "fingerprint": "f" * 32,
           "complete": True, "gaps": [],
           "corpus": {"tokens": 40000, "documents": 100, "chunks": 80, "predicted_tokens": 39900,
                      "context": 512, "batch": 4, "bos_policy": "doc_start", "pack": "stream",
                      "token_hash": "cd" * 16},
           "reference": {"label": "none", "ce": 1.0, "ppl": 2.7, "weight_bytes": 2e6,
                         "bits_per_weight": 16, "intervals": {"ce": [0.9, 1.1]},
                         "intervals_reason": None, "saes": [sae(0)]},
           "conditions": [condition("rtn:bits=4,axis=row,group=0,sym=1,arith=f32", 4.2, 0.05),
                          condition("nf4:block=64,double=1,compute=model,rules=cuda", 4.1, -0.002,
                                    "hidden_damage", 12.0)],
           "verdicts": [], "overlaps": None, "slices": None, "contexts": None, "probes": None,
           "sweep": None, "plan": None, "snapshots": [], "stabilization": {},
           "numerics": {"cpu": "avx2", "gemm": "blis", "blis": "haswell", "measured_with": "x"},
           "timing": {"seconds": 1.5, "tokens_per_second": 1000, "threads": 2}}
    out.update(more)
    return out


LABELS = [c["label"] for c in document()["conditions"]]


def sections():
    """What each section needs: name, keys of the result, words that are then on the page."""
    step = {"budget": 5000, "tokens": 5120,
            "reference": {"label": "none", "ce": 1.2, "saes": [{"fvu_dim": 0.06}]},
            "conditions": [{"label": x, "ce": 1.3, "dce": 0.1, "saes": [{"fvu_dim": 0.07}]}
                           for x in LABELS]}
    part = {"dimension": HOSTILE, "value": "numeral", "tokens": 3000, "documents": 30,
            "enough": True, "conditions": [{"label": x, "dce": 0.2, "kl_mean": 0.1, "q": 0.01,
                                            "intervals": {"dce": [0.1, 0.3]}} for x in LABELS]}
    length = {"context": 128, "within_document": 0.5, "reference": {"ce": 1.1},
              "conditions": [{"label": x, "dce": 0.1, "intervals": {"dce": [0.0, 0.2]},
                              "change": None} for x in LABELS]}
    probed = {"label": "none", "items": 30, "accuracy": 0.8, "margin": 1.0, "daccuracy": -0.1,
              "right_to_wrong": 4, "wrong_to_right": 1, "mcnemar_p": 0.4, "intervals": {},
              "tags": [{"tag": HOSTILE, "items": 30, "accuracy": 0.8}]}
    sets = {"a": 10, "b": 20, "both": 8, "union": 22, "jaccard": 0.36, "ceiling": 0.5,
            "chance": 0.1}
    controlled = [dict(c, controls={"null": None, "gauss": {"label": "g", "dce": 0.1, "saes": []},
                                    "beyond_floor": {"dce": True}})
                  for c in document()["conditions"]]
    swept = {"by": "layers", "parts": [{"condition": i, "of": "rtn:bits=4", "layer": i,
                                        "module": None} for i in range(2)]}
    planned = {"budget_bits": 4.5, "figure": "kl_mean", "predicted": 0.1, "uniform": [],
               "measured": None, "parts": [{"layer": 1, "module": None, "weights": 100,
                                            "chosen": None, "bits": 16}]}
    return {
        "by-tokens": ({"snapshots": [step]}, "Do the figures settle?"),
        "by-slice": ({"slices": {"list": [part], "summary": []}}, "Worst: "),
        "by-context": ({"contexts": [length, dict(length, context=256)]}, "What context is worth"),
        "probes": ({"probes": {"items": 30, "reference": probed,
                               "conditions": [probed, probed]}}, "McNemar"),
        "overlaps": ({"overlaps": [{"name": "sae0", "layer": 3, "site": "resid_post",
                                    "label_a": LABELS[0], "label_b": LABELS[1], "active": 1000,
                                    "non_survivors": sets, "damaged": sets,
                                    "damage_spearman": 0.9}]}, "rank correlation"),
        "controls": ({"conditions": controlled}, "beyond the numeric floor"),
        "layers": ({"sweep": swept}, "Sensitivity of the layers"),
        "plan": ({"plan": planned}, "kept as stored"),
        "article": ({"profile": "article"}, "drift P"),
        "paper": ({"profile": "paper"}, "degraded, %"),
    }


class Checker(html.parser.HTMLParser):
    """Balanced tags, unique ids, links to ids that are there, nothing that is fetched or run."""
    VOID = {"meta", "link", "wbr", "br"}
    CLOSED = {"rect", "circle", "path"}  # <x/> in SVG

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.tags, self.text = [], set(), set(), {}, []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, name, attributes):
        self.tags[name] = self.tags.get(name, 0) + 1
        for key, value in attributes:
            assert not key.startswith("on") and key not in ("src", "srcset", "action"), key
            if key == "id":
                assert value not in self.ids, value
                self.ids.add(value)
            if key in ("href", "xlink:href"):
                assert value[:1] == "#" or value == "data:,", value
                self.links.add(value[1:])
            if key == "aria-labelledby":
                self.links.update(value.split())
        if name not in self.VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        assert name in self.CLOSED, name
        self.handle_starttag(name, attributes)
        self.open.pop()

    def handle_endtag(self, name):
        assert self.open and self.open[-1] == name, (name, self.open)
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


class Pages(Case):
    def write(self, value, name="result.json"):
        if not hasattr(self, "here"):
            self.here = self.folder()
        path = os.path.join(self.here, name)
        with open(path, "wb") as file:
            file.write(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    def page(self, value, **more):
        return self.checked(report.build([self.write(value)], **more))

    def checked(self, text):
        """The page, after checks that hold for every page."""
        parsed = Checker(text)
        self.assertLessEqual(parsed.links - {"ata:,"}, parsed.ids)
        for name in ("script", "img", "iframe", "object", "embed", "form"):
            self.assertNotIn(name, parsed.tags)
        self.assertNotRegex(text, r"(?i)https?:|//[a-z]|@import|url\(")
        self.assertNotRegex(text, "[\x00-\x08\x0b-\x1f\x7f\u2028\u202e\ud800-\udfff]")
        self.assertEqual(len(re.findall(r"<figure\b", text)), len(re.findall("<figcaption>", text)))
        self.assertNotIn(" nan", "".join(parsed.text).lower())
        for found in re.findall(r"<svg .*?</svg>", text, re.S):
            root = ET.fromstring(found)  # well-formed as XML, too
            if root.get("aria-hidden") != "true":
                self.assertEqual([c.tag for c in root[:2]], ["title", "desc"])
        return text

    def features(self, n, labels=LABELS):
        """Lines as --features writes them."""
        lines = []
        for i in range(n):
            r = 1 - (i % 97) / 60
            band = "survived" if r > 0.9 else "damaged" if r < 0.5 else "degraded"
            lines.append(json.dumps({
                "feature": i, "name": "sae0", "layer": 3, "site": "resid_post",
                "density": 0.001 + (i % 500) / 1000,
                "conditions": [{"label": x, "band": band, "r": r, "gain": 1.5 - (i % 61) / 30}
                               for x in labels]}))
        return "\n".join(lines).encode() + b"\n"

    def test_measured(self):
        """A result of the library has what the page reads, in the types it expects."""
        result = qsae.evaluate(MODEL, saes=[SAE], text=TEXT, conditions=["nf4", "rtn:bits=3"],
                               context=128, tokens=3000, contexts=(64, 128), controls=False)
        text = self.page(result)
        for words in ("NF4", "RTN 3-bit", "tiny-gemma3-sae @3", result["fingerprint"],
                      result["corpus"]["token_hash"], "What context is worth",
                      _words.fixed(result["conditions"][0]["ce"], 5)):
            self.assertIn(words, text)

    def test_figures_and_words(self):
        text = self.page(document())
        for words in ("Hidden damage", "+0.05000", "+0.04000 to +0.06000", "RTN 4-bit", "NF4",
                      "95.0\u00a0%", "94.0 to 96.0", "0.500", "0.450 to 0.550",
                      "rises by 0.05000 nats", "cannot be told from none",
                      "12.0\u00a0% of 1,000 active features are lost", "40,000 tokens",
                      "arith=f32", "\u22120.00200"):
            self.assertIn(words.replace("arith", "<wbr>arith") if words == "arith=f32" else words,
                          text)
        few = document()
        few["conditions"][0].update(intervals={"dce": None}, verdict=None,
                                    intervals_reason="too few documents",
                                    verdict_reason="too few documents")
        text = self.page(few)
        self.assertIn("no interval (the text has fewer than 20 documents)", text)
        self.assertIn("No verdict: the text has fewer than 20 documents", text)
        self.assertIn("<sup>a</sup>", text)

    def test_sections(self):
        """A section is there if and only if the result has its data."""
        bare = self.page(document())
        for name, (keys, words) in sections().items():
            with self.subTest(name):
                self.assertNotIn(f'<h2 id="{name}"', bare)
                text = self.page(document(**copy.deepcopy(keys)))
                self.assertIn(f'<h2 id="{name}"', text)
                self.assertIn(words, text)
                self.assertIn(f'href="#{name}"', text)
        alone = self.page(document(conditions=[]))
        self.assertIn("the reference alone", alone)
        self.assertNotIn("<figure", alone)
        without = document()
        for entry in [without["reference"], *without["conditions"]]:
            entry["saes"] = []
        text = self.page(without)
        self.assertNotIn("FVU", "".join(Checker(text).text).replace("features and FVU", ""))
        self.assertIn("evaluate --sae SAE", text)

    def test_hostile(self):
        """Text from tokens, names and labels never becomes markup."""
        value = document(**{k: v for keys, _ in sections().values() for k, v in
                            copy.deepcopy(keys).items() if k not in ("profile", "sweep")})
        value["reference"]["saes"][0]["name"] = HOSTILE
        value["conditions"][0]["label"] = HOSTILE
        value["library"] = value["fingerprint"] = value["corpus"]["pack"] = HOSTILE
        path = self.write(value)
        text = self.checked(report.build([path], names=[HOSTILE], title=HOSTILE))
        self.assertNotIn("<script", text.lower())
        self.assertIn("&lt;script&gt;", text)
        self.assertIn("&lt;U+202E&gt;", text)
        for kind in ("svg", "csv"):
            for made in report.export([path], os.path.join(self.here, kind), kind, [HOSTILE]):
                with open(made, encoding="utf-8") as file:
                    content = file.read()
                self.assertNotIn("\x00", content)
                if kind == "svg":
                    ET.fromstring(content)

    def test_several(self):
        a, b = self.write(document(), "a.json"), self.write(document(), "b.json")
        text = self.checked(report.build([a, b]))
        self.assertIn("<h3>a</h3>", text)
        self.assertNotIn('class="flag"', text)
        other = document()
        other["corpus"]["token_hash"] = "ee" * 16
        text = self.checked(report.build([a, self.write(other, "c.json")], names=["one", "two"]))
        self.assertIn("These results are of other tokens: one; two", text)
        self.assertIn("(2)", report.build([a, a]))

    def test_same_bytes(self):
        path, lines = self.write(document()), self.write(self.features(50), "f.jsonl")
        self.assertEqual(report.build([path], features=[lines]),
                         report.build([path], features=[lines]))

    def test_features(self):
        """16384 features: points are thinned, and the page says so; the CSV has all."""
        path = self.write(document())
        lines = self.write(self.features(16384, LABELS[1:]), "f.jsonl")
        text = self.checked(report.build([path], features=[lines]))
        self.assertLess(len(text), 2_000_000)
        self.assertIn("every k-th feature", text)
        points = len(re.findall("h0", re.search(r'class="d-survived" d="([^"]*M[^"]*M[^"]*)"',
                                                text).group(1)))
        self.assertTrue(100 < points < 4000, points)
        lines = self.write(self.features(5000, LABELS[1:]), "f.jsonl")
        made = report.export([path], os.path.join(self.here, "out"), "csv", features=[lines])
        self.assertIn("gain.csv", [os.path.basename(x) for x in made])
        with open(os.path.join(self.here, "out", "gain.csv"), newline="") as file:
            rows = list(csv.reader(file))
        self.assertEqual(len(rows), 5001)
        self.assertEqual(rows[0][3:6], ["feature", "density", "gain"])
        with open(os.path.join(self.here, "out", "histogram.csv"), newline="") as file:
            self.assertEqual(sum(int(row["features"]) for row in csv.DictReader(file)), 5000)

    def test_weights(self):
        weights = {"format": "qsae-inspect", "version": 1, "files": [{"path": "m", "errors": [
            {"condition": "nf4", "matrices": [
                {"layer": i, "module": "q_proj", "frobenius_relative": 0.09 + i / 100}
                for i in range(3)]}]}]}
        path, inspected = self.write(document()), self.write(weights, "w.json")
        self.assertIn('id="weights"', self.checked(report.build([path], weights=[inspected])))
        self.fails("QSAE_EFORMAT", "format", report.build, [path], weights=[path])
        weights["files"][0]["errors"] = []
        self.fails("QSAE_EFORMAT", "none", report.build, [path],
                   weights=[self.write(weights, "w.json")])

    def test_export(self):
        path = self.write(document(**sections()["by-tokens"][0]))
        folder = os.path.join(self.here, "figures")
        made = report.export([path], folder)
        self.assertIn("degradation.svg", [os.path.basename(x) for x in made])
        for name in made:
            root = ET.parse(name).getroot()
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            self.assertEqual(root[0].tag.split("}")[1], "title")
        rows = {}
        for name in report.export([path], folder, "csv"):
            with open(name, newline="") as file:
                rows[os.path.basename(name)] = list(csv.DictReader(file))
        found = [r for r in rows["degradation.csv"] if r["figure"] == "dce"]
        self.assertEqual([(r["condition"], float(r["value"])) for r in found],
                         [(LABELS[0], 0.05), (LABELS[1], -0.002)])
        self.assertEqual(float(rows["noise.csv"][0]["low"]), 0.45)
        self.fails("QSAE_EINVAL", "format", report.export, [path], folder, "gif")

    def test_png(self):
        path = self.write(document())
        folder = os.path.join(self.here, "figures")
        if importlib.util.find_spec("matplotlib") is None:
            self.fails("QSAE_EUNSUPPORTED", "matplotlib", report.export, [path], folder, "png")
            self.assertFalse(os.path.exists(folder))
            return
        for name in report.export([path], folder, "png"):
            with open(name, "rb") as file:
                self.assertEqual(file.read(8), b"\x89PNG\r\n\x1a\n")

    def test_bad_files(self):
        good = json.dumps(document())
        cases = [("QSAE_EFORMAT", "JSON", good[:len(good) // 2]),
                 ("QSAE_EFORMAT", "JSON", ""),
                 ("QSAE_EFORMAT", "NaN", good.replace("0.05", "NaN", 1)),
                 ("QSAE_EFORMAT", "Infinity", good.replace("0.05", "-Infinity", 1)),
                 ("QSAE_EFORMAT", "f64", good.replace("0.05", "1e999", 1)),
                 ("QSAE_EFORMAT", "twice", good.replace('"profile"', '"compute"', 1)),
                 ("QSAE_EFORMAT", "deep", "[" * 100000),
                 ("QSAE_EFORMAT", "a list", "[1]"),
                 ("QSAE_EFORMAT", "qsae-result", '{"format": "qsae-inspect", "version": 1}'),
                 ("QSAE_EFORMAT", "found none", '{"version": 1}'),
                 ("QSAE_EUNSUPPORTED", "version: expected 1, found 2",
                  good.replace('"version": 1', '"version": 2')),
                 ("QSAE_EFORMAT", "corpus: expected an object, found no such key",
                  good.replace('"corpus"', '"corpse"'))]
        for name, part, text in cases:
            with self.subTest(part):
                self.fails(name, part, report.build, [self.write(text.encode())])
        self.fails("QSAE_EFORMAT", "UTF-8", report.build, [self.write(b'{"a": "\xff"}')])
        self.fails("QSAE_EIO", "missing.json", report.build,
                   [os.path.join(self.here, "missing.json")])
        self.fails("QSAE_EIO", self.here, report.build, [self.here])
        wrong = document()
        wrong["conditions"][1]["saes"][0]["noise"]["ratio"] = "large"
        self.fails("QSAE_EFORMAT", "conditions[1].saes[0].noise.ratio: expected a number or null, "
                   "found a string", report.build, [self.write(wrong)])
        wrong["conditions"][1]["saes"][0]["noise"]["ratio"] = True
        self.fails("QSAE_EFORMAT", "found true", report.build, [self.write(wrong)])
        wrong = document()
        wrong["conditions"][0]["intervals"]["dce"] = [1]
        self.fails("QSAE_EFORMAT", "two numbers", report.build, [self.write(wrong)])
        wrong = document()
        del wrong["conditions"][1]["label"]
        self.fails("QSAE_EFORMAT", "conditions[1].label", report.build, [self.write(wrong)])

    def test_missing_keys(self):
        """Any key but the required ones may be missing or null: the page is made all the same."""
        value = document(**copy.deepcopy(sections()["by-tokens"][0]))
        value["conditions"][1:] = []
        value["snapshots"][0]["conditions"][1:] = []
        places = []

        def walk(node, path):
            if isinstance(node, dict):
                for key in node:
                    places.append((path, key))
                    walk(node[key], path + [key])
            elif isinstance(node, list):
                for i, one in enumerate(node[:1]):
                    walk(one, path + [i])

        walk(value, [])
        required = {"format", "version", "corpus", "reference", "conditions", "label"}
        tried = 0
        for k, (path, key) in enumerate(places):
            if k % 3 or key in required or (path, key) == (["corpus"], "tokens"):
                continue
            broken = copy.deepcopy(value)
            node = broken
            for step in path:
                node = node[step]
            if k % 2:
                del node[key]
            else:
                node[key] = None
            Checker(report.build([self.write(broken)]))
            tried += 1
        self.assertGreater(tried, 40)

    def test_extreme_numbers(self):
        value = document()
        for i, v in enumerate((1e308, -1e308, 5e-324, 0, 1e20)):
            c = condition("rtn:bits=%d" % i, abs(v), v)
            c.update(dce_percent=v, intervals={"dce": [-abs(v), v]}, ppl=v, weight_bytes=v, ce=v)
            value["conditions"].append(c)
        self.page(value)
        self.page(document(conditions=[condition("nf4", 4, 0.0)]))

    def test_bad_features(self):
        path, lines = self.write(document()), self.features(2)
        one = json.loads(lines.splitlines()[0])
        for name, part, text in (
                ("QSAE_EFORMAT", "empty", b"\n"), ("QSAE_EFORMAT", "line 3", lines + b"{"),
                ("QSAE_EFORMAT", "line 1", b"[]"),
                ("QSAE_EMISMATCH", "other", json.dumps(dict(one, name="other")).encode()),
                ("QSAE_EMISMATCH", "condition", self.features(1, ["nf4"])),
                ("QSAE_EFORMAT", "density", json.dumps(dict(one, density=None)).encode())):
            with self.subTest(part):
                self.fails(name, part, report.build, [path],
                           features=[self.write(text, "f.jsonl")])

    def run_command(self, *arguments):
        """Exit status and what was said."""
        said, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            try:
                status = command.main(["report", *arguments])
            except SystemExit as stop:
                status = stop.code
        return status, said.getvalue(), errors.getvalue()

    def test_command(self):
        path = self.write(document())
        out, folder = os.path.join(self.here, "o.html"), os.path.join(self.here, "fig")
        status, _, said = self.run_command(path, "-o", out, "--figures", folder, "--format", "csv",
                                           "--name", "model", "--title", "A title")
        self.assertEqual(status, 0, said)
        with open(out, encoding="utf-8") as file:
            self.assertEqual(self.checked(file.read()),
                             report.build([path], names=["model"], title="A title"))
        self.assertIn("degradation.csv", os.listdir(folder))
        self.assertEqual([n for n in os.listdir(self.here) if n.startswith("o.html.")], [])
        self.assertEqual(self.run_command("--help")[0], 0)
        for arguments in ((path,), (), (path, "-o", out, "--format", "gif"),
                          (path, "-o", out, "--name", "a", "--name", "b"), (path, "--nonsense"),
                          (path, "-o", out, "--features", path, "--features", path)):
            self.assertEqual(self.run_command(*arguments)[0], 2, arguments)
        bad = self.write(b"{}", "bad.json")
        status, _, said = self.run_command(bad, "-o", os.path.join(self.here, "p.html"))
        self.assertEqual(status, 1)
        self.assertIn("bad.json: format", said)
        self.assertFalse(os.path.exists(os.path.join(self.here, "p.html")))
        self.assertEqual(self.run_command(path, "-o", os.path.join(self.here, "no", "p.html"))[0],
                         1)

    def test_contrast(self):
        """Text and series against the ground: at least 4.5 : 1, light and dark."""
        def light(colour):
            parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        for dark in (0, 1):
            ground = light(_draw.PALETTE["paper"][dark])
            for name in ("ink", "muted", "link", *(f"s{i}" for i in range(_draw.SERIES))):
                a, b = sorted((ground, light(_draw.PALETTE[name][dark])))
                self.assertGreaterEqual((b + 0.05) / (a + 0.05), 4.5, (name, dark))
        pairs = {_draw.series_style(i) for i in range(30)}
        self.assertEqual(len(pairs), 30)

    def test_scales(self):
        """Ticks are round, lie on the axis, and increase."""
        for low, high in ((0, 1), (-3e-7, 2e-6), (1e9, 1.1e9), (5, 5), (-2, -1), (0, 1e-12)):
            scale = _plot.Scale([low, high], 0, 300)
            ticks = scale.ticks()
            self.assertTrue(2 <= len(ticks) <= 12, (low, high, ticks))
            places = [scale(v) for v, _ in ticks]
            self.assertEqual(places, sorted(places))
            self.assertTrue(all(-0.1 <= x <= 300.1 for x in places))
        for low, high in ((1e-9, 1), (0.5, 0.7), (1, 5), (1e-300, 1e300), (2, 2)):
            ticks = _plot.Scale([low, high], 0, 300, log=True).ticks()
            self.assertTrue(1 <= len(ticks) <= 12, (low, high, ticks))

    def test_names(self):
        for label, name in (("rtn:bits=4,axis=row,group=0,sym=1,arith=f32", "RTN 4-bit"),
                            ("rtn:bits=4,axis=row,group=128,sym=1", "RTN 4-bit, group=128"),
                            ("llm.int8:threshold=6,rules=cuda", "LLM.int8"),
                            ("nf4:block=64,double=1,compute=model,rules=cuda@layers=0-3",
                             "NF4 @layers=0-3"),
                            ("ggml:q4_k", "Q4_K"), ("/models/gemma-3-4b-it.gguf",
                                                   "gemma-3-4b-it.gguf"),
                            ("control:gauss(nf4)", "NF4, gauss noise"),
                            ("none+kv:k=q8_0,v=q4_0,sink=0", "KV k=q8_0, v=q4_0")):
            self.assertEqual(_words.short(label), name)
        self.assertEqual(_words.short("none+prune:sparsity=0.175,scope=tensor", 0.175),
                         "pruned 17.5 %")
        for v, text in ((0.0, "0.00"), (-0.001, "0.00"), (-1234.5, "\u22121,234.50")):
            self.assertEqual(_words.fixed(v, 2), text)
        self.assertEqual(_words.sig(2.9e-10, 2), "2.9\u00d710\u207b\u00b9\u2070")

    @unittest.skipUnless(CHROMIUM, "no chromium")
    def test_browser(self):
        """In Chromium: no request, no error, nothing wider than phone, tablet, desktop, paper."""
        value = document(**{k: v for keys, _ in sections().values() for k, v in
                            copy.deepcopy(keys).items() if k not in ("profile", "sweep")})
        value["reference"]["saes"][0]["site"] = "x" * 200
        value["conditions"][0]["label"] = long = "/models/" + "y" * 150
        path = self.write(value)
        lines = self.write(self.features(16384, [long, LABELS[1]]), "f.jsonl")
        text = report.build([path], features=[lines]).replace("&", "&amp;").replace('"', "&quot;")
        printed = text.replace("@media print", "@media all").replace(
            "@media screen and", "@media print and")  # the rules for paper, on A4 less its margins
        widths = (390, 800, 1280, 688)
        frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{t}"></iframe>'
                         for w, t in zip(widths, (text, text, text, printed)))
        wrapper = self.write((f"<!DOCTYPE html><meta charset=utf-8><body>{frames}<script>"
                              "onload = () => { document.title = JSON.stringify([...document."
                              "querySelectorAll('iframe')].map(f => { const w = f.contentWindow,"
                              " d = f.contentDocument; return [w.innerWidth,"
                              " d.documentElement.scrollWidth, d.querySelectorAll('svg').length,"
                              " w.performance.getEntriesByType('resource').length,"
                              " [...d.querySelectorAll('td, th')].filter(e => e.offsetWidth > 0 &&"
                              " e.getBoundingClientRect().right > w.innerWidth + 1).length] }))"
                              "}</script>").encode(), "wrapper.html")
        profile = os.path.join(self.here, "profile")
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             "--disable-background-networking", f"--user-data-dir={profile}", "--dump-dom",
             "--window-size=1700,1000", "file://" + wrapper],
            capture_output=True, timeout=120, check=True)
        shutil.rmtree(profile, ignore_errors=True)
        self.assertNotIn(b"CONSOLE", done.stderr)
        title = re.search(r"<title>(.*?)</title>", done.stdout.decode()).group(1)
        for (inner, scroll, charts, requests, out), width in zip(json.loads(title), widths):
            self.assertTrue(width - 20 <= inner <= width, (inner, width))
            self.assertLessEqual(scroll, inner)
            self.assertGreater(charts, 10)
            self.assertEqual((requests, out), (0, 0))


if __name__ == "__main__":
    unittest.main()
