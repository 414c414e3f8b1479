/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/normalize.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/utf8.h"

/* Steps without settings. */
static const struct {
    const char *name;
    int32_t kind, options;
} forms[] = {
    { "NFC", QSAE__NORM_UNICODE, UTF8PROC_STABLE | UTF8PROC_COMPOSE },
    { "NFD", QSAE__NORM_UNICODE, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE },
    { "NFKC", QSAE__NORM_UNICODE, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT },
    { "NFKD", QSAE__NORM_UNICODE, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT },
    { "Lowercase", QSAE__NORM_LOWERCASE, 0 },
    { "StripAccents", QSAE__NORM_ACCENTS, 0 },
    { "Nmt", QSAE__NORM_NMT, 0 },
};

static int32_t read_content(qsae__normalizer *n, const json_t *json, const char *where,
                            const char *key, qsae__norm_step *step)
{
    const char *text = NULL;
    const int32_t status = qsae__json_str(json, where, key, true, &text, NULL);

    if (status != QSAE_OK)
        return status;
    step->content_size = strlen(text);
    step->content = qsae__strdup(n->ctx, text);
    return step->content == NULL ? QSAE_ENOMEM : QSAE_OK;
}

static int32_t read_strip(const json_t *json, const char *where, qsae__norm_step *step)
{
    int32_t status = qsae__json_bool(json, where, "strip_left", true, &step->left, NULL);

    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "strip_right", true, &step->right, NULL);
    return status;
}

static int32_t read_sequence(qsae__normalizer *n, const json_t *json, const char *where)
{
    const json_t *list = NULL;
    int32_t status = qsae__json_get(json, where, "normalizers", true, JSON_ARRAY, &list);

    for (size_t i = 0; status == QSAE_OK && i < json_array_size(list); i++)
        status = qsae__normalizer_read(n, json_array_get(list, i), where);
    return status;
}

int32_t qsae__normalizer_read(qsae__normalizer *n, const json_t *json, const char *where)
{
    const char *type = NULL;
    qsae__norm_step *step;
    int32_t status;

    if (qsae__json_absent(json))
        return QSAE_OK;
    status = qsae__json_str(json, where, "type", true, &type, NULL);
    if (status != QSAE_OK)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(n, json, where); /* as deep as the JSON may be */
    status = qsae__grow(n->ctx, &n->steps, &n->capacity, n->count + 1, sizeof *n->steps);
    if (status != QSAE_OK)
        return status;
    step = &n->steps[n->count++];
    memset(step, 0, sizeof *step);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(type, forms[i].name) == 0) {
            step->kind = forms[i].kind;
            step->form = forms[i].options;
            return QSAE_OK;
        }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = QSAE__NORM_PREPEND;
        return read_content(n, json, where, "prepend", step);
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = QSAE__NORM_REPLACE;
        status = read_content(n, json, where, "content", step);
        if (status == QSAE_OK)
            status = qsae__pattern_read(n->ctx, json_object_get(json, "pattern"), where,
                                        &step->pattern);
        if (status == QSAE_OK && qsae__pattern_may_be_empty(step->pattern))
            status = qsae__fail(QSAE_EUNSUPPORTED, "%s: Replace: the regular expression matches "
                                "the empty string", where);
        return status;
    }
    if (strcmp(type, "Strip") == 0) {
        step->kind = QSAE__NORM_STRIP;
        return read_strip(json, where, step);
    }
    if (strcmp(type, "Precompiled") == 0) {
        const char *rules = NULL;
        step->kind = QSAE__NORM_CHARSMAP;
        status = qsae__json_str(json, where, "precompiled_charsmap", true, &rules, NULL);
        return status == QSAE_OK ? qsae__charsmap_read(n->ctx, rules, where, &step->map) : status;
    }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: normalizer \"%s\" is not supported", where, type);
}

void qsae__normalizer_free(qsae__normalizer *n)
{
    for (int64_t i = 0; i < n->count; i++) {
        qsae__free(n->ctx, n->steps[i].content);
        qsae__pattern_close(n->ctx, &n->steps[i].pattern);
        qsae__charsmap_close(n->ctx, &n->steps[i].map);
    }
    qsae__free(n->ctx, n->steps);
    n->steps = NULL;
    n->count = n->capacity = 0;
}

bool qsae__norm_expands(const qsae__norm_step *step)
{
    switch (step->kind) {
    case QSAE__NORM_PREPEND:
    case QSAE__NORM_CHARSMAP:
        return true;
    case QSAE__NORM_UNICODE:
        return step->form != forms[0].options;
    case QSAE__NORM_REPLACE:
        return step->content_size > 0 && step->content_size > qsae__utf8_len(step->content[0]);
    default:
        return false;
    }
}

