/* SPDX-License-Identifier: BSD-2-Clause */
/* llama.cpp's comparison in an audit: both models at once, against a file, with and without text,
 * stopped and gone on. What its figures are is tested in tests/metrics/llama.c. */
#include <sys/stat.h>
#include <unistd.h>

#include "broken.h"

#define STORIES QSAE_TEST_SHARED "/data/stories260k"
#define CONTEXT 64
#define CHUNKS 9

static const char *const conditions[] = { "nf4:block=64", "rtn:bits=4" };
static char folder[] = "/tmp/qsae-llama-XXXXXX";
static char base[64], other[64], state_file[64];

static void settings(qsae_audit_settings *s)
{
    defaults(s);
    s->profile = QSAE_PROFILE_DEFAULT;
    s->n_saes = 0;
    s->context = CONTEXT;
    s->max_tokens = CHUNKS * CONTEXT;
    s->conditions = conditions;
    s->n_conditions = 2;
    s->batch = 4;
}

/* A model's figures without the name of the file. */
static json_t *figures(const json_t *result, int condition)
{
    json_t *const who = condition < 0 ? json_object_get(result, "reference")
                                      : condition_at(result, (size_t)condition);
    json_t *const o = json_deep_copy(json_object_get(who, "llama_cpp"));
    assert_true(json_is_object(o));
    json_object_del(o, "base");
    return o;
}

static void assert_figures(const json_t *a, const json_t *b)
{
    for (int i = 0; i < 2; i++) {
        json_t *const x = figures(a, i), *const y = figures(b, i);
        if (!json_equal(x, y))
            fail_msg("condition %d: %s\n%s", i, json_dumps(x, JSON_COMPACT),
                     json_dumps(y, JSON_COMPACT));
        json_decref(x);
        json_decref(y);
    }
}

static void assert_same_files(const char *a, const char *b)
{
    FILE *const f = fopen(a, "rb"), *const g = fopen(b, "rb");
    assert_non_null(f);
    assert_non_null(g);
    for (int c = 0; c != EOF;) {
        c = fgetc(f);
        assert_int_equal(c, fgetc(g));
    }
    fclose(f);
    fclose(g);
}

/* Runs that must agree; the first one writes the file that others read. */
static json_t *first_run(qsae_context *ctx)
{
    qsae_audit_settings s;
    settings(&s);
    s.kl_divergence = 1;
    s.save_logits = base;
    return run(ctx, &s);
}

static void test_figures(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    json_t *const result = first_run(ctx), *const corpus = json_object_get(result, "corpus");
    const json_t *const reference = json_object_get(result, "reference");
    const double scored = CHUNKS * (CONTEXT / 2 - 1);
    near("predicted", at(corpus, "predicted_tokens"), scored, 0);
    near("score_from", at(corpus, "score_from"), CONTEXT / 2, 0);
    assert_string_equal(text_at(corpus, "bos_policy"), "chunk_replace");
    assert_true(null_at(reference, "llama_cpp"));
    for (size_t i = 0; i < 2; i++) {
        const json_t *const c = condition_at(result, i), *const o = json_object_get(c, "llama_cpp");
        const json_t *const lines = json_object_get(o, "lines");
        const json_t *const last = json_array_get(lines, CHUNKS - 1);
        near("tokens", at(o, "tokens"), scored, 0);
        near("sample", at(o, "quantile_sample"), scored, 0);
        near("ppl_q", at(o, "ppl_q") / at(c, "ppl"), 1, 1e-6);
        /* the base is cut 16 nats below the likeliest */
        near("ppl_base", at(o, "ppl_base") / at(reference, "ppl"), 0.996, 0.004);
        near("ln_ppl_ratio", at(o, "ln_ppl_ratio") - at(c, "dce"), 0.004, 0.004);
        near("kld_mean", at(o, "kld_mean") / at(c, "kl_mean"), 1, 0.02);
        near("kld_mean_se", at(o, "kld_mean_se") / at(c, "kl_se"), 1, 0.02);
        near("same_top", at(o, "same_top"), at(c, "same_top"), 2 / scored);
        near("dp_rms", at(o, "dp_rms") / at(c, "dp_rms"), 1, 1e-3);
        assert_int_equal(json_array_size(lines), CHUNKS);
        near("chunk", json_number_value(json_array_get(last, 0)), CHUNKS, 0);
        near("last line", json_number_value(json_array_get(last, 1)), at(o, "ppl_q"), 1e-9);
        near("last line", json_number_value(json_array_get(last, 5)), at(o, "kld_mean"), 1e-12);
    }
    json_decref(result);
    qsae_context_close(&ctx);
}

