/* SPDX-License-Identifier: BSD-2-Clause */
/* A trained model on real text: cross-entropy against a binary64 reference. */
#include "model_test.h"

#define FOLDER QSAE_TEST_SHARED "/data/stories260k"

static void test_cross_entropy(void **state)
{
    (void)state;
    if (!qsae__file_exists(FOLDER "/config.json")) {
        print_message("skipped: no " FOLDER "\n");
        skip();
    }
    qsae_context *ctx = test_context(2, NULL);
    qsae_model *m = test_model(ctx, FOLDER, NULL, QSAE_COMPUTE_F32, 0);
    qsae_tokenizer *tokenizer = NULL;
    qsae_corpus *corpus = NULL;
    qsae_corpus_settings s;
    qsae_corpus_info info = { .struct_size = sizeof info };
    OK(qsae_tokenizer_open(ctx, FOLDER, &tokenizer));
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = 512;
    s.bos_policy = QSAE_BOS_DOC_START;
    s.keep_tail = 1;
    s.cross_labels = 1;
    OK(qsae_corpus_open(ctx, tokenizer, FOLDER "/tinystories-valid.txt", &s, &corpus));
    OK(qsae_corpus_get_info(corpus, &info));
    assert_int_equal(info.stream_tokens, 44239);
    double sum = 0;
    int64_t n = 0;
    for (int64_t c = 0; c < info.chunks; c++) {
        const int32_t *ids, *labels;
        float nll[512];
        int64_t tokens;
        qsae_pass p;
        OK(qsae_corpus_chunk(corpus, c, &ids, &labels, NULL, &tokens));
        qsae_pass_init(&p, sizeof p);
        p.ids = ids;
        p.labels = labels;
        p.n_seq = 1;
        p.n_tokens = tokens;
        p.nll = nll;
        OK(qsae_model_forward(m, &p));
        for (int64_t t = 0; t < tokens; t++) {
            if (labels[t] == -100)
                continue;
            sum += (double)nll[t];
            n++;
        }
    }
    assert_int_equal(n, 44238);
    if (!(fabs(sum / (double)n - 1.24450297786) < 1e-6))
        fail_msg("cross-entropy %.11f, expected 1.24450297786", sum / (double)n);
    qsae_corpus_close(&corpus);
    qsae_tokenizer_close(&tokenizer);
    qsae_model_close(&m);
    qsae_context_close(&ctx);
}

const struct CMUnitTest stories_tests[] = {
    cmocka_unit_test(test_cross_entropy),
};
const size_t n_stories_tests = sizeof stories_tests / sizeof stories_tests[0];
