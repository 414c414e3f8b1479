/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers of a state file, little-endian, written and read back. */
#ifndef QSAE_AUDIT_BYTES_H
#define QSAE_AUDIT_BYTES_H

#include <string.h>

#include "core/core.h"

static inline void qsae__put_u64(qsae__strbuf *b, uint64_t v)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(v >> (8 * i));
    qsae__strbuf_add(b, bytes, sizeof bytes);
}

static inline void qsae__put_f64(qsae__strbuf *b, double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    qsae__put_u64(b, u);
}

/* What is left of a block. */
struct qsae__taken {
    const uint8_t *data;
    uint64_t size, at;
};

/* The next n bytes; NULL if there are fewer. */
static inline const uint8_t *qsae__take(struct qsae__taken *t, uint64_t n)
{
    if (!qsae__range_in(t->at, n, t->size))
        return NULL;
    t->at += n;
    return t->data + t->at - n;
}

static inline int32_t qsae__take_u64(struct qsae__taken *t, uint64_t *v)
{
    const uint8_t *const bytes = qsae__take(t, 8);
    *v = 0;
    if (!bytes)
        return qsae__fail(QSAE_EFORMAT, "the state ends early");
    for (int i = 0; i < 8; i++)
        *v |= (uint64_t)bytes[i] << (8 * i);
    return QSAE_OK;
}

static inline int32_t qsae__take_f64(struct qsae__taken *t, double *v)
{
    uint64_t u;
    const int32_t st = qsae__take_u64(t, &u);
    if (st == QSAE_OK)
        memcpy(v, &u, sizeof u);
    return st;
}

#endif
