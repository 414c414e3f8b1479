/* SPDX-License-Identifier: BSD-2-Clause */
/* In what two checkpoints differ, but for the values of their tensors. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "model/internal.h"

struct comparison {
    qsae__difference note;
    void *cookie;
};

static void compare_text(const struct comparison *c, const char *field, const char *a,
                         const char *b)
{
    if (strcmp(a, b) != 0)
        c->note(c->cookie, field, a, b);
}

static void compare_i64(const struct comparison *c, const char *field, int64_t a, int64_t b)
{
    char x[24], y[24];
    snprintf(x, sizeof x, "%" PRId64, a);
    snprintf(y, sizeof y, "%" PRId64, b);
    compare_text(c, field, x, y);
}

/* As many digits as tell f32 values apart: files of different formats round differently. */
static void compare_number(const struct comparison *c, const char *field, double a, double b)
{
    char x[32], y[32];
    snprintf(x, sizeof x, "%.7g", a);
    snprintf(y, sizeof y, "%.7g", b);
    compare_text(c, field, x, y);
}

static void rope_text(const qsae__rope *r, char *text, size_t size)
{
    const size_t n = (size_t)snprintf(text, size, "theta %.7g", r->theta);
    if (r->type == QSAE__ROPE_LINEAR)
        snprintf(text + n, size - n, ", linear, factor %.7g", r->factor);
    else if (r->type == QSAE__ROPE_LLAMA3)
        snprintf(text + n, size - n, ", llama3, factor %.7g, %.7g to %.7g of %.7g", r->factor,
                 r->low, r->high, r->original);
    else if (r->type == QSAE__ROPE_PROPORTIONAL)
        snprintf(text + n, size - n, ", proportional, factor %.7g, %" PRId64 " of %" PRId64
                 " pairs", r->factor, r->rotated, (r->dim + 1) / 2);
}

/* The first divisor that differs; without them each is 1. GGUF files have them where a folder
 * names a type of scaling, which rope_text has said then. */
static void compare_factors(const struct comparison *c, const qsae__config *a,
                            const qsae__config *b)
{
    const float *const x = a->rope[QSAE__FULL].factors, *const y = b->rope[QSAE__FULL].factors;
    const int64_t n = qsae__rotary_pairs(a);
    if (a->rope[QSAE__FULL].type != b->rope[QSAE__FULL].type || n != qsae__rotary_pairs(b))
        return;
    for (int64_t i = 0; i < n; i++) {
        const double p = x ? (double)x[i] : 1, q = y ? (double)y[i] : 1;
        char field[64];
        if (p == q)
            continue;
        snprintf(field, sizeof field, "rope factor of pair %" PRId64, i);
        compare_number(c, field, p, q);
        return;
    }
}

static void compare_ropes(const struct comparison *c, const qsae__config *a, const qsae__config *b)
{
    char x[160], y[160];
    rope_text(&a->rope[QSAE__FULL], x, sizeof x);
    rope_text(&b->rope[QSAE__FULL], y, sizeof y);
    compare_text(c, "rope", x, y);
    compare_factors(c, a, b);
    if (a->window == 0 || b->window == 0)
        return;
    rope_text(&a->rope[QSAE__SLIDING], x, sizeof x);
    rope_text(&b->rope[QSAE__SLIDING], y, sizeof y);
    compare_text(c, "rope of sliding layers", x, y);
}

/* Numbers of the sliding layers, as far as the text holds them. */
static void sliding_text(const qsae__config *config, char *text, size_t size)
{
    size_t n = 0;
    text[0] = 0;
    for (int64_t i = 0; i < config->layers && n + 8 < size; i++)
        if (config->sliding[i])
            n += (size_t)snprintf(text + n, size - n, "%s%" PRId64, n ? " " : "", i % 100000);
}

static void compare_sliding(const struct comparison *c, const qsae__config *a,
                            const qsae__config *b)
{
    char x[1024], y[1024];
    if (a->layers != b->layers)
        return;
    sliding_text(a, x, sizeof x);
    sliding_text(b, y, sizeof y);
    compare_text(c, "sliding layers", x, y);
}

