/* SPDX-License-Identifier: BSD-2-Clause */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject.h"

#if !defined(__x86_64__) || !defined(PTRACE_GET_SYSCALL_INFO)

void trace_me(void)
{
}

int trace_run(pid_t child, const struct trace *t, const char *under, struct traced *seen)
{
    (void)child, (void)t, (void)under, (void)seen;
    return -1;
}

const char *trace_missing(void)
{
    return "system calls are made to fail on x86-64 only";
}

#else

enum {
    OPENS = 1, WRITES = 2, READS = 4, CHANGES = 8, LOOKS = 16, ENDS = 32, REMOVES = 64, SYNCS = 128,
    AT_FD = 256, /* its first argument is a descriptor */
    AT_PLACE = 512 /* its first argument is a folder's descriptor, the second a path from there */
};
static const struct {
    long call;
    int is;
} calls[] = {
    { SYS_open, OPENS }, { SYS_openat, OPENS | AT_PLACE }, { SYS_creat, OPENS },
    { SYS_read, READS | AT_FD }, { SYS_pread64, READS | AT_FD }, { SYS_readv, READS | AT_FD },
    { SYS_write, WRITES | AT_FD }, { SYS_pwrite64, WRITES | AT_FD }, { SYS_writev, WRITES | AT_FD },
    { SYS_fsync, SYNCS | AT_FD }, { SYS_fdatasync, SYNCS | AT_FD }, { SYS_close, ENDS | AT_FD },
    { SYS_rename, CHANGES }, { SYS_renameat, CHANGES | AT_PLACE },
    { SYS_renameat2, CHANGES | AT_PLACE },
    { SYS_link, CHANGES }, { SYS_linkat, CHANGES | AT_PLACE }, { SYS_mkdir, CHANGES },
    { SYS_mkdirat, CHANGES | AT_PLACE }, { SYS_ftruncate, CHANGES | AT_FD },
    { SYS_fallocate, CHANGES | AT_FD },
    { SYS_fchmod, LOOKS | AT_FD }, { SYS_chmod, LOOKS },
    { SYS_unlink, REMOVES }, { SYS_unlinkat, REMOVES | AT_PLACE }, { SYS_rmdir, REMOVES },
    { SYS_access, LOOKS }, { SYS_faccessat, LOOKS | AT_PLACE }, { SYS_lseek, LOOKS | AT_FD },
    { SYS_stat, LOOKS }, { SYS_lstat, LOOKS },
    { SYS_fstat, LOOKS | AT_FD }, { SYS_newfstatat, LOOKS | AT_PLACE },
    { SYS_statx, LOOKS | AT_PLACE },
    { SYS_statfs, LOOKS }, { SYS_fstatfs, LOOKS | AT_FD }, { SYS_getdents64, LOOKS | AT_FD },
    { SYS_readlink, LOOKS }, { SYS_readlinkat, LOOKS | AT_PLACE },
};

static int kind_of(long call)
{
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (calls[i].call == call)
            return calls[i].is;
    return 0;
}

/* One thread of the traced process, between the two stops of a call. */
struct thread {
    pid_t id;
    int result;      /* to put in place of its own: -errno, 0: none */
};

enum { THREADS_MOST = 64, PATH_SIZE = 1024 };

struct tracer {
    const struct trace *t;
    const char *under;
    struct traced *seen;
    struct thread threads[THREADS_MOST];
    uint64_t loader, loader_end; /* addresses of the dynamic loader */
    int failed_fd;               /* of the fsync that failed, -1: none */
};

void trace_me(void)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
}

static struct thread *thread_of(struct tracer *r, pid_t id)
{
    for (size_t i = 0; i < THREADS_MOST; i++)
        if (r->threads[i].id == id || r->threads[i].id == 0) {
            r->threads[i].id = id;
            return &r->threads[i];
        }
    return NULL;
}

static void find_loader(struct tracer *r, pid_t child)
{
    char line[600];
    snprintf(line, sizeof line, "/proc/%d/maps", (int)child);
    FILE *const f = fopen(line, "r");
    uint64_t from, to;
    r->loader = r->loader_end = 0;
    while (f && fgets(line, sizeof line, f))
        if (strstr(line, "/ld-") && sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) == 2) {
            r->loader = r->loader ? r->loader : from;
            r->loader_end = to;
        }
    if (f)
        fclose(f);
}

/* Path of a descriptor of the thread's process, "" if it has none. */
static void path_of(pid_t id, uint64_t fd, char path[PATH_SIZE])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/%d/fd/%d", (int)id, (int)fd);
    const ssize_t n = readlink(link, path, PATH_SIZE - 1);
    path[n > 0 ? n : 0] = '\0';
}

/* Text of the thread's process, as much of it as there is room for. */
static void text_at(pid_t id, uint64_t from, char text[PATH_SIZE])
{
    size_t n = 0;
    while (n < PATH_SIZE - 1 && memchr(text, '\0', n) == NULL) {
        errno = 0;
        const long word = ptrace(PTRACE_PEEKDATA, id, (void *)(uintptr_t)(from + n), NULL);
        const size_t room = PATH_SIZE - 1 - n < sizeof word ? PATH_SIZE - 1 - n : sizeof word;
        if (errno)
            break;
        memcpy(text + n, &word, room);
        n += room;
    }
    text[n] = '\0';
}

