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

QSAE_END_DECLS

#endif
