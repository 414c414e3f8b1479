# SPDX-License-Identifier: BSD-2-Clause
"""qsae.compat against PyTorch, SAELens, TransformerLens and nnsight; skipped by name where they are
not installed."""

import importlib.util
import unittest
import warnings

import numpy as np

from support import MODEL, SAE, Case, data, nll_of, read_json, read_safetensors

import qsae
from qsae import compat, metrics


def needs(*names):
    """Skips a class where a package is missing, and says which."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return unittest.skipIf(missing, "Python package not installed: " + ", ".join(missing))


def torch_rows(b, s, d, seed, dtype=None, scale=1.0):
    import torch
    x = torch.randn(b, s, d, generator=torch.Generator().manual_seed(seed)) * scale
    return x.to(dtype or torch.float32)


@needs("torch")
class Tensors(Case):
    def test_in_place(self):
        """float32, float16, float64 and bfloat16 tensors are read where they lie."""
        import torch
        for dtype, kind in ((torch.float32, np.float32), (torch.float16, np.float16),
                            (torch.float64, np.float64), (torch.bfloat16, np.uint16)):
            x = torch_rows(2, 5, 8, 1, dtype)
            got = compat.rows(x)
            self.assertEqual((got.ctypes.data, got.dtype, got.shape),
                             (x.data_ptr(), kind, (2, 5, 8)))
        x = torch_rows(2, 5, 8, 1, torch.bfloat16).requires_grad_()
        self.same(qsae.from_bf16(compat.rows(x)), x.detach().float().numpy())
        self.same(compat.rows(torch_rows(2, 3, 8, 1).mT), torch_rows(2, 3, 8, 1).mT.numpy())

    def test_sparse(self):
        from qsae.compat_rows import sparse_of
        x = torch_rows(1, 30, 12, 2)[0].relu()
        self.same(sparse_of(x).toarray(), x.numpy())
        self.same(sparse_of(x.to_sparse()).toarray(), x.numpy())
        self.assertTrue((sparse_of(-x).toarray() == -x.numpy()).all())
        self.assertEqual(len(sparse_of(x[:0])), 0)


@needs("torch")
class Hooks(Case):
    """A module whose output is a tuple, its compressed copy, and float64 figures of torch."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        import torch

        class Block(torch.nn.Module):
            def __init__(self, noise):
                super().__init__()
                g = torch.Generator().manual_seed(3)
                self.weight = torch.nn.Parameter(torch.randn(24, 24, generator=g))
                with torch.no_grad():
                    self.weight += noise * torch.randn(24, 24, generator=g)

            def forward(self, hidden_states, extra=None):
                out = hidden_states @ self.weight
                return out, extra

        cls.blocks = Block(0), Block(0.05)
        cls.sae = qsae.SAE(cls.ctx, data("saes", "standard"))
        cls.x = torch_rows(6, 40, 24, 4, scale=2)
        cls.mask = (torch.arange(40) < torch.tensor([40, 3, 17, 40, 1, 25])[:, None]).long()

    def run_pair(self, pair, keyword=False):
        r, q = self.blocks
        for a in (0, 2, 4):
            with pair.batch(attention_mask=self.mask[a:a + 2]):
                for block in (r, q):
                    if keyword:
                        block(hidden_states=self.x[a:a + 2])
                    else:
                        block(self.x[a:a + 2])
        return pair

    def test_figures_of_torch(self):
        import torch
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            pair = compat.Pair(self.ctx, self.sae)
            rows = []
            for block in self.blocks:
                block.to(dtype)
                rows.append(block(self.x.to(dtype))[0].detach()[self.mask.bool()])
            with pair.attach(self.blocks[0], "r"), pair.attach(self.blocks[1], "q"):
                kept, self.__class__.x = self.x, self.x.to(dtype)
                try:
                    self.run_pair(pair)
                finally:
                    self.__class__.x = kept
                    for block in self.blocks:
                        block.float()
            self.assertFalse(self.blocks[0]._forward_hooks)
            self.assertEqual(pair.tokens, int(self.mask.sum()))
            p = {k: torch.tensor(v).double() for k, v in read_safetensors(
                data("saes", "standard", "sae_weights.safetensors")).items()}
            x = [r.double() for r in rows]
            acts = [((v - p["b_dec"]) @ p["W_enc"] + p["b_enc"]).relu() for v in x]
            y = [a @ p["W_dec"] + p["b_dec"] for a in acts]
            for metric, v, w in ((pair.reconstruction, x[0], y[0]),
                                 (pair.reconstruction_q, x[1], y[1])):
                fvu = (v - w).pow(2).sum() / (v - v.mean(0)).pow(2).sum()
                self.near(metric["fvu_dim"], float(fvu), 1e-6)
            drift = (x[1] - x[0]).norm() / x[0].norm()
            noise = (x[1] - y[1]).norm() / x[1].norm()
            self.near(pair.drift["P"], float(drift), 1e-9)
            self.near(pair.drift["R_q"], float(noise), 1e-6)
            self.near(pair.drift["ratio"], float(drift / noise), 1e-6)
            live = torch.stack(acts).std(1).min(0).values > 0
            r = np.array([np.corrcoef(acts[0][:, j], acts[1][:, j])[0, 1]
                          for j in range(len(live)) if live[j]])
            self.near(pair.features.features("r")[live.numpy()], r, 1e-5, 1e-6)

    def test_input_and_keywords(self):
        for keyword in (False, True):
            pair = compat.Pair(self.ctx, width=24)
            with pair.attach(self.blocks[0], "r", at="input"), \
                    pair.attach(self.blocks[1], "q", at="input"):
                self.run_pair(pair, keyword)
            self.assertEqual((pair.drift["P"], pair.drift["tokens"]), (0, int(self.mask.sum())))

    def test_removed_by_an_exception(self):
        pair = compat.Pair(self.ctx, width=24)
        with self.assertRaises(ZeroDivisionError):
            with pair.attach(self.blocks[0], "r"):
                raise ZeroDivisionError
        self.assertFalse(self.blocks[0]._forward_hooks)
        self.fails("QSAE_EINVAL", "inputs", pair.attach, self.blocks[0], at="inputs")
        removal = pair.attach(self.blocks[0])
        self.fails("QSAE_EINVAL", "outside", self.blocks[0], self.x)
        removal.remove(), removal.remove()
        self.blocks[0](self.x)

    def test_rows_changed_in_place_afterwards(self):
        pair = compat.Pair(self.ctx, width=24)
        x = self.x.clone()
        with pair.batch():
            pair.add(x, "r")
            x.mul_(2)
            pair.add(x, "q")
        self.near(pair.drift["P"], 1, 1e-12)

    def test_logits(self):
        import torch
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            r, q = torch_rows(4, 200, 33, 5, dtype, 3), torch_rows(4, 200, 33, 6, dtype, 3)
            ids = torch.randint(0, 33, (4, 200), generator=torch.Generator().manual_seed(7))
            pair = compat.Pair(self.ctx)
            with pair.batch(ids) as batch:
                batch.logits(r, q)
            log = [v.double().log_softmax(-1)[:, :-1] for v in (r, q)]
            nll = [-v.gather(-1, ids[:, 1:, None]) for v in log]
            kl = (log[0].exp() * (log[0] - log[1])).sum(-1)
            self.near(pair.divergence["ce_r"], float(nll[0].mean()), 2e-6)
            self.near(pair.divergence["dce"], float((nll[1] - nll[0]).mean()), 2e-6, 2e-6)
            self.near(pair.divergence["kl_mean"], float(kl.mean()), 2e-6)
            self.near(pair.divergence["same_top"],
                      float((r[:, :-1].argmax(-1) == q[:, :-1].argmax(-1)).double().mean()), 0)