/* The file holds the text's own tokens, BOS the first alone. */
static void test_file(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_logits_reader *r = NULL;
    qsae_tokenizer *t = NULL;
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    qsae_logits_info shape = { .struct_size = sizeof shape };
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &t));
    assert_ok(qsae_tokenizer_get_info(t, &info));
    assert_ok(qsae_logits_reader_open(ctx, base, &r));
    assert_ok(qsae_logits_reader_get_info(r, &shape));
    assert_true(shape.context == CONTEXT && shape.chunks == CHUNKS && info.adds_bos);
    for (int64_t c = 0; c < CHUNKS; c++) {
        const int32_t *ids;
        assert_ok(qsae_logits_reader_tokens(r, c, &ids));
        assert_int_equal(ids[0] == info.bos, c == 0);
    }
    qsae_logits_reader_close(&r);
    qsae_tokenizer_close(&t);
    qsae_context_close(&ctx);
}

/* Against the file: without text, with it, streamed, other threads and batches. MODEL is compared
 * too, and is what the file says. */
static void test_base(void **state)
{
    (void)state;
    qsae_context *two = open_context(NULL, 2);
    json_t *const want = first_run(two), *kept = NULL;
    for (int i = 0; i < 3; i++) {
        qsae_context *ctx = open_context(NULL, 1 + i);
        qsae_audit_settings s;
        settings(&s);
        s.kl_divergence_base = base;
        s.context = i == 1 ? CONTEXT : 0;
        s.max_tokens = 0;
        s.batch = 1 + 2 * i;
        s.text = i == 0 ? NULL : s.text;
        s.memory = i == 2 ? QSAE_MEMORY_STREAMED : QSAE_MEMORY_RESIDENT;
        s.save_logits = i == 1 ? other : NULL;
        json_t *const got = run(ctx, &s), *const own = figures(got, -1);
        assert_figures(want, got);
        near("same_top", at(own, "same_top"), 1, 0);
        near("kld", at(own, "kld_mean"), 0, 1e-4);
        near("ppl", at(own, "ppl_q") / at(own, "ppl_base"), 1.004, 0.004);
        if (kept)
            assert_true(json_equal(kept, own));
        near("documents", at(json_object_get(got, "corpus"), "documents") == CHUNKS, i == 0, 0);
        json_decref(kept);
        kept = own;
        json_decref(got);
        qsae_context_close(&ctx);
    }
    assert_same_files(base, other);
    unlink(other);
    json_decref(kept);
    json_decref(want);
    qsae_context_close(&two);
}

/* Stopped in the middle: gone on in the same handle, or from a state. No file before the end. */
static void test_stop(void **unused)
{
    (void)unused;
    qsae_context *ctx = open_context(NULL, 2);
    json_t *const want = first_run(ctx);
    for (int saved = 0; saved < 2; saved++) {
        struct stop stop = { .at = 4 * CONTEXT };
        qsae_audit_settings s;
        qsae_audit *audit = NULL;
        assert_ok(qsae_cancel_token_open(&stop.token));
        settings(&s);
        s.kl_divergence = 1;
        s.progress = stop_at;
        s.progress_cookie = &stop;
        s.cancel = stop.token;
        if (saved)
            s.state = state_file;
        else
            s.save_logits = other;
        assert_ok(qsae_audit_open(ctx, &s, &audit));
        assert_int_equal(qsae_audit_run(audit), QSAE_ECANCELED);
        assert_int_not_equal(access(other, F_OK), 0);
        qsae_cancel_token_reset(stop.token);
        stop.at = 1 << 30;
        if (saved) {
            qsae_audit_close(&audit);
            assert_ok(qsae_audit_open(ctx, &s, &audit));
        }
        assert_ok(qsae_audit_run(audit));
        json_t *const got = result_of(audit);
        assert_figures(want, got);
        if (!saved)
            assert_same_files(base, other);
        json_decref(got);
        qsae_audit_close(&audit);
        qsae_cancel_token_close(&stop.token);
        unlink(other);
        unlink(state_file);
    }
    json_decref(want);
    qsae_context_close(&ctx);
}

