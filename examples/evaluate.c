/* SPDX-License-Identifier: BSD-2-Clause */
/* The main job: compare a model with compressed copies of itself. See doc/evaluate.md. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <qsae/qsae.h>

#include "compat.h"
#include "feature_lines.h"
#include "llama_report.h"
#include "paper.h"
#include "plan.h"
#include "predict.h"
#include "table.h"
#include "usage.h"

static qsae_cancel_token *cancel;

static void on_signal(int number)
{
    qsae_cancel_token_cancel(cancel);
    signal(number, SIG_DFL); /* a second one ends the program at once */
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct progress {
    double start, last;          /* of the phase */
    int64_t first;
    char phase[32];
    double measuring;            /* since when; 0 = not yet */
    int64_t measured_first, measured, to_measure; /* tokens */
};

/* Layers of a slab, or of the next model, come between tokens: what is left is told by tokens. */
static void print_left(const struct progress *p, double t)
{
    const int64_t n = p->measured - p->measured_first;
    if (p->measuring == 0 || n <= 0 || p->measured >= p->to_measure || t <= p->measuring)
        return;
    const double rate = (double)n / (t - p->measuring);
    const long long s = (long long)((double)(p->to_measure - p->measured) / rate + 0.5);
    fprintf(stderr, ", %.0f tokens/s, ", rate);
    if (s >= 3600)
        fprintf(stderr, "%lld h %lld min left", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        fprintf(stderr, "%lld min %lld s left", s / 60, s % 60);
    else
        fprintf(stderr, "%lld s left", s);
}

static int32_t on_progress(void *cookie, int64_t done, int64_t total, const char *unit,
                           const char *phase)
{
    struct progress *p = cookie;
    const double t = now();
    if (strcmp(p->phase, phase) != 0) {
        p->phase[0] = '\0';
        strncat(p->phase, phase, sizeof p->phase - 1);
        p->start = t;
        p->first = done;
        p->last = 0;
    }
    const int tokens = strcmp(phase, "measure") == 0;
    if (tokens) {
        if (p->measuring == 0) {
            p->measuring = t;
            p->measured_first = done;
        }
        p->measured = done;
        p->to_measure = total;
    }
    if (t - p->last < 0.2 && done != total)
        return QSAE_OK;
    p->last = t;
    const double rate = t > p->start ? (double)(done - p->first) / (t - p->start) : 0;
    fprintf(stderr, "\r\033[K%s: %lld / %lld %s", phase, (long long)done, (long long)total, unit);
    if (tokens || p->measuring > 0)
        print_left(p, t);
    else if (rate > 0 && total > done)
        fprintf(stderr, ", %.0f %s/s, %.0f s left", rate, unit, (double)(total - done) / rate);
    fflush(stderr);
    return QSAE_OK;
}

static void on_log(void *cookie, int32_t level, const char *message)
{
    (void)cookie;
    fprintf(stderr, "evaluate: %s%s\n", level == QSAE_LOG_WARNING ? "warning: " : "", message);
}

/* Index of text in names (NULL-terminated) plus 1, or a usage error. */
static int32_t choice(const char *option, const char *text, const char *const *names)
{
    for (int32_t i = 0; names[i]; i++)
        if (strcmp(text, names[i]) == 0)
            return i + 1;
    fprintf(stderr, "evaluate: --%s: \"%s\" is unknown; expected", option, text);
    for (int32_t i = 0; names[i]; i++)
        fprintf(stderr, "%s %s", i ? "," : "", names[i]);
    fprintf(stderr, "\n");
    exit(2);
}

static int64_t count(const char *option, const char *text, int64_t low)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < low) {
        fprintf(stderr, "evaluate: --%s: expected a whole number of at least %lld, found \"%s\"\n",
                option, (long long)low, text);
        exit(2);
    }
    return v;
}

static double decimal(const char *option, const char *text)
{
    char *end;
    errno = 0;
    const double v = strtod(text, &end);
    if (errno || end == text || *end || !(v > 0 && v <= 64)) {
        fprintf(stderr, "evaluate: --%s: expected a number above 0 and at most 64, found \"%s\"\n",
                option, text);
        exit(2);
    }
    return v;
}

enum { MOST_CONTEXTS = 16 };

struct options {
    qsae_audit_settings audit;
    qsae_context_settings context;
    const char **conditions, **saes, **slices, **where;
    const char *json, *features;
    const char *sliding;
    struct predict predict;
    int64_t contexts[MOST_CONTEXTS];
    int compat; /* 1 + index into compat_names; 0 = none */
    int quiet;
    struct plan plan;
    size_t worst; /* tokens and documents to print */
};

