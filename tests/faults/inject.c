/* SPDX-License-Identifier: BSD-2-Clause */
/* Both names of each function: with 64-bit offsets the headers give one the other's. */
#undef _FILE_OFFSET_BITS
#include "inject.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

static struct {
    atomic_int kind;         /* INJECT_NOTHING: not armed */
    atomic_llong seen, blocks, maps;
    atomic_int fired;
    int64_t at;
    bool onwards;
    int what;
    atomic_int failed_fd;    /* of the fsync that failed, + 1 */
    atomic_bool repeated;
    int paused;              /* kind that was armed */
    bool trace;
    inject_listener listener;
    void *cookie;
    inject_decider decider;
    void *decider_cookie;
    inject_counter counter;
} state;

void inject_arm(enum inject_kind kind, int64_t at, bool onwards, int what)
{
    state.at = at;
    state.onwards = onwards;
    state.what = what;
    atomic_store(&state.seen, 0);
    atomic_store(&state.fired, CALL_NONE);
    atomic_store(&state.failed_fd, 0);
    atomic_store(&state.repeated, false);
    atomic_store(&state.kind, kind);
}

void inject_at_calls(inject_decider decider, void *cookie)
{
    state.decider = decider;
    state.decider_cookie = cookie;
}

int64_t inject_disarm(void)
{
    state.decider = NULL;
    atomic_store(&state.kind, INJECT_NOTHING);
    return atomic_load(&state.seen);
}

void inject_callers(inject_counter counter)
{
    state.counter = counter;
}

void inject_pause(void)
{
    state.paused = atomic_exchange(&state.kind, INJECT_NOTHING);
}

void inject_resume(void)
{
    atomic_store(&state.kind, state.paused);
}

void inject_trace(bool on)
{
    state.trace = on;
}

enum inject_call inject_fired(void)
{
    return (enum inject_call)atomic_load(&state.fired);
}

bool inject_fsync_repeated(void)
{
    return atomic_load(&state.repeated);
}

int64_t inject_blocks(void)
{
    return atomic_load(&state.blocks);
}

int64_t inject_maps(void)
{
    return atomic_load(&state.maps);
}

void inject_listen(inject_listener listener, void *cookie)
{
    state.listener = listener;
    state.cookie = cookie;
}

/* The decider's word on call n, with the calls it makes itself not counted. */
static void decide(int64_t n)
{
    const inject_decider decider = state.decider;
    const int e = errno;
    bool onwards = false;
    inject_pause();
    state.decider = NULL;
    if (decider(state.decider_cookie, n, &onwards)) {
        state.at = n;
        state.onwards = onwards;
    } else {
        state.decider = decider;
    }
    inject_resume();
    errno = e;
}

/* Who called the function that this stands in. What several names have in common is inlined. */
#define CALLER __builtin_return_address(0)
#define COMMON static inline __attribute__((always_inline))

/* True: this call is one that fails. */
static bool fails_for(enum inject_kind kind, enum inject_call call, const void *caller)
{
    if (atomic_load(&state.kind) != (int)kind || (state.counter && !state.counter(caller)))
        return false;
    const int64_t n = atomic_fetch_add(&state.seen, 1);
    if (state.decider)
        decide(n);
    if (state.at < 0 || (state.onwards ? n < state.at : n != state.at))
        return false;
    if (state.what == INJECT_KILL)
        kill(getpid(), SIGKILL);
    int none = CALL_NONE;
    if (atomic_compare_exchange_strong(&state.fired, &none, call) && state.trace) {
        void *frames[24];
        inject_pause();
        backtrace_symbols_fd(frames, backtrace(frames, 24), 2);
        inject_resume();
    }
    return true;
}

#define fails(kind, call) fails_for(kind, call, CALLER)

/* The C library's function of that name. */
#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        *(void **)&real = dlsym(RTLD_NEXT, #name)

/* ---- memory ---- */

void *hook_alloc(void *cookie, size_t size, size_t alignment)
{
    atomic_llong *const live = cookie;
    if (fails(INJECT_HOOK, CALL_HOOK))
        return NULL;
    void *const p = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (p)
        atomic_fetch_add(live, 1);
    return p;
}

void hook_free(void *cookie, void *p)
{
    atomic_llong *const live = cookie;
    if (p)
        atomic_fetch_sub(live, 1);
    free(p);
}

#ifdef SANITIZED

bool inject_has_memory(void)
{
    return false;
}

#else

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *p);

bool inject_has_memory(void)
{
    return true;
}

#define NO_MEMORY fails(INJECT_MEMORY, CALL_MEMORY)

static void *counted(void *p)
{
    if (p)
        atomic_fetch_add(&state.blocks, 1);
    else
        errno = ENOMEM;
    return p;
}

