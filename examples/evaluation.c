/* SPDX-License-Identifier: BSD-2-Clause */
#include "evaluation.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compat.h"
#include "evaluate_options.h"
#include "feature_lines.h"
#include "llama_report.h"
#include "paper.h"
#include "program.h"
#include "table.h"

static double decimal(const char *option, const char *text, double most)
{
    char *end;
    errno = 0;
    const double v = strtod(text, &end);
    if (errno || end == text || *end || !(v > 0 && v <= most))
        usage_error("--%s: expected a number above 0 and at most %g, found \"%s\"", option, most,
                    text);
    return v;
}

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
    if (!colon || (size_t)(colon - text) >= sizeof from || (colon == text && !colon[1]))
        usage_error("--documents: expected FROM:TO, found \"%s\"", text);
    snprintf(from, sizeof from, "%.*s", (int)(colon - text), text);
    a->documents_from = *from ? option_count("documents", from, 0) : 0;
    a->documents_to =
        colon[1] ? option_count("documents", colon + 1, a->documents_from + 1) : 0;
}

/* Lengths between commas. */
static void contexts(const char *text, struct evaluation *o)
{
    const char *at = text;
    qsae_audit_settings *const a = &o->audit;
    for (a->n_contexts = 0; *at && a->n_contexts < EVALUATION_CONTEXTS; at += strcspn(at, ",")) {
        char one[24];
        at += *at == ',' && at > text;
        snprintf(one, sizeof one, "%.*s", (int)strcspn(at, ","), at);
        o->contexts[a->n_contexts++] = option_count("contexts", one, 4);
    }
    if (*at)
        usage_error("--contexts: at most %d lengths", EVALUATION_CONTEXTS);
    a->contexts = o->contexts;
}

/* I/N, I from 1. */
static void shard(const char *text, qsae_audit_settings *a)
{
    long long i, n;
    int end = 0;
    if (sscanf(text, "%lld/%lld%n", &i, &n, &end) != 2 || text[end] || i < 1 || n < i ||
        n > INT32_MAX)
        usage_error("--shard: expected I/N, I from 1 to N, found \"%s\"", text);
    a->shard_index = i - 1;
    a->shard_count = n;
}

static int32_t bos_policy(const char *text)
{
    const int32_t policy = qsae_bos_from_name(text);
    if (policy < 0)
        usage_error("--bos: \"%s\" is unknown; expected none, stream_start, doc_start, "
                    "chunk_start or chunk_replace", text);
    return policy;
}

static void model(struct evaluation *o, const char *path)
{
    if (o->audit.model)
        usage_error("expected one MODEL and --text, found \"%s\" and \"%s\"", o->audit.model,
                    path);
    o->audit.model = path;
}

/* What is measured, and how; false: some other option. */
static bool set_measurement(struct evaluation *o, int c, const char *v)
{
    qsae_audit_settings *const a = &o->audit;
    switch (c) {
    case ARGUMENT_OPERAND:
    case OPT_MODEL: model(o, v); break;
    case OPT_SAE: o->saes[a->n_saes++] = v; break;
    case OPT_CONDITION: o->conditions[a->n_conditions++] = v; break;
    case OPT_PROFILE: a->profile = option_choice("profile", v, profiles); break;
    case OPT_PROCESS: a->process = v; break;
    case OPT_COMPUTE: a->compute = option_choice("compute", v, computes) + 1; break;
    case OPT_ATTN: a->attention = option_choice("attn", v, attentions) + 1; break;
    case OPT_SWEEP: a->sweep = option_choice("sweep", v, sweeps) + 1; break;
    case OPT_PLAN: o->plan.bits = decimal("plan", v, 64); break;
    case OPT_PLAN_BY: o->plan.by_dce = option_choice("plan-by", v, figures) == 1; break;
    case OPT_CONTROLS: a->controls = 1; break;
    case OPT_SPLICE: a->splice = 1; break;
    case OPT_SLICE: o->slices[a->n_slices++] = v; break;
    case OPT_EXCLUDE_TOKENS: a->exclude_tokens = v; break;
    case OPT_OVERLAP: a->overlap_k = option_count("overlap", v, 1); break;
    case OPT_KL: a->kl_divergence = 1; break;
    case OPT_KL_BASE: a->kl_divergence_base = v; break;
    case OPT_SEED: a->seed = option_count("seed", v, 0); break;
    case OPT_TOP: a->top_contexts = option_count("top", v, 1); break;
    default: return false;
    }
    return true;
}

