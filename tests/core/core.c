/* SPDX-License-Identifier: BSD-2-Clause */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../support.h"
#include "tests.h"

#include "core/core.h"

static void test_status(void **state)
{
    (void)state;
    assert_string_equal(qsae_status_name(QSAE_OK), "QSAE_OK");
    assert_string_equal(qsae_status_name(QSAE_EPICKLE), "QSAE_EPICKLE");
    assert_string_equal(qsae_status_name(17), "QSAE_E?");
    for (int32_t s = 0; s > -qsae_status_count(); s--) {
        assert_memory_equal(qsae_status_name(s), "QSAE_", 5);
        assert_true(strcmp(qsae_status_message(s), "unknown status") != 0);
    }
    assert_string_equal(qsae_status_message(-qsae_status_count()), "unknown status");
    assert_int_equal(qsae__fail(QSAE_EIO, "file %s\nline", "a"), QSAE_EIO);
    assert_string_equal(qsae_error_message(), "file a?line");
    assert_int_equal(qsae__fail_in(QSAE_EIO, "outer %d", 7), QSAE_EIO);
    assert_string_equal(qsae_error_message(), "outer 7: file a?line");
    char big[3000];
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = 0;
    qsae__fail(QSAE_EIO, "%s", big);
    assert_int_equal(strlen(qsae_error_message()), QSAE__MESSAGE_SIZE - 1);
    qsae__fail_in(QSAE_EIO, "%s", big);
    assert_true(strlen(qsae_error_message()) < QSAE__MESSAGE_SIZE);
}

static void test_checked(void **state)
{
    (void)state;
    size_t s;
    uint64_t u;
    int64_t i;
    assert_false(qsae__mul_size(SIZE_MAX / 2 + 1, 2, &s));
    assert_true(qsae__mul_size(SIZE_MAX / 2, 2, &s) && s == SIZE_MAX - 1);
    assert_false(qsae__add_u64(UINT64_MAX, 1, &u));
    assert_false(qsae__mul_i64(INT64_MIN, -1, &i));
    assert_false(qsae__add_i64(INT64_MAX, 1, &i));
    assert_false(qsae__bytes(-1, 4, &s));
    assert_false(qsae__bytes(INT64_MAX, 4, &s));
    assert_true(qsae__bytes(10, 4, &s) && s == 40);
    assert_true(qsae__range_in(10, 0, 10));
    assert_false(qsae__range_in(10, 1, 10));
    assert_false(qsae__range_in(UINT64_MAX, 2, 10));
    assert_int_equal(qsae__ceil_div(7, 3), 3);
    assert_int_equal(qsae__ceil_div(6, 3), 2);
}

static void test_settings(void **state)
{
    (void)state;
    struct newer {
        qsae_context_settings s;
        int64_t later;
    } n;
    qsae_context *ctx;
    qsae_context_settings s;
    memset(&s, 0xff, sizeof s);
    qsae_context_settings_init(&s, sizeof s);
    assert_int_equal(s.struct_size, sizeof s);
    assert_int_equal(s.threads, 0);
    memset(&n, 0, sizeof n);
    n.s.struct_size = sizeof n;
    n.s.threads = 1;
    assert_ok(qsae_context_open(&n.s, &ctx));
    qsae_context_close(&ctx);
    assert_null(ctx);
    n.later = 1;
    assert_fails(qsae_context_open(&n.s, &ctx), QSAE_EINVAL, "beyond");
    s.struct_size = 4;
    assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, "struct_size");
    /* A shorter struct of an older caller: what it lacks is the default. */
    char older[sizeof s] = { 0 };
    const size_t size = offsetof(qsae_context_settings, log);
    memcpy(older, &size, sizeof size);
    memset(older + size, 0xff, sizeof older - size);
    assert_ok(qsae_context_open((const qsae_context_settings *)(const void *)older, &ctx));
    qsae_context_close(&ctx);
    assert_fails(qsae_context_open(NULL, NULL), QSAE_EINVAL, "out");
}