/* A file of plain text is what llama.cpp's -f reads: white space and separators are text. */
static void test_text(void **state)
{
    static const char text[] = " \n Once upon a time<|endoftext|> there was  \n\n";
    char path[80];
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_tokenizer *t = NULL;
    qsae_corpus *c = NULL;
    qsae_corpus_settings s;
    qsae_corpus_info info = { .struct_size = sizeof info };
    int32_t want[64];
    const int32_t *ids;
    int64_t n = 0;
    snprintf(path, sizeof path, "%s/plain.txt", folder);
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(text, 1, sizeof text - 1, f);
    fclose(f);
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &t));
    assert_ok(qsae_tokenizer_encode(t, text, sizeof text - 2, 0, want, 64, &n));
    qsae_corpus_settings_init(&s, sizeof s);
    s.format = QSAE_TEXT_WHOLE;
    s.bos_policy = QSAE_BOS_NONE;
    s.context = n;
    assert_ok(qsae_corpus_open(ctx, t, path, &s, &c));
    assert_ok(qsae_corpus_get_info(c, &info));
    assert_true(info.documents == 1 && info.stream_tokens == n);
    assert_ok(qsae_corpus_chunk(c, 0, &ids, NULL, NULL, NULL));
    assert_memory_equal(ids, want, (size_t)n * sizeof *ids);
    qsae_corpus_close(&c);
    qsae_tokenizer_close(&t);
    unlink(path);
    qsae_context_close(&ctx);
}

/* Tokens whose logits are no numbers are counted, and in no figure; they cannot be stored. */
static void test_broken(void **state)
{
    const double scored = CHUNKS * (CONTEXT / 2 - 1);
    char broken[64];
    const char *const condition = broken;
    qsae_audit_settings s;
    qsae_audit *audit;
    (void)state;
    snprintf(broken, sizeof broken, "%s/broken", folder);
    make_broken(broken, "model.norm.weight");
    qsae_context *ctx = open_context(NULL, 2);
    settings(&s);
    s.kl_divergence = 1;
    s.conditions = &condition;
    s.n_conditions = 1;
    for (int k = 0; k < 2; k++) { /* the condition is broken, the reference is */
        json_t *const result = run(ctx, &s);
        const json_t *const o = json_object_get(condition_at(result, 0), "llama_cpp");
        near("tokens", at(o, "tokens"), 0, 0);
        near("nonfinite", at(o, "nonfinite_rows"), scored, 0);
        assert_true(null_at(o, "kld_mean") && null_at(o, "ppl_q") && null_at(o, "same_top"));
        json_decref(result);
        s.model = broken;
        s.conditions = conditions;
    }
    s.save_logits = other;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_fails(qsae_audit_run(audit), QSAE_EINVAL,
                 "other.kld: chunk 0, row 0: logits that are NaN or infinite cannot be stored");
    qsae_audit_close(&audit);
    assert_int_not_equal(access(other, F_OK), 0);
    remove_broken(broken);
    qsae_context_close(&ctx);
}

/* A folder comes to stand where the file is to go. */
static int32_t take_place(void *cookie, int64_t done, int64_t total, const char *unit,
                          const char *phase)
{
    (void)cookie;
    (void)done;
    (void)total;
    (void)unit;
    (void)phase;
    mkdir(other, 0700);
    return 0;
}

/* A file that could not be put in its place is not written by going on: its rows are gone. */
static void test_lost(void **state)
{
    qsae_audit_settings s;
    qsae_audit *audit;
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    settings(&s);
    s.n_conditions = 0;
    s.save_logits = other;
    s.progress = take_place;
    assert_ok(qsae_audit_open(ctx, &s, &audit));
    assert_fails(qsae_audit_run(audit), QSAE_EIO, "other.kld");
    assert_fails(qsae_audit_run(audit), QSAE_EIO,
                 "other.kld: could not be finished: open the audit again to write it");
    json_t *const result = result_of(audit); /* what was measured is there */
    assert_true(reference_ce(result) > 0);
    json_decref(result);
    qsae_audit_close(&audit);
    assert_int_equal(rmdir(other), 0);
    s.progress = NULL;
    json_decref(run(ctx, &s));
    assert_int_equal(access(other, R_OK), 0);
    unlink(other);
    qsae_context_close(&ctx);
}

static void refused(qsae_context *ctx, const qsae_audit_settings *s, int32_t status,
                    const char *part)
{
    qsae_audit *audit = NULL;
    assert_fails(qsae_audit_open(ctx, s, &audit), status, part);
    assert_null(audit);
}

