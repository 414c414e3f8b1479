/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/ggml.h"

#include "kernels/ggml_parts.h"

extern const qsae__ggml_ops qsae__ggml_ops_c;
#if defined(__x86_64__)
extern const qsae__ggml_ops qsae__ggml_ops_avx2, qsae__ggml_ops_avx512;
#endif

const int8_t qsae__iq4_values[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                      1, 13, 25, 38, 53, 69, 89, 113 };
const int8_t qsae__e2m1_values[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

const qsae__ggml_ops *qsae__ggml_level(int32_t level)
{
#if defined(__x86_64__)
    if (level >= QSAE__LEVEL_AVX512)
        return &qsae__ggml_ops_avx512;
    if (level >= QSAE__LEVEL_AVX2)
        return &qsae__ggml_ops_avx2;
#endif
    (void)level;
    return &qsae__ggml_ops_c;
}

const qsae__ggml_ops *qsae__ggml_get(const qsae_context *ctx)
{
    return qsae__ggml_level(ctx->level);
}

bool qsae__ggml_known(int32_t dtype)
{
    switch (dtype) {
#define KNOWN(name, number, text, elements, bytes) case number:
        QSAE_BLOCK_DTYPE_MAP(KNOWN)
#undef KNOWN
        return true;
    default:
        return false;
    }
}

bool qsae__ggml_encodes(int32_t dtype)
{
    switch (dtype) {
    case QSAE_IQ1_S:
    case QSAE_IQ1_M:
    case QSAE_IQ2_XXS:
    case QSAE_IQ2_XS:
    case QSAE_IQ2_S:
    case QSAE_IQ3_XXS:
    case QSAE_IQ3_S:
        return false;
    default:
        return qsae__ggml_known(dtype);
    }
}

/* 2^(e - 128): subnormal for 0 and 1. */
float qsae__e8m0_half(uint8_t e)
{
    return qsae__f32_from_bits(e < 2 ? 0x200000u << e : (uint32_t)(e - 1) << 23);
}

/* e4m3 without sign, bias 8; the sign is ignored. Code 127, NaN in e4m3, is 0 here. */
float qsae__ue4m3_half(uint8_t e)
{
    const int exponent = e >> 3 & 15, mantissa = e & 7;
    if (e == 127)
        return 0;
    if (exponent == 0)
        return (float)mantissa * 0x1p-10f;
    return (float)(8 + mantissa) * qsae__f32_from_bits((uint32_t)(exponent + 127 - 11) << 23);
}
