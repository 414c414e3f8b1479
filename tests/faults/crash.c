/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is left of a file when the process is killed or the power fails while it is written over
 * (reliability target 8): the old bytes or the new ones, both of which load. Prints TAP lines.
 * Folders of weights: none or whole.
 *
 * QSAE_LONG_TESTS=1: 10,000 kills at random times; else 150.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <qsae/qsae.h>

#include "fixture.h"
#include "inject.h"

enum { ROWS = 700, VOCAB = 16, CONTEXT = 8, CHUNKS = 2 };

static struct fixture fixture;
static char target[256], old_file[256], new_file[256];

/* ---- what is written ---- */

static bool metric_of(qsae_context *ctx, int version, qsae_metric **m)
{
    float nll[ROWS];
    for (int i = 0; i < ROWS; i++)
        nll[i] = (float)(1 + version) * 0.25f * (float)(i % 9);
    return qsae_metric_open_cross_entropy(ctx, NULL, m) == QSAE_OK &&
           qsae_metric_update_cross_entropy(*m, NULL, ROWS, nll) == QSAE_OK;
}

static bool save_metric(qsae_context *ctx, int version, const char *path)
{
    qsae_metric *m = NULL;
    const bool done = metric_of(ctx, version, &m) && qsae_metric_save(m, path) == QSAE_OK;
    qsae_metric_close(&m);
    return done;
}

static bool load_metric(qsae_context *ctx, const char *path)
{
    qsae_metric *m = NULL;
    const bool done = qsae_metric_open_cross_entropy(ctx, NULL, &m) == QSAE_OK &&
                      qsae_metric_load(m, path) == QSAE_OK;
    qsae_metric_close(&m);
    return done;
}

static bool save_logits(qsae_context *ctx, int version, const char *path)
{
    const qsae_logits_info shape = { .struct_size = sizeof shape, .context = CONTEXT,
                                     .vocab = VOCAB, .chunks = CHUNKS };
    const int64_t rows = CHUNKS * (CONTEXT - 1 - CONTEXT / 2);
    float x[CHUNKS * CONTEXT * VOCAB];
    int32_t tokens[CHUNKS * CONTEXT];
    qsae_logits_writer *w = NULL;
    for (int i = 0; i < CHUNKS * CONTEXT * VOCAB; i++)
        x[i] = (float)((i * (7 + version)) % 13);
    for (int i = 0; i < CHUNKS * CONTEXT; i++)
        tokens[i] = (i + version) % VOCAB;
    const qsae_rows logits = { .struct_size = sizeof logits, .data = x, .n_rows = rows,
                               .n_cols = VOCAB, .row_stride = VOCAB, .dtype = QSAE_F32 };
    const bool done = qsae_logits_writer_open(ctx, path, &shape, tokens, &w) == QSAE_OK &&
                      qsae_logits_writer_add(w, &logits) == QSAE_OK &&
                      qsae_logits_writer_finish(w) == QSAE_OK;
    qsae_logits_writer_close(&w);
    return done;
}

static bool load_logits(qsae_context *ctx, const char *path)
{
    qsae_logits_reader *r = NULL;
    const bool done = qsae_logits_reader_open(ctx, path, &r) == QSAE_OK;
    qsae_logits_reader_close(&r);
    return done;
}

/* A state of an audit: shard `version` of two. Merging it alone reads all of it. */
static bool save_state(qsae_context *ctx, int version, const char *path)
{
    const char *const conditions[] = { "rtn:bits=4" };
    qsae_audit *a = NULL;
    qsae_audit_settings s;
    qsae_audit_settings_init(&s, sizeof s);
    s.model = fixture.model;
    s.text = fixture.jsonl;
    s.conditions = conditions;
    s.n_conditions = 1;
    s.context = 20;
    s.batch = 2;
    s.profile = QSAE_PROFILE_PAPER;
    s.max_tokens = 80 << version;
    /* Not there when the audit is opened, or it would go on from it. */
    char own[300];
    snprintf(own, sizeof own, "%s.own", path);
    s.state = own;
    const char *const one = own;
    const bool done = qsae_audit_open(ctx, &s, &a) == QSAE_OK && qsae_audit_run(a) == QSAE_OK &&
                      qsae_audit_merge(ctx, &one, 1, path, 0, NULL) == QSAE_OK;
    qsae_audit_close(&a);
    unlink(own);
    return done;
}

