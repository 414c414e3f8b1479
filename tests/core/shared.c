/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that processes hold once (core/shared.c): what is mapped, refused, and left. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../support.h"
#include "tests.h"

#include "core/core.h"

enum { SIZE = 100000 }; /* of a piece; no multiple of a page */

struct fixture {
    char folder[64], log[4096];
    int lines;
    qsae_context *ctx;
};

static void note(void *cookie, int32_t level, const char *message)
{
    struct fixture *const f = cookie;
    (void)level;
    f->lines++;
    snprintf(f->log, sizeof f->log, "%s", message);
}

static qsae_context *open_sharing(const char *folder, struct fixture *f)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.share_folder = folder;
    s.log = note;
    s.log_cookie = f;
    assert_ok(qsae_context_open(&s, &ctx));
    return ctx;
}

static void begin(struct fixture *f)
{
    *f = (struct fixture){ .folder = "/tmp/qsae-shared-XXXXXX" };
    assert_non_null(mkdtemp(f->folder));
    f->ctx = open_sharing(f->folder, f);
}

/* Names in a folder, of them those of unfinished files. */
static int count(const char *path, int *unfinished)
{
    DIR *const folder = opendir(path);
    int n = 0;
    *unfinished = 0;
    for (const struct dirent *e; folder && (e = readdir(folder));) {
        n += e->d_name[0] != '.';
        *unfinished += strstr(e->d_name, ".tmp-") != NULL;
    }
    if (folder)
        closedir(folder);
    return n;
}

static void empty(const char *path)
{
    DIR *const folder = opendir(path);
    for (const struct dirent *e; folder && (e = readdir(folder));)
        if (e->d_name[0] != '.' && unlinkat(dirfd(folder), e->d_name, 0) != 0)
            unlinkat(dirfd(folder), e->d_name, AT_REMOVEDIR);
    if (folder)
        closedir(folder);
}

static void end(struct fixture *f)
{
    uint64_t bytes;
    assert_int_equal(qsae__shares_held(f->ctx, &bytes), 0);
    qsae_context_close(&f->ctx);
    empty(f->folder);
    assert_int_equal(rmdir(f->folder), 0);
}

/* Whether a file of that folder has this number. */
static bool has_inode(const char *path, unsigned long inode)
{
    DIR *const folder = opendir(path);
    bool found = false;
    for (const struct dirent *e; folder && (e = readdir(folder));)
        found |= e->d_ino == inode;
    if (folder)
        closedir(folder);
    return found;
}

/* Mappings of files in that folder, and how many of them are read-only, shared and of a file that
 * has a name now. */
static int maps(const char *folder, int *sound)
{
    char line[512], mode[8];
    FILE *const f = fopen("/proc/self/maps", "re");
    unsigned long inode;
    int n = 0;
    *sound = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (strstr(line, folder) &&
            sscanf(line, "%*s %7s %*s %*s %lu", mode, &inode) == 2) {
            n++;
            *sound += strcmp(mode, "r--s") == 0 && has_inode(folder, inode);
        }
    fclose(f);
    return n;
}

static uint8_t value(uint32_t seed, size_t i)
{
    return (uint8_t)((seed + i / 7) * 2654435761u >> 13);
}

/* bytes of the context's allocator, other ones for each seed */
static uint8_t *piece(qsae_context *ctx, size_t bytes, uint32_t seed)
{
    uint8_t *const p = qsae__alloc(ctx, bytes);
    assert_non_null(p);
    for (size_t i = 0; i < bytes; i++)
        p[i] = value(seed, i);
    return p;
}

static bool same(const uint8_t *p, size_t bytes, uint32_t seed)
{
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != value(seed, i))
            return false;
    return true;
}

static void name_of(const struct fixture *f, uint32_t seed, char path[256])
{
    char hash[QSAE__HASH_SIZE];
    uint8_t *const p = piece(f->ctx, SIZE, seed);
    qsae__hash(p, SIZE, hash);
    snprintf(path, 256, "%s/%s-%d", f->folder, hash, SIZE);
    qsae__free(f->ctx, p);
}

