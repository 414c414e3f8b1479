/* SPDX-License-Identifier: BSD-2-Clause */
#include "codecs/condition.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <qsae/model.h>

#include "codecs/parser.h"

#define MAX_TEXT 65536 /* a mix of a condition per linear layer */
#define MAX_DEPTH 4

bool qsae__word_is(qsae__word w, const char *s)
{
    return (size_t)w.n == strlen(s) && memcmp(w.s, s, (size_t)w.n) == 0;
}

int32_t qsae__parse_bad(const qsae__parser *p, qsae__word w, const char *what, const char *allowed)
{
    return qsae__fail(QSAE_EINVAL, "condition \"%.200s\", offset %td: %s \"%.*s\"; allowed: %s",
                      p->text, w.s - p->text, what, (int)qsae__min_i64(w.n, 100), w.s, allowed);
}

qsae__word qsae__parse_take(qsae__parser *p, const char *delimiters)
{
    qsae__word w = {p->at, 0};
    while (p->at < p->end && !strchr(delimiters, *p->at))
        p->at++;
    w.n = p->at - w.s;
    return w;
}

char qsae__parse_peek(const qsae__parser *p)
{
    return p->at < p->end ? *p->at : 0;
}

bool qsae__parse_i64(qsae__word w, int64_t *out)
{
    int64_t v = 0;
    if (w.n < 1 || w.n > 18)
        return false;
    for (int64_t i = 0; i < w.n; i++) {
        if (w.s[i] < '0' || w.s[i] > '9')
            return false;
        v = v * 10 + (w.s[i] - '0');
    }
    *out = v;
    return true;
}

/* Digits without leading zeros, fraction without trailing ones. */
static void copy_decimal(qsae__word w, char *out)
{
    while (w.n > 1 && w.s[0] == '0' && w.s[1] != '.') {
        w.s++;
        w.n--;
    }
    if (memchr(w.s, '.', (size_t)w.n)) {
        while (w.s[w.n - 1] == '0')
            w.n--;
        if (w.s[w.n - 1] == '.')
            w.n--;
    }
    memcpy(out, w.s, (size_t)w.n);
    out[w.n] = 0;
}

/* The quotient of two exact doubles is rounded once. */
bool qsae__parse_decimal(qsae__parser *p, qsae__word w, int which, double *out)
{
    double value = 0, scale = 1;
    int64_t digits = 0;
    bool point = false;
    for (int64_t i = 0; i < w.n; i++) {
        if (w.s[i] == '.' && !point && i > 0 && i + 1 < w.n) {
            point = true;
        } else if (w.s[i] >= '0' && w.s[i] <= '9' && digits < 15) {
            value = value * 10 + (w.s[i] - '0');
            scale = point ? scale * 10 : scale;
            digits++;
        } else {
            return false;
        }
    }
    if (digits == 0)
        return false;
    *out = value / scale;
    copy_decimal(w, p->c->decimal[which]);
    return true;
}

int32_t qsae__parse_choice(const qsae__parser *p, qsae__word w, const char *what,
                           const char *const *names, const char *allowed, int32_t *out)
{
    for (int32_t i = 0; names[i]; i++)
        if (qsae__word_is(w, names[i])) {
            *out = i;
            return QSAE_OK;
        }
    return qsae__parse_bad(p, w, what, allowed);
}

int32_t qsae__parse_options(qsae__parser *p, const qsae__option *options, const char *names)
{
    do {
        p->at++; /* ':' or ',' */
        const qsae__word key = qsae__parse_take(p, "=,@+");
        size_t i = 0;
        while (i < QSAE__OPTIONS_MOST && options[i].name && !qsae__word_is(key, options[i].name))
            i++;
        if (i == QSAE__OPTIONS_MOST || !options[i].name)
            return qsae__parse_bad(p, key, key.n ? "unknown option" : "missing option", names);
        if (p->seen & 1u << i)
            return qsae__parse_bad(p, key, "repeated option", "each option once");
        if (qsae__parse_peek(p) != '=')
            return qsae__parse_bad(p, key, "no value for option", "key=value");
        p->seen |= 1u << i;
        p->at++;
        /* A value in parentheses is its option's to take. */
        const qsae__word value = qsae__parse_peek(p) == '(' ? (qsae__word){p->at, 1}
                                                            : qsae__parse_take(p, ",@+");
        const int32_t status = options[i].set(p, value);
        if (status)
            return status;
    } while (qsae__parse_peek(p) == ',');
    return QSAE_OK;
}

