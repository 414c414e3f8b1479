/* SPDX-License-Identifier: BSD-2-Clause */
/* Rows and edits at every site: order, transformers' rows (tests/data/sites), same bits. */
#include "model_test.h"

#define SITES QSAE_TEST_DATA "/sites/"
#define N_SITES 14
#define LAYER 1 /* the one the fixtures look at */

/* In the order of a pass. */
static const int32_t order[N_SITES] = {
    QSAE_SITE_EMBED, QSAE_SITE_POS_EMBED, QSAE_SITE_RESID_PRE, QSAE_SITE_LN1_NORMALIZED,
    QSAE_SITE_Z, QSAE_SITE_ATTN_OUT, QSAE_SITE_RESID_MID, QSAE_SITE_LN2_NORMALIZED,
    QSAE_SITE_MLP_IN, QSAE_SITE_MLP_POST, QSAE_SITE_MLP_OUT, QSAE_SITE_RESID_POST,
    QSAE_SITE_FINAL_NORMALIZED, QSAE_SITE_FINAL_NORM,
};

static const char *const names[] = { "llama_bias",    "gemma2_cap",    "gemma3_cap",
                                     "qwen3_windows", "neox_parallel", "neox_sequential",
                                     "gpt2_layers" };
#define N_NAMES ((int)(sizeof names / sizeof names[0]))

static bool of_no_layer(int32_t site)
{
    return site == QSAE_SITE_EMBED || site == QSAE_SITE_POS_EMBED ||
           site == QSAE_SITE_FINAL_NORMALIZED || site == QSAE_SITE_FINAL_NORM;
}

/* What an edit does, and what is kept before it. */
struct probe {
    float *rows;          /* kept, or NULL */
    int64_t n;
    const float *put;     /* takes the rows' place, or NULL: */
    float factor;         /* rows *= factor */
};

static int32_t edit(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    struct probe *const p = cookie;
    float *const x = rows->data;
    (void)layer;
    (void)site;
    assert_int_equal(rows->dtype, QSAE_F32);
    assert_int_equal(rows->row_stride, rows->n_cols);
    p->n = rows->n_rows * rows->n_cols;
    if (p->rows)
        memcpy(p->rows, x, (size_t)p->n * sizeof *x);
    for (int64_t i = 0; i < p->n; i++)
        x[i] = p->put ? p->put[i] : x[i] * p->factor;
    return 0;
}

static int32_t keep(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    struct probe *const p = cookie;
    (void)layer;
    (void)site;
    p->n = rows->n_rows * rows->n_cols;
    memcpy(p->rows, rows->data, (size_t)p->n * sizeof(float));
    return 0;
}

static qsae_tap tap_at(int32_t layer, int32_t site, struct probe *p, bool edits)
{
    return (qsae_tap){ .struct_size = sizeof(qsae_tap), .layer = of_no_layer(site) ? -1 : layer,
                       .site = site, .observe = edits ? NULL : keep, .edit = edits ? edit : NULL,
                       .cookie = p };
}

struct fixture {
    qsae_context *ctx;
    qsae__tensors *t;
    json_t *report;
    int32_t *ids;
    int64_t n_seq, n_tokens, rows;
};

static void fixture_open(const char *name, const char *cpu, struct fixture *f)
{
    char path[700];
    f->ctx = test_context(2, cpu);
    snprintf(path, sizeof path, SITES "%s.safetensors", name);
    OK(qsae__tensors_load(f->ctx, path, &f->t));
    snprintf(path, sizeof path, SITES "%s.json", name);
    OK(qsae__json_load(f->ctx, path, &f->report));
    const qsae__tensor *const ids = qsae__tensors_find(f->t, "ids");
    assert_non_null(ids);
    f->n_seq = ids->shape[0];
    f->n_tokens = ids->shape[1];
    f->rows = f->n_seq * f->n_tokens;
    f->ids = malloc(ids->bytes);
    assert_non_null(f->ids);
    memcpy(f->ids, ids->data, ids->bytes);
}

static void fixture_close(struct fixture *f)
{
    free(f->ids);
    json_decref(f->report);
    qsae__tensors_unref(&f->t);
    qsae_context_close(&f->ctx);
}

