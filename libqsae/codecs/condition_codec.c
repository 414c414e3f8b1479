/* SPDX-License-Identifier: BSD-2-Clause */
/* The codec of a condition and its options. */
#include <inttypes.h>
#include <string.h>

#include <qsae/tensor.h>

#include "codecs/parser.h"
#include "kernels/ggml.h"

static int32_t set_flag(const qsae__parser *p, qsae__word w, const char *what, int32_t *out)
{
    static const char *const names[] = {"0", "1", NULL};
    return qsae__parse_choice(p, w, what, names, "0, 1", out);
}

static int32_t set_rules(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = {"cuda", "torch", NULL};
    int32_t i = 0;
    const int32_t status = qsae__parse_choice(p, w, "rules", names, "cuda, torch", &i);
    p->c->rules = (enum qsae__rules)i;
    return status;
}

static int32_t set_threshold(qsae__parser *p, qsae__word w)
{
    double v;
    /* It is rounded to fp16: what would vanish there is no threshold. */
    if (!qsae__parse_decimal(p, w, QSAE__DECIMAL_THRESHOLD, &v) || v > 65504 ||
        (v > 0 && v < 0x1p-24))
        return qsae__parse_bad(p, w, "threshold",
                               "0 (no outliers), or a decimal number from 6e-8 to 65504");
    p->c->threshold = (float)v;
    return QSAE_OK;
}

static int32_t set_outliers(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = {"batch", "row", NULL};
    int32_t i = 0;
    const int32_t status = qsae__parse_choice(p, w, "outliers", names, "batch, row", &i);
    p->c->outliers_by_row = i == 1;
    return status;
}

static int32_t set_block(qsae__parser *p, qsae__word w)
{
    int64_t v;
    if (!qsae__parse_i64(w, &v) || v < 32 || v > 4096 || (v & (v - 1)) != 0)
        return qsae__parse_bad(p, w, "block", "32, 64, 128, 256, 512, 1024, 2048, 4096");
    p->c->block = (int32_t)v;
    return QSAE_OK;
}

static int32_t set_double(qsae__parser *p, qsae__word w)
{
    return set_flag(p, w, "double", &p->c->nested);
}

static int32_t set_compute(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = {"model", "f32", "bf16", "f16", NULL};
    static const int32_t dtype[] = {0, QSAE_F32, QSAE_BF16, QSAE_F16};
    int32_t i = 0;
    const int32_t status = qsae__parse_choice(p, w, "compute", names, "model, f32, bf16, f16", &i);
    p->c->compute = dtype[i];
    return status;
}

static int32_t set_bits(qsae__parser *p, qsae__word w)
{
    int64_t v;
    if (!qsae__parse_i64(w, &v) || v < 2 || v > 8)
        return qsae__parse_bad(p, w, "bits", "2 to 8");
    p->c->bits = (int32_t)v;
    return QSAE_OK;
}

static int32_t set_axis(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = {"row", "column", "tensor", "tl", NULL};
    int32_t i = 0;
    const int32_t status = qsae__parse_choice(p, w, "axis", names, "row, column, tensor, tl", &i);
    p->c->axis = (enum qsae__axis)i;
    return status;
}

static int32_t set_group(qsae__parser *p, qsae__word w)
{
    if (!qsae__parse_i64(w, &p->c->group) || p->c->group > INT32_MAX)
        return qsae__parse_bad(p, w, "group", "inputs per scale, 0 = the whole row");
    return QSAE_OK;
}

static int32_t set_sym(qsae__parser *p, qsae__word w)
{
    return set_flag(p, w, "sym", &p->c->symmetric);
}

static int32_t set_seed(qsae__parser *p, qsae__word w)
{
    int64_t v;
    if (!qsae__parse_i64(w, &v))
        return qsae__parse_bad(p, w, "seed", "a whole number");
    p->c->seed = (uint64_t)v;
    return QSAE_OK;
}

