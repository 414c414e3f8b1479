/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * llama.cpp's base-logit files and its report against what its own code made of the same logits
 * (tests/reference/llama_report.py), and hostile files.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../examples/llama_report.h"
#include "../support.h"
#include "core/core.h"
#include "metrics/metrics.h"

#define FOLDER QSAE_TEST_DATA "/metrics/llama/"
#define CONTEXT 32
#define VOCAB 61
#define CHUNKS 9
#define FIRST 16
#define ROWS 15 /* of a chunk */

static float logits[2][CHUNKS * CONTEXT * VOCAB];
static int32_t tokens[CHUNKS * CONTEXT];

static void make_logits(void)
{
    uint32_t s = 2024;
    for (int i = 0; i < CHUNKS * CONTEXT * VOCAB; i++) {
        float x[2];
        for (int k = 0; k < 2; k++) {
            s = s * 1664525u + 1013904223u;
            x[k] = (float)((int32_t)(s >> 16) - 32768) / 4096;
        }
        logits[0][i] = x[0];
        logits[1][i] = x[0] + x[1] / 8;
    }
    for (int i = 0; i < CHUNKS * CONTEXT; i++)
        tokens[i] = (i % CONTEXT * 7 + i / CONTEXT * 3) % VOCAB;
}

/* The scored rows of a chunk, from row `first` on. */
static qsae_rows scored(int model, int64_t chunk, int64_t first, int64_t n)
{
    return (qsae_rows){ .struct_size = sizeof(qsae_rows),
                        .data = logits[model] + (chunk * CONTEXT + FIRST + first) * VOCAB,
                        .n_rows = n, .n_cols = VOCAB, .row_stride = VOCAB, .dtype = QSAE_F32 };
}

static char *read_whole(const char *path, size_t *size)
{
    FILE *const f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *const data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, f), *size);
    data[*size] = 0;
    fclose(f);
    return data;
}

static const qsae_logits_info shape = { .struct_size = sizeof shape, .context = CONTEXT,
                                        .vocab = VOCAB, .chunks = CHUNKS };

/* Writes in blocks of `step` rows of a chunk. */
static void write_file(qsae_context *ctx, const char *path, int64_t step)
{
    qsae_logits_writer *w = NULL;
    assert_ok(qsae_logits_writer_open(ctx, path, &shape, tokens, &w));
    for (int64_t chunk = 0; chunk < CHUNKS; chunk++)
        for (int64_t r = 0; r < ROWS; r += step) {
            const qsae_rows x = scored(0, chunk, r, r + step > ROWS ? ROWS - r : step);
            assert_ok(qsae_logits_writer_add(w, &x));
        }
    assert_ok(qsae_logits_writer_finish(w));
    qsae_logits_writer_close(&w);
    assert_null(w);
}

static const char *scratch(const char *name)
{
    static char path[512];
    const char *const folder = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    snprintf(path, sizeof path, "%s/qsae-llama-%ld-%s", folder, (long)getpid(), name);
    return path;
}

static void test_write(void **state)
{
    static const int64_t steps[] = { 1, 4, 15 };
    size_t n, size;
    char *const want = read_whole(FOLDER "base.kld", &size);
    (void)state;
    for (int i = 0; i < 3; i++) {
        qsae_context *ctx = open_context(NULL, 1 + i);
        write_file(ctx, scratch("written"), steps[i]);
        char *const got = read_whole(scratch("written"), &n);
        assert_int_equal(n, size);
        assert_memory_equal(got, want, size);
        free(got);
        remove(scratch("written"));
        qsae_context_close(&ctx);
    }
    free(want);
}

