/* SPDX-License-Identifier: BSD-2-Clause */
/* Inside of a GGUF file's pairs, for gguf.c and pairs.c. */
#ifndef QSAE_FORMATS_PAIRS_H
#define QSAE_FORMATS_PAIRS_H

#include "formats/gguf.h"

typedef struct qsae__pair {
    const char *key;       /* not NUL-terminated while the file is read */
    const uint8_t *data;   /* value; of a string and of an array: what follows its count */
    uint64_t count;        /* bytes of a string, elements of an array */
    uint32_t key_size;
    uint8_t type, element; /* QSAE__GGUF_* */
} qsae__pair;

struct qsae__gguf {
    const char *path;
    uint64_t size;        /* of the file */
    qsae__pair *pairs;    /* [count], by key */
    int64_t count;
};

/* Bytes of one value; 0 for strings and arrays. type at most QSAE__GGUF_F64. */
uint32_t qsae__pair_size(uint32_t type);

/* By key, once the keys end in NUL. */
int qsae__pair_order(const void *a, const void *b);

/* Bytes of the first character of text [size > 0]; 0: no well-formed UTF-8 (Unicode 15, table
 * 3-7). */
size_t qsae__char_size(const void *text, uint64_t size);

/* Well-formed UTF-8 without NUL. */
bool qsae__is_text(const void *text, uint64_t size);

static inline uint32_t qsae__read_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t qsae__read_u64(const uint8_t *p)
{
    return (uint64_t)qsae__read_u32(p + 4) << 32 | qsae__read_u32(p);
}

#endif
