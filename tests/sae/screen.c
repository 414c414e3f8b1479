/* SPDX-License-Identifier: BSD-2-Clause */
/* The screened encoder gives the bits of the unscreened one, on rows made to sit on every edge: at
 * thresholds and k-th places within an ulp, cancelling, tiny, huge, not finite; and its bound holds
 * against the exact products. Decoding against sums in plain C. */
#include "../kernels/amx_emulate.h"
#include "sae_test.h"

#include "kernels/kernels.h"
#include "sae/encode.h"

#define D 300   /* two blocks of the definition, a partial step of the packed product */
#define F 1100  /* three tiles, a partial panel */
#define N 150
#define K 9

#define CONFIG(arch, rest) \
    "{\"d_in\": 300, \"d_sae\": 1100, \"architecture\": \"" arch "\", \"k\": 9, " rest \
    "\"metadata\": {\"sae_lens_version\": \"6.1\"}}"

typedef struct kind {
    const char *name, *config;
    enum qsae__activation activation;
} kind;

static const kind kinds[] = {
    { "standard", CONFIG("standard", ""), QSAE__RELU },
    { "jumprelu", CONFIG("jumprelu", ""), QSAE__JUMPRELU },
    { "gated", CONFIG("gated", ""), QSAE__GATED },
    { "topk", CONFIG("topk", ""), QSAE__TOPK },
    { "topk by norm", CONFIG("topk", "\"rescale_acts_by_decoder_norm\": true, "), QSAE__TOPK },
    { "standard, layer norm", CONFIG("standard", "\"normalize_activations\": \"layer_norm\", "),
      QSAE__RELU },
    { "jumprelu, constant norm",
      CONFIG("jumprelu", "\"normalize_activations\": \"constant_norm_rescale\", "),
      QSAE__JUMPRELU },
};
#define KINDS (sizeof kinds / sizeof kinds[0])

typedef struct parameters {
    float w_enc[D * F], w_dec[F * D], b_enc[F], b_dec[D], threshold[F], r_mag[F], b_mag[F];
} parameters;

typedef struct result {
    int64_t indptr[N + 1], nnz;
    int32_t indices[N * F];
    float values[N * F], state[2 * N];
} result;

static parameters p;
static float x[N * D];
static result plain, screened;

static void save(qsae_context *ctx, const kind *k)
{
    const struct {
        const char *name;
        const float *data;
        int64_t rows, cols;
    } all[] = {
        { "W_enc", p.w_enc, D, F },          { "W_dec", p.w_dec, F, D },
        { "b_dec", p.b_dec, D, 0 },          { "threshold", p.threshold, F, 0 },
        { k->activation == QSAE__GATED ? "b_gate" : "b_enc", p.b_enc, F, 0 },
        { "r_mag", p.r_mag, F, 0 },          { "b_mag", p.b_mag, F, 0 },
    };
    qsae__tensor t[7];
    memset(t, 0, sizeof t);
    for (int i = 0; i < 7; i++) {
        t[i].name = (char *)(uintptr_t)all[i].name;
        t[i].data = all[i].data;
        t[i].shape[0] = all[i].rows;
        t[i].shape[1] = all[i].cols;
        t[i].rank = all[i].cols ? 2 : 1;
        t[i].bytes = (uint64_t)(all[i].rows * (all[i].cols ? all[i].cols : 1)) * 4;
        t[i].dtype = QSAE_F32;
    }
    assert_ok(qsae__safetensors_write(ctx, test_path("sae_weights.safetensors"), t, 7));
    test_write("cfg.json", k->config, strlen(k->config));
}

static qsae_sae *open_sae(qsae_context *ctx, int screening)
{
    qsae_sae *sae = NULL;
    assert_ok(qsae_sae_open(ctx, test_folder, NULL, &sae));
    sae->screening = screening;
    return sae;
}

static void encode(qsae_sae *sae, int64_t first, int64_t n, result *out)
{
    const qsae_rows rows = test_rows(x + first * D, n, D);
    assert_ok(qsae_sae_encode_sparse(sae, &rows, out->indptr, out->indices, out->values, N * F,
                                     out->state, &out->nnz));
}

static float nudged(float v, uint32_t *seed)
{
    const uint32_t r = next_random(seed) >> 8 & 3;
    return r == 0 ? v : r == 1 ? nextafterf(v, INFINITY) : r == 2 ? nextafterf(v, -INFINITY)
                                                                  : v + 0.5f * fabsf(v);
}

