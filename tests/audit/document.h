/* SPDX-License-Identifier: BSD-2-Clause */
/* Runs on the bundled model, and what their result documents say. */
#ifndef TESTS_AUDIT_DOCUMENT_H
#define TESTS_AUDIT_DOCUMENT_H

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include <jansson.h>

#include "../support.h"

#define DATA QSAE_TEST_EXAMPLES

static const char *const sae_path = DATA "/tiny-gemma3-sae";

static inline void defaults(qsae_audit_settings *s)
{
    qsae_audit_settings_init(s, sizeof *s);
    s->model = DATA "/tiny-gemma3";
    s->text = DATA "/eval.jsonl";
    s->profile = QSAE_PROFILE_ARTICLE;
    s->compute = QSAE_COMPUTE_F32;
    s->context = 256;
    s->saes = &sae_path;
    s->n_saes = 1;
}

static inline json_t *result_of(qsae_audit *audit)
{
    const char *text;
    size_t size;
    json_error_t error;
    assert_ok(qsae_audit_result(audit, &text, &size));
    assert_int_equal(strlen(text), size);
    json_t *result = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    assert_non_null(result);
    return result;
}

static inline json_t *run(qsae_context *ctx, const qsae_audit_settings *s)
{
    qsae_audit *audit;
    assert_ok(qsae_audit_open(ctx, s, &audit));
    assert_ok(qsae_audit_run(audit));
    json_t *result = result_of(audit);
    qsae_audit_close(&audit);
    assert_null(audit);
    return result;
}

static inline double at(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v))
        fail_msg("%s is not a number", key);
    return json_number_value(v);
}

static inline void near(const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s: expected %.10g within %.2g, found %.10g", what, want, tolerance, got);
}

/* What depends on the run, not on what was measured. */
static inline void strip(json_t *result)
{
    json_object_del(result, "timing");
    json_object_del(result, "numerics");
    json_t *list = json_copy(json_object_get(result, "conditions")), *who;
    size_t i;
    json_array_append(list, json_object_get(result, "reference"));
    json_array_foreach(list, i, who) {
        json_object_del(who, "tokens_per_second");
        json_object_del(who, "peak_rss_bytes");
    }
    json_decref(list);
}

static inline double reference_ce(const json_t *result)
{
    return json_number_value(json_object_get(json_object_get(result, "reference"), "ce"));
}

/* Cancels a run in a phase (NULL: measure) once that many tokens are done. */
struct stop {
    int64_t at;
    const char *phase;
    qsae_cancel_token *token;
};

static inline int32_t stop_at(void *cookie, int64_t done, int64_t total, const char *unit,
                       const char *phase)
{
    const struct stop *s = cookie;
    (void)total;
    (void)unit;
    if (strcmp(phase, s->phase ? s->phase : "measure") == 0 && done >= s->at)
        qsae_cancel_token_cancel(s->token);
    return 0;
}

static inline json_t *condition_at(const json_t *result, size_t i)
{
    json_t *c = json_array_get(json_object_get(result, "conditions"), i);
    if (!c)
        fail_msg("no condition %zu", i);
    return c;
}

static inline const char *text_at(const json_t *o, const char *key)
{
    const char *v = json_string_value(json_object_get(o, key));
    if (!v)
        fail_msg("%s is not a string", key);
    return v;
}

static inline bool null_at(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!v)
        fail_msg("%s is missing", key);
    return json_is_null(v);
}

#endif