/* What layers of Gemma 4 differ in. */
static void compare_shapes(const struct comparison *c, const qsae__config *a, const qsae__config *b)
{
    compare_i64(c, "per-layer embedding width", a->ple_width, b->ple_width);
    compare_i64(c, "experts", a->experts, b->experts);
    compare_i64(c, "experts of a token", a->top_experts, b->top_experts);
    compare_i64(c, "expert width", a->expert_width, b->expert_width);
    for (int64_t n = 0; a->layers == b->layers && n < a->layers; n++) {
        const qsae__layer_shape x = qsae__layer_shape_of(a, n), y = qsae__layer_shape_of(b, n);
        char text[64];
        snprintf(text, sizeof text, "heads, keys and MLP of layer %" PRId64, n);
        char p[128], q[128];
        snprintf(p, sizeof p, "%" PRId64 " x %" PRId64 ", of layer %" PRId64 "%s, %" PRId64,
                 x.kv_heads, x.head_dim, x.kv_layer, x.no_v ? ", values are keys" : "",
                 x.mlp_width);
        snprintf(q, sizeof q, "%" PRId64 " x %" PRId64 ", of layer %" PRId64 "%s, %" PRId64,
                 y.kv_heads, y.head_dim, y.kv_layer, y.no_v ? ", values are keys" : "",
                 y.mlp_width);
        if (strcmp(p, q) != 0) {
            compare_text(c, text, p, q);
            return;
        }
    }
}

static const char *activation_name(enum qsae__activation activation)
{
    return activation == QSAE__ACT_SILU       ? "silu"
           : activation == QSAE__ACT_GELU     ? "gelu"
           : activation == QSAE__ACT_GELU_NEW ? "gelu_new"
                                              : "gelu_tanh";
}

void qsae__weights_compare(const qsae_weights *reference, const qsae_weights *other,
                           qsae__difference note, void *cookie)
{
    const struct comparison c = { note, cookie };
    const qsae__config *const a = &reference->config, *const b = &other->config;
    qsae_model_info x, y;
    (void)qsae__weights_describe(reference, false, &x);
    (void)qsae__weights_describe(other, false, &y);
    compare_text(&c, "type", x.type, y.type);
    compare_i64(&c, "layers", a->layers, b->layers);
    compare_i64(&c, "width", a->width, b->width);
    compare_i64(&c, "vocab", a->vocab, b->vocab);
    compare_i64(&c, "heads", a->heads, b->heads);
    compare_i64(&c, "kv_heads", a->kv_heads, b->kv_heads);
    compare_i64(&c, "head_dim", a->head_dim, b->head_dim);
    compare_i64(&c, "mlp_width", a->mlp_width, b->mlp_width);
    compare_i64(&c, "window", a->window, b->window);
    compare_sliding(&c, a, b);
    compare_ropes(&c, a, b);
    compare_number(&c, "norm epsilon", a->eps, b->eps);
    compare_number(&c, "attention scale", a->attn_scale, b->attn_scale);
    compare_number(&c, "attention cap", a->attn_cap, b->attn_cap);
    compare_number(&c, "final cap", a->final_cap, b->final_cap);
    compare_text(&c, "activation", activation_name(a->activation), activation_name(b->activation));
    compare_i64(&c, "rotary pairs of a head", qsae__rotary_pairs(a), qsae__rotary_pairs(b));
    compare_i64(&c, "parallel residual", a->parallel, b->parallel);
    compare_i64(&c, "attention scale by layer", a->scale_by_layer, b->scale_by_layer);
    compare_i64(&c, "attention_bias", a->attention_bias, b->attention_bias);
    compare_i64(&c, "mlp_bias", a->mlp_bias, b->mlp_bias);
    compare_i64(&c, "tied", a->tied, b->tied);
    if (a->shapes || b->shapes)
        compare_shapes(&c, a, b);
    compare_i64(&c, "max_positions", a->max_positions, b->max_positions);
    compare_text(&c, "dtype", qsae_dtype_name(x.dtype), qsae_dtype_name(y.dtype));
    compare_text(&c, "weight processing", *reference->process ? reference->process : "none",
                 *other->process ? other->process : "none");
    compare_text(&c, "storage", *x.storage ? x.storage : "plain", *y.storage ? y.storage : "plain");
}