/* Two contexts and two owners of one have one file; what is freed is unmapped. */
void test_share_once(void **state)
{
    struct fixture f;
    int unfinished, sound;
    uint64_t bytes;
    uint8_t *p[4];
    (void)state;
    begin(&f);
    qsae_context *const other = open_sharing(f.folder, &f);
    qsae_context *const own[] = { f.ctx, f.ctx, other, other };
    for (int i = 0; i < 4; i++) {
        uint8_t *const before = p[i] = piece(own[i], SIZE, i == 3);
        assert_ok(qsae__share(own[i], &p[i], SIZE));
        assert_ptr_not_equal(p[i], before);
        assert_true(same(p[i], SIZE, i == 3));
        uint8_t *const mapped = p[i];
        assert_ok(qsae__share(own[i], &p[i], SIZE)); /* is shared already */
        assert_ptr_equal(p[i], mapped);
    }
    assert_int_equal(count(f.folder, &unfinished), 2);
    assert_int_equal(unfinished, 0);
    assert_int_equal(maps(f.folder, &sound), 4);
    assert_int_equal(sound, 4);
    assert_int_equal(qsae__shares_held(f.ctx, &bytes), 2);
    assert_int_equal(bytes, 2 * SIZE);
    for (int i = 0; i < 4; i++)
        qsae__free(own[i], p[i]);
    assert_int_equal(maps(f.folder, &sound), 0);
    assert_int_equal(qsae__shares_held(other, &bytes), 0);
    qsae_context *closed = other;
    qsae_context_close(&closed);
    assert_int_equal(f.lines, 0);
    end(&f);
}

/* Nothing to do: small, NULL, no folder. */
void test_share_nothing(void **state)
{
    struct fixture f;
    int unfinished;
    void *none = NULL;
    (void)state;
    begin(&f);
    qsae_context *const plain = open_context(NULL, 1);
    uint8_t *p = piece(f.ctx, SIZE, 1), *q = piece(plain, SIZE, 1), *const before[] = { p, q };
    assert_ok(qsae__share(f.ctx, &p, QSAE__SHARE_LEAST - 1));
    assert_ok(qsae__share(f.ctx, &none, SIZE));
    assert_ok(qsae__share(plain, &q, SIZE));
    assert_true(p == before[0] && q == before[1]);
    assert_null(none);
    assert_int_equal(count(f.folder, &unfinished), 0);
    qsae__free(f.ctx, p);
    qsae__free(plain, q);
    qsae_context *closed = plain;
    qsae_context_close(&closed);
    end(&f);
}

/* Many pieces, freed in another order. */
void test_share_many(void **state)
{
    enum { N = 300, BYTES = 1 << 16 };
    struct fixture f;
    uint8_t *p[N];
    uint64_t bytes;
    (void)state;
    begin(&f);
    for (uint32_t i = 0; i < N; i++) {
        p[i] = piece(f.ctx, BYTES, i % 40);
        assert_ok(qsae__share(f.ctx, &p[i], BYTES));
    }
    for (uint32_t i = 0; i < N; i++) {
        const uint32_t k = i * 7 % N;
        assert_true(same(p[k], BYTES, k % 40));
        qsae__free(f.ctx, p[k]);
        assert_int_equal(qsae__shares_held(f.ctx, &bytes), N - 1 - (int)i);
    }
    end(&f);
}

/* ---- folders and files that are not what they should be ---- */

void test_share_folders(void **state)
{
    char folder[] = "/tmp/qsae-shared-XXXXXX", file[64];
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/file", folder);
    s.share_folder = file;
    assert_fails(qsae_context_open(&s, &ctx), QSAE_ENOENT, file);
    close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, "found something else");
    s.share_folder = folder;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(chmod(folder, i ? 0720 : 0702), 0);
        assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL, "found one that others can");
    }
    assert_null(ctx);
    assert_int_equal(chmod(folder, 0755), 0);
    assert_ok(qsae_context_open(&s, &ctx));
    qsae_context_close(&ctx);
    unlink(file);
    rmdir(folder);
}

/* What belongs to another user is not taken, even by one who may write there. */
void test_share_owner(void **state)
{
    char folder[] = "/tmp/qsae-shared-XXXXXX";
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: only root can give a folder away\n");
        skip();
    }
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.share_folder = folder;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chown(folder, 12345, (gid_t)-1), 0);
    assert_fails(qsae_context_open(&s, &ctx), QSAE_EINVAL,
                 "expected a folder of this user that nobody else can write");
    assert_null(ctx);
    assert_int_equal(chown(folder, 0, (gid_t)-1), 0);
    assert_ok(qsae_context_open(&s, &ctx));
    qsae_context_close(&ctx);
    rmdir(folder);
}

enum hostile { OTHER_BYTES, SHORTER, LONGER, EMPTY, LINK, WRITABLE, PIPE, FOLDER, HOSTILE };