/* A file of the first chunk of the other, of a vocabulary that lacks one token. */
static void make_narrow(qsae_context *ctx)
{
    static float logits[2047];
    int32_t tokens[CONTEXT];
    const qsae_logits_info info = { .struct_size = sizeof info, .context = CONTEXT, .vocab = 2047,
                                    .chunks = 1 };
    const qsae_rows row = { .struct_size = sizeof row, .data = logits, .n_rows = 1, .n_cols = 2047,
                            .row_stride = 2047, .dtype = QSAE_F32 };
    qsae_logits_writer *w;
    FILE *const f = fopen(base, "rb");
    assert_non_null(f);
    fseek(f, 20, SEEK_SET); /* behind the name of the format and three sizes */
    assert_int_equal(fread(tokens, sizeof *tokens, CONTEXT, f), CONTEXT);
    fclose(f);
    assert_ok(qsae_logits_writer_open(ctx, other, &info, tokens, &w));
    for (int i = 0; i < CONTEXT - 1 - CONTEXT / 2; i++)
        assert_ok(qsae_logits_writer_add(w, &row));
    assert_ok(qsae_logits_writer_finish(w));
    qsae_logits_writer_close(&w);
}

static void test_refused(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings good, s;
    settings(&good);
    good.kl_divergence_base = base;
    s = good;
    s.context = 128;
    refused(ctx, &s, QSAE_EMISMATCH, "n_ctx: the file has chunks of 64 tokens, context is 128");
    s = good;
    s.max_tokens = 0;
    s.shuffle = "1";
    refused(ctx, &s, QSAE_EMISMATCH, "chunk 0, position 1: the file has token");
    s = good;
    s.model = STORIES;
    s.text = NULL;
    if (access(STORIES "/config.json", R_OK) == 0)
        refused(ctx, &s, QSAE_EMISMATCH, "expected an id of the tokenizer (0..511)");
    s = good;
    s.score_from = 3;
    refused(ctx, &s, QSAE_EINVAL, "score_from");
    s = good;
    s.stride = 7;
    refused(ctx, &s, QSAE_EINVAL, "stride");
    make_narrow(ctx);
    s = good;
    s.kl_divergence_base = other;
    refused(ctx, &s, QSAE_EMISMATCH, "n_vocab: the file has 2047 tokens, the model 2048");
    unlink(other);
    s = good;
    s.cross_labels = 1;
    refused(ctx, &s, QSAE_EINVAL, "cross_labels exclude each other: it cuts the text");
    s = good;
    s.keep_tail = 1;
    refused(ctx, &s, QSAE_EINVAL, "keep_tail exclude each other");
    s = good;
    s.pack = QSAE_PACK_TL;
    refused(ctx, &s, QSAE_EINVAL, "pack exclude each other");
    s = good;
    s.context = 2;
    refused(ctx, &s, QSAE_EINVAL, "context: expected at least 3 tokens for llama.cpp's comparison, "
            "found 2");
    s = good;
    s.documents_to = 3;
    refused(ctx, &s, QSAE_EMISMATCH, "n_chunk: the file has 9 chunks, the text ");
    s = good;
    s.save_logits = other;
    s.shard_count = 2;
    refused(ctx, &s, QSAE_EINVAL, "shard_count with save_logits exclude each other");
    s = good;
    s.bos_policy = QSAE_BOS_NONE;
    refused(ctx, &s, QSAE_EINVAL, "BOS policy");
    s = good;
    s.save_logits = other;
    s.state = state_file;
    refused(ctx, &s, QSAE_EINVAL, "state");
    s = good;
    s.kl_divergence_base = DATA "/eval.jsonl";
    refused(ctx, &s, QSAE_EFORMAT, "_logits_");
    s = good;
    s.kl_divergence_base = NULL;
    s.text = NULL;
    refused(ctx, &s, QSAE_EINVAL, "text is missing");
    qsae_context_close(&ctx);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures), cmocka_unit_test(test_file), cmocka_unit_test(test_base),
        cmocka_unit_test(test_stop),    cmocka_unit_test(test_text), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_broken),  cmocka_unit_test(test_lost),
    };
    if (!mkdtemp(folder))
        return 1;
    snprintf(base, sizeof base, "%s/base.kld", folder);
    snprintf(other, sizeof other, "%s/other.kld", folder);
    snprintf(state_file, sizeof state_file, "%s/state", folder);
    const int failed =
        _cmocka_run_group_tests("llama_audit", tests, sizeof tests / sizeof tests[0], NULL, NULL);
    unlink(base);
    unlink(other);
    unlink(state_file);
    rmdir(folder);
    return failed;
}