/* Whether the file of a call is one of those that count; of a path from a folder, the folder. */
static bool is_under(const char *under, pid_t id, int is, const struct __ptrace_syscall_info *call)
{
    char path[PATH_SIZE] = "";
    if (!under)
        return true;
    if (!(is & AT_FD))
        text_at(id, call->entry.args[is & AT_PLACE ? 1 : 0], path);
    if (is & AT_FD || (is & AT_PLACE && *path != '/'))
        path_of(id, call->entry.args[0], path);
    for (size_t n = strcspn(under, ":"); n > 0; n = strcspn(under, ":")) {
        if (strncmp(path, under, n) == 0)
            return true;
        under += under[n] ? n + 1 : n;
    }
    return false;
}

static bool counts(const struct trace *t, int is, const struct __ptrace_syscall_info *call)
{
    const uint64_t flags = call->entry.nr == (uint64_t)SYS_open     ? call->entry.args[1]
                           : call->entry.nr == (uint64_t)SYS_openat ? call->entry.args[2]
                                                                    : O_CREAT;
    if (!is || ((is & AT_FD) && call->entry.args[0] == STDERR_FILENO))
        return false;
    switch (t->calls) {
    case TRACE_WRITING: return is & (WRITES | CHANGES | SYNCS) || (is & OPENS && flags & O_CREAT);
    case TRACE_OPENING: return is & OPENS;
    case TRACE_MOVING: return is & (READS | WRITES);
    default: return true;
    }
}

/* Puts a register of a thread that stands at a call. */
static void put(pid_t id, size_t offset, long v)
{
    ptrace(PTRACE_POKEUSER, id, (void *)(uintptr_t)offset, (void *)(uintptr_t)v);
}
#define REGISTER(name) offsetof(struct user_regs_struct, name)

/* A thread is about to make a call. */
static void enters(struct tracer *r, struct thread *at, const struct __ptrace_syscall_info *call)
{
    const long nr = (long)call->entry.nr;
    const int is = kind_of(nr), fd = (int)call->entry.args[0];
    if (call->instruction_pointer >= r->loader && call->instruction_pointer < r->loader_end)
        return;
    if (r->failed_fd == fd && is & SYNCS)
        r->seen->repeated = true;
    if (r->failed_fd == fd && is & ENDS)
        r->failed_fd = -1;
    if (!counts(r->t, is, call) || !is_under(r->under, at->id, is, call))
        return;
    const int64_t n = r->seen->calls++;
    if (r->t->at < 0 || (r->t->onwards ? n < r->t->at : n != r->t->at))
        return;
    if (r->t->what == INJECT_SHORT) {
        if (call->entry.args[2] > 1 && nr != SYS_readv && nr != SYS_writev)
            put(at->id, REGISTER(rdx), (long)(call->entry.args[2] / 2));
        return;
    }
    at->result = -r->t->what;
    r->seen->removing |= is & REMOVES || (nr == SYS_openat && call->entry.args[2] & O_DIRECTORY) ||
                         nr == SYS_getdents64;
    if (is & SYNCS)
        r->failed_fd = fd;
    if (!(is & ENDS)) /* a descriptor is gone even where close fails */
        put(at->id, REGISTER(orig_rax), -1);
}

/* One stop of a thread; the signal to go on with. */
static int stopped(struct tracer *r, pid_t id, int status)
{
    struct __ptrace_syscall_info call;
    const int number = WSTOPSIG(status);
    if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8))
        find_loader(r, id);
    if (number != (SIGTRAP | 0x80))
        return number == SIGTRAP || number == SIGSTOP ? 0 : number;
    struct thread *const at = thread_of(r, id);
    if (!at || ptrace(PTRACE_GET_SYSCALL_INFO, id, sizeof call, &call) <= 0)
        return 0;
    if (call.op == PTRACE_SYSCALL_INFO_ENTRY && r->loader) {
        enters(r, at, &call);
    } else if (call.op == PTRACE_SYSCALL_INFO_EXIT && at->result) {
        put(id, REGISTER(rax), at->result);
        at->result = 0;
    }
    return 0;
}

int trace_run(pid_t child, const struct trace *t, const char *under, struct traced *seen)
{
    struct tracer r = { .t = t, .under = under, .seen = seen, .failed_fd = -1 };
    const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC |
                         PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;
    int status;
    *seen = (struct traced){ 0 };
    if (waitpid(child, &status, __WALL) != child || !WIFSTOPPED(status))
        return -1;
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)options) != 0 ||
        ptrace(PTRACE_SYSCALL, child, NULL, NULL) != 0) {
        kill(child, SIGKILL);
        waitpid(child, &status, __WALL);
        return -1;
    }
    for (;;) {
        const pid_t id = waitpid(-1, &status, __WALL);
        if (id < 0 && errno != EINTR)
            return -1;
        if (id > 0 && !WIFSTOPPED(status) && id == child)
            return status;
        if (id > 0 && WIFSTOPPED(status))
            ptrace(PTRACE_SYSCALL, id, NULL, (void *)(intptr_t)stopped(&r, id, status));
    }
}

const char *trace_missing(void)
{
    const struct trace none = { .calls = TRACE_FILES, .at = -1 };
    struct traced seen;
    const pid_t child = fork();
    if (child == 0) {
        trace_me();
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    const int status = child < 0 ? -1 : trace_run(child, &none, NULL, &seen);
    return status == 0 ? "" : "this machine does not let a process trace another one";
}

#endif
