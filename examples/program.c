/* SPDX-License-Identifier: BSD-2-Clause */
#include "program.h"

#include <errno.h>
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
    fprintf(stderr, "%s: ", own_name);
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

int program_end(int code)
{
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

/* Opens a file beside the target, with the permissions of any new one. */
static FILE *open_beside(struct output *o)
{
    char *const resolved = realpath(o->path, NULL);
    o->target = resolved ? resolved : strdup(o->path);
    o->temporary = o->target ? malloc(strlen(o->target) + sizeof ".tmp-XXXXXX") : NULL;
    if (!o->temporary)
        return NULL;
    strcat(strcpy(o->temporary, o->target), ".tmp-XXXXXX");
    const int fd = mkstemp(o->temporary);
    const mode_t mask = umask(0);
    umask(mask);
    FILE *const f = fd < 0 || fchmod(fd, 0666 & ~mask) != 0 ? NULL : fdopen(fd, "wb");
    if (fd >= 0 && !f) {
        const int why = errno;
        close(fd);
        unlink(o->temporary);
        errno = why;
    }
    return f;
}

static void output_free(struct output *o)
{
    free(o->temporary);
    free(o->target);
}

int output_open(struct output *o, const char *path)
{
    struct stat s;
    *o = (struct output){ .path = path };
    if (output_is_standard(path)) {
        o->file = stdout;
        return 0;
    }
    o->file = stat(path, &s) == 0 && !S_ISREG(s.st_mode) ? fopen(path, "wb") : open_beside(o);
    if (o->file)
        return 0;
    complain("%s: %s", path, strerror(errno));
    output_free(o);
    return -1;
}

int output_close(struct output *o, bool good)
{
    if (o->file == stdout)
        return good && !ferror(stdout) ? 0 : -1; /* program_end says why */
    int why = flush(o->file);
    if (!why && o->temporary && fsync(fileno(o->file)) != 0)
        why = errno;
    if (fclose(o->file) != 0 && !why)
        why = errno;
    if (!why && good && o->temporary && rename(o->temporary, o->target) != 0)
        why = errno;
    if (why)
        complain("%s: %s", o->path, strerror(why));
    if (o->temporary && (why || !good))
        unlink(o->temporary);
    output_free(o);
    return why || !good ? -1 : 0;
}
