/* SPDX-License-Identifier: BSD-2-Clause */
#include "launch.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* No standard input: mpiexec would read it. */
static void redirect(const char *out, const int ends[2])
{
    const int null = open("/dev/null", O_RDONLY);
    const int s = open(out ? out : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (s < 0 || null < 0 || dup2(null, 0) < 0 || dup2(ends[1], 2) < 0 || dup2(s, 1) < 0)
        _exit(98);
    close(s);
    close(null);
    alarm(LAUNCH_SECONDS);
}

static void child_of(const struct launch *l, char *const *arguments, const struct fault *fault,
                     const char *out, const int ends[2])
{
    char path[600], inject[96];
    if (!l->inner)
        redirect(out, ends);
    snprintf(path, sizeof path, "%s%s%s", *arguments[0] == '/' ? "" : l->folder,
             *arguments[0] == '/' ? "" : "/", arguments[0]);
    snprintf(inject, sizeof inject, "%d,%lld,%d,%d", fault->kind, (long long)fault->trace.at,
             fault->trace.onwards, fault->trace.what);
    if (fault->file_size >= 0) {
        const struct rlimit limit = { (rlim_t)fault->file_size, (rlim_t)fault->file_size };
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
    } else if (fault->kind == INJECT_NOTHING) {
        trace_me();
    } else {
        setenv("LD_PRELOAD", l->preload, 1);
        setenv("QSAE_INJECT", inject, 1);
        setenv("QSAE_INJECT_REPORT", l->report, 1);
        if (l->callers)
            setenv("QSAE_INJECT_CALLERS", l->callers, 1);
    }
    execv(path, arguments);
    _exit(97);
}

static void hear(int fd, char words[LAUNCH_WORDS])
{
    char rest[256];
    size_t n = 0;
    ssize_t got;
    while ((got = read(fd, words + n, LAUNCH_WORDS - 1 - n)) > 0)
        n += (size_t)got;
    words[n] = '\0';
    while (read(fd, rest, sizeof rest) > 0)
        ;
}

/* Standard error is a pipe, which takes a message where files are full. */
struct outcome launch(const struct launch *l, char *const *arguments, const struct fault *fault,
                      const char *out)
{
    struct outcome o = { .status = -1 };
    struct traced seen;
    struct timespec begin, end;
    int ends[2], fired, repeated, left;
    long long calls;
    unlink(l->report);
    fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return o;
    const pid_t child = fork();
    if (child == 0)
        child_of(l, arguments, fault, out, ends);
    close(ends[1]);
    if (child > 0 && fault->kind == INJECT_NOTHING && fault->file_size < 0) {
        o.status = trace_run(child, &fault->trace, l->under, &seen);
        o.calls = seen.calls;
        o.repeated = seen.repeated;
        o.removing = seen.removing;
    } else if (child < 0 || waitpid(child, &o.status, 0) != child) {
        o.status = -1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (!l->inner && end.tv_sec - begin.tv_sec >= LAUNCH_SECONDS) /* mpiexec then ends with 0 */
        o.status = SIGALRM;
    if (!l->inner)
        hear(ends[0], o.words);
    close(ends[0]);
    FILE *const f = fopen(l->report, "r");
    if (f && fscanf(f, "%lld %d %d %d", &calls, &fired, &repeated, &left) == 4) {
        o.calls = calls;
        o.left = left;
        o.repeated = repeated != 0;
        o.removing = fired == CALL_UNLINK || (fault->kind == INJECT_IO && fault->trace.onwards);
    }
    if (f)
        fclose(f);
    return o;
}
