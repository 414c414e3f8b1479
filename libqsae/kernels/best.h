/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_KERNELS_BEST_H
#define QSAE_KERNELS_BEST_H

#include <stdint.h>

/* One of the k largest logits of a row. Lists of k go from the largest down, of equal logits the
 * lower id first; what is not filled has id -1 and value -inf, which no logit is above. */
typedef struct qsae__best {
    float value;
    int32_t id;
} qsae__best;

void qsae__best_clear(qsae__best *list, int64_t n);
/* Takes in z[n], ids first.. , all of them above those in the list. NaN and -inf are passed over.
 */
void qsae__best_add(qsae__best *list, int64_t k, const float *z, int64_t n, int32_t first);
/* Takes in another list, whose ids are above those of this one. */
void qsae__best_merge(qsae__best *list, const qsae__best *other, int64_t k);
/* Ids that both lists have, as a share of k. */
float qsae__best_overlap(const qsae__best *a, const qsae__best *b, int64_t k);

#endif
