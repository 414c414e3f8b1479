/* SPDX-License-Identifier: BSD-2-Clause */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *own_name = "";
static qsae_cancel_token *cancel;
static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t reader_gone;
static bool troubled;
static void (*without_memory)(void);

static void on_pipe(int number)
{
    (void)number;
    reader_gone = 1;
}

static void on_interrupt(int number)
{
    interrupted = 1;
    qsae_cancel_token_cancel(cancel);
    signal(number, SIG_DFL); /* a second one ends the program at once */
}

void program_begin(const char *name)
{
    own_name = name;
    signal(SIGPIPE, on_pipe);
}

const char *program_name(void)
{
    return own_name;
}

void complain(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "%s%s", own_name, *own_name ? ": " : "");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vfprintf(stderr, format, list);
#pragma GCC diagnostic pop
    fputc('\n', stderr);
    va_end(list);
}

void program_log(void *cookie, int32_t level, const char *message)
{
    (void)cookie;
    progress_clear();
    complain("%s%s", level == QSAE_LOG_WARNING ? "warning: " : "", message);
}

int32_t program_cancel_open(qsae_cancel_token **out)
{
    const int32_t st = qsae_cancel_token_open(out);
    cancel = *out;
    if (st == QSAE_OK) {
        signal(SIGINT, on_interrupt);
        signal(SIGTERM, on_interrupt);
    }
    return st;
}

bool program_interrupted(void)
{
    return interrupted != 0;
}

/* Flushes; 0, or the errno of what was not written. An earlier error has lost its own, which one
 * more byte brings back: the file is incomplete anyway. */
static int flush(FILE *f)
{
    const bool bad = ferror(f) != 0;
    errno = 0;
    if (fflush(f) == 0 && !bad)
        return 0;
    if (!errno && !reader_gone && write(fileno(f), "\n", 1) == 1)
        return EIO;
    return errno ? errno : EIO;
}

void program_trouble(int32_t status)
{
    if (troubled || (status != QSAE_ENOMEM && status != QSAE_EIO))
        return;
    troubled = true;
    complain("%s", qsae_error_message());
}

