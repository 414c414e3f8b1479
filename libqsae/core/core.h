/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * core/: status and messages, checked size arithmetic, memory, log, threads, CPU levels, hashing,
 * file mapping, memory that processes share, atomic file writing, regular expressions. The lowest
 * folder: it includes only itself and include/qsae/.
 */
#ifndef QSAE_CORE_CORE_H
#define QSAE_CORE_CORE_H

#include <qsae/tensor.h>

#include "core/checked.h"
#include "core/context.h"
#include "core/file.h"
#include "core/handle.h"
#include "core/hash.h"
#include "core/memory.h"
#include "core/output.h"
#include "core/regex.h"
#include "core/seed.h"
#include "core/settings.h"
#include "core/shared.h"
#include "core/status.h"
#include "core/strbuf.h"
#include "core/threads.h"

#endif