/* Options without a letter. */
enum { OPT_SLIDING = 1000, OPT_PREDICT, OPT_PREDICT_CONDITION, OPT_PREDICT_FEATURES, OPT_AT_RISK,
       OPT_KL, OPT_KL_BASE, OPT_SAVE_LOGITS, OPT_CONTEXTS_SCORED, OPT_CONTEXTS_STRIDE,
       OPT_SHARD, OPT_CACHE };

static const struct option longs[] = {
    { "sliding", required_argument, NULL, OPT_SLIDING },
    { "predict", required_argument, NULL, OPT_PREDICT },
    { "predict-condition", required_argument, NULL, OPT_PREDICT_CONDITION },
    { "predict-features", required_argument, NULL, OPT_PREDICT_FEATURES },
    { "at-risk", required_argument, NULL, OPT_AT_RISK },
    { "sae", required_argument, NULL, 's' },       { "text", required_argument, NULL, 't' },
    { "condition", required_argument, NULL, 'c' }, { "profile", required_argument, NULL, 'p' },
    { "compute", required_argument, NULL, 'C' },   { "attn", required_argument, NULL, 'a' },
    { "context", required_argument, NULL, 'n' },   { "batch", required_argument, NULL, 'b' },
    { "window", required_argument, NULL, 'n' },    { "stride", required_argument, NULL, 'i' },
    { "score-from", required_argument, NULL, 'F' },
    { "bos", required_argument, NULL, 'B' },       { "tokens", required_argument, NULL, 'T' },
    { "threads", required_argument, NULL, 'j' },   { "cpu", required_argument, NULL, 'u' },
    { "pin", no_argument, NULL, 'P' },             { "memory", required_argument, NULL, 'M' },
    { "stream-bytes", required_argument, NULL, 'Y' },
    { "json", required_argument, NULL, 'o' },      { "state", required_argument, NULL, 'S' },
    { "shard", required_argument, NULL, OPT_SHARD },
    { "cache", required_argument, NULL, OPT_CACHE },
    { "order", required_argument, NULL, 'O' },     { "shuffle", required_argument, NULL, 'H' },
    { "documents", required_argument, NULL, 'D' }, { "where", required_argument, NULL, 'W' },
    { "pack", required_argument, NULL, 'K' },
    { "text-field", required_argument, NULL, 'f' }, { "cross-labels", no_argument, NULL, 'x' },
    { "sweep", required_argument, NULL, 'w' },     { "splice", no_argument, NULL, 'l' },
    { "controls", no_argument, NULL, '3' },
    { "plan", required_argument, NULL, '4' },
    { "plan-by", required_argument, NULL, '5' },
    { "slice", required_argument, NULL, 'L' },
    { "worst", required_argument, NULL, 'Z' },
    { "compat", required_argument, NULL, '2' },
    { "exclude-tokens", required_argument, NULL, 'E' },
    { "features", required_argument, NULL, 'e' },  { "top", required_argument, NULL, 'm' },
    { "process", required_argument, NULL, 'R' },
    { "overlap", required_argument, NULL, 'v' },
    { "probes", required_argument, NULL, 'Q' },
    { "kl-divergence", no_argument, NULL, OPT_KL },
    { "kl-divergence-base", required_argument, NULL, OPT_KL_BASE },
    { "save-logits", required_argument, NULL, OPT_SAVE_LOGITS },
    { "contexts", required_argument, NULL, 'N' },
    { "contexts-scored", required_argument, NULL, OPT_CONTEXTS_SCORED },
    { "contexts-stride", required_argument, NULL, OPT_CONTEXTS_STRIDE },
    { "keep-tail", no_argument, NULL, 'k' },       { "read-files", no_argument, NULL, 'r' },
    { "quiet", no_argument, NULL, 'q' },           { "version", no_argument, NULL, 'V' },
    { "help", no_argument, NULL, 'h' },            { NULL, 0, NULL, 0 }
};

static const char *const profiles[] = { "default", "article", "paper", NULL };
static const char *const sweeps[] = { "layers", "modules", "kinds", NULL };
static const char *const figures[] = { "kl", "dce", NULL };
static const char *const computes[] = { "f32", "bf16", NULL };
static const char *const memories[] = { "auto", "resident", "streamed", "in-turn", NULL };
static const char *const attentions[] = { "eager", "sdpa", "fp32", NULL };

static const char *const packs[] = { "stream", "tl", "saelens", "tl2", NULL };

