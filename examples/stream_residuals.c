/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An engine of your own produces residual rows; libqsae runs the SAE on them and keeps the score.
 * usage: stream_residuals SAE ROWS.f32     (raw little-endian float32 rows of the SAE's width)
 * Without ROWS, uniform noise is streamed, which no SAE reconstructs well.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

#define ROWS 256 /* rows of a slab: as many as your engine has at hand */

#define CHECK(call) \
    do { \
        if ((call) != QSAE_OK) { \
            fprintf(stderr, "stream_residuals: %s\n", qsae_error_message()); \
            return 1; \
        } \
    } while (0)

/* Stand-in for an engine: one slab of rows, its number of rows, 0 at the end. */
static int64_t next_rows(FILE *file, float *x, int64_t width, int64_t slab)
{
    if (file)
        return (int64_t)fread(x, sizeof *x * (size_t)width, ROWS, file);
    static unsigned seed = 1;
    for (int64_t i = 0; slab < 8 && i < ROWS * width; i++)
        x[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) / 8388608.0f - 1.0f;
    return slab < 8 ? ROWS : 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return printf("libqsae %s\n", qsae_version()) < 0;
    const int help = argc == 2 && strcmp(argv[1], "--help") == 0;
    if (help || argc < 2 || argc > 3 || argv[1][0] == '-') {
        fprintf(help ? stdout : stderr, "usage: stream_residuals SAE [ROWS.f32]\n"
                "FVU of an SAE on raw little-endian float32 rows, or on noise\n"
                "example: stream_residuals examples/data/tiny-gemma3-sae\n");
        return help ? 0 : 2;
    }
    qsae_context *context;
    qsae_sae *sae;
    qsae_metric *metric;
    qsae_sae_info info = { .struct_size = sizeof info };
    CHECK(qsae_context_open(NULL, &context));
    CHECK(qsae_sae_open(context, argv[1], NULL, &sae));
    CHECK(qsae_sae_get_info(sae, &info));
    CHECK(qsae_metric_open_reconstruction(context, info.width, info.features, NULL, &metric));

    const size_t floats = (size_t)info.width * ROWS;
    float *x = malloc(floats * sizeof *x), *y = malloc(floats * sizeof *y);
    FILE *file = NULL;
    if (!x || !y) {
        fprintf(stderr, "stream_residuals: out of memory\n");
        return 1;
    }
    while (argc > 2 && !(file = fopen(argv[2], "rb")) && errno == EINTR)
        ;
    if (argc > 2 && !file) {
        fprintf(stderr, "stream_residuals: %s: %s\n", argv[2], strerror(errno));
        return 1;
    }
    int64_t n, tokens = 0;
    for (int64_t slab = 0; (n = next_rows(file, x, info.width, slab)) > 0; slab++) {
        qsae_rows in = { sizeof in, x, n, info.width, info.width, QSAE_F32, 0 }, out = in;
        double fvu;
        out.data = y;
        CHECK(qsae_sae_reconstruct(sae, &in, &out));
        CHECK(qsae_metric_update_reconstruction(metric, NULL, &in, &out, NULL));
        CHECK(qsae_metric_get(metric, "fvu_dim", &fvu));
        printf("%8lld tokens  FVU %.6f\n", (long long)(tokens += n), fvu);
    }
    const int bad = (file && ferror(file)) || fflush(stdout) != 0 || ferror(stdout);
    if (bad)
        fprintf(stderr, "stream_residuals: not all rows could be read, or all lines written\n");
    free(x);
    free(y);
    if (file)
        fclose(file);
    qsae_metric_close(&metric);
    qsae_sae_close(&sae);
    qsae_context_close(&context);
    return bad;
}
