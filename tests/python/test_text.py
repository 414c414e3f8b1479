# SPDX-License-Identifier: BSD-2-Clause
import glob
import json
import os

import numpy as np

from support import MODEL, TEXT, Case, data, read_json

import qsae


class Tokenizers(Case):
    def test_ids_of_the_tokenizers_package(self):
        files = [path for path in sorted(glob.glob(data("tokenizers", "*.json")))
                 if not path.endswith(("tokenizer.json", os.sep + "nul.json"))]
        self.assertGreater(len(files), 15)
        for path in files:
            cases = read_json(path)
            with self.subTest(os.path.basename(path)), \
                    qsae.Tokenizer(self.ctx, data("tokenizers", cases["tokenizer"])) as tokenizer:
                for text, plain, special in cases["cases"]:
                    self.assertEqual(tokenizer.encode(text, special=False).tolist(), plain, text)
                    self.assertEqual(tokenizer.encode(text).tolist(), special, text)

    def test_bundled(self):
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)
        self.assertEqual((tokenizer.vocab, tokenizer.bos), (2048, 2))
        self.assertEqual(tokenizer.info["adds_bos"], 1)
        self.assertRegex(tokenizer.info["hash"], "^[0-9a-f]{32}$")
        text = "naïve café — 12 \u4e2d\n"
        ids = tokenizer.encode(text)
        self.assertEqual((ids.dtype, ids[0]), (np.int32, 2))
        self.assertEqual(b"".join(map(tokenizer.token, ids[1:])), text.encode())
        self.same(tokenizer.encode(text.encode()), ids)
        self.assertTrue(tokenizer.is_special(2))
        self.assertFalse(tokenizer.is_special(int(ids[1])))
        self.assertEqual(tokenizer.encode("", special=False).size, 0)

    def test_refusals(self):
        tokenizer = qsae.Tokenizer(self.ctx, MODEL)
        self.fails("QSAE_EFORMAT", "", tokenizer.encode, b"ab\xff")
        self.fails("QSAE_EFORMAT", "", tokenizer.encode, "a\ud800")
        self.fails("QSAE_EINVAL", "str or bytes", tokenizer.encode, 5)
        self.fails("QSAE_ENOENT", "99999", tokenizer.token, 99999)
        self.fails("QSAE_ENOENT", "-1", tokenizer.token, -1)
        self.fails("QSAE_EINVAL", "id", tokenizer.token, 2**31)
        self.fails("QSAE_ENOENT", "nothing", qsae.Tokenizer, self.ctx, "/nothing")