/* Decoded log-probabilities are within half a code of the true ones, but for those cut off. */
static void test_read(void **state)
{
    static float log_p[ROWS * VOCAB];
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_logits_reader *r = NULL;
    qsae_logits_info info = { .struct_size = sizeof info };
    assert_ok(qsae_logits_reader_open(ctx, FOLDER "base.kld", &r));
    assert_ok(qsae_logits_reader_get_info(r, &info));
    assert_true(info.context == CONTEXT && info.vocab == VOCAB && info.chunks == CHUNKS &&
                info.first == FIRST && info.rows == ROWS);
    for (int64_t chunk = 0; chunk < CHUNKS; chunk++) {
        const int32_t *ids;
        assert_ok(qsae_logits_reader_tokens(r, chunk, &ids));
        assert_memory_equal(ids, tokens + chunk * CONTEXT, CONTEXT * sizeof *ids);
        assert_ok(qsae_logits_reader_rows(r, chunk, log_p, ROWS * VOCAB));
        for (int i = 0; i < ROWS; i++) {
            const float *const x = logits[0] + (chunk * CONTEXT + FIRST + i) * VOCAB;
            double sum = 0, max = -INFINITY;
            for (int v = 0; v < VOCAB; v++) {
                sum += exp((double)x[v]);
                max = fmax(max, (double)x[v]);
            }
            for (int v = 0; v < VOCAB; v++) {
                const double true_p = fmax((double)x[v], max - 16) - log(sum);
                assert_true(fabs((double)log_p[i * VOCAB + v] - true_p) < 0.5 * 16 / 65535 + 4e-6);
            }
        }
    }
    assert_fails(qsae_logits_reader_rows(r, 0, log_p, ROWS * VOCAB - 1), QSAE_ESPACE, "915");
    assert_fails(qsae_logits_reader_rows(r, CHUNKS, log_p, ROWS * VOCAB), QSAE_EINVAL, "chunk 9");
    qsae_logits_reader_close(&r);
    assert_null(r);
    qsae_context_close(&ctx);
}

static qsae_metric *open_metric(qsae_context *ctx)
{
    qsae_metric_settings s;
    qsae_metric *m = NULL;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = CONTEXT;
    assert_ok(qsae_metric_open_llama_cpp(ctx, &s, &m));
    return m;
}

/* A result document with one condition. */
static json_t *document_of(qsae_metric *m)
{
    json_t *const o = json_object(), *const lines = json_array(), *const list = json_array();
    int64_t chunks[CHUNKS], n;
    double values[CHUNKS * QSAE_METRIC_LLAMA_LINE];
    for (int32_t i = 0; i < qsae_metric_count(m); i++) {
        qsae_value v = { .struct_size = sizeof v };
        assert_ok(qsae_metric_value(m, i, &v));
        json_object_set_new(o, v.name, isfinite(v.value) ? json_real(v.value) : json_null());
    }
    assert_fails(qsae_metric_llama_lines(m, chunks, values, 1, &n), QSAE_ESPACE,
                 "room for 1 lines, expected");
    assert_int_equal(n, CHUNKS);
    assert_ok(qsae_metric_llama_lines(m, chunks, values, CHUNKS, &n));
    for (int64_t i = 0; i < n; i++) {
        json_t *const line = json_array();
        json_array_append_new(line, json_integer(chunks[i] + 1));
        for (int k = 0; k < QSAE_METRIC_LLAMA_LINE; k++)
            json_array_append_new(line, json_real(values[i * QSAE_METRIC_LLAMA_LINE + k]));
        json_array_append_new(lines, line);
    }
    json_object_set_new(o, "lines", lines);
    json_array_append_new(list, json_pack("{s:s,s:o}", "label", "q", "llama_cpp", o));
    return json_pack("{s:o}", "conditions", list);
}

/* The printed report is llama.cpp's own. */
static void check_report(qsae_metric *m)
{
    char *got = NULL;
    size_t n, size;
    char *const want = read_whole(FOLDER "report.txt", &size);
    json_t *const document = document_of(m);
    FILE *const f = open_memstream(&got, &n);
    assert_non_null(f);
    llama_report_print(f, document);
    fclose(f);
    const char *const report = strstr(got, "\nchunk ");
    assert_non_null(report);
    if (strcmp(report, want) != 0)
        fail_msg("expected\n%s\nfound\n%s", want, report);
    json_decref(document);
    free(got);
    free(want);
}

