/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a measurement is of, as names and values. The fingerprint decides whether two are the same;
 * this says where they are not. Also the arithmetic that figures were computed with.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit/contexts.h"
#include "audit/llama.h"
#include "audit/probed.h"
#include "audit/state.h"
#include "text/probes.h"

#define DEPTH 4

static void set_text(json_t *o, const char *key, const char *text)
{
    json_t *const v = text ? json_string(text) : NULL;
    json_object_set_new(o, key, v ? v : json_null());
}

static void set_count(json_t *o, const char *key, int64_t v)
{
    json_object_set_new(o, key, json_integer((json_int_t)v));
}

static json_t *condition_of(const qsae_audit *a, const struct participant *p)
{
    qsae_model_info info = { .struct_size = sizeof info };
    json_t *const o = json_object();
    set_text(o, "condition", p->match ? p->match->request.canonical : p->cost.condition);
    set_count(o, "compute", p->match ? a->compute : p->cost.compute);
    if (p->weights && qsae_weights_get_info(p->weights, &info) == QSAE_OK) {
        set_text(o, "weights", info.hash);
        set_text(o, "process", qsae_weights_processing(p->weights));
    }
    return o;
}

/* What a subject adds to the fingerprint, as a hash. */
static int32_t set_hash(qsae_audit *a, json_t *o, const char *key,
                        void (*add)(const qsae_audit *a, qsae__hasher *h))
{
    char hex[QSAE__HASH_SIZE];
    qsae__hasher *h;
    const int32_t st = qsae__hasher_open(a->ctx, &h);
    if (st != QSAE_OK)
        return st;
    add(a, h);
    qsae__hasher_hex(h, hex);
    qsae__hasher_close(a->ctx, &h);
    set_text(o, key, hex);
    return QSAE_OK;
}

/* What is measured beside the usual figures; NULL when out of memory. */
static json_t *with_more(qsae_audit *a, json_t *o)
{
    set_count(o, "overlap_k", a->overlap_k);
    set_text(o, "probes", a->probes ? a->probes->set->hash : NULL);
    int32_t st = set_hash(a, o, "contexts", qsae__contexts_fingerprint);
    if (st == QSAE_OK)
        st = set_hash(a, o, "slice_tables", qsae__slices_fingerprint);
    if (st == QSAE_OK)
        st = set_hash(a, o, "llama_cpp", qsae__llama_fingerprint);
    if (st == QSAE_OK)
        return o;
    json_decref(o);
    return NULL;
}

json_t *qsae__identity_of(qsae_audit *a, const qsae_audit_settings *s)
{
    json_t *const o = json_object(), *const list = json_array(), *const saes = json_array(),
           *const slices = json_array();
    set_text(o, "profile", a->profile->name);
    json_object_set_new(o, "model", condition_of(a, &a->participants[0]));
    set_text(o, "text", a->corpus_info.token_hash);
    set_count(o, "documents", a->corpus_info.documents);
    set_count(o, "chunks", a->corpus_info.chunks);
    set_count(o, "context", a->corpus_info.context);
    set_count(o, "batch", a->batch);
    set_text(o, "bos_policy", qsae_bos_name(a->corpus_info.bos_policy));
    set_count(o, "attention", a->attention);
    set_text(o, "exclude_tokens", a->exclude_tokens);
    set_count(o, "splice", a->splice);
    set_count(o, "top_contexts", a->top);
    json_object_set_new(o, "saes", saes);
    json_object_set_new(o, "slices", slices);
    json_object_set_new(o, "conditions", list);
    for (int64_t i = 1; i < a->n_participants; i++)
        json_array_append_new(list, condition_of(a, &a->participants[i]));
    for (int64_t i = 0; i < a->n_saes; i++) {
        json_t *const sae = json_object();
        json_array_append_new(saes, sae);
        set_text(sae, "hash", a->saes[i].info.hash);
        set_count(sae, "layer", a->saes[i].layer);
        set_text(sae, "site", qsae_site_name(a->saes[i].site));
        set_count(sae, "layer_in", a->saes[i].layer_in);
        set_text(sae, "site_in", qsae_site_name(a->saes[i].site_in));
    }
    for (int64_t i = 0; i < s->n_slices; i++)
        json_array_append_new(slices, json_string(s->slices[i]));
    return with_more(a, o);
}

/* ---- where two differ ---- */

struct difference {
    char name[256];
    const json_t *a, *b;
};

