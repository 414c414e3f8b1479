/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Another checkpoint as a condition. The text is tokenized once, by the reference's tokenizer, so
 * both must understand the same ids. A checkpoint of another shape has predictions to compare but
 * no residual stream that belongs to the SAEs.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "audit/audit.h"
#include "text/tokenizer.h"

void qsae__checkpoint_close(qsae_audit *a, struct audit_checkpoint **checkpoint)
{
    if (!*checkpoint)
        return;
    json_decref((*checkpoint)->differences);
    qsae__free(a->ctx, (*checkpoint)->reason);
    qsae__free(a->ctx, (*checkpoint)->no_kl);
    qsae__free(a->ctx, *checkpoint);
    *checkpoint = NULL;
}

static void add_difference(void *cookie, const char *field, const char *reference,
                           const char *condition)
{
    json_array_append_new(cookie, json_pack("{s:s,s:s,s:s}", "field", field, "reference", reference,
                                            "condition", condition));
}

/* The differences in one line of the log. */
static void log_differences(qsae_audit *a, const struct participant *p)
{
    qsae__strbuf b;
    size_t i;
    const json_t *d;
    qsae__strbuf_init(&b, a->ctx);
    json_array_foreach(p->checkpoint->differences, i, d)
        qsae__strbuf_addf(&b, "%s%s %s (reference: %s)", i ? ", " : "",
                          json_string_value(json_object_get(d, "field")),
                          json_string_value(json_object_get(d, "condition")),
                          json_string_value(json_object_get(d, "reference")));
    if (b.size)
        qsae__log(a->ctx, QSAE_LOG_INFO, "%s differs from the reference: %s", p->label, b.data);
    qsae__strbuf_free(&b);
}

/* Without a tokenizer to compare, equal numbers of rows are all there is to go by. */
static int32_t trust_vocabulary(qsae_audit *a, struct participant *p, const qsae_model_info *r,
                                const qsae_model_info *q)
{
    if (r->vocab != q->vocab)
        return qsae__fail(QSAE_EMISMATCH, "%s: no tokenizer to compare with the reference's, and "
                          "a vocabulary of %" PRId64 " rows where the reference has %" PRId64,
                          p->label, q->vocab, r->vocab);
    qsae__log(a->ctx, QSAE_LOG_WARNING, "%s: its tokenizer cannot be compared with the reference's "
              "(%s); the number of rows is the same, %" PRId64 ", and taken as enough", p->label,
              qsae__message(), q->vocab);
    p->checkpoint->tokenizer = "not compared";
    return QSAE_OK;
}

static int32_t compare_tokenizers(qsae_audit *a, struct participant *p, const qsae_model_info *r,
                                  const qsae_model_info *q)
{
    qsae_tokenizer *t = NULL;
    char *const note = p->checkpoint->note;
    int32_t st = qsae_tokenizer_open(a->ctx, p->label, &t);
    if (st == QSAE_ENOENT || st == QSAE_EUNSUPPORTED)
        return trust_vocabulary(a, p, r, q);
    if (st != QSAE_OK)
        return st;
    st = qsae__tokenizer_compare(a->tokenizer, t, note, sizeof p->checkpoint->note);
    qsae_tokenizer_close(&t);
    if (st != QSAE_OK)
        return qsae__fail_in(st, "%s: not the reference's tokenizer", p->label);
    p->checkpoint->tokenizer = "equal";
    return QSAE_OK;
}

/* Every id of the text has a row. */
static int32_t check_ids(qsae_audit *a, const struct participant *p, int64_t vocab)
{
    for (int64_t c = 0; c < a->corpus_info.chunks; c++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        const int32_t st = qsae_corpus_chunk(a->corpus, c, &ids, &labels, &document, &n);
        if (st != QSAE_OK)
            return st;
        for (int64_t i = 0; i < n; i++)
            if (ids[i] >= vocab || labels[i] >= vocab)
                return qsae__fail(QSAE_EMISMATCH, "%s: its vocabulary of %" PRId64 " rows has none "
                                  "for token %" PRId32 " of the text", p->label, vocab,
                                  ids[i] >= vocab ? ids[i] : labels[i]);
    }
    return QSAE_OK;
}

int32_t qsae__checkpoint_sites(qsae_audit *a, struct participant *p)
{
    struct audit_checkpoint *const c = p->checkpoint;
    char line[160];
    for (int64_t i = 0; c && !c->reason && i < a->n_saes; i++) {
        const struct audit_sae *const s = &a->saes[i];
        const int64_t out = qsae_model_site_width_at(p->model, s->site, s->layer),
                      in = qsae_model_site_width_at(p->model, s->site_in, s->layer_in);
        if (out == s->columns && in == s->columns_in)
            continue;
        const bool first = out != s->columns;
        snprintf(line, sizeof line, "another shape: %" PRId64 " columns at %s, the reference has %"
                 PRId64, first ? out : in, qsae_site_name(first ? s->site : s->site_in),
                 first ? s->columns : s->columns_in);
        if (!(c->reason = qsae__strdup(a->ctx, line)))
            return QSAE_ENOMEM;
    }
    if (c && c->reason && a->n_saes > 0)
        qsae__log(a->ctx, QSAE_LOG_WARNING, "%s: no SAE figures: %s", p->label, c->reason);
    return QSAE_OK;
}

int32_t qsae__checkpoint_open(qsae_audit *a, struct participant *p)
{
    qsae_model_info r = { .struct_size = offsetof(qsae_model_info, hash) }, q = r;
    struct audit_checkpoint *const c = p->checkpoint = qsae__calloc(a->ctx, 1, sizeof *c);
    if (!c || !(c->differences = json_array()))
        return QSAE_ENOMEM;
    int32_t st = qsae_weights_get_info(a->participants[0].weights, &r);
    if (st != QSAE_OK || (st = qsae_weights_get_info(p->weights, &q)) != QSAE_OK)
        return st;
    qsae__weights_compare(a->participants[0].weights, p->weights, add_difference, c->differences);
    if ((st = compare_tokenizers(a, p, &r, &q)) != QSAE_OK)
        return st;
    if (q.vocab < r.vocab && (st = check_ids(a, p, q.vocab)) != QSAE_OK)
        return st;
    char line[320];
    if (q.layers != r.layers || q.width != r.width) {
        snprintf(line, sizeof line, "another shape: %" PRId64 " layers of width %" PRId64 ", the "
                 "reference has %" PRId64 " of %" PRId64 "; the SAEs belong to the reference's "
                 "residual stream", q.layers, q.width, r.layers, r.width);
        if (!(c->reason = qsae__strdup(a->ctx, line)))
            return QSAE_ENOMEM;
    }
    if (q.vocab != r.vocab) {
        snprintf(line, sizeof line, "another vocabulary: %" PRId64 " rows, the reference has %"
                 PRId64 "; the two distributions are over different sets", q.vocab, r.vocab);
        if (!(c->no_kl = qsae__strdup(a->ctx, line)))
            return QSAE_ENOMEM;
    }
    log_differences(a, p);
    return QSAE_OK;
}
