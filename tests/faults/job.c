/* SPDX-License-Identifier: BSD-2-Clause */
#include "job.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The test program as a rank: its own name, this word, and what struct launch and fault have. */
static const char word[] = "--as-rank";
enum { RANK = 2, FAULT, FOLDER, PRELOAD, REPORT, CALLERS, UNDER, PROGRAM };
enum { MOST_ARGUMENTS = 48 };

/* What the rank under a fault tells. */
static void told_at(const struct launch *l, char path[600])
{
    snprintf(path, 600, "%s-rank", l->report);
}

struct outcome job_launch(const struct launch *l, const char *mpiexec, int ranks, int rank,
                          char *const *arguments, const struct fault *fault, const char *out)
{
    const struct fault plain = { INJECT_NOTHING, { .at = -1 }, 1L << 40 };
    char self[600] = "", count[16], which[16], spec[96], told[600], *all[MOST_ARGUMENTS];
    long long calls;
    int n = 0, repeated, removing, left;
    snprintf(count, sizeof count, "%d", ranks);
    snprintf(which, sizeof which, "%d", rank);
    snprintf(spec, sizeof spec, "%d,%d,%lld,%d,%d", fault->kind, fault->trace.calls,
             (long long)fault->trace.at, fault->trace.onwards, fault->trace.what);
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return (struct outcome){ .status = -1 };
    const char *const head[] = { mpiexec,   "-n",       count,     self,       word,    which, spec,
                                 l->folder, l->preload, l->report, l->callers, l->under };
    for (size_t i = 0; i < sizeof head / sizeof head[0]; i++)
        all[n++] = (char *)(uintptr_t)head[i];
    for (int i = 0; arguments[i] && n < MOST_ARGUMENTS - 1; i++)
        all[n++] = arguments[i];
    all[n] = NULL;
    told_at(l, told);
    unlink(told);
    struct outcome o = launch(l, all, &plain, out);
    FILE *const f = fopen(told, "r");
    if (f && fscanf(f, "%lld %d %d %d", &calls, &repeated, &removing, &left) == 4) {
        o.calls = calls;
        o.left = left;
        o.repeated = repeated != 0;
        o.removing = removing != 0;
    }
    if (f)
        fclose(f);
    return o;
}

static int own_number(void)
{
    static const char *const names[] = { "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (getenv(names[i]))
            return atoi(getenv(names[i]));
    return -1;
}

void job_rank(int argc, char **argv)
{
    char path[600];
    struct fault fault = { .file_size = -1 };
    int kind, calls, onwards;
    long long at;
    if (argc <= PROGRAM || strcmp(argv[1], word) != 0)
        return;
    const struct launch l = { argv[FOLDER], argv[PRELOAD], argv[REPORT], argv[CALLERS],
                              argv[UNDER], true };
    if (own_number() != atoi(argv[RANK])) {
        snprintf(path, sizeof path, "%s/%s", l.folder, argv[PROGRAM]);
        execv(path, argv + PROGRAM);
        _exit(97);
    }
    if (sscanf(argv[FAULT], "%d,%d,%lld,%d,%d", &kind, &calls, &at, &onwards, &fault.trace.what) !=
        5)
        _exit(95);
    fault.kind = (enum inject_kind)kind;
    fault.trace.calls = (enum trace_calls)calls;
    fault.trace.at = at;
    fault.trace.onwards = onwards != 0;
    const struct outcome o = launch(&l, argv + PROGRAM, &fault, NULL);
    told_at(&l, path);
    FILE *const f = fopen(path, "w");
    const bool told = f && fprintf(f, "%lld %d %d %d\n", (long long)o.calls, o.repeated,
                                   o.removing, o.left) > 0;
    if (!f || fclose(f) != 0 || !told)
        _exit(94);
    if (WIFSIGNALED(o.status)) {
        signal(WTERMSIG(o.status), SIG_DFL);
        raise(WTERMSIG(o.status));
    }
    _exit(WIFEXITED(o.status) ? WEXITSTATUS(o.status) : 93);
}
