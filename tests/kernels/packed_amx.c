/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The AMX products against their definition in packed.h, element by element and bit by bit. Without
 * AMX the compiled kernels run on amx_emulate.h.
 */
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../support.h"
#include "amx_emulate.h"
#include "core/core.h"
#include "kernels.h"
#include "kernels/packed_parts.h"
#include "kernels/product.h"

#if defined(__x86_64__)
#define GUARD 0x5a

/* Operands and result of one product with gaps between strips, panels, parts and rows. */
struct operands {
    qsae__packed_product p;
    uint8_t *a, *w, *c, *expect;
    int32_t *start;
    size_t c_bytes;
    uint32_t seed;
};

static uint32_t random_seed(void)
{
    return (uint32_t)time(NULL) * 2654435761u | 1;
}

static const char *start_or_skip(void)
{
    const char *const by = amx_start();
    if (!by) {
        print_message("skipped: neither AMX nor AVX-512 to emulate it with\n");
        skip();
    }
    print_message("AMX by: %s\n", by);
    return by;
}

static uint16_t random_bf16(uint32_t *state, int kind)
{
    static const uint16_t odd[] = { 0x0000, 0x8000, 0x0001, 0x807f, 0x0080, 0x8080, 0x7f7f, 0xff7f,
                                    0x7f80, 0xff80, 0x7fc0, 0x3f80, 0xbf80, 0x2000, 0x1f80,
                                    0xa001 };
    const uint32_t r = next_random(state);
    if (kind == 1 && r % 16 == 0)
        return odd[r >> 8 & 15];
    if (kind == 1) /* exponents all over: subnormal products, overflow */
        return (uint16_t)(r >> 16);
    /* of about equal size, so that every rounding counts */
    return (uint16_t)((r & 0x8000) | (0x3e00 + (r & 0x1ff)));
}

static void *filled(size_t bytes, int byte)
{
    void *const p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, byte, (bytes + 63) / 64 * 64);
    return p;
}

/* kind: 0 plain, 1 extreme values. Padding of a and w is zero, gaps are GUARD bytes (as floats and
 * codes they would show). */