static void run(const struct fixture *f, qsae_model *m, const qsae_tap *taps, int64_t n, float *nll)
{
    qsae_pass p;
    qsae_pass_init(&p, sizeof p);
    p.ids = f->ids;
    p.n_seq = f->n_seq;
    p.n_tokens = f->n_tokens;
    p.taps = taps;
    p.n_taps = n;
    p.nll = nll;
    OK(qsae_model_forward(m, &p));
}

/* Square errors over edited passes, whose ten nll each say little alone. */
struct errors {
    double mine, torch;
};

/* Within twice torch's own error, where it has none within an eighth of an ulp. pool: rows are nll,
 * within four times, and added there. */
static void near_oracle(const struct fixture *f, const char *name, const char *key,
                        const float *got, struct errors *pool)
{
    char full[96];
    int64_t n;
    snprintf(full, sizeof full, "oracle.%s", key);
    double *const want = test_values(f->t, full, &n);
    double *const have = malloc((size_t)n * sizeof *have);
    assert_non_null(have);
    double size = 0;
    for (int64_t i = 0; i < n; i++) {
        have[i] = (double)(pool ? got[i + i / (f->n_tokens - 1)] : got[i]);
        size += want[i] * want[i] / (double)n;
    }
    const json_t *const torch = json_object_get(json_object_get(f->report, "f32_error"), key);
    assert_true(json_is_number(torch) && size > 0);
    const double mine = test_rms(have, want, n), theirs = json_number_value(torch);
    if (!(mine <= (pool ? 4 : 2) * theirs + 1.5e-8 * sqrt(size)))
        fail_msg("%s %s: rms error %g, torch %g", name, key, mine, theirs);
    if (pool) {
        pool->mine += mine * mine;
        pool->torch += theirs * theirs;
    }
    free(have);
    free(want);
}

static void key_of(int32_t site, char *key, size_t size)
{
    snprintf(key, size, of_no_layer(site) ? "%s" : "%s.1", qsae_site_name(site));
}

static void check_f32(const char *name)
{
    struct fixture f;
    struct errors pool = { 0, 0 };
    float *nll, *rows;
    char key[64];
    fixture_open(name, NULL, &f);
    qsae_model *m = test_model(f.ctx, test_model_path(name), NULL, QSAE_COMPUTE_F32, 0);
    nll = malloc((size_t)f.rows * sizeof *nll);
    rows = malloc((size_t)f.rows * 512 * sizeof *rows);
    assert_true(nll && rows);
    int sites = 0;
    for (int i = 0; i < N_SITES; i++) {
        const int64_t width = qsae_model_site_width(m, order[i]);
        key_of(order[i], key, sizeof key);
        const json_t *const errors = json_object_get(f.report, "f32_error");
        assert_int_equal(width > 0, json_object_get(errors, key) != NULL);
        if (width == 0)
            continue;
        sites++;
        struct probe p = { .rows = rows, .factor = 0.5f };
        qsae_tap tap = tap_at(LAYER, order[i], &p, false);
        run(&f, m, &tap, 1, NULL); /* only the blocks it needs */
        assert_int_equal(p.n, f.rows * width);
        near_oracle(&f, name, key, rows, NULL);
        tap = tap_at(LAYER, order[i], &p, true);
        run(&f, m, &tap, 1, nll);
        snprintf(key, sizeof key, "half.%s", qsae_site_name(order[i]));
        near_oracle(&f, name, key, nll, &pool);
    }
    assert_true(sites >= 12);
    struct probe zero = { .factor = 0 }, half = { .factor = 0.5f };
    const int32_t zeroed[] = { QSAE_SITE_Z, QSAE_SITE_ATTN_OUT, QSAE_SITE_MLP_OUT };
    for (int i = 0; i < 3; i++) {
        const qsae_tap tap = tap_at(LAYER, zeroed[i], &zero, true);
        run(&f, m, &tap, 1, nll);
        snprintf(key, sizeof key, "zero.%s", qsae_site_name(zeroed[i]));
        near_oracle(&f, name, key, nll, &pool);
    }
    const qsae_tap two[] = { tap_at(LAYER, QSAE_SITE_Z, &zero, true),
                             tap_at(0, QSAE_SITE_MLP_OUT, &half, true) };
    run(&f, m, two, 2, nll);
    near_oracle(&f, name, "two", nll, &pool);
    if (!(pool.mine <= 4 * pool.torch))
        fail_msg("%s: rms error of edited passes %g, torch %g", name, sqrt(pool.mine),
                 sqrt(pool.torch));
    free(nll);
    free(rows);
    qsae_model_close(&m);
    fixture_close(&f);
}

