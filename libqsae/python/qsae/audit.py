# SPDX-License-Identifier: BSD-2-Clause
"""evaluate() and Audit: a model against compressed copies of itself."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from ctypes import byref, c_char_p, c_int64, c_size_t
from typing import TYPE_CHECKING, Any, Callable

from ._handle import CancelToken, Desk, Handle, Progress
from ._lib import bos_policy, choose, choose_documents, count, fail, lib, path_bytes, string_bytes
from ._structs import CONSTANTS, LINE, PROGRESS, AuditSettings, MergeInfo
from .context import Context
from .frames import frame
from .model import ATTENTION, COMPUTE, MEMORY
from .sae import SAE
from .sources import is_saelens, sae_source, source_label, text_source

if TYPE_CHECKING:
    from .model import Path

_PROFILES = {name: CONSTANTS["QSAE_PROFILE_" + name.upper()]
             for name in ("default", "article", "paper")}
_SWEEPS = {name: CONSTANTS["QSAE_SWEEP_" + name.upper()]
           for name in ("none", "layers", "modules", "kinds")}


def _condition(value: Any) -> bytes:
    """A condition string, a Quantizer or the path of another checkpoint."""
    path = isinstance(value, os.PathLike)
    return string_bytes(os.fspath(value) if path else getattr(value, "spec", value), "condition")


def _strings(values: Iterable[Any], encode: Callable[[Any], bytes], what: str) -> tuple[Any, int]:
    if isinstance(values, (str, bytes)):
        fail("QSAE_EINVAL", f"{what}: expected a list, found one string")
    encoded = [encode(value) for value in values]
    return (c_char_p * max(len(encoded), 1))(*encoded), len(encoded)


class Result(dict[str, Any]):
    """A result document (doc/result.md): a dict that can become pandas frames."""

    def to_pandas(self, table: str = "conditions") -> Any:
        """A table of it as a pandas.DataFrame, see qsae.frame()."""
        return frame(self, table)


def _sae(value: Any, folders: contextlib.ExitStack) -> bytes:
    """The string of an SAE: of a path, an SAE, a SAELens module; or (one of them, "LAYER:SITE")."""
    where = None
    if isinstance(value, tuple) and len(value) == 2:
        value, where = value
    if isinstance(value, SAE):
        value = value.info["path"]
        if value.startswith("<"):
            fail("QSAE_EINVAL", f"saes: an SAE made of a SAELens module, {value}: expected the "
                                "module itself")
    elif is_saelens(value):
        value = folders.enter_context(sae_source(value))
    path = path_bytes(value)
    return path if where is None else path + b"@" + string_bytes(str(where), "saes")


class Audit(Handle):
    """A comparison on one text; evaluate() is the short way. Arguments as there."""

    _close = lib.qsae_audit_close

    def __init__(self, ctx: Context, model_path: Path, text: Any = None, saes: Iterable[Any] = (),
                 conditions: Iterable[Any] = (), profile: str | None = None,
                 compute: str | None = None, attn: str | None = None, context: int = 0,
                 batch: int = 0, bos: str | None = None, tokens: int = 0, state: Path | None = None,
                 text_field: str | None = None, cross_labels: bool = False, keep_tail: bool = False,
                 progress: Progress | None = None, sweep: str | None = None, stride: int = 0,
                 score_from: int = 0, order: Path | None = None, shuffle: int | None = None,
                 splice: bool = False, top_contexts: int = 0,
                 exclude_tokens: str | Iterable[int] | None = None, slices: Iterable[str] = (),
                 where: Iterable[str] = (), documents: tuple[int | None, int | None] | None = None,
                 pack: str | None = None, process: str | None = None, memory: str | None = None,
                 stream_bytes: int = 0, overlap_k: int = 0, controls: bool = False,
                 reference_only: bool = False, probes: Path | None = None,
                 kl_divergence: bool = False, kl_divergence_base: Path | None = None,
                 save_logits: Path | None = None, plan: str | dict[str, Any] | None = None,
                 contexts: Iterable[int] = (), contexts_scored: int = 0, contexts_stride: int = 0,
                 shard: tuple[int, int] | None = None, cache: Path | None = None,
                 cancel: CancelToken | None = None, seed: int = 0) -> None:
        super().__init__()
        self._ctx = ctx
        self._source: tuple[str, str] | None = None  # path of a text that was none, and its name
        self._desk = desk = Desk(cancel)
        self._progress = progress
        # The audit keeps this callback for run(), so it leads to whichever desk is waiting.
        self._report = PROGRESS(lambda *args: self._relay(*args)) if progress else PROGRESS()
        settings = AuditSettings(progress=self._report, cancel=desk.token._handle)
        settings.model = path_bytes(model_path)
        settings.kl_divergence = bool(kl_divergence)
        settings.kl_divergence_base = None if kl_divergence_base is None else path_bytes(
            kl_divergence_base)
        settings.save_logits = None if save_logits is None else path_bytes(save_logits)
        settings.conditions, settings.n_conditions = _strings(
            conditions, _condition, "conditions")
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
        with contextlib.ExitStack() as folders:
            settings.saes, settings.n_saes = _strings(saes, lambda sae: _sae(sae, folders), "saes")
            if text is not None:
                file, field = folders.enter_context(text_source(text, text_field))
                settings.text = path_bytes(file)
                if field is not None:
                    settings.text_field = string_bytes(field, "text_field")
                if file is not text:
                    self._source = (file, source_label(text))
            desk.run(lib.qsae_audit_open, ctx.pointer, byref(settings), byref(self._handle))

    def _relay(self, _cookie: Any, done: int, total: int, unit: bytes, phase: bytes) -> int:
        desk, progress = self._desk, self._progress
        if progress is None:
            return 0
        return desk.guard(lambda: desk.ask(progress, done, total, unit.decode(),
                                           phase.decode("utf-8", "replace")))

    def run(self) -> None:
        """Measures to the end of the text. What interrupts it (KeyboardInterrupt, an exception of
        progress) leaves it at the last whole batch; a further call goes on from there."""
        with self._use() as handle:
            self._desk.again()
            self._desk.run(lib.qsae_audit_run, handle)

    def result(self) -> Result:
        """The result document (doc/result.md) of what has been measured so far, a dict."""
        return Result(json.loads(self.result_text()))

    def result_text(self) -> str:
        """The same as JSON text."""
        data, size = c_char_p(), c_size_t()
        with self._use() as handle:
            lib.qsae_audit_result(handle, byref(data), byref(size))
            out = (data.value or b"").decode("utf-8")
        if self._source is not None:
            path, label = (json.dumps(name, ensure_ascii=False) for name in self._source)
            out = out.replace(path, label)
        return out

    def plan(self, bits: float, by: str = "kl") -> dict[str, Any]:
        """A mixed-precision plan from what a sweep has measured (doc/result.md, plan), a dict: the
        least mean KL (by "dce": rise in cross-entropy) within bits per weight. Its "condition" goes
        among the conditions of another audit, and itself into that one's argument plan."""
        data = c_char_p()
        with self._use() as handle:
            lib.qsae_audit_plan(handle, float(bits), choose("by", by, {"kl": 0, "dce": 1}),
                                byref(data))
            out: dict[str, Any] = json.loads(data.value or b"{}")
            return out

    def features(self, sae: int = 0) -> list[dict[str, Any]]:
        """What has been measured of every feature of an SAE (doc/result.md, features): a list of
        dicts. The audit must have been made with top_contexts."""
        lines: list[dict[str, Any]] = []
        desk = self._desk

        def line(_cookie: Any, text: bytes, _n_bytes: int) -> int:
            return desk.guard(lambda: lines.append(json.loads(text)))

        with self._use() as handle:
            desk.again()
            desk.run(lib.qsae_audit_features, handle, count("sae", sae), LINE(line), None)
        return lines