/* Just below halfway between two bf16 values: rounded, a product with itself loses all that the
 * bound says it may. */
static float worst(int64_t i)
{
    return (i * i % 7 < 3 ? -1 : 1) * (1 + 0x1.fcp-9f);
}

/* Random parameters and rows, few active; then rows and columns of every awkward sort. */
static void make(bool centred, uint32_t *seed)
{
    for (int64_t i = 0; i < D * F; i++) {
        p.w_enc[i] = next_float(seed);
        p.w_dec[i] = next_float(seed);
    }
    for (int64_t f = 0; f < F; f++) {
        p.b_enc[f] = -12 + next_float(seed);
        p.threshold[f] = 1 + next_float(seed);
        p.r_mag[f] = next_float(seed);
        p.b_mag[f] = 12 + next_float(seed);
    }
    for (int64_t i = 0; i < D; i++)
        p.b_dec[i] = centred ? 0.1f * next_float(seed) : 0;
    for (int64_t i = 0; i < N * D; i++)
        x[i] = next_float(seed);
    for (int64_t f = 0; f < F; f++)
        for (int64_t i = 0; i < D; i++) {
            float *const w = &p.w_enc[i * F + f];
            switch (f) {
            case 3: *w = 0; break;
            case 5: *w *= 0x1p-130f; break;          /* subnormal */
            case 7: *w *= 0x1p-60f; break;
            case 11: *w *= 0x1p40f; break;
            case 12: *w *= 0x1p90f; break;           /* squares overflow f32 */
            case 13: *w = i == 4 ? NAN : *w; break;
            case 14: *w = i == 4 ? INFINITY : *w; break;
            case 15: *w = i % 2 ? -*(w - F) : *w; break; /* cancels on even rows */
            case 16: *w = i ? *w * 0x1p-20f : 64; break;
            case 17: *w = worst(i); break;
            default:
                if (f % 5 == 0)
                    *w = qsae__round_bf16(*w);       /* no residual */
                else if (f % 17 == 1)
                    *w = p.w_enc[i * F + f - 1];     /* ties */
                else if (f % 17 == 2 && i == 7)
                    *w = nextafterf(p.w_enc[i * F + f - 1], 2);
            }
        }
    for (int64_t r = 0; r < 40; r++)
        for (int64_t i = 0; i < D; i++) {
            float *const v = &x[r * D + i];
            switch (r) {
            case 1: *v = 0; break;
            case 2: *v *= 0x1p-132f; break;
            case 3: *v *= 0x1p-70f; break;
            case 4: *v *= 0x1p50f; break;
            case 5: *v *= 0x1p80f; break;
            case 6: *v *= 0x1p127f; break;
            case 7: *v = i == 9 ? NAN : *v; break;
            case 8: *v = i == 9 ? INFINITY : *v; break;
            case 9: *v = qsae__round_bf16(*v); break;
            case 10: *v = i % 2 ? -*(v - 1) : *v; break;
            case 11: *v = i == 8 ? 3 : 0; break;
            case 12: *v = p.b_dec[i]; break;
            case 13: *v = i % 2 ? 0x1.01p0f : -0x1.01p0f; break; /* halfway between bf16 */
            case 14: *v = worst(i); break;
            default:
                if (r >= 20) /* along a feature: large products */
                    *v = p.w_enc[i * F + 20 + 5 * (r - 20)] * 0.5f + *v * 0.25f;
            }
        }
}

