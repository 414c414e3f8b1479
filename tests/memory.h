/* SPDX-License-Identifier: BSD-2-Clause */
/* An allocator that fails once `left` calls have been made, and counts what is not freed. */
#ifndef TESTS_MEMORY_H
#define TESTS_MEMORY_H

#include "support.h"

struct limited {
    int64_t left, blocks;
};

static inline void *limited_alloc(void *cookie, size_t size, size_t alignment)
{
    struct limited *const l = cookie;
    const size_t rounded = (size + alignment - 1) / alignment * alignment;
    void *const p = l->left-- > 0 ? aligned_alloc(alignment, rounded) : NULL;
    l->blocks += p != NULL;
    return p;
}

static inline void limited_free(void *cookie, void *p)
{
    struct limited *const l = cookie;
    l->blocks -= p != NULL;
    free(p);
}

/* Opens and closes something in a context of `l`; returns the status. */
typedef int32_t limited_run(qsae_context *ctx, const void *what);

/* Every allocation under `run` fails once: QSAE_ENOMEM, nothing is left over; then it succeeds. */
static inline void check_every_allocation(limited_run *run, const void *what, int64_t least)
{
    struct limited l = { INT64_MAX, 0 };
    int64_t n = 0;
    qsae_context_settings s;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.cpu = "c";
    s.alloc = limited_alloc;
    s.free = limited_free;
    s.alloc_cookie = &l;
    for (int32_t st = QSAE_ENOMEM; st != QSAE_OK; n++) {
        qsae_context *ctx = NULL;
        l.left = INT64_MAX;
        assert_ok(qsae_context_open(&s, &ctx));
        l.left = n;
        st = run(ctx, what);
        l.left = INT64_MAX;
        if (st != QSAE_OK && st != QSAE_ENOMEM)
            fail_msg("without memory at call %d: %s (%s)", (int)n, qsae_status_name(st),
                     qsae_error_message());
        qsae_context_close(&ctx);
        assert_int_equal(l.blocks, 0);
    }
    assert_true(n > least);
}

#endif
