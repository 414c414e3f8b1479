# SPDX-License-Identifier: BSD-2-Clause
"""evaluate() and Audit: a model against compressed copies of itself."""

import json
import os
from ctypes import byref, c_char_p, c_int64, c_size_t

from ._handle import Desk, Handle
from ._lib import bos_policy, choose, choose_documents, count, fail, lib, path_bytes, string_bytes
from ._structs import CONSTANTS, LINE, PROGRESS, AuditSettings, MergeInfo
from .context import Context
from .model import ATTENTION, COMPUTE, MEMORY

_PROFILES = {name: CONSTANTS["QSAE_PROFILE_" + name.upper()]
             for name in ("default", "article", "paper")}
_SWEEPS = {name: CONSTANTS["QSAE_SWEEP_" + name.upper()]
           for name in ("none", "layers", "modules", "kinds")}


def _condition(value):
    """A condition string, a Quantizer or the path of another checkpoint."""
    path = isinstance(value, os.PathLike)
    return string_bytes(os.fspath(value) if path else getattr(value, "spec", value), "condition")


def _strings(values, encode, what):
    if isinstance(values, (str, bytes)):
        fail("QSAE_EINVAL", f"{what}: expected a list, found one string")
    encoded = [encode(value) for value in values]
    return (c_char_p * max(len(encoded), 1))(*encoded), len(encoded)


