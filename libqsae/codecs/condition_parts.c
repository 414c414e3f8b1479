/* SPDX-License-Identifier: BSD-2-Clause */
/* What follows a codec with '+': pruning and the key/value cache. */
#include <inttypes.h>
#include <string.h>

#include <qsae/tensor.h>

#include "codecs/parser.h"

enum { PART_PRUNE = 1u << 8, PART_KV = 1u << 9 }; /* bits of qsae__parser.selectors */

static int32_t set_sparsity(qsae__parser *p, qsae__word w)
{
    double v;
    if (!qsae__parse_decimal(p, w, QSAE__DECIMAL_SPARSITY, &v) || v > 1)
        return qsae__parse_bad(p, w, "sparsity", "a decimal number from 0 to 1");
    p->c->prune.sparsity = v;
    return QSAE_OK;
}

/* A perplexity, or (CONDITION) whose perplexity it is. */
static int32_t set_match(qsae__parser *p, qsae__word w)
{
    if (w.n > 0 && *w.s == '(') {
        qsae__word inside;
        qsae__condition inner;
        p->at = w.s;
        int32_t st = qsae__parse_parentheses(p, &inside);
        if (st == QSAE_OK)
            st = qsae__parse_inner(p, inside, &inner);
        if (st != QSAE_OK)
            return st;
        if (inner.prune_match > 0 || inner.prune_target)
            st = qsae__parse_bad(p, inside, "match within match", "a condition that can be run");
        else if (!(p->c->prune_target = qsae__strdup(p->ctx, inner.canonical)))
            st = QSAE_ENOMEM;
        qsae__condition_free(p->ctx, &inner);
        return st;
    }
    double v;
    if (!qsae__parse_decimal(p, w, QSAE__DECIMAL_MATCH, &v) || v < 1)
        return qsae__parse_bad(p, w, "match", "a perplexity of at least 1, or (CONDITION)");
    p->c->prune_match = v;
    return QSAE_OK;
}

static int32_t set_pattern(qsae__parser *p, qsae__word w)
{
    const char *const colon = memchr(w.s, ':', (size_t)w.n);
    int64_t keep, of;
    if (!colon || !qsae__parse_i64((qsae__word){ w.s, colon - w.s }, &keep) ||
        !qsae__parse_i64((qsae__word){ colon + 1, w.s + w.n - colon - 1 }, &of) || keep < 1 ||
        of <= keep || of > 64)
        return qsae__parse_bad(p, w, "pattern", "KEEP:OF such as 2:4, OF at most 64");
    p->c->prune.kind = QSAE__PRUNE_PATTERN;
    p->c->prune.keep = (int32_t)keep;
    p->c->prune.of = (int32_t)of;
    return QSAE_OK;
}

static int32_t set_scope(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = { "tensor", "row", "tl", NULL };
    int32_t i = 0;
    const int32_t st = qsae__parse_choice(p, w, "scope", names, "tensor, row, tl", &i);
    if (st == QSAE_OK && p->c->prune.kind != QSAE__PRUNE_PATTERN)
        p->c->prune.kind = i == 1 ? QSAE__PRUNE_ROW : QSAE__PRUNE_TENSOR;
    p->c->prune.apart = i == 2;
    return st;
}

static int32_t set_ties(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = { "all", "first", NULL };
    int32_t i = 0;
    const int32_t st = qsae__parse_choice(p, w, "ties", names, "all, first", &i);
    p->c->prune.ties_first = i == 1;
    return st;
}

static int32_t set_tokens(qsae__parser *p, qsae__word w)
{
    if (!qsae__parse_i64(w, &p->c->prune_tokens))
        return qsae__parse_bad(p, w, "tokens", "tokens the search looks at, 0 = all");
    return QSAE_OK;
}