/* Rows `first`.. of a chunk from logits of both. */
static void add_logits(qsae_metric *m, int64_t chunk, int64_t first, int64_t n)
{
    const qsae_rows r = scored(0, chunk, first, n), q = scored(1, chunk, first, n);
    const qsae_positions at = { .struct_size = sizeof at, .n_rows = n,
                                .first_token = chunk * CONTEXT + FIRST + first };
    assert_ok(qsae_metric_update_llama_cpp_logits(
        m, &at, &r, &q, tokens + chunk * CONTEXT + FIRST + first + 1));
}

static void assert_same(qsae_metric *a, qsae_metric *b)
{
    qsae_context *ctx = open_context("c", 1);
    qsae__strbuf s[2];
    for (int i = 0; i < 2; i++) {
        qsae__strbuf_init(&s[i], ctx);
        qsae__metric_write(i ? b : a, &s[i]);
    }
    assert_int_equal(s[0].size, s[1].size);
    assert_memory_equal(s[0].data, s[1].data, (size_t)s[0].size);
    for (int i = 0; i < 2; i++)
        qsae__strbuf_free(&s[i]);
    qsae_context_close(&ctx);
}

/* Against the file, from logits, in pieces backwards, from two shards, from a state: all equal. */
static void test_report(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 3), *one = open_context("c", 1);
    qsae_logits_reader *base = NULL;
    qsae_metric *m[5];
    for (int i = 0; i < 5; i++)
        m[i] = open_metric(i == 2 ? one : ctx);
    assert_ok(qsae_logits_reader_open(ctx, FOLDER "base.kld", &base));
    for (int64_t c = 0; c < CHUNKS; c++) {
        const qsae_rows q = scored(1, c, 0, ROWS);
        assert_ok(qsae_metric_update_llama_cpp_base(m[0], base, c, &q));
        add_logits(m[1], c, 0, ROWS);
        add_logits(m[c % 2 ? 3 : 4], c, 0, ROWS);
    }
    for (int64_t c = CHUNKS - 1; c >= 0; c--) {
        add_logits(m[2], c, 7, ROWS - 7);
        add_logits(m[2], c, 0, 7);
    }
    check_report(m[0]);
    assert_same(m[0], m[1]);
    check_report(m[2]);
    assert_ok(qsae_metric_merge(m[3], m[4]));
    check_report(m[3]);
    assert_fails(qsae_metric_merge(m[3], m[4]), QSAE_EMISMATCH, "overlap");
    assert_ok(qsae_metric_save(m[0], scratch("state")));
    assert_ok(qsae_metric_load(m[4], scratch("state")));
    remove(scratch("state"));
    assert_same(m[0], m[4]);
    check_report(m[4]);
    for (int i = 0; i < 5; i++)
        qsae_metric_close(&m[i]);
    qsae_logits_reader_close(&base);
    qsae_context_close(&ctx);
    qsae_context_close(&one);
}

