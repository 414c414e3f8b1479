/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/model.h>

#include "codecs/condition.h"

#define MAX_TEXT 4096
#define MAX_NAMES 64

/* A piece of the text; offsets in messages are relative to `text`. */
struct word {
    const char *s;
    int64_t n;
};

struct parser {
    qsae_context *ctx;
    const char *text;
    const char *at;         /* next unread byte */
    struct word threshold;  /* as written, for the canonical form */
    unsigned seen;          /* options met so far, bit per option of the codec */
    unsigned selectors;     /* selectors met so far */
    bool arith_set;
    qsae__condition *c;
};

struct option {
    const char *name;
    int32_t (*set)(struct parser *p, struct word value);
};

struct codec {
    const char *name;
    enum qsae__codec codec;
    const char *options;    /* for messages */
    struct option option[5];
};

static bool is(struct word w, const char *s)
{
    return (size_t)w.n == strlen(s) && memcmp(w.s, s, (size_t)w.n) == 0;
}

static int32_t bad(const struct parser *p, struct word w, const char *what, const char *allowed)
{
    return qsae__fail(QSAE_EINVAL, "condition \"%.200s\", offset %td: %s \"%.*s\"; allowed: %s",
                      p->text, w.s - p->text, what, (int)qsae__min_i64(w.n, 100), w.s, allowed);
}

/* Reads up to the next delimiter. */
static struct word take(struct parser *p, const char *delimiters)
{
    const struct word w = {p->at, (int64_t)strcspn(p->at, delimiters)};
    p->at += w.n;
    return w;
}

/* Decimal digits only, at most 18 of them. */
static bool parse_i64(struct word w, int64_t *out)
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

/* digits[.digits], independent of the locale. The quotient of two exact doubles is rounded once. */
static bool parse_decimal(struct word w, double *out)
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
    *out = value / scale;
    return digits > 0;
}

/* One of the names: its value is its index. */
static int32_t choice(const struct parser *p, struct word w, const char *what,
                      const char *const *names, const char *allowed, int32_t *out)
{
    for (int32_t i = 0; names[i]; i++)
        if (is(w, names[i])) {
            *out = i;
            return QSAE_OK;
        }
    return bad(p, w, what, allowed);
}

static int32_t set_flag(const struct parser *p, struct word w, const char *what, int32_t *out)
{
    static const char *const names[] = {"0", "1", NULL};
    return choice(p, w, what, names, "0, 1", out);
}

static int32_t set_rules(struct parser *p, struct word w)
{
    static const char *const names[] = {"cuda", "torch", NULL};
    int32_t i = 0;
    const int32_t status = choice(p, w, "rules", names, "cuda, torch", &i);
    p->c->rules = (enum qsae__rules)i;
    return status;
}

static int32_t set_threshold(struct parser *p, struct word w)
{
    double v;
    /* It is rounded to fp16: what would vanish there is no threshold. */
    if (!parse_decimal(w, &v) || v > 65504 || (v > 0 && v < 0x1p-24))
        return bad(p, w, "threshold", "0 (no outliers), or a decimal number from 6e-8 to 65504");
    p->c->threshold = (float)v;
    p->threshold = w;
    return QSAE_OK;
}

static int32_t set_block(struct parser *p, struct word w)
{
    int64_t v;
    if (!parse_i64(w, &v) || v < 32 || v > 4096 || (v & (v - 1)) != 0)
        return bad(p, w, "block", "32, 64, 128, 256, 512, 1024, 2048, 4096");
    p->c->block = (int32_t)v;
    return QSAE_OK;
}

static int32_t set_double(struct parser *p, struct word w)
{
    return set_flag(p, w, "double", &p->c->nested);
}

static int32_t set_compute(struct parser *p, struct word w)
{
    static const char *const names[] = {"model", "f32", "bf16", "f16", NULL};
    static const int32_t dtype[] = {0, QSAE_F32, QSAE_BF16, QSAE_F16};
    int32_t i = 0;
    const int32_t status = choice(p, w, "compute", names, "model, f32, bf16, f16", &i);
    p->c->compute = dtype[i];
    return status;
}

static int32_t set_bits(struct parser *p, struct word w)
{
    int64_t v;
    if (!parse_i64(w, &v) || v < 2 || v > 8)
        return bad(p, w, "bits", "2 to 8");
    p->c->bits = (int32_t)v;
    return QSAE_OK;
}

static int32_t set_axis(struct parser *p, struct word w)
{
    static const char *const names[] = {"row", "column", "tensor", "tl", NULL};
    int32_t i = 0;
    const int32_t status = choice(p, w, "axis", names, "row, column, tensor, tl", &i);
    p->c->axis = (enum qsae__axis)i;
    return status;
}

