/* SPDX-License-Identifier: BSD-2-Clause */
/* Decisions of core/file.c and core/checked.h, one by one. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../support.h"
#include "tests.h"

#include "core/core.h"

static qsae_context *open_mode(int32_t mode)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.files = mode;
    s.threads = 1;
    assert_ok(qsae_context_open(&s, &ctx));
    return ctx;
}

void test_paths(void **state)
{
    char folder[] = "/tmp/qsae-paths-XXXXXX", path[256], wide[400], **names;
    int64_t n = 7;
    bool there = true;
    (void)state;
    qsae_context *ctx = open_mode(QSAE_FILES_MAP);
    qsae__file *f = NULL;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/data", folder);
    assert_ok(qsae__file_write(ctx, path, "x", 1));
    snprintf(path, sizeof path, "%s/data/below", folder); /* ENOTDIR is an absent file too */
    assert_fails(qsae__file_open(ctx, path, &f), QSAE_ENOENT, "cannot open");
    assert_false(qsae__file_exists(path));
    assert_ok(qsae__path_look(path, &there));
    assert_false(there);
    assert_false(qsae__folder_exists(path));
    memset(wide, 'w', sizeof wide - 1);
    wide[sizeof wide - 1] = 0;
    assert_false(qsae__file_exists(wide));
    assert_ok(qsae__path_look(wide, &there));
    assert_false(there);
    assert_fails(qsae__file_open(ctx, wide, &f), QSAE_EIO, "cannot open");
    snprintf(path, sizeof path, "%s/loop", folder); /* what cannot be looked at may be there */
    assert_int_equal(symlink(path, path), 0);
    assert_true(qsae__file_exists(path));
    assert_fails(qsae__path_look(path, &there), QSAE_EIO, "cannot stat");
    assert_false(qsae__folder_exists(path));
    assert_fails(qsae__file_open(ctx, path, &f), QSAE_EIO, "cannot open");
    unlink(path);
    assert_ok(qsae__path_look(folder, &there));
    assert_true(there);
    assert_false(qsae__file_exists(folder));
    assert_true(qsae__folder_exists(folder));
    snprintf(path, sizeof path, "%s/data", folder);
    assert_true(qsae__file_exists(path));
    there = false;
    assert_ok(qsae__path_look(path, &there));
    assert_true(there);
    assert_false(qsae__folder_exists(path));
    assert_fails(qsae__folder_list(ctx, path, &names, &n), QSAE_ENOENT, "cannot open");
    assert_true(names == NULL && n == 0);
    unlink(path);
    assert_ok(qsae__folder_list(ctx, folder, &names, &n));
    assert_true(names == NULL && n == 0);
    for (int i = 9; i >= 0; i--) { /* in the order of their bytes, folders left out */
        snprintf(path, sizeof path, "%s/%d", folder, i);
        assert_true(i == 5 ? mkdir(path, 0700) == 0
                           : qsae__file_write(ctx, path, "", 0) == QSAE_OK);
    }
    assert_ok(qsae__folder_list(ctx, folder, &names, &n));
    assert_int_equal(n, 9);
    for (int i = 0; i < 9; i++)
        assert_int_equal(names[i][0], '0' + i + (i >= 5));
    qsae__folder_list_free(ctx, names, n);
    for (int i = 0; i < 10; i++) {
        snprintf(path, sizeof path, "%s/%d", folder, i);
        assert_int_equal(remove(path), 0);
    }
    rmdir(folder);
    static const char *const joins[][3] = { { "", "x", "x" },
                                            { "a", "x", "a/x" },
                                            { "a/", "x", "a/x" },
                                            { "/", "", "/" },
                                            { "a", "", "a/" } };
    for (size_t i = 0; i < sizeof joins / sizeof joins[0]; i++) {
        char *const joined = qsae__path_join(ctx, joins[i][0], joins[i][1]);
        assert_string_equal(joined, joins[i][2]);
        qsae__free(ctx, joined);
    }
    static const char *const plain[] = { "...", "..a", ".a", " ", "~", "\x80", "a b" };
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        assert_true(qsae__plain_name(plain[i]));
    static const char *const wrong[] = { "", ".", "..", "/", "a/", "\\", "\x1f", "a\x7f" };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(qsae__plain_name(wrong[i]));
    qsae__file_close(NULL);
    qsae_context_close(&ctx);
}