static bool set_text(struct evaluation *o, int c, const char *v)
{
    qsae_audit_settings *const a = &o->audit;
    switch (c) {
    case OPT_TEXT: a->text = v; break;
    case OPT_CONTEXT: a->context = option_count("context", v, 2); break;
    case OPT_BATCH: a->batch = option_count("batch", v, 1); break;
    case OPT_STRIDE: a->stride = option_count("stride", v, 1); break;
    case OPT_SCORE_FROM: a->score_from = option_count("score-from", v, 0); break;
    case OPT_BOS: a->bos_policy = bos_policy(v); break;
    case OPT_TOKENS: a->max_tokens = option_count("tokens", v, 1); break;
    case OPT_ORDER: a->order = v; break;
    case OPT_SHUFFLE: a->shuffle = v; break;
    case OPT_DOCUMENTS: documents(v, a); break;
    case OPT_WHERE: o->where[a->n_where++] = v; break;
    case OPT_PACK: a->pack = option_choice("pack", v, packs) + 1; break;
    case OPT_TEXT_FIELD: a->text_field = v; break;
    case OPT_CROSS_LABELS: a->cross_labels = 1; break;
    case OPT_KEEP_TAIL: a->keep_tail = 1; break;
    case OPT_SLIDING: o->sliding = v; break;
    case OPT_CONTEXTS: contexts(v, o); break;
    case OPT_CONTEXTS_SCORED: a->contexts_scored = option_count("contexts-scored", v, 1); break;
    case OPT_CONTEXTS_STRIDE: a->contexts_stride = option_count("contexts-stride", v, 1); break;
    case OPT_PROBES: a->probes = v; break;
    default: return false;
    }
    return true;
}

static void share_weights(struct evaluation *o, const char *folder)
{
    o->own_weights = strcmp(folder, "no") == 0;
    o->context.share_folder = o->own_weights ? NULL : folder;
}

/* Where it runs, and what is written. */
static void set_rest(struct evaluation *o, int c, const char *v)
{
    qsae_audit_settings *const a = &o->audit;
    switch (c) {
    case OPT_WORST: o->worst = (size_t)option_count("worst", v, 1); break;
    case OPT_COMPAT: o->compat = option_choice("compat", v, compat_names) + 1; break;
    case OPT_SAVE_LOGITS: a->save_logits = v; break;
    case OPT_FEATURES: o->features = v; break;
    case OPT_PREDICT: o->predict.result = v; break;
    case OPT_PREDICT_CONDITION: o->predict.condition = v; break;
    case OPT_PREDICT_FEATURES: o->predict.from = v; break;
    case OPT_AT_RISK: o->predict.out = v; break;
    case OPT_JSON: o->json = v; break;
    case OPT_WIDE: o->wide = true; break;
    case OPT_STATE: a->state = v; break;
    case OPT_SHARD: shard(v, a); break;
    case OPT_SAVE_EVERY: o->save_every = decimal("save-every", v, 60); break;
    case OPT_QUIET: o->quiet = true; break;
    case OPT_THREADS: o->context.threads = option_threads(v); break;
    case OPT_CPU: o->context.cpu = v; break;
    case OPT_MEMORY: a->memory = option_choice("memory", v, memories); break;
    case OPT_CACHE: a->cache = v; break;
    case OPT_STREAM_BYTES: a->stream_bytes = option_count("stream-bytes", v, 1); break;
    case OPT_PIN: o->context.pin = 1; break;
    case OPT_SHARE_WEIGHTS: share_weights(o, v); break;
    case OPT_READ_FILES: o->context.files = QSAE_FILES_READ; break;
    default: break;
    }
}

/* Prediction is of the reference alone. */
static void check_predict(const struct evaluation *o)
{
    const struct predict *const p = &o->predict;
    if ((p->condition || p->from || p->out) && !p->result)
        usage_error("--predict-condition, --predict-features and --at-risk need --predict RESULT");
    if (p->result && (o->audit.n_conditions || o->audit.sweep || o->sliding))
        usage_error("--predict is a pass of MODEL alone: it takes no condition");
    if (p->result && !p->from && o->audit.n_saes == 0)
        usage_error("--predict: there is no SAE; give --sae, or --predict-features");
}

/* How many documents go to standard output, which then has nothing else. */
static int standard(const struct evaluation *o)
{
    return output_is_standard(o->json) + output_is_standard(o->features) +
           output_is_standard(o->predict.out);
}

static void check(const struct evaluation *o)
{
    check_predict(o);
    if (standard(o) > 1)
        usage_error("--json, --features and --at-risk: only one of them can be -");
    if (o->predict.from && !o->audit.model)
        return;
    if (!o->audit.model || (!o->audit.text && !o->audit.kl_divergence_base))
        usage_error("expected one MODEL and --text");
    if (o->audit.shard_count && !o->audit.state)
        usage_error("--shard: what it measures goes into a file; give --state");
    if (o->features && o->audit.n_saes == 0)
        usage_error("--features: there is no SAE; give --sae");
    if (o->plan.bits > 0 && o->audit.n_conditions == 0)
        usage_error("--plan: there is nothing to choose from; give --condition");
}

