/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * inject.c for programs that know nothing of it (LD_PRELOAD). QSAE_INJECT="KIND,AT,ONWARDS,WHAT",
 * numbers of inject.h; QSAE_INJECT_REPORT: a file that receives "CALLS FIRED REPEATED" at the end;
 * QSAE_INJECT_TRACE: where the first call that failed was made is on standard error.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inject.h"

static __attribute__((constructor)) void start(void)
{
    int kind, onwards, what;
    long long at;
    const char *const text = getenv("QSAE_INJECT");
    inject_trace(getenv("QSAE_INJECT_TRACE") != NULL);
    if (text && sscanf(text, "%d,%lld,%d,%d", &kind, &at, &onwards, &what) == 4)
        inject_arm((enum inject_kind)kind, at, onwards != 0, what);
}

static __attribute__((destructor)) void end(void)
{
    char line[96];
    const char *const path = getenv("QSAE_INJECT_REPORT");
    const int fired = (int)inject_fired(), repeated = inject_fsync_repeated();
    const long long calls = inject_disarm();
    const int fd = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666) : -1;
    const int n = snprintf(line, sizeof line, "%lld %d %d\n", calls, fired, repeated);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        _exit(99);
    close(fd);
}