static void test_f32(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++)
        check_f32(names[i]);
}

/* bf16 steps between two bf16 values. */
static int64_t steps(float a, float b)
{
    const float both[] = { a, b };
    int64_t at[2];
    for (int i = 0; i < 2; i++) {
        uint32_t u;
        memcpy(&u, &both[i], sizeof u);
        assert_int_equal(u & 0xffff, 0);
        at[i] = u >> 31 ? -(int64_t)((u & 0x7fffffff) >> 16) : (int64_t)(u >> 16);
    }
    return at[0] > at[1] ? at[0] - at[1] : at[1] - at[0];
}

/*
 * One pass in which torch's eager bf16 rows take the place of ours at every site after ours were
 * looked at: each site from equal inputs, within one step but for one value in a thousand.
 */
static void check_bf16(const char *name, const char *cpu)
{
    struct fixture f;
    struct probe probes[N_SITES];
    qsae_tap taps[N_SITES];
    int32_t sites[N_SITES];
    int n = 0;
    int64_t far = 0, all = 0;
    fixture_open(name, cpu, &f);
    qsae_model *m = test_model(f.ctx, test_model_path(name), NULL, QSAE_COMPUTE_BF16,
                               QSAE_ATTN_EAGER);
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    OK(qsae_model_get_info(m, &info));
    float *const nll = malloc((size_t)f.rows * sizeof *nll);
    for (int i = 0; i < N_SITES; i++) {
        char key[80] = "bf16.";
        int64_t values;
        key_of(order[i], key + 5, sizeof key - 5);
        const bool later = order[i] == QSAE_SITE_FINAL_NORM && info.layers > 2;
        if (!qsae__tensors_find(f.t, key) || later)
            continue;
        probes[n] = (struct probe){ .put = test_floats(f.t, key, &values) };
        probes[n].rows = malloc((size_t)values * sizeof(float));
        assert_non_null(probes[n].rows);
        probes[n].n = values;
        sites[n] = order[i];
        taps[n] = tap_at(LAYER, order[i], &probes[n], true);
        n++;
    }
    assert_true(n >= 8);
    run(&f, m, taps, n, nll);
    for (int i = 0; i < n; i++) {
        /* The input of the layer comes from layer 0, as it is. */
        for (int64_t k = 0; k < probes[i].n && sites[i] != QSAE_SITE_RESID_PRE; k++)
            far += steps(probes[i].rows[k], probes[i].put[k]) > 1;
        all += probes[i].n;
        free(probes[i].rows);
        free((void *)probes[i].put);
    }
    free(nll);
    qsae_model_close(&m);
    fixture_close(&f);
    if (far > all / 1000)
        fail_msg("%s: %ld of %ld values more than one bf16 step apart", name, (long)far, (long)all);
}

static void test_bf16(void **state)
{
    (void)state;
    for (int i = 0; i < N_NAMES; i++) {
        check_bf16(names[i], NULL);
        check_bf16(names[i], "c");
    }
}

/* All sites of all layers looked at. */
struct seen {
    int64_t n;
    int32_t at[64];       /* layer * 100 + index in `order`, in calling order */
    float *rows[64];
    int64_t size[64];
    bool touch;
};

static int32_t note(void *cookie, int32_t layer, int32_t site, const qsae_rows *rows)
{
    struct seen *const s = cookie;
    const size_t bytes = (size_t)(rows->n_rows * rows->n_cols) * sizeof(float);
    assert_true(s->n < 64);
    int at = 0;
    while (order[at] != site)
        at++;
    s->at[s->n] = layer * 100 + at;
    s->size[s->n] = rows->n_rows * rows->n_cols;
    s->rows[s->n] = malloc(bytes);
    memcpy(s->rows[s->n++], rows->data, bytes);
    return 0;
}