/* How many of n pages at p are in this process. */
static int resident(const void *p, int n, size_t page)
{
    unsigned char there[16] = { 0 };
    int sum = 0;
    assert_int_equal(mincore((void *)(uintptr_t)p, (size_t)n * page, there), 0);
    for (int i = 0; i < n; i++)
        sum += there[i] & 1;
    return sum;
}

/* Places that are no part of the file, files of another kind, and files that were replaced. */
void test_places(void **state)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = 8 * page + 100;
    char folder[] = "/tmp/qsae-places-XXXXXX", path[256], other[256];
    unsigned char *const data = malloc(size);
    (void)state;
    assert_non_null(data);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/data", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)(i * 7 + i / page);
    for (int32_t mode = QSAE_FILES_MAP; mode <= QSAE_FILES_READ; mode++) {
        qsae_context *ctx = open_mode(mode);
        qsae__file *f = NULL;
        assert_ok(qsae__file_write(ctx, path, data, size));
        assert_ok(qsae__file_open(ctx, path, &f));
        assert_int_equal(f->mapped, mode == QSAE_FILES_MAP);
        static const size_t spans[][2] = { { 0, 1 }, { 0, 1 << 20 }, { 100, 5 }, { 100, 20000 } };
        errno = 77;
        for (size_t i = 0; i < 4; i++) {
            qsae__file_expect(f, f->data + spans[i][0], spans[i][1]);
            qsae__file_release(f, f->data + spans[i][0], spans[i][1]);
        }
        qsae__file_expect(f, data, size);  /* elsewhere */
        qsae__file_release(f, data, size);
        qsae__file_expect(f, (const void *)((uintptr_t)f->data - 1), 5);
        qsae__file_release(f, (const void *)((uintptr_t)f->data - 1), 5);
        qsae__file_expect(f, f->data + size, 5);
        qsae__file_release(f, f->data + size, 5);
        assert_int_equal(errno, 77);
        assert_memory_equal(f->data, data, size);
        assert_true(resident(f->data - (uintptr_t)f->data % page, 8, page) > 0);
        int fd = qsae__file_reopen(f);
        assert_int_equal(fd >= 0, mode == QSAE_FILES_MAP);
        unsigned char byte = 0;
        if (fd >= 0) {
            assert_int_equal(pread(fd, &byte, 1, 5), 1);
            assert_int_equal(byte, data[5]);
            close(fd);
        }
        assert_int_equal(errno, 77);
        /* another file of the same size in its place; then one of another size; then none */
        assert_ok(qsae__file_write(ctx, other, data, size));
        assert_int_equal(rename(other, path), 0);
        assert_int_equal(qsae__file_reopen(f), -1);
        qsae__file_close(&f);
        assert_ok(qsae__file_open(ctx, path, &f));
        assert_int_equal(truncate(path, (off_t)size + 1), 0);
        assert_int_equal(qsae__file_reopen(f), -1);
        assert_int_equal(truncate(path, (off_t)size), 0);
        fd = qsae__file_reopen(f);
        assert_int_equal(fd >= 0, mode == QSAE_FILES_MAP);
        if (fd >= 0)
            close(fd);
        unlink(path);
        assert_int_equal(qsae__file_reopen(f), -1);
        qsae__file_close(&f);
        assert_null(f);
        qsae__file_close(&f);
        /* one that lies on another device */
        qsae__file elsewhere = { .path = (char *)(uintptr_t)"/proc/self/status", .mapped = true };
        assert_int_equal(qsae__file_reopen(&elsewhere), -1);
        qsae_context_close(&ctx);
    }
    rmdir(folder);
    free(data);
}

/* More than is read at once: 16 MiB and some. */
void test_long_file(void **state)
{
    const size_t size = ((size_t)1 << 24) + 3;
    char path[] = "/tmp/qsae-long-XXXXXX";
    const int fd = mkstemp(path);
    (void)state;
    qsae_context *ctx = open_mode(QSAE_FILES_READ);
    qsae__file *f = NULL;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, "abc", 3, (off_t)size - 3), 3);
    assert_int_equal(pwrite(fd, "xyz", 3, (off_t)size - 6), 3);
    close(fd);
    /* a file of sysfs says it has a page and ends before */
    static const char sys[] = "/sys/kernel/mm/transparent_hugepage/enabled";
    if (access(sys, R_OK) == 0)
        assert_fails(qsae__file_open(ctx, sys, &f), QSAE_EIO, "became shorter while it was read");
    assert_ok(qsae__file_open(ctx, path, &f));
    assert_true(f->size == size && f->data[0] == 0);
    assert_memory_equal(f->data + size - 6, "xyzabc", 6);
    qsae__file_close(&f);
    unlink(path);
    qsae_context_close(&ctx);
}

