/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * f32 products by BLIS: one thread, no small-matrix path, row-stored operands. BLIS picks its
 * kernel once per process; on a CPU it does not know it takes one without fused multiply-add, which
 * is not our product, so the probe compares bits before anything relies on it.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <blis.h>

#include "kernels/gemm.h"
#include "kernels/gemm_kernels.h"

/* Least level whose instructions a kernel family needs; -1: our levels say nothing about it. */
static int32_t arch_level(arch_t id)
{
    switch (id) {
    case BLIS_ARCH_SKX:
        return QSAE__LEVEL_AVX512;
    case BLIS_ARCH_HASWELL:
    case BLIS_ARCH_ZEN:
    case BLIS_ARCH_ZEN2:
    case BLIS_ARCH_ZEN3:
        return QSAE__LEVEL_AVX2;
    case BLIS_ARCH_GENERIC:
        return QSAE__LEVEL_C;
    default:
        return -1;
    }
}

int32_t qsae__blis_environment(int32_t best)
{
    const char *text = getenv("BLIS_ARCH_TYPE");
    if (!text)
        return QSAE_OK;
    char *end;
    errno = 0;
    const long id = strtol(text, &end, 10);
    if (errno || end == text || *end)
        return qsae__fail(QSAE_EENV, "BLIS_ARCH_TYPE: expected a number, found \"%s\"; unset it",
                          text);
    if (id == -1)
        return QSAE_OK;
    const int32_t level = id >= 0 && id < BLIS_NUM_ARCHS ? arch_level((arch_t)id) : -1;
    if (level < 0 || level > best)
        return qsae__fail(
            QSAE_EENV,
            "BLIS_ARCH_TYPE: %ld is no kernel that BLIS can run here (it would abort or "
            "crash); unset it",
            id);
    return QSAE_OK;
}

void qsae__blis_block(int64_t m, int64_t n, int64_t kb, const float *a, int64_t lda,
                      const float *tile, int64_t ld, float *c, int64_t ldc, bool add)
{
    rntm_t rntm;
    bli_rntm_init(&rntm);
    bli_rntm_set_num_threads(1, &rntm);
    bli_rntm_disable_l3_sup(&rntm);
    float one = 1.0f, beta = add ? 1.0f : 0.0f;
    /* BLIS does not write through a and b. */
    bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, m, n, kb, &one, (float *)(uintptr_t)a, lda,
                 1, (float *)(uintptr_t)tile, ld, 1, &beta, c, ldc, 1, NULL, &rntm);
}

bool qsae__blis_probe(char *name, size_t size, int32_t *level)
{
    enum { M = 37, N = 45, K = 256 };
    bli_init(); /* asking for the kernel before this aborts when BLIS_ARCH_TYPE is set */
    const arch_t id = bli_arch_query_id();
    *level = arch_level(id);
    float *a = malloc(sizeof(float) * (M * K + K * N + M * N));
    bool same = a != NULL;
    if (a) {
        float *b = a + M * K, *c = b + K * N;
        uint32_t seed = 1;
        for (int i = 0; i < M * K + K * N; i++) {
            seed = seed * 1664525u + 1013904223u;
            a[i] = (float)(int32_t)seed * 0x1p-31f;
        }
        qsae__blis_block(M, N, K, a, K, b, N, c, N, false);
        for (int i = 0; i < M && same; i++)
            for (int j = 0; j < N && same; j++) {
                float s = 0;
                for (int k = 0; k < K; k++)
                    s = fmaf(a[i * K + k], b[k * N + j], s);
                same = memcmp(&s, &c[i * N + j], sizeof s) == 0;
            }
    }
    free(a);
    snprintf(name, size, "blis-%s/%s%s", bli_info_get_version_str(), bli_arch_string(id),
             same ? "" : " (another summation order: not used)");
    return same && *level >= 0;
}
