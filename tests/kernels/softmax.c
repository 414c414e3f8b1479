/* SPDX-License-Identifier: BSD-2-Clause */
/* Operations of attention: levels against plain C bit for bit, plain C against libm. */
#include <math.h>

#include "../support.h"

#include "kernels.h"
#include "kernels/kernels.h"
#include "kernels/softmax.h"

#define N 700
#define GUARD 1234.5f

static qsae_context *context_at(const char *level)
{
    qsae_context_settings s;
    qsae_context *ctx;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.cpu = level;
    assert_ok(qsae_context_open(&s, &ctx));
    return ctx;
}

struct outputs {
    float bf16[N + 32], f32[N + 32];
    uint8_t strip[(N / 32 + 1) * QSAE__STRIP_STEP];
    float sums[3], max;
    uint32_t pairs[(N / 32 + 1) * 40];
    float finish[N + 16];
};

static void run(const qsae__softmax *op, const qsae__softmax_row *row, const float *odd,
                struct outputs *o)
{
    const int64_t n = row->n;
    memset(o, 0x5a, sizeof *o);
    o->bf16[(n + 15) / 16 * 16] = o->f32[(n + 15) / 16 * 16] = o->finish[n] = GUARD;
    o->max = op->max(row->x, row->scale, n);
    o->sums[0] = op->bf16(row, o->bf16);
    o->sums[1] = op->f32(row, o->f32);
    o->sums[2] = op->strip(row, o->strip + 3 * QSAE__STEP);
    op->pair(row->x, n % 3 ? odd : NULL, n, (uint8_t *)o->pairs, 40 * 4);
    op->finish(row->x, row->scale, o->finish, n, (int32_t)(n % 2));
    for (int k = 0; k < 3; k++)
        if (isnan(o->sums[k])) /* with any sign */
            o->sums[k] = -1;
    if (o->bf16[(n + 15) / 16 * 16] != GUARD || o->f32[(n + 15) / 16 * 16] != GUARD ||
        o->finish[n] != GUARD)
        fail_msg("n %lld: written beyond", (long long)n);
}

/* What plain C made is right. */
static void check_plain(const qsae__softmax_row *row, const float *odd, const struct outputs *o)
{
    double sum = 0;
    float max = -INFINITY;
    for (int64_t i = 0; i < row->n; i++) {
        const bool seen = i >= row->begin && i < row->end;
        const float z = row->x[i] * row->scale;
        const double e = seen ? exp((double)(z - row->max)) : 0;
        max = z > max ? z : max;
        sum += e;
        assert_true(fabs(o->f32[i] - e) <= 1e-5 * e);
        assert_true(fabs(o->bf16[i] - e) <= 0.0045 * e);
        uint16_t h;
        memcpy(&h, o->strip + 3 * QSAE__STEP + i / 32 * QSAE__STRIP_STEP + i % 32 * 2, sizeof h);
        assert_true(qsae__bf16_to_f32(h) == o->bf16[i]);
        const uint32_t u = o->pairs[i / 32 * 40 + i % 32];
        assert_true(qsae__bf16_to_f32((uint16_t)u) == qsae__round_bf16(row->x[i]));
        assert_true(qsae__bf16_to_f32((uint16_t)(u >> 16)) ==
                    (row->n % 3 ? qsae__round_bf16(odd[i]) : 0));
        assert_true(o->finish[i] == (row->n % 2 ? qsae__round_bf16(z) : z));
    }
    for (int64_t i = row->n; i % 32; i++) { /* the rest of the last step */
        uint16_t h;
        memcpy(&h, o->strip + 3 * QSAE__STEP + i / 32 * QSAE__STRIP_STEP + i % 32 * 2, sizeof h);
        assert_int_equal(h, 0);
    }
    assert_true(o->max == max);
    for (int k = 0; k < 3; k++)
        assert_true(fabs(o->sums[k] - sum) <= (k == 1 ? 1e-5 : 2e-4) * sum);
}

void test_softmax(void **state)
{
    static const char *const levels[] = { "c", "avx2", "avx512" };
    static struct outputs plain, other;
    const uint32_t first_seed = 20;
    uint32_t seed = first_seed;
    qsae_context *ctx[3] = { NULL };
    float x[N + 16], odd[N + 16];
    (void)state;
    int count = 0;
    for (; count < 3; count++) {
        ctx[count] = context_at(levels[count]);
        if (!strcmp(levels[count], qsae_cpu_best()))
            break;
    }
    for (int round = 0; round < 300; round++) {
        qsae__softmax_row row = { .x = x, .n = 1 + next_random(&seed) % N };
        row.begin = round % 3 ? 0 : next_random(&seed) % (row.n + 1);
        row.end = round % 4 ? row.n : row.begin + next_random(&seed) % (row.n - row.begin + 1);
        row.n_coarse = round % 5 ? row.n / 16 * 16 : 0;
        row.scale = round % 7 ? 0.0625f : 1.5f;
        for (int64_t i = 0; i < N + 16; i++) {
            x[i] = i < row.n ? 90 * next_float(&seed) : NAN;
            odd[i] = next_float(&seed);
        }
        if (round % 10 == 9) {
            x[row.n / 2] = NAN;
            x[row.n / 3] = round % 20 == 9 ? INFINITY : -INFINITY;
        }
        row.max = qsae__softmax_get(ctx[0])->max(x, row.scale, row.n);
        run(qsae__softmax_get(ctx[0]), &row, odd, &plain);
        if (round % 10 != 9 && row.scale < 1)
            check_plain(&row, odd, &plain);
        for (int k = 1; k < 3 && ctx[k]; k++) {
            run(qsae__softmax_get(ctx[k]), &row, odd, &other);
            if (memcmp(&plain, &other, sizeof plain) != 0)
                fail_msg("%s differs from c: seed %u, round %d, n %lld", levels[k], first_seed,
                         round, (long long)row.n);
        }
    }
    for (int k = 0; k < 3; k++)
        qsae_context_close(&ctx[k]);
}