static int32_t parse_prune(qsae__parser *p, qsae__word name)
{
    enum { SPARSITY = 1, MATCH = 2, PATTERN = 4, SCOPE = 8, TIES = 16, TOKENS = 32 };
    static const qsae__option options[QSAE__OPTIONS_MOST] = {
        { "sparsity", set_sparsity }, { "match", set_match }, { "pattern", set_pattern },
        { "scope", set_scope },       { "ties", set_ties },   { "tokens", set_tokens },
    };
    if (qsae__parse_peek(p) != ':')
        return qsae__parse_bad(p, name, "no options after", "+prune:sparsity=S, match=PPL, "
                               "match=(CONDITION) or pattern=KEEP:OF");
    const int32_t st = qsae__parse_options(p, options, "sparsity, match, pattern, scope, ties, "
                                           "tokens");
    if (st != QSAE_OK)
        return st;
    const unsigned how = p->seen & (SPARSITY | MATCH | PATTERN);
    if (how != SPARSITY && how != MATCH && how != PATTERN)
        return qsae__parse_bad(p, name, "options of", "one of sparsity, match, pattern");
    if (how == PATTERN && p->seen & (SCOPE | TIES))
        return qsae__parse_bad(p, name, "options of", "pattern alone: it has no scope and no ties");
    if (how != MATCH && p->seen & TOKENS)
        return qsae__parse_bad(p, name, "options of", "tokens with match only");
    if (p->c->prune.kind == QSAE__PRUNE_NONE)
        p->c->prune.kind = QSAE__PRUNE_TENSOR;
    return QSAE_OK;
}

struct kv_name {
    const char *name;
    qsae__kv_code code;
};

static const struct kv_name kv_names[] = {
    { "none", { .kind = QSAE__KV_NONE } },
    { "f16", { .kind = QSAE__KV_F16 } },
    { "bf16", { .kind = QSAE__KV_BF16 } },
    { "int8", { .kind = QSAE__KV_INT8 } },
    { "q8_0", { .kind = QSAE__KV_GGML, .dtype = QSAE_Q8_0 } },
    { "q5_1", { .kind = QSAE__KV_GGML, .dtype = QSAE_Q5_1 } },
    { "q5_0", { .kind = QSAE__KV_GGML, .dtype = QSAE_Q5_0 } },
    { "q4_1", { .kind = QSAE__KV_GGML, .dtype = QSAE_Q4_1 } },
    { "q4_0", { .kind = QSAE__KV_GGML, .dtype = QSAE_Q4_0 } },
    { "iq4_nl", { .kind = QSAE__KV_GGML, .dtype = QSAE_IQ4_NL } },
};
#define N_KV (sizeof kv_names / sizeof kv_names[0])

/* One of the names, or turboB with or without an s for the sketch. */
static int32_t set_code(qsae__parser *p, qsae__word w, qsae__kv_code *out)
{
    for (size_t i = 0; i < N_KV; i++)
        if (qsae__word_is(w, kv_names[i].name)) {
            const int rotate = (int)out->rotate; /* rot may come first */
            *out = kv_names[i].code;
            out->rotate = rotate;
            return QSAE_OK;
        }
    const bool turbo = (w.n == 6 || (w.n == 7 && w.s[6] == 's')) && !memcmp(w.s, "turbo", 5);
    if (!turbo || w.s[5] < '1' || w.s[5] > '8')
        return qsae__parse_bad(p, w, "code", "none, f16, bf16, int8, q8_0, q5_1, q5_0, q4_1, q4_0, "
                               "iq4_nl, turbo1 to turbo8, turbo1s to turbo8s");
    out->kind = QSAE__KV_TURBO;
    out->bits = w.s[5] - '0';
    out->sketch = w.n == 7;
    return QSAE_OK;
}

static int32_t set_k(qsae__parser *p, qsae__word w)
{
    return set_code(p, w, &p->c->kv_k);
}

static int32_t set_v(qsae__parser *p, qsae__word w)
{
    return set_code(p, w, &p->c->kv_v);
}

static int32_t set_sink(qsae__parser *p, qsae__word w)
{
    if (!qsae__parse_i64(w, &p->c->kv_sink))
        return qsae__parse_bad(p, w, "sink", "positions at the start kept in f16");
    return QSAE_OK;
}

static int32_t set_rot(qsae__parser *p, qsae__word w)
{
    if (!qsae__word_is(w, "0") && !qsae__word_is(w, "1"))
        return qsae__parse_bad(p, w, "rot", "0, 1");
    p->c->kv_k.rotate = w.s[0] == '1' ? QSAE__KV_ROTATE_WIDE : QSAE__KV_ROTATE_NONE;
    p->c->kv_v.rotate = w.s[0] == '1' ? QSAE__KV_ROTATE_64 : QSAE__KV_ROTATE_NONE;
    return QSAE_OK;
}