static void test_context(void **state)
{
    (void)state;
    qsae_context *ctx = NULL;
    qsae_context_settings s;
    qsae_context_settings_init(&s, sizeof s);
    s.cpu = "z80";
    assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, "z80");
    assert_null(ctx);
    s.cpu = NULL;
    s.threads = -1;
    assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, "threads");
    s.threads = 3;
    s.free = (qsae_free_callback)(uintptr_t)1;
    assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, "both or neither");
    s.free = NULL;
    assert_ok(qsae_context_open(&s, &ctx));
    assert_int_equal(qsae_context_threads(ctx), 3);
    assert_string_equal(qsae_context_cpu(ctx), qsae_cpu_best());
    assert_true(strlen(qsae_context_gemm(ctx)) > 0);
    /* A handle outlives the closing of its context. */
    qsae__context_ref(ctx);
    qsae_context *keep = ctx;
    qsae_context_close(&ctx);
    void *p = qsae__alloc(keep, 100);
    assert_non_null(p);
    qsae__free(keep, p);
    qsae__context_unref(keep);
    qsae_context_close(&ctx);
    qsae_context_close(NULL);
    if (level_name(4) == NULL) {
        s.cpu = "amx";
        assert_fails(qsae_context_open(&s, &ctx), QSAE_EENV, "amx");
    }
}

static void test_blis_environment(void **state)
{
    (void)state;
    qsae_context *ctx;
    qsae_context_settings s;
    qsae_context_settings_init(&s, sizeof s);
    static const char *const wrong[] = { "avx2+", "+blis", "avx2+blas", "avx2+blis+",
                                         "avx512bf16avx512bf16+blis", NULL };
    for (const char *const *v = wrong; *v; v++) {
        s.cpu = *v;
        assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, *v);
    }
    if (!level_name(1)) {
        print_message("skipped: this machine has level c alone\n");
        skip();
    }
    s.cpu = "avx2+blis";
    for (const char *const *v = (const char *const[]){ "haswell", "99", "1", "-7", NULL }; *v;
         v++) {
        setenv("BLIS_ARCH_TYPE", *v, 1);
        assert_fails(qsae_context_open(&s, &ctx), QSAE_EENV, "BLIS_ARCH_TYPE");
    }
    qsae_context *plain = open_context(NULL, 1); /* does not ask BLIS */
    assert_string_equal(qsae_context_blis(plain), "not asked");
    qsae_context_close(&plain);
    unsetenv("BLIS_ARCH_TYPE");
    s.cpu = "c+blis";
    assert_fails(qsae_context_open(&s, &ctx), QSAE_EENV, "c+blis");
}

static void test_memory(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    int64_t capacity = 0;
    int32_t *list = NULL;
    for (int32_t i = 0; i < 1000; i++) {
        assert_ok(qsae__grow(ctx, &list, &capacity, i + 1, sizeof *list));
        list[i] = i;
    }
    for (int32_t i = 0; i < 1000; i++)
        assert_int_equal(list[i], i);
    qsae__free(ctx, list);
    assert_null(qsae__alloc_array(ctx, INT64_MAX, 16));
    assert_null(qsae__alloc_array(ctx, -1, 16));
    assert_null(qsae__alloc(ctx, SIZE_MAX));
    for (size_t n = 1; n < 5000; n = n * 3 + 1) {
        char *p = qsae__alloc(ctx, n);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, n);
        qsae__free(ctx, p);
    }
    char *copy = qsae__strndup(ctx, "abcdef", 3);
    assert_string_equal(copy, "abc");
    qsae__free(ctx, copy);
    qsae_context_close(&ctx);
}

static void test_strbuf(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae__strbuf b;
    char big[2000];
    memset(big, 'y', sizeof big);
    big[sizeof big - 1] = 0;
    qsae__strbuf_init(&b, ctx);
    qsae__strbuf_add(&b, "ab", 2);
    qsae__strbuf_addf(&b, "-%d-%s", 5, "x");
    qsae__strbuf_addf(&b, "%s", big);
    assert_int_equal(b.status, QSAE_OK);
    assert_int_equal(b.size, 6 + 1999);
    assert_memory_equal(b.data, "ab-5-xyyy", 9);
    assert_int_equal(b.data[b.size], 0);
    qsae__strbuf_free(&b);
    qsae_context_close(&ctx);
}

static void test_hash(void **state)
{
    (void)state;
    char a[QSAE__HASH_SIZE], b[QSAE__HASH_SIZE];
    qsae_context *ctx = open_context(NULL, 1);
    qsae__hasher *h;
    qsae__hash("", 0, a);
    assert_string_equal(a, "99aa06d3014798d86001c324468d497f"); /* XXH3-128 of nothing, seed 0 */
    qsae__hash("abcdef", 6, a);
    assert_ok(qsae__hasher_open(ctx, &h));
    qsae__hasher_update(h, "abc", 3);
    qsae__hasher_update(h, "def", 3);
    qsae__hasher_hex(h, b);
    assert_string_equal(a, b);
    qsae__hasher_close(ctx, &h);
    assert_null(h);
    qsae_context_close(&ctx);
}