class Corpora(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tokenizer = qsae.Tokenizer(cls.ctx, MODEL)

    def write(self, text, name="text.txt"):
        path = os.path.join(self.folder(), name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def test_packing(self):
        documents = ["One day a cat sat down. " * 5, "The dog ran away and did not come back. " * 4]
        path = self.write("<|endoftext|>".join(documents))
        stream = []
        for i, text in enumerate(documents):
            stream += [(id, i) for id in [2] + self.tokenizer.encode(text.strip(), False).tolist()]
        corpus = qsae.Corpus(self.ctx, self.tokenizer, path, context=16, bos="doc_start")
        self.assertEqual(corpus.info["stream_tokens"], len(stream))
        self.assertEqual(len(corpus), len(stream) // 16)
        self.assertEqual(corpus.info["bos_policy"], "doc_start")
        for i, chunk in enumerate(corpus):
            part = stream[16 * i:16 * i + 16]
            self.assertEqual(chunk.ids.tolist(), [id for id, _ in part])
            self.assertEqual(chunk.document.tolist(), [document for _, document in part])
            self.assertEqual(chunk.labels.tolist(), [id for id, _ in part[1:]] + [-100])
        self.assertEqual(corpus.info["predicted_tokens"], 15 * len(corpus))
        self.same(corpus[-1].ids, corpus[len(corpus) - 1].ids)
        self.assertRaises(IndexError, corpus.__getitem__, len(corpus))

    def test_policies_differ_in_their_hash(self):
        path, hashes = self.write("A little bird came by. " * 40), set()
        for arguments in ({"bos": "none"}, {"bos": "chunk_start"}, {"bos": "stream_start"},
                          {"bos": "chunk_start", "cross_labels": True},
                          {"bos": "chunk_start", "context": 33}):
            corpus = qsae.Corpus(self.ctx, self.tokenizer, path, **{"context": 32, **arguments})
            hashes.add(corpus.info["token_hash"])
        self.assertEqual(len(hashes), 5)
        again = qsae.Corpus(self.ctx, self.tokenizer, path, context=32)
        self.assertEqual(again.info["bos_policy"], "chunk_start")
        self.assertIn(again.info["token_hash"], hashes)
        self.assertTrue(all(chunk.ids[0] == 2 for chunk in again))

    def test_json_lines(self):
        lines = [{"text": "A first story. " * 20, "from": "x"}, {"text": "Another. " * 30, "n": 2}]
        path = self.write("".join(json.dumps(line) + "\n" for line in lines), "a.jsonl")
        corpus = qsae.Corpus(self.ctx, self.tokenizer, path, context=32, keep_tail=True)
        self.assertEqual(corpus.info["documents"], 2)
        first, second = corpus.document(0), corpus.document(1)
        self.assertEqual((first["line"], second["line"]), (1, 2))
        self.assertEqual(second["metadata"], {"n": 2})
        self.assertTrue(first["source"].endswith("a.jsonl"))
        self.assertLess(len(corpus[-1].ids), 33)

    def test_selection(self):
        lines = [{"text": f"Story {i}. " * 20, "k": {"n": i % 3}, "to": "x"} for i in range(12)]
        path = self.write("".join(json.dumps(line) + "\n" for line in lines), "a.jsonl")

        def read(**arguments):
            corpus = qsae.Corpus(self.ctx, self.tokenizer, path, context=8, **arguments)
            return [corpus.document(i)["line"] - 1 for i in range(corpus.info["documents"])]
        order = np.random.default_rng(2).permutation(12).tolist()
        self.assertEqual(read(where=["k.n=1"]), [1, 4, 7, 10])
        self.assertEqual(read(where=["k.n=1", "k.n=2", "to!=y"], documents=(3, None)),
                         [4, 5, 7, 8, 10, 11])
        self.assertEqual(read(shuffle=2, documents=(2, 6)), order[2:6])
        self.assertEqual(read(shuffle=2, documents=(None, 5), where=["k.n!=0"]),
                         [i for i in order[:5] if i % 3])
        rows = qsae.Corpus(self.ctx, self.tokenizer, path, context=8, pack="saelens")
        self.assertEqual(rows.info["pack"], "saelens")
        self.assertTrue(all(chunk.ids[0] == 2 for chunk in rows))
        for name, part, arguments in (
                ("QSAE_EINVAL", "found one string", {"where": "k=1"}),
                ("QSAE_EINVAL", "no document where k=9", {"where": ["k=9"]}),
                ("QSAE_EINVAL", "expected KEY=VALUE", {"where": ["k"]}),
                ("QSAE_EINVAL", "documents from 12", {"documents": (12, None)}),
                ("QSAE_EINVAL", "documents", {"documents": (-1, None)}),
                ("QSAE_EINVAL", "stream, tl, saelens or tl2", {"pack": "x"}),
                ("QSAE_EINVAL", "pack tl", {"pack": "tl", "bos": "doc_start"})):
            self.fails(name, part, read, **arguments)

    def test_bundled_text(self):
        lines = []
        corpus = qsae.Corpus(self.ctx, self.tokenizer, TEXT, context=64, max_tokens=1000,
                             progress=lambda *line: lines.append(line))
        self.assertEqual(corpus.info["tokens"], 16 * 64)
        with self.assertRaises(LookupError):
            qsae.Corpus(self.ctx, self.tokenizer, TEXT, progress=lambda *line: {}["stop"])
        self.assertTrue(lines)

    def test_from_ids(self):
        ids = np.arange(24).reshape(3, 8)
        corpus = qsae.Corpus.from_ids(self.ctx, ids)
        self.assertEqual((len(corpus), corpus.info["context"]), (3, 8))
        self.assertEqual(corpus[1].ids.tolist(), ids[1].tolist())
        self.assertEqual(corpus[1].labels.tolist(), ids[1, 1:].tolist() + [-100])
        self.fails("QSAE_EINVAL", "[n_chunks, context]", qsae.Corpus.from_ids, self.ctx, [1, 2])
        self.fails("QSAE_EINVAL", "fit", qsae.Corpus.from_ids, self.ctx, [[1, 2**40]])

    def test_refusals(self):
        def corpus(path, **arguments):
            return qsae.Corpus(self.ctx, self.tokenizer, path, **arguments)

        self.fails("QSAE_EINVAL", "bos", corpus, TEXT, bos="sometimes")
        self.fails("QSAE_EINVAL", "plain, jsonl", corpus, TEXT, format="csv")
        self.fails("QSAE_EINVAL", "context", corpus, TEXT, context=-1)
        self.fails("QSAE_ENOENT", "nothing", corpus, "/nothing")
        self.fails("QSAE_EINVAL", "", corpus, self.write("too short"))
        self.fails("QSAE_EFORMAT", "2", corpus, self.write('{"text": "a"}\n{"tex\n', "b.jsonl"))