/* Puts each feature's threshold beside the value it has in some row. */
static void sharpen(const kind *k, qsae_context *ctx, uint32_t *seed)
{
    save(ctx, k);
    qsae_sae *sae = open_sae(ctx, QSAE__SCREEN_NEVER);
    float *const z = malloc(D * sizeof *z);
    assert_non_null(z);
    for (int64_t f = 17; f < F; f++) {
        const int64_t r = f == 17 ? 14 : 14 + (int64_t)(next_random(seed) % (N - 14));
        for (int64_t i = 0; i < D; i++)
            z[i] = x[r * D + i] - p.b_dec[i];
        const float h = qsae__gemm_dot(D, z, p.w_enc + f, F);
        if (f == 17) { /* active by the last bit */
            p.threshold[f] = nextafterf(h + p.b_enc[f], 0);
            p.b_enc[f] = k->activation == QSAE__JUMPRELU ? p.b_enc[f] : nextafterf(-h, 0);
            p.b_mag[f] = 1;
            continue;
        }
        if (f % 3 == 0)
            continue;
        if (k->activation == QSAE__JUMPRELU)
            p.threshold[f] = nudged(h + p.b_enc[f], seed);
        else if (k->activation != QSAE__TOPK)
            p.b_enc[f] = nudged(-h, seed);
        if (k->activation == QSAE__GATED && f % 3 == 1)
            p.b_mag[f] = nudged(-expf(p.r_mag[f]) * h, seed);
    }
    /* topk: every row's k-th value is met again, at other places */
    for (int64_t f = 600; f < 640 && k->activation == QSAE__TOPK; f++) {
        for (int64_t i = 0; i < D; i++)
            p.w_enc[i * F + f] = p.w_enc[i * F + f % 20 + 25];
        p.b_enc[f] = nudged(p.b_enc[f % 20 + 25], seed);
    }
    free(z);
    qsae_sae_close(&sae);
    save(ctx, k);
}

static void assert_same(const kind *k, const char *level, uint32_t seed)
{
    const bool same =
        plain.nnz == screened.nnz &&
        memcmp(plain.indptr, screened.indptr, sizeof plain.indptr) == 0 &&
        memcmp(plain.indices, screened.indices, (size_t)plain.nnz * 4) == 0 &&
        memcmp(plain.values, screened.values, (size_t)plain.nnz * 4) == 0;
    for (int64_t r = 0; !same && r < N; r++)
        if (plain.indptr[r + 1] != screened.indptr[r + 1])
            fail_msg("%s at %s, seed %u: row %d: %d entries, screened %d", k->name, level, seed,
                     (int)r, (int)(plain.indptr[r + 1] - plain.indptr[r]),
                     (int)(screened.indptr[r + 1] - screened.indptr[r]));
    if (!same)
        fail_msg("%s at %s, seed %u: indices or values differ", k->name, level, seed);
}

/* Level amx is set by hand where the CPU lacks it and an emulator serves. */
static qsae_context *open_level(const char *level, int32_t threads)
{
    const bool emulated = !strcmp(level, "amx") && strcmp(qsae_cpu_best(), "amx") != 0;
    qsae_context *ctx = open_context(emulated ? NULL : level, threads);
    if (emulated)
        ctx->level = ctx->core->level = QSAE__LEVEL_AMX;
    return ctx;
}

/* The order of SAEs that are too wide to be packed: with and without screening. */
static void check_features_first(const kind *k, const char *level, qsae_context *ctx,
                                 uint32_t seed)
{
    for (int screening = 0; screening <= QSAE__SCREEN_ALWAYS; screening++) {
        qsae_sae *sae = open_sae(ctx, screening);
        sae->order = QSAE__ORDER_FEATURES;
        encode(sae, 0, N, &screened);
        assert_same(k, level, seed);
        if (screening == QSAE__SCREEN_NEVER)
            assert_int_equal(sae->screened, 0);
        assert_null(sae->screen);
        encode(sae, 31, 1, &screened);
        assert_int_equal(screened.nnz, plain.indptr[32] - plain.indptr[31]);
        assert_memory_equal(screened.values, plain.values + plain.indptr[31],
                            (size_t)screened.nnz * 4);
        qsae_sae_close(&sae);
    }
}

static void check_kind(const kind *k, const char *level, uint32_t seed)
{
    const uint32_t first = seed;
    qsae_context *one = open_level(level, 1);
    make(first / 7919 % 2 == 0, &seed);
    sharpen(k, one, &seed);
    qsae_sae *sae = open_sae(one, QSAE__SCREEN_NEVER);
    encode(sae, 0, N, &plain);
    assert_int_equal(sae->screened, 0);
    assert_true(plain.nnz > N); /* not idle */
    qsae_sae_close(&sae);
    const bool has = qsae__packed_get(one)->bf16 != NULL;
    for (int32_t threads = 1; threads <= 3; threads++) {
        qsae_context *ctx = open_level(level, threads);
        sae = open_sae(ctx, QSAE__SCREEN_ALWAYS);
        encode(sae, 0, N, &screened);
        assert_same(k, level, first);
        assert_int_equal(sae->screened, has ? N : 0);
        for (int64_t r = 0; r < N; r += 1 + r / 20 * 7) {
            encode(sae, r, 1, &screened);
            assert_int_equal(screened.nnz, plain.indptr[r + 1] - plain.indptr[r]);
            assert_memory_equal(screened.values, plain.values + plain.indptr[r],
                                (size_t)screened.nnz * 4);
            assert_memory_equal(screened.indices, plain.indices + plain.indptr[r],
                                (size_t)screened.nnz * 4);
        }
        qsae_sae_close(&sae);
        if (threads == 2)
            check_features_first(k, level, ctx, first);
        qsae_context_close(&ctx);
    }
    qsae_context_close(&one);
}