/* Rows without label, with NaN; a sample in place of all tokens; few tokens. */
static void test_gaps(void **state)
{
    static float x[4 * VOCAB];
    int32_t label[4] = { 3, -100, 5, 60 };
    int64_t n = 0, chunk[1];
    double line[QSAE_METRIC_LLAMA_LINE];
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_metric *m = open_metric(ctx), *few = NULL;
    memcpy(x, logits[0], sizeof x);
    x[2 * VOCAB + 1] = NAN;
    const qsae_rows r = { sizeof r, x, 4, VOCAB, VOCAB, QSAE_F32, 0 };
    assert_ok(qsae_metric_update_llama_cpp_logits(m, NULL, &r, &r, label));
    double v;
    assert_ok(qsae_metric_get(m, "tokens", &v));
    assert_true(v == 2);
    assert_ok(qsae_metric_get(m, "nonfinite_rows", &v));
    assert_true(v == 1);
    assert_ok(qsae_metric_get(m, "same_top", &v));
    assert_true(v == 1);
    assert_ok(qsae_metric_get(m, "kld_max", &v));
    assert_true(fabs(v) < 1e-3); /* codes are not exact */
    assert_ok(qsae_metric_llama_lines(m, NULL, NULL, 0, &n));
    assert_int_equal(n, 1);
    assert_ok(qsae_metric_llama_lines(m, chunk, line, 1, &n));
    assert_true(chunk[0] == 0 && line[8] == 1 && line[5] == 0);
    label[3] = VOCAB;
    assert_fails(qsae_metric_update_llama_cpp_logits(m, NULL, &r, &r, label), QSAE_EINVAL,
                 "label of row 3");
    qsae_metric_settings s;
    qsae_metric_settings_init(&s, sizeof s);
    s.batch_rows = CONTEXT;
    s.memory = 60 * 32; /* a record is 32 bytes */
    assert_ok(qsae_metric_open_llama_cpp(ctx, &s, &few));
    for (int64_t c = 0; c < CHUNKS; c++)
        add_logits(few, c, 0, ROWS);
    assert_ok(qsae_metric_get(few, "quantile_sample", &v));
    assert_true(v > 0 && v <= 60);
    assert_ok(qsae_metric_get(few, "tokens", &v));
    assert_true(v == CHUNKS * ROWS);
    assert_ok(qsae_metric_llama_lines(few, NULL, NULL, 0, &n));
    assert_int_equal(n, 0);
    qsae_metric_close(&m);
    qsae_metric_close(&few);
    qsae_context_close(&ctx);
}

static void test_writer_errors(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    qsae_logits_writer *w = NULL;
    qsae_logits_info info = shape;
    float bad[VOCAB] = { 0 };
    const qsae_rows row = { sizeof row, bad, 1, VOCAB, VOCAB, QSAE_F32, 0 };
    qsae_rows narrow = row;
    const char *const path = scratch("unfinished");
    assert_ok(qsae_logits_writer_open(ctx, path, &info, tokens, &w));
    narrow.n_cols = VOCAB - 1;
    assert_fails(qsae_logits_writer_add(w, &narrow), QSAE_EMISMATCH, "61 columns");
    bad[7] = NAN;
    assert_fails(qsae_logits_writer_add(w, &row), QSAE_EINVAL, "NaN");
    bad[7] = INFINITY;
    assert_fails(qsae_logits_writer_add(w, &row), QSAE_EINVAL, "row 0");
    bad[7] = -INFINITY;
    for (int i = 0; i < CHUNKS * ROWS; i++) {
        assert_fails(qsae_logits_writer_finish(w), QSAE_EINVAL, "expected 135 rows");
        assert_ok(qsae_logits_writer_add(w, &row));
    }
    assert_fails(qsae_logits_writer_add(w, &row), QSAE_EINVAL, "of 135");
    qsae_logits_writer_close(&w);
    assert_false(qsae__file_exists(path));
    for (int i = 0; i < VOCAB; i++)
        bad[i] = -INFINITY;
    assert_ok(qsae_logits_writer_open(ctx, path, &info, tokens, &w));
    assert_fails(qsae_logits_writer_add(w, &row), QSAE_EINVAL, "nothing but");
    qsae_logits_writer_close(&w);
    info.context = 2;
    assert_fails(qsae_logits_writer_open(ctx, path, &info, tokens, &w), QSAE_EINVAL, "n_ctx");
    info.context = CONTEXT;
    info.vocab = 60;
    assert_fails(qsae_logits_writer_open(ctx, path, &info, tokens, &w), QSAE_EINVAL, "0..59");
    info.vocab = (int64_t)1 << 40;
    assert_fails(qsae_logits_writer_open(ctx, path, &info, tokens, &w), QSAE_EINVAL, "n_vocab");
    assert_null(w);
    qsae_context_close(&ctx);
}

