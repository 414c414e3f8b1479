/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Programs whose calls fail beneath them (reliability targets 6 and 7): the old result file stays
 * as it was, or the new one is whole; a failure is an exit status and a message. Prints TAP lines.
 *
 *     test_fault_programs FOLDER PRELOAD     of the programs; the library that has preload.c
 *
 * QSAE_LONG_TESTS=1: every call (QSAE_FAULTS_STEP=N: every N-th); else a few of each kind.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"
#include "inject.h"

enum { ARGUMENTS = 24, MOST = 1 << 20, FEW = 3 };

static struct fixture fixture;
static const char *folder, *preload;
static char out_path[300], state_path[300], report_path[300];

struct program {
    const char *name;        /* in the lines of the test */
    const char *arguments[ARGUMENTS];
    bool writes, prints;     /* OUT; something on standard output, where OUT may be - */
};
static const struct program programs[] = {
    { "evaluate --json", { "evaluate", "MODEL", "--sae", "SAE", "--text", "TEXT", "--condition",
                    "rtn:bits=4", "--tokens", "80", "--context", "20", "--batch", "2", "--threads",
                    "1", "--quiet", "--json", "OUT", NULL }, true, true },
    { "evaluate --features", { "evaluate", "MODEL", "--sae", "SAE", "--text", "TEXT", "--condition",
                               "rtn:bits=4", "--tokens", "80", "--context", "20", "--batch", "2",
                               "--threads", "1", "--quiet", "--features", "OUT", NULL },
      true, true },
    { "merge", { "merge", "OUT", "STATE", NULL }, true, false },
    { "rows", { "rows", "--version", NULL }, false, true },
};

struct outcome {
    int status;              /* of wait() */
    long long calls;
    int fired, repeated;
    size_t words;            /* on standard error */
};

static size_t content(const char *path, char *to)
{
    FILE *const f = fopen(path, "rb");
    const size_t n = f ? fread(to, 1, MOST - 1, f) : 0;
    if (f)
        fclose(f);
    to[n] = '\0';
    return n;
}

static bool put(const char *path, const char *text)
{
    FILE *const f = fopen(path, "wb");
    const bool written = f && fputs(text, f) >= 0;
    return f && fclose(f) == 0 && written;
}

/* Lines of what differs from run to run are cut out. */
static void without_times(char *text)
{
    static const char *const own[] = { "seconds", "_per_second", "peak_rss" };
    char *to = text;
    for (char *p = text; *p;) {
        const size_t n = strcspn(p, "\n") + (p[strcspn(p, "\n")] != '\0');
        bool differs = false;
        for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
            differs |= memmem(p, n, own[i], strlen(own[i])) != NULL;
        if (!differs) {
            memmove(to, p, n);
            to += n;
        }
        p += n;
    }
    *to = '\0';
}

static const char *argument(const char *name)
{
    static const struct {
        const char *name, *value;
    } known[] = { { "MODEL", fixture.model }, { "SAE", fixture.sae }, { "TEXT", fixture.jsonl },
                  { "OUT", out_path }, { "STATE", state_path } };
    for (size_t i = 0; name && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].value;
    return name;
}

/* Runs it. file_size: most bytes of a file, < 0: any. out: standard output, NULL: none. */
static struct outcome run(const struct program *p, const char *inject, long file_size,
                          const char *out)
{
    struct outcome o = { 0 };
    char path[600];
    static char words[1 << 12];
    char *arguments[ARGUMENTS] = { NULL };
    for (int i = 0; p->arguments[i]; i++)
        arguments[i] = (char *)(uintptr_t)argument(p->arguments[i]);
    snprintf(path, sizeof path, "%s/%s", folder, p->arguments[0]);
    unlink(report_path);
    fflush(stdout);
    int ends[2]; /* standard error: a pipe, which takes a message where files are full */
    if (pipe(ends) != 0)
        return (struct outcome){ .status = -1 };
    const pid_t child = fork();
    if (child == 0) {
        const int s = open(out ? out : "/dev/null", O_WRONLY);
        if (dup2(ends[1], 2) < 0 || s < 0 || dup2(s, 1) < 0)
            _exit(98);
        close(ends[0]);
        close(ends[1]);
        close(s);
        if (file_size >= 0) {
            const struct rlimit limit = { (rlim_t)file_size, (rlim_t)file_size };
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &limit);
        } else {
            setenv("LD_PRELOAD", preload, 1);
            setenv("QSAE_INJECT", inject, 1);
            setenv("QSAE_INJECT_REPORT", report_path, 1);
        }
        alarm(120);
        execv(path, arguments);
        _exit(97);
    }
    if (child < 0 || waitpid(child, &o.status, 0) != child)
        o.status = -1;
    close(ends[1]);
    for (ssize_t got; (got = read(ends[0], words, sizeof words)) > 0;)
        o.words += (size_t)got;
    close(ends[0]);
    FILE *const f = fopen(report_path, "r");
    if (f && fscanf(f, "%lld %d %d", &o.calls, &o.fired, &o.repeated) != 3)
        o.calls = -1;
    if (f)
        fclose(f);
    return o;
}

