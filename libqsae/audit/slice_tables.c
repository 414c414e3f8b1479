/* SPDX-License-Identifier: BSD-2-Clause */
/* Divisions of the tokens by a table over the vocabulary: the script of a token's text, and how
 * often it stands in the text or in a supplied list. */
#include <stdlib.h>
#include <string.h>

#include "audit/slices.h"
#include "text/script.h"

/* ---- script ---- */

int32_t qsae__slices_by_script(qsae_audit *a, struct slice_dimension *d)
{
    qsae__scripts *scripts = NULL;
    int32_t st = qsae__slices_vocabulary(a, d), at;
    for (int32_t i = 0; i < qsae__scripts_count() && st == QSAE_OK; i++)
        st = qsae__slices_add_value(a, d, qsae__script_name(i), &at);
    if (st == QSAE_OK)
        st = qsae__scripts_open(a->ctx, &scripts);
    for (int64_t i = 0; i < d->n_of && st == QSAE_OK; i++) {
        const char *bytes;
        size_t size;
        if (qsae_tokenizer_token(a->tokenizer, (int32_t)i, &bytes, &size) == QSAE_OK &&
            !qsae_tokenizer_is_special(a->tokenizer, (int32_t)i))
            st = qsae__script_of(scripts, bytes, size, &d->of[i]);
    }
    qsae__scripts_close(a->ctx, &scripts);
    return st;
}

/* ---- frequency ---- */

static const struct {
    int64_t from;
    const char *name;
} buckets[] = { { 0, "<10" }, { 10, "10-99" }, { 100, "100-999" }, { 1000, "1000-9999" },
                { 10000, ">=10000" } };

#define BUCKETS ((int32_t)(sizeof buckets / sizeof buckets[0]))

/* How often each token stands in the chunks. */
static int32_t count_chunks(qsae_audit *a, const struct slice_dimension *d, int64_t *count)
{
    int32_t st = QSAE_OK;
    for (int64_t c = 0; c < a->corpus_info.chunks && st == QSAE_OK; c++) {
        const int32_t *ids, *labels;
        const int64_t *document;
        int64_t n;
        st = qsae_corpus_chunk(a->corpus, c, &ids, &labels, &document, &n);
        for (int64_t i = 0; i < n && st == QSAE_OK; i++)
            if (ids[i] >= 0 && ids[i] < d->n_of)
                count[ids[i]]++;
    }
    return st;
}

static int32_t read_array(qsae_audit *a, const struct slice_dimension *d, const char *path,
                          int64_t *count)
{
    qsae__id_array array;
    int32_t st = qsae__id_array_open(a->ctx, path, &array);
    if (st != QSAE_OK)
        return st;
    if (array.rows != 1 || array.cols > d->n_of)
        st = qsae__fail(QSAE_EFORMAT, "%s: expected at most %lld counts, one per token, found "
                        "%lld rows of %lld", path, (long long)d->n_of, (long long)array.rows,
                        (long long)array.cols);
    for (int64_t i = 0; st == QSAE_OK && i < array.cols; i++)
        if ((count[i] = qsae__id_array_get(&array, i)) < 0)
            st = qsae__fail(QSAE_EFORMAT, "%s: count of token %lld: expected at least 0, found "
                            "%lld", path, (long long)i, (long long)count[i]);
    qsae__id_array_close(&array);
    return st;
}

/* A whole number of at most 18 digits at *at, which is moved behind it; -1: there is none. */
static int64_t number(const uint8_t **at, const uint8_t *end)
{
    int64_t v = 0;
    const uint8_t *p = *at;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    const uint8_t *const first = p;
    for (; p < end && *p >= '0' && *p <= '9' && p - first < 18; p++)
        v = 10 * v + (*p - '0');
    *at = p;
    return p > first ? v : -1;
}

/* Lines of an id and its count; empty ones and what follows a # are passed over. */
static int32_t read_lines(qsae_audit *a, const struct slice_dimension *d, const char *path,
                          int64_t *count)
{
    qsae__file *file;
    int32_t st = qsae__file_open(a->ctx, path, &file);
    if (st != QSAE_OK)
        return st;
    const uint8_t *at = file->data, *const end = at + file->size;
    for (int64_t line = 1; at < end && st == QSAE_OK; line++) {
        const uint8_t *const newline = memchr(at, '\n', (size_t)(end - at));
        const uint8_t *stop = newline ? newline : end, *const next = newline ? newline + 1 : end;
        const uint8_t *const remark = memchr(at, '#', (size_t)(stop - at));
        stop = remark ? remark : stop;
        while (stop > at && (stop[-1] == ' ' || stop[-1] == '\t' || stop[-1] == '\r'))
            stop--;
        if (stop > at) {
            const int64_t id = number(&at, stop), n = number(&at, stop);
            if (id < 0 || id >= d->n_of || n < 0 || at != stop)
                st = qsae__fail(QSAE_EFORMAT, "%s:%lld: expected a token below %lld and its "
                                "count", path, (long long)line, (long long)d->n_of);
            else
                count[id] = n;
        }
        at = next;
    }
    qsae__file_close(&file);
    return st;
}

int32_t qsae__slices_by_frequency(qsae_audit *a, struct slice_dimension *d, const char *file)
{
    int32_t st = qsae__slices_vocabulary(a, d), at;
    for (int32_t i = 0; i < BUCKETS && st == QSAE_OK; i++)
        st = qsae__slices_add_value(a, d, buckets[i].name, &at);
    if (st != QSAE_OK)
        return st;
    int64_t *const count = qsae__calloc(a->ctx, d->n_of, sizeof *count);
    if (!count)
        return QSAE_ENOMEM;
    st = !file                      ? count_chunks(a, d, count)
         : qsae__text_is_npy(file)  ? read_array(a, d, file, count)
                                    : read_lines(a, d, file, count);
    for (int64_t i = 0; i < d->n_of && st == QSAE_OK; i++)
        for (int32_t b = 1; b < BUCKETS; b++)
            d->of[i] = count[i] >= buckets[b].from ? b : d->of[i];
    if (file)
        d->counts = count;
    else
        qsae__free(a->ctx, count);
    return st;
}

static void hash_table(const struct slice_dimension *d, qsae__hasher *h)
{
    for (int32_t f = 0; f < d->n_factors; f++)
        hash_table(&d->factors[f], h);
    if (!d->counts)
        return;
    qsae__hasher_string(h, "frequencies");
    for (int64_t i = 0; i < d->n_of; i++)
        qsae__hasher_i64(h, d->counts[i]);
}

void qsae__slices_fingerprint(const qsae_audit *a, qsae__hasher *h)
{
    for (int64_t i = 0; a->slices && i < a->slices->n_dimensions; i++)
        hash_table(&a->slices->dimensions[i], h);
}
