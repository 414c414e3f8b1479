/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/probes.h"

#include <string.h>

#include "text/documents.h"
#include "text/utf8.h"

/* A string of the file. */
struct text {
    const char *data;
    size_t size;
};

/* What reading needs beside the set. */
struct reader {
    struct qsae_probes *set;
    const qsae_tokenizer *tokenizer;
    qsae__encoder encoder;
    qsae__strbuf joined;
    qsae__ids context;        /* ids of the context alone */
    bool empty;               /* they are none of its text */
    int32_t prefix;           /* what stands for an empty context, -1: nothing */
};

void qsae__probes_close(struct qsae_probes **probes)
{
    struct qsae_probes *const p = *probes;

    if (p == NULL)
        return;
    for (int64_t i = 0; i < p->n_tags; i++)
        qsae__free(p->ctx, p->tags[i]);
    qsae__free(p->ctx, p->tags);
    qsae__free(p->ctx, p->item_tags);
    qsae__free(p->ctx, p->items);
    qsae__free(p->ctx, p->ids.data);
    qsae__free(p->ctx, p->path);
    qsae_context *const ctx = p->ctx;
    qsae__retire(ctx, p);
    qsae__context_unref(ctx);
    *probes = NULL;
}

/* Bytes of a context without the white space at its end, as Python's str.rstrip() sees it. */
static size_t stripped(const struct text *t)
{
    const char *end = t->data + t->size;

    while (end > t->data && qsae__python_space(qsae__utf8_get(qsae__utf8_prev(end))))
        end = qsae__utf8_prev(end);
    return (size_t)(end - t->data);
}

static int32_t encode(struct reader *r, const char *text, size_t size)
{
    return qsae__encoder_run(&r->encoder, text, size);
}

/* Ids of the context without white space at its end, in r->context: BOS included, at least one. */
static int32_t encode_context(struct reader *r, const char *where, const struct text *context)
{
    const int32_t bos = r->set->bos;
    int32_t status = encode(r, context->data, stripped(context));

    r->context.count = 0;
    if (status != QSAE_OK)
        return qsae__fail_in(status, "%s: context", where);
    const qsae__ids *const ids = &r->encoder.ids;
    r->empty = ids->count == 0;
    /* A text that begins with BOS itself gets no second one. */
    if (bos >= 0 && (ids->count == 0 || ids->data[0] != bos))
        status = qsae__ids_add(&r->context, &bos, 1);
    if (status == QSAE_OK && ids->count > 0)
        status = qsae__ids_add(&r->context, ids->data, ids->count);
    if (status != QSAE_OK || r->context.count > 0)
        return status;
    if (r->prefix < 0)
        return qsae__fail(QSAE_EFORMAT, "%s: context: expected text, found none; the tokenizer has "
                          "neither BOS nor EOS to stand for it", where);
    return qsae__ids_add(&r->context, &r->prefix, 1);
}

/* Appends the ids of a continuation; *n receives their number. */
static int32_t encode_continuation(struct reader *r, const char *where, const char *key,
                                   const struct text *context, const struct text *text, int64_t *n)
{
    const qsae__ids *const ids = &r->encoder.ids;
    const int32_t first = r->context.data[0];
    int64_t skip = r->context.count;

    r->joined.size = 0;
    qsae__strbuf_add(&r->joined, context->data, context->size);
    qsae__strbuf_add(&r->joined, text->data, text->size);
    int32_t status = r->joined.status;
    if (status == QSAE_OK)
        status = encode(r, r->joined.data, (size_t)r->joined.size);
    if (status != QSAE_OK)
        return qsae__fail_in(status, "%s: %s", where, key);
    /* The first id of the context is in front of the joined text unless that begins with it. */
    if (r->empty)
        skip = ids->count > 0 && ids->data[0] == first;
    else if (r->set->bos >= 0 && (ids->count == 0 || ids->data[0] != r->set->bos))
        skip--;
    if (ids->count <= skip)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: no token is left to score: it merges with the end "
                          "of its context", where, key);
    *n = ids->count - skip;
    return qsae__ids_add(&r->set->ids, ids->data + skip, *n);
}

/* Index of a tag, which is added if it is new. */
static int32_t find_tag(struct qsae_probes *p, const char *where, const char *name, int32_t *index)
{
    int32_t status;

    for (int64_t i = 0; i < p->n_tags; i++)
        if (strcmp(p->tags[i], name) == 0) {
            *index = (int32_t)i;
            return QSAE_OK;
        }
    if (p->n_tags == QSAE__PROBE_TAGS)
        return qsae__fail(QSAE_EFORMAT, "%s: tags: more than %d different ones", where,
                          QSAE__PROBE_TAGS);
    status = qsae__grow(p->ctx, &p->tags, &p->tags_capacity, p->n_tags + 1, sizeof *p->tags);
    if (status != QSAE_OK)
        return status;
    p->tags[p->n_tags] = qsae__strdup(p->ctx, name);
    if (p->tags[p->n_tags] == NULL)
        return QSAE_ENOMEM;
    *index = (int32_t)p->n_tags++;
    return QSAE_OK;
}