/* Parentheses within a /regex/ do not count. */
int32_t qsae__parse_parentheses(qsae__parser *p, qsae__word *inside)
{
    int64_t depth = 0;
    bool regex = false;
    const char *const open = p->at;
    for (; p->at < p->end; p->at++) {
        if (regex && *p->at == '\\' && p->at + 1 < p->end)
            p->at++;
        else if (*p->at == '/')
            regex = !regex;
        else if (!regex && *p->at == '(')
            depth++;
        else if (!regex && *p->at == ')' && --depth == 0)
            break;
        if (depth == 0 && !regex)
            break;
    }
    if (p->at == p->end || *open != '(')
        return qsae__parse_bad(p, (qsae__word){open, p->end - open}, "no condition in parentheses",
                               "(CONDITION)");
    *inside = (qsae__word){open + 1, p->at - open - 1};
    p->at++;
    return QSAE_OK;
}

static int32_t parse_layers(qsae__parser *p, qsae__word value)
{
    const char *dash = memchr(value.s, '-', (size_t)value.n);
    const qsae__word first = {value.s, dash ? dash - value.s : value.n};
    const qsae__word last = dash ? (qsae__word){dash + 1, value.s + value.n - dash - 1} : first;
    qsae__condition *c = p->c;
    if (!qsae__parse_i64(first, &c->layer_first) || !qsae__parse_i64(last, &c->layer_last) ||
        c->layer_first > c->layer_last)
        return qsae__parse_bad(p, value, "layers", "FIRST-LAST or one layer, counted from 0");
    return QSAE_OK;
}

/* embed, head or embed|head */
static int32_t parse_with(qsae__parser *p)
{
    static const char *const names[] = {"embed", "head", NULL};
    for (;;) {
        int32_t i = 0;
        const int32_t st = qsae__parse_choice(p, qsae__parse_take(p, "|@+"), "matrix", names,
                                              "embed, head, embed|head", &i);
        if (st != QSAE_OK)
            return st;
        p->c->with_embed = p->c->with_embed || i == 0;
        p->c->with_head = p->c->with_head || i == 1;
        if (qsae__parse_peek(p) != '|')
            return QSAE_OK;
        p->at++;
    }
}

#define SELECTORS "@layers=, @only=, @skip=, @with=, @compute="
#define WEIGHT_SELECTORS 0xfu /* the first four */

static int32_t parse_selector(qsae__parser *p)
{
    static const char *const names[] = {"layers", "only", "skip", "with", "compute", NULL};
    static const char *const compute[] = {"f32", "bf16", NULL};
    static const int32_t compute_value[] = {QSAE_COMPUTE_F32, QSAE_COMPUTE_BF16};
    int32_t which = 0, i = 0;
    const qsae__word key = qsae__parse_take(p, "=@+");
    int32_t status = qsae__parse_choice(p, key, "selector", names, SELECTORS, &which);
    if (status)
        return status;
    if (p->selectors & 1u << which)
        return qsae__parse_bad(p, key, "repeated selector", "each selector once, those of what a "
                               "control is about within its parentheses");
    p->selectors |= 1u << which;
    if (qsae__parse_peek(p) != '=')
        return qsae__parse_bad(p, key, "no value for selector", "@selector=value");
    p->at++;
    if (which == 0)
        return parse_layers(p, qsae__parse_take(p, "@+"));
    if (which == 1)
        return qsae__parse_names(p, &p->c->only);
    if (which == 2)
        return qsae__parse_names(p, &p->c->skip);
    if (which == 3)
        return parse_with(p);
    status = qsae__parse_choice(p, qsae__parse_take(p, "@+"), "compute", compute, "f32, bf16", &i);
    p->c->model_compute = compute_value[i];
    return status;
}

