/* SPDX-License-Identifier: BSD-2-Clause */
#include <math.h>
#include <string.h>

#include "kernels/half.h"
#include "model/config.h"

static int32_t need_positive(const json_t *dict, const char *where, const char *rope,
                             const char *key, double *out)
{
    if (!qsae__config_has(dict, key))
        return qsae__fail(QSAE_EFORMAT, "%s: %s.%s: missing, rope type needs it", where, rope, key);
    const int32_t st = qsae__config_positive(dict, where, key, out);
    return st;
}

static int32_t read_type(const json_t *dict, const char *where, const char *rope,
                         enum qsae__rope_type *out)
{
    const char *name = NULL;
    int32_t st = qsae__json_str(dict, where, "rope_type", false, &name, NULL);
    if (st == QSAE_OK && !name)
        st = qsae__json_str(dict, where, "type", false, &name, NULL);
    if (st != QSAE_OK || !name)
        return st;
    if (!strcmp(name, "default"))
        *out = QSAE__ROPE_DEFAULT;
    else if (!strcmp(name, "linear"))
        *out = QSAE__ROPE_LINEAR;
    else if (!strcmp(name, "llama3"))
        *out = QSAE__ROPE_LLAMA3;
    else
        return qsae__fail(
            QSAE_EUNSUPPORTED,
            "%s: %s: rope type \"%.64s\" is not supported (default, linear, llama3 are)", where,
            rope, name);
    return QSAE_OK;
}

int32_t qsae__rope_read(const json_t *dict, const char *where, const char *key, qsae__rope *rope)
{
    double partial = 1;
    const int32_t st = qsae__rope_read_part(dict, where, key, rope, &partial);
    if (st == QSAE_OK && partial != 1)
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: %s: partial_rotary_factor %g is not supported",
                          where, key, partial);
    return st;
}

int32_t qsae__rope_read_part(const json_t *dict, const char *where, const char *key,
                             qsae__rope *rope, double *partial)
{
    int32_t st = read_type(dict, where, key, &rope->type);
    if (st == QSAE_OK)
        st = qsae__config_positive(dict, where, "rope_theta", &rope->theta);
    if (st == QSAE_OK)
        st = qsae__config_positive(dict, where, "partial_rotary_factor", partial);
    if (st == QSAE_OK && rope->type != QSAE__ROPE_DEFAULT)
        st = need_positive(dict, where, key, "factor", &rope->factor);
    if (st != QSAE_OK || rope->type != QSAE__ROPE_LLAMA3)
        return st;
    st = need_positive(dict, where, key, "low_freq_factor", &rope->low);
    if (st == QSAE_OK)
        st = need_positive(dict, where, key, "high_freq_factor", &rope->high);
    if (st == QSAE_OK && rope->high <= rope->low)
        st = qsae__fail(QSAE_EFORMAT, "%s: %s: high_freq_factor %g is not above low_freq_factor %g",
                        where, key, rope->high, rope->low);
    if (st == QSAE_OK)
        st =
            qsae__config_positive(dict, where, "original_max_position_embeddings", &rope->original);
    return st;
}

/* rope_scaling (old) wins over rope_parameters (new), as transformers converts them. */
int32_t qsae__rope_read_one(const json_t *o, const char *where, qsae__config *c)
{
    qsae__rope *const rope = &c->rope[QSAE__FULL];
    const json_t *dict = NULL;
    const char *key = "rope_scaling";
    *rope = (qsae__rope){ .theta = 10000, .original = (double)c->max_positions };
    int32_t st = qsae__config_positive(o, where, "rope_theta", &rope->theta);
    if (st == QSAE_OK)
        st = qsae__json_get(o, where, key, false, JSON_OBJECT, &dict);
    if (st == QSAE_OK && !dict) {
        key = "rope_parameters";
        st = qsae__json_get(o, where, key, false, JSON_OBJECT, &dict);
        if (st == QSAE_OK && dict && qsae__config_has(dict, "full_attention"))
            st = qsae__json_get(dict, where, key = "full_attention", false, JSON_OBJECT, &dict);
    }
    if (st == QSAE_OK && dict)
        st = qsae__rope_read(dict, where, key, rope);
    c->rope[QSAE__SLIDING] = *rope;
    return st;
}

/* Each step in f32, in torch's order (modeling_rope_utils.py); the power alone goes through f64. */
void qsae__rope_frequencies(const qsae__rope *rope, int64_t dim, float *f)
{
    const float factor = (float)rope->factor, low = (float)rope->low;
    const float low_wave = (float)(rope->original / rope->low);
    const float high_wave = (float)(rope->original / rope->high);
    for (int64_t k = 0; k < (dim + 1) / 2; k++) {
        const float exponent = (float)(2 * k) / (float)dim;
        const float power = 1.0f / (float)pow((double)(float)rope->theta, (double)exponent);
        const float base = rope->factors ? power / rope->factors[k] : power;
        f[k] = base;
        if (rope->type == QSAE__ROPE_LINEAR)
            f[k] = base / factor;
        if (rope->type == QSAE__ROPE_PROPORTIONAL)
            f[k] = k < rope->rotated ? base / factor : 0.0f;
        if (rope->type != QSAE__ROPE_LLAMA3)
            continue;
        const float wave = (float)(2 * 3.14159265358979323846) / base;
        if (wave > low_wave) {
            f[k] = base / factor;
        } else if (!(wave < high_wave)) {
            const float smooth =
                ((float)rope->original / wave - low) / (float)(rope->high - rope->low);
            f[k] = (1.0f - smooth) * base / factor + smooth * base;
        }
    }
}

void qsae__rope_table(const qsae__rope *rope, int64_t dim, int64_t n_tokens, int32_t bf16,
                      float *cosine, float *sine)
{
    const int64_t half = (dim + 1) / 2;
    float f[8192 / 2];
    qsae__rope_frequencies(rope, dim, f);
    for (int64_t t = 0; t < n_tokens; t++) {
        for (int64_t k = 0; k < half; k++) {
            /* The angle is an f32; its cosine is the correctly rounded one, torch's is within 1
             * ulp. */
            const float angle = (float)t * f[k];
            const float c = (float)cos((double)angle), s = (float)sin((double)angle);
            cosine[t * half + k] = bf16 ? qsae__round_bf16(c) : c;
            sine[t * half + k] = bf16 ? qsae__round_bf16(s) : s;
        }
    }
}