static void make(struct operands *o, bool s8, int kind, int64_t m, int64_t n, int64_t steps,
                 int32_t parts)
{
    uint32_t *const state = &o->seed;
    const int64_t strips = (m + 15) / 16, panels = (n + 31) / 32;
    qsae__packed_product *const p = &o->p;
    memset(p, 0, sizeof *p);
    p->m = m;
    p->n = n;
    p->steps = steps;
    p->parts = parts;
    p->a_strip = steps * QSAE__STRIP_STEP + next_random(state) % 3 * 64;
    p->a_part = strips * p->a_strip + next_random(state) % 3 * 64;
    p->w_panel = steps * QSAE__PANEL_STEP + next_random(state) % 3 * 64;
    p->ldc = n + next_random(state) % 40;
    o->a = filled((size_t)(parts * p->a_part), GUARD);
    o->w = filled((size_t)(panels * p->w_panel), GUARD);
    o->c_bytes = (size_t)(m * p->ldc) * 4 + 192;
    o->c = filled(o->c_bytes, GUARD);
    o->expect = filled(o->c_bytes, GUARD);
    o->start = filled((size_t)n * 4, 0);
    p->a = o->a;
    p->w = o->w;
    p->c = o->c + 64 + next_random(state) % 2 * 4;
    for (int64_t i = 0; i < n; i++)
        o->start[i] = (int32_t)next_random(state);
    for (int32_t part = 0; part < parts; part++)
        for (int64_t r = 0; r < strips * 16; r++)
            for (int64_t k = 0; k < steps * 32; k++) {
                const uint16_t v = s8 ? (uint16_t)next_random(state) : random_bf16(state, kind);
                uint16_t *const at = (uint16_t *)(void *)(o->a + part * p->a_part +
                                                          r / 16 * p->a_strip + k / 32 * 1024 +
                                                          r % 16 * 64) + k % 32;
                *at = r < m ? v : 0;
            }
    for (int64_t j = 0; j < panels * 32; j++)
        for (int64_t k = 0; k < steps * 32; k++) {
            const uint16_t v = s8 ? (uint16_t)next_random(state) : random_bf16(state, kind);
            uint16_t *const at = (uint16_t *)(void *)(o->w + j / 32 * p->w_panel + k / 2 * 128 +
                                                      j % 32 * 4) + k % 2;
            *at = j < n ? v : 0;
        }
    if (s8 && kind == 1) { /* the largest sums */
        memset(o->a, 0x80, (size_t)((m / 16) * p->a_strip));
        memset(o->w, 0x80, (size_t)((n / 32) * p->w_panel));
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            ((uint32_t *)p->c)[i * p->ldc + j] = s8 ? next_random(state)
                                                    : (uint32_t)random_bf16(state, kind) << 16;
    memcpy(o->expect, o->c, o->c_bytes);
}

static void drop(struct operands *o)
{
    free(o->a);
    free(o->w);
    free(o->c);
    free(o->expect);
    free(o->start);
}

static float flush(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

static float bf16_at(const uint8_t *p)
{
    uint16_t half;
    float f;
    memcpy(&half, p, 2);
    const uint32_t bits = (uint32_t)half << 16;
    memcpy(&f, &bits, 4);
    return flush(f);
}

/* One step of one part: packed.h, "amx". */
static float step_bf16(const uint8_t *a, const uint8_t *w, float c)
{
    float sum[2] = { 0.0f, 0.0f };
    for (int g = 0; g < 16; g++)
        for (int odd = 0; odd < 2; odd++)
            sum[odd] = flush(fmaf(bf16_at(a + 4 * g + 2 * odd), bf16_at(w + 128 * g + 2 * odd),
                                  sum[odd]));
    return flush(flush(c) + flush(sum[0] + sum[1]));
}

static int32_t step_s8(const uint8_t *a, const uint8_t *w, int32_t c)
{
    int64_t sum = c;
    for (int k = 0; k < 64; k++)
        sum += (int64_t)(int8_t)a[k] * (int8_t)w[k / 4 * 128 + k % 4];
    return (int32_t)(uint32_t)(uint64_t)sum;
}

/* All steps from f, or with parts blocks of them added to f (if add, or not the first). */
static float sum_bf16(int64_t steps, int32_t parts, const uint8_t *a, int64_t part,
                      const uint8_t *w, bool add, float f)
{
    for (int64_t t = 0; parts == 1 && t < steps; t++)
        f = step_bf16(a + t * QSAE__STRIP_STEP, w + t * QSAE__PANEL_STEP, f);
    for (int64_t t0 = 0; parts > 1 && t0 < steps; t0 += QSAE__PARTS_BLOCK) {
        float sum = 0.0f;
        for (int32_t i = parts - 1; i >= 0; i--)
            for (int64_t t = t0; t < steps && t < t0 + QSAE__PARTS_BLOCK; t++)
                sum = step_bf16(a + i * part + t * QSAE__STRIP_STEP, w + t * QSAE__PANEL_STEP, sum);
        f = add || t0 > 0 ? f + sum : sum;
    }
    return f;
}

/* o->expect by the definition, where o->c lies in o->c. */
static void define(const struct operands *o, bool s8)
{
    const qsae__packed_product *const p = &o->p;
    uint8_t *const c = o->expect + ((const uint8_t *)p->c - o->c);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            uint8_t *const at = c + (i * p->ldc + j) * 4;
            float f = 0.0f;
            int32_t s = 0;
            if (p->add) {
                memcpy(&f, at, 4);
                memcpy(&s, at, 4);
            } else if (p->start) {
                s = p->start[j];
            }
            const uint8_t *const a = p->a + i / 16 * p->a_strip + i % 16 * 64;
            const uint8_t *const w = p->w + j / 32 * p->w_panel + j % 32 * 4;
            for (int64_t t = 0; s8 && t < p->steps; t++)
                s = step_s8(a + t * QSAE__STRIP_STEP, w + t * QSAE__PANEL_STEP, s);
            if (!s8)
                f = sum_bf16(p->steps, p->parts, a, p->a_part, w, p->add, f);
            memcpy(at, s8 ? (void *)&s : (void *)&f, 4);
        }
}

/* Elements and everything around them; a NaN equals any NaN. */
static void compare(const struct operands *o, bool s8, const char *what, uint32_t seed)
{
    const qsae__packed_product *const p = &o->p;
    const int64_t from = (const uint8_t *)p->c - o->c;
    for (int64_t i = 0; i < (int64_t)o->c_bytes; i += 4) {
        uint32_t found, wanted;
        float f, w;
        memcpy(&found, o->c + i, 4);
        memcpy(&wanted, o->expect + i, 4);
        memcpy(&f, &found, 4);
        memcpy(&w, &wanted, 4);
        if (found != wanted && (s8 || f == f || w == w))
            fail_msg("%s, seed %u: m %lld n %lld steps %lld parts %d add %d ldc %lld: row %lld "
                     "column %lld: %08x, not %08x", what, seed, (long long)p->m, (long long)p->n,
                     (long long)p->steps, (int)p->parts, (int)p->add, (long long)p->ldc,
                     (long long)((i - from) / 4 / p->ldc), (long long)((i - from) / 4 % p->ldc),
                     found, wanted);
    }
}

static const int64_t rows[] = { 1, 15, 16, 17, 31, 32, 33, 48, 63, 80 };
static const int64_t columns[] = { 1, 16, 31, 32, 33, 64, 97 };

static void run_shapes(bool s8)
{
    const char *const by = start_or_skip();
    const int64_t before = amx_count();
    const uint32_t seed = random_seed();
    uint32_t state = seed;
    for (int n = 0; n < 7; n++)
        for (int m = 0; m < 10; m++) {
            struct operands o = { .seed = state };
            const int kind = next_random(&state) % 3 == 0;
            const int64_t steps = 1 + next_random(&state) % 7;
            make(&o, s8, kind, rows[m], columns[n], steps,
                 s8 || next_random(&state) % 3 ? 1 : 3);
            o.p.add = next_random(&state) % 2;
            o.p.more = next_random(&state) % 2;
            o.p.start = s8 && next_random(&state) % 2 ? o.start : NULL;
            define(&o, s8);
            (s8 ? qsae__packed_s8_amx : qsae__packed_bf16_amx)(&o.p);
            compare(&o, s8, s8 ? "int8" : "bf16", seed);
            drop(&o);
        }
    assert_true(strcmp(by, "emulator") != 0 || amx_count() > before);
    amx_stop();
}

void test_packed_amx_bf16(void **state)
{
    (void)state;
    run_shapes(false);
}

void test_packed_amx_s8(void **state)
{
    (void)state;
    run_shapes(true);
}

#define STEPS 19 /* cut below */

/* Blocks of k, of rows and of columns: the bits of the whole. */
void test_packed_amx_cuts(void **state)
{
    (void)state;
    (void)start_or_skip();
    const uint32_t seed = random_seed();
    for (int32_t parts = 1; parts <= 3; parts += 2)
        for (int64_t slab = parts == 1 ? 1 : 8; slab <= 16; slab += parts == 1 ? 2 : 8) {
            struct operands o = { .seed = seed };
            make(&o, false, 0, 50, 70, STEPS, parts);
            define(&o, false);
            for (int64_t i = 0; i < 50; i += 32)
                for (int64_t j = 0; j < 70; j += 32)
                    for (int64_t t = 0; t < STEPS; t += slab) {
                        qsae__packed_product q = o.p;
                        q.m = qsae__min_i64(32, 50 - i);
                        q.n = qsae__min_i64(32, 70 - j);
                        q.steps = qsae__min_i64(slab, STEPS - t);
                        q.a += i / 16 * q.a_strip + t * QSAE__STRIP_STEP;
                        q.w += j / 32 * q.w_panel + t * QSAE__PANEL_STEP;
                        q.c = (float *)q.c + i * q.ldc + j;
                        q.add = t > 0;
                        q.more = t + slab < STEPS;
                        qsae__packed_bf16_amx(&q);
                    }
            compare(&o, false, "cuts", seed);
            drop(&o);
        }
    amx_stop();
}

/* How far 200 steps of a product with cancellation are from its value in f64: one rounding per
 * product, one per step and two per chain bound it. */
void test_packed_amx_error(void **state)
{
    (void)state;
    (void)start_or_skip();
    const uint32_t seed = random_seed();
    struct operands o = { .seed = seed };
    const qsae__packed_product *const p = &o.p;
    make(&o, false, 0, 16, 32, 200, 1);
    qsae__packed_bf16_amx(p);
    for (int64_t i = 0; i < 16; i++)
        for (int64_t j = 0; j < 32; j++) {
            double sum = 0.0, size = 0.0;
            for (int64_t g = 0; g < 200 * 16; g++)
                for (int64_t odd = 0; odd < 2; odd++) {
                    const double x =
                        (double)bf16_at(p->a + g / 16 * 1024 + i * 64 + g % 16 * 4 + 2 * odd) *
                        (double)bf16_at(p->w + g * 128 + j * 4 + 2 * odd);
                    sum += x;
                    size += fabs(x);
                }
            const double error = fabs((double)((const float *)p->c)[i * p->ldc + j] - sum);
            if (!(error <= (16 + 1 + 200) * 0x1p-24 * size))
                fail_msg("seed %u: error %g of %g", seed, error, size);
        }
    drop(&o);
    amx_stop();
}

/* Tile instructions without a configuration end the program: the emulator hides no mistake. */
void test_packed_amx_refused(void **state)
{
    (void)state;
    const char *const by = start_or_skip();
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (strcmp(by, "cpu") == 0) /* cmocka's would go on with the next test */
            signal(SIGILL, SIG_DFL);
        __asm__ volatile(".byte 0xc4, 0xe2, 0x72, 0x5c, 0xda"); /* tdpbf16ps tmm3, tmm2, tmm1 */
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGILL);
    amx_stop();
}

