/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is in this model, SAE or tensor file, and will libqsae run it?
 * usage: inspect [--tensors] PATH...     exit status 0 if everything named would run
 */
#include <stdio.h>
#include <string.h>

#include <qsae/qsae.h>

static void print_tensors(qsae_context *context, const char *path)
{
    qsae_tensors *tensors;
    if (qsae_tensors_open(context, path, &tensors) != QSAE_OK) {
        printf("  tensors       %s\n", qsae_error_message());
        return;
    }
    for (int64_t i = 0; i < qsae_tensors_count(tensors); i++) {
        qsae_tensor_info t = { .struct_size = sizeof t };
        if (qsae_tensors_get(tensors, i, &t) != QSAE_OK)
            break;
        printf("  %-8s [", qsae_dtype_name(t.dtype));
        for (int32_t d = 0; d < t.rank; d++)
            printf("%s%lld", d ? ", " : "", (long long)t.shape[d]);
        printf("] %s\n", t.name);
    }
    qsae_tensors_close(&tensors);
}

/* 1 if it is a model that runs; 0 if not, with the reason in *status and the error message. */
static int print_model(qsae_context *context, const char *path, int32_t *status)
{
    qsae_weights *weights;
    qsae_model_info m = { .struct_size = sizeof m };
    *status = qsae_weights_open(context, path, &weights);
    if (*status != QSAE_OK)
        return 0;
    if ((*status = qsae_weights_get_info(weights, &m)) == QSAE_OK) {
        printf("%s: language model, runs\n", path);
        printf("  type          %s\n", m.type);
        printf("  parameters    %lld (%s)\n", (long long)m.parameters, qsae_dtype_name(m.dtype));
        printf("  layers        %lld of width %lld\n", (long long)m.layers, (long long)m.width);
        printf("  attention     %lld heads, %lld key/value heads of %lld\n", (long long)m.heads,
               (long long)m.kv_heads, (long long)m.head_dim);
        if (m.window)
            printf("  window        %lld tokens on sliding layers\n", (long long)m.window);
        printf("  MLP           %lld\n", (long long)m.mlp_width);
        printf("  vocabulary    %lld%s\n", (long long)m.vocab, m.tied ? ", tied head" : "");
        printf("  hash          %s\n", m.hash);
    }
    qsae_weights_close(&weights);
    return *status == QSAE_OK;
}

static int print_sae(qsae_context *context, const char *path, int32_t *status)
{
    qsae_sae *sae;
    qsae_sae_info s = { .struct_size = sizeof s };
    *status = qsae_sae_open(context, path, NULL, &sae);
    if (*status != QSAE_OK)
        return 0;
    if ((*status = qsae_sae_get_info(sae, &s)) == QSAE_OK) {
        printf("%s: sparse autoencoder, runs\n", path);
        printf("  format        %s\n", s.format);
        printf("  architecture  %s", s.architecture);
        if (s.k)
            printf(", k = %lld", (long long)s.k);
        printf("\n  width         %lld in, %lld features, %lld out\n", (long long)s.width,
               (long long)s.features, (long long)s.width_out);
        printf("  hook          %s\n", *s.hook ? s.hook : "(the files do not say)");
        printf("  input         normalize %s, b_dec %s\n", s.normalize,
               s.apply_b_dec ? "subtracted" : "not subtracted");
        if (s.context_size)
            printf("  trained on    %lld tokens of context%s\n", (long long)s.context_size,
                   s.prepend_bos == 1 ? ", BOS in front" : "");
        printf("  hash          %s\n", s.hash);
    }
    qsae_sae_close(&sae);
    return *status == QSAE_OK;
}

static int print_tokenizer(qsae_context *context, const char *path)
{
    qsae_tokenizer *tokenizer;
    qsae_tokenizer_info t = { .struct_size = sizeof t };
    const int32_t st = qsae_tokenizer_open(context, path, &tokenizer);
    if (st == QSAE_ENOENT)
        return 0;
    if (st != QSAE_OK) {
        printf("  tokenizer     does not run: %s\n", qsae_error_message());
        return 0;
    }
    if (qsae_tokenizer_get_info(tokenizer, &t) == QSAE_OK)
        printf("  tokenizer     %lld entries, BOS %d%s, EOS %d\n", (long long)t.vocab, (int)t.bos,
               t.adds_bos ? " (added)" : "", (int)t.eos);
    qsae_tokenizer_close(&tokenizer);
    return 1;
}

static int inspect(qsae_context *context, const char *path, int tensors)
{
    int32_t model, sae;
    char why[1024];
    int runs = print_model(context, path, &model);
    snprintf(why, sizeof why, "%s", qsae_error_message());
    if (runs) {
        print_tokenizer(context, path);
    } else if (print_sae(context, path, &sae)) {
        runs = 1;
    } else {
        printf("%s: will not run\n", path);
        printf("  as a model    %s: %s\n", qsae_status_message(model), why);
        printf("  as an SAE     %s: %s\n", qsae_status_message(sae), qsae_error_message());
    }
    if (tensors)
        print_tensors(context, path);
    return runs;
}

int main(int argc, char **argv)
{
    int tensors = 0, first = 1, all = 1;
    if (argc > 1 && strcmp(argv[1], "--tensors") == 0) {
        tensors = 1;
        first = 2;
    }
    if (first >= argc || (argv[first][0] == '-' && argv[first][1])) {
        const int help = first < argc && strcmp(argv[first], "--help") == 0;
        fprintf(help ? stdout : stderr, "usage: %s [--tensors] PATH...\n", argv[0]);
        return help ? 0 : 2;
    }
    qsae_context *context;
    if (qsae_context_open(NULL, &context) != QSAE_OK) {
        fprintf(stderr, "inspect: %s\n", qsae_error_message());
        return 1;
    }
    for (int i = first; i < argc; i++)
        all &= inspect(context, argv[i], tensors);
    qsae_context_close(&context);
    return all ? 0 : 1;
}
