/* SPDX-License-Identifier: BSD-2-Clause */
/* A user's program, C11 and C++17: an SAE on rows of its own, a metric, and one refusal. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <qsae/qsae.h>

#define ROWS 64

static int check(int32_t status, const char *what)
{
    if (status != QSAE_OK)
        fprintf(stderr, "%s: %s: %s\n", what, qsae_status_name(status), qsae_error_message());
    return status == QSAE_OK;
}

static int measure(qsae_context *context, const char *path)
{
    qsae_sae *sae = NULL;
    qsae_metric *metric = NULL;
    qsae_sae_info info;
    double fvu = NAN;
    info.struct_size = sizeof info;
    if (!check(qsae_sae_open(context, path, NULL, &sae), "sae") ||
        !check(qsae_sae_get_info(sae, &info), "info") ||
        !check(qsae_metric_open_reconstruction(context, info.width, info.features, NULL, &metric),
               "metric"))
        return 1;
    float *x = (float *)calloc((size_t)(ROWS * info.width), sizeof(float));
    float *y = (float *)calloc((size_t)(ROWS * info.width), sizeof(float));
    for (int64_t i = 0; x && i < ROWS * info.width; i++)
        x[i] = (float)((i * 7919) % 1009) / 1009.0f - 0.5f;
    qsae_rows in = { sizeof in, x, ROWS, info.width, info.width, QSAE_F32, 0 };
    qsae_rows out = in;
    out.data = y;
    const int ok = x && y && check(qsae_sae_reconstruct(sae, &in, &out), "reconstruct") &&
                   check(qsae_metric_update_reconstruction(metric, NULL, &in, &out, NULL),
                         "update") &&
                   check(qsae_metric_get(metric, "fvu_dim", &fvu), "get");
    free(x);
    free(y);
    qsae_metric_close(&metric);
    qsae_sae_close(&sae);
    printf("fvu_dim %.17g\n", fvu);
    return ok && fvu > 0 && isfinite(fvu) ? 0 : 1;
}

int main(int argc, char **argv)
{
    qsae_context *context = NULL;
    qsae_audit *audit = NULL;
    if (argc != 2 || !check(qsae_context_open(NULL, &context), "context"))
        return 1;
    int code = measure(context, argv[1]);
    /* Brings in every part of the static library. */
    if (qsae_audit_open(context, NULL, &audit) != QSAE_EINVAL || audit)
        code = 1;
    if (qsae_version_api() >> 16 != QSAE_API_VERSION_MAJOR)
        code = 1;
    qsae_context_close(&context);
    return code;
}
