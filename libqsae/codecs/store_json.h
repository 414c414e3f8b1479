/* SPDX-License-Identifier: BSD-2-Clause */
/* Options of quantization_config that the readers of stored formats do not run. */
#ifndef QSAE_CODECS_STORE_JSON_H
#define QSAE_CODECS_STORE_JSON_H

#include "formats/formats.h"

/* QSAE_EUNSUPPORTED unless the key is missing, null, false, or an empty object or array. */
static inline int32_t qsae__store_unused(const json_t *config, const char *where, const char *key)
{
    const json_t *const v = json_object_get(config, key);
    if (!v || json_is_null(v) || json_is_false(v) ||
        ((json_is_object(v) || json_is_array(v)) && json_object_size(v) + json_array_size(v) == 0))
        return QSAE_OK;
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: key \"%s\" is not supported", where, key);
}

#endif