static int32_t open_bytes(qsae_context *ctx, const char *data, size_t size)
{
    qsae_logits_reader *r = NULL;
    static float log_p[4096];
    FILE *const f = fopen(scratch("hostile"), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
    int32_t st = qsae_logits_reader_open(ctx, scratch("hostile"), &r);
    qsae_logits_info info = { .struct_size = sizeof info };
    if (st == QSAE_OK) {
        qsae_metric *m = open_metric(ctx);
        assert_ok(qsae_logits_reader_get_info(r, &info));
        for (int64_t c = 0; c < info.chunks && st == QSAE_OK; c++)
            st = qsae_logits_reader_rows(r, c, log_p, 4096);
        for (int64_t c = 0; c < info.chunks && info.context == CONTEXT; c++) {
            const qsae_rows q = scored(1, c, 0, ROWS);
            (void)qsae_metric_update_llama_cpp_base(m, r, c, &q);
        }
        qsae_metric_close(&m);
    }
    qsae_logits_reader_close(&r);
    return st;
}

/* Cut off anywhere, changed anywhere; heads that promise more than there is. */
static void test_hostile(void **state)
{
    size_t size;
    char *const good = read_whole(FOLDER "base.kld", &size), *const copy = malloc(size + 1);
    uint32_t s = 77;
    int accepted = 0;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    assert_non_null(copy);
    for (size_t n = 0; n < size; n += n < 64 ? 1 : 397)
        assert_int_equal(open_bytes(ctx, good, n), QSAE_EFORMAT);
    memcpy(copy, good, size);
    copy[size] = 0;
    assert_fails(open_bytes(ctx, copy, size + 1), QSAE_EFORMAT, "size");
    for (int field = 0; field < 3; field++)
        for (int i = 0; i < 5; i++) {
            static const int32_t values[] = { 0, -1, INT32_MIN, INT32_MAX, 3 };
            memcpy(copy, good, size);
            memcpy(copy + 8 + 4 * field, &values[i], 4);
            assert_int_equal(open_bytes(ctx, copy, size), QSAE_EFORMAT);
        }
    for (int i = 0; i < 600; i++) {
        memcpy(copy, good, size);
        for (int k = 0; k < 1 + i % 3; k++) {
            s = s * 1664525u + 1013904223u;
            copy[(s >> 8) % size] = (char)(s >> 3);
        }
        const int32_t st = open_bytes(ctx, copy, size);
        assert_true(st == QSAE_OK || st == QSAE_EFORMAT);
        accepted += st == QSAE_OK;
    }
    assert_true(accepted > 100 && accepted < 600); /* most bytes are codes */
    const float nan = NAN, minus = -1;
    memcpy(copy, good, size);
    memcpy(copy + 20 + 4 * CHUNKS * CONTEXT + 4, &nan, 4);
    assert_fails(open_bytes(ctx, copy, size), QSAE_EFORMAT, "chunk 0, position 16");
    memcpy(copy, good, size);
    memcpy(copy + 20 + 4 * CHUNKS * CONTEXT, &minus, 4);
    assert_fails(open_bytes(ctx, copy, size), QSAE_EFORMAT, "scale");
    remove(scratch("hostile"));
    free(copy);
    free(good);
    qsae_context_close(&ctx);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),         cmocka_unit_test(test_read),
        cmocka_unit_test(test_report),        cmocka_unit_test(test_gaps),
        cmocka_unit_test(test_writer_errors), cmocka_unit_test(test_hostile),
    };
    make_logits();
    return _cmocka_run_group_tests("llama", tests, sizeof tests / sizeof tests[0], NULL, NULL);
}