static int32_t set_group(struct parser *p, struct word w)
{
    if (!parse_i64(w, &p->c->group) || p->c->group > INT32_MAX)
        return bad(p, w, "group", "inputs per scale, 0 = the whole row");
    return QSAE_OK;
}

static int32_t set_sym(struct parser *p, struct word w)
{
    return set_flag(p, w, "sym", &p->c->symmetric);
}

static int32_t set_arith(struct parser *p, struct word w)
{
    static const char *const names[] = {"f32", "weight", NULL};
    p->arith_set = true;
    return choice(p, w, "arith", names, "f32, weight", &p->c->weight_arith);
}

static int32_t set_weights(struct parser *p, struct word w)
{
    static const char *const names[] = {"bf16", "f16", NULL};
    static const int32_t dtype[] = {QSAE_BF16, QSAE_F16};
    int32_t i = 0;
    const int32_t status = choice(p, w, "weights", names, "bf16, f16", &i);
    p->c->weights = dtype[i];
    return status;
}

static const struct codec codecs[] = {
    {"none", QSAE__NONE, "weights", {{"weights", set_weights}}},
    {"llm.int8", QSAE__INT8, "threshold, rules",
     {{"threshold", set_threshold}, {"rules", set_rules}}},
    {"nf4", QSAE__NF4, "block, double, compute, rules",
     {{"block", set_block}, {"double", set_double}, {"compute", set_compute},
      {"rules", set_rules}}},
    {"fp4", QSAE__FP4, "block, double, compute, rules",
     {{"block", set_block}, {"double", set_double}, {"compute", set_compute},
      {"rules", set_rules}}},
    {"rtn", QSAE__RTN, "bits, axis, group, sym, arith",
     {{"bits", set_bits}, {"axis", set_axis}, {"group", set_group}, {"sym", set_sym},
      {"arith", set_arith}}},
};
#define N_CODECS (sizeof codecs / sizeof codecs[0])
#define CODEC_NAMES "none, llm.int8, nf4, fp4, rtn"

/* Names users will try: told apart from typing errors. */
static const char *const unsupported[] = {
    "ggml", "gguf", "gptq", "awq", "hqq", "aqlm", "quip", "exl2", "squeezellm", "spqr", "vptq",
    "fp8", "mxfp4", "nvfp4", "smoothquant", "control", "prune", "kv", "int8", "af4",
};

static int32_t parse_options(struct parser *p, const struct codec *codec)
{
    do {
        p->at++; /* ':' or ',' */
        const struct word key = take(p, "=,@+");
        size_t i = 0;
        while (i < 5 && codec->option[i].name && !is(key, codec->option[i].name))
            i++;
        if (i == 5 || !codec->option[i].name)
            return bad(p, key, key.n ? "unknown option" : "missing option", codec->options);
        if (p->seen & 1u << i)
            return bad(p, key, "repeated option", "each option once");
        if (*p->at != '=')
            return bad(p, key, "no value for option", "key=value");
        p->seen |= 1u << i;
        p->at++;
        const int32_t status = codec->option[i].set(p, take(p, ",@+"));
        if (status)
            return status;
    } while (*p->at == ',');
    return QSAE_OK;
}

static int32_t parse_codec(struct parser *p)
{
    const struct word name = take(p, ":@+,=");
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++)
        if (is(name, unsupported[i]))
            return qsae__fail(QSAE_EUNSUPPORTED, "condition \"%.200s\", offset 0: \"%s\" is not "
                              "supported by this version; supported: %s", p->text, unsupported[i],
                              CODEC_NAMES);
    for (size_t i = 0; i < N_CODECS; i++)
        if (is(name, codecs[i].name)) {
            p->c->codec = codecs[i].codec;
            return *p->at == ':' ? parse_options(p, &codecs[i]) : QSAE_OK;
        }
    return bad(p, name, name.n ? "unknown codec" : "missing codec", CODEC_NAMES);
}

/* Option combinations, once all are known. */
static int32_t check_codec(struct parser *p)
{
    qsae__condition *c = p->c;
    const struct word all = {p->text, p->at - p->text};
    if (c->codec != QSAE__RTN)
        return QSAE_OK;
    if (!p->arith_set)
        c->weight_arith = c->axis == QSAE__AXIS_TL;
    if (c->group && c->axis != QSAE__AXIS_ROW && c->axis != QSAE__AXIS_TL)
        return bad(p, all, "group with this axis", "groups lie along a row: axis=row or axis=tl");
    return QSAE_OK;
}

static int compare_words(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    const int r = memcmp(x->s, y->s, (size_t)qsae__min_i64(x->n, y->n));
    return r ? r : (x->n > y->n) - (x->n < y->n);
}