static int32_t parse_tail(qsae__parser *p)
{
    const qsae__word all = {p->at, p->end - p->at};
    const unsigned inside = p->selectors;
    int32_t status = QSAE_OK;
    while (!status && p->at < p->end) {
        const char mark = *p->at;
        if (mark != '@' && mark != '+')
            return qsae__parse_bad(p, (qsae__word){p->at, p->end - p->at}, "unexpected",
                                   ":options after the codec, then @selectors and +parts");
        p->at++;
        status = mark == '@' ? parse_selector(p) : qsae__parse_part(p);
    }
    if (!status && !qsae__condition_encodes(p->c) && (p->selectors & WEIGHT_SELECTORS & ~inside))
        return qsae__parse_bad(p, all, "selector without a weight codec",
                               "none takes @compute= and +parts only");
    return status;
}

void qsae__print_selectors(const qsae__condition *c, qsae__strbuf *b)
{
    if (c->layer_first > 0 || c->layer_last < INT64_MAX)
        qsae__strbuf_addf(b, "@layers=%" PRId64 "-%" PRId64, c->layer_first, c->layer_last);
    if (c->only)
        qsae__strbuf_addf(b, "@only=%s", qsae__names_text(c->only));
    if (c->skip)
        qsae__strbuf_addf(b, "@skip=%s", qsae__names_text(c->skip));
    if (c->with_embed || c->with_head)
        qsae__strbuf_addf(b, "@with=%s", !c->with_head ? "embed" : !c->with_embed ? "head"
                                                                                  : "embed|head");
}

static void print_all(const qsae__condition *c, qsae__strbuf *b)
{
    const bool control = c->control != QSAE__CONTROL_NONE;
    qsae__print_codec(c, b);
    if (!control && !c->n_parts)
        qsae__print_selectors(c, b);
    if (c->model_compute)
        qsae__strbuf_addf(b, "@compute=%s", c->model_compute == QSAE_COMPUTE_F32 ? "f32" : "bf16");
    if (!control)
        qsae__print_prune(c, b);
    qsae__print_kv(c, b);
}

static int32_t print(qsae_context *ctx, const qsae__condition *c,
                     void (*what)(const qsae__condition *, qsae__strbuf *), char **out)
{
    qsae__strbuf b;
    qsae__strbuf_init(&b, ctx);
    what(c, &b);
    const int32_t status = b.status;
    if (status == QSAE_OK)
        *out = b.data;
    else
        qsae__strbuf_free(&b);
    return status;
}

static void set_defaults(qsae__condition *c)
{
    memset(c, 0, sizeof *c);
    c->block = 64;
    c->nested = 1;
    c->threshold = 6;
    c->bits = 8;
    c->symmetric = 1;
    c->layer_last = INT64_MAX;
    memcpy(c->decimal[QSAE__DECIMAL_THRESHOLD], "6", 2);
}

/* The condition p is at, into p->c, which holds nothing on failure. */
static int32_t parse(qsae__parser *p)
{
    qsae__condition *const c = p->c;
    set_defaults(c);
    int32_t status = qsae__parse_codec(p);
    c->codec_end = p->at - p->text;
    if (!status)
        status = parse_tail(p);
    if (!status && c->codec_canonical) { /* of what a control is about */
        qsae__free(p->ctx, c->codec_canonical);
        c->codec_canonical = NULL;
    }
    if (!status)
        status = print(p->ctx, c, qsae__print_codec, &c->codec_canonical);
    if (!status)
        status = print(p->ctx, c, print_all, &c->canonical);
    if (status)
        qsae__condition_free(p->ctx, c);
    return status;
}

