/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdlib.h>

#include <blis.h>

#include "../support.h"
#include "kernels.h"

/* With the argument "blis", BLIS is told to take its AVX2 kernel, so that its path runs on machines
 * whose CPU it does not know. */
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "blis") == 0 && level_name(1)) {
        char number[16];
        snprintf(number, sizeof number, "%d", (int)BLIS_ARCH_HASWELL);
        setenv("BLIS_ARCH_TYPE", number, 1);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm_levels), cmocka_unit_test(test_gemm_sources),
        cmocka_unit_test(test_gemm_threads), cmocka_unit_test(test_gemm_blis),
        cmocka_unit_test(test_ops_accuracy), cmocka_unit_test(test_ops_levels),
        cmocka_unit_test(test_ops_special), cmocka_unit_test(test_half),
        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_pack_levels), cmocka_unit_test(test_pack_split_exact),
        cmocka_unit_test(test_packed_bf16_order), cmocka_unit_test(test_packed_bf16_cuts),
        cmocka_unit_test(test_packed_bf16_accuracy),
        cmocka_unit_test(test_packed_amx_bf16), cmocka_unit_test(test_packed_amx_s8),
        cmocka_unit_test(test_packed_amx_cuts), cmocka_unit_test(test_packed_amx_error),
        cmocka_unit_test(test_packed_amx_refused), cmocka_unit_test(test_packed_amx_product),
        cmocka_unit_test(test_packed_s8), cmocka_unit_test(test_packed_s8_start),
        cmocka_unit_test(test_packed_s8_cuts), cmocka_unit_test(test_packed_s8_longest),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_int8_rows), cmocka_unit_test(test_int8_scale),
    };
    for (int i = 0; i < 5; i++) {
        static const char *const names[] = { "c", "avx2", "avx512", "avx512bf16", "amx" };
        if (!level_name(i))
            printf("skipped: level %s is not on this machine (best: %s)\n", names[i],
                   qsae_cpu_best());
    }
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