static void test_files(void **state)
{
    (void)state;
    char folder[] = "/tmp/qsae-core-XXXXXX", path[256], **names;
    int64_t count;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/data", folder);
    for (int32_t mode = QSAE_FILES_MAP; mode <= QSAE_FILES_READ; mode++) {
        qsae_context_settings s;
        qsae_context *ctx;
        qsae__file *f;
        qsae_context_settings_init(&s, sizeof s);
        s.files = mode;
        assert_ok(qsae_context_open(&s, &ctx));
        assert_ok(qsae__file_write(ctx, path, "hello", 5));
        assert_ok(qsae__file_open(ctx, path, &f));
        assert_int_equal(f->size, 5);
        assert_memory_equal(f->data, "hello", 5);
        qsae__file_close(&f);
        assert_ok(qsae__file_write(ctx, path, "", 0));
        assert_ok(qsae__file_open(ctx, path, &f));
        assert_int_equal(f->size, 0);
        qsae__file_close(&f);
        assert_fails(qsae__file_open(ctx, folder, &f), QSAE_EIO, "regular file");
        assert_null(f);
        assert_fails(qsae__file_open(ctx, "/nowhere/at/all", &f), QSAE_ENOENT, "/nowhere/at/all");
        assert_fails(qsae__file_write(ctx, "/nowhere/at/all", "x", 1), QSAE_ENOENT, "/nowhere");
        assert_ok(qsae__folder_list(ctx, folder, &names, &count));
        assert_int_equal(count, 1); /* no temporary file is left */
        assert_string_equal(names[0], "data");
        qsae__folder_list_free(ctx, names, count);
        assert_fails(qsae__folder_list(ctx, "/nowhere", &names, &count), QSAE_ENOENT, "/nowhere");
        char *joined = qsae__path_join(ctx, folder, "x");
        assert_true(strlen(joined) == strlen(folder) + 2);
        qsae__free(ctx, joined);
        qsae_context_close(&ctx);
    }
    assert_true(qsae__file_exists(path));
    assert_true(qsae__folder_exists(folder));
    assert_false(qsae__file_exists(folder));
    unlink(path);
    /* A folder that cannot be written to: no file, no leftover. */
    rmdir(folder);
    assert_true(qsae__plain_name("model-00001-of-00002.safetensors"));
    for (const char *const *v =
             (const char *const[]){ "", ".", "..", "a/b", "/a", "a\\b", "a\nb", "\x7f", NULL };
         *v; v++)
        assert_false(qsae__plain_name(*v));
}

struct sums {
    atomic_llong total;
    atomic_int calls;
    int64_t bad, bad2;
    qsae_context *ctx;
};

static int32_t add_tile(void *arg, int64_t tile, int32_t worker)
{
    struct sums *s = arg;
    if (worker < 0 || worker >= qsae_context_threads(s->ctx))
        return qsae__fail(QSAE_EINTERNAL, "worker");
    atomic_fetch_add(&s->total, tile);
    atomic_fetch_add(&s->calls, 1);
    if (tile == s->bad || tile == s->bad2)
        return qsae__fail(tile == s->bad ? QSAE_EFORMAT : QSAE_EIO, "tile %lld", (long long)tile);
    return QSAE_OK;
}

static int32_t nested_tile(void *arg, int64_t tile, int32_t worker)
{
    (void)tile;
    (void)worker;
    struct sums *s = arg;
    return qsae__parallel(s->ctx, 10, add_tile, s);
}

static void test_threads(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= 8; threads = threads < 3 ? threads + 1 : threads + 5) {
        qsae_context *ctx = open_context(NULL, threads);
        struct sums s = { .bad = -1, .bad2 = -1, .ctx = ctx };
        for (int64_t n = 0; n < 200; n = n * 2 + 1) {
            atomic_store(&s.total, 0);
            atomic_store(&s.calls, 0);
            assert_ok(qsae__parallel(ctx, n, add_tile, &s));
            assert_int_equal(atomic_load(&s.total), n * (n - 1) / 2);
            assert_int_equal(atomic_load(&s.calls), n);
        }
        s.bad = 20;
        s.bad2 = 90;
        for (int i = 0; i < 50; i++)
            assert_fails(qsae__parallel(ctx, 100, add_tile, &s), QSAE_EFORMAT, "tile 20");
        s.bad = s.bad2 = -1;
        atomic_store(&s.calls, 0);
        assert_ok(qsae__parallel(ctx, 7, nested_tile, &s));
        assert_int_equal(atomic_load(&s.calls), 70);
        qsae_context_close(&ctx);
    }
}

