/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every call that can fail beneath the library fails once, and from then on, under every public
 * function (reliability targets 6 and 7). Prints TAP lines.
 *
 *     test_faults [SCENARIO...]
 *     test_faults --list         calls of each kind in each scenario, and its time
 *
 * QSAE_LONG_TESTS=1: every index, or with QSAE_FAULTS_STEP=N every N-th (QSAE_FAULTS_FIRST=I: from
 * I on; so that N processes may share the work); else an even sample of each that takes some
 * seconds together.
 * QSAE_FAULTS=KIND,INDEX,MODE,WHAT (numbers): this one alone, in this process, for a debugger.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "branch.h"
#include "scenario.h"

enum mode { ONCE_THEN_AGAIN, ONWARDS_THEN_AGAIN, ONWARDS_THEN_CLOSE, MODES };
static const char *const mode_names[] = { "once", "from then on", "from then on, closed" };

struct what {
    const char *name;
    enum inject_kind kind;
    int what;
    bool transparent;        /* the library must not notice */
    int32_t threads;
};
static const struct what whats[] = {
    { "memory", INJECT_MEMORY, 0, false, 1 }, { "allocator", INJECT_HOOK, 0, false, 1 },
    { "map", INJECT_MAP, ENOMEM, false, 1 }, { "thread", INJECT_THREAD, 0, false, 3 },
    { "EIO", INJECT_IO, EIO, false, 1 },     { "ENOSPC", INJECT_IO, ENOSPC, false, 1 },
    { "EMFILE", INJECT_IO, EMFILE, false, 1 }, { "EINTR", INJECT_IO, EINTR, true, 1 },
    { "short", INJECT_IO, INJECT_SHORT, true, 1 },
};
enum { WHATS = sizeof whats / sizeof whats[0] };

/* What a child tells its parent, in shared memory. */
struct report {
    int64_t index;           /* being run */
    int64_t calls;           /* of the scenario */
    int64_t fired, failed, bad;
    char text[256];          /* of the first that is bad */
};

enum { BRANCHED_MOST = 4, REPORTS = 1 + BRANCHED_MOST * MODES };

static struct fixture fixture;
static bool lengthy;
static int64_t step = 1, first_index = -1;

/* A child ends here; with its destructors where they write what was reached (tests/coverage). */
static _Noreturn void leave(int status)
{
    if (getenv("LLVM_PROFILE_FILE"))
        exit(status);
    _exit(status);
}

static void play(const struct scenario *s, struct run *r)
{
    r->hash = 0xcbf29ce484222325u;
    r->again = false;
    r->sections = 0;
    s->play(r);
}

static struct run new_run(const struct what *w, enum mode mode)
{
    return (struct run){ .f = &fixture, .kind = w->kind, .hook = w->kind == INJECT_HOOK,
                         .threads = w->threads, .abandon = mode == ONWARDS_THEN_CLOSE };
}

/* What is held now, to be the same before and after. */
struct held {
    int64_t blocks, maps, hook;
    int descriptors;
};

static struct held held_now(const struct run *r)
{
    tzset(); /* which libzip calls: the C library keeps the name of the zone */
    return (struct held){ inject_blocks(), inject_maps(), r->hook_blocks, fixture_descriptors() };
}

/* "" or what went wrong in a run with a fault, in text: results, and what is held now, are not
 * those of a run without one. */
static void judge(const struct scenario *s, const struct what *w, const struct run *r,
                  const struct held *same, uint64_t want, bool repeated, char text[256])
{
    const struct held after = held_now(r);
    const int64_t extra = after.blocks - same->blocks;
    const bool closed = r->abandon && r->failures;
    if (r->wrong[0])
        snprintf(text, 256, "%.255s", r->wrong);
    else if (w->transparent && r->failures)
        snprintf(text, 256, "%.100s failed: %.120s", r->call, r->message);
    else if (repeated)
        snprintf(text, 256, "fsync was repeated after it failed");
    else if (!closed && r->hash != want)
        snprintf(text, 256, "other results (%.60s: %.100s)", r->call ? r->call : "no failure",
                 r->message);
    else if (after.hook != same->hook || extra > s->kept || extra < 0 || after.maps != same->maps ||
             after.descriptors != same->descriptors)
        snprintf(text, 256, "left behind: %lld of the allocator, %lld blocks, %lld maps, %d "
                 "descriptors (%.60s: %.60s)", (long long)(after.hook - same->hook),
                 (long long)extra, (long long)(after.maps - same->maps),
                 after.descriptors - same->descriptors, r->call ? r->call : "no failure",
                 r->message);
}

