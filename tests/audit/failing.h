/* SPDX-License-Identifier: BSD-2-Clause */
/* What tests of states whose memory fails share: a context, a folder in memory, every call once. */
#ifndef TESTS_AUDIT_FAILING_H
#define TESTS_AUDIT_FAILING_H

#include <unistd.h>

#include "../faults/inject.h"
#include "../support.h"
#include "audit/state.h"

static qsae_context *ctx;
static char folder[128];

/* A path there, valid until the next 32 calls. */
static const char *in(const char *name)
{
    static char paths[32][192];
    static int next;
    char *const p = paths[next++ % 32];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static uint64_t hash_of(const char *path)
{
    qsae__file *f = NULL;
    uint64_t h = 0;
    assert_ok(qsae__file_open(ctx, path, &f));
    for (uint64_t i = 0; i < f->size; i++)
        h = h * 1099511628211u + f->data[i];
    qsae__file_close(&f);
    return h;
}

/* Memory fails at every call under `run`, which makes a file: out of memory and the old file, or
 * the new one, of that name. Returns how many calls there are. */
static int64_t fail_each(const char *what, const char *name, int32_t (*run)(void *cookie),
                         void *cookie)
{
    static const char old[] = "old";
    char path[192];
    snprintf(path, sizeof path, "%s", in(name));
    for (int i = 0; i < 2; i++) /* what is set up once */
        assert_ok(run(cookie));
    const uint64_t want = hash_of(path);
    int64_t calls = 1;
    for (int64_t at = 0; at <= calls; at++) {
        assert_ok(qsae__file_write(ctx, path, old, 3));
        const int64_t blocks = inject_blocks();
        inject_arm(INJECT_MEMORY, at, false, 0);
        const int32_t st = run(cookie);
        calls = inject_disarm();
        if (st != QSAE_OK && st != QSAE_ENOMEM)
            fail_msg("%s, call %lld: %s (%s)", what, (long long)at, qsae_status_name(st),
                     qsae_error_message());
        if (st != QSAE_OK && !qsae_error_message()[0])
            fail_msg("%s, call %lld: no message", what, (long long)at);
        if (inject_blocks() - blocks > 0)
            fail_msg("%s, call %lld: %lld blocks are left", what, (long long)at,
                     (long long)(inject_blocks() - blocks));
        const uint64_t have = hash_of(path);
        assert_true((have == want) == (st == QSAE_OK));
    }
    return calls;
}

static int run_failing(const char *name, const struct CMUnitTest *tests, size_t n)
{
    const char *const given = getenv("TMPDIR");
    char command[160];
    qsae_context_settings s;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    snprintf(folder, sizeof folder, "%s/qsae-audit-XXXXXX",
             given                           ? given
             : access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                             : "/tmp");
    if (!mkdtemp(folder) || qsae_context_open(&s, &ctx) != QSAE_OK)
        return 1;
    const int failed = _cmocka_run_group_tests(name, tests, n, NULL, NULL);
    qsae_context_close(&ctx);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) == 0 ? failed : 1;
}

#endif