/* FROM:TO, FROM: or :TO. */
static void documents(const char *text, qsae_audit_settings *a)
{
    char from[24];
    const char *colon = strchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof from || (colon == text && !colon[1])) {
        fprintf(stderr, "evaluate: --documents: expected FROM:TO, found \"%s\"\n", text);
        exit(2);
    }
    snprintf(from, sizeof from, "%.*s", (int)(colon - text), text);
    a->documents_from = *from ? count("documents", from, 0) : 0;
    a->documents_to = colon[1] ? count("documents", colon + 1, a->documents_from + 1) : 0;
}

/* Lengths between commas. */
static void contexts(const char *text, struct options *o)
{
    const char *at = text;
    qsae_audit_settings *const a = &o->audit;
    for (a->n_contexts = 0; *at && a->n_contexts < MOST_CONTEXTS; at += strcspn(at, ",")) {
        char one[24];
        at += *at == ',' && at > text;
        snprintf(one, sizeof one, "%.*s", (int)strcspn(at, ","), at);
        o->contexts[a->n_contexts++] = count("contexts", one, 4);
    }
    if (*at) {
        fprintf(stderr, "evaluate: --contexts: at most %d lengths\n", MOST_CONTEXTS);
        exit(2);
    }
    a->contexts = o->contexts;
}

/* I/N, I from 1. */
static void shard(const char *text, qsae_audit_settings *a)
{
    long long i, n;
    int end = 0;
    if (sscanf(text, "%lld/%lld%n", &i, &n, &end) != 2 || text[end] || i < 1 || n < i ||
        n > INT32_MAX) {
        fprintf(stderr, "evaluate: --shard: expected I/N, I from 1 to N, found \"%s\"\n", text);
        exit(2);
    }
    a->shard_index = i - 1;
    a->shard_count = n;
}

static int32_t bos_policy(const char *text)
{
    const int32_t policy = qsae_bos_from_name(text);
    if (policy >= 0)
        return policy;
    fprintf(stderr, "evaluate: --bos: \"%s\" is unknown; expected none, stream_start, doc_start, "
            "chunk_start or chunk_replace\n", text);
    exit(2);
}

static void set_option(struct options *o, int c)
{
    qsae_audit_settings *const a = &o->audit;
    switch (c) {
    case 's': o->saes[a->n_saes++] = optarg; break;
    case 'c': o->conditions[a->n_conditions++] = optarg; break;
    case 't': a->text = optarg; break;
    case 'p': a->profile = choice("profile", optarg, profiles) - 1; break;
    case 'C': a->compute = choice("compute", optarg, computes); break;
    case 'a': a->attention = choice("attn", optarg, attentions); break;
    case 'n': a->context = count("context", optarg, 2); break;
    case 'i': a->stride = count("stride", optarg, 1); break;
    case 'F': a->score_from = count("score-from", optarg, 0); break;
    case 'b': a->batch = count("batch", optarg, 1); break;
    case 'B': a->bos_policy = bos_policy(optarg); break;
    case 'T': a->max_tokens = count("tokens", optarg, 1); break;
    case 'j': o->context.threads = (int32_t)count("threads", optarg, 1); break;
    case 'u': o->context.cpu = optarg; break;
    case 'P': o->context.pin = 1; break;
    case 'M': a->memory = choice("memory", optarg, memories) - 1; break;
    case 'Y': a->stream_bytes = count("stream-bytes", optarg, 1); break;
    case 'o': o->json = optarg; break;
    case 'R': a->process = optarg; break;
    case 'Q': a->probes = optarg; break;
    case 'N': contexts(optarg, o); break;
    case OPT_CONTEXTS_SCORED: a->contexts_scored = count("contexts-scored", optarg, 1); break;
    case OPT_CONTEXTS_STRIDE: a->contexts_stride = count("contexts-stride", optarg, 1); break;
    case 'S': a->state = optarg; break;
    case OPT_SHARD: shard(optarg, a); break;
    case OPT_CACHE: a->cache = optarg; break;
    case 'O': a->order = optarg; break;
    case 'H': a->shuffle = optarg; break;
    case 'f': a->text_field = optarg; break;
    case 'D': documents(optarg, a); break;
    case 'W': o->where[a->n_where++] = optarg; break;
    case 'K': a->pack = choice("pack", optarg, packs); break;
    case 'x': a->cross_labels = 1; break;
    case 'k': a->keep_tail = 1; break;
    case 'w': a->sweep = choice("sweep", optarg, sweeps); break;
    case 'l': a->splice = 1; break;
    case '3': a->controls = 1; break;
    case '4': o->plan.bits = decimal("plan", optarg); break;
    case '5': o->plan.by_dce = choice("plan-by", optarg, figures) == 2; break;
    case 'Z': o->worst = (size_t)count("worst", optarg, 1); break;
    case 'L': o->slices[a->n_slices++] = optarg; break;
    case '2': o->compat = choice("compat", optarg, compat_names); break;
    case 'E': a->exclude_tokens = optarg; break;
    case 'e': o->features = optarg; break;
    case 'm': a->top_contexts = count("top", optarg, 1); break;
    case OPT_KL: a->kl_divergence = 1; break;
    case OPT_KL_BASE: a->kl_divergence_base = optarg; break;
    case OPT_SAVE_LOGITS: a->save_logits = optarg; break;
    case 'v': a->overlap_k = count("overlap", optarg, 1); break;
    case 'r': o->context.files = QSAE_FILES_READ; break;
    case OPT_SLIDING: o->sliding = optarg; break;
    case OPT_PREDICT: o->predict.result = optarg; break;
    case OPT_PREDICT_CONDITION: o->predict.condition = optarg; break;
    case OPT_PREDICT_FEATURES: o->predict.from = optarg; break;
    case OPT_AT_RISK: o->predict.out = optarg; break;
    case 'q': o->quiet = 1; break;
    case 'V': printf("libqsae %s\n", qsae_version()); exit(0);
    case 'h': usage_print(stdout); exit(0);
    default: usage_print(stderr); exit(2);
    }
}

