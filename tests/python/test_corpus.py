# SPDX-License-Identifier: BSD-2-Clause
import contextlib
import gzip
import hashlib
import importlib.util
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import unittest
from unittest import mock

import numpy as np

from support import MODEL, Case

import qsae
from qsae import __main__ as command
from qsae import _zstd, corpus

ARTICLE = [3577, 8925, 1634, 485, 4753, 726, 9505, 3650, 4703, 9428]
HAVE_ARROW = importlib.util.find_spec("pyarrow") is not None
HAVE_ZSTD = _zstd._module() is not None or shutil.which("zstd") is not None
needs_arrow = unittest.skipUnless(HAVE_ARROW, "pyarrow is missing")
needs_zstd = unittest.skipUnless(HAVE_ZSTD, "no Zstandard for Python, no program zstd")


def noise(seed, n=200):
    """Texts with line ends, other scripts and characters that JSON escapes; some empty."""
    rng = random.Random(seed)
    parts = ["alpha", "\u03b2eta", "\u4e2d\u6587", "\n", "\U0001f600", "a\tb", "x\u2028y", '"',
             "\\", "caf\u00e9", "cafe\u0301", "\x00", "\x1f", "  "]
    return [" ".join(rng.choices(parts, k=rng.choice([0, 1, 5, 30]))) for _ in range(n)]


