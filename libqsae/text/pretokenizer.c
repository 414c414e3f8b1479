/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading the pre_tokenizer of tokenizer.json. */
#include <string.h>

#include "text/pretokenize.h"
#include "text/utf8.h"

#define GPT2_REGEX \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static const char *const behaviors[] = {
    "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous",
};

/* *out: QSAE__REMOVED, ...; `fallback` names the behavior if the file does not (NULL: it must). */
static int32_t read_behavior(const json_t *json, const char *where, const char *fallback,
                             int32_t *out)
{
    const char *behavior = fallback;
    const int32_t status = qsae__json_str(json, where, "behavior", fallback == NULL, &behavior,
                                          NULL);

    if (status != QSAE_OK)
        return status;
    for (int32_t i = 0; i < 5; i++)
        if (strcmp(behavior, behaviors[i]) == 0) {
            *out = i;
            return QSAE_OK;
        }
    return qsae__fail(QSAE_EFORMAT, "%s: unknown behavior \"%s\"", where, behavior);
}

static int32_t read_split(qsae__pretokenizer *p, const json_t *json, const char *where,
                          qsae__pre_step *step)
{
    int32_t status = read_behavior(json, where, NULL, &step->behavior);

    step->kind = QSAE__PRE_SPLIT;
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "invert", false, &step->invert, NULL);
    if (status != QSAE_OK)
        return status;
    return qsae__pattern_read(p->ctx, json_object_get(json, "pattern"), where, &step->pattern);
}

/* prepend_scheme (default always), and the older add_prefix_space: false = never. */
static int32_t read_scheme(const json_t *json, const char *where, qsae__pre_step *step)
{
    static const char *const schemes[] = { "always", "first", "never" };
    const char *scheme = NULL;
    bool add = true;
    int32_t present = 0, status;

    status = qsae__json_str(json, where, "prepend_scheme", false, &scheme, NULL);

    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "add_prefix_space", false, &add, &present);
    if (status != QSAE_OK)
        return status;
    step->prepend = scheme == NULL ? QSAE__PREPEND_ALWAYS : -1;
    for (int32_t i = 0; scheme != NULL && i < 3; i++)
        if (strcmp(scheme, schemes[i]) == 0)
            step->prepend = i;
    if (step->prepend < 0)
        return qsae__fail(QSAE_EFORMAT, "%s: Metaspace: unknown prepend_scheme \"%s\"", where,
                          scheme);
    if (present && !add) {
        if (scheme != NULL && step->prepend != QSAE__PREPEND_NEVER)
            return qsae__fail(QSAE_EFORMAT, "%s: Metaspace: add_prefix_space and prepend_scheme "
                              "contradict each other", where);
        step->prepend = QSAE__PREPEND_NEVER;
    }
    return QSAE_OK;
}

static int32_t read_metaspace(qsae__pretokenizer *p, const json_t *json, const char *where,
                              qsae__pre_step *step)
{
    const char *mark = NULL;
    int32_t status = qsae__json_str(json, where, "replacement", true, &mark, NULL);

    step->kind = QSAE__PRE_METASPACE;
    step->behavior = QSAE__MERGED_WITH_NEXT;
    step->split = true;
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "split", false, &step->split, NULL);
    if (status == QSAE_OK)
        status = read_scheme(json, where, step);
    if (status != QSAE_OK)
        return status;
    if (*mark == '\0' || mark[qsae__utf8_len(*mark)] != '\0')
        return qsae__fail(QSAE_EFORMAT, "%s: Metaspace: replacement: expected one character, found "
                          "\"%s\"", where, mark);
    step->mark = qsae__strdup(p->ctx, mark);
    if (step->mark == NULL)
        return QSAE_ENOMEM;
    return qsae__pattern_string(p->ctx, mark, strlen(mark), &step->pattern);
}

