/* SPDX-License-Identifier: BSD-2-Clause */
/* Floating-point modes of a host: rounding, flushing of subnormal numbers, exceptions that trap. */
#include <fenv.h>

#include "same.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#define MASKS 0x3f /* exceptions are flags in the low bits of MXCSR */
#define FLUSH 0x8040
typedef struct words {
    uint32_t mxcsr;
    uint16_t x87;
} words;

static words get(void)
{
    words w = { .mxcsr = _mm_getcsr() & ~(uint32_t)MASKS };
    __asm__ volatile("fnstcw %0" : "=m"(w.x87));
    return w;
}

static void flush(void)
{
    _mm_setcsr(_mm_getcsr() | FLUSH);
}

static bool equal(words a, words b)
{
    return a.mxcsr == b.mxcsr && a.x87 == b.x87;
}
#elif defined(__aarch64__)
typedef uint64_t words;

static words get(void)
{
    words w;
    __asm__ volatile("mrs %0, fpcr" : "=r"(w));
    return w;
}

static void flush(void)
{
    const words w = get() | 1u << 24;
    __asm__ volatile("msr fpcr, %0" : : "r"(w) : "memory");
}

static bool equal(words a, words b)
{
    return a == b;
}
#else
typedef int words;

static words get(void)
{
    return fegetround();
}

static void flush(void)
{
}

static bool equal(words a, words b)
{
    return a == b;
}
#endif

static const struct {
    const char *name;
    int rounding;
    bool flushes, traps;
} modes[SAME_MODES] = {
    { "default", FE_TONEAREST, false, false },
    { "flush to zero", FE_TONEAREST, true, false },
    { "upward", FE_UPWARD, false, false },
    { "downward", FE_DOWNWARD, false, false },
    { "toward zero", FE_TOWARDZERO, false, false },
    { "upward, flush to zero", FE_UPWARD, true, false },
    { "trapping", FE_TONEAREST, false, true },
    { "downward, flush to zero, trapping", FE_DOWNWARD, true, true },
};

const char *same_mode_name(int32_t mode)
{
    return modes[mode].name;
}

void same_mode_set(int32_t mode)
{
    fesetenv(FE_DFL_ENV);
    fesetround(modes[mode].rounding);
    if (modes[mode].flushes)
        flush();
    if (modes[mode].traps)
        feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
}

void same_mode_check(int32_t mode, const char *after)
{
    const words found = get();
    same_mode_set(mode);
    const words wanted = get();
    if (!equal(found, wanted)) {
        same_mode_set(0);
        fail_msg("%s: mode \"%s\" was not put back", after, modes[mode].name);
    }
}