static void *none(void)
{
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t size)
{
    return NO_MEMORY ? none() : counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
    return NO_MEMORY ? none() : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t size)
{
    if (NO_MEMORY)
        return none();
    void *const q = __libc_realloc(p, size);
    if (!p && q)
        atomic_fetch_add(&state.blocks, 1);
    else if (p && !q && size == 0)
        atomic_fetch_sub(&state.blocks, 1);
    return q;
}

int posix_memalign(void **p, size_t alignment, size_t size)
{
    if (NO_MEMORY)
        return ENOMEM;
    void *const q = counted(__libc_memalign(alignment, size));
    if (q)
        *p = q;
    return q ? 0 : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return NO_MEMORY ? none() : counted(__libc_memalign(alignment, size));
}

void free(void *p)
{
    if (p)
        atomic_fetch_sub(&state.blocks, 1);
    __libc_free(p);
}

#endif

#ifndef SANITIZED /* sanitizers have their own of these, too */

/* ---- threads ---- */

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    REAL(pthread_create);
    return fails(INJECT_THREAD, CALL_THREAD) ? EAGAIN : real(thread, attr, start, arg);
}

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr)
{
    REAL(pthread_mutex_init);
    return fails(INJECT_THREAD, CALL_THREAD) ? ENOMEM : real(mutex, attr);
}

int pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attr)
{
    REAL(pthread_cond_init);
    return fails(INJECT_THREAD, CALL_THREAD) ? ENOMEM : real(cond, attr);
}

/* ---- files ---- */

/* True: the call fails with errno, which is set. Half of a call that has no halves is all of it,
 * and POSIX lets signals interrupt but few. */
static bool refuses_for(enum inject_call call, const void *caller)
{
    const bool waits = call == CALL_OPEN || call == CALL_FSYNC || call == CALL_CLOSE;
    if (!fails_for(INJECT_IO, call, caller) || state.what < 0 || (state.what == EINTR && !waits))
        return false;
    errno = state.what;
    return true;
}
#define refuses(call) refuses_for(call, CALLER)

static void tell(enum inject_event event, const char *path, const char *other, const void *data,
                 size_t size, int64_t offset)
{
    const int e = errno;
    if (state.listener)
        state.listener(state.cookie, event, path, other, data, size, offset);
    errno = e;
}

/* Path of a descriptor, "" if it has none. */
static const char *path_of(int fd, char path[4096])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = state.listener ? readlink(link, path, 4095) : 0;
    path[n > 0 ? n : 0] = '\0';
    return path;
}

