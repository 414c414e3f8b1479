/* SPDX-License-Identifier: BSD-2-Clause */
#include "evaluate_options.h"

static const struct option_row rows[] = {
    { NULL, NULL, NULL, "what is compared", 0 },
    { "model", "m", "MODEL", "the same as the operand", OPT_MODEL },
    { "condition", NULL, "SPEC|MODEL2",
      "what to compare with (repeatable): nf4:block=64,double=1, llm.int8:threshold=6, rtn:bits=4, "
      "ggml:q4_k, none+prune:match=(rtn:bits=6), none+kv:k=q8_0,v=q4_0, or another checkpoint: "
      "a folder or a GGUF file", OPT_CONDITION },
    { "sae", NULL, "SAE[@LAYER[:SITE[:SITE_OUT]]]",
      "a sparse autoencoder, a transcoder, or all layers of a cross-layer one (repeatable)",
      OPT_SAE },
    { "profile", NULL, "default|article|paper", "what is left open follows a published study",
      OPT_PROFILE },
    { "process", NULL, "WHAT",
      "weights processed first: fold_ln, center_writing_weights, center_unembed, "
      "fold_value_biases (commas between), tl (all of them, as TransformerLens loads a model) or "
      "none", OPT_PROCESS },
    { "compute", NULL, "f32|bf16", "arithmetic of the models", OPT_COMPUTE },
    { "attn", NULL, "eager|sdpa|fp32", "attention's rounding points in bf16", OPT_ATTN },
    { "sweep", NULL, "layers|modules|kinds",
      "every condition on one layer, module or kind of module at a time, ranked by what it costs",
      OPT_SWEEP },
    { "plan", NULL, "BITS",
      "a mixed-precision plan within BITS per weight, made of the conditions and the weights as "
      "they are, and its measurement; parts are those of --sweep (default: layers)", OPT_PLAN },
    { "plan-by", NULL, "kl|dce", "what the plan keeps small (default: kl)", OPT_PLAN_BY },
    { "controls", NULL, NULL, "noise controls beside the conditions: how much is nothing?",
      OPT_CONTROLS },

    { NULL, NULL, NULL, "text", 0 },
    { "text", "f file", "FILE|DIR", "plain text, JSON lines, token ids; folders of them",
      OPT_TEXT },
    { "context", "c ctx-size window", "N", "tokens per chunk, or per window with --stride",
      OPT_CONTEXT },
    { "batch", "b", "N", "chunks (not tokens) that share a forward call; LLM.int8 depends on it",
      OPT_BATCH },
    { "stride", NULL, "N",
      "windows that begin every N tokens; each token is scored once, with the longest context",
      OPT_STRIDE },
    { "score-from", NULL, "N", "positions of a chunk or window before N are not scored",
      OPT_SCORE_FROM },
    { "bos", NULL, "none|stream_start|doc_start|chunk_start|chunk_replace", "where BOS stands",
      OPT_BOS },
    { "tokens", NULL, "N", "stop after the chunk that reaches N tokens", OPT_TOKENS },
    { "order", NULL, "FILE", "documents to read, by index: one per line, or .npy", OPT_ORDER },
    { "shuffle", NULL, "SEED",
      "documents in the order of NumPy's default_rng(SEED).shuffle", OPT_SHUFFLE },
    { "documents", NULL, "FROM:TO", "of that order, the first one being 0, without TO itself",
      OPT_DOCUMENTS },
    { "where", NULL, "KEY=VALUE",
      "documents whose metadata says so; KEY!=VALUE: that do not (repeatable)", OPT_WHERE },
    { "pack", NULL, "stream|tl|saelens|tl2", "how documents become chunks", OPT_PACK },
    { "text-field", NULL, "KEY", "of JSON lines (default: text)", OPT_TEXT_FIELD },
    { "cross-labels", NULL, NULL, "the last token of a chunk predicts the first of the next",
      OPT_CROSS_LABELS },
    { "keep-tail", NULL, NULL, "score the last, shorter chunk too", OPT_KEEP_TAIL },
    { "sliding", NULL, "TEXT",
      "the paper's second perplexity: conditions rtn: once more with axis=row on TEXT, windows of "
      "2048 tokens, 512 apart", OPT_SLIDING },
    { "contexts", NULL, "N,N,...", "the same tokens after contexts of several lengths, too",
      OPT_CONTEXTS },
    { "contexts-scored", NULL, "N", "tokens measured of each window", OPT_CONTEXTS_SCORED },
    { "contexts-stride", NULL, "N", "tokens between the longest windows", OPT_CONTEXTS_STRIDE },
    { "probes", NULL, "FILE",
      "ask every model which of two continuations is likelier: JSON lines {\"context\", \"good\", "
      "\"bad\", \"tags\"}", OPT_PROBES },

    { NULL, NULL, NULL, "figures", 0 },
    { "splice", NULL, NULL, "run every model with each SAE spliced in, too: CE recovered",
      OPT_SPLICE },
    { "slice", NULL, "KEY",
      "figures of each part, too: position, class, script, length, frequency, entropy, a key of "
      "the text, KEY*KEY (repeatable)", OPT_SLICE },
    { "worst", NULL, "N", "the tokens and documents hurt most", OPT_WORST },
    { "exclude-tokens", NULL, "IDS",
      "tokens that features do not count: special, or 2,106,107", OPT_EXCLUDE_TOKENS },
    { "overlap", NULL, "K", "likeliest tokens whose overlap is measured (default: 10)",
      OPT_OVERLAP },
    { "compat", NULL, "saelens-6.18|saelens-current|saebench|dictionary_learning|sparsify",
      "print that tool's figures too", OPT_COMPAT },
    { "kl-divergence", NULL, NULL, "print llama.cpp's report of each condition, too", OPT_KL },
    { "kl-divergence-base", NULL, "FILE",
      "the same of MODEL and the conditions against llama.cpp's base logits; without --text on the "
      "tokens of FILE", OPT_KL_BASE },
    { "save-logits", "save-all-logits", "FILE",
      "write the base logits of MODEL as llama.cpp does", OPT_SAVE_LOGITS },
    { "seed", NULL, "N", "of the draws of all intervals (default 0)", OPT_SEED },

    { NULL, NULL, NULL, "features", 0 },
    { "features", NULL, "OUT", "write every feature: JSON lines with contexts, or OUT.csv",
      OPT_FEATURES },
    { "top", NULL, "N", "contexts of each feature (default: 10)", OPT_TOP },
    { "predict", NULL, "RESULT",
      "features at risk, by the fit in an earlier result and a pass of MODEL alone", OPT_PREDICT },
    { "predict-condition", NULL, "LABEL", "the fit on the condition whose label begins so",
      OPT_PREDICT_CONDITION },
    { "predict-features", NULL, "FILE",
      "the same of the lines that --features wrote, without a MODEL", OPT_PREDICT_FEATURES },
    { "at-risk", NULL, "OUT", "write all of them, ranked: JSON lines, or OUT.csv", OPT_AT_RISK },

    { NULL, NULL, NULL, "output and state", 0 },
    { "json", "o output", "OUT",
      "write the whole result; -: to standard output, the tables to standard error then",
      OPT_JSON },
    { "wide", NULL, NULL, "one line per condition and SAE, however long, for grep", OPT_WIDE },
    { "state", NULL, "FILE", "go on from this file if it exists, keep it up to date", OPT_STATE },
    { "shard", NULL, "I/N", "measure part I of N of the text; needs --state, for merge",
      OPT_SHARD },
    { "quiet", "q", NULL, "no progress line; no tables either where the result goes to standard "
      "output", OPT_QUIET },

    { NULL, NULL, NULL, "machine", 0 },
    { "threads", "t", "N", "1 to 1024 (default: the CPUs of the process)", OPT_THREADS },
    { "cpu", NULL, "c|avx2|avx512|avx512bf16|amx",
      "highest kernel level; +blis: f32 products by BLIS", OPT_CPU },
    { "memory", NULL, "auto|resident|streamed|in-turn",
      "streamed: layer by layer from the files, for models larger than memory (auto: where they "
      "are); in-turn: one model at a time, the reference's rows on disk; the same figures",
      OPT_MEMORY },
    { "cache", NULL, "FOLDER",
      "in-turn: for the rows (default: that of --state, or /var/tmp)", OPT_CACHE },
    { "stream-bytes", NULL, "N", "streamed: bytes of activations carried from layer to layer",
      OPT_STREAM_BYTES },
    { "pin", NULL, NULL, "keep each thread of the library on one CPU", OPT_PIN },
    { "share-weights", NULL, "FOLDER",
      "hold packed weights there, once for all processes that name it; no: in memory of this one",
      OPT_SHARE_WEIGHTS },
    { "read-files", "no-mmap", NULL, "read files instead of mapping them", OPT_READ_FILES },
};