static int32_t parse_kv(qsae__parser *p, qsae__word name)
{
    static const qsae__option options[QSAE__OPTIONS_MOST] = { { "k", set_k },
                                                                  { "v", set_v },
                                                                  { "sink", set_sink },
                                                                  { "rot", set_rot } };
    if (qsae__parse_peek(p) != ':')
        return qsae__parse_bad(p, name, "no options after", "+kv:k=CODE,v=CODE,sink=N,rot=0");
    const int32_t st = qsae__parse_options(p, options, "k, v, sink, rot");
    if (st != QSAE_OK)
        return st;
    if (p->c->kv_k.kind == QSAE__KV_NONE && p->c->kv_v.kind == QSAE__KV_NONE)
        return qsae__parse_bad(p, name, "no code in", "k=CODE, v=CODE or both");
    if (p->c->kv_k.kind != QSAE__KV_GGML && p->c->kv_v.kind != QSAE__KV_GGML &&
        p->c->kv_k.rotate != QSAE__KV_ROTATE_NONE)
        return qsae__parse_bad(p, name, "rot=1 without a ggml code in", "one of q8_0 to iq4_nl");
    return QSAE_OK;
}

int32_t qsae__parse_part(qsae__parser *p)
{
    const qsae__word name = qsae__parse_take(p, ":@+");
    const bool prune = qsae__word_is(name, "prune");
    if (!prune && !qsae__word_is(name, "kv"))
        return qsae__parse_bad(p, name, "unknown part", "+prune, +kv");
    const unsigned bit = prune ? PART_PRUNE : PART_KV;
    if (p->selectors & bit)
        return qsae__parse_bad(p, name, "repeated part", "each part once");
    if (prune && p->c->control != QSAE__CONTROL_NONE)
        return qsae__parse_bad(p, name, "no part of a control that leaves weights as they are:",
                               "+kv");
    p->selectors |= bit;
    p->seen = 0;
    return prune ? parse_prune(p, name) : parse_kv(p, name);
}

void qsae__print_prune(const qsae__condition *c, qsae__strbuf *b)
{
    const qsae__prune *const r = &c->prune;
    if (r->kind == QSAE__PRUNE_NONE)
        return;
    if (r->kind == QSAE__PRUNE_PATTERN) {
        qsae__strbuf_addf(b, "+prune:pattern=%d:%d", (int)r->keep, (int)r->of);
        return;
    }
    if (c->prune_target)
        qsae__strbuf_addf(b, "+prune:match=(%s)", c->prune_target);
    else if (c->prune_match > 0)
        qsae__strbuf_addf(b, "+prune:match=%s", c->decimal[QSAE__DECIMAL_MATCH]);
    else
        qsae__strbuf_addf(b, "+prune:sparsity=%s", c->decimal[QSAE__DECIMAL_SPARSITY]);
    const char *const scope = r->kind == QSAE__PRUNE_ROW ? "row" : r->apart ? "tl" : "tensor";
    qsae__strbuf_addf(b, ",scope=%s,ties=%s", scope, r->ties_first ? "first" : "all");
    if (c->prune_target || c->prune_match > 0)
        qsae__strbuf_addf(b, ",tokens=%" PRId64, c->prune_tokens);
}

static void print_code(const qsae__kv_code *k, qsae__strbuf *b)
{
    if (k->kind == QSAE__KV_TURBO) {
        qsae__strbuf_addf(b, "turbo%d%s", (int)k->bits, k->sketch ? "s" : "");
        return;
    }
    for (size_t i = 0; i < N_KV; i++)
        if (kv_names[i].code.kind == k->kind && kv_names[i].code.dtype == k->dtype)
            qsae__strbuf_addf(b, "%s", kv_names[i].name);
}

void qsae__print_kv(const qsae__condition *c, qsae__strbuf *b)
{
    if (c->kv_k.kind == QSAE__KV_NONE && c->kv_v.kind == QSAE__KV_NONE)
        return;
    qsae__strbuf_addf(b, "+kv:k=");
    print_code(&c->kv_k, b);
    qsae__strbuf_addf(b, ",v=");
    print_code(&c->kv_v, b);
    qsae__strbuf_addf(b, ",sink=%" PRId64, c->kv_sink);
    if (c->kv_k.rotate != QSAE__KV_ROTATE_NONE)
        qsae__strbuf_addf(b, ",rot=1");
}