static bool load_state(qsae_context *ctx, const char *path)
{
    char out[300];
    snprintf(out, sizeof out, "%s.read", path);
    const bool done = qsae_audit_merge(ctx, &path, 1, out, 0, NULL) == QSAE_OK;
    unlink(out);
    return done;
}

/* Writes a state over: what an audit does at the end and every minute. */
static bool merge_state(qsae_context *ctx, int version, const char *path)
{
    const char *const from = version ? new_file : old_file;
    return qsae_audit_merge(ctx, &from, 1, path, 0, NULL) == QSAE_OK;
}

static const struct kind {
    const char *name;
    bool (*make)(qsae_context *, int, const char *);  /* the two files to compare with */
    bool (*save)(qsae_context *, int, const char *);
    bool (*load)(qsae_context *, const char *);
} kinds[] = {
    { "state of a metric", save_metric, save_metric, load_metric },
    { "base-logit file", save_logits, save_logits, load_logits },
    { "state of an audit", save_state, merge_state, load_state },
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

/* ---- files ---- */

static int64_t contents(const char *path, char **data)
{
    struct stat info;
    *data = NULL;
    const int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &info) != 0)
        return -1;
    *data = malloc((size_t)info.st_size + 1);
    const int64_t n = *data ? read(fd, *data, (size_t)info.st_size) : -1;
    close(fd);
    return n;
}

static bool equal(const char *a, const char *b)
{
    char *x, *y;
    const int64_t n = contents(a, &x), m = contents(b, &y);
    const bool same = n == m && n >= 0 && memcmp(x, y, (size_t)n) == 0;
    free(x);
    free(y);
    return same;
}

static bool put(const char *path, const char *data, int64_t n)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    const bool done = fd >= 0 && write(fd, data, (size_t)n) == n;
    if (fd >= 0)
        close(fd);
    return done;
}

static bool copy(const char *from, const char *to)
{
    char *data;
    const int64_t n = contents(from, &data);
    const bool done = n >= 0 && put(to, data, n);
    free(data);
    return done;
}

static qsae_context *open_one(void)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    return qsae_context_open(&s, &ctx) == QSAE_OK ? ctx : NULL;
}

/* Old or new, and it loads. */
static bool sound(qsae_context *ctx, const struct kind *k, bool *is_new)
{
    *is_new = equal(target, new_file);
    return (*is_new || equal(target, old_file)) && k->load(ctx, target);
}

static void clear(void)
{
    fixture_empty(fixture.scratch);
    (void)copy(old_file, target);
}

/* ---- killed ---- */

static int killed_at_calls(qsae_context *ctx, const struct kind *k, int *n)
{
    int bad = 0, news = 0, calls = 0;
    for (int at = 0;; at++) {
        int status;
        bool is_new;
        clear();
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            qsae_context *own = open_one();
            inject_arm(INJECT_IO, at, false, INJECT_KILL);
            _exit(own && k->save(own, 1, target) ? 0 : 1);
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            return 1;
        bad += !sound(ctx, k, &is_new);
        news += is_new;
        if (!WIFSIGNALED(status)) { /* beyond the last call */
            bad += !is_new || WEXITSTATUS(status) != 0;
            break;
        }
        calls++;
    }
    printf("%sok %d - %s: killed at each of %d calls: %d old, %d new\n", bad ? "not " : "", ++*n,
           k->name, calls, calls + 1 - news, news);
    return bad;
}