/* "" or what is wrong with a run, whose result file held "old\n" before. */
static const char *judge(const struct outcome *o, const char *want, bool transparent)
{
    static char now[MOST];
    content(out_path, now);
    without_times(now);
    const bool done = WIFEXITED(o->status) && WEXITSTATUS(o->status) == 0;
    if (!WIFEXITED(o->status))
        return "ended by a signal";
    if (WEXITSTATUS(o->status) > 90)
        return "did not start";
    if (o->repeated)
        return "fsync was repeated after it failed";
    if (done && strcmp(now, want) != 0)
        return "status 0 without its result";
    if (!done && transparent)
        return "failed";
    if (!done && o->words == 0)
        return "no message";
    if (!done && strcmp(now, "old\n") != 0)
        return "the old file is gone";
    return "";
}

struct kind {
    const char *name;
    int kind, what;
    bool transparent, onwards;
};
static const struct kind kinds[] = {
    { "memory", INJECT_MEMORY, 0, false, false },
    { "memory from then on", INJECT_MEMORY, 0, false, true },
    { "map", INJECT_MAP, 0, false, false },
    { "EIO", INJECT_IO, EIO, false, false },
    { "ENOSPC", INJECT_IO, ENOSPC, false, true },
    { "EMFILE", INJECT_IO, EMFILE, false, false },
    { "EINTR", INJECT_IO, EINTR, true, false },
    { "short", INJECT_IO, INJECT_SHORT, true, false },
};

static bool lengthy;
static long long step = 1;

/* All faults of a kind in a program; how many were bad. */
static int series(const struct program *p, const struct kind *k, const char *want, int64_t *faults)
{
    char inject[96];
    int bad = 0;
    snprintf(inject, sizeof inject, "%d,-1,0,%d", k->kind, k->what);
    put(out_path, "old\n");
    const struct outcome plain = run(p, inject, -1, NULL);
    const long long stride = lengthy ? step : plain.calls / FEW + 1;
    for (long long i = stride / 2; i < plain.calls; i += stride) {
        snprintf(inject, sizeof inject, "%d,%lld,%d,%d", k->kind, i, k->onwards, k->what);
        put(out_path, "old\n");
        const struct outcome o = run(p, inject, -1, NULL);
        const char *const text = judge(&o, want, k->transparent);
        ++*faults;
        if (text[0] && bad++ < 5)
            printf("# %s, %s, call %lld: %s (status %#x)\n", p->name, k->name, i, text,
                   (unsigned)o.status);
    }
    return bad;
}

/* Files that may not grow beyond some size, and standard output that takes nothing. */
static int full(const struct program *p, const char *want, size_t size, int64_t *faults)
{
    int bad = 0;
    const long by = lengthy ? (long)(size / 64 + 1) : (long)(size / 2 + 1);
    for (long most = 0; most < (long)size; most += by) {
        put(out_path, "old\n");
        const struct outcome o = run(p, NULL, most, NULL);
        const char *const text = judge(&o, want, false);
        ++*faults;
        if (text[0] && bad++ < 5)
            printf("# %s, files of at most %ld bytes: %s (status %#x)\n", p->name, most, text,
                   (unsigned)o.status);
    }
    return bad;
}

int main(int argc, char **argv)
{
    static char want[MOST], raw[MOST];
    const char *const v = getenv("QSAE_LONG_TESTS"), *const s = getenv("QSAE_FAULTS_STEP");
    lengthy = v && *v == '1';
    step = s && atoll(s) > 0 ? atoll(s) : 1;
    if (argc < 3 || !fixture_make(&fixture))
        return 1;
    folder = argv[1];
    preload = argv[2];
    snprintf(out_path, sizeof out_path, "%s/out", fixture.scratch);
    snprintf(state_path, sizeof state_path, "%s/state", fixture.folder);
    snprintf(report_path, sizeof report_path, "%s/report", fixture.folder);
    int failed = 0, n = 0;
    const struct program making = {
        "evaluate", { "evaluate", "MODEL", "--sae", "SAE", "--text", "TEXT", "--condition",
                      "rtn:bits=4", "--tokens", "80", "--context", "20", "--batch", "2",
                      "--threads", "1", "--quiet", "--state", "STATE", NULL }, false, false };
    const struct outcome made = run(&making, "0,-1,0,0", -1, NULL);
    printf("%sok %d - a state file to merge\n", made.status == 0 ? "" : "not ", ++n);
    failed |= made.status != 0;
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        const struct program *const p = &programs[i];
        if (!p->writes)
            continue;
        int64_t faults = 0;
        int bad = 0;
        put(out_path, "old\n");
        const struct outcome plain = run(p, "0,-1,0,0", -1, NULL);
        const size_t size = content(out_path, raw);
        memcpy(want, raw, size + 1);
        without_times(want);
        bad += plain.status != 0 || strcmp(want, "old\n") == 0;
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0] && !bad; k++)
            bad += series(p, &kinds[k], want, &faults);
        bad += full(p, want, size, &faults);
        printf("%sok %d - %s: %lld faults\n", bad ? "not " : "", ++n, p->name, (long long)faults);
        failed |= bad != 0;
    }
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        struct program p = programs[i];
        if (!p.prints)
            continue;
        for (int k = 0; p.arguments[k]; k++)
            if (strcmp(p.arguments[k], "OUT") == 0)
                p.arguments[k] = "-";
        const struct outcome o = run(&p, "0,-1,0,0", -1, "/dev/full");
        const bool good = WIFEXITED(o.status) && WEXITSTATUS(o.status) != 0 && o.words;
        printf("%sok %d - %s: standard output is full\n", good ? "" : "not ", ++n, p.name);
        failed |= !good;
    }
    printf("1..%d\n", n);
    fixture_remove(&fixture);
    return failed;
}
