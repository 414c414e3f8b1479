/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/packed.h"

#include "kernels/packed_parts.h"

/* slab and block: doc/performance.md says what they were measured or reckoned by. */
static const qsae__packed_kernel levels[] = {
    [QSAE__LEVEL_C] = { NULL, qsae__packed_s8_c, &qsae__pack_c, false, 8, 1 << 16,
                         8, 1 << 16, 256 },
#if defined(__x86_64__)
    [QSAE__LEVEL_AVX2] = { NULL, qsae__packed_s8_avx2, &qsae__pack_avx2, false, 16, 1 << 18,
                            16, 1 << 18, 256 },
    [QSAE__LEVEL_AVX512] = { NULL, qsae__packed_s8_avx512, &qsae__pack_avx512, false, 16,
                              1 << 18, 16, 1 << 18, 256 },
    [QSAE__LEVEL_AVX512BF16] = { qsae__packed_bf16_dp, qsae__packed_s8_vnni, &qsae__pack_avx512,
                                 true, 40, 1 << 19, 40, 1 << 18, 512 },
    /* Strip pair and panel of a slab and two blocks of c, 20 + 20 + 8 KiB, fill a 48 KiB first
     * cache, so that the pair stays there from panel to panel. 512 columns of this slab and the
     * next, 2 x 320 KiB, and 512 rows of c, 1 MiB, leave room in 2 MiB for strips to come. */
    [QSAE__LEVEL_AMX] = { qsae__packed_bf16_amx, qsae__packed_s8_amx, &qsae__pack_avx512, false, 10,
                          5 << 16, 10, 5 << 16, 512 },
#endif
};

const qsae__packed_kernel *qsae__packed_level(int32_t level)
{
    const int32_t last = (int32_t)(sizeof levels / sizeof levels[0]) - 1;
    return &levels[qsae__min_i64(level, last)];
}

const qsae__packed_kernel *qsae__packed_get(const qsae_context *ctx)
{
    return qsae__packed_level(ctx->level);
}