#define M 70
#define N 100
#define K 600

struct sink {
    float c[M][N];
};

static int32_t keep(void *self, const qsae__tile *t)
{
    struct sink *const s = self;
    for (int64_t i = t->m0; i < t->m1; i++)
        memcpy(&s->c[i][t->n0], (const float *)t->c + (i - t->m0) * t->ldc,
               (size_t)(t->n1 - t->n0) * 4);
    return QSAE_OK;
}

struct meeting {
    atomic_int arrived;
    int32_t threads;
};

/* Lets SIGILL through in each of the context's threads, which block all signals: every item waits
 * until all threads have one. */
static int32_t unblock(void *self, int64_t item, int32_t worker)
{
    struct meeting *const u = self;
    sigset_t set;
    (void)item;
    (void)worker;
    sigemptyset(&set);
    sigaddset(&set, SIGILL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    atomic_fetch_add(&u->arrived, 1);
    while (atomic_load(&u->arrived) < u->threads)
        sched_yield();
    return QSAE_OK;
}

/* A product from packing to the finished tiles at level amx, by one thread and by three. */
void test_packed_amx_product(void **state)
{
    (void)state;
    const char *const by = start_or_skip();
    const uint32_t seed = random_seed();
    uint32_t random = seed;
    static uint16_t w[N][K];
    static float x[M][K];
    static struct sink found[2];
    for (int64_t i = 0; i < N * K; i++)
        w[i / K][i % K] = random_bf16(&random, 0);
    for (int64_t i = 0; i < M * K; i++)
        x[i / K][i % K] = next_float(&random);
    for (int32_t parts = 1; parts <= 3; parts += 2)
        for (int run = 0; run < 2; run++) {
            qsae_context *ctx = open_context(NULL, run ? 3 : 1);
            ctx->level = ctx->core->level = QSAE__LEVEL_AMX;
            struct meeting u = { 0, ctx->threads };
            assert_ok(qsae__parallel(ctx, u.threads, unblock, &u));
            const qsae__dense d = { .data = w, .dtype = QSAE_BF16, .level = ctx->level,
                                    .n_stride = K, .k_stride = 1 };
            qsae__packed_weight *packed = NULL;
            assert_ok(qsae__packed_dense(ctx, &d, N, K, &packed));
            qsae__left left;
            size_t bytes;
            assert_ok(qsae__left_size(M, K, 2, parts, &left, &bytes));
            uint8_t *const data = filled(bytes, GUARD);
            assert_ok(qsae__left_pack(ctx, &left, data, QSAE_F32, x, K, K));
            const qsae__right right = { .packed = packed };
            uint8_t *const scratch = filled(qsae__product_scratch(ctx), GUARD);
            const int64_t before = amx_count();
            assert_ok(qsae__product_run(ctx, &(qsae__product){
                .left = &left, .right = &right, .n_right = 1, .finish = keep, .self = &found[run],
                .scratch = scratch }));
            assert_true(strcmp(by, "emulator") != 0 || amx_count() > before);
            for (int64_t i = 0; i < M; i++)
                for (int64_t j = 0; j < N; j++) {
                    const float f = sum_bf16(
                        left.steps, parts, left.data + i / 16 * left.strip + i % 16 * 64, left.part,
                        packed->data + j / 32 * packed->panel + j % 32 * 4, false, 0.0f);
                    if (memcmp(&f, &found[run].c[i][j], 4) != 0)
                        fail_msg("seed %u, %d threads, %d parts: row %lld column %lld: %g, not %g",
                                 seed, run ? 3 : 1, (int)parts, (long long)i, (long long)j,
                                 (double)found[run].c[i][j], (double)f);
                }
            free(scratch);
            free(data);
            qsae__packed_close(&packed);
            qsae_context_close(&ctx);
        }
    amx_stop();
}
#else
static void absent(void)
{
    print_message("skipped: no x86-64\n");
    skip();
}

void test_packed_amx_bf16(void **state)
{
    (void)state;
    absent();
}

void test_packed_amx_s8(void **state)
{
    (void)state;
    absent();
}

void test_packed_amx_cuts(void **state)
{
    (void)state;
    absent();
}

void test_packed_amx_error(void **state)
{
    (void)state;
    absent();
}

void test_packed_amx_refused(void **state)
{
    (void)state;
    absent();
}

void test_packed_amx_product(void **state)
{
    (void)state;
    absent();
}
#endif
