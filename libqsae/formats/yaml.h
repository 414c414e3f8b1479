/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_FORMATS_YAML_H
#define QSAE_FORMATS_YAML_H

#include "formats/json.h"

/*
 * The part of YAML that configuration files of SAEs use: maps by indentation (keys plain or
 * quoted, depth <= 16), scalars (null, booleans, numbers, plain and quoted strings) and comments.
 * Lists, whether by "- " or in brackets, are read over and become null; flow maps that are not
 * empty, block scalars, anchors and tags are refused with their line. Duplicate keys are refused.
 * Errors name file and line (QSAE_EFORMAT, QSAE_EUNSUPPORTED). The caller json_decref()s.
 */
int32_t qsae__yaml_parse(const char *text, size_t size, const char *name, json_t **out);
int32_t qsae__yaml_load(qsae_context *ctx, const char *path, json_t **out);

#endif
