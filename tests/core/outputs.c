/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files that are written, and temporary ones: every call beneath core/output.c and core/spool.c
 * fails, once and from then on, with every errno that decides something. What was there is there
 * still or the new is there whole, the status and the message are those of the errno, nothing is
 * left over. Apart from test_core, because functions of the C library are replaced.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../faults/inject.h"
#include "../support.h"
#include "core/file.h"
#include "core/memory.h"
#include "core/output.h"
#include "core/spool.h"

static char folder[128];

/* errno of every call of a function while it is not 0; the first `left` succeed. */
static struct refusal {
    int error, left;
} links, accesses, randoms, mkdirs;

static bool refused(struct refusal *r)
{
    if (r->error == 0 || r->left-- > 0)
        return false;
    errno = r->error;
    return true;
}

int link(const char *from, const char *to)
{
    int (*real)(const char *, const char *);
    *(void **)&real = dlsym(RTLD_NEXT, "link");
    return refused(&links) ? -1 : real(from, to);
}

int access(const char *path, int mode)
{
    int (*real)(const char *, int);
    *(void **)&real = dlsym(RTLD_NEXT, "access");
    return refused(&accesses) ? -1 : real(path, mode);
}

ssize_t getrandom(void *data, size_t size, unsigned flags)
{
    ssize_t (*real)(void *, size_t, unsigned);
    *(void **)&real = dlsym(RTLD_NEXT, "getrandom");
    return refused(&randoms) ? -1 : real(data, size, flags);
}

int mkdir(const char *path, mode_t mode)
{
    int (*real)(const char *, mode_t);
    *(void **)&real = dlsym(RTLD_NEXT, "mkdir");
    return refused(&mkdirs) ? -1 : real(path, mode);
}

static qsae_context *ctx;