/* One fault. "" or what went wrong, in text. */
static void one(const struct scenario *s, const struct what *w, enum mode mode, int64_t index,
                uint64_t want, struct report *report, char text[256])
{
    struct run r = new_run(w, mode);
    const struct held before = held_now(&r);
    text[0] = '\0';
    inject_arm(w->kind, index, mode != ONCE_THEN_AGAIN, w->what);
    play(s, &r);
    inject_disarm();
    const enum inject_call fired = inject_fired();
    const bool repeated = inject_fsync_repeated();
    report->fired += fired != CALL_NONE;
    report->failed += r.failures > 0;
    if (r.again && !r.abandon && !r.wrong[0]) {
        if (s->writes)
            fixture_empty(fixture.scratch);
        play(s, &r);
    }
    judge(s, w, &r, &before, want, repeated, text);
    if (s->writes)
        fixture_empty(fixture.scratch);
}

/* In a child: all faults from `from` on. */
static void all_from(const struct scenario *s, const struct what *w, enum mode mode, int64_t from,
                     int64_t stride, struct report *report)
{
    char text[256];
    struct run r = new_run(w, mode);
    play(s, &r); /* warm: what libraries set up once */
    if (s->writes)
        fixture_empty(fixture.scratch);
    inject_arm(w->kind, -1, false, w->what);
    play(s, &r);
    report->calls = inject_disarm();
    if (s->writes)
        fixture_empty(fixture.scratch);
    const uint64_t want = r.hash;
    if (r.wrong[0]) {
        report->bad++;
        snprintf(report->text, sizeof report->text, "%.200s", r.wrong);
        leave(0);
    }
    for (int64_t i = from; i < report->calls; i += stride) {
        report->index = i;
        alarm(120);
        one(s, w, mode, i, want, report, text);
        if (!text[0])
            continue;
        if (report->bad++ == 0)
            snprintf(report->text, sizeof report->text, "%lld: %.230s", (long long)i, text);
        if (lengthy)
            printf("#   %s, %s, %s, call %lld: %s\n", s->name, w->name, mode_names[mode],
                   (long long)i, text);
        fflush(stdout);
    }
    report->index = report->calls;
    leave(0);
}