/* Adds a tag to the item whose tags are the last ones; twice the same counts once. */
static int32_t add_tag(struct qsae_probes *p, const char *where, const json_t *v,
                       struct qsae__probe *item)
{
    const char *const name = json_string_value(v);
    int32_t index = 0, status;

    if (name == NULL || *name == 0 || strlen(name) != json_string_length(v))
        return qsae__fail(QSAE_EFORMAT, "%s: tags: expected a string that is not empty and has no "
                          "NUL, found %s", where, name == NULL ? qsae__json_type_name(v)
                                                  : *name == 0 ? "\"\"" : "one");
    status = find_tag(p, where, name, &index);
    if (status == QSAE_OK)
        status = qsae__grow(p->ctx, &p->item_tags, &p->item_tags_capacity, p->n_item_tags + 1,
                            sizeof *p->item_tags);
    if (status != QSAE_OK)
        return status;
    int64_t at = p->n_item_tags;
    while (at > item->first_tag && p->item_tags[at - 1] > index)
        at--;
    if (at > item->first_tag && p->item_tags[at - 1] == index)
        return QSAE_OK;
    memmove(p->item_tags + at + 1, p->item_tags + at,
            (size_t)(p->n_item_tags - at) * sizeof *p->item_tags);
    p->item_tags[at] = index;
    p->n_item_tags++;
    item->n_tags++;
    return QSAE_OK;
}

static int32_t read_tags(struct qsae_probes *p, const char *where, const json_t *root,
                         struct qsae__probe *item)
{
    const json_t *const tags = json_object_get(root, "tags");
    int32_t status = QSAE_OK;

    item->first_tag = p->n_item_tags;
    if (qsae__json_absent(tags))
        return QSAE_OK;
    if (json_is_string(tags))
        return add_tag(p, where, tags, item);
    if (!json_is_array(tags))
        return qsae__fail(QSAE_EFORMAT, "%s: tags: expected array of strings or string, found %s",
                          where, qsae__json_type_name(tags));
    for (size_t i = 0; i < json_array_size(tags) && status == QSAE_OK; i++)
        status = add_tag(p, where, json_array_get(tags, i), item);
    return status;
}

static int32_t read_text(const char *where, const json_t *root, const char *key, bool required,
                         struct text *out)
{
    const json_t *const v = json_object_get(root, key);

    if (!json_is_string(v))
        return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected string, found %s", where, key,
                          qsae__json_type_name(v));
    *out = (struct text){ json_string_value(v), json_string_length(v) };
    if (required && out->size == 0)
        return qsae__fail(QSAE_EFORMAT, "%s: %s: expected text, found \"\"", where, key);
    return QSAE_OK;
}

static int32_t read_item(struct reader *r, const char *where, const json_t *root, int64_t line)
{
    struct qsae_probes *const p = r->set;
    struct qsae__probe item = { .line = line, .first = p->ids.count };
    struct text context = { 0 }, good, bad;
    int32_t status = read_text(where, root, "context", false, &context);

    if (status == QSAE_OK)
        status = read_text(where, root, "good", true, &good);
    if (status == QSAE_OK)
        status = read_text(where, root, "bad", true, &bad);
    if (status == QSAE_OK)
        status = read_tags(p, where, root, &item);
    if (status != QSAE_OK)
        return status;
    item.good_bytes = (int64_t)good.size;
    item.bad_bytes = (int64_t)bad.size;
    if (good.size == bad.size && memcmp(good.data, bad.data, good.size) == 0)
        return qsae__fail(QSAE_EFORMAT, "%s: good and bad are the same text", where);
    status = encode_context(r, where, &context);
    if (status != QSAE_OK)
        return status;
    item.n_context = r->context.count;
    status = qsae__ids_add(&p->ids, r->context.data, r->context.count);
    if (status == QSAE_OK)
        status = encode_continuation(r, where, "good", &context, &good, &item.n_good);
    if (status == QSAE_OK)
        status = encode_continuation(r, where, "bad", &context, &bad, &item.n_bad);
    if (status != QSAE_OK)
        return status;
    const int32_t *const ids = p->ids.data + item.first + item.n_context;
    if (item.n_good == item.n_bad &&
        memcmp(ids, ids + item.n_good, (size_t)item.n_good * sizeof *ids) == 0)
        return qsae__fail(QSAE_EFORMAT, "%s: good and bad are the same tokens", where);
    /* The last token of a continuation is predicted, not read. */
    p->longest = qsae__max_i64(p->longest, item.n_context - 1 +
                                               qsae__max_i64(item.n_good, item.n_bad));
    status = qsae__grow(p->ctx, &p->items, &p->capacity, p->n + 1, sizeof *p->items);
    if (status == QSAE_OK)
        p->items[p->n++] = item;
    return status;
}

