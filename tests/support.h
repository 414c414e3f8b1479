/* SPDX-License-Identifier: BSD-2-Clause */
/* What every test program shares: cmocka with its headers, assertions on statuses, seeded numbers.
 */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <qsae/qsae.h>

/* The call succeeds; else its message is shown. */
#define assert_ok(call) \
    do { \
        const int32_t st_ = (call); \
        if (st_ != QSAE_OK) \
            fail_msg("%s: %s: %s", #call, qsae_status_name(st_), qsae_error_message()); \
    } while (0)

/* The call fails with this status and a message that contains `part`. */
#define assert_fails(call, status, part) \
    do { \
        const int32_t st_ = (call); \
        if (st_ != (status)) \
            fail_msg("%s: expected %s, found %s (%s)", #call, qsae_status_name(status), \
                     qsae_status_name(st_), qsae_error_message()); \
        if (!strstr(qsae_error_message(), part)) \
            fail_msg("%s: message \"%s\" lacks \"%s\"", #call, qsae_error_message(), part); \
    } while (0)

/* QSAE_LONG_TESTS=1 in the environment: everything at full length; else what fits every change. */
static inline int full_length(void)
{
    const char *const v = getenv("QSAE_LONG_TESTS");
    return v && strcmp(v, "1") == 0;
}

static inline uint32_t next_random(uint32_t *state)
{
    uint32_t x = *state; /* xorshift32 */
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

/* Uniform in [-1, 1). */
static inline float next_float(uint32_t *state)
{
    return (float)(int32_t)next_random(state) * 0x1p-31f;
}

/* An allocator that fails once its cookie, the number of calls left, has run out. One thread. */
static inline void *failing_alloc(void *cookie, size_t size, size_t alignment)
{
    int64_t *const calls_left = cookie;
    const size_t rounded = (size + alignment - 1) / alignment * alignment;
    return (*calls_left)-- > 0 ? aligned_alloc(alignment, rounded) : NULL;
}

static inline void plain_free(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

static inline qsae_context *open_context(const char *cpu, int32_t threads)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.cpu = cpu;
    s.threads = threads;
    assert_ok(qsae_context_open(&s, &ctx));
    return ctx;
}

/* Levels of this machine, plain first; NULL beyond. */
static inline const char *level_name(int i)
{
    static const char *const names[] = { "c", "avx2", "avx512", "avx512bf16", "amx" };
    for (int n = 0; n < 5; n++)
        if (strcmp(names[n], qsae_cpu_best()) == 0)
            return i <= n ? names[i] : NULL;
    return NULL;
}

#endif