/* Faults of a kind in a scenario; a child that dies is followed by another behind that place. */
static bool series(const struct scenario *s, const struct what *w, enum mode mode, int64_t stride,
                   struct report *report)
{
    memset(report, 0, sizeof *report);
    for (int64_t from = first_index >= 0 ? first_index : stride / 2;;) {
        int status = 0;
        report->index = from - stride;
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0)
            all_from(s, w, mode, from, stride, report);
        if (child < 0 || waitpid(child, &status, 0) != child) {
            snprintf(report->text, sizeof report->text, "no child: %s", strerror(errno));
            return false;
        }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            return report->bad == 0;
        if (report->bad++ == 0)
            snprintf(report->text, sizeof report->text, "%lld: ended by signal %d",
                     (long long)report->index, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        if (lengthy)
            printf("#   %s, %s, %s, call %lld: signal %d\n", s->name, w->name, mode_names[mode],
                   (long long)report->index, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        fixture_empty(fixture.scratch);
        if (report->index < from) /* not even without a fault */
            return false;
        from = report->index + stride;
    }
}

/* ---- the scenarios that take long ---- */

enum { SECTIONS_MOST = 8 };

/* How a run without a fault stands at the ends of its sections, the last of all behind them. */
struct reference {
    uint64_t hash[SECTIONS_MOST + 1];
    struct held held[SECTIONS_MOST + 1];
    int n;
};

struct branches {
    const struct scenario *scenario;
    const struct what *what;
    struct reference reference;
    struct run *run;
    struct report *report;   /* [modes], shared with children */
    bool child;
    int mode;
};

static void note(struct run *r)
{
    struct reference *const to = r->cookie;
    if (to->n > SECTIONS_MOST)
        return;
    to->hash[to->n] = r->hash;
    to->held[to->n++] = held_now(r);
}

/* In a child whose fault has happened: what it did is known here, the rest is as without it. */
static void verdict(struct run *r)
{
    struct branches *const b = r->cookie;
    struct report *const report = &b->report[b->mode];
    char text[256] = "";
    if (!b->child)
        return;
    inject_disarm();
    const bool ended = r->sections >= b->reference.n; /* behind the last of them: in the end */
    const int at = ended || (r->abandon && r->failures) ? b->reference.n - 1 : r->sections - 1;
    report->fired += inject_fired() != CALL_NONE;
    report->failed += r->failures > 0;
    judge(b->scenario, b->what, r, &b->reference.held[at], b->reference.hash[at],
          inject_fsync_repeated(), text);
    if (text[0] && report->bad++ == 0)
        snprintf(report->text, sizeof report->text, "%lld: %.230s", (long long)report->index,
                 text);
    leave(0);
}

static void began(void *cookie, int64_t index, int mode)
{
    struct branches *const b = cookie;
    b->child = true;
    b->mode = mode;
    b->report[mode].index = index;
    b->run->abandon = mode == ONWARDS_THEN_CLOSE;
}

static void ended(void *cookie, int64_t index, int mode, int status)
{
    struct report *const report = &((struct branches *)cookie)->report[mode];
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (report->bad++ == 0)
        snprintf(report->text, sizeof report->text, "%lld: ended by signal %d, status %d",
                 (long long)index, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                 WIFEXITED(status) ? WEXITSTATUS(status) : 0);
}

static bool onwards(int mode)
{
    return mode != ONCE_THEN_AGAIN;
}

/* In a process of its own: the scenario once, with a child for each fault in each mode. */
static void branch_all(const struct scenario *s, const struct what *w, int64_t first,
                       int64_t stride, struct report *report)
{
    struct branches b = { .scenario = s, .what = w, .report = report };
    const struct branch how = { .folder = fixture.scratch, .modes = MODES, .first = first,
                                .stride = stride, .onwards = onwards, .began = began,
                                .ended = ended, .cookie = &b };
    for (int i = 0; i < 2; i++) { /* the first warms up what libraries set up once */
        struct run r = new_run(w, ONCE_THEN_AGAIN);
        b.reference.n = 0;
        r.section = note;
        r.cookie = &b.reference;
        play(s, &r);
        note(&r);
        fixture_empty(fixture.scratch);
        if (r.wrong[0])
            leave(4);
    }
    struct run r = new_run(w, ONCE_THEN_AGAIN);
    b.run = &r;
    r.section = verdict;
    r.cookie = &b;
    branch_arm(w->kind, w->what, &how);
    play(s, &r);
    if (b.child && r.again && !r.abandon && !r.wrong[0]) {
        inject_disarm();
        fixture_empty(fixture.scratch);
        play(s, &r);
    }
    r.sections = b.reference.n;
    verdict(&r); /* of a child */
    report->calls = inject_disarm();
    fixture_empty(fixture.scratch);
    leave(r.hash == b.reference.hash[b.reference.n - 1] ? 0 : 5);
}

static bool branch_series(const struct scenario *s, const struct what *w, int64_t stride,
                          struct report *report)
{
    int status = 0;
    memset(report, 0, MODES * sizeof *report);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0)
        branch_all(s, w, first_index >= 0 ? first_index : stride / 2, stride, report);
    const bool done = child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
                      WEXITSTATUS(status) == 0;
    fixture_empty(fixture.scratch);
    for (int mode = 0; mode < MODES && !done; mode++)
        if (report[mode].bad++ == 0)
            snprintf(report[mode].text, sizeof report->text, "without a fault: status %d", status);
    return done;
}

/* Memory alone is asked for so often, and files that a fault leaves are for the others. */
static bool branches(const struct scenario *s, const struct what *w)
{
    return s->branches && inject_has_memory() &&
           (w->kind == INJECT_MEMORY || w->kind == INJECT_HOOK);
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc < 2;
}

/* Every function of the map is in a scenario. */
static int check_coverage(void)
{
    bool bad = false;
    for (int i = 0; i < n_scenarios; i++) {
        struct run r = new_run(&whats[0], ONCE_THEN_AGAIN);
        play(&scenarios[i], &r);
        if (r.wrong[0])
            printf("# %s: %s\n", scenarios[i].name, r.wrong);
        bad |= r.wrong[0] != 0;
        fixture_empty(fixture.scratch);
    }
    bad |= uncovered(QSAE_TEST_MAP) != 0;
    printf("%sok 1 - every public function is in a scenario\n", bad ? "not " : "");
    return bad;
}