int program_end(int code)
{
    if (troubled && code == EXIT_DONE)
        code = EXIT_FAILED;
    const int why = flush(stdout);
    if (why == 0 || code == EXIT_INTERRUPTED)
        return code;
    if (reader_gone) {
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    complain("standard output: %s", strerror(why));
    return EXIT_FAILED;
}

/* ---- progress ---- */

static struct {
    double start, last; /* of the phase */
    int64_t first;
    char phase[32];
    double measuring;   /* since when; 0 = not yet */
    int64_t measured_first, measured, to_measure; /* tokens */
    bool shown;
} progress;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool progress_wanted(bool quiet)
{
    const char *const terminal = getenv("TERM");
    return !quiet && isatty(STDERR_FILENO) && !(terminal && strcmp(terminal, "dumb") == 0);
}

/* Layers of a slab, or of the next model, come between tokens: what is left is told by tokens. */
static void print_left(double t)
{
    const int64_t n = progress.measured - progress.measured_first;
    if (progress.measuring == 0 || n <= 0 || progress.measured >= progress.to_measure ||
        t <= progress.measuring)
        return;
    const double rate = (double)n / (t - progress.measuring);
    const long long s =
        (long long)((double)(progress.to_measure - progress.measured) / rate + 0.5);
    fprintf(stderr, ", %.0f tokens/s, ", rate);
    if (s >= 3600)
        fprintf(stderr, "%lld h %lld min left", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        fprintf(stderr, "%lld min %lld s left", s / 60, s % 60);
    else
        fprintf(stderr, "%lld s left", s);
}

static void enter_phase(const char *phase, int64_t done, double t)
{
    if (strcmp(progress.phase, phase) == 0)
        return;
    progress.phase[0] = '\0';
    strncat(progress.phase, phase, sizeof progress.phase - 1);
    progress.start = t;
    progress.first = done;
    progress.last = 0;
}

int32_t progress_line(void *cookie, int64_t done, int64_t total, const char *unit,
                      const char *phase)
{
    const double t = now();
    const bool tokens = strcmp(phase, "measure") == 0;
    (void)cookie;
    enter_phase(phase, done, t);
    if (tokens) {
        if (progress.measuring == 0) {
            progress.measuring = t;
            progress.measured_first = done;
        }
        progress.measured = done;
        progress.to_measure = total;
    }
    if (t - progress.last < 0.2 && done != total)
        return QSAE_OK;
    progress.last = t;
    progress.shown = true;
    fprintf(stderr, "\r\033[K%s: %lld / %lld %s", phase, (long long)done, (long long)total, unit);
    const double rate =
        t > progress.start ? (double)(done - progress.first) / (t - progress.start) : 0;
    if (tokens || progress.measuring > 0)
        print_left(t);
    else if (rate > 0 && total > done)
        fprintf(stderr, ", %.0f %s/s, %.0f s left", rate, unit, (double)(total - done) / rate);
    fflush(stderr);
    return QSAE_OK;
}

void progress_clear(void)
{
    if (progress.shown)
        fprintf(stderr, "\r\033[K");
    progress.shown = false;
}

/* ---- files ---- */

bool output_is_standard(const char *path)
{
    return path && (strcmp(path, "-") == 0 || strcmp(path, "/dev/stdout") == 0);
}

FILE *file_open(const char *path, const char *mode)
{
    FILE *f;
    do
        f = fopen(path, mode);
    while (!f && errno == EINTR);
    return f;
}

/* Of the output that is open: what a program that ends in between takes away. */
static const char *unfinished;

void program_without_memory(void (*last)(void))
{
    without_memory = last;
}

void *needed(void *block)
{
    if (block)
        return block;
    if (unfinished)
        unlink(unfinished);
    progress_clear();
    if (without_memory)
        without_memory();
    complain("out of memory");
    exit(EXIT_FAILED);
}

static void *json_memory(size_t size)
{
    return needed(malloc(size ? size : 1));
}

void json_needs_memory(bool needed)
{
    json_set_alloc_funcs(needed ? json_memory : malloc, free);
}

json_t *json_read(const char *text, size_t size, json_error_t *error)
{
    json_needs_memory(true);
    json_t *const o = json_loadb(text, size, JSON_ALLOW_NUL /* a token may be a NUL */ |
                                                 JSON_REJECT_DUPLICATES, error);
    json_needs_memory(false);
    return o;
}

/* Signals and short writes are no failures; after one that is nothing more is written. */
static ssize_t put(void *cookie, const char *data, size_t size)
{
    struct output *const o = cookie;
    size_t done = 0;
    while (done < size && !o->why) {
        const ssize_t n = write(o->fd, data + done, size - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            o->why = n == 0 || !errno ? EIO : errno;
    }
    return (ssize_t)done;
}

static int open_fd(const char *path, int flags)
{
    int fd;
    do
        fd = open(path, flags | O_WRONLY | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Opens a file beside the target, with the permissions of any new one. */
static int open_beside(struct output *o, bool exists)
{
    char *const resolved = exists ? realpath(o->path, NULL) : strdup(o->path);
    o->target = resolved;
    o->temporary = resolved ? malloc(strlen(resolved) + sizeof ".tmp-XXXXXX") : NULL;
    if (!o->temporary)
        return -1;
    int fd;
    do {
        strcat(strcpy(o->temporary, resolved), ".tmp-XXXXXX");
        fd = mkostemp(o->temporary, O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    const mode_t mask = umask(0);
    umask(mask);
    if (fd < 0) {
        free(o->temporary);
        o->temporary = NULL;
    } else if (fchmod(fd, 0666 & ~mask) != 0) {
        o->why = errno;
    }
    return fd;
}

static void output_free(struct output *o)
{
    unfinished = NULL;
    free(o->temporary);
    free(o->target);
}

int output_open(struct output *o, const char *path)
{
    struct stat s;
    *o = (struct output){ .path = path, .fd = -1 };
    if (output_is_standard(path)) {
        o->file = stdout;
        return 0;
    }
    const bool exists = stat(path, &s) == 0;
    if (exists && !S_ISREG(s.st_mode))
        o->fd = open_fd(path, O_CREAT | O_TRUNC);
    else if (exists || errno == ENOENT) /* what cannot be told is an error */
        o->fd = open_beside(o, exists);
    if (o->fd < 0)
        o->why = errno;
    if (!o->why && !(o->file = fopencookie(o, "w", (cookie_io_functions_t){ .write = put })))
        o->why = errno;
    unfinished = o->temporary;
    if (!o->why)
        return 0;
    if (o->fd >= 0)
        close(o->fd);
    if (o->temporary)
        unlink(o->temporary);
    complain("%s: %s", path, strerror(o->why));
    output_free(o);
    return -1;
}

/* Makes it last: 0, or -1 with errno. What fsync said once holds for good. */
static int sync_file(int fd)
{
    int r;
    do
        r = fsync(fd);
    while (r != 0 && errno == EINTR);
    return r;
}

int output_close(struct output *o, bool good)
{
    if (o->file == stdout)
        return good && !ferror(stdout) ? 0 : -1; /* program_end says why */
    if (fflush(o->file) != 0 && !o->why)
        o->why = errno ? errno : EIO;
    if (ferror(o->file) && !o->why)
        o->why = EIO;
    fclose(o->file);
    if (!o->why && good && o->temporary && sync_file(o->fd) != 0)
        o->why = errno;
    /* It is closed then, and all has been synced. */
    if (close(o->fd) != 0 && errno != EINTR && !o->why)
        o->why = errno;
    if (!o->why && good && o->temporary && rename(o->temporary, o->target) != 0)
        o->why = errno;
    if (o->why)
        complain("%s: %s", o->path, strerror(o->why));
    if (o->temporary && (o->why || !good))
        unlink(o->temporary);
    output_free(o);
    return o->why || !good ? -1 : 0;
}
