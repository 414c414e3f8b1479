/* SPDX-License-Identifier: BSD-2-Clause */
/* A Hugging Face folder in, the same model under a condition out. See doc/quantize.md. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qsae/qsae.h>

static const char usage[] =
    "usage: quantize MODEL CONDITION OUT [options]\n"
    "  MODEL                  a Hugging Face folder of plain weights\n"
    "  CONDITION              what happens to them: nf4, fp4, llm.int8 become a bitsandbytes\n"
    "                         folder that transformers loads; rtn, ggml, +prune and control plain\n"
    "                         weights\n"
    "                         with the values they leave\n"
    "  OUT                    a folder that is absent or empty\n"
    "  --dtype bf16|f16|f32   cast every floating-point tensor first, as torch_dtype= would\n"
    "  --shard-size N         most bytes of a weight file: 2GB, 500MB (default 5GB)\n"
    "  --threads N --cpu LEVEL    c, avx2, avx512, avx512bf16 or amx\n"
    "  --read-files           read files instead of mapping them\n"
    "  --quiet                no progress line\n"
    "  --version, --help\n"
    "examples:\n"
    "  quantize gemma-3-4b-pt nf4:double=1 gemma-3-4b-pt-nf4\n"
    "  quantize gemma-3-4b-pt llm.int8:threshold=6@skip=down_proj gemma-3-4b-pt-int8\n"
    "  quantize Llama-3.2-1B rtn:bits=4,group=128 llama-rtn4 --dtype bf16\n";

static qsae_cancel_token *cancel;

static void on_signal(int number)
{
    qsae_cancel_token_cancel(cancel);
    signal(number, SIG_DFL); /* a second one ends the program at once */
}

static int32_t on_progress(void *cookie, int64_t done, int64_t total, const char *unit,
                           const char *phase)
{
    (void)cookie;
    fprintf(stderr, "\r\033[K%s: %lld / %lld %s", phase, (long long)done, (long long)total, unit);
    fflush(stderr);
    return QSAE_OK;
}

static void on_log(void *cookie, int32_t level, const char *message)
{
    (void)cookie;
    fprintf(stderr, "quantize: %s%s\n", level == QSAE_LOG_WARNING ? "warning: " : "", message);
}

struct options {
    const char *model, *condition, *out;
    qsae_context_settings context;
    qsae_save_settings save;
    int quiet;
};

static const struct option longs[] = {
    { "dtype", required_argument, NULL, 'd' },   { "shard-size", required_argument, NULL, 's' },
    { "threads", required_argument, NULL, 'j' }, { "cpu", required_argument, NULL, 'u' },
    { "read-files", no_argument, NULL, 'r' },    { "quiet", no_argument, NULL, 'q' },
    { "version", no_argument, NULL, 'V' },       { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};

static int32_t dtype_of(const char *text)
{
    if (strcmp(text, "bf16") == 0)
        return QSAE_BF16;
    if (strcmp(text, "f16") == 0)
        return QSAE_F16;
    if (strcmp(text, "f32") == 0)
        return QSAE_F32;
    fprintf(stderr, "quantize: --dtype: \"%s\" is unknown; expected bf16, f16, f32\n", text);
    exit(2);
}

/* A whole number of at least 1, with a decimal unit if `units`. */
static uint64_t number(const char *option, const char *text, int units, uint64_t most)
{
    static const char *const names[] = { "", "KB", "MB", "GB", "TB" };
    char *end;
    errno = 0;
    const unsigned long long v = strtoull(text, &end, 10);
    uint64_t factor = 1;
    for (size_t i = 0; i < (units ? sizeof names / sizeof names[0] : 1); i++, factor *= 1000)
        if (!errno && *text >= '0' && *text <= '9' && strcmp(end, names[i]) == 0 && v >= 1 &&
            v <= most / factor)
            return v * factor;
    fprintf(stderr, "quantize: --%s: expected a whole number of at least 1%s, found \"%s\"\n",
            option, units ? ", alone or with KB, MB, GB or TB" : "", text);
    exit(2);
}

static void parse(int argc, char **argv, struct options *o)
{
    int c;
    qsae_context_settings_init(&o->context, sizeof o->context);
    qsae_save_settings_init(&o->save, sizeof o->save);
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
        switch (c) {
        case 'd': o->save.dtype = dtype_of(optarg); break;
        case 's': o->save.max_shard_bytes = number("shard-size", optarg, 1, INT64_MAX); break;
        case 'j': o->context.threads = (int32_t)number("threads", optarg, 0, 1024); break;
        case 'u': o->context.cpu = optarg; break;
        case 'r': o->context.files = QSAE_FILES_READ; break;
        case 'q': o->quiet = 1; break;
        case 'V': printf("libqsae %s\n", qsae_version()); exit(0);
        case 'h': fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); exit(2);
        }
    if (optind + 3 != argc) {
        fprintf(stderr, "quantize: expected MODEL, CONDITION and OUT\n%s", usage);
        exit(2);
    }
    o->model = argv[optind];
    o->condition = argv[optind + 1];
    o->out = argv[optind + 2];
}

int main(int argc, char **argv)
{
    struct options o = { .quiet = 0 };
    qsae_context *context = NULL;
    qsae_weights *weights = NULL;
    parse(argc, argv, &o);
    o.context.log = on_log;
    int32_t st = qsae_cancel_token_open(&cancel);
    if (st == QSAE_OK) {
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
        o.save.cancel = cancel;
        if (!o.quiet && isatty(STDERR_FILENO))
            o.save.progress = on_progress;
        st = qsae_context_open(&o.context, &context);
    }
    if (st == QSAE_OK)
        st = qsae_weights_open(context, o.model, &weights);
    if (st == QSAE_OK)
        st = qsae_weights_save(weights, o.condition, o.out, &o.save);
    if (o.save.progress)
        fprintf(stderr, "\r\033[K");
    if (st != QSAE_OK)
        fprintf(stderr, "quantize: %s\n", qsae_error_message());
    qsae_weights_close(&weights);
    qsae_context_close(&context);
    qsae_cancel_token_close(&cancel);
    return st == QSAE_OK ? 0 : st == QSAE_ECANCELED ? 130 : 1;
}