static int32_t read_bytes(qsae__pretokenizer *p, const json_t *json, const char *where,
                          qsae__pre_step *step)
{
    bool prefix = true;
    int32_t status = qsae__json_bool(json, where, "add_prefix_space", true, &prefix, NULL);

    step->kind = QSAE__PRE_BYTES;
    step->behavior = QSAE__ISOLATED;
    step->split = true;
    step->prepend = prefix ? QSAE__PREPEND_ALWAYS : QSAE__PREPEND_NEVER;
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "use_regex", false, &step->split, NULL);
    if (status == QSAE_OK && step->split)
        status = qsae__pattern_regex(p->ctx, GPT2_REGEX, where, &step->pattern);
    return status;
}

/* CharDelimiterSplit. */
static int32_t read_delimiter(qsae__pretokenizer *p, const json_t *json, const char *where,
                              qsae__pre_step *step)
{
    const char *c = NULL;
    const int32_t status = qsae__json_str(json, where, "delimiter", true, &c, NULL);

    step->kind = QSAE__PRE_SPLIT;
    step->behavior = QSAE__REMOVED;
    if (status != QSAE_OK)
        return status;
    if (*c == '\0' || c[qsae__utf8_len(*c)] != '\0')
        return qsae__fail(QSAE_EFORMAT, "%s: CharDelimiterSplit: delimiter: expected one "
                          "character, found \"%s\"", where, c);
    return qsae__pattern_string(p->ctx, c, strlen(c), &step->pattern);
}

static int32_t read_sequence(qsae__pretokenizer *p, const json_t *json, const char *where)
{
    const json_t *list = NULL;
    int32_t status = qsae__json_get(json, where, "pretokenizers", true, JSON_ARRAY, &list);

    for (size_t i = 0; status == QSAE_OK && i < json_array_size(list); i++)
        status = qsae__pretokenizer_read(p, json_array_get(list, i), where);
    return status;
}

int32_t qsae__pretokenizer_read(qsae__pretokenizer *p, const json_t *json, const char *where)
{
    const char *type = NULL;
    qsae__pre_step *step;
    bool individual = false;
    int32_t status;

    if (json == NULL || json_is_null(json))
        return QSAE_OK;
    status = qsae__json_str(json, where, "type", true, &type, NULL);
    if (status != QSAE_OK)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(p, json, where); /* as deep as the JSON may be */
    status = qsae__grow(p->ctx, &p->steps, &p->capacity, p->count + 1, sizeof *p->steps);
    if (status != QSAE_OK)
        return status;
    step = &p->steps[p->count++];
    memset(step, 0, sizeof *step);
    if (strcmp(type, "Split") == 0)
        return read_split(p, json, where, step);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(p, json, where, step);
    if (strcmp(type, "ByteLevel") == 0)
        return read_bytes(p, json, where, step);
    if (strcmp(type, "Digits") == 0) {
        status = qsae__json_bool(json, where, "individual_digits", false, &individual, NULL);
        step->kind = QSAE__PRE_DIGITS;
        step->behavior = individual ? QSAE__ISOLATED : QSAE__CONTIGUOUS;
        return status;
    }
    if (strcmp(type, "CharDelimiterSplit") == 0)
        return read_delimiter(p, json, where, step);
    if (strcmp(type, "Punctuation") == 0) {
        step->kind = QSAE__PRE_PUNCTUATION;
        return read_behavior(json, where, "Isolated", &step->behavior);
    }
    if (strcmp(type, "WhitespaceSplit") == 0 || strcmp(type, "Whitespace") == 0) {
        step->kind = type[10] == '\0' ? QSAE__PRE_WORDS : QSAE__PRE_SPACES;
        step->behavior = QSAE__REMOVED;
        return QSAE_OK;
    }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: pre-tokenizer \"%s\" is not supported", where, type);
}

void qsae__pretokenizer_free(qsae__pretokenizer *p)
{
    for (int64_t i = 0; i < p->count; i++) {
        qsae__pattern_close(p->ctx, &p->steps[i].pattern);
        qsae__free(p->ctx, p->steps[i].mark);
    }
    if (p->ctx != NULL)
        qsae__free(p->ctx, p->steps);
    p->steps = NULL;
    p->count = p->capacity = 0;
}
