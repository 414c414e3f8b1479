/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CORE_LAYOUT_H
#define QSAE_CORE_LAYOUT_H

#include <qsae/version.h>

/* One qsae_layout_entry. */
typedef struct {
    const char *name, *type;
    int64_t value;
    int64_t size;
    int32_t kind;
} qsae__layout_row;

/* Written by libqsae/layout.awk when the library is built: structs, each followed by its members,
 * then constants. */
extern const qsae__layout_row qsae__layout_rows[];
extern const int64_t qsae__layout_n;

#endif