/* The child writes the two in turns, as fast as it can. */
static int killed_at_times(qsae_context *ctx, const struct kind *k, int times, int *n)
{
    int bad = 0, news = 0;
    uint32_t seed = 7;
    for (int i = 0; i < times; i++) {
        int status, ready[2];
        char byte;
        bool is_new;
        clear();
        fflush(stdout);
        const pid_t child = pipe(ready) == 0 ? fork() : -1;
        if (child == 0) {
            qsae_context *own = open_one();
            if (write(ready[1], "", 1) != 1)
                _exit(1);
            int v = 1;
            while (own && k->save(own, v, target))
                v = 1 - v;
            _exit(1);
        }
        if (child < 0)
            return 1;
        seed = seed * 1664525u + 1013904223u;
        const struct timespec wait = { .tv_nsec = (long)(seed >> 8) % 4000000 };
        bad += read(ready[0], &byte, 1) != 1;
        close(ready[0]);
        close(ready[1]);
        nanosleep(&wait, NULL);
        kill(child, SIGKILL);
        if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status))
            bad++;
        bad += !sound(ctx, k, &is_new);
        news += is_new;
    }
    printf("%sok %d - %s: killed at %d random times: %d old, %d new\n", bad ? "not " : "", ++*n,
           k->name, times, times - news, news);
    return bad;
}

/* ---- the power fails ---- */

/*
 * A model of a disk, harsher than journals are: what was written since the last fsync of a file may
 * be lost, torn, or there as zeros, each write by itself; a change of names is lost or there unless
 * the folder was synced since, each by itself, but those of one name in their order.
 */
enum { EVENTS = 64, FILES = 8 };
struct event {
    enum inject_event kind;
    char path[256], other[256];
    char *data;
    size_t size;
    int64_t offset;
};
static struct event events[EVENTS];
static int n_events;

static void record(void *cookie, enum inject_event kind, const char *path, const char *other,
                   const void *data, size_t size, int64_t offset)
{
    (void)cookie;
    if (n_events >= EVENTS)
        return;
    struct event *const e = &events[n_events++];
    e->kind = kind;
    snprintf(e->path, sizeof e->path, "%s", path);
    snprintf(e->other, sizeof e->other, "%s", other ? other : "");
    e->data = size ? malloc(size) : NULL;
    if (e->data)
        memcpy(e->data, data, size);
    e->size = size;
    e->offset = offset;
}

struct file {
    char *data;
    int64_t size;
};

/* Contents of the file that was created first, after `until` events: synced writes and, of the
 * others, what `how` says of each (2 bits: lost, whole, half, zeros). */
static bool rebuild(int until, uint32_t how, struct file *f, int *loose)
{
    int synced = -1;
    *loose = 0;
    f->size = 0;
    for (int i = 0; i < until; i++)
        if (events[i].kind == EVENT_FSYNC)
            synced = i;
    for (int i = 0; i < until; i++) {
        const struct event *const e = &events[i];
        if (e->kind != EVENT_WRITE)
            continue;
        int64_t n = (int64_t)e->size;
        uint32_t fate = 1;
        if (i > synced) {
            fate = how >> 2 * *loose & 3;
            ++*loose;
        }
        if (fate == 0)
            continue;
        n = fate == 2 ? n / 2 : n;
        if (e->offset + n > f->size) {
            char *const grown = realloc(f->data, (size_t)(e->offset + n));
            if (!grown)
                return false;
            memset(grown + f->size, 0, (size_t)(e->offset + n - f->size));
            f->data = grown;
            f->size = e->offset + n;
        }
        if (fate == 3)
            memset(f->data + e->offset, 0, (size_t)n);
        else
            memcpy(f->data + e->offset, e->data, (size_t)n);
    }
    return true;
}

/* Whether the name leads to the new file after `until` events, of which the loose renames happened
 * on disk as the bits of `names` say; durable: it must. */
static bool renamed(int until, uint32_t names, int *loose, bool *durable)
{
    int synced = -1, k = 0;
    bool is_new = false;
    *durable = false;
    for (int i = 0; i < until; i++)
        if (events[i].kind == EVENT_FSYNC_FOLDER)
            synced = i;
    for (int i = 0; i < until; i++) {
        if (events[i].kind != EVENT_RENAME || strcmp(events[i].other, target) != 0)
            continue;
        if (i < synced)
            is_new = *durable = true;
        else if (names >> k++ & 1)
            is_new = true;
    }
    *loose = k;
    return is_new;
}