static int32_t nothing(void *cookie, int32_t layer, int32_t site, qsae_rows *rows)
{
    (void)cookie;
    (void)layer;
    (void)site;
    (void)rows;
    return 0;
}

static void see_all(qsae_model *m, struct fixture *f, struct seen *s, float *nll, float *logits)
{
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    qsae_tap taps[64];
    qsae_pass p;
    int64_t n = 0;
    OK(qsae_model_get_info(m, &info));
    s->n = 0;
    /* Registered in another order than they are called in. */
    for (int i = N_SITES - 1; i >= 0; i--)
        for (int32_t layer = (int32_t)info.layers - 1; layer >= 0; layer--)
            if (qsae_model_site_width(m, order[i]) && (layer == 0 || !of_no_layer(order[i])))
                taps[n++] = (qsae_tap){ .struct_size = sizeof(qsae_tap),
                                        .layer = of_no_layer(order[i]) ? -1 : layer,
                                        .site = order[i], .observe = note,
                                        .edit = s->touch ? nothing : NULL, .cookie = s };
    qsae_pass_init(&p, sizeof p);
    p.ids = f->ids;
    p.n_seq = f->n_seq;
    p.n_tokens = f->n_tokens;
    p.taps = taps;
    p.n_taps = n;
    p.nll = nll;
    p.logits = logits;
    OK(qsae_model_forward(m, &p));
    assert_int_equal(s->n, n);
}

static void seen_free(struct seen *s)
{
    for (int64_t i = 0; i < s->n; i++)
        free(s->rows[i]);
    s->n = 0;
}

static const float *rows_at(const struct seen *s, int32_t layer, int32_t site)
{
    for (int64_t i = 0; i < s->n; i++)
        if (order[s->at[i] < 0 ? s->at[i] + 100 : s->at[i] % 100] == site &&
            (s->at[i] < 0 || s->at[i] / 100 == layer))
            return s->rows[i];
    return NULL;
}

/* The stream is what is added to it, in f32 to the bit. */
static void check_sums(const struct seen *s, int32_t layer, int64_t n, bool parallel)
{
    const float *const pre = rows_at(s, layer, QSAE_SITE_RESID_PRE);
    const float *const attn = rows_at(s, layer, QSAE_SITE_ATTN_OUT);
    const float *const mid = rows_at(s, layer, QSAE_SITE_RESID_MID);
    const float *const mlp = rows_at(s, layer, QSAE_SITE_MLP_OUT);
    const float *const post = rows_at(s, layer, QSAE_SITE_RESID_POST);
    const float *const last = layer ? rows_at(s, layer - 1, QSAE_SITE_RESID_POST) : pre;
    assert_true(pre && attn && mlp && post && last && (mid != NULL) == !parallel);
    for (int64_t i = 0; i < n; i++) {
        assert_true(pre[i] == last[i]);
        if (parallel) {
            assert_true(post[i] == (mlp[i] + attn[i]) + pre[i]);
            continue;
        }
        assert_true(mid[i] == pre[i] + attn[i]);
        assert_true(post[i] == mid[i] + mlp[i]);
    }
}

struct variant {
    const char *model, *condition;
    int32_t compute, attention;
};