/* Prediction is of the reference alone. */
static void check_predict(const struct options *o)
{
    const struct predict *const p = &o->predict;
    const char *wrong = NULL;
    if ((p->condition || p->from || p->out) && !p->result)
        wrong = "--predict-condition, --predict-features and --at-risk need --predict RESULT";
    else if (p->result && (o->audit.n_conditions || o->audit.sweep || o->sliding))
        wrong = "--predict is a pass of MODEL alone: it takes no condition";
    else if (p->result && !p->from && o->audit.n_saes == 0)
        wrong = "--predict: there is no SAE; give --sae, or --predict-features";
    if (wrong) {
        fprintf(stderr, "evaluate: %s\n", wrong);
        exit(2);
    }
}

static void parse(int argc, char **argv, struct options *o)
{
    int c;
    qsae_audit_settings_init(&o->audit, sizeof o->audit);
    qsae_context_settings_init(&o->context, sizeof o->context);
    o->conditions = calloc((size_t)argc, sizeof *o->conditions);
    o->saes = calloc((size_t)argc, sizeof *o->saes);
    o->slices = calloc((size_t)argc, sizeof *o->slices);
    o->where = calloc((size_t)argc, sizeof *o->where);
    if (!o->conditions || !o->saes || !o->slices || !o->where)
        exit(1);
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
        set_option(o, c);
    check_predict(o);
    if (o->predict.from && optind == argc)
        return;
    if (optind + 1 != argc || (!o->audit.text && !o->audit.kl_divergence_base)) {
        fprintf(stderr, "evaluate: expected one MODEL and --text\n");
        usage_print(stderr);
        exit(2);
    }
    if (o->audit.shard_count && !o->audit.state) {
        fprintf(stderr, "evaluate: --shard: what it measures goes into a file; give --state\n");
        exit(2);
    }
    if (o->features && o->audit.n_saes == 0) {
        fprintf(stderr, "evaluate: --features: there is no SAE; give --sae\n");
        exit(2);
    }
    if (o->plan.bits > 0 && o->audit.n_conditions == 0) {
        fprintf(stderr, "evaluate: --plan: there is nothing to choose from; give --condition\n");
        exit(2);
    }
    if (o->features && o->audit.top_contexts == 0)
        o->audit.top_contexts = 10;
    if (!o->features)
        o->audit.top_contexts = o->predict.result ? 1 : 0; /* nothing would show more */
    o->audit.reference_only = o->predict.result != NULL;
    o->audit.model = argv[optind];
    o->audit.conditions = o->conditions;
    o->audit.saes = o->saes;
    o->audit.slices = o->slices;
    o->audit.where = o->where;
}

/* The file appears whole or not at all. */
static int write_file(const char *path, const char *text, size_t size)
{
    char *temp = malloc(strlen(path) + 16);
    if (!temp)
        return -1;
    sprintf(temp, "%s.tmp-XXXXXX", path);
    const int fd = mkstemp(temp);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    int bad = !f || fwrite(text, 1, size, f) != size || fputc('\n', f) == EOF || fflush(f) != 0 ||
              fsync(fd) != 0;
    if (f)
        bad |= fclose(f) != 0;
    if (bad || rename(temp, path) != 0) {
        fprintf(stderr, "evaluate: %s: %s\n", path, strerror(errno));
        if (fd >= 0)
            unlink(temp);
        bad = 1;
    }
    free(temp);
    return bad ? -1 : 0;
}

