/* SPDX-License-Identifier: BSD-2-Clause */
/* Read before every file by the tools of this folder, which see one file at a time: what functions
 * of others return. */
#ifndef TESTS_TOOLS_KNOWN_H
#define TESTS_TOOLS_KNOWN_H

/* Programs do not have the library's own headers. */
#if __has_include("core/status.h")
#include "core/status.h"

/* Never 0: a caller that goes on has what it asked for. */
#define qsae__fail(status, ...) (qsae__fail(status, __VA_ARGS__), (status))
#define qsae__fail_in(status, ...) (qsae__fail_in(status, __VA_ARGS__), (status))
#endif

#endif