@needs("torch", "sae_lens")
class Shaped(Case):
    """SAELensSAE against the SAE that SAELens itself opens from the same files."""

    # doc/saes.md says why: SAELens 6 has no tanh-relu, and knows no releases of centred models.
    DIFFERENT = ("tanh_relu", "centred")

    def pairs(self):
        """Fixtures both can open: name, theirs, ours, rows."""
        from sae_lens import SAE as Theirs
        for folder in ("saes", "sae_kinds"):
            for e in read_json(data(folder, "saes.json"))["saes"]:
                path = data(folder, e["path"])
                if e.get("format", "saelens") != "saelens" or e["path"] != e["name"] or \
                        e["name"] in self.DIFFERENT:
                    continue
                mine = qsae.SAE(self.ctx, path)
                if mine.info["skip"] or mine.info["format"] != "saelens":
                    continue
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        theirs = Theirs.load_from_disk(path, dtype="float32")
                except Exception:  # what SAELens cannot open (training checkpoints, other kinds)
                    continue
                yield e["name"], theirs, compat.SAELensSAE(mine), read_safetensors(
                    data(folder, e["name"] + ".expected.safetensors"))["x"]

    def test_values(self):
        import torch
        from qsae.compat_sae import decoder
        seen = []
        for name, theirs, mine, x in self.pairs():
            with self.subTest(name), torch.no_grad():
                seen.append(mine.cfg.architecture())
                x = torch.from_numpy(x.copy())
                if theirs.hook_z_reshaping_mode:
                    x = x.unflatten(-1, (4, -1))
                scale = max(1, float(x.flatten(1).norm(dim=1).max()))
                a, b = theirs.encode(x), mine.encode(x)
                a = a.to_dense() if a.layout is not torch.strided else a
                self.assertTrue(torch.equal(a != 0, b != 0))
                self.near(b.numpy(), a.float().numpy(), 0, 2e-5 * scale)
                y, z = theirs.decode(a.to(theirs.dtype)), mine.decode(b)
                self.assertEqual((y.shape, a.shape), (z.shape, b.shape))
                self.near(z.numpy(), y.float().numpy(), 0, 2e-5 * scale)
                self.near(mine(x).numpy(), theirs(x).float().numpy(), 0, 2e-5 * scale)
                self.same(mine.b_dec.numpy(), theirs.b_dec.numpy())
                self.same(mine.W_dec.numpy(), theirs.W_dec.numpy())
                if not mine.qsae.state_size and \
                        not getattr(theirs.cfg, "rescale_acts_by_decoder_norm", False):
                    self.same(decoder(mine.qsae), theirs.W_dec.numpy())
                self.assertEqual((mine.cfg.d_in, mine.cfg.d_sae),
                                 (theirs.cfg.d_in, theirs.cfg.d_sae))
                self.assertEqual(mine.cfg.metadata.hook_name, theirs.cfg.metadata.hook_name)
                self.assertIsNone(mine.cfg.metadata.never_heard_of)
        self.assertGreater(len(seen), 28)
        for kind in ("standard", "topk", "jumprelu", "gated", "abstopk", "matching_pursuit"):
            self.assertIn(kind, seen)

    def test_weights(self):
        from sae_lens import SAE as Theirs
        theirs, mine = Theirs.load_from_disk(SAE), compat.SAELensSAE.load_from_disk(SAE)
        for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
            self.same(getattr(mine, name).numpy(), getattr(theirs, name).detach().numpy())
        self.assertFalse(hasattr(mine, "b_gate"))
        self.assertFalse(hasattr(mine, "hook_sae_acts_pre"))

    def test_gradients_types_and_error_term(self):
        import torch
        mine = compat.SAELensSAE(qsae.SAE(self.ctx, data("saes", "standard")))
        x = torch_rows(2, 9, 24, 8)
        self.fails("QSAE_EUNSUPPORTED", "no_grad", mine, x.clone().requires_grad_())
        self.fails("QSAE_EUNSUPPORTED", "detach", mine.decode,
                   torch.zeros(1, mine.cfg.d_sae, requires_grad=True))
        self.fails("QSAE_EINVAL", "found ndarray", mine.encode, x.numpy())
        with torch.no_grad():
            self.assertEqual(mine(x.clone().requires_grad_()).shape, x.shape)
        half = mine(x.bfloat16())
        self.same(half.numpy(), mine(x.bfloat16().float()).numpy())
        mine.use_error_term = True
        self.near(mine(x).numpy(), x.numpy(), 0, 1e-5)
        mine.use_error_term = False
        mine.to(torch.bfloat16)
        self.assertEqual((mine(x).dtype, mine.cfg.dtype), (torch.bfloat16, "bfloat16"))
        self.fails("QSAE_EUNSUPPORTED", "skip", compat.SAELensSAE,
                   qsae.SAE(self.ctx, data("saes", "skip_transcoder")))
        state = compat.SAELensSAE(qsae.SAE(self.ctx, data("saes", "standard_layer_norm")))
        self.fails("QSAE_EINVAL", "last encode", state.decode, torch.zeros(3, state.cfg.d_sae))

    def test_torch_sae_in_a_collector(self):
        """A SAELens SAE in place of a qsae.SAE: the same figures, but for rounding."""
        from sae_lens import SAE as Theirs
        path = data("saes", "jumprelu")
        theirs, mine = Theirs.load_from_disk(path), qsae.SAE(self.ctx, path)
        x = torch_rows(3, 50, 24, 9, scale=3)
        found = []
        for sae in (mine, compat.SAELensSAE(mine), theirs):
            for rows in (x, x.numpy()):
                collector = compat.Collector(self.ctx, sae)
                with collector.batch():
                    collector.add(rows)
                found.append(collector.reconstruction.result())
        for one in found[1:]:
            for key, number in found[0].items():
                np.testing.assert_allclose(one[key], number, 1e-5, 1e-9, err_msg=key)

    def test_names(self):
        """SAELens' own calculator."""
        from sae_lens.evals import ExplainedVarianceCalculator
        x = torch_rows(1, 300, 24, 10)[0] + 2
        y = x + torch_rows(1, 300, 24, 11)[0] / 3
        theirs = ExplainedVarianceCalculator()
        metric = metrics.Reconstruction(self.ctx, 24)
        for a in (0, 100, 150):
            b = {0: 100, 100: 150, 150: 300}[a]
            theirs.add_batch(y[a:b], x[a:b])
            metric.update(x[a:b].numpy(), y[a:b].numpy())
        self.near(compat.explained_variance(metric), theirs.compute(), 1e-6)


