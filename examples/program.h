/* SPDX-License-Identifier: BSD-2-Clause */
/* What all programs do alike: messages, interruption, progress, files they write. */
#ifndef EXAMPLES_PROGRAM_H
#define EXAMPLES_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include <qsae/context.h>

enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_OUTSIDE = 3,       /* it worked, and the answer is no */
    EXIT_INTERRUPTED = 130,
};

/* Sets the name that messages begin with. A reader that goes away is dealt with in program_end. */
void program_begin(const char *name);
const char *program_name(void);

/* "NAME: ..." and a line feed on standard error. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);

/* The same for a log of the library; cookie is not used. */
void program_log(void *cookie, int32_t level, const char *message);

/* A token that the first SIGINT or SIGTERM cancels; the second ends the program at once. */
int32_t program_cancel_open(qsae_cancel_token **out);
/* Whether one of these signals came. */
bool program_interrupted(void);

/* Whether standard error is a terminal that takes a progress line. */
bool progress_wanted(bool quiet);
/* A progress callback: a line with rates and the time left. The cookie is not used. */
int32_t progress_line(void *cookie, int64_t done, int64_t total, const char *unit,
                      const char *phase);
/* Wipes the line, if there is one. */
void progress_clear(void);

/*
 * The exit status: `code`, or EXIT_FAILED after a message where standard output could not be
 * written. If the reader of standard output went away the program ends by SIGPIPE, as others do,
 * but only here, when its files are written.
 */
int program_end(int code);

/*
 * After a call of the library whose failure is otherwise part of the output: where it is one of the
 * machine, not of what was read (QSAE_ENOMEM, QSAE_EIO), the first is said on standard error, and
 * the program fails.
 */
void program_trouble(int32_t status);

/* fopen, which a signal does not interrupt. */
FILE *file_open(const char *path, const char *mode);

/* The block, which is not NULL: without memory the program ends with a message. */
void *needed(void *block);
/* What is called before that message; it may end the program by itself. */
void program_without_memory(void (*last)(void));

/*
 * Between true and false JSON has the memory that it asks for, or the program ends with a message:
 * jansson says nothing of keys and cells that it could not put, and reads past the end of a token
 * that lost bytes (2.14). Not around calls of the library that write files: theirs would stay.
 */
void json_needs_memory(bool needed);
/* A document, read so; NULL with *error if it is none. */
json_t *json_read(const char *text, size_t size, json_error_t *error);

/* A file that appears whole or not at all, where a link leads if it is one. "-" and /dev/stdout are
 * standard output; a device or a pipe that is there is written as it is. */
struct output {
    const char *path;
    char *target, *temporary;
    FILE *file;
    int fd, why;            /* why: errno of the first write that failed */
};

bool output_is_standard(const char *path);

/* Both say on standard error what failed; 0 or -1. The struct stays where it is in between. */
int output_open(struct output *o, const char *path);
/* Unless `good`, nothing appears. */
int output_close(struct output *o, bool good);

#endif