static void test_same_bits(void **state)
{
    (void)state;
    for (int l = 0; level_name(l); l++)
        for (uint32_t seed = 1; seed <= (full_length() ? 16 : 2); seed++)
            for (size_t k = 0; k < KINDS; k++)
                check_kind(&kinds[k], level_name(l), seed * 7919);
}

static void test_same_bits_amx(void **state)
{
    (void)state;
    if (!amx_start()) {
        print_message("skipped: neither AMX nor AVX-512 to emulate it with\n");
        skip();
    }
    for (size_t k = 0; k < KINDS; k++)
        check_kind(&kinds[k], "amx", 7919);
    amx_stop();
}

/* So many active features that screening is given up, from some block on. */
static void test_dense(void **state)
{
    uint32_t seed = 5;
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    make(true, &seed);
    for (int64_t f = 0; f < F; f++)
        p.b_enc[f] = 1;
    save(ctx, &kinds[0]);
    qsae_sae *a = open_sae(ctx, QSAE__SCREEN_NEVER), *b = open_sae(ctx, QSAE__SCREEN_WHERE_FASTER);
    encode(a, 0, N, &plain);
    encode(b, 0, N, &screened);
    assert_same(&kinds[0], "best", 5);
    assert_int_equal(b->screened, 0);
    qsae_sae_close(&a);
    qsae_sae_close(&b);
    qsae_context_close(&ctx);
}

/* select, squares, pairs and rows of every level against plain loops. */
static void test_select(void **state)
{
    static float h[70], bias[70], limit[70], scale[70];
    int32_t index[70];
    uint32_t seed = 9;
    (void)state;
    for (int l = 0; level_name(l); l++)
        for (int round = 0; round < 400; round++) {
            const qsae__sparse_ops *const ops = qsae__sparse_level(l);
            const int n = (int)(next_random(&seed) % 70);
            const int skip = (int)(next_random(&seed) & 1);
            for (int i = 0; i < 70; i++) {
                h[i] = (float)(int)(next_random(&seed) >> 28) - 8;
                bias[i] = (float)(int)(next_random(&seed) >> 29) - 4;
                limit[i] = (float)(int)(next_random(&seed) >> 29) - 4;
                scale[i] = (float)(int)(next_random(&seed) >> 30);
                if (next_random(&seed) % 11 == 0)
                    h[i] = i % 2 ? NAN : i % 4 ? INFINITY : -INFINITY;
            }
            qsae__select s = { .bias = bias + skip, .floor = round % 3 ? 0 : 2 };
            s.limit = round & 1 ? limit + skip : NULL;
            s.scale = round & 2 ? scale + skip : NULL;
            const int rest = n - skip > 0 ? n - skip : 0;
            const int64_t count = ops->select(&s, h + skip, rest, index);
            int64_t want = 0;
            for (int i = 0; i < rest; i++) {
                float v = h[skip + i] + s.bias[i];
                v = s.scale ? v * s.scale[i] : v;
                if (!(v > s.floor) || (s.limit && !(v > s.limit[i])))
                    continue;
                assert_true(want < count);
                assert_int_equal(index[want++], i);
            }
            assert_int_equal(count, want);
        }
}

static void test_pairs(void **state)
{
    static float rows[QSAE__PAIRS][256], panel[256 * 32];
    const float *at[QSAE__PAIRS];
    int32_t column[QSAE__PAIRS];
    float part[QSAE__PAIRS];
    uint32_t seed = 17;
    (void)state;
    for (int i = 0; i < 256 * 32; i++)
        panel[i] = next_float(&seed);
    for (int i = 0; i < QSAE__PAIRS; i++) {
        at[i] = rows[(i * 5) % QSAE__PAIRS];
        column[i] = (int32_t)(next_random(&seed) % 32);
        for (int k = 0; k < 256; k++)
            rows[i][k] = next_float(&seed);
    }
    for (int l = 0; level_name(l); l++)
        for (int64_t kb = 1; kb <= 200; kb += 1 + kb / 5) {
            const qsae__sparse_ops *const ops = qsae__sparse_level(l);
            memset(part, 0, sizeof part);
            ops->pairs(3, kb / 2, at, panel, column, part);
            ops->pairs(3 + kb / 2, kb - kb / 2, at, panel + kb / 2 * 32, column, part);
            for (int i = 0; i < QSAE__PAIRS; i++) {
                const float want = qsae__gemm_dot(kb, at[i] + 3, panel + column[i], 32);
                assert_memory_equal(&part[i], &want, sizeof want);
            }
        }
}