@needs("torch", "sae_lens", "transformer_lens")
class Lens(Case):
    """Inside TransformerLens: hooks, and HookedSAETransformer with both SAEs."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        import torch
        from sae_lens import HookedSAETransformer
        from transformer_lens import HookedTransformerConfig
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(1)
            config = HookedTransformerConfig(n_layers=2, d_model=24, n_ctx=32, d_head=6, n_heads=4,
                                             d_vocab=50, act_fn="gelu", device="cpu")
            cls.model = HookedSAETransformer(config)
            cls.model.requires_grad_(False)
        cls.ids = torch.randint(0, 50, (3, 20))

    def opened(self, name):
        from sae_lens import SAE as Theirs
        theirs = Theirs.load_from_disk(data("saes", name))
        mine = compat.SAELensSAE(qsae.SAE(self.ctx, data("saes", name)))
        for sae in (theirs, mine):
            sae.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
        return theirs, mine

    def test_spliced(self):
        import torch
        torch.set_grad_enabled(False)
        self.addCleanup(torch.set_grad_enabled, True)
        for name in ("standard", "topk", "jumprelu"):
            for error in (False, True):
                theirs, mine = self.opened(name)
                a, b = (self.model.run_with_saes(self.ids, saes=[sae], use_error_term=error)
                        for sae in (theirs, mine))
                self.near(b.numpy(), a.numpy(), 0, 1e-4)
                if error:
                    self.near(b.numpy(), self.model(self.ids).numpy(), 0, 1e-4)
                where = "blocks.0.hook_resid_post.hook_sae_acts_post"
                _, cache = self.model.run_with_cache_with_saes(self.ids, saes=[mine])
                _, cache_theirs = self.model.run_with_cache_with_saes(self.ids, saes=[theirs])
                self.near(cache[where].numpy(), cache_theirs[where].numpy(), 0, 1e-4)

                def ablate(acts, hook):
                    return torch.zeros_like(acts)
                one, two = (self.model.run_with_hooks_with_saes(
                    self.ids, saes=[sae], fwd_hooks=[(where, ablate)]) for sae in (theirs, mine))
                self.near(two.numpy(), one.numpy(), 0, 1e-4)

    def test_hooks(self):
        import torch
        mine = self.opened("standard")[1]
        name = "blocks.0.hook_resid_post"
        pair = compat.Pair(self.ctx, mine)
        changed = [(name, lambda x, hook: x * 1.25)]
        with pair.batch(self.ids) as batch:
            r = self.model.run_with_hooks(self.ids, fwd_hooks=[(name, pair.lens_hook("r"))])
            q = self.model.run_with_hooks(self.ids,
                                          fwd_hooks=changed + [(name, pair.lens_hook("q"))])
            batch.logits(r, q)
        self.near(pair.drift["P"], 0.25, 1e-6)
        loss = torch.nn.functional.cross_entropy(r[:, :-1].double().flatten(0, 1),
                                                 self.ids[:, 1:].flatten())
        self.near(pair.divergence["ce_r"], float(loss), 2e-6)

    def test_heads(self):
        """hook_z has the heads on an axis of their own."""
        name = "blocks.0.attn.hook_z"
        sae = qsae.SAE(self.ctx, data("saes", "standard_hook_z"))
        collector = compat.Collector(self.ctx, sae)
        kept = []
        with collector.batch(self.ids):
            self.model.run_with_hooks(self.ids, fwd_hooks=[
                (name, collector.lens_hook()), (name, lambda x, hook: kept.append(x))])
        x = kept[0].flatten(-2, -1)
        want = metrics.Reconstruction(self.ctx, 24)
        want.update(x.numpy(), sae.reconstruct(x.numpy()))
        self.near(collector.reconstruction["fvu_dim"], want["fvu_dim"], 1e-12)


@needs("torch", "transformers")
class HuggingFace(Case):
    """The bundled model in transformers and in libqsae: the same rows come through."""

    def test_bundled(self):
        import torch
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        sae = qsae.SAE(self.ctx, SAE)
        ids = torch.randint(4, 2048, (2, 48), generator=torch.Generator().manual_seed(12))
        ids[:, 0] = 2
        mine = qsae.Model(self.ctx, MODEL).forward(ids.numpy(), taps=[sae.hook], logits=True)
        pair = compat.Pair(self.ctx, sae, special=(2,))
        with torch.no_grad(), pair.attach(model.model.layers[3]), pair.batch(ids) as batch:
            out = model(ids)
            pair.add(mine.taps[sae.hook], "q")
            batch.logits(out, mine.logits)
        self.assertLess(pair.drift["P"], 1e-5)
        self.assertLess(pair.divergence["kl_mean"], 1e-9)
        nll = nll_of(out.logits[:, :-1].numpy(), ids[:, 1:].numpy())
        self.near(pair.divergence["ce_r"], nll.mean(), 1e-6)
        self.assertEqual(pair.features["survived_percent"], 100)


@needs("torch", "nnsight")
class Nnsight(Case):
    def test_trace(self):
        import torch
        from nnsight import NNsight
        net = torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.Linear(24, 24))
        model = NNsight(net)
        x = torch_rows(2, 11, 24, 13)
        inside = compat.Pair(self.ctx, width=24)
        with inside.batch(), torch.no_grad():
            with model.trace(x):
                a = model[0].output.save()
            with model.trace(x):
                model[0].output[:] = model[0].output * 1.5
                b = model[0].output.save()
            inside.add(a, "r")
            inside.add(b, "q")
        self.near(inside.drift["P"], 0.5, 1e-6)