/* When a field is looked at: 0, what changes others; 2, what others change. */
static int turn_of(const char *key)
{
    if (strcmp(key, "profile") == 0 || strcmp(key, "model") == 0)
        return 0;
    return strcmp(key, "text") == 0 || strcmp(key, "chunks") == 0 ||
                   strcmp(key, "documents") == 0 ? 2 : 1;
}

static bool differ(const json_t *a, const json_t *b, const char *name, int depth,
                   struct difference *out);

/* Members of an object; of the whole, those whose turn it is. */
static bool differ_in(const json_t *a, const json_t *b, const char *name, int depth, int turn,
                      struct difference *out)
{
    char inner[256];
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)a, key, value) { /* jansson's macro is not const */
        if ((depth == 0 ? turn_of(key) : 0) != turn)
            continue;
        snprintf(inner, sizeof inner, "%s%s%s", name, *name ? "." : "", key);
        if (differ(value, json_object_get(b, key), inner, depth + 1, out))
            return true;
    }
    return false;
}

static bool differ(const json_t *a, const json_t *b, const char *name, int depth,
                   struct difference *out)
{
    char inner[256];
    if (json_equal(a, b))
        return false;
    snprintf(out->name, sizeof out->name, "%s", name);
    out->a = a;
    out->b = b;
    if (depth == DEPTH)
        return true;
    if (json_is_object(a) && json_is_object(b)) {
        for (int turn = 0; turn < (depth == 0 ? 3 : 1); turn++)
            if (differ_in(a, b, name, depth, turn, out))
                return true;
    } else if (json_is_array(a) && json_is_array(b) && json_array_size(a) == json_array_size(b)) {
        for (size_t i = 0; i < json_array_size(a); i++) {
            snprintf(inner, sizeof inner, "%s[%zu]", name, i);
            if (differ(json_array_get(a, i), json_array_get(b, i), inner, depth + 1, out))
                return true;
        }
    } else if (json_is_array(a) && json_is_array(b)) {
        snprintf(out->name, sizeof out->name, "%s (how many)", name);
        return true;
    }
    snprintf(out->name, sizeof out->name, "%s", name);
    out->a = a;
    out->b = b;
    return true;
}

static void show(const json_t *v, char *out, size_t size)
{
    if (json_is_array(v)) {
        snprintf(out, size, "%zu", json_array_size(v));
        return;
    }
    char *const text = v ? qsae__json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    snprintf(out, size, "%.100s", text ? text : "nothing");
    free(text);
}

int32_t qsae__identity_differ(const json_t *file, const char *path, const json_t *other,
                              const char *where)
{
    struct difference d = { .a = NULL };
    char have[112], want[112];
    if (!differ(file, other, "", 0, &d) || !*d.name)
        return qsae__fail(QSAE_EMISMATCH, "%s: state of another measurement: other settings than "
                          "%s", path, where);
    show(d.a, have, sizeof have);
    show(d.b, want, sizeof want);
    return qsae__fail(QSAE_EMISMATCH, "%s: state of another measurement: %s: %s here, %s in %s",
                      path, d.name, have, want, where);
}

/* ---- arithmetic ---- */

void qsae__numerics_line(const qsae_audit *a, char *line, size_t size)
{
    snprintf(line, size, "cpu %s, gemm %s, blis %s", qsae_context_cpu(a->ctx),
             qsae_context_gemm(a->ctx), qsae_context_blis(a->ctx));
}

static size_t line_size(const char *text)
{
    return strcspn(text, "\n");
}

int32_t qsae__lines_union(qsae_context *ctx, const char *a, const char *b, char **out)
{
    qsae__strbuf sum;
    qsae__strbuf_init(&sum, ctx);
    qsae__strbuf_add(&sum, "", 0);
    while (*a || *b) {
        const size_t na = line_size(a), nb = line_size(b);
        const int order = !*a ? 1 : !*b ? -1
                          : memcmp(a, b, na < nb ? na : nb) ? memcmp(a, b, na < nb ? na : nb)
                          : (na > nb) - (na < nb);
        const char *const line = order <= 0 ? a : b;
        if (sum.size > 0)
            qsae__strbuf_add(&sum, "\n", 1);
        qsae__strbuf_add(&sum, line, order <= 0 ? na : nb);
        if (order <= 0)
            a += na + (a[na] == '\n');
        if (order >= 0)
            b += nb + (b[nb] == '\n');
    }
    *out = sum.status == QSAE_OK ? qsae__strndup(ctx, sum.data ? sum.data : "", (size_t)sum.size)
                                 : NULL;
    qsae__strbuf_free(&sum);
    return *out ? QSAE_OK : QSAE_ENOMEM;
}