/* Two tiles that wait for each other: they end only if two threads run them at once. */
static int32_t meeting_tile(void *arg, int64_t tile, int32_t worker)
{
    struct sums *const s = arg;
    (void)tile;
    (void)worker;
    atomic_fetch_add(&s->calls, 1);
    while (atomic_load(&s->calls) < 2)
        sched_yield();
    return QSAE_OK;
}

/* Operations right after each other and after pauses in which helpers fall asleep. */
static void test_tiny_operations(void **state)
{
    (void)state;
    static const int32_t counts[] = { 1, 2, 3, 8 };
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        qsae_context *ctx = open_context(NULL, counts[c]);
        struct sums s = { .bad = -1, .bad2 = -1, .ctx = ctx };
        for (int64_t i = 0; i < 5000; i++) {
            const int64_t n = i % 7;
            s.bad = n > 3 && i % 10 == 0 ? 3 : -1;
            atomic_store(&s.total, 0);
            if (s.bad >= 0)
                assert_fails(qsae__parallel(ctx, n, add_tile, &s), QSAE_EFORMAT, "tile 3");
            else
                assert_ok(qsae__parallel(ctx, n, add_tile, &s));
            if (s.bad < 0 && atomic_load(&s.total) != n * (n - 1) / 2)
                fail_msg("%d threads, operation %lld", (int)counts[c], (long long)i);
            if (i % 250 == 0)
                usleep(i % 500 ? 50 : 300);
        }
        s.bad = -1;
        for (int i = 0; i < 20 && counts[c] > 1; i++) {
            atomic_store(&s.calls, 0);
            assert_ok(qsae__parallel(ctx, 2, meeting_tile, &s));
            usleep(i % 2 ? 0 : 300);
        }
        qsae_context_close(&ctx);
    }
}

static void *queue_main(void *arg)
{
    struct sums s = { .bad = -1, .bad2 = -1, .ctx = arg };
    for (int64_t i = 0; i < 500; i++) {
        atomic_store(&s.calls, 0);
        if (qsae__parallel(arg, i % 20, add_tile, &s) != QSAE_OK ||
            atomic_load(&s.calls) != i % 20)
            return arg;
    }
    return NULL;
}

/* Callers of one context queue. */
static void test_queue(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 3);
    pthread_t callers[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&callers[i], NULL, queue_main, ctx), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(callers[i], &failed);
        assert_null(failed);
    }
    qsae_context_close(&ctx);
}

/* One bit per worker: 1 << worker where its CPUs are more than one. */
static int32_t look_at_cpus(void *arg, int64_t tile, int32_t worker)
{
    struct sums *const s = arg;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return QSAE_EENV;
    if (CPU_COUNT(&set) != 1)
        atomic_fetch_or(&s->total, 1LL << worker);
    return meeting_tile(arg, tile, worker);
}

static void test_pin(void **state)
{
    (void)state;
    cpu_set_t before, after;
    qsae_context_settings settings;
    qsae_context *ctx;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    for (int32_t pin = 0; pin <= 1; pin++) {
        qsae_context_settings_init(&settings, sizeof settings);
        settings.threads = 2;
        settings.pin = pin;
        assert_ok(qsae__context_new(&settings, &ctx));
        struct sums s = { .ctx = ctx };
        assert_ok(qsae__parallel(ctx, 2, look_at_cpus, &s));
        assert_int_equal(atomic_load(&s.total), CPU_COUNT(&before) == 1 ? 0 : pin ? 1 : 3);
        assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
        assert_true(CPU_EQUAL(&before, &after));
        qsae_context_close(&ctx);
    }
    settings.threads = 9; /* more than there may be CPUs */
    assert_ok(qsae__context_new(&settings, &ctx));
    qsae_context_close(&ctx);
    settings.pin = 2;
    assert_fails(qsae__context_new(&settings, &ctx), QSAE_EINVAL, "pin");
}

static void test_fork(void **state)
{
    (void)state;
    qsae_context *ctx = open_context(NULL, 2);
    struct sums s = { .bad = -1, .bad2 = -1, .ctx = ctx };
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(qsae__parallel(ctx, 4, add_tile, &s) == QSAE_EENV ? 0 : 1);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    qsae_context_close(&ctx);
}

static void test_cancel(void **state)
{
    (void)state;
    qsae_cancel_token *token;
    assert_ok(qsae_cancel_token_open(&token));
    assert_ok(qsae__canceled(token));
    assert_ok(qsae__canceled(NULL));
    qsae_cancel_token_cancel(token);
    assert_fails(qsae__canceled(token), QSAE_ECANCELED, "canceled");
    qsae_cancel_token_reset(token);
    assert_ok(qsae__canceled(token));
    qsae_cancel_token_close(&token);
    assert_null(token);
    assert_fails(qsae_cancel_token_open(NULL), QSAE_EINVAL, "out");
}