int32_t qsae__parse_inner(const qsae__parser *p, qsae__word text, qsae__condition *out)
{
    qsae__parser inner = {.ctx = p->ctx, .text = p->text, .at = text.s, .end = text.s + text.n,
                          .depth = p->depth + 1, .c = out};
    if (inner.depth > MAX_DEPTH)
        return qsae__parse_bad(p, text, "too many conditions within conditions at", "4");
    return parse(&inner);
}

int32_t qsae__condition_parse(qsae_context *ctx, const char *text, qsae__condition *out)
{
    memset(out, 0, sizeof *out);
    const size_t n = strnlen(text, MAX_TEXT + 1);
    if (n > MAX_TEXT)
        return qsae__fail(QSAE_EINVAL, "condition of more than %d bytes", MAX_TEXT);
    qsae__parser p = {.ctx = ctx, .text = text, .at = text, .end = text + n, .c = out};
    return parse(&p);
}

int32_t qsae__condition_with_sparsity(qsae_context *ctx, const qsae__condition *c, double sparsity,
                                      char **out)
{
    qsae__condition copy = *c;
    *out = NULL;
    if (!(sparsity >= 0 && sparsity <= 1))
        return qsae__fail(QSAE_EINVAL, "sparsity %g; allowed: 0 to 1", sparsity);
    /* As parse_decimal reads it back: an integer over a power of ten. */
    const int64_t parts = llrint(sparsity * 1e14);
    char text[24];
    const int n = snprintf(text, sizeof text, "%" PRId64 ".%014" PRId64,
                           parts / 100000000000000, parts % 100000000000000);
    copy_decimal((qsae__word){text, n}, copy.decimal[QSAE__DECIMAL_SPARSITY]);
    copy.prune_match = 0;
    copy.prune_target = NULL;
    return print(ctx, &copy, print_all, out);
}

int32_t qsae__condition_with_control(qsae_context *ctx, const qsae__condition *c,
                                     enum qsae__control control, char **out)
{
    qsae__condition copy = *c;
    *out = NULL;
    if (c->control != QSAE__CONTROL_NONE || !qsae__condition_encodes(c) || c->prune_target ||
        c->prune_match > 0 || c->n_parts)
        return qsae__fail(QSAE_EINVAL, "condition %.200s: expected one that changes weights, as "
                          "it stands, and is no mix", c->canonical);
    copy.control = control;
    copy.seed = 0;
    return print(ctx, &copy, print_all, out);
}

void qsae__condition_free(qsae_context *ctx, qsae__condition *c)
{
    qsae__names_free(ctx, c->only);
    qsae__names_free(ctx, c->skip);
    qsae__free(ctx, c->prune_target);
    qsae__free(ctx, c->canonical);
    qsae__free(ctx, c->codec_canonical);
    for (int64_t i = 0; i < c->n_parts; i++)
        qsae__condition_free(ctx, &c->parts[i]);
    qsae__free(ctx, c->parts);
    memset(c, 0, sizeof *c);
}

bool qsae__condition_encodes(const qsae__condition *c)
{
    return c->codec != QSAE__NONE || c->prune.kind != QSAE__PRUNE_NONE || c->n_parts > 0;
}

bool qsae__condition_selects(const qsae__condition *c, const qsae__place *place)
{
    if (!qsae__condition_encodes(c))
        return false;
    if (c->n_parts)
        return qsae__condition_at(c, place) != NULL;
    if (place->layer < 0)
        return !strcmp(place->group, "head") ? c->with_head : c->with_embed;
    if (place->layer < c->layer_first || place->layer > c->layer_last)
        return false;
    return (!c->only || qsae__names_match(c->only, place)) &&
           (!c->skip || !qsae__names_match(c->skip, place));
}

const qsae__condition *qsae__condition_at(const qsae__condition *c, const qsae__place *place)
{
    for (int64_t i = 0; i < c->n_parts; i++)
        if (qsae__condition_selects(&c->parts[i], place))
            return &c->parts[i];
    return !c->n_parts && qsae__condition_selects(c, place) ? c : NULL;
}
