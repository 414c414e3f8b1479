/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/layout.h"

#include "core/core.h"

int64_t qsae_layout_count(void)
{
    return qsae__layout_n;
}

int32_t qsae_layout_get(int64_t i, qsae_layout_entry *entry)
{
    if (!entry)
        return qsae__fail(QSAE_EINVAL, "qsae_layout_get: entry is NULL");
    if (i < 0 || i >= qsae__layout_n)
        return qsae__fail(QSAE_EINVAL, "qsae_layout_get: index %lld, there are %lld entries",
                          (long long)i, (long long)qsae__layout_n);
    const qsae__layout_row *row = &qsae__layout_rows[i];
    const qsae_layout_entry full = {
        .struct_size = sizeof full,
        .name = row->name,
        .type = row->type,
        .value = row->value,
        .size = row->size,
        .kind = row->kind,
    };
    return qsae__info_copy(entry, &full, sizeof full, "qsae_layout_entry");
}
