/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/context.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

int32_t qsae__cpu_level(void)
{
    unsigned a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return QSAE__LEVEL_C;
    const bool fma = c >> 12 & 1, osxsave = c >> 27 & 1, avx = c >> 28 & 1, f16c = c >> 29 & 1;
    if (!osxsave || !avx || !fma || !f16c || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return QSAE__LEVEL_C;
    const uint64_t os = xgetbv0();
    if ((os & 6) != 6 || !(b7 >> 5 & 1))
        return QSAE__LEVEL_C;
    const bool avx512 = (b7 >> 16 & 1) && (b7 >> 17 & 1) && (b7 >> 30 & 1) && (b7 >> 31 & 1);
    if (!avx512 || (os & 0xe6) != 0xe6)
        return QSAE__LEVEL_AVX2;
    unsigned a71 = 0, t0, t1, t2;
    __get_cpuid_count(7, 1, &a71, &t0, &t1, &t2);
    if (!(c7 >> 11 & 1) || !(a71 >> 5 & 1))
        return QSAE__LEVEL_AVX512;
    /* Tile data needs Linux's permission (Documentation/arch/x86/xstate.rst): once for the process,
     * so it holds for threads that exist already, and children of fork, too. Refused, as before
     * Linux 5.16 or when a thread's signal stack has no room for tiles: no AMX. */
    const bool amx =
        (d7 >> 22 & 1) && (d7 >> 24 & 1) && (d7 >> 25 & 1) && (os & 0x60000) == 0x60000;
    if (!amx || syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0)
        return QSAE__LEVEL_AVX512BF16;
    return QSAE__LEVEL_AMX;
}
#else
int32_t qsae__cpu_level(void)
{
    return QSAE__LEVEL_C;
}
#endif

static const char *const names[QSAE__LEVEL_COUNT] = { "c", "avx2", "avx512", "avx512bf16", "amx" };

const char *qsae__level_name(int32_t level)
{
    return level >= 0 && level < QSAE__LEVEL_COUNT ? names[level] : "?";
}

int32_t qsae__level_from_name(const char *name)
{
    for (int32_t i = 0; i < QSAE__LEVEL_COUNT; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

const char *qsae_cpu_best(void)
{
    return qsae__level_name(qsae__cpu_level());
}
