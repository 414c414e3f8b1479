/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_COMMON_H
#define QSAE_COMMON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define QSAE_BEGIN_DECLS extern "C" {
#define QSAE_END_DECLS }
#else
#define QSAE_BEGIN_DECLS
#define QSAE_END_DECLS
#endif

#if defined(__GNUC__) || defined(__clang__)
#define QSAE_API __attribute__((visibility("default")))
#else
#define QSAE_API
#endif

QSAE_BEGIN_DECLS

/*
 * Rules that hold for every call of the library.
 *
 * Status    A call that can fail returns int32_t: QSAE_OK or one of the negative numbers below.
 *           What went wrong in detail is in qsae_error_message() of the calling thread.
 * Handles   qsae_x_open(..., &out) sets *out on success and NULLs it on failure, leaving nothing
 *           behind. qsae_x_close(&x) accepts NULL and a NULL handle, and NULLs the variable.
 *           Handles keep what they were opened on alive: the order of closing does not matter.
 * Settings  Structs start with struct_size; fill them with qsae_x_settings_init(&s, sizeof s) and
 *           set what you need. Zero means the default. They are copied, strings included.
 * Strings   UTF-8, NUL-terminated unless a length is passed. Returned strings belong to the handle.
 * Counts    int64_t counts elements, size_t counts bytes, strides count elements.
 * Globals   None: two users of the library in one process never meet. The library prints nothing.
 */

/** X(NAME, number, message): every status, once. Numbers are never reused. */
#define QSAE_STATUS_MAP(X) \
    X(OK, 0, "success") \
    X(EINVAL, -1, "invalid argument") \
    X(ENOMEM, -2, "out of memory") \
    X(EIO, -3, "input or output failed") \
    X(ENOENT, -4, "no such file, tensor, key or value") \
    X(EFORMAT, -5, "malformed file") \
    X(EUNSUPPORTED, -6, "valid, but not supported by this library") \
    X(EPICKLE, -7, "pickle files are refused") \
    X(ESPACE, -8, "output buffer too small") \
    X(ECANCELED, -9, "canceled") \
    X(EMISMATCH, -10, "the two things do not belong together") \
    X(EOVERFLOW, -11, "a size does not fit") \
    X(ENONFINITE, -12, "NaN or infinity where none is allowed") \
    X(EENV, -13, "the process environment or CPU does not allow it") \
    X(ESTATE, -14, "not allowed in the present state") \
    X(EBUSY, -15, "the handle is in use") \
    X(EINTERNAL, -16, "internal error")

#define QSAE_STATUS_ENUM_(name, number, text) QSAE_##name = number,
enum { QSAE_STATUS_MAP(QSAE_STATUS_ENUM_) QSAE_STATUS_COUNT = 17 };
#undef QSAE_STATUS_ENUM_

/** Name of a status, e.g. "QSAE_EFORMAT"; "QSAE_E?" for an unknown number. Static storage. */
QSAE_API const char *qsae_status_name(int32_t status);

/** One-line meaning of a status. Static storage. */
QSAE_API const char *qsae_status_message(int32_t status);

/** Number of statuses, QSAE_OK included; they run from 0 down to 1 - count. */
QSAE_API int32_t qsae_status_count(void);

/**
 * Message of the calling thread's last failing call: what, where (file, key), expected and found,
 * and what to do about it. Empty before the first failure.
 * @return storage of the calling thread, valid until its next failing call; never NULL
 */
QSAE_API const char *qsae_error_message(void);

/**
 * Progress of a long call, on the caller's thread.
 * @param cookie  as passed in the settings
 * @param done    finished units, 0..total
 * @param total   units in all, 0 if unknown
 * @param unit    "tokens", "bytes", "tensors"
 * @param phase   what is going on, e.g. "load", "quantize", "reference", "nf4"
 * @return 0 to go on; any other value ends the call, which returns that value unchanged
 */
typedef int32_t (*qsae_progress_callback)(void *cookie, int64_t done, int64_t total,
                                          const char *unit, const char *phase);

/**
 * A switch that ends long calls from elsewhere. Thread-safe: any thread may set it.
 */
typedef struct qsae_cancel_token qsae_cancel_token;

/** Opens a token, not set. QSAE_ENOMEM, QSAE_EINVAL. The caller closes it after the last use. */
QSAE_API int32_t qsae_cancel_token_open(qsae_cancel_token **out);

/** Sets the token: calls that were given it return QSAE_ECANCELED soon. Safe in signal handlers. */
QSAE_API void qsae_cancel_token_cancel(qsae_cancel_token *token);

/** Clears the token for another run. */
QSAE_API void qsae_cancel_token_reset(qsae_cancel_token *token);

/** Closes *token and NULLs it. No call or handle may still be using it. */
QSAE_API void qsae_cancel_token_close(qsae_cancel_token **token);

QSAE_END_DECLS

#endif