COMMON int open_real(const char *path, int flags, mode_t mode)
{
    REAL(open);
    if (refuses(CALL_OPEN))
        return -1;
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_real(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_real(path, flags, mode);
}

COMMON int new_file(char *name, int flags)
{
    REAL(mkostemp);
    if (refuses(CALL_OPEN)) {
        const int e = errno; /* as the C library leaves the name */
        memset(name + strlen(name) - 6, 'a', 6);
        errno = e;
        return -1;
    }
    const int fd = real(name, flags);
    if (fd >= 0)
        tell(EVENT_CREATE, name, NULL, NULL, 0, 0);
    return fd;
}

int mkostemp(char *name, int flags)
{
    return new_file(name, flags);
}

int mkostemp64(char *name, int flags)
{
    return new_file(name, flags);
}

char *mkdtemp(char *name)
{
    REAL(mkdtemp);
    if (refuses(CALL_FOLDER))
        return NULL;
    char *const made = real(name);
    if (made)
        tell(EVENT_MKDIR, name, NULL, NULL, 0, 0);
    return made;
}

COMMON FILE *stream(const char *path, const char *mode)
{
    REAL(fopen);
    return refuses(CALL_OPEN) ? NULL : real(path, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    return stream(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    return stream(path, mode);
}

DIR *opendir(const char *path)
{
    REAL(opendir);
    return refuses(CALL_FOLDER) ? NULL : real(path);
}

struct dirent *readdir(DIR *dir)
{
    REAL(readdir);
    return refuses(CALL_FOLDER) ? NULL : real(dir);
}

/* The same record where off_t has 64 bits. */
struct dirent64 *readdir64(DIR *dir)
{
    REAL(readdir64);
    return refuses(CALL_FOLDER) ? NULL : real(dir);
}

/* Bytes of a call that may fail; -1: it does. */
static ssize_t part_for(enum inject_call call, size_t size, const void *caller)
{
    if (!fails_for(INJECT_IO, call, caller))
        return (ssize_t)size;
    if (state.what == INJECT_SHORT)
        return (ssize_t)(size > 1 ? size / 2 : size);
    if (state.what == INJECT_ZERO)
        return 0;
    errno = state.what;
    return -1;
}
#define part_of(call, size) part_for(call, size, CALLER)

ssize_t read(int fd, void *data, size_t size)
{
    REAL(read);
    const ssize_t n = part_of(CALL_READ, size);
    return n < 0 ? n : real(fd, data, (size_t)n);
}

COMMON ssize_t read_at(int fd, void *data, size_t size, off_t offset)
{
    REAL(pread);
    const ssize_t n = part_of(CALL_READ, size);
    return n < 0 ? n : real(fd, data, (size_t)n, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    return read_at(fd, data, size, offset);
}

ssize_t pread64(int fd, void *data, size_t size, off_t offset)
{
    return read_at(fd, data, size, offset);
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    const ssize_t n = part_of(CALL_WRITE, size);
    return n < 0 ? n : real(fd, data, (size_t)n);
}

COMMON ssize_t write_at(int fd, const void *data, size_t size, off_t offset)
{
    REAL(pwrite);
    char path[4096];
    const ssize_t n = part_of(CALL_WRITE, size);
    const ssize_t done = n < 0 ? n : real(fd, data, (size_t)n, offset);
    if (done > 0)
        tell(EVENT_WRITE, path_of(fd, path), NULL, data, (size_t)done, offset);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return write_at(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    return write_at(fd, data, size, offset);
}

int fsync(int fd)
{
    REAL(fsync);
    struct stat info;
    char path[4096];
    if (atomic_load(&state.failed_fd) == fd + 1)
        atomic_store(&state.repeated, true);
    if (refuses(CALL_FSYNC)) {
        atomic_store(&state.failed_fd, state.what == EINTR ? 0 : fd + 1);
        return -1;
    }
    const int r = real(fd);
    if (r == 0 && state.listener && fstat(fd, &info) == 0)
        tell(S_ISDIR(info.st_mode) ? EVENT_FSYNC_FOLDER : EVENT_FSYNC, path_of(fd, path), NULL,
             NULL, 0, 0);
    return r;
}

/* As on Linux, the descriptor is gone even if close fails. */
int close(int fd)
{
    REAL(close);
    int failed = fd + 1;
    atomic_compare_exchange_strong(&state.failed_fd, &failed, 0);
    const bool refused = refuses(CALL_CLOSE);
    const int e = errno, r = real(fd);
    if (refused)
        errno = e;
    return refused ? -1 : r;
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    if (refuses(CALL_RENAME))
        return -1;
    const int r = real(from, to);
    if (r == 0)
        tell(EVENT_RENAME, from, to, NULL, 0, 0);
    return r;
}

/* Weak: a test may have a file system without second names. */
__attribute__((weak)) int link(const char *from, const char *to)
{
    REAL(link);
    return refuses(CALL_RENAME) ? -1 : real(from, to);
}

int unlink(const char *path)
{
    REAL(unlink);
    if (refuses(CALL_UNLINK))
        return -1;
    const int r = real(path);
    if (r == 0)
        tell(EVENT_UNLINK, path, NULL, NULL, 0, 0);
    return r;
}

int rmdir(const char *path)
{
    REAL(rmdir);
    if (refuses(CALL_UNLINK))
        return -1;
    const int r = real(path);
    if (r == 0)
        tell(EVENT_RMDIR, path, NULL, NULL, 0, 0);
    return r;
}

#define STAT_LIKE(name, first) \
    int name(first, struct stat *info) \
    { \
        REAL(name); \
        return refuses(CALL_STAT) ? -1 : real(at, info); \
    }
STAT_LIKE(stat, const char *at)
STAT_LIKE(lstat, const char *at)
STAT_LIKE(fstat, int at)
#define STAT64_LIKE(name, first) \
    int name(first, struct stat64 *info) \
    { \
        REAL(name); \
        return refuses(CALL_STAT) ? -1 : real(at, info); \
    }
STAT64_LIKE(stat64, const char *at)
STAT64_LIKE(lstat64, const char *at)
STAT64_LIKE(fstat64, int at)

int statvfs(const char *path, struct statvfs *info)
{
    REAL(statvfs);
    return refuses(CALL_STAT) ? -1 : real(path, info);
}

int statvfs64(const char *path, struct statvfs64 *info)
{
    REAL(statvfs64);
    return refuses(CALL_STAT) ? -1 : real(path, info);
}

int fchmod(int fd, mode_t mode)
{
    REAL(fchmod);
    return refuses(CALL_MODE) ? -1 : real(fd, mode);
}

int chmod(const char *path, mode_t mode)
{
    REAL(chmod);
    return refuses(CALL_MODE) ? -1 : real(path, mode);
}

COMMON void *map(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap);
    if (fd >= 0 && fails(INJECT_MAP, CALL_MAP)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    if (fd >= 0 && refuses(CALL_MAP))
        return MAP_FAILED;
    void *const p = real(at, size, protection, flags, fd, offset);
    if (p != MAP_FAILED && fd >= 0)
        atomic_fetch_add(&state.maps, 1);
    return p;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return map(at, size, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return map(at, size, protection, flags, fd, offset);
}

/* Anonymous mappings are the C library's own affair and not undone through here. */
int munmap(void *at, size_t size)
{
    REAL(munmap);
    atomic_fetch_sub(&state.maps, 1);
    return real(at, size);
}

#endif