/* Looking, and editing nothing, changes no bit of the result; threads change none of the rows. */
static void check_bits(const struct variant *v, const char *cpu)
{
    const int threads[] = { 1, 2, 5 };
    struct fixture f;
    struct seen first = { 0 }, s = { 0 };
    fixture_open(v->model, cpu, &f);
    float *plain = NULL, *logits = NULL;
    for (int t = 0; t < 3; t++) {
        qsae_context *ctx = test_context(threads[t], cpu);
        qsae_model *m = test_model(ctx, test_model_path(v->model), v->condition, v->compute,
                                   v->attention);
        qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
        OK(qsae_model_get_info(m, &info));
        const size_t bytes = (size_t)(f.rows * info.vocab) * sizeof(float);
        if (t == 0) {
            plain = malloc(bytes);
            logits = malloc(bytes);
            struct qsae_pass p;
            qsae_pass_init(&p, sizeof p);
            p.ids = f.ids;
            p.n_seq = f.n_seq;
            p.n_tokens = f.n_tokens;
            p.logits = plain;
            OK(qsae_model_forward(m, &p));
            see_all(m, &f, &first, NULL, logits);
            assert_memory_equal(logits, plain, bytes);
            /* the order of the pass: embedding, layers, final norm */
            for (int64_t i = 1; i < first.n; i++)
                assert_true(first.at[i] < 0 || first.at[i - 1] < 0 ||
                            first.at[i - 1] < first.at[i]);
            for (int32_t layer = 0; layer < info.layers && v->compute == QSAE_COMPUTE_F32; layer++)
                check_sums(&first, layer, f.rows * info.width, !strcmp(v->model, "neox_parallel"));
        }
        s.touch = true;
        see_all(m, &f, &s, NULL, logits);
        assert_memory_equal(logits, plain, bytes);
        assert_int_equal(s.n, first.n);
        for (int64_t i = 0; i < s.n; i++) {
            assert_int_equal(s.at[i], first.at[i]);
            assert_memory_equal(s.rows[i], first.rows[i], (size_t)s.size[i] * sizeof(float));
        }
        seen_free(&s);
        qsae_model_close(&m);
        qsae_context_close(&ctx);
    }
    seen_free(&first);
    free(plain);
    free(logits);
    fixture_close(&f);
}