static int32_t read_record(struct reader *r, const qsae__record *record)
{
    qsae__strbuf where;
    json_t *root = NULL;
    int32_t status;

    qsae__strbuf_init(&where, r->set->ctx);
    qsae__strbuf_addf(&where, "%s:%lld", r->set->path, (long long)record->line);
    status = where.status;
    if (status == QSAE_OK)
        status = qsae__json_parse_with(record->text, (size_t)record->size, where.data,
                                       QSAE__JSON_NUL, &root);
    if (status == QSAE_OK && !json_is_object(root))
        status = qsae__fail(QSAE_EFORMAT, "%s: expected object, found %s", where.data,
                            qsae__json_type_name(root));
    if (status == QSAE_OK)
        status = read_item(r, where.data, root, record->line);
    json_decref(root);
    qsae__strbuf_free(&where);
    return status;
}

static int32_t hash_set(struct qsae_probes *p)
{
    qsae__hasher *h;
    const int32_t status = qsae__hasher_open(p->ctx, &h);

    if (status != QSAE_OK)
        return status;
    qsae__hasher_string(h, "qsae-probes-1");
    for (int64_t i = 0; i < p->n_tags; i++)
        qsae__hasher_string(h, p->tags[i]);
    for (int64_t i = 0; i < p->n; i++) {
        const struct qsae__probe *const k = &p->items[i];
        const int64_t n = k->n_context + k->n_good + k->n_bad,
                      counts[] = { k->n_context, k->n_good, k->n_bad, k->good_bytes, k->bad_bytes,
                                   k->n_tags };
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
            qsae__hasher_i64(h, counts[c]);
        for (int64_t c = 0; c < k->n_tags; c++)
            qsae__hasher_i64(h, p->item_tags[k->first_tag + c]);
        for (int64_t c = 0; c < n; c++)
            qsae__hasher_i64(h, p->ids.data[k->first + c]);
    }
    qsae__hasher_hex(h, p->hash);
    qsae__hasher_close(p->ctx, &h);
    return QSAE_OK;
}

/* Which BOS stands in front of a context, and what stands for an empty one. */
static int32_t choose_bos(struct reader *r, int32_t policy)
{
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    const int32_t status = qsae_tokenizer_get_info(r->tokenizer, &info);
    const bool wanted = policy == QSAE_BOS_DEFAULT ? info.adds_bos : policy != QSAE_BOS_NONE;

    if (status != QSAE_OK)
        return status;
    if (wanted && info.bos < 0)
        return qsae__fail(QSAE_EINVAL, "probes: bos %s: the tokenizer has no BOS",
                          qsae_bos_name(policy));
    r->set->bos_policy = policy;
    r->set->bos = wanted ? info.bos : -1;
    r->prefix = info.bos >= 0 ? info.bos : info.eos;
    return QSAE_OK;
}

static int32_t read_set(struct reader *r)
{
    struct qsae_probes *const p = r->set;
    qsae__documents d;
    int32_t status = qsae__folder_exists(p->path)
                         ? qsae__fail(QSAE_EINVAL, "%s: expected a file of JSON lines, found a "
                                      "folder", p->path)
                         : QSAE_OK;

    if (status == QSAE_OK)
        status = qsae__documents_open(&d, p->ctx, p->path, QSAE_TEXT_JSONL, "");
    if (status != QSAE_OK)
        return status;
    for (int64_t i = 0; i < d.count && status == QSAE_OK; i++)
        status = read_record(r, &d.records[i]);
    qsae__documents_free(&d);
    if (status == QSAE_OK && p->n == 0)
        status = qsae__fail(QSAE_EFORMAT, "%s: expected a probe per line, found none", p->path);
    return status == QSAE_OK ? hash_set(p) : status;
}

int32_t qsae__probes_open(qsae_context *ctx, const qsae_tokenizer *t, const char *path,
                          int32_t bos_policy, struct qsae_probes **out)
{
    struct qsae_probes *p = qsae__calloc(ctx, 1, sizeof *p);
    struct reader r = { .set = p, .tokenizer = t };

    *out = NULL;
    if (p == NULL)
        return QSAE_ENOMEM;
    qsae__handle_init(p);
    p->ctx = qsae__context_ref(ctx);
    p->ids.ctx = r.context.ctx = ctx;
    p->path = qsae__strdup(ctx, path);
    qsae__strbuf_init(&r.joined, ctx);
    qsae__encoder_init(&r.encoder, t);
    int32_t status = p->path == NULL ? QSAE_ENOMEM : choose_bos(&r, bos_policy);
    if (status == QSAE_OK)
        status = read_set(&r);
    qsae__encoder_free(&r.encoder);
    qsae__strbuf_free(&r.joined);
    qsae__free(ctx, r.context.data);
    if (status == QSAE_OK) {
        *out = p;
    } else {
        qsae__unshare(p);
        qsae__probes_close(&p);
    }
    return status;
}