static const char *const operands[] = {
    "MODEL", "a folder of a checkpoint, or a GGUF file", NULL
};

static const char *const examples[] = {
    "two ways to quantize, a table and the whole result",
    "model --text wiki.jsonl --condition nf4 --condition rtn:bits=4 --json result.json",
    "with an SAE on layer 17, as the article did it",
    "gemma-3-4b-pt --text pile.jsonl --profile article --sae sae@17 --json result.json",
    "another checkpoint, by parts of the text, in a run that can be stopped",
    "model -f text.txt --condition model-q4_k_m.gguf --slice class --state run.state",
    "which layers need their bits?",
    "model --text t.jsonl --tokens 20000 --condition rtn:bits=3 --sweep layers",
    NULL
};

static const char *const statuses[] = {
    "0", "done",
    "1", "failed; the reason is on standard error",
    "2", "wrong usage",
    "130", "interrupted: Ctrl-C once; with --state the same command goes on",
    NULL
};

const struct program evaluate_program = {
    .name = "evaluate",
    .summary = "Compares a model with compressed copies of itself, in one pass over one text.",
    .synopsis = "MODEL --text FILE|DIR [--condition SPEC|MODEL2]... [--sae SAE]... [options]",
    .operands = operands,
    .options = rows,
    .n_options = sizeof rows / sizeof rows[0],
    .examples = examples,
    .statuses = statuses,
};
