/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernels/best.h"

#include <math.h>

void qsae__best_clear(qsae__best *list, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        list[i] = (qsae__best){ -INFINITY, -1 };
}

/* Puts a logit above the last of the list in its place, after equal ones. */
static void insert(qsae__best *list, int64_t k, float value, int32_t id)
{
    int64_t i = k - 1;
    for (; i > 0 && value > list[i - 1].value; i--)
        list[i] = list[i - 1];
    list[i] = (qsae__best){ value, id };
}

void qsae__best_add(qsae__best *list, int64_t k, const float *z, int64_t n, int32_t first)
{
    for (int64_t i = 0; i < n; i++)
        if (z[i] > list[k - 1].value)
            insert(list, k, z[i], first + (int32_t)i);
}

void qsae__best_merge(qsae__best *list, const qsae__best *other, int64_t k)
{
    for (int64_t i = 0; i < k && other[i].value > list[k - 1].value; i++)
        insert(list, k, other[i].value, other[i].id);
}

float qsae__best_overlap(const qsae__best *a, const qsae__best *b, int64_t k)
{
    int64_t both = 0;
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++)
            both += a[i].id >= 0 && a[i].id == b[j].id;
    return (float)both / (float)k;
}