class Audit(Handle):
    """A comparison on one text; evaluate() is the short way. Arguments as there."""

    _close = lib.qsae_audit_close

    def __init__(self, ctx, model_path, text=None, saes=(), conditions=(), profile=None,
                 compute=None, attn=None, context=0, batch=0, bos=None, tokens=0, state=None,
                 text_field=None, cross_labels=False, keep_tail=False, progress=None, sweep=None,
                 stride=0, score_from=0, order=None, shuffle=None, splice=False, top_contexts=0,
                 exclude_tokens=None, slices=(), where=(), documents=None, pack=None, process=None,
                 memory=None, stream_bytes=0, overlap_k=0, controls=False, reference_only=False,
                 probes=None, kl_divergence=False, kl_divergence_base=None, save_logits=None,
                 plan=None, contexts=(), contexts_scored=0, contexts_stride=0, shard=None,
                 cache=None, seed=0):
        super().__init__()
        self._ctx = ctx
        self._desk = desk = Desk()
        self._progress = progress
        # The audit keeps this callback for run(), so it leads to whichever desk is waiting.
        self._report = PROGRESS(lambda *args: self._relay(*args)) if progress else PROGRESS()
        settings = AuditSettings(progress=self._report, cancel=desk.token._handle)
        settings.model = path_bytes(model_path)
        settings.text = None if text is None else path_bytes(text)
        settings.kl_divergence = bool(kl_divergence)
        settings.kl_divergence_base = None if kl_divergence_base is None else path_bytes(
            kl_divergence_base)
        settings.save_logits = None if save_logits is None else path_bytes(save_logits)
        settings.conditions, settings.n_conditions = _strings(
            conditions, _condition, "conditions")
        settings.saes, settings.n_saes = _strings(saes, path_bytes, "saes")
        settings.profile = choose("profile", profile, _PROFILES)
        settings.compute = choose("compute", compute, COMPUTE)
        settings.attention = choose("attn", attn, ATTENTION)
        settings.context, settings.batch = count("context", context), count("batch", batch)
        settings.stride = count("stride", stride)
        settings.score_from = count("score_from", score_from)
        settings.order = None if order is None else path_bytes(order)
        settings.shuffle = None if shuffle is None else str(
            count("shuffle", shuffle, 0, 2**64 - 1)).encode()
        choose_documents(settings, where, documents, pack)
        settings.max_tokens = count("tokens", tokens)
        settings.bos_policy = bos_policy(bos)
        settings.state = None if state is None else path_bytes(state)
        settings.text_field = None if text_field is None else string_bytes(text_field, "text_field")
        settings.cross_labels, settings.keep_tail = bool(cross_labels), bool(keep_tail)
        settings.sweep = choose("sweep", sweep, _SWEEPS)
        settings.splice = bool(splice)
        settings.controls = bool(controls)
        if plan is not None:
            settings.plan = string_bytes(plan if isinstance(plan, str) else json.dumps(plan),
                                         "plan")
        if exclude_tokens is not None:
            if not isinstance(exclude_tokens, str):
                exclude_tokens = ",".join(str(count("exclude_tokens", i)) for i in exclude_tokens)
            settings.exclude_tokens = string_bytes(exclude_tokens, "exclude_tokens")
        settings.slices, settings.n_slices = _strings(
            slices, lambda name: string_bytes(name, "slices"), "slices")
        settings.top_contexts = count("top_contexts", top_contexts)
        settings.process = None if process is None else string_bytes(process, "process")
        settings.memory = choose("memory", None if memory == "auto" else memory,
                                 dict(MEMORY, **{"in-turn": CONSTANTS["QSAE_MEMORY_IN_TURN"]}))
        settings.cache = None if cache is None else path_bytes(cache)
        if shard is not None:
            index, shards = shard
            settings.shard_count = count("shard", shards, 1)
            settings.shard_index = count("shard", index, 0, shards - 1)
        settings.stream_bytes = count("stream_bytes", stream_bytes)
        settings.overlap_k = count("overlap_k", overlap_k)
        settings.seed = count("seed", seed)
        settings.reference_only = bool(reference_only)
        settings.probes = None if probes is None else path_bytes(probes)
        lengths = [count("contexts", n) for n in contexts]
        settings.contexts = (c_int64 * max(len(lengths), 1))(*lengths)
        settings.n_contexts = len(lengths)
        settings.contexts_scored = count("contexts_scored", contexts_scored)
        settings.contexts_stride = count("contexts_stride", contexts_stride)
        desk.run(lib.qsae_audit_open, ctx.pointer, byref(settings), byref(self._handle))

    def _relay(self, _cookie, done, total, unit, phase):
        desk = self._desk
        return desk.guard(lambda: desk.ask(self._progress, done, total, unit.decode(),
                                           phase.decode("utf-8", "replace")))

    def run(self):
        """Measures to the end of the text. What interrupts it (KeyboardInterrupt, an exception of
        progress) leaves it at the last whole batch; a further call goes on from there."""
        with self._use() as handle:
            self._desk.again()
            self._desk.run(lib.qsae_audit_run, handle)

    def result(self):
        """The result document (doc/result.md) of what has been measured so far, as a dict."""
        return json.loads(self.result_text())

    def result_text(self):
        """The same as JSON text."""
        data, size = c_char_p(), c_size_t()
        with self._use() as handle:
            lib.qsae_audit_result(handle, byref(data), byref(size))
            return data.value.decode("utf-8")

    def plan(self, bits, by="kl"):
        """A mixed-precision plan from what a sweep has measured (doc/result.md, plan), a dict: the
        least mean KL (by "dce": rise in cross-entropy) within bits per weight. Its "condition" goes
        among the conditions of another audit, and itself into that one's argument plan."""
        data = c_char_p()
        with self._use() as handle:
            lib.qsae_audit_plan(handle, float(bits), choose("by", by, {"kl": 0, "dce": 1}),
                                byref(data))
            return json.loads(data.value)

    def features(self, sae=0):
        """What has been measured of every feature of an SAE (doc/result.md, features): a list of
        dicts. The audit must have been made with top_contexts."""
        lines, desk = [], self._desk

        def line(_cookie, text, n_bytes):
            return desk.guard(lambda: lines.append(json.loads(text)))

        with self._use() as handle:
            desk.again()
            desk.run(lib.qsae_audit_features, handle, count("sae", sae), LINE(line), None)
        return lines