static int power_fails(qsae_context *ctx, const struct kind *k, int *n)
{
    int bad = 0, states = 0;
    struct file f = { .data = NULL };
    clear();
    n_events = 0;
    inject_listen(record, NULL);
    const bool saved = k->save(ctx, 1, target);
    inject_listen(NULL, NULL);
    for (int until = 0; until <= n_events; until++)
        for (uint32_t names = 0; names < 2; names++) {
            int loose, loose_names;
            bool durable, is_new;
            const bool there = renamed(until, names, &loose_names, &durable);
            if (names >= 1u << loose_names)
                continue;
            (void)rebuild(until, 0, &f, &loose);
            /* More than 5 writes at a time: each fate for all of them, and each write alone. */
            const uint32_t many = (uint32_t)(loose < 16 ? loose : 16),
                           ways = loose <= 5 ? 1u << 2 * loose : 4 * many;
            for (uint32_t how = 0; how < ways; how++) {
                clear();
                const uint32_t fate = loose <= 5 ? how : 0x55555555u ^ (how & 3) << 2 * (how / 4);
                if (!rebuild(until, fate, &f, &loose))
                    return 1;
                if (there)
                    (void)put(target, f.data, f.size);
                states++;
                bad += !sound(ctx, k, &is_new) || (durable && !is_new);
            }
        }
    int file = -1, name = -1, folder = -1;
    for (int i = 0; i < n_events; i++) {
        if (events[i].kind == EVENT_FSYNC)
            file = i;
        if (events[i].kind == EVENT_RENAME)
            name = i;
        if (events[i].kind == EVENT_FSYNC_FOLDER)
            folder = i;
        free(events[i].data);
    }
    const bool synced_first = file >= 0 && file < name && name < folder;
    free(f.data);
    bad += !saved || !synced_first || n_events >= EVENTS || states < 8;
    printf("%sok %d - %s: %d states that a loss of power may leave, of %d events\n",
           bad ? "not " : "", ++*n, k->name, states, n_events);
    return bad;
}

/* The model finds what it is for: a rename whose file was not synced before. */
static int canary(qsae_context *ctx, int *n)
{
    const struct kind *const k = &kinds[0];
    int found = 0, loose, loose_names;
    bool durable, is_new;
    struct file f = { .data = NULL };
    clear();
    n_events = 0;
    inject_listen(record, NULL);
    (void)k->save(ctx, 1, target);
    inject_listen(NULL, NULL);
    for (int i = 0; i < n_events; i++)
        if (events[i].kind == EVENT_FSYNC)
            events[i].kind = EVENT_UNLINK; /* as if it had not been called */
    for (uint32_t how = 0; how < 4; how++) {
        clear();
        if (renamed(n_events, 1, &loose_names, &durable) && rebuild(n_events, how, &f, &loose))
            (void)put(target, f.data, f.size);
        found += !sound(ctx, k, &is_new);
    }
    for (int i = 0; i < n_events; i++)
        free(events[i].data);
    free(f.data);
    printf("%sok %d - without fsync the same states are found broken: %d of 4\n",
           found == 3 ? "" : "not ", ++*n, found);
    return found != 3;
}

/* ---- folders ---- */

static bool save_folder(qsae_context *ctx, const char *path)
{
    qsae_weights *w = NULL;
    qsae_save_settings ss;
    qsae_save_settings_init(&ss, sizeof ss);
    const bool done = qsae_weights_open(ctx, fixture.model, &w) == QSAE_OK &&
                      qsae_weights_save(w, "nf4", path, &ss) == QSAE_OK;
    qsae_weights_close(&w);
    return done;
}

/* The files of one are in the other, with their bytes. */
static bool same_files(const char *one, const char *other)
{
    char a[600], b[600];
    bool same = fixture_count(one) == fixture_count(other);
    DIR *const dir = opendir(one);
    for (struct dirent *e; dir && same && (e = readdir(dir));) {
        snprintf(a, sizeof a, "%s/%s", one, e->d_name);
        snprintf(b, sizeof b, "%s/%s", other, e->d_name);
        same = e->d_name[0] == '.' || equal(a, b);
    }
    if (dir)
        closedir(dir);
    return same && dir;
}

struct order {
    int files;               /* fsyncs of them */
    bool synced, named, bad, parent;
};

