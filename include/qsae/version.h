/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_VERSION_H
#define QSAE_VERSION_H

#include <qsae/common.h>

QSAE_BEGIN_DECLS

/*
 * API version: major = incompatible change (and soname), minor = addition, patch = fix.
 * Read by meson.build for the soname; the release number is kept in meson.build alone.
 */
#define QSAE_API_VERSION_MAJOR 0
#define QSAE_API_VERSION_MINOR 1
#define QSAE_API_VERSION_PATCH 0

/** Release and, when built from a checkout, revision, e.g. "0.1.0-g1a2b3c". Static storage. */
QSAE_API const char *qsae_version(void);

/** API version of the library at run time, packed as major << 16 | minor << 8 | patch. */
QSAE_API uint32_t qsae_version_api(void);

/* Kinds of qsae_layout_entry. */
#define QSAE_LAYOUT_STRUCT 1
#define QSAE_LAYOUT_MEMBER 2
#define QSAE_LAYOUT_CONSTANT 3

/** One line of the table of all public structs, their members, and constants (statuses and dtypes
 * among them), as the library was compiled: for bindings that do not read headers. */
typedef struct qsae_layout_entry {
    size_t struct_size;
    const char *name;  /**< "qsae_rows", "qsae_rows.data", "QSAE_LOG_NONE"; static storage */
    const char *type;  /**< of a member, as in C: "const void *", "int64_t[8]"; else "" */
    int64_t value;     /**< offset of a member in bytes, value of a constant, 0 for a struct */
    int64_t size;      /**< bytes of a struct or member, 0 for a constant */
    int32_t kind;      /**< QSAE_LAYOUT_* */
    int32_t reserved;
} qsae_layout_entry;

/** Number of entries. Thread-safety: safe. */
QSAE_API int64_t qsae_layout_count(void);

/**
 * Describes entry i; each struct is followed by its members in their order. Thread-safety: safe.
 * @param i      0..count-1
 * @param entry  struct_size set by the caller
 * @return QSAE_EINVAL (i out of range, entry NULL or its struct_size unset; nothing is written)
 */
QSAE_API int32_t qsae_layout_get(int64_t i, qsae_layout_entry *entry);

QSAE_END_DECLS

#endif