def evaluate(model_path, saes=(), text=None, conditions=(), profile="default", compute=None,
             attn=None, context=0, batch=0, bos=None, tokens=0, threads=None, cpu=None, state=None,
             progress=None, ctx=None, text_field=None, cross_labels=False, keep_tail=False,
             sweep=None, stride=0, score_from=0, order=None, shuffle=None, splice=False,
             exclude_tokens=None, slices=(), where=(), documents=None, pack=None, process=None,
             memory=None, stream_bytes=0, controls=False, probes=None, overlap_k=0,
             kl_divergence=False, kl_divergence_base=None, save_logits=None, reference_only=False,
             contexts=(), contexts_scored=0, contexts_stride=0, shard=None, cache=None,
             seed=0):
    """Compares a model with compressed copies of itself; returns the result document as a dict.

    model_path    folder or GGUF file of the reference model
    saes          list of "FOLDER", "FOLDER@LAYER" or "FOLDER@LAYER:SITE"
    text          file or folder
    conditions    list of condition strings, other checkpoints (folders, GGUF files) or Quantizer
                  objects
    profile       "default", "article" or "paper": what the arguments below are if not given
    compute       "f32" or "bf16"
    attn          "sdpa", "eager" or "fp32"
    context       tokens per chunk
    batch         chunks per logical batch
    stride        of windows of context tokens, each token scored once; 0: chunks side by side
    score_from    positions of a chunk or window before it are not scored
    order         file of document indices to read, in that order
    shuffle       seed: documents in the order of numpy's default_rng(seed).shuffle
    where         list of "KEY=VALUE" and "KEY!=VALUE" about the metadata (doc/text.md)
    documents     (first, end) of that order; None in place of either: no limit
    pack          "stream", "tl", "saelens" or "tl2"
    bos           "none", "stream_start", "doc_start", "chunk_start" or "chunk_replace"
    tokens        stop after the chunk that reaches this many
    threads, cpu  of the Context that is made if ctx is None
    splice        True: every model also runs with each SAE spliced in and with its input ablated
    memory        "resident", or "streamed": layer by layer from the files; None or "auto": streamed
                  where the models would take more than 80% of the machine's memory; "in-turn":
                  one model at a time, the reference's rows in a temporary file
    cache         folder of that file; None: that of state, or /var/tmp
    shard         (i, n): part i = 0..n-1 of the text alone, into state; merge_states joins them
    stream_bytes  of activations that go through the layers together when streamed; 0: 1 GiB
    sweep         "layers", "modules" or "kinds": each condition on one part of the model at a time
    controls      True: noise controls run beside the conditions (doc/evaluate.md)
    exclude_tokens  "special" or a list of ids: tokens that features and splices do not count
    slices        list of ways to divide the tokens, each part with figures of its own: "position",
                  "class", "script", "frequency", "frequency=FILE", "length", "entropy",
                  "entropy=0.1,1", a key of the documents' metadata, or a product: "class*entropy"
    process       what is done to the weights first: "tl" (all that TransformerLens does to a model
                  it loads), some of its steps as in Weights, "none"; None = the profile's
    probes        file of a probe set that every model is asked after the text (doc/probes.md)
    seed          of the draws of all intervals
    overlap_k     number of likeliest tokens whose overlap is measured (10)
    kl_divergence  True: llama.cpp's report of each condition (llama_cpp), on its chunks
    kl_divergence_base  base-logit file of llama.cpp that the model and the conditions are compared
                  with; text may then be None
    save_logits   base-logit file to write of the reference
    reference_only  True: without conditions, profiles article and paper run none of their own
    contexts      list of window lengths at which the same tokens are measured, too (doc/evaluate.md):
                  the last contexts_scored of each window, one window every contexts_stride tokens
    state         file: gone on from if it exists, kept up to date
    progress      callable(done, total, unit, phase); what it raises ends the call
    """
    if text is None and kl_divergence_base is None:
        fail("QSAE_EINVAL", "evaluate: text is missing")
    if ctx is not None and not (threads is None and cpu is None):
        fail("QSAE_EINVAL", "evaluate: threads and cpu belong to ctx, which is given")
    own = Context(threads, cpu) if ctx is None else None
    try:
        with Audit(ctx or own, model_path, text, saes, conditions, profile, compute, attn, context,
                   batch, bos, tokens, state, text_field, cross_labels, keep_tail,
                   progress, sweep, stride, score_from, order, shuffle, splice,
                   0, exclude_tokens, slices, where, documents, pack, process, memory,
                   stream_bytes, overlap_k, controls, reference_only, probes,
                   kl_divergence, kl_divergence_base, save_logits, None, contexts,
                   contexts_scored, contexts_stride, shard, cache, seed) as audit:
            audit.run()
            return audit.result()
    finally:
        if own is not None:
            own.close()


def merge_states(files, out, numerics=False, ctx=None):
    """Makes the state file `out` of those of shards, in any order; evaluate() with it as state has
    the result. numerics: also of machines whose arithmetic differs. Returns a dict: chunks,
    measured_chunks, gaps (ranges that are missing), gap_from and gap_to (the first of them)."""
    paths, n = _strings(files, path_bytes, "files")
    own = Context() if ctx is None else None
    info = MergeInfo()
    try:
        lib.qsae_audit_merge((ctx or own).pointer, paths, n, path_bytes(out),
                             CONSTANTS["QSAE_MERGE_NUMERICS"] if numerics else 0, byref(info))
        return info.as_dict()
    finally:
        if own is not None:
            own.close()