/* The folder gets its name when all in it is on the disk, and its own names are. */
static void watch(void *cookie, enum inject_event kind, const char *path, const char *other,
                  const void *data, size_t size, int64_t offset)
{
    struct order *const o = cookie;
    (void)data;
    (void)size;
    (void)offset;
    const bool named = kind == EVENT_RENAME && strcmp(other, target) == 0;
    o->files += kind == EVENT_FSYNC;
    o->synced |= kind == EVENT_FSYNC_FOLDER && !o->named && strstr(path, ".tmp-");
    o->parent |= kind == EVENT_FSYNC_FOLDER && o->named && strcmp(path, fixture.scratch) == 0;
    o->bad |= named && (!o->synced || o->files < 2);
    o->named |= named;
}

/* Killed at calls of a save, `by` apart: there is no folder of that name, or all of it. */
static int folder_killed(qsae_context *ctx, int by, int *n)
{
    char whole[300];
    struct order order = { 0 };
    int bad = 0, news = 0, calls = 0, unfinished = 0, refused = 0, status = 0;
    snprintf(whole, sizeof whole, "%s/whole", fixture.folder);
    snprintf(target, sizeof target, "%s/folder", fixture.scratch);
    fixture_empty(fixture.scratch);
    inject_listen(watch, &order);
    bad += !save_folder(ctx, target);
    inject_listen(NULL, NULL);
    bad += rename(target, whole) != 0 || order.bad || !order.named || !order.parent;
    for (int at = 0; bad == 0; at += by) {
        fixture_empty(fixture.scratch);
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            qsae_context *own = open_one();
            inject_arm(INJECT_IO, at, false, INJECT_KILL);
            _exit(own && save_folder(own, target) ? 0 : 1);
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            return 1;
        const bool is_new = access(target, F_OK) == 0;
        qsae_weights *w = NULL;
        bad += is_new && (!same_files(whole, target) ||
                          qsae_weights_open(ctx, target, &w) != QSAE_OK);
        qsae_weights_close(&w);
        /* What is left beside it has a name that tells; a save to the place goes on as ever. */
        unfinished += fixture_count(fixture.scratch) > is_new;
        news += is_new;
        if (!WIFSIGNALED(status)) {
            bad += !is_new || WEXITSTATUS(status) != 0;
            break;
        }
        if (!is_new && calls++ % 8 == 0)
            bad += !save_folder(ctx, target) || !same_files(whole, target);
        else if (is_new) /* a folder that is there is not written over */
            refused += !save_folder(ctx, target);
    }
    bad += news == 0 || refused < news - 1 || unfinished == 0;
    printf("%sok %d - a folder of weights: killed at %d calls: %d none, %d whole; %d unfinished "
           "beside it\n", bad ? "not " : "", ++*n, calls + news, calls, news, unfinished);
    return bad;
}

int main(void)
{
    const char *const v = getenv("QSAE_LONG_TESTS");
    const int times = v && *v == '1' ? 10000 : 150;
    int n = 0, bad = 0;
    if (!fixture_make(&fixture))
        return 1;
    snprintf(target, sizeof target, "%s/file", fixture.scratch);
    snprintf(old_file, sizeof old_file, "%s/old", fixture.folder);
    snprintf(new_file, sizeof new_file, "%s/new", fixture.folder);
    qsae_context *ctx = open_one();
    for (int i = 0; i < KINDS && ctx; i++) {
        const struct kind *const k = &kinds[i];
        if (!k->make(ctx, 0, old_file) || !k->make(ctx, 1, new_file)) {
            printf("not ok %d - %s: cannot be written: %s\n", ++n, k->name, qsae_error_message());
            bad++;
            continue;
        }
        bad += killed_at_calls(ctx, k, &n);
        bad += killed_at_times(ctx, k, times / KINDS + 1, &n);
        bad += power_fails(ctx, k, &n);
        if (i == 0)
            bad += canary(ctx, &n);
    }
    if (ctx)
        bad += folder_killed(ctx, times > 1000 ? 1 : 7, &n);
    qsae_context_close(&ctx);
    fixture_remove(&fixture);
    printf("1..%d\n", n);
    return bad > 0 || n == 0;
}