/* Makes a file that is none of ours under the name of piece 1. */
static void plant(const struct fixture *f, enum hostile kind, const char *path)
{
    char real[300];
    snprintf(real, sizeof real, "%s/real", f->folder);
    const size_t size = kind == SHORTER ? SIZE - 1 : kind == LONGER ? SIZE + 1
                        : kind == EMPTY ? 0 : SIZE;
    if (kind == PIPE || kind == FOLDER) {
        assert_int_equal(kind == PIPE ? mkfifo(path, 0600) : mkdir(path, 0700), 0);
        return;
    }
    FILE *const file = fopen(kind == LINK ? real : path, "wbe");
    assert_non_null(file);
    for (size_t i = 0; i < size; i++)
        fputc(value(1, i) ^ (kind == OTHER_BYTES && i == SIZE - 1), file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(kind == LINK ? real : path, kind == WRITABLE ? 0620 : 0600), 0);
    if (kind == LINK)
        assert_int_equal(symlink(real, path), 0);
}

void test_share_hostile(void **state)
{
    static const char *const said[HOSTILE] = { [OTHER_BYTES] = "has not the bytes of its name",
                                               [LINK] = "is a symbolic link" };
    struct fixture f;
    char path[256];
    int sound;
    (void)state;
    begin(&f);
    name_of(&f, 1, path);
    for (enum hostile kind = 0; kind < HOSTILE; kind++) {
        uint8_t *p = piece(f.ctx, SIZE, 1), *const before = p;
        plant(&f, kind, path);
        f.lines = 0;
        assert_ok(qsae__share(f.ctx, &p, SIZE));
        assert_ptr_equal(p, before);
        assert_true(same(p, SIZE, 1));
        assert_int_equal(f.lines, 1);
        assert_non_null(strstr(f.log, path));
        assert_non_null(strstr(f.log, said[kind] ? said[kind] : "is no file of its size"));
        assert_int_equal(maps(f.folder, &sound), 0);
        qsae__free(f.ctx, p);
        empty(f.folder);
    }
    end(&f);
}

/* The folder goes: what is mapped stays, what comes stays where it is. */
void test_share_gone(void **state)
{
    struct fixture f;
    (void)state;
    begin(&f);
    uint8_t *p = piece(f.ctx, SIZE, 1), *q = piece(f.ctx, SIZE, 2), *const before = q;
    assert_ok(qsae__share(f.ctx, &p, SIZE));
    empty(f.folder);
    assert_int_equal(rmdir(f.folder), 0);
    assert_ok(qsae__share(f.ctx, &q, SIZE));
    assert_ptr_equal(q, before);
    assert_true(same(p, SIZE, 1) && same(q, SIZE, 2));
    assert_int_equal(mkdir(f.folder, 0700), 0); /* there again */
    assert_ok(qsae__share(f.ctx, &q, SIZE));
    assert_ptr_not_equal(q, before);
    qsae__free(f.ctx, p);
    qsae__free(f.ctx, q);
    end(&f);
}

/* ---- in processes of their own ---- */

enum { NOT_HERE = 77 };