static void test_squares(void **state)
{
    static float v[5 * 32];
    double sum[32], rest[32];
    uint32_t seed = 23;
    (void)state;
    for (int l = 0; level_name(l); l++) {
        for (int i = 0; i < 5 * 32; i++)
            v[i] = ldexpf(next_float(&seed), i % 9 == 0 ? -130 : (int)(next_random(&seed) % 40));
        memset(sum, 0, sizeof sum);
        memset(rest, 0, sizeof rest);
        qsae__sparse_level(l)->squares(v, 5, sum, rest);
        for (int j = 0; j < 32; j++) {
            double s = 0, t = 0;
            for (int r = 0; r < 5; r++) {
                const double a = v[r * 32 + j];
                double b = qsae__round_bf16(v[r * 32 + j]);
                b = fabs(b) < 0x1p-126 ? 0 : b;
                s += a * a;
                t += (a - b) * (a - b);
            }
            assert_memory_equal(&sum[j], &s, sizeof s);
            assert_memory_equal(&rest[j], &t, sizeof t);
        }
    }
}

/* Sums of decoder rows: each type, each level, any number of columns; nothing beyond is touched. */
static void test_rows_sum(void **state)
{
    static float w32[40 * 150];
    static uint16_t w16[40 * 150 + 1];
    static const int32_t types[] = { QSAE_F32, QSAE_BF16, QSAE_F16 };
    double a[20], sum[QSAE__PIECE + 1], want[QSAE__PIECE];
    int32_t index[20];
    uint32_t seed = 31;
    (void)state;
    for (int i = 0; i < 40 * 150; i++)
        w32[i] = next_float(&seed);
    for (int e = 0; e < 20; e++) {
        a[e] = (double)next_float(&seed) / 3;
        index[e] = (int32_t)(next_random(&seed) % 40);
    }
    for (int l = 0; level_name(l); l++)
        for (int t = 0; t < 3; t++)
            for (int64_t cols = 1; cols <= QSAE__PIECE; cols += cols < 40 ? 1 : 11) {
                const char *const odd = (const char *)w16 + 1; /* any alignment */
                const int64_t n = cols % 21;
                for (int i = 0; i < 40 * 150; i++) {
                    const uint16_t v = types[t] == QSAE_F16 ? qsae__f32_to_f16(w32[i])
                                                            : qsae__f32_to_bf16(w32[i]);
                    memcpy((char *)w16 + 1 + 2 * i, &v, sizeof v);
                }
                for (int64_t j = 0; j <= QSAE__PIECE; j++)
                    sum[j] = 0.5 * (double)j;
                for (int64_t j = 0; j < cols; j++) {
                    want[j] = sum[j];
                    for (int64_t e = 0; e < n; e++) {
                        float v = w32[index[e] * 150 + j];
                        v = types[t] == QSAE_F16 ? qsae__round_f16(v)
                          : types[t] == QSAE_BF16 ? qsae__round_bf16(v) : v;
                        const double product = a[e] * (double)v;
                        want[j] += product;
                    }
                }
                qsae__sparse_level(l)->rows(types[t], t ? (const void *)odd : w32, 150, index, a,
                                            n, cols, sum);
                assert_memory_equal(sum, want, (size_t)cols * sizeof *sum);
                for (int64_t j = cols; j <= QSAE__PIECE; j++)
                    assert_true(sum[j] == 0.5 * (double)j);
            }
}

const struct CMUnitTest screen_tests[] = {
    cmocka_unit_test(test_select),    cmocka_unit_test(test_pairs),
    cmocka_unit_test(test_squares),   cmocka_unit_test(test_rows_sum),
    cmocka_unit_test(test_same_bits),
    cmocka_unit_test(test_same_bits_amx), cmocka_unit_test(test_dense),
};
const size_t n_screen_tests = sizeof screen_tests / sizeof screen_tests[0];