def evaluate(model_path: Path, saes: Iterable[Any] = (), text: Any = None,
             conditions: Iterable[Any] = (), profile: str | None = "default",
             compute: str | None = None, attn: str | None = None, context: int = 0, batch: int = 0,
             bos: str | None = None, tokens: int = 0, threads: int | None = None,
             cpu: str | None = None, state: Path | None = None, progress: Progress | None = None,
             ctx: Context | None = None, text_field: str | None = None, cross_labels: bool = False,
             keep_tail: bool = False, sweep: str | None = None, stride: int = 0,
             score_from: int = 0, order: Path | None = None, shuffle: int | None = None,
             splice: bool = False, exclude_tokens: str | Iterable[int] | None = None,
             slices: Iterable[str] = (), where: Iterable[str] = (),
             documents: tuple[int | None, int | None] | None = None, pack: str | None = None,
             process: str | None = None, memory: str | None = None, stream_bytes: int = 0,
             controls: bool = False, probes: Path | None = None, overlap_k: int = 0,
             kl_divergence: bool = False, kl_divergence_base: Path | None = None,
             save_logits: Path | None = None, reference_only: bool = False,
             contexts: Iterable[int] = (), contexts_scored: int = 0, contexts_stride: int = 0,
             shard: tuple[int, int] | None = None, cache: Path | None = None,
             cancel: CancelToken | None = None, seed: int = 0) -> Result:
    """Compares a model with compressed copies of itself; returns the result document as a dict.

    model_path    folder or GGUF file of the reference model
    saes          list of "FOLDER", "FOLDER@LAYER" or "FOLDER@LAYER:SITE", SAE objects, SAELens
                  modules (written to a temporary folder while the audit opens), or pairs of one of
                  these and "LAYER" or "LAYER:SITE"
    text          file or folder; or rows: a datasets.Dataset, an iterable of mappings or of str, a
                  TextSource. Their other columns are the metadata that slices and where ask for
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
    contexts      list of window lengths at which the same tokens are measured, too
                  (doc/evaluate.md): the last contexts_scored of each window, one window
                  every contexts_stride tokens
    state         file: gone on from if it exists, kept up to date
    progress      callable(done, total, unit, phase); what it raises ends the call
    cancel        ends the call when it is set, at the last whole batch
    """
    if text is None and kl_divergence_base is None:
        fail("QSAE_EINVAL", "evaluate: text is missing")
    if ctx is not None and not (threads is None and cpu is None):
        fail("QSAE_EINVAL", "evaluate: threads and cpu belong to ctx, which is given")
    own = Context(threads, cpu) if ctx is None else None
    try:
        with Audit(ctx or own, model_path,  # type: ignore[arg-type]
                   text, saes, conditions, profile, compute, attn, context,
                   batch, bos, tokens, state, text_field, cross_labels, keep_tail,
                   progress, sweep, stride, score_from, order, shuffle, splice,
                   0, exclude_tokens, slices, where, documents, pack, process, memory,
                   stream_bytes, overlap_k, controls, reference_only, probes,
                   kl_divergence, kl_divergence_base, save_logits, None, contexts,
                   contexts_scored, contexts_stride, shard, cache, cancel, seed) as audit:
            audit.run()
            return audit.result()
    finally:
        if own is not None:
            own.close()


def merge_states(files: Iterable[Path], out: Path, numerics: bool = False,
                 ctx: Context | None = None) -> dict[str, Any]:
    """Makes the state file `out` of those of shards, in any order; evaluate() with it as state has
    the result. numerics: also of machines whose arithmetic differs. Returns a dict: chunks,
    measured_chunks, gaps (ranges that are missing), gap_from and gap_to (the first of them)."""
    paths, n = _strings(files, path_bytes, "files")
    own = Context() if ctx is None else None
    info = MergeInfo()
    try:
        lib.qsae_audit_merge((ctx or own).pointer, paths,  # type: ignore[union-attr]
                             n, path_bytes(out),
                             CONSTANTS["QSAE_MERGE_NUMERICS"] if numerics else 0, byref(info))
        return info.as_dict()
    finally:
        if own is not None:
            own.close()
