/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * codecs/: weight formats (LLM.int8, NF4/FP4, RTN): encode, decode, fields; condition strings; and
 * `linear`, the one interface model/ sees. Includes formats/, kernels/, core/ and itself.
 */
#ifndef QSAE_CODECS_CODECS_H
#define QSAE_CODECS_CODECS_H

#include "codecs/condition.h"
#include "codecs/kv.h"
#include "codecs/linear.h"

#endif