void evaluation_free(struct evaluation *o)
{
    plan_free(&o->plan);
    free(o->conditions);
    free(o->saes);
    free(o->slices);
    free(o->where);
}

void evaluation_parse(struct evaluation *o, const struct program *program, int argc, char **argv)
{
    struct arguments arguments = arguments_begin(program, argc, argv);
    const char *value;
    int c;
    qsae_audit_settings_init(&o->audit, sizeof o->audit);
    qsae_context_settings_init(&o->context, sizeof o->context);
    o->conditions = needed(calloc((size_t)argc, sizeof *o->conditions));
    o->saes = needed(calloc((size_t)argc, sizeof *o->saes));
    o->slices = needed(calloc((size_t)argc, sizeof *o->slices));
    o->where = needed(calloc((size_t)argc, sizeof *o->where));
    while ((c = arguments_next(&arguments, &value)) != ARGUMENT_END)
        if (!set_measurement(o, c, value) && !set_text(o, c, value))
            set_rest(o, c, value);
    check(o);
    if (o->features && o->audit.top_contexts == 0)
        o->audit.top_contexts = 10;
    if (!o->features)
        o->audit.top_contexts = o->predict.result ? 1 : 0; /* nothing would show more */
    o->audit.reference_only = o->predict.result != NULL;
    o->audit.conditions = o->conditions;
    o->audit.saes = o->saes;
    o->audit.slices = o->slices;
    o->audit.where = o->where;
}

static int write_result(const char *path, const char *text, size_t size)
{
    struct output o;
    if (output_open(&o, path) != 0)
        return -1;
    fwrite(text, 1, size, o.file);
    fputc('\n', o.file);
    return output_close(&o, true);
}

/* The result with the second measurement in it, as text that the caller frees; an exit status. */
static int with_sliding(const struct evaluation *o, qsae_context *context, json_t *result,
                        char **text)
{
    json_t *second;
    const int32_t st = sliding_run(context, &o->audit, result, o->sliding, &second);
    progress_clear();
    if (st != QSAE_OK) {
        complain("--sliding: %s", qsae_error_message());
        return st == QSAE_ECANCELED ? EXIT_INTERRUPTED : EXIT_FAILED;
    }
    json_needs_memory(true);
    json_object_set_new(result, "sliding", second);
    *text = json_dumps(result, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    json_needs_memory(false);
    if (!*text)
        complain("the result: it cannot be written");
    return *text ? EXIT_DONE : EXIT_FAILED;
}

/* The tables, where a document goes to standard output on standard error. */
static void print_tables(const struct evaluation *o, const struct page *p, const json_t *result)
{
    if (standard(o) && o->quiet)
        return;
    table_print(p, result, o->wide);
    if (o->worst)
        worst_print(p, result, o->worst);
    paper_print(p, result);
    if (o->compat)
        compat_print(p, result, o->compat - 1);
    llama_report_print(p->out, result);
}

int evaluation_finish(struct evaluation *o, qsae_context *context, qsae_audit *audit)
{
    const char *text;
    char *own = NULL;
    size_t size;
    json_error_t error;
    if (qsae_audit_result(audit, &text, &size) != QSAE_OK) {
        complain("%s", qsae_error_message());
        return EXIT_FAILED;
    }
    json_t *result = json_read(text, size, &error);
    if (!result) {
        complain("the result: %s", error.text);
        return EXIT_FAILED;
    }
    const struct page page = page_of(standard(o) ? stderr : stdout, o->wide);
    int code = EXIT_DONE;
    if (o->sliding)
        code = with_sliding(o, context, result, &own);
    if (code == EXIT_DONE)
        print_tables(o, &page, result);
    /* Layers that belong together are SAEs of their own there. */
    const int64_t saes = (int64_t)json_array_size(
        json_object_get(json_object_get(result, "reference"), "saes"));
    json_decref(result);
    if (code == EXIT_DONE && o->json)
        code = -write_result(o->json, own ? own : text, own ? strlen(own) : size);
    free(own);
    if (code == EXIT_DONE && o->features)
        code = -features_write(audit, saes, o->features);
    if (code == EXIT_DONE && o->predict.result)
        code = -predict_run(&page, &o->predict, context, audit, saes);
    return code;
}

int evaluation_predict(struct evaluation *o, qsae_context *context)
{
    const struct page page = page_of(standard(o) ? stderr : stdout, o->wide);
    return -predict_run(&page, &o->predict, context, NULL, 0);
}