static int32_t set_arith(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = {"f32", "weight", NULL};
    p->arith_set = true;
    return qsae__parse_choice(p, w, "arith", names, "f32, weight", &p->c->weight_arith);
}

static int32_t set_weights(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = {"bf16", "f16", NULL};
    static const int32_t dtype[] = {QSAE_BF16, QSAE_F16};
    int32_t i = 0;
    const int32_t status = qsae__parse_choice(p, w, "weights", names, "bf16, f16", &i);
    p->c->weights = dtype[i];
    return status;
}

struct codec {
    const char *name;
    enum qsae__codec codec;
    const char *options;    /* for messages */
    qsae__option option[QSAE__OPTIONS_MOST];
};

static const struct codec codecs[] = {
    {"none", QSAE__NONE, "weights", {{"weights", set_weights}}},
    {"llm.int8", QSAE__INT8, "threshold, rules, outliers",
     {{"threshold", set_threshold}, {"rules", set_rules}, {"outliers", set_outliers}}},
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
#define CODEC_NAMES "none, llm.int8, nf4, fp4, rtn, ggml:TYPE, control:KIND, mix(SPEC)..."

/* Names users will try: told apart from typing errors. */
static const char *const unsupported[] = {
    "gguf", "gptq", "awq", "hqq", "aqlm", "quip", "exl2", "squeezellm", "spqr", "vptq", "fp8",
    "mxfp4", "nvfp4", "smoothquant", "prune", "kv", "int8", "af4",
};

static int32_t set_fallback(qsae__parser *p, qsae__word w)
{
    static const char *const names[] = {"0", "1", NULL};
    int32_t i = 0;
    const int32_t status = qsae__parse_choice(p, w, "fallback", names, "0, 1", &i);
    p->c->ggml_fallback = i == 1;
    return status;
}

/* ggml:TYPE[,fallback=1], the type in any case. */
static int32_t parse_ggml(qsae__parser *p, qsae__word name)
{
    static const qsae__option options[QSAE__OPTIONS_MOST] = {{"fallback", set_fallback}};
    char text[16] = "";
    if (qsae__parse_peek(p) == ':')
        p->at++;
    const qsae__word type = qsae__parse_take(p, ",@+");
    for (int64_t i = 0; i < type.n && i < (int64_t)sizeof text - 1; i++)
        text[i] = (char)(type.s[i] >= 'a' && type.s[i] <= 'z' ? type.s[i] - 32 : type.s[i]);
    const int32_t dtype = type.n < (int64_t)sizeof text ? qsae_dtype_from_name(text) : 0;
    p->c->codec = QSAE__GGML;
    p->c->ggml = dtype;
    if (dtype <= QSAE_DTYPE_COUNT)
        return qsae__parse_bad(p, type.n ? type : name, "type",
                               "ggml:q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, "
                               "iq4_nl, iq4_xs");
    if (!qsae__ggml_encodes(dtype))
        return qsae__fail(QSAE_EUNSUPPORTED, "condition \"%.200s\", offset %td: %s is decoded "
                          "only; types that can be encoded: q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, "
                          "q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs", p->text, type.s - p->text,
                          text);
    return qsae__parse_peek(p) == ',' ? qsae__parse_options(p, options, "fallback") : QSAE_OK;
}

/* control:null, control:gauss(SPEC), control:permute(SPEC), :seed=N after it; control:floor,
 * control:shuffle. */
static int32_t parse_control(qsae__parser *p, qsae__word name)
{
    static const char *const names[] = {"null", "gauss", "permute", "floor", "shuffle", NULL};
    static const qsae__option options[QSAE__OPTIONS_MOST] = {{"seed", set_seed}};
    qsae__condition *const c = p->c;
    qsae__word inside = {p->at, 0};
    int32_t kind = 0;
    if (qsae__parse_peek(p) == ':')
        p->at++;
    const qsae__word what = qsae__parse_take(p, "(:@+");
    int32_t st = qsae__parse_choice(p, what.n ? what : name, "control", names,
                                    "control:null, control:gauss(SPEC), control:permute(SPEC), "
                                    "control:floor, control:shuffle",
                                    &kind);
    if (st != QSAE_OK)
        return st;
    const bool about = kind == 1 || kind == 2;
    if (about) {
        qsae__condition inner;
        st = qsae__parse_parentheses(p, &inside);
        if (st == QSAE_OK)
            st = qsae__parse_inner(p, inside, &inner);
        if (st != QSAE_OK)
            return st;
        const bool plain = inner.control == QSAE__CONTROL_NONE && !inner.model_compute &&
                           !inner.n_parts && !inner.prune_target && inner.prune_match == 0 &&
                           inner.kv_k.kind == QSAE__KV_NONE && inner.kv_v.kind == QSAE__KV_NONE;
        if (!plain || !qsae__condition_encodes(&inner)) {
            qsae__condition_free(p->ctx, &inner);
            return qsae__parse_bad(p, inside, "in a control",
                                   "a codec or +prune, @layers=, @only=, @skip=, @with=");
        }
        qsae__condition_free(p->ctx, c);
        *c = inner;
        qsae__free(p->ctx, c->canonical);
        c->canonical = NULL;
        p->selectors |= 0xfu | 1u << 8; /* the selectors and +prune are inside */
    }
    c->control = QSAE__CONTROL_NULL + (enum qsae__control)kind;
    if (qsae__parse_peek(p) != ':')
        return QSAE_OK;
    if (kind > 2)
        return qsae__parse_bad(p, name, "option of a control without random numbers", "none");
    return qsae__parse_options(p, options, "seed");
}

#define PARTS_MOST 4096

/* A part of a mix: what changes weights as it stands. */
static int32_t parse_mixed(qsae__parser *p, int64_t *capacity)
{
    qsae__condition *const c = p->c;
    qsae__word inside;
    qsae__condition part;
    int32_t st = qsae__parse_parentheses(p, &inside);
    if (st == QSAE_OK && c->n_parts == PARTS_MOST)
        st = qsae__fail(QSAE_EINVAL, "mix: at most %d conditions", PARTS_MOST);
    if (st == QSAE_OK)
        st = qsae__grow(p->ctx, &c->parts, capacity, c->n_parts + 1, sizeof *c->parts);
    if (st == QSAE_OK)
        st = qsae__parse_inner(p, inside, &part);
    if (st != QSAE_OK)
        return st;
    const bool plain = part.control == QSAE__CONTROL_NONE && !part.model_compute &&
                       !part.prune_target && part.prune_match == 0 && !part.n_parts &&
                       part.kv_k.kind == QSAE__KV_NONE && part.kv_v.kind == QSAE__KV_NONE;
    if (!plain || !qsae__condition_encodes(&part)) {
        qsae__condition_free(p->ctx, &part);
        return qsae__parse_bad(p, inside, "in a mix",
                               "a codec or +prune, @layers=, @only=, @skip=, @with=");
    }
    c->with_embed = c->with_embed || part.with_embed;
    c->with_head = c->with_head || part.with_head;
    c->parts[c->n_parts++] = part;
    return QSAE_OK;
}

/* mix(SPEC)(SPEC)... */
static int32_t parse_mix(qsae__parser *p)
{
    int64_t capacity = 0;
    int32_t st;
    do
        st = parse_mixed(p, &capacity);
    while (st == QSAE_OK && qsae__parse_peek(p) == '(');
    p->selectors |= 0xfu | 1u << 8; /* the selectors and +prune are inside */
    return st;
}

static int32_t parse_named(qsae__parser *p)
{
    const qsae__word name = qsae__parse_take(p, ":@+,=(");
    if (qsae__word_is(name, "ggml"))
        return parse_ggml(p, name);
    if (qsae__word_is(name, "control"))
        return parse_control(p, name);
    if (qsae__word_is(name, "mix"))
        return parse_mix(p);
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++)
        if (qsae__word_is(name, unsupported[i]))
            return qsae__fail(QSAE_EUNSUPPORTED, "condition \"%.200s\", offset %td: \"%s\" is not "
                              "a condition of this version; supported: %s", p->text,
                              name.s - p->text, unsupported[i], CODEC_NAMES);
    for (size_t i = 0; i < N_CODECS; i++)
        if (qsae__word_is(name, codecs[i].name)) {
            p->c->codec = codecs[i].codec;
            return qsae__parse_peek(p) == ':'
                       ? qsae__parse_options(p, codecs[i].option, codecs[i].options)
                       : QSAE_OK;
        }
    return qsae__parse_bad(p, name, name.n ? "unknown codec" : "missing codec", CODEC_NAMES);
}