/* What a child returns; it must not use what the parent has open. */
static int in_child(int (*run)(const char *folder), const char *folder)
{
    int status = -1;
    const pid_t child = fork();
    if (child == 0)
        _exit(run(folder));
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%d: %s: %s\n", __LINE__, #condition, qsae_error_message()); \
            return 1; \
        } \
    } while (0)

/* A folder that cannot be written. */
static int read_only(const char *folder)
{
    struct fixture f = { .lines = 0 };
    int unfinished;
    if (geteuid() == 0 && (chown(folder, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0))
        return NOT_HERE;
    CHECK(chmod(folder, 0500) == 0);
    qsae_context *ctx = open_sharing(folder, &f);
    uint8_t *p = piece(ctx, SIZE, 1), *const before = p;
    CHECK(qsae__share(ctx, &p, SIZE) == QSAE_EIO);
    CHECK(strstr(qsae_error_message(), folder) && strstr(qsae_error_message(), "cannot create"));
    CHECK(p == before && same(p, SIZE, 1) && count(folder, &unfinished) == 0);
    qsae__free(ctx, p);
    qsae_context_close(&ctx);
    return 0;
}

/* Files that may not be as large. */
static int too_large(const char *folder)
{
    const struct rlimit limit = { SIZE / 2, SIZE / 2 };
    struct fixture f = { .lines = 0 };
    int unfinished;
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    qsae_context *ctx = open_sharing(folder, &f);
    uint8_t *p = piece(ctx, SIZE, 1), *const before = p;
    CHECK(qsae__share(ctx, &p, SIZE) == QSAE_EIO);
    CHECK(strstr(qsae_error_message(), folder) && strstr(qsae_error_message(), "cannot write"));
    CHECK(p == before && same(p, SIZE, 1) && count(folder, &unfinished) == 0);
    qsae__free(ctx, p);
    qsae_context_close(&ctx);
    return 0;
}

/* A file system without room for more than two: said once, and shared files are still taken. */
static int full(const char *folder)
{
    struct fixture f = { .lines = 0 };
    uint8_t *p[5];
    int unfinished, sound;
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return NOT_HERE;
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", folder, "tmpfs", 0, "size=256k,mode=700") != 0)
        return NOT_HERE;
    qsae_context *ctx = open_sharing(folder, &f);
    for (uint32_t i = 0; i < 5; i++) {
        p[i] = piece(ctx, SIZE, i % 4);
        CHECK(qsae__share(ctx, &p[i], SIZE) == QSAE_OK);
    }
    CHECK(f.lines == 1 && strstr(f.log, "no room"));
    CHECK(count(folder, &unfinished) == 2 && unfinished == 0);
    CHECK(maps(folder, &sound) == 3 && sound == 3); /* 0, 1 and 0 again */
    for (uint32_t i = 0; i < 5; i++) {
        CHECK(same(p[i], SIZE, i % 4));
        qsae__free(ctx, p[i]);
    }
    qsae_context_close(&ctx);
    return 0;
}

static void child_of(int (*run)(const char *folder))
{
    char folder[] = "/tmp/qsae-shared-XXXXXX";
    assert_non_null(mkdtemp(folder));
    const int code = in_child(run, folder);
    assert_int_equal(rmdir(folder), 0);
    if (code == NOT_HERE) {
        print_message("skipped: this process may not change its user or mount a file system\n");
        skip();
    }
    assert_int_equal(code, 0);
}

void test_share_read_only(void **state)
{
    (void)state;
    child_of(read_only);
}

void test_share_too_large(void **state)
{
    (void)state;
    child_of(too_large);
}

void test_share_full(void **state)
{
    (void)state;
    child_of(full);
}

/* Processes that have the same pieces at the same time end with one file each, which all map. */
static int race(const char *folder)
{
    enum { N = 20 };
    struct fixture f = { .lines = 0 };
    uint8_t *p[N];
    int sound;
    qsae_context *ctx = open_sharing(folder, &f);
    for (uint32_t i = 0; i < N; i++) {
        p[i] = piece(ctx, SIZE, i);
        CHECK(qsae__share(ctx, &p[i], SIZE) == QSAE_OK);
    }
    CHECK(maps(folder, &sound) == N && sound == N);
    for (uint32_t i = 0; i < N; i++) {
        CHECK(same(p[i], SIZE, i));
        qsae__free(ctx, p[i]);
    }
    CHECK(f.lines == 0);
    qsae_context_close(&ctx);
    return 0;
}

void test_share_race(void **state)
{
    enum { PROCESSES = 4 };
    char folder[] = "/tmp/qsae-shared-XXXXXX";
    pid_t child[PROCESSES];
    int unfinished, failed = 0;
    (void)state;
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < PROCESSES; i++)
        if ((child[i] = fork()) == 0)
            _exit(race(folder));
    for (int i = 0; i < PROCESSES; i++) {
        int status = 1;
        assert_int_equal(waitpid(child[i], &status, 0), child[i]);
        failed += status != 0;
    }
    assert_int_equal(failed, 0);
    assert_int_equal(count(folder, &unfinished), 20);
    assert_int_equal(unfinished, 0);
    empty(folder);
    rmdir(folder);
}

/* Threads of one context. */
static void *share_and_free(void *arg)
{
    qsae_context *const ctx = arg;
    for (uint32_t i = 0; i < 60; i++) {
        uint8_t *p = piece(ctx, SIZE, i % 6);
        if (qsae__share(ctx, &p, SIZE) != QSAE_OK || !same(p, SIZE, i % 6))
            return ctx;
        qsae__free(ctx, p);
    }
    return NULL;
}

void test_share_threads(void **state)
{
    enum { THREADS = 4 };
    struct fixture f;
    pthread_t thread[THREADS];
    (void)state;
    begin(&f);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, share_and_free, f.ctx), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong = f.ctx;
        pthread_join(thread[i], &wrong);
        assert_null(wrong);
    }
    assert_int_equal(f.lines, 0);
    end(&f);
}