static bool plain_module(struct word w)
{
    for (int64_t i = 0; i < w.n; i++) {
        const char ch = w.s[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
              ch == '_' || ch == '-' || ch == '.'))
            return false;
    }
    return w.n > 0;
}

/* "b|a|b" becomes "a|b": the order and repetition of names mean nothing. */
static int32_t parse_names(struct parser *p, struct word value, char **out)
{
    struct word names[MAX_NAMES];
    int64_t n = 0;
    const char *s = value.s, *end = value.s + value.n;
    for (;;) {
        const char *bar = memchr(s, '|', (size_t)(end - s));
        const struct word w = {s, (bar ? bar : end) - s};
        if (!plain_module(w))
            return bad(p, w, "name", "attn, mlp or module names such as q_proj, joined by |");
        if (n == MAX_NAMES)
            return bad(p, w, "too many names at", "64 names");
        names[n++] = w;
        if (!bar)
            break;
        s = bar + 1;
    }
    qsort(names, (size_t)n, sizeof names[0], compare_words);
    qsae__strbuf b;
    qsae__strbuf_init(&b, p->ctx);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0 && compare_words(&names[i - 1], &names[i]) == 0)
            continue;
        if (b.size)
            qsae__strbuf_add(&b, "|", 1);
        qsae__strbuf_add(&b, names[i].s, (size_t)names[i].n);
    }
    if (b.status) {
        const int32_t status = b.status;
        qsae__strbuf_free(&b);
        return status;
    }
    *out = b.data;
    return QSAE_OK;
}

static int32_t parse_layers(struct parser *p, struct word value)
{
    const char *dash = memchr(value.s, '-', (size_t)value.n);
    const struct word first = {value.s, dash ? dash - value.s : value.n};
    const struct word last = dash ? (struct word){dash + 1, value.s + value.n - dash - 1} : first;
    qsae__condition *c = p->c;
    if (!parse_i64(first, &c->layer_first) || !parse_i64(last, &c->layer_last) ||
        c->layer_first > c->layer_last)
        return bad(p, value, "layers", "FIRST-LAST or one layer, counted from 0");
    return QSAE_OK;
}

static int32_t parse_selector(struct parser *p)
{
    static const char *const names[] = {"layers", "only", "skip", "compute", NULL};
    static const char *const compute[] = {"f32", "bf16", NULL};
    static const int32_t compute_value[] = {QSAE_COMPUTE_F32, QSAE_COMPUTE_BF16};
    int32_t which = 0, i = 0;
    p->at++; /* '@' */
    const struct word key = take(p, "=@+");
    int32_t status = choice(p, key, "selector", names, "@layers=, @only=, @skip=, @compute=",
                            &which);
    if (status)
        return status;
    if (p->selectors & 1u << which)
        return bad(p, key, "repeated selector", "each selector once");
    p->selectors |= 1u << which;
    if (*p->at != '=')
        return bad(p, key, "no value for selector", "@selector=value");
    p->at++;
    const struct word value = take(p, "@+");
    if (which == 0)
        return parse_layers(p, value);
    if (which == 1)
        return parse_names(p, value, &p->c->only);
    if (which == 2)
        return parse_names(p, value, &p->c->skip);
    status = choice(p, value, "compute", compute, "f32, bf16", &i);
    p->c->model_compute = compute_value[i];
    return status;
}

static int32_t parse_tail(struct parser *p)
{
    int32_t status = QSAE_OK;
    while (!status && *p->at) {
        if (*p->at == '+') {
            const char *plus = p->at++;
            const struct word name = take(p, ":@+");
            return qsae__fail(QSAE_EUNSUPPORTED, "condition \"%.200s\", offset %td: \"+%.*s\" is "
                              "not supported by this version; allowed here: @layers=, @only=, "
                              "@skip=, @compute=", p->text, plus - p->text,
                              (int)qsae__min_i64(name.n, 100), name.s);
        }
        if (*p->at != '@') {
            const struct word rest = {p->at, (int64_t)strlen(p->at)};
            return bad(p, rest, "unexpected", ":options after the codec, then @selectors");
        }
        status = parse_selector(p);
    }
    if (!status && p->c->codec == QSAE__NONE && (p->selectors & 7u)) {
        const struct word all = {p->text, p->at - p->text};
        return bad(p, all, "selector without a weight codec", "none takes @compute= only");
    }
    return status;
}

/* Digits without leading zeros, fraction without trailing ones. */
static void add_decimal(qsae__strbuf *b, struct word w)
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
    qsae__strbuf_add(b, w.s, (size_t)w.n);
}

static const char *dtype_option(int32_t dtype)
{
    switch (dtype) {
    case QSAE_F32:
        return "f32";
    case QSAE_BF16:
        return "bf16";
    case QSAE_F16:
        return "f16";
    default:
        return "model";
    }
}