static void test_bits(void **state)
{
    static const struct variant variants[] = {
        { "llama_bias", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
        { "llama_bias", "nf4", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
        { "gemma2_cap", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_EAGER },
        { "gemma3_cap", "llm.int8", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
        { "gemma3_cap", "rtn:bits=6", QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
        { "qwen3_windows", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
        { "neox_parallel", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
        { "neox_parallel", "rtn:bits=4", QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
        { "neox_sequential", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_EAGER },
        { "gpt2_layers", NULL, QSAE_COMPUTE_F32, QSAE_ATTN_SDPA },
        { "gpt2_layers", NULL, QSAE_COMPUTE_BF16, QSAE_ATTN_SDPA },
    };
    static const char *const levels[] = { NULL, "c", "avx512bf16", "amx" };
    (void)state;
    for (size_t l = 0; l < sizeof levels / sizeof levels[0]; l++) {
        if (levels[l] && l > 1 &&
            qsae__cpu_level() < (l == 2 ? QSAE__LEVEL_AVX512BF16 : QSAE__LEVEL_AMX))
            continue;
        for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
            check_bits(&variants[i], levels[l]);
    }
}

/* Observers see what editors registered before them leave; bf16 rows are rounded but inside
 * norms. */
static void test_rounding(void **state)
{
    struct fixture f;
    (void)state;
    fixture_open("gpt2_layers", NULL, &f);
    qsae_model *m = test_model(f.ctx, test_model_path("gpt2_layers"), NULL, QSAE_COMPUTE_BF16, 0);
    float *const before = malloc((size_t)f.rows * 512 * sizeof *before);
    float *const after = malloc((size_t)f.rows * 512 * sizeof *after);
    assert_true(before && after);
    for (int i = 0; i < N_SITES; i++) {
        struct probe look = { .rows = before }, late = { .rows = after };
        struct probe change = { .factor = 0.3f };
        if (!qsae_model_site_width(m, order[i]))
            continue;
        const qsae_tap taps[] = { tap_at(0, order[i], &look, false),
                                  tap_at(0, order[i], &change, true),
                                  tap_at(0, order[i], &late, false) };
        run(&f, m, taps, 3, NULL);
        const bool inside = qsae__site_unrounded(order[i]);
        for (int64_t k = 0; k < look.n; k++) {
            const float want = before[k] * 0.3f;
            assert_true(after[k] == (inside ? want : qsae__round_bf16(want)));
            assert_true(inside || before[k] == qsae__round_bf16(before[k]));
        }
    }
    free(before);
    free(after);
    qsae_model_close(&m);
    fixture_close(&f);
}

static int32_t count(void *cookie, int64_t done, int64_t total, const char *unit, const char *phase)
{
    (void)total;
    (void)unit;
    (void)phase;
    *(int64_t *)cookie = done;
    return 0;
}

/* Blocks that a tap needs, and a pass that stops before it. */
static void test_blocks(void **state)
{
    static const struct {
        int32_t site;
        int64_t blocks; /* with a tap at layer 1 of 2 */
    } cases[] = {
        { QSAE_SITE_EMBED, 0 }, { QSAE_SITE_POS_EMBED, 0 }, { QSAE_SITE_RESID_PRE, 1 },
        { QSAE_SITE_Z, 2 }, { QSAE_SITE_MLP_OUT, 2 }, { QSAE_SITE_RESID_POST, 2 },
        { QSAE_SITE_FINAL_NORM, 2 },
    };
    struct fixture f;
    (void)state;
    fixture_open("gpt2_layers", NULL, &f);
    qsae_model *m = test_model(f.ctx, test_model_path("gpt2_layers"), NULL, 0, 0);
    float *const rows = malloc((size_t)f.rows * 512 * sizeof *rows);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct probe look = { .rows = rows };
        const qsae_tap tap = tap_at(1, cases[i].site, &look, false);
        int64_t done = 0;
        qsae_pass p;
        qsae_pass_init(&p, sizeof p);
        p.ids = f.ids;
        p.n_seq = f.n_seq;
        p.n_tokens = f.n_tokens;
        p.taps = &tap;
        p.n_taps = 1;
        p.progress = count;
        p.progress_cookie = &done;
        OK(qsae_model_forward(m, &p));
        assert_int_equal(done, cases[i].blocks);
        assert_true(look.n > 0);
        p.stop_layer = 1;
        if (cases[i].blocks == 2)
            REFUSED(qsae_model_forward(m, &p), QSAE_EINVAL, qsae_site_name(cases[i].site));
        else
            OK(qsae_model_forward(m, &p));
    }
    free(rows);
    qsae_model_close(&m);
    fixture_close(&f);
}

static void test_refused(void **state)
{
    struct fixture f;
    struct probe look = { 0 };
    qsae_pass p;
    (void)state;
    fixture_open("neox_parallel", NULL, &f);
    qsae_model *m = test_model(f.ctx, test_model_path("neox_parallel"), NULL, 0, 0);
    qsae_tap tap = tap_at(1, QSAE_SITE_RESID_MID, &look, false);
    qsae_pass_init(&p, sizeof p);
    p.ids = f.ids;
    p.n_seq = f.n_seq;
    p.n_tokens = f.n_tokens;
    p.taps = &tap;
    p.n_taps = 1;
    REFUSED(qsae_model_forward(m, &p), QSAE_EUNSUPPORTED, "resid_mid");
    tap.site = QSAE_SITE_POS_EMBED;
    tap.layer = 0;
    REFUSED(qsae_model_forward(m, &p), QSAE_EUNSUPPORTED, "pos_embed");
    tap.site = QSAE_SITE_EMBED;
    tap.layer = 1;
    REFUSED(qsae_model_forward(m, &p), QSAE_EINVAL, "expected -1 or 0 for embed");
    tap.site = QSAE_SITE_FINAL_NORM;
    tap.layer = 0;
    REFUSED(qsae_model_forward(m, &p), QSAE_EINVAL, "expected -1 or 1 for final_norm");
    tap.site = QSAE_SITE_Z;
    tap.layer = -1;
    REFUSED(qsae_model_forward(m, &p), QSAE_EINVAL, "layer -1: expected 0..1");
    qsae_model_close(&m);
    fixture_close(&f);
}

const struct CMUnitTest site_tests[] = {
    cmocka_unit_test(test_f32),    cmocka_unit_test(test_bf16),   cmocka_unit_test(test_bits),
    cmocka_unit_test(test_rounding), cmocka_unit_test(test_blocks), cmocka_unit_test(test_refused),
};
const size_t n_site_tests = sizeof site_tests / sizeof site_tests[0];