/* Option combinations, once all are known. */
static int32_t check_codec(const qsae__parser *p)
{
    qsae__condition *c = p->c;
    const qsae__word all = {p->text, p->at - p->text};
    if (c->codec != QSAE__RTN)
        return QSAE_OK;
    if (!p->arith_set)
        c->weight_arith = c->axis == QSAE__AXIS_TL;
    if (c->group && c->axis != QSAE__AXIS_ROW && c->axis != QSAE__AXIS_TL)
        return qsae__parse_bad(p, all, "group with this axis",
                               "groups lie along a row: axis=row or axis=tl");
    return QSAE_OK;
}

int32_t qsae__parse_codec(qsae__parser *p)
{
    const int32_t st = parse_named(p);
    return st == QSAE_OK ? check_codec(p) : st;
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

static void print_named(const qsae__condition *c, qsae__strbuf *b)
{
    static const char *const rules[] = {"cuda", "torch"};
    static const char *const axis[] = {"row", "column", "tensor", "tl"};
    switch (c->codec) {
    case QSAE__NONE:
        qsae__strbuf_addf(b, "none");
        if (c->weights)
            qsae__strbuf_addf(b, ":weights=%s", dtype_option(c->weights));
        break;
    case QSAE__INT8:
        qsae__strbuf_addf(b, "llm.int8:threshold=%s,rules=%s%s",
                          c->decimal[QSAE__DECIMAL_THRESHOLD], rules[c->rules],
                          c->outliers_by_row ? ",outliers=row" : "");
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
    case QSAE__GGML:
        qsae__strbuf_addf(b, "ggml:");
        for (const char *s = qsae_dtype_name(c->ggml); *s; s++) {
            const char lower = (char)(*s >= 'A' && *s <= 'Z' ? *s + 32 : *s);
            qsae__strbuf_add(b, &lower, 1);
        }
        if (c->ggml_fallback)
            qsae__strbuf_addf(b, ",fallback=1");
        break;
    case QSAE__STORED:
        break;
    }
}

/* Also the selectors of what a control is about. */
void qsae__print_codec(const qsae__condition *c, qsae__strbuf *b)
{
    if (c->control == QSAE__CONTROL_NULL) {
        qsae__strbuf_addf(b, "control:null");
    } else if (c->control == QSAE__CONTROL_FLOOR || c->control == QSAE__CONTROL_SHUFFLE) {
        qsae__strbuf_addf(b, c->control == QSAE__CONTROL_FLOOR ? "control:floor"
                                                               : "control:shuffle");
    } else if (c->control != QSAE__CONTROL_NONE) {
        qsae__strbuf_addf(b, "control:%s(",
                          c->control == QSAE__CONTROL_GAUSS ? "gauss" : "permute");
        print_named(c, b);
        qsae__print_selectors(c, b);
        qsae__print_prune(c, b);
        qsae__strbuf_addf(b, ")");
    } else if (c->n_parts) {
        qsae__strbuf_addf(b, "mix");
        for (int64_t i = 0; i < c->n_parts; i++)
            qsae__strbuf_addf(b, "(%s)", c->parts[i].canonical);
    } else {
        print_named(c, b);
    }
    if (c->seed)
        qsae__strbuf_addf(b, ":seed=%" PRIu64, c->seed);
}

