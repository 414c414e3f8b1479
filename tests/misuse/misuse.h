/* SPDX-License-Identifier: BSD-2-Clause */
/* Wrong arguments, one list per kind; b counts from 0, false beyond the last. */
#ifndef TESTS_MISUSE_MISUSE_H
#define TESTS_MISUSE_MISUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NOT_NULL ((void *)1)

bool wrong_i32(int b, int32_t *v);
bool wrong_i64(int b, int64_t *v);
bool wrong_f64(int b, double *v);
bool wrong_f32(int b, float *v);
bool wrong_text(int b, const char **v);
/* NULL, and by size of an element misaligned addresses near a good one. */
bool wrong_pointer(int b, void **v, const void *good, size_t size);
/* Copies of a good one with one field wrong; of NULL: none. */
bool wrong_rows(int b, void **v, const void *good);
bool wrong_struct(int b, void **v, const void *good, size_t size);
bool wrong_info(int b, void **v, const void *good, size_t size);
/* type: name of the handle's. NULL, no handles, misaligned, of other kinds, closed. */
bool wrong_handle(int b, void **v, const void *good, const char *type);
/* Where a close function finds its handle. */
bool wrong_place(int b, void ***v, const char *type);

/* What a call returned for wrong value b of a parameter. */
enum result {
    RESULT_STATUS,   /* must be an error */
    RESULT_NEUTRAL,  /* must be 0: 0, "" or NULL */
    RESULT_NOTHING,
};
/* nulled: its handle is NULL after that. */
void judge(const char *function, const char *parameter, int b, enum result kind, int64_t result,
           bool nulled);
/* place: as it was given to a close function, and what it held. */
void judge_close(const char *function, const char *parameter, int b, void **place,
                 const void *before);
/* For an _init function: NULL, or a size too small for struct_size; then nothing is written. */
bool wrong_init(int b, void **v, size_t *size);
void judge_init(const char *function, int b);

/* Handles of every kind, open and closed, to be given where others belong. */
struct fixture;
bool museum_open(const struct fixture *f);
/* Whether all open ones still do what they should. */
bool museum_whole(void);
void museum_close(void);

/* Checks of handles that no single wrong argument makes; true if all is well. */
struct handle_check {
    const char *name;
    bool (*run)(const struct fixture *f);
};
extern const struct handle_check handle_checks[];
extern const int n_handle_checks;

#endif