/* The result with the second measurement in it, as text that the caller frees; an exit status. */
static int with_sliding(const struct options *o, qsae_context *context, json_t *result,
                        char **text)
{
    json_t *second;
    const int32_t st = sliding_run(context, &o->audit, result, o->sliding, &second);
    if (o->audit.progress)
        fprintf(stderr, "\r\033[K");
    if (st != QSAE_OK) {
        fprintf(stderr, "evaluate: --sliding: %s\n", qsae_error_message());
        return st == QSAE_ECANCELED ? 130 : 1;
    }
    json_object_set_new(result, "sliding", second);
    *text = json_dumps(result, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (!*text)
        fprintf(stderr, "evaluate: out of memory: the result\n");
    return *text ? 0 : 1;
}

static int finish(struct options *o, qsae_context *context, qsae_audit *audit)
{
    const char *text;
    char *own = NULL;
    size_t size;
    json_error_t error;
    if (qsae_audit_result(audit, &text, &size) != QSAE_OK) {
        fprintf(stderr, "evaluate: %s\n", qsae_error_message());
        return 1;
    }
    json_t *result = json_loadb(text, size, 0, &error);
    int bad = 0;
    if (result && o->sliding)
        bad = with_sliding(o, context, result, &own);
    if (result && !bad) {
        table_print(stdout, result);
        if (o->worst)
            worst_print(stdout, result, o->worst);
        paper_print(stdout, result);
    }
    if (result && !bad && o->compat)
        compat_print(stdout, result, o->compat - 1);
    if (result)
        llama_report_print(stdout, result);
    /* Layers that belong together are SAEs of their own there. */
    const int64_t saes = (int64_t)json_array_size(
        json_object_get(json_object_get(result, "reference"), "saes"));
    json_decref(result);
    if (!bad && o->json)
        bad = write_file(o->json, own ? own : text, own ? strlen(own) : size) != 0;
    free(own);
    if (!bad && o->features)
        bad = features_write("evaluate", audit, saes, o->features) != 0;
    if (!bad && o->predict.result)
        bad = predict_run("evaluate", &o->predict, context, audit, saes) != 0;
    return bad;
}

/* Ranks lines of features: no model runs. */
static int predict_alone(struct options *o, qsae_context *context)
{
    const int bad = predict_run("evaluate", &o->predict, context, NULL, 0);
    qsae_context_close(&context);
    qsae_cancel_token_close(&cancel);
    free(o->conditions);
    free(o->saes);
    free(o->slices);
    free(o->where);
    return bad ? 1 : 0;
}

int main(int argc, char **argv)
{
    struct options o = { .quiet = 0 };
    struct progress progress = { 0 };
    qsae_context *context = NULL;
    qsae_audit *audit = NULL;
    parse(argc, argv, &o);
    o.context.log = on_log;
    int32_t st = qsae_cancel_token_open(&cancel);
    if (st == QSAE_OK) {
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
        o.audit.cancel = cancel;
        if (!o.quiet && isatty(STDERR_FILENO)) {
            o.audit.progress = on_progress;
            o.audit.progress_cookie = &progress;
        }
        st = qsae_context_open(&o.context, &context);
    }
    if (st == QSAE_OK && !o.audit.model)
        return predict_alone(&o, context);
    if (st == QSAE_OK && o.plan.bits > 0)
        st = plan_make(context, &o.plan, &o.audit);
    if (st == QSAE_OK)
        st = qsae_audit_open(context, &o.audit, &audit);
    if (st == QSAE_OK)
        st = qsae_audit_run(audit);
    if (o.audit.progress)
        fprintf(stderr, "\r\033[K");
    int code = 1;
    if (st == QSAE_OK)
        code = finish(&o, context, audit);
    else
        fprintf(stderr, "evaluate: %s\n", qsae_error_message());
    if (st == QSAE_ECANCELED) {
        if (o.audit.state)
            fprintf(stderr, "evaluate: the same command goes on from %s\n", o.audit.state);
        code = 130;
    }
    qsae_audit_close(&audit);
    qsae_context_close(&context);
    qsae_cancel_token_close(&cancel);
    plan_free(&o.plan);
    free(o.conditions);
    free(o.saes);
    free(o.slices);
    free(o.where);
    return code;
}