static int single(const char *text, const char *name)
{
    int kind, mode;
    long long index;
    struct report report = { 0 };
    char found[256];
    if (sscanf(text, "%d,%lld,%d", &kind, &index, &mode) != 3 || kind >= WHATS || mode >= MODES)
        return 2;
    for (int i = 0; i < n_scenarios; i++) {
        if (strcmp(scenarios[i].name, name) != 0)
            continue;
        struct run r = new_run(&whats[kind], (enum mode)mode);
        play(&scenarios[i], &r);
        fixture_empty(fixture.scratch);
        inject_trace(true);
        one(&scenarios[i], &whats[kind], (enum mode)mode, index, r.hash, &report, found);
        printf("%s\n", found);
    }
    return 0;
}

/* Some of each; of a scenario that takes long, one. */
static int64_t stride_of(const struct scenario *s, const struct what *w)
{
    struct run r = new_run(w, ONCE_THEN_AGAIN);
    if (lengthy)
        return step;
    inject_arm(w->kind, -1, false, w->what);
    const clock_t before = clock();
    play(s, &r);
    const double seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    const int64_t calls = inject_disarm(), most = seconds > 0.02 ? 1 : seconds > 0.004 ? 4 : 12;
    fixture_empty(fixture.scratch);
    return calls > most ? calls / most : 1;
}

/* Calls of each kind in each scenario, and how long it takes. */
static int list(void)
{
    for (int i = 0; i < n_scenarios; i++) {
        printf("%-10s", scenarios[i].name);
        for (int w = 0; w < WHATS; w++) {
            struct run r = new_run(&whats[w], ONCE_THEN_AGAIN);
            play(&scenarios[i], &r);
            fixture_empty(fixture.scratch);
            inject_arm(whats[w].kind, -1, false, whats[w].what);
            const clock_t before = clock();
            play(&scenarios[i], &r);
            printf(" %s %lld (%.1f ms)", whats[w].name, (long long)inject_disarm(),
                   1e3 * (double)(clock() - before) / CLOCKS_PER_SEC);
            fixture_empty(fixture.scratch);
        }
        printf("\n");
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *const v = getenv("QSAE_LONG_TESTS"), *const alone = getenv("QSAE_FAULTS");
    lengthy = v && *v == '1';
    if (getenv("QSAE_FAULTS_STEP") && atoll(getenv("QSAE_FAULTS_STEP")) > 0)
        step = atoll(getenv("QSAE_FAULTS_STEP"));
    if (getenv("QSAE_FAULTS_FIRST"))
        first_index = atoll(getenv("QSAE_FAULTS_FIRST"));
    struct report *const report = mmap(NULL, REPORTS * sizeof *report, PROT_READ | PROT_WRITE,
                                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED || !fixture_make(&fixture))
        return 1;
    int failed = 0, n = 1;
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        failed = list();
        fixture_remove(&fixture);
        return failed;
    }
    if (alone && argc > 1) {
        failed = single(alone, argv[1]);
        fixture_remove(&fixture);
        return failed;
    }
    failed = check_coverage();
    for (int w = 0; w < WHATS; w++)
        for (int mode = 0; mode < MODES; mode++) {
            if ((whats[w].kind == INJECT_MEMORY && !inject_has_memory()) ||
                (whats[w].transparent && mode != ONCE_THEN_AGAIN))
                continue;
            int64_t fired = 0, statuses = 0, bad = 0;
            struct report *branched = report + 1;
            for (int i = 0; i < n_scenarios; i++) {
                const struct scenario *const s = &scenarios[i];
                struct report *of = report;
                if (!wanted(s->name, argc, argv))
                    continue;
                if (branches(s, &whats[w])) {
                    if (mode == 0)
                        branch_series(s, &whats[w], stride_of(s, &whats[w]), branched);
                    of = branched + mode;
                    branched += MODES;
                } else {
                    series(s, &whats[w], (enum mode)mode, stride_of(s, &whats[w]), of);
                }
                if (of->bad)
                    printf("# %s, %s, %s: %lld bad, the first at call %s\n", s->name,
                           whats[w].name, mode_names[mode], (long long)of->bad, of->text);
                bad += of->bad;
                fired += of->fired;
                statuses += of->failed;
            }
            printf("%sok %d - %s, %s: %lld faults, %lld statuses\n", bad ? "not " : "", ++n,
                   whats[w].name, mode_names[mode], (long long)fired, (long long)statuses);
            fflush(stdout);
            failed |= bad > 0;
        }
    printf("1..%d\n", n);
    fixture_remove(&fixture);
    return failed;
}