struct counter {
    atomic_llong calls, live;
    int64_t fail_at;
};

static void *counting_alloc(void *cookie, size_t size, size_t alignment)
{
    struct counter *c = cookie;
    void *p = NULL;
    if (atomic_fetch_add(&c->calls, 1) == c->fail_at || posix_memalign(&p, alignment, size))
        return NULL;
    atomic_fetch_add(&c->live, 1);
    return p;
}

static void counting_free(void *cookie, void *p)
{
    atomic_fetch_sub(&((struct counter *)cookie)->live, 1);
    free(p);
}

static void test_allocation_failures(void **state)
{
    (void)state;
    for (int64_t at = 0;; at++) {
        struct counter c = { .fail_at = at };
        qsae_context_settings s;
        qsae_context *ctx;
        qsae_context_settings_init(&s, sizeof s);
        s.alloc = counting_alloc;
        s.free = counting_free;
        s.alloc_cookie = &c;
        s.threads = 3;
        const int32_t st = qsae_context_open(&s, &ctx);
        if (st == QSAE_OK)
            qsae_context_close(&ctx);
        else
            assert_int_equal(st, QSAE_ENOMEM);
        assert_int_equal(atomic_load(&c.live), 0);
        if (atomic_load(&c.calls) <= at) {
            assert_true(at >= 2); /* a context, a pool */
            break;
        }
    }
}

static void keep_log(void *cookie, int32_t level, const char *message)
{
    snprintf(cookie, 64, "%d %s", (int)level, message);
}

static void test_log(void **state)
{
    (void)state;
    char line[64] = "";
    qsae_context_settings s;
    qsae_context *ctx;
    qsae_context_settings_init(&s, sizeof s);
    s.log = keep_log;
    s.log_cookie = line;
    assert_ok(qsae_context_open(&s, &ctx));
    qsae__log(ctx, QSAE_LOG_INFO, "quiet");
    assert_string_equal(line, "");
    qsae__log(ctx, QSAE_LOG_WARNING, "loud %d", 1);
    assert_string_equal(line, "3 loud 1");
    qsae_context_close(&ctx);
}

static void test_version(void **state)
{
    (void)state;
    assert_int_equal(qsae_version_api(), QSAE_API_VERSION_MAJOR << 16 |
                                             QSAE_API_VERSION_MINOR << 8 | QSAE_API_VERSION_PATCH);
    assert_true(strlen(qsae_version()) > 4);
    assert_int_equal(qsae_dtype_bits(QSAE_BF16), 16);
    assert_int_equal(qsae_dtype_from_name("F8_E4M3"), QSAE_F8_E4M3);
    assert_int_equal(qsae_dtype_from_name("f32"), 0);
    assert_string_equal(qsae_dtype_name(QSAE_I64), "I64");
    assert_string_equal(qsae_dtype_name(999), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),  cmocka_unit_test(test_checked),
        cmocka_unit_test(test_settings), cmocka_unit_test(test_context),
        cmocka_unit_test(test_blis_environment), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_strbuf),  cmocka_unit_test(test_hash),
        cmocka_unit_test(test_files),   cmocka_unit_test(test_threads),
        cmocka_unit_test(test_tiny_operations), cmocka_unit_test(test_queue),
        cmocka_unit_test(test_pin),
        cmocka_unit_test(test_fork),    cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_allocation_failures), cmocka_unit_test(test_log),
        cmocka_unit_test(test_version), cmocka_unit_test(test_large_blocks),
        cmocka_unit_test(test_own_allocator), cmocka_unit_test(test_release),
        cmocka_unit_test(test_paths),   cmocka_unit_test(test_places),
        cmocka_unit_test(test_long_file), cmocka_unit_test(test_size_limits),
        cmocka_unit_test(test_write_all),
        cmocka_unit_test(test_share_once), cmocka_unit_test(test_share_nothing),
        cmocka_unit_test(test_share_many), cmocka_unit_test(test_share_folders),
        cmocka_unit_test(test_share_hostile), cmocka_unit_test(test_share_gone),
        cmocka_unit_test(test_share_read_only), cmocka_unit_test(test_share_too_large),
        cmocka_unit_test(test_share_full), cmocka_unit_test(test_share_race),
        cmocka_unit_test(test_share_threads),
        cmocka_unit_test(test_seed),    cmocka_unit_test(test_infos),
        cmocka_unit_test(test_ranges),  cmocka_unit_test(test_share_owner),
        cmocka_unit_test(test_failed_string), cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_x87),
    };
    return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