bool qsae__norm_spaces(const qsae__norm_step *step)
{
    bool spaces = step->kind == QSAE__NORM_CHARSMAP ||
                  (step->kind == QSAE__NORM_UNICODE && (step->form & UTF8PROC_COMPAT) != 0);

    for (size_t i = 0; i < step->content_size; i += qsae__utf8_len(step->content[i]))
        spaces |= qsae__is_space(qsae__utf8_get(step->content + i));
    return spaces;
}

/* What a text of that many bytes may become. Steps that each double it, or replace every character
 * by a long text, would else fill the memory. */
static int64_t most_of(size_t size)
{
    return size < INT64_MAX / 128 ? 64 * (int64_t)size + 65536 : INT64_MAX;
}

static int32_t check_size(const qsae__strbuf *out, int64_t most)
{
    if (out->status != QSAE_OK || out->size <= most)
        return out->status;
    return qsae__fail(QSAE_EUNSUPPORTED, "normalizer: a text grows to more than 64 times its size");
}

static int32_t replace(const qsae__norm_step *step, const char *text, size_t size, int64_t most,
                       qsae__strbuf *out, bool *cut)
{
    qsae__search s = { .pattern = step->pattern, .text = text, .size = size };
    size_t start, end, last = 0;
    int32_t found;

    while ((found = qsae__search_next(&s, &start, &end)) == 1) {
        qsae__strbuf_add(out, text + last, start - last);
        qsae__strbuf_add(out, step->content, step->content_size);
        *cut |= start == 0 && step->content_size == 0;
        last = end;
        if (check_size(out, most) != QSAE_OK)
            break;
    }
    qsae__search_end(&s);
    if (found < 0)
        return found;
    qsae__strbuf_add(out, text + last, size - last);
    return check_size(out, most);
}

/* Characters that NFC leaves alone next to each other: NFC_Quick_Check is Yes and the combining
 * class 0 (UAX 15, section 9). Not all of them: the ranges that texts are made of. */
static bool stays(uint32_t c)
{
    return c < 0x300 || (c >= 0x388 && c <= 0x482) || (c >= 0x2010 && c <= 0x20cf) ||
           (c >= 0x2190 && c <= 0x2328) || (c >= 0x232b && c <= 0x2adb) ||
           (c >= 0x3041 && c <= 0x3098) || (c >= 0x30a0 && c <= 0x30ff) ||
           (c >= 0x3105 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3) ||
           (c >= 0xff01 && c <= 0xffef) || (c >= 0x1f000 && c <= 0x1faff);
}

static bool all_stay(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i += qsae__utf8_len(text[i]))
        if (!stays(qsae__utf8_get(text + i)))
            return false;
    return true;
}

/* Appends the form of a part that begins and ends where forms may be cut. */
static int32_t add_form(int32_t form, const char *text, size_t size, qsae__strbuf *out)
{
    utf8proc_uint8_t *mapped = NULL;
    const utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size,
                                            &mapped, (utf8proc_option_t)form);

    if (n < 0)
        return qsae__fail(n == UTF8PROC_ERROR_NOMEM ? QSAE_ENOMEM : QSAE_EFORMAT,
                          "normalization: %s", utf8proc_errmsg(n));
    qsae__strbuf_add(out, mapped, (size_t)n);
    free(mapped);
    return out->status;
}

static bool inert(const char *c)
{
    return (uint8_t)*c < 0x80 || qsae__is_young(qsae__utf8_get(c));
}

/* ASCII never changes, nor does it join what is before it: each run of other characters is taken
 * alone, with the ASCII character that its marks may join. Nor do characters younger than the
 * reference's tables. */
static int32_t unicode_form(const qsae__norm_step *step, const char *text, size_t size,
                            qsae__strbuf *out)
{
    size_t done = 0, at = 0;
    int32_t status = QSAE_OK;

    while (status == QSAE_OK) {
        size_t start;
        while (at < size && inert(text + at))
            at += qsae__utf8_len(text[at]);
        if (at == size)
            break;
        start = at > done && (uint8_t)text[at - 1] < 0x80 ? at - 1 : at;
        while (at < size && (uint8_t)text[at] >= 0x80 && !inert(text + at))
            at += qsae__utf8_len(text[at]);
        if (step->form == forms[0].options && all_stay(text + start, at - start))
            continue;
        qsae__strbuf_add(out, text + done, start - done);
        status = add_form(step->form, text + start, at - start, out);
        done = at;
    }
    qsae__strbuf_add(out, text + done, size - done);
    return status == QSAE_OK ? out->status : status;
}