static void print_codec(const struct parser *p, qsae__strbuf *b)
{
    static const char *const rules[] = {"cuda", "torch"};
    static const char *const axis[] = {"row", "column", "tensor", "tl"};
    const qsae__condition *c = p->c;
    switch (c->codec) {
    case QSAE__NONE:
        qsae__strbuf_addf(b, "none");
        if (c->weights)
            qsae__strbuf_addf(b, ":weights=%s", dtype_option(c->weights));
        break;
    case QSAE__INT8:
        qsae__strbuf_addf(b, "llm.int8:threshold=");
        add_decimal(b, p->threshold);
        qsae__strbuf_addf(b, ",rules=%s", rules[c->rules]);
        break;
    case QSAE__NF4:
    case QSAE__FP4:
        qsae__strbuf_addf(b, "%s:block=%d,double=%d,compute=%s,rules=%s",
                          c->codec == QSAE__NF4 ? "nf4" : "fp4", (int)c->block, (int)c->nested,
                          dtype_option(c->compute), rules[c->rules]);
        break;
    case QSAE__RTN:
        qsae__strbuf_addf(b, "rtn:bits=%d,axis=%s,group=%" PRId64 ",sym=%d,arith=%s", (int)c->bits,
                          axis[c->axis], c->group, (int)c->symmetric,
                          c->weight_arith ? "weight" : "f32");
        break;
    }
}

static void print_selectors(const qsae__condition *c, qsae__strbuf *b)
{
    if (c->layer_first > 0 || c->layer_last < INT64_MAX)
        qsae__strbuf_addf(b, "@layers=%" PRId64 "-%" PRId64, c->layer_first, c->layer_last);
    if (c->only)
        qsae__strbuf_addf(b, "@only=%s", c->only);
    if (c->skip)
        qsae__strbuf_addf(b, "@skip=%s", c->skip);
    if (c->model_compute)
        qsae__strbuf_addf(b, "@compute=%s", c->model_compute == QSAE_COMPUTE_F32 ? "f32" : "bf16");
}

static int32_t print_canonical(const struct parser *p)
{
    qsae__condition *c = p->c;
    qsae__strbuf b;
    qsae__strbuf_init(&b, p->ctx);
    print_codec(p, &b);
    if (b.status)
        goto fail;
    c->codec_canonical = qsae__strdup(p->ctx, b.data);
    if (!c->codec_canonical) {
        b.status = QSAE_ENOMEM;
        goto fail;
    }
    print_selectors(c, &b);
    if (b.status)
        goto fail;
    c->canonical = b.data;
    return QSAE_OK;
fail:;
    const int32_t status = b.status;
    qsae__strbuf_free(&b);
    return status;
}

int32_t qsae__condition_parse(qsae_context *ctx, const char *text, qsae__condition *out)
{
    memset(out, 0, sizeof *out);
    out->block = 64;
    out->nested = 1;
    out->threshold = 6;
    out->bits = 8;
    out->symmetric = 1;
    out->layer_last = INT64_MAX;
    struct parser p = {.ctx = ctx, .text = text, .at = text, .threshold = {"6", 1}, .c = out};
    if (strnlen(text, MAX_TEXT + 1) > MAX_TEXT)
        return qsae__fail(QSAE_EINVAL, "condition of more than %d bytes", MAX_TEXT);
    int32_t status = parse_codec(&p);
    if (!status)
        status = check_codec(&p);
    if (!status)
        status = parse_tail(&p);
    if (!status)
        status = print_canonical(&p);
    if (status)
        qsae__condition_free(ctx, out);
    return status;
}

void qsae__condition_free(qsae_context *ctx, qsae__condition *c)
{
    qsae__free(ctx, c->only);
    qsae__free(ctx, c->skip);
    qsae__free(ctx, c->canonical);
    qsae__free(ctx, c->codec_canonical);
    memset(c, 0, sizeof *c);
}

/* Whether name is one of "a|b|c". */
static bool listed(const char *list, const char *name)
{
    if (!name)
        return false;
    const size_t n = strlen(name);
    for (const char *s = list;; s++) {
        const char *end = strchrnul(s, '|');
        if ((size_t)(end - s) == n && memcmp(s, name, n) == 0)
            return true;
        if (!*end)
            return false;
        s = end;
    }
}

bool qsae__condition_selects(const qsae__condition *c, int64_t layer, const char *module,
                             const char *group)
{
    if (c->codec == QSAE__NONE || layer < c->layer_first || layer > c->layer_last)
        return false;
    if (c->only && !listed(c->only, module) && !listed(c->only, group))
        return false;
    return !c->skip || (!listed(c->skip, module) && !listed(c->skip, group));
}
