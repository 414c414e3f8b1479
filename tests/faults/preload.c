/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * inject.c for programs that know nothing of it (LD_PRELOAD). QSAE_INJECT="KIND,AT,ONWARDS,WHAT",
 * numbers of inject.h; QSAE_INJECT_REPORT: a file that receives "CALLS FIRED REPEATED LEFT" at the
 * end; QSAE_INJECT_TRACE: where the first call that failed was made is on standard error.
 * QSAE_INJECT_CALLERS="NAME:NAME...": only calls that the program itself makes, or a library with
 * one of these words in its name, for programs whose other libraries do not stand failures. Such
 * programs make folders elsewhere: LEFT is how many are still there, and empty ones then are gone.
 */
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inject.h"

static struct {
    uintptr_t from, to;      /* addresses of code */
} callers[64];
static size_t n_callers;

/* Folders that were made, wherever they are: beyond these none is looked at. */
static char made[8][128];
static size_t n_made;

static void listen_to(void *cookie, enum inject_event event, const char *path, const char *other,
                      const void *data, size_t size, int64_t offset)
{
    (void)cookie, (void)other, (void)data, (void)size, (void)offset;
    if (event == EVENT_MKDIR && n_made < sizeof made / sizeof made[0])
        snprintf(made[n_made++], sizeof made[0], "%s", path);
}

static int left_over(void)
{
    struct stat info;
    int n = 0;
    for (size_t i = 0; i < n_made; i++)
        if (lstat(made[i], &info) == 0) {
            n++;
            rmdir(made[i]);
        }
    return n;
}

static bool is_named(const char *name, const char *words)
{
    char word[64];
    for (int n; sscanf(words, "%63[^:]%n", word, &n) == 1; words += words[n] ? n + 1 : n)
        if (strstr(name, word))
            return true;
    return false;
}

/* The program has no name. */
static int add_callers(struct dl_phdr_info *info, size_t size, void *words)
{
    (void)size;
    const char *const slash = strrchr(info->dlpi_name, '/');
    if (*info->dlpi_name && !is_named(slash ? slash + 1 : info->dlpi_name, words))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *const part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X))
            continue;
        if (n_callers == sizeof callers / sizeof callers[0])
            _exit(96);
        callers[n_callers].from = info->dlpi_addr + part->p_vaddr;
        callers[n_callers++].to = info->dlpi_addr + part->p_vaddr + part->p_memsz;
    }
    return 0;
}

static bool counts(const void *caller)
{
    for (size_t i = 0; i < n_callers; i++)
        if ((uintptr_t)caller >= callers[i].from && (uintptr_t)caller < callers[i].to)
            return true;
    return false;
}

static __attribute__((constructor)) void start(void)
{
    int kind, onwards, what;
    long long at;
    const char *const text = getenv("QSAE_INJECT");
    char *const words = getenv("QSAE_INJECT_CALLERS");
    inject_trace(getenv("QSAE_INJECT_TRACE") != NULL);
    if (words) {
        inject_listen(listen_to, NULL);
        dl_iterate_phdr(add_callers, words);
        inject_callers(counts);
    }
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
    const int n = snprintf(line, sizeof line, "%lld %d %d %d\n", calls, fired, repeated,
                           left_over());
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        _exit(99);
    close(fd);
}