static int32_t lowercase(const char *text, size_t size, qsae__strbuf *out)
{
    char buffer[4];

    for (size_t i = 0; i < size; i += qsae__utf8_len(text[i])) {
        const uint32_t c = qsae__utf8_get(text + i);
        if (c == 0x130) /* the one character whose full mapping is longer */
            qsae__strbuf_add(out, "i\xcc\x87", 3);
        else
            qsae__strbuf_add(out, buffer,
                             qsae__utf8_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)c),
                                            buffer));
    }
    return out->status;
}

static int32_t strip(const qsae__norm_step *step, const char *text, size_t size, qsae__strbuf *out,
                     bool *cut)
{
    const char *start = text, *end = text + size;

    while (step->left && start < end && qsae__is_space(qsae__utf8_get(start)))
        start += qsae__utf8_len(*start);
    while (step->right && end > start && qsae__is_space(qsae__utf8_get(qsae__utf8_prev(end))))
        end = qsae__utf8_prev(end);
    *cut |= start > text;
    qsae__strbuf_add(out, start, (size_t)(end - start));
    return out->status;
}

static bool is_mark(uint32_t c)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);

    if (qsae__is_young(c))
        return false;
    return c == 0x1cf2 || c == 0x1cf3 || /* marks in the reference's tables, letters since */
           category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
           category == UTF8PROC_CATEGORY_ME;
}

/* Without combining marks. */
static int32_t strip_accents(const char *text, size_t size, qsae__strbuf *out, bool *cut)
{
    size_t kept = 0;

    for (size_t i = 0, n; i < size; i += n) {
        n = qsae__utf8_len(text[i]);
        if (n == 1 || !is_mark(qsae__utf8_get(text + i)))
            continue;
        *cut |= i == 0;
        qsae__strbuf_add(out, text + kept, i - kept);
        kept = i + n;
    }
    qsae__strbuf_add(out, text + kept, size - kept);
    return out->status;
}

/* normalizers/unicode.rs, do_nmt: control characters go, other white space becomes a space. */
static int32_t nmt(const char *text, size_t size, qsae__strbuf *out, bool *cut)
{
    for (size_t i = 0, n; i < size; i += n) {
        const uint32_t c = qsae__utf8_get(text + i);
        n = qsae__utf8_len(text[i]);
        if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
            c == 0x9f)
            *cut |= i == 0;
        else if (c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                 (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                 c == 0xfeff || c == 0xfffd)
            qsae__strbuf_add(out, " ", 1);
        else
            qsae__strbuf_add(out, text + i, n);
    }
    return out->status;
}

int32_t qsae__normalize(const qsae__normalizer *n, const char *text, size_t text_size,
                        qsae__strbuf buffers[2], const char **out, size_t *size, bool *cut)
{
    bool deleted = false;
    int32_t status = QSAE_OK;

    *out = text;
    *size = text_size;
    for (int64_t i = 0; status == QSAE_OK && i < n->count; i++) {
        const qsae__norm_step *step = &n->steps[i];
        qsae__strbuf *b = &buffers[i % 2];
        b->size = 0;
        switch (step->kind) {
        case QSAE__NORM_PREPEND:
            if (*size > 0)
                qsae__strbuf_add(b, step->content, step->content_size);
            qsae__strbuf_add(b, *out, *size);
            status = b->status;
            break;
        case QSAE__NORM_REPLACE:
            status = replace(step, *out, *size, most_of(text_size), b, &deleted);
            break;
        case QSAE__NORM_UNICODE:
            status = unicode_form(step, *out, *size, b);
            break;
        case QSAE__NORM_LOWERCASE:
            status = lowercase(*out, *size, b);
            break;
        case QSAE__NORM_ACCENTS:
            status = strip_accents(*out, *size, b, &deleted);
            break;
        case QSAE__NORM_NMT:
            status = nmt(*out, *size, b, &deleted);
            break;
        case QSAE__NORM_CHARSMAP: /* the reference loses that text at the start was deleted */
            status = qsae__charsmap_run(step->map, *out, *size, b);
            break;
        default:
            status = strip(step, *out, *size, b, &deleted);
            break;
        }
        if (status == QSAE_OK)
            status = check_size(b, most_of(text_size));
        *out = b->data;
        *size = (size_t)b->size;
    }
    if (cut != NULL)
        *cut = deleted;
    return status;
}
