/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_PREDICTOR_H
#define QSAE_PREDICTOR_H

#include <qsae/context.h>

QSAE_BEGIN_DECLS

/**
 * Which features does a compression put at risk? A logistic regression that an audit fitted (key
 * "fit" of "predictor" in its result, doc/result.md), applied to statistics of the uncompressed
 * model alone (arXiv 2606.03002). Thread-safety: any number of calls at a time; it does not change.
 */
typedef struct qsae_predictor qsae_predictor;

/**
 * Reads a fit out of a result document.
 * @param path       file that holds one (evaluate --json)
 * @param condition  label, or the beginning of one, of the condition it was fitted on; NULL: rtn
 *                   with 6 bits, which the paper takes, if that has a fit, else the first that has
 * @param sae_hash   hash of the SAE it was fitted on (qsae_sae_info.hash); NULL: the first with a
 *                   fit. An SAE that has none is no error where a fit of another one is there: the
 *                   first is taken, and qsae_predictor_json says which
 * @return QSAE_ENOENT, QSAE_EIO: the file; QSAE_EFORMAT: no result document, or a damaged one;
 *         QSAE_EINVAL: no condition of that name, or no fit; QSAE_ENOMEM
 */
QSAE_API int32_t qsae_predictor_open(qsae_context *context, const char *path, const char *condition,
                                     const char *sae_hash, qsae_predictor **out);

/** Closes *predictor and NULLs it. NULL is fine. */
QSAE_API void qsae_predictor_close(qsae_predictor **predictor);

/**
 * What it is (JSON): the object "fit" of the document with "auc", "auc_sd" and "auc_single" beside
 * it, and the SAE's "name", "layer", "site" and "hash".
 * @param json     receives a NUL-terminated string of the predictor's
 * @param n_bytes  receives its length; may be NULL
 */
QSAE_API int32_t qsae_predictor_json(const qsae_predictor *predictor, const char **json,
                                     size_t *n_bytes);

/**
 * Probability that each feature survives, and the order of the features at risk.
 * @param rate  [n] share of tokens on which the feature fires in the uncompressed model, 0..1
 * @param mean  [n] its mean activation over all tokens
 * @param max   [n] its largest activation
 * @param probability  [n] receives P(r > 0.9); NaN for a feature that fires on at most 0.1% of the
 *                     tokens, as no fit has seen such, or whose statistics are not finite
 * @param rank  [n] receives 1 for the feature least likely to survive, 2 for the next, ..., equal
 *              ones by index; 0 where the probability is NaN. May be NULL
 * @return QSAE_EINVAL: NULL, or n below 0; QSAE_ENOMEM
 */
QSAE_API int32_t qsae_predictor_run(const qsae_predictor *predictor, const double *rate,
                                    const double *mean, const double *max, int64_t n,
                                    double *probability, int64_t *rank);

QSAE_END_DECLS

#endif