/* The last values that fit and the first that do not. */
void test_size_limits(void **state)
{
    (void)state;
    uint64_t u = 7;
    int64_t i = 7;
    size_t s = 7;
    assert_true(qsae__mul_u64(UINT64_MAX / 3, 3, &u) && u == UINT64_MAX);
    assert_false(qsae__mul_u64(UINT64_MAX / 3 + 1, 3, &u));
    assert_true(qsae__mul_u64(0, UINT64_MAX, &u) && u == 0);
    assert_true(qsae__add_u64(UINT64_MAX - 1, 1, &u) && u == UINT64_MAX);
    assert_false(qsae__add_u64(UINT64_MAX, 1, &u));
    assert_true(qsae__mul_i64(INT64_MAX / 7, 7, &i) && i == INT64_MAX);
    assert_false(qsae__mul_i64(INT64_MAX / 7 + 1, 7, &i));
    assert_true(qsae__mul_i64(INT64_MIN / 2, 2, &i) && i == INT64_MIN);
    assert_true(qsae__mul_i64(-3, -4, &i) && i == 12);
    assert_false(qsae__mul_i64(INT64_MIN / 2 - 1, 2, &i));
    assert_true(qsae__add_i64(INT64_MAX - 1, 1, &i) && i == INT64_MAX);
    assert_false(qsae__add_i64(INT64_MAX, 1, &i));
    assert_true(qsae__add_i64(INT64_MIN + 1, -1, &i) && i == INT64_MIN);
    assert_false(qsae__add_i64(INT64_MIN, -1, &i));
    assert_true(qsae__mul_size(SIZE_MAX / 5, 5, &s) && s == SIZE_MAX);
    assert_false(qsae__mul_size(SIZE_MAX / 5 + 1, 5, &s));
    assert_true(qsae__add_size(SIZE_MAX - 2, 2, &s) && s == SIZE_MAX);
    assert_false(qsae__add_size(SIZE_MAX - 2, 3, &s));
    assert_true(qsae__bytes(0, 8, &s) && s == 0);
    assert_true(qsae__bytes(1, 8, &s) && s == 8);
    assert_true(qsae__bytes(INT64_MAX, 2, &s) && s == SIZE_MAX - 1);
    assert_false(qsae__bytes(INT64_MAX, 3, &s));
    assert_false(qsae__bytes(-1, 0, &s));
    assert_false(qsae__bytes(INT64_MIN, 1, &s));
    assert_true(qsae__range_in(0, 0, 0) && qsae__range_in(0, 10, 10) && qsae__range_in(9, 1, 10));
    assert_false(qsae__range_in(0, 1, 0));
    assert_false(qsae__range_in(9, 2, 10));
    assert_false(qsae__range_in(11, 0, 10));
    assert_false(qsae__range_in(5, UINT64_MAX, 10));
    assert_true(qsae__range_in(1, UINT64_MAX - 1, UINT64_MAX));
    for (int64_t a = 0; a < 20; a++)
        for (int64_t b = 1; b < 6; b++)
            assert_true(qsae__ceil_div(a, b) * b >= a && (qsae__ceil_div(a, b) - 1) * b < a);
    for (int64_t a = -2; a < 3; a++)
        for (int64_t b = -2; b < 3; b++) {
            const int64_t low = qsae__min_i64(a, b), high = qsae__max_i64(a, b);
            assert_true(low <= a && low <= b && high >= a && high >= b && low + high == a + b);
        }
}

/* More bytes than one write takes, to a file that looks at none of them; then what the system says.
 */
void test_write_all(void **state)
{
    const size_t size = ((size_t)1 << 30) + 7;
    const int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    void *const data = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                            -1, 0);
    (void)state;
    assert_true(fd >= 0 && data != MAP_FAILED);
    assert_int_equal(qsae__write_all(fd, data, size, 0), 0);
    assert_int_equal(qsae__write_all(fd, data, 0, 0), 0);
    close(fd);
    assert_int_equal(qsae__write_all(fd, data, size, 0), EBADF);
    munmap(data, size);
}
