/* SPDX-License-Identifier: BSD-2-Clause */
/* Large blocks, and pages of mapped files that are given back. */
#include <unistd.h>

#include "../support.h"
#include "tests.h"

#include "core/core.h"

#define MIB ((size_t)1 << 20)

static size_t rounded_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

void test_large_blocks(void **state)
{
    static const size_t sizes[] = { 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 12345 };
    qsae_context *ctx = open_context(NULL, 1);
    (void)state;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            unsigned char *p = qsae__alloc(ctx, sizes[i]);
            assert_non_null(p);
            /* a multiple of 64 counts: what is asked for is rounded up to it */
            const bool large = rounded_up(sizes[i], 64) >= 4 * MIB;
            assert_int_equal((uintptr_t)p % (large ? 2 * MIB : 64), 0);
            memset(p, 7, sizes[i]);
            assert_int_equal(p[sizes[i] - 1], 7);
            qsae__free(ctx, p);
        }
    qsae_context_close(&ctx);
}

/* A caller's allocator sees the alignment that was promised, whatever the size. */
static void *strict_alloc(void *cookie, size_t size, size_t alignment)
{
    size_t *const largest = cookie;
    void *p = NULL;
    *largest = size > *largest ? size : *largest;
    return alignment == 64 && posix_memalign(&p, alignment, size) == 0 ? p : NULL;
}

void test_own_allocator(void **state)
{
    size_t largest = 0;
    qsae_context *ctx = NULL;
    qsae_context_settings s;
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.alloc = strict_alloc;
    s.free = plain_free;
    s.alloc_cookie = &largest;
    assert_ok(qsae_context_open(&s, &ctx));
    void *p = qsae__alloc(ctx, 8 * MIB);
    assert_non_null(p);
    assert_int_equal(largest, 8 * MIB);
    qsae__free(ctx, p);
    qsae_context_close(&ctx);
}

/* Resident KiB of the mapping at p. */
static long resident(const void *p)
{
    char line[512];
    long kib = -1;
    bool inside = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    if (!f)
        return -1;
    while (kib < 0 && fgets(line, sizeof line, f)) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
            inside = (uintptr_t)p >= begin && (uintptr_t)p < end;
        else if (inside)
            (void)sscanf(line, "Rss: %ld", &kib);
    }
    fclose(f);
    return kib;
}

static uint64_t sum(const qsae__file *f)
{
    uint64_t s = 0;
    for (uint64_t i = 0; i < f->size; i++)
        s += f->data[i] * (i | 1);
    return s;
}

static void check_release(int32_t mode, const char *path, size_t size, uint64_t want)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const long all = (long)(rounded_up(size, page) / 1024), one = (long)(page / 1024);
    qsae_context *ctx = NULL;
    qsae_context_settings s;
    qsae__file *f;
    qsae_context_settings_init(&s, sizeof s);
    s.files = mode;
    assert_ok(qsae_context_open(&s, &ctx));
    assert_ok(qsae__file_open(ctx, path, &f));
    assert_true(sum(f) == want);
    const bool measured = mode == QSAE_FILES_MAP && resident(f->data) == all;
    if (mode == QSAE_FILES_MAP && !measured)
        printf("skipped: resident pages of a mapping are not told here\n");
    /* outside the file, and nothing that fills a page */
    qsae__file_release(f, f->data + f->size, page);
    qsae__file_release(f, &size, sizeof size);
    qsae__file_release(f, f->data, 0);
    qsae__file_release(f, f->data + 1, 2 * page - 2);
    qsae__file_release(f, f->data + page, page - 1);
    assert_true(!measured || resident(f->data) == all);
    /* one page; the system may unmap more where it had mapped a huge page */
    qsae__file_release(f, f->data + 5 * page - 1, page + 2);
    assert_true(!measured || resident(f->data) <= all - one);
    assert_true(sum(f) == want);
    /* to the end, and beyond it */
    qsae__file_release(f, f->data + 2 * page, f->size - 2 * page);
    assert_true(!measured || resident(f->data) <= 2 * one);
    assert_true(sum(f) == want);
    qsae__file_release(f, f->data, SIZE_MAX);
    assert_true(!measured || resident(f->data) == 0);
    assert_true(sum(f) == want);
    qsae__file_close(&f);
    qsae_context_close(&ctx);
}

void test_release(void **state)
{
    const size_t size = 3 * MIB + 777;
    char folder[] = "/tmp/qsae-core-XXXXXX", path[64];
    unsigned char *data = malloc(size);
    qsae_context *ctx = open_context(NULL, 1);
    uint64_t want = 0;
    uint32_t seed = 12;
    (void)state;
    assert_non_null(data);
    for (size_t i = 0; i < size; i++) {
        data[i] = (unsigned char)next_random(&seed);
        want += data[i] * ((uint64_t)i | 1);
    }
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/data", folder);
    assert_ok(qsae__file_write(ctx, path, data, size));
    for (int32_t mode = QSAE_FILES_MAP; mode <= QSAE_FILES_READ; mode++)
        check_release(mode, path, size, want);
    unlink(path);
    rmdir(folder);
    free(data);
    qsae_context_close(&ctx);
}