class Conversions(Case):
    def path(self, name):
        if not hasattr(self, "here"):
            self.here = self.folder()
        return os.path.join(self.here, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def lines(self, objects, name="in.jsonl"):
        return self.write(name, "".join(json.dumps(o) + "\n" for o in objects))

    def table(self, columns, name="in.parquet", row_group=77):
        import pyarrow as pa
        import pyarrow.parquet as pq
        pq.write_table(pa.table(columns), self.path(name), row_group_size=row_group)
        return self.path(name)

    def read(self, name="out.jsonl"):
        with open(self.path(name), encoding="utf-8", newline="\n") as file:
            return [json.loads(line) for line in file]

    def convert(self, inputs, output="out.jsonl", **arguments):
        manifest = corpus.convert(inputs, self.path(output), **arguments)
        with open(self.path(output), "rb") as file:
            data = file.read()
        self.assertEqual(manifest["sha256"], hashlib.sha256(data).hexdigest())
        self.assertEqual(manifest["bytes"], len(data))
        if output.endswith(".jsonl"):
            self.assertEqual(manifest["documents"], data.count(b"\n"))
            self.assertEqual(manifest["lines_sha256"], manifest["sha256"])
            self.assertEqual(manifest["text_bytes"],
                             sum(len(row["text"].encode()) for row in self.read(output)))
        return manifest

    def refused(self, name, part, inputs, output="out.jsonl", **arguments):
        """The call fails, says so and leaves no file."""
        self.fails(name, part, corpus.convert, inputs, self.path(output), **arguments)
        self.assertEqual([n for n in os.listdir(self.here) if n.startswith("out")], [])

    @needs_arrow
    def test_the_article(self):
        """Order, texts and names of subsets; the library's own shuffle gives the same tokens."""
        texts = [f"This is document {i} of them. " * (1 + i % 3) for i in range(10000)]
        texts[ARTICLE[1]] = ""
        table = self.table({"text": texts,
                            "meta": [{"pile_set_name": f"set{i % 22}"} for i in range(10000)]})
        manifest = self.convert(table, **corpus.PRESETS["article"])
        order = np.random.default_rng(0).permutation(10000).tolist()
        self.assertEqual(order[:10], ARTICLE)
        kept = [i for i in order if texts[i]]
        self.assertEqual(self.read(), [{"text": texts[i], "meta": {"pile_set_name": f"set{i % 22}"}}
                                       for i in kept])
        self.assertEqual((manifest["rows"], manifest["documents"]), (10000, 9999))
        self.convert(table, "plain.jsonl")
        with qsae.Tokenizer(self.ctx, MODEL) as tokenizer:
            arguments = {"context": 64, "bos": "doc_start", "max_tokens": 20000}
            ours = qsae.Corpus(self.ctx, tokenizer, self.path("out.jsonl"), **arguments)
            theirs = qsae.Corpus(self.ctx, tokenizer, self.path("plain.jsonl"), shuffle=0,
                                 **arguments)
            self.assertEqual(ours.info["token_hash"], theirs.info["token_hash"])
            self.assertEqual(ours.document(0)["metadata"],
                             {"meta": {"pile_set_name": f"set{ARTICLE[0] % 22}"}})

    @needs_arrow
    def test_order_of_the_datasets_package(self):
        if importlib.util.find_spec("datasets") is None:
            self.skipTest("the package datasets is missing")
        with mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}):
            import datasets
        datasets.disable_progress_bars()
        for n, seed in ((10000, 0), (10000, 42), (777, 3), (2, 1), (1, 5), (5000, 2**40)):
            texts = noise(seed, n - 1) + ["end"]
            table = self.table({"text": texts, "n": list(range(n))}, f"{n}-{seed}.parquet")
            rows = datasets.Dataset.from_parquet(table, cache_dir=self.folder(),
                                                 keep_in_memory=True)
            self.convert(table, shuffle=seed, metadata="n")
            self.assertEqual(self.read(), [{"text": row["text"], "n": row["n"]}
                                           for row in rows.shuffle(seed=seed)])

    def test_the_paper(self):
        raw = (" \n = A title = \n \n A first line , with <unk> . \n\n \u2028 \n"
               " Caf\u00e9 @-@ 1 \n last")
        rows = io.StringIO(raw).readlines()
        expected = "\n\n".join(row for row in rows if row.strip())
        self.assertIn("= \n\n\n A first", expected)
        manifest = self.convert(self.write("wiki.train.raw", raw), **corpus.PRESETS["paper"])
        self.assertEqual(self.read(), [{"text": expected}])
        self.assertEqual((manifest["rows"], manifest["documents"]), (8, 1))
        self.convert(self.write("wiki.crlf.raw", raw.replace("\n", "\r\n")), join="blank-line")
        self.assertEqual(self.read(), [{"text": expected}])
        self.convert(self.path("wiki.train.raw"), join="blank-line", chomp=True)
        self.assertEqual(self.read(), [{"text": "\n\n".join(
            line for line in raw.split("\n") if line.strip())}])
        self.lines([{"text": row} for row in rows])
        self.convert(self.path("in.jsonl"), join="blank-line")
        self.assertEqual(self.read(), [{"text": expected}])
        if HAVE_ARROW:
            self.convert(self.table({"text": rows}), join="blank-line")
            self.assertEqual(self.read(), [{"text": expected}])
        with qsae.Tokenizer(self.ctx, MODEL) as tokenizer:
            text = qsae.Corpus(self.ctx, tokenizer, self.path("out.jsonl"), context=8, bos="none",
                               keep_tail=True)
            self.assertEqual(np.concatenate([chunk.ids for chunk in text]).tolist(),
                             tokenizer.encode(expected, special=False).tolist())

    def test_texts_come_through(self):
        texts = noise(1)
        self.convert(self.lines([{"text": t, "k": i} for i, t in enumerate(texts)]), metadata="all")
        self.assertEqual(self.read(), [{"text": t, "k": i} for i, t in enumerate(texts)])
        if HAVE_ARROW:
            self.convert(self.table({"text": texts}))
            self.assertEqual([row["text"] for row in self.read()], texts)
        self.convert(self.write("a.txt", "one\r\n<|endoftext|> two \n lines<|endoftext|> \n"))
        self.assertEqual([row["text"] for row in self.read()], ["one", "two \n lines"])
        self.convert(self.path("a.txt"), lines=True)
        self.assertEqual([row["text"] for row in self.read()],
                         ["one\n", "<|endoftext|> two \n", " lines<|endoftext|> \n"])
        self.convert(self.path("a.txt"), separator="lines")
        self.assertEqual(len(self.read()), 2)

    def test_choosing(self):
        rows = [{"text": t} for t in noise(2, 50)]
        self.lines(rows)
        texts = [row["text"] for row in rows]
        for arguments, expected in (
                ({"skip": 3, "take": 7}, texts[3:10]), ({"skip": 45}, texts[45:]),
                ({"take": 99}, texts), ({"strip": True}, [t.strip() for t in texts]),
                ({"min_bytes": 20}, [t for t in texts if len(t.encode()) >= 20]),
                ({"strip": True, "min_bytes": 1, "take": 4},
                 [t.strip() for t in texts if t.strip()][:4])):
            with self.subTest(arguments):
                self.convert(self.path("in.jsonl"), **arguments)
                self.assertEqual([row["text"] for row in self.read()], expected)
        order = np.random.default_rng(9).permutation(50)
        self.convert(self.path("in.jsonl"), shuffle=9, skip=2, take=5)
        self.assertEqual([row["text"] for row in self.read()], [texts[i] for i in order[2:7]])

    def test_metadata(self):
        where = {"a": 1, "b": [True, None, 1.5]}
        self.lines([{"doc": {"body": "text", "from": where}, "n": "\u4e2d", "x.y": 2}])
        for keys, expected in (
                (None, {}), ("all", {"doc": {"from": where}, "n": "\u4e2d", "x.y": 2}),
                ("n,x.y", {"n": "\u4e2d", "x.y": 2}),
                (["doc.from.a"], {"doc": {"from": {"a": 1}}})):
            self.convert(self.path("in.jsonl"), text_field="doc.body", metadata=keys)
            self.assertEqual(self.read(), [{"text": "text", **expected}])
        if HAVE_ARROW:
            import datetime
            self.table({"text": ["a", None], "f": [float("nan"), 2.5], "b": [b"x", b"y"],
                        "t": [datetime.datetime(2020, 1, 2, 3, 4, 5)] * 2})
            self.convert(self.path("in.parquet"), metadata="f,t")
            self.assertEqual(self.read(), [
                {"text": "a", "f": None, "t": "2020-01-02T03:04:05"},
                {"text": "", "f": 2.5, "t": "2020-01-02T03:04:05"}])
            os.unlink(self.path("out.jsonl"))
            self.refused("QSAE_EUNSUPPORTED", "row 1: key 'b': expected a value that JSON has, "
                         "found bytes", self.path("in.parquet"), metadata="all")

    def test_split(self):
        self.lines([{"text": f"t{i}"} for i in range(100)])
        manifest = self.convert(self.path("in.jsonl"), split={"fit": 0.7, "held": 0.25},
                                split_seed=4)
        rows = self.read()
        self.assertEqual(manifest["splits"], {"fit": 70, "held": 25})
        order = np.random.default_rng(4).permutation(100)
        fit = {f"t{i}" for i in order[:70]}
        held = {f"t{i}" for i in order[70:95]}
        self.assertEqual({r["text"] for r in rows if r["split"] == "fit"}, fit)
        self.assertEqual({r["text"] for r in rows if r["split"] == "held"}, held)
        numbers = [int(r["text"][1:]) for r in rows]
        self.assertEqual(numbers, sorted(numbers))

    def test_folders(self):
        os.makedirs(self.path("in/b"))
        self.write("in/b/2.jsonl", '{"text": "two"}\n\n{"text": "three"}\n')
        self.write("in/1.txt", "one")
        self.write("in/.hidden", "no")
        with gzip.open(self.path("in/b/4.jsonl.gz"), "wb") as file:
            file.write(b'{"text": "four"}\n')
        manifest = self.convert(self.path("in"))
        self.assertEqual([row["text"] for row in self.read()], ["one", "two", "three", "four"])
        self.assertEqual([s["rows"] for s in manifest["sources"]], [1, 2, 1])
        self.convert(self.path("in"), files="*.jsonl")
        self.assertEqual([row["text"] for row in self.read()], ["two", "three"])
        self.convert([self.path("in/b/2.jsonl"), self.path("in/1.txt")])
        self.assertEqual([row["text"] for row in self.read()], ["two", "three", "one"])

    @needs_arrow
    def test_cache_folders(self):
        """Of the hub (a snapshot, its README left out) and of the datasets package (.arrow)."""
        import pyarrow as pa
        snapshot = self.path("datasets--x--y/snapshots/abc123/data")
        os.makedirs(snapshot)
        os.makedirs(self.path("datasets--x--y/refs"))
        self.write("datasets--x--y/refs/main", "abc123")
        self.write("datasets--x--y/snapshots/abc123/README.md", "no")
        self.table({"text": ["a"]}, "datasets--x--y/snapshots/abc123/data/test.parquet")
        self.table({"text": ["b"]}, "datasets--x--y/snapshots/abc123/data/train.parquet")
        manifest = self.convert(self.path("datasets--x--y"), files="train*")
        self.assertEqual([row["text"] for row in self.read()], ["b"])
        self.assertEqual(manifest["sources"][0]["revision"], "abc123")
        self.convert(self.path("datasets--x--y/snapshots/abc123"))
        self.assertEqual([row["text"] for row in self.read()], ["a", "b"])
        os.makedirs(self.path("cache"))
        self.write("cache/dataset_info.json", "{}")
        table = pa.table({"text": ["c", "d"], "n": [1, 2]})
        for name, kind in (("a.arrow", pa.ipc.new_stream), ("b.arrow", pa.ipc.new_file),
                           ("cache-12.arrow", pa.ipc.new_stream)):
            with kind(self.path("cache/" + name), table.schema) as file:
                file.write_table(table)
        self.convert(self.path("cache"), metadata="n")
        self.assertEqual(self.read(), [{"text": t, "n": n} for t, n in
                                       (("c", 1), ("d", 2), ("c", 1), ("d", 2))])

    @needs_zstd
    def test_zstd(self):
        """Written and read by each way there is; the library reads what was written."""
        texts = noise(5, 300) + ["The end of it. " * 400]
        source = self.lines([{"text": t} for t in texts])
        found = [name for name in _zstd._MODULES if importlib.util.find_spec(name.split(".")[0])]
        ways = [(name,) for name in found if _zstd._module() is not None]
        ways += [()] if shutil.which("zstd") else []
        self.assertTrue(ways)
        for way in ways:
            with self.subTest(way), mock.patch.object(_zstd, "_MODULES", way):
                manifest = self.convert(source, "out.jsonl.zst")
                self.convert(self.path("out.jsonl.zst"))
                self.assertEqual([row["text"] for row in self.read()], texts)
                self.assertEqual(manifest["lines_sha256"],
                                 self.convert(source)["lines_sha256"])
                self.convert(self.path("out.jsonl.zst"), take=1)
                with qsae.Tokenizer(self.ctx, MODEL) as tokenizer:
                    hashes = {qsae.Corpus(self.ctx, tokenizer, path, context=16).info["token_hash"]
                              for path in (source, self.path("out.jsonl.zst"))}
                    self.assertEqual(len(hashes), 1)
                with open(self.path("out.jsonl.zst"), "rb") as file:
                    packed = file.read()
                self.write("twice.jsonl.zst", packed + packed)
                self.assertEqual(self.convert(self.path("twice.jsonl.zst"))["documents"], 602)
                bad = self.write("bad.jsonl.zst", packed[:len(packed) // 2])
                os.unlink(self.path("out.jsonl"))
                os.unlink(self.path("out.jsonl.zst"))
                self.refused("QSAE_EFORMAT", "bad.jsonl.zst: expected Zstandard data", bad)
                self.refused("QSAE_EFORMAT", "bad.jsonl.zst: expected Zstandard data",
                             self.write("bad.jsonl.zst", "no such thing"))
        with mock.patch.object(_zstd, "_MODULES", ()), \
                mock.patch.object(_zstd.shutil, "which", lambda name: None):
            self.refused("QSAE_EUNSUPPORTED", "pip install zstandard", source, "out.jsonl.zst")

    def test_without_arrow(self):
        self.write("in.parquet", "PAR1")
        with mock.patch.dict(sys.modules, {"pyarrow": None}):
            self.refused("QSAE_EUNSUPPORTED", "pip install pyarrow", self.path("in.parquet"))

    def test_refused(self):
        good = self.lines([{"text": "a", "split": "b"}], "good.jsonl")
        for text, part in (
                ('{"text": "a"}\n{"text": ', "bad.jsonl:2: expected a JSON object"),
                ('{"text": "a", "text": "b"}', "bad.jsonl:1: expected a JSON object, found: key "
                                               "'text' twice"),
                ('[1]', "bad.jsonl:1: expected object, found list"),
                ('{"a": 1, "b": 2}', "expected the text under 'text', found 'a', 'b'"),
                ('{"text": 5}', "key 'text': expected string, found int"),
                ('{"text": "\\ud800"}', "bad.jsonl:1: expected Unicode"),
                ('{"text": "a", "n": NaN}', "bad.jsonl:1: expected a JSON object, found: NaN"),
                ('{"text": ' + "[" * 100000, "bad.jsonl:1: expected JSON"),
                (b'{"text": "\xff"}', "bad.jsonl:1: expected a JSON object")):
            with self.subTest(part):
                self.refused("QSAE_EFORMAT", part, self.write("bad.jsonl", text))
        self.refused("QSAE_EFORMAT", "not UTF-8: byte 0xfe at offset 3",
                     self.write("bad.txt", b"abc\xfe"))
        self.refused("QSAE_EFORMAT", "bad.jsonl.gz: expected gzip",
                     self.write("bad.jsonl.gz", "no"))
        self.refused("QSAE_EUNSUPPORTED", "key 'n': expected an integer of 64 bits",
                     self.lines([{"text": "a", "n": 2**63}]), metadata="n")
        broken = bytearray(gzip.compress(b'{"text": "a"}\n' * 99))
        broken[12:30] = b"\xff" * 18
        self.refused("QSAE_EFORMAT", "b.jsonl.gz: expected gzip",
                     self.write("b.jsonl.gz", bytes(broken)))
        if HAVE_ARROW:
            import pyarrow as pa
            table, sink = pa.table({"text": ["abcd", "efgh"]}), io.BytesIO()
            with pa.ipc.new_stream(sink, table.schema) as file:
                file.write_table(table)
            offsets, far = struct.pack("<3i", 0, 4, 8), struct.pack("<3i", 0, 1 << 30, 1 << 30)
            self.assertEqual(sink.getvalue().count(offsets), 1)
            self.refused("QSAE_EFORMAT", "b.arrow: expected a table (arrow)", self.write(
                "b.arrow", sink.getvalue().replace(offsets, far)))
            for name in ("bad.parquet", "bad.arrow"):
                self.refused("QSAE_EFORMAT", name, self.write(name, b"PAR1" + bytes(100) + b"PAR1"))
            self.refused("QSAE_ENOENT", "nothing.parquet", self.path("nothing.parquet"))
        self.refused("QSAE_ENOENT", "nothing.jsonl", self.path("nothing.jsonl"))
        self.refused("QSAE_ENOENT", "expected files like 'x*'", self.here, files="x*")
        self.refused("QSAE_EINVAL", "ends in .jsonl", good, "out.txt")
        self.refused("QSAE_EINVAL", "no document is left", good, skip=1)
        self.refused("QSAE_EINVAL", "no document is left", self.write("e.txt", " \n\n"),
                     join="blank-line")
        self.refused("QSAE_EFORMAT", "the key 'k' that --metadata names, found 'text', 'split'",
                     good, metadata="k")
        self.refused("QSAE_EINVAL", "'text' is the text itself", good, metadata="text")
        self.refused("QSAE_EINVAL", "there is a key 'text' among the metadata", good,
                     text_field="split", metadata="all")
        self.refused("QSAE_EINVAL", "a key twice", good, metadata="a,a")
        self.refused("QSAE_EINVAL", "one document of all rows", good, metadata="all", join="none")
        self.refused("QSAE_EINVAL", "there is no join", good, chomp=True)
        self.refused("QSAE_EINVAL", "join: expected blank-line", good, join="x")
        self.refused("QSAE_EINVAL", "shuffle", good, shuffle=-1)
        self.refused("QSAE_EINVAL", "take", good, take=0)
        self.refused("QSAE_EINVAL", "level", good, level=20)
        self.refused("QSAE_EINVAL", "of its own", good, metadata="all", split={"a": 1.0})
        self.refused("QSAE_EINVAL", "of 1 documents are none", good, split={"a": 0.1})
        for split in ({"a": 0.0}, {"a": 0.6, "b": 0.6}, {"": 0.5}, {"a": float("nan")}):
            self.refused("QSAE_EINVAL", "split: expected", good, split=split)
        self.fails("QSAE_EINVAL", "is one of the inputs", corpus.convert, good, good)
        self.fails("QSAE_EIO", "nowhere", corpus.convert, good, self.path("nowhere/out.jsonl"))
        self.convert(good)
        self.fails("QSAE_EFORMAT", "bad.jsonl:2", corpus.convert,
                   self.write("bad.jsonl", '{"text": "a"}\n{'), self.path("out.jsonl"))
        self.assertEqual(self.read(), [{"text": "a"}])  # what was there stays

    def run_command(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = command.main(list(arguments))
            except SystemExit as error:
                status = error.code
        return status, out.getvalue(), err.getvalue()

    def test_command(self):
        raw = self.write("wiki.train.raw", " = T = \n \n text \n")
        out = self.path("out.jsonl")
        status, said, _ = self.run_command("corpus", "paper", raw, "-o", out, "--manifest",
                                           self.path("m.json"))
        self.assertEqual(status, 0)
        self.assertEqual(self.read(), [{"text": " = T = \n\n\n text \n"}])
        manifest = json.loads(said.splitlines()[-1].partition("manifest: ")[2])
        with open(self.path("m.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file), manifest)
        self.assertEqual((manifest["preset"], manifest["recipe"]["join"]), ("paper", "blank-line"))
        rows = self.lines([{"body": f"t{i}", "k": {"a": i}} for i in range(20)])
        status, _, said = self.run_command(
            "corpus", "article", rows, "-o", out, "--text-field", "body", "--shuffle", "3",
            "--take", "10", "--split", "x=0.5", "--split", "y=0.5", "--split-seed", "1")
        self.assertEqual(status, 0)
        self.assertIn("the article's set has 10000 rows, this one 20", said)
        order = np.random.default_rng(3).permutation(20)[:10]
        self.assertEqual([row["k"]["a"] for row in self.read()], order.tolist())
        self.assertEqual(sorted(row["split"] for row in self.read()), ["x"] * 5 + ["y"] * 5)
        for arguments, status in (
                ((), 2), (("other",), 2), (("--help",), 0), (("--version",), 0), (("corpus",), 2),
                (("corpus", "--help"), 0), (("corpus", rows), 2),
                (("corpus", rows, "-o", out, "--split", "x"), 1),
                (("corpus", rows, "-o", out, "--split", "x=1", "--split", "x=1"), 2),
                (("corpus", rows, "-o", out), 1), (("corpus", "paper", "-o", out), 2)):
            self.assertEqual(self.run_command(*arguments)[0], status, arguments)
        done = subprocess.run([sys.executable, "-B", "-m", "qsae", "corpus", raw, "-o", out],
                              env={**os.environ, "PYTHONPATH": os.path.dirname(
                                  os.path.dirname(qsae.__file__))},
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, self.read()), (0, [{"text": "= T = \n \n text"}]))
