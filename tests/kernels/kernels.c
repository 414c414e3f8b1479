/* SPDX-License-Identifier: BSD-2-Clause */
#include "../support.h"
#include "kernels.h"

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm_levels), cmocka_unit_test(test_gemm_sources),
        cmocka_unit_test(test_gemm_threads), cmocka_unit_test(test_gemm_blis),
        cmocka_unit_test(test_ops_accuracy), cmocka_unit_test(test_ops_levels),
        cmocka_unit_test(test_ops_special), cmocka_unit_test(test_half),
        cmocka_unit_test(test_convert),
    };
    for (int i = 0; i < 5; i++) {
        static const char *const names[] = { "c", "avx2", "avx512", "avx512bf16", "amx" };
        if (!level_name(i))
            printf("skipped: level %s is not on this machine (best: %s)\n", names[i],
                   qsae_cpu_best());
    }
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