static const char *in(const char *name)
{
    static char paths[4][384];
    static int next;
    char *const p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static void put(const char *name, const char *text)
{
    FILE *const f = fopen(in(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

/* What a file holds; "" if there is none. */
static const char *text_of(const char *name)
{
    static char text[256];
    FILE *const f = fopen(in(name), "rb");
    const size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = '\0';
    return text;
}

/* Entries of the folder. */
static int entries(void)
{
    int n = -2;
    DIR *const dir = opendir(folder);
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void empty_folder(void)
{
    DIR *const dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.' && unlink(in(e->d_name)) != 0) {
            qsae__folder_remove(in(e->d_name));
            assert_int_not_equal(rmdir(in(e->d_name)), 0);
        }
    closedir(dir);
    assert_int_equal(entries(), 0);
}

/* The lowest descriptor that is free: as before, if none was left open. */
static int free_descriptor(void)
{
    const int fd = dup(0);
    assert_true(fd >= 0);
    close(fd);
    return fd;
}

static int32_t status_of(int e)
{
    return e == ENOENT || e == ENOTDIR ? QSAE_ENOENT : e == ENOMEM ? QSAE_ENOMEM : QSAE_EIO;
}

/* ---- every call once ---- */

static const char wanted[] = "first, LAST";

static int32_t write_file(void)
{
    qsae__output *o = NULL;
    int32_t st = qsae__output_open(ctx, in("file"), &o);
    if (st == QSAE_OK)
        st = qsae__output_append(o, "first, ", 7);
    if (st == QSAE_OK)
        st = qsae__output_append(o, "last", 4);
    if (st == QSAE_OK)
        st = qsae__output_patch(o, 7, "LAST", 4);
    if (st == QSAE_OK)
        st = qsae__output_commit(&o);
    qsae__output_discard(&o);
    return st;
}

static int32_t write_folder(void)
{
    char *temp = NULL, inside[200];
    int32_t st = qsae__folder_temp(ctx, in("made"), &temp);
    if (st != QSAE_OK)
        return st;
    snprintf(inside, sizeof inside, "%s/file", temp);
    st = qsae__file_write(ctx, inside, wanted, strlen(wanted));
    if (st == QSAE_OK)
        st = qsae__folder_commit(ctx, temp, in("made"));
    if (st != QSAE_OK)
        qsae__folder_remove(temp);
    qsae__free(ctx, temp);
    return st;
}

static int32_t use_spool(void)
{
    char data[16] = "";
    qsae__spool *s = NULL;
    qsae__spooled where[2];
    int32_t st = qsae__spool_open(ctx, folder, 100, &s);
    if (st != QSAE_OK)
        return st;
    st = qsae__spool_append(s, "0123456789", 10, &where[0]);
    if (st == QSAE_OK)
        st = qsae__spool_append(s, "abcdef", 6, &where[1]);
    for (int i = 0; i < 2 && st == QSAE_OK; i++)
        if ((st = qsae__spool_read(s, &where[i], data)) == QSAE_OK)
            assert_memory_equal(data, i ? "abcdef" : "0123456789", i ? 6 : 10);
    qsae__spool_close(&s);
    assert_null(s);
    return st;
}

static int32_t look_at_folder(void)
{
    bool empty = true;
    const int32_t st = qsae__folder_free(folder, &empty);
    if (st == QSAE_OK && inject_fired() == CALL_NONE)
        assert_false(empty);
    return st;
}

struct job {
    const char *name, *old;      /* "": the file is not there */
    int32_t (*run)(void);
    const char *result;          /* the file that is made, or NULL */
};
static const struct job jobs[] = {
    { "a new file", "", write_file, "file" },
    { "a file over another", "old", write_file, "file" },
    { "a folder", "", write_folder, "made/file" },
    { "a temporary file", "", use_spool, NULL },
    { "a look at a folder", "old", look_at_folder, NULL },
};

/* The call that fails with e beneath a job: the job says so, or it was none of its business. */
static void check(const struct job *j, int e, int32_t st, bool onwards, int64_t at)
{
    const enum inject_call fired = inject_fired();
    const char *const have = j->result ? text_of(j->result) : "";
    if (st == QSAE_OK) {
        if (j->result && strcmp(have, wanted) != 0)
            fail_msg("%s, %s at call %lld: \"%s\"", j->name, strerror(e), (long long)at, have);
    } else {
        const bool memory = fired == CALL_MEMORY;
        if (st != (memory ? QSAE_ENOMEM : status_of(e)) || e == EINTR || e == INJECT_SHORT)
            fail_msg("%s, %s at call %lld: %s (%s)", j->name, strerror(e), (long long)at,
                     qsae_status_name(st), qsae_error_message());
        if (!memory && e != INJECT_ZERO && !strstr(qsae_error_message(), strerror(e)))
            fail_msg("%s, call %lld: \"%s\" lacks \"%s\"", j->name, (long long)at,
                     qsae_error_message(), strerror(e));
        /* What cannot be undone either stays: the new file, whole. */
        if (j->result && strcmp(have, j->old) != 0 && !(onwards && strcmp(have, wanted) == 0))
            fail_msg("%s, %s at call %lld: \"%s\"", j->name, strerror(e), (long long)at, have);
    }
    if (!onwards && fired != CALL_UNLINK && fired != CALL_FOLDER)
        assert_int_equal(entries(), (have[0] || j->old[0]) ? 1 : 0);
}

static int64_t series(const struct job *j, enum inject_kind kind, int e, bool onwards)
{
    int64_t calls = 1;
    for (int64_t at = -1; at < calls; at++) { /* at -1 none fails, and they are counted */
        if (j->old[0])
            put("file", j->old);
        const int fd = free_descriptor();
        const int64_t blocks = inject_blocks();
        inject_arm(kind, at, onwards, e);
        const int32_t st = j->run();
        const int64_t seen = inject_disarm();
        if (at < 0) {
            assert_ok(st);
            calls = seen;
        }
        assert_int_equal(inject_blocks(), blocks);
        assert_int_equal(free_descriptor(), fd);
        assert_false(inject_fsync_repeated());
        check(j, e, st, onwards, at);
        empty_folder();
    }
    return calls;
}

static void test_every_call(void **state)
{
    static const int errors[] = { EIO, ENOSPC, ENOMEM, ENOENT, ENOTDIR, EACCES, EINTR, EINVAL,
                                  EROFS, EEXIST, INJECT_SHORT, INJECT_ZERO };
    int64_t faults = 0;
    (void)state;
    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++)
        for (int onwards = 0; onwards < 2; onwards++) {
            faults += series(&jobs[i], INJECT_MEMORY, ENOMEM, onwards);
            for (size_t e = 0; e < sizeof errors / sizeof errors[0]; e++)
                if (!onwards || (errors[e] != EINTR && errors[e] != INJECT_SHORT))
                    faults += series(&jobs[i], INJECT_IO, errors[e], onwards);
        }
    print_message("%lld faults\n", (long long)faults);
}

/* ---- one call, or several together ---- */

static qsae__output *open_output(const char *name)
{
    qsae__output *o = NULL;
    assert_ok(qsae__output_open(ctx, in(name), &o));
    assert_ok(qsae__output_append(o, wanted, strlen(wanted)));
    return o;
}

static void test_names(void **state)
{
    qsae__output *o = NULL;
    char here[512];
    (void)state;
    assert_fails(qsae__output_open(ctx, "", &o), QSAE_EINVAL, "its name is empty");
    assert_null(o);
    assert_fails(qsae__output_open(ctx, in("none/file"), &o), QSAE_ENOENT,
                 "none/file: cannot create");
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(folder), 0);
    assert_ok(qsae__file_write(ctx, "file", "abc", 3)); /* no folder in its name */
    assert_string_equal(text_of("file"), "abc");
    assert_int_equal(chdir(here), 0);
    qsae__output_discard(NULL);
    qsae__output_discard(&o);
    /* Letters that are taken are drawn again, a hundred times; and without a source of chance. */
    randoms.error = ENOSYS;
    o = open_output("file");
    qsae__output *other = open_output("file");
    randoms.error = 0;
    assert_string_not_equal(o->temp, other->temp);
    assert_int_equal(entries(), 3);
    qsae__output_discard(&o);
    qsae__output_discard(&other);
    inject_arm(INJECT_IO, 0, true, EEXIST);
    const int32_t st = qsae__output_open(ctx, in("file"), &o);
    assert_int_equal(inject_disarm(), 100);
    assert_fails(st, QSAE_EIO, "File exists");
    assert_int_equal(entries(), 1);
    empty_folder();
}

static void test_sizes(void **state)
{
    qsae__output *o = open_output("file");
    (void)state;
    assert_fails(qsae__output_patch(o, 8, "abcd", 4), QSAE_EINTERNAL, "bytes 8 to 12");
    assert_fails(qsae__output_patch(o, UINT64_MAX, "abcd", 4), QSAE_EINTERNAL, "not written yet");
    assert_ok(qsae__output_patch(o, 11, "", 0));
    o->size = UINT64_MAX - 2;
    assert_fails(qsae__output_append(o, "abc", 3), QSAE_EOVERFLOW, "too large");
    o->size = INT64_MAX - 2;
    assert_fails(qsae__output_append(o, "abc", 3), QSAE_EOVERFLOW, "too large");
    assert_true(o->size == INT64_MAX - 2);
    qsae__output_discard(&o);
    assert_int_equal(entries(), 0);
}

/* The call of a kind within a commit that fails with e. */
static int32_t commit_failing(qsae__output **o, enum inject_call call, int e)
{
    static const enum inject_call order[] = { CALL_OPEN, CALL_FSYNC, CALL_CLOSE, CALL_RENAME,
                                              CALL_FOLDER /* its fsync */ };
    int64_t at = 0;
    while (order[at] != call)
        at++;
    inject_arm(INJECT_IO, at, false, e);
    const int32_t st = qsae__output_commit(o);
    inject_disarm();
    assert_int_equal(inject_fired(), call == CALL_FOLDER ? CALL_FSYNC : call);
    assert_null(*o);
    return st;
}

/* What the old file was is known by its second name, where there are such. */
static void test_taking_place(void **state)
{
    (void)state;
    for (int old = 0; old < 2; old++)
        for (int linked = 0; linked < 2; linked++) {
            const char *const before = old ? "old" : "";
            links = (struct refusal){ .error = linked ? 0 : EPERM };
            if (old)
                put("file", before);
            qsae__output *o = open_output("file");
            assert_fails(commit_failing(&o, CALL_RENAME, EACCES), QSAE_EIO, "cannot rename to");
            assert_string_equal(text_of("file"), before);
            assert_int_equal(entries(), old);
            o = open_output("file");
            assert_fails(commit_failing(&o, CALL_FOLDER, EIO), QSAE_EIO, "cannot sync the folder");
            /* Nothing brings the old file back: the new one is left, whole. */
            assert_string_equal(text_of("file"), old && !linked ? wanted : before);
            assert_int_equal(entries(), old);
            o = open_output("file");
            assert_ok(commit_failing(&o, CALL_FOLDER, linked ? EINVAL : EROFS));
            assert_string_equal(text_of("file"), wanted);
            assert_int_equal(entries(), 1);
            empty_folder();
        }
    links = (struct refusal){ .error = 0 };
    /* Whether there was a file the system cannot tell: the new one is not taken away. */
    accesses.error = EIO;
    qsae__output *unknown = open_output("file");
    assert_fails(commit_failing(&unknown, CALL_FOLDER, EIO), QSAE_EIO, "cannot sync the folder");
    accesses.error = 0;
    assert_string_equal(text_of("file"), wanted);
    empty_folder();
    /* A second name that is taken is drawn again; after a hundred there is none. */
    put("file", "old");
    for (int taken = 1; taken <= 100; taken += 99) {
        qsae__output *o = open_output("file");
        links = (struct refusal){ .error = EEXIST };
        if (taken == 1)
            randoms.error = ENOSYS; /* letters by the clock */
        assert_ok(qsae__output_commit(&o));
        assert_int_equal(links.left, -100);
        assert_string_equal(text_of("file"), wanted);
        assert_int_equal(entries(), 1);
        randoms.error = links.error = 0;
    }
    empty_folder();
}

static void test_closing(void **state)
{
    (void)state;
    put("file", "old");
    qsae__output *o = open_output("file");
    assert_fails(commit_failing(&o, CALL_CLOSE, EIO), QSAE_EIO, "cannot close");
    assert_string_equal(text_of("file"), "old");
    o = open_output("file");
    assert_ok(commit_failing(&o, CALL_CLOSE, EINTR)); /* it has been closed all the same */
    assert_string_equal(text_of("file"), wanted);
    put("file", "old");
    o = open_output("file");
    inject_arm(INJECT_IO, 1, true, EDQUOT); /* the sync and what follows: the first is told */
    const int32_t st = qsae__output_commit(&o);
    inject_disarm();
    assert_fails(st, QSAE_EIO, "cannot sync");
    assert_string_equal(text_of("file"), "old");
    empty_folder();
}

static void test_folders(void **state)
{
    char *temp = NULL, inside[200];
    bool empty = false;
    (void)state;
    assert_ok(qsae__folder_free(in("none"), &empty));
    assert_true(empty);
    assert_ok(qsae__folder_free(folder, &empty));
    assert_true(empty);
    put("file", "old");
    assert_ok(qsae__folder_free(in("file"), &empty)); /* there, and no folder */
    assert_false(empty);
    inject_arm(INJECT_IO, 0, false, EACCES);
    assert_fails(qsae__folder_free(folder, &empty), QSAE_EIO, "cannot open");
    assert_false(empty);
    empty_folder();
    inject_arm(INJECT_IO, 1, false, EIO);
    assert_fails(qsae__folder_free(folder, &empty), QSAE_EIO, "cannot read");
    inject_disarm();
    mkdirs = (struct refusal){ .error = ENOSPC };
    assert_fails(qsae__folder_temp(ctx, in("made"), &temp), QSAE_EIO, "temporary folder beside it");
    assert_null(temp);
    mkdirs.error = 0;
    /* A file is where the folder would be: what was made stays its maker's. */
    put("made", "old");
    assert_ok(qsae__folder_temp(ctx, in("made"), &temp));
    assert_fails(qsae__folder_commit(ctx, temp, in("made")), QSAE_ENOENT, "cannot rename to");
    assert_string_equal(text_of("made"), "old");
    assert_fails(qsae__folder_commit(ctx, temp, "/proc"), QSAE_EIO, "/proc: cannot rename to");
    snprintf(inside, sizeof inside, "%s/file", temp);
    assert_ok(qsae__file_write(ctx, inside, "abc", 3));
    inject_arm(INJECT_MEMORY, 0, true, 0); /* none is needed */
    qsae__folder_remove(temp);
    inject_disarm();
    assert_false(qsae__folder_exists(temp));
    assert_int_equal(mkdir(temp, 0700), 0);
    inject_arm(INJECT_IO, 0, false, EINTR); /* its open */
    qsae__folder_remove(temp);
    assert_int_equal(inject_fired(), CALL_OPEN);
    inject_disarm();
    assert_true(!qsae__folder_exists(temp) && !qsae__file_exists(inside));
    qsae__free(ctx, temp);
    empty_folder();
}

static void note_name(void *cookie, enum inject_event event, const char *path, const char *other,
                      const void *data, size_t size, int64_t offset)
{
    (void)other;
    (void)data;
    (void)size;
    (void)offset;
    if (event == EVENT_CREATE)
        snprintf(cookie, 160, "%s", path);
}

/* A temporary file that something else writes to, cuts off, or that does not fit. */
static void test_spool(void **state)
{
    char data[8], path[64], name[160] = "";
    qsae__spool *s = NULL;
    qsae__spooled where;
    (void)state;
    qsae__spool_close(&s);
    assert_fails(qsae__spool_open(ctx, in("none"), 1, &s), QSAE_ENOENT, "cannot make");
    assert_fails(qsae__spool_open(ctx, folder, UINT64_MAX, &s), QSAE_EIO, "does not fit");
    assert_null(s);
    const int fd = free_descriptor();
    assert_ok(qsae__spool_open(ctx, folder, 8, &s));
    assert_int_equal(entries(), 0); /* it has no name */
    assert_ok(qsae__spool_append(s, "01234567", 8, &where));
    assert_ok(qsae__spool_read(s, &where, data));
    assert_memory_equal(data, "01234567", 8);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    FILE *const f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fputc('x', f), 'x');
    assert_int_equal(fclose(f), 0);
    assert_fails(qsae__spool_read(s, &where, data), QSAE_EIO, "checksum differs");
    assert_int_equal(truncate(path, 7), 0);
    assert_fails(qsae__spool_read(s, &where, data), QSAE_EIO, "has become shorter");
    qsae__spool_close(&s);
    assert_int_equal(free_descriptor(), fd);
    inject_listen(note_name, name); /* an interrupted call gave it no name: a new one is made */
    inject_arm(INJECT_IO, 1, false, EINTR);
    assert_ok(qsae__spool_open(ctx, folder, 8, &s));
    assert_int_equal(inject_disarm(), 4); /* statvfs, twice the name, unlink */
    inject_listen(NULL, NULL);
    assert_memory_equal(name, in("qsae-"), strlen(in("qsae-")));
    assert_int_equal(strlen(name), strlen(in("qsae-XXXXXX")));
    qsae__spool_close(&s);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call), cmocka_unit_test(test_names),
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_taking_place),
        cmocka_unit_test(test_closing),    cmocka_unit_test(test_folders),
        cmocka_unit_test(test_spool),
    };
    qsae_context_settings s;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    const char *const given = getenv("TMPDIR"); /* else where a sync takes no time */
    snprintf(folder, sizeof folder, "%s/qsae-outputs-XXXXXX",
             given                           ? given
             : access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                             : "/tmp");
    if (!mkdtemp(folder) || qsae_context_open(&s, &ctx) != QSAE_OK)
        return 1;
    const int failed = cmocka_run_group_tests_name("outputs", tests, NULL, NULL);
    qsae_context_close(&ctx);
    return rmdir(folder) == 0 ? failed : 1;
}
