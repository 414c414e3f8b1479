/* SPDX-License-Identifier: BSD-2-Clause */
/* A Hugging Face folder in, the same model under a condition out. See doc/quantize.md. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

#include "options.h"
#include "program.h"

enum { OPT_DTYPE = 1, OPT_SHARD_SIZE, OPT_THREADS, OPT_CPU, OPT_READ_FILES, OPT_QUIET };

static const struct option_row rows[] = {
    { NULL, NULL, NULL, "options", 0 },
    { "dtype", NULL, "bf16|f16|f32", "cast every floating-point tensor first, as dtype= would",
      OPT_DTYPE },
    { "shard-size", NULL, "N", "most bytes of a weight file: 2GB, 500MB (default: 5GB)",
      OPT_SHARD_SIZE },
    { "threads", "t", "N", "1 to 1024 (default: the CPUs of the process)", OPT_THREADS },
    { "cpu", NULL, "c|avx2|avx512|avx512bf16|amx",
      "highest kernel level; +blis: f32 products by BLIS", OPT_CPU },
    { "read-files", "no-mmap", NULL, "read files instead of mapping them", OPT_READ_FILES },
    { "quiet", "q", NULL, "no progress line", OPT_QUIET },
};

static const char *const operands[] = {
    "MODEL", "a Hugging Face folder of plain weights",
    "CONDITION", "what happens to them: nf4, fp4, llm.int8 become a bitsandbytes folder that "
    "transformers loads; rtn, ggml, +prune and control plain weights with the values they leave",
    "OUT", "a folder that is absent or empty",
    NULL
};

static const char *const examples[] = {
    "a folder that transformers loads in 4 bits",
    "gemma-3-4b-pt nf4:double=1 gemma-3-4b-pt-nf4",
    "8 bits, but for one kind of layer",
    "gemma-3-4b-pt llm.int8:threshold=6@skip=down_proj gemma-3-4b-pt-int8",
    "plain weights rounded to 4 bits",
    "Llama-3.2-1B rtn:bits=4,group=128 llama-rtn4 --dtype bf16",
    NULL
};

static const char *const statuses[] = {
    "0", "done",
    "1", "failed; the reason is on standard error, and there is no OUT",
    "2", "wrong usage",
    "130", "interrupted: there is no OUT",
    NULL
};

static const struct program program = {
    .name = "quantize",
    .summary = "Writes the model of a folder under a condition to another folder.",
    .synopsis = "MODEL CONDITION OUT [options]",
    .operands = operands,
    .options = rows,
    .n_options = sizeof rows / sizeof rows[0],
    .examples = examples,
    .statuses = statuses,
};

struct options {
    const char *model, *condition, *out;
    qsae_context_settings context;
    qsae_save_settings save;
    bool quiet;
};

static int32_t dtype_of(const char *text)
{
    static const char *const names[] = { "bf16", "f16", "f32", NULL };
    static const int32_t dtypes[] = { QSAE_BF16, QSAE_F16, QSAE_F32 };
    return dtypes[option_choice("dtype", text, names)];
}

/* A whole number of at least 1, with or without a decimal unit. */
static uint64_t bytes(const char *option, const char *text)
{
    static const char *const names[] = { "", "KB", "MB", "GB", "TB" };
    char *end;
    errno = 0;
    const unsigned long long v = strtoull(text, &end, 10);
    uint64_t factor = 1;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++, factor *= 1000)
        if (!errno && *text >= '0' && *text <= '9' && strcmp(end, names[i]) == 0 && v >= 1 &&
            v <= INT64_MAX / factor)
            return v * factor;
    usage_error("--%s: expected a whole number of at least 1, alone or with KB, MB, GB or TB, "
                "found \"%s\"", option, text);
}

static void parse(int argc, char **argv, struct options *o)
{
    struct arguments arguments = arguments_begin(&program, argc, argv);
    const char *v, *found[3] = { NULL };
    size_t n = 0;
    int c;
    qsae_context_settings_init(&o->context, sizeof o->context);
    qsae_save_settings_init(&o->save, sizeof o->save);
    while ((c = arguments_next(&arguments, &v)) != ARGUMENT_END)
        switch (c) {
        case ARGUMENT_OPERAND: found[n < 3 ? n : 0] = v; n++; break;
        case OPT_DTYPE: o->save.dtype = dtype_of(v); break;
        case OPT_SHARD_SIZE: o->save.max_shard_bytes = bytes("shard-size", v); break;
        case OPT_THREADS: o->context.threads = option_threads(v); break;
        case OPT_CPU: o->context.cpu = v; break;
        case OPT_READ_FILES: o->context.files = QSAE_FILES_READ; break;
        case OPT_QUIET: o->quiet = true; break;
        default: break;
        }
    if (n != 3)
        usage_error("expected MODEL, CONDITION and OUT");
    o->model = found[0];
    o->condition = found[1];
    o->out = found[2];
}

int main(int argc, char **argv)
{
    struct options o = { .quiet = false };
    qsae_context *context = NULL;
    qsae_weights *weights = NULL;
    qsae_cancel_token *cancel = NULL;
    parse(argc, argv, &o);
    o.context.log = program_log;
    int32_t st = program_cancel_open(&cancel);
    o.save.cancel = cancel;
    if (progress_wanted(o.quiet))
        o.save.progress = progress_line;
    if (st == QSAE_OK)
        st = qsae_context_open(&o.context, &context);
    if (st == QSAE_OK)
        st = qsae_weights_open(context, o.model, &weights);
    if (st == QSAE_OK)
        st = qsae_weights_save(weights, o.condition, o.out, &o.save);
    progress_clear();
    if (st != QSAE_OK)
        complain("%s", qsae_error_message());
    qsae_weights_close(&weights);
    qsae_context_close(&context);
    qsae_cancel_token_close(&cancel);
    return program_end(st == QSAE_OK          ? EXIT_DONE
                       : st == QSAE_ECANCELED ? EXIT_INTERRUPTED
                                              : EXIT_FAILED);
}
