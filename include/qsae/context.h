/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef QSAE_CONTEXT_H
#define QSAE_CONTEXT_H

#include <qsae/common.h>

QSAE_BEGIN_DECLS

/**
 * What every other handle is opened on: worker threads, allocator, log, kernel level.
 *
 * Handles of every kind know what they are and whether they are open. A function that is given
 * NULL, a handle of another kind or a closed one returns QSAE_EINVAL with a message that names
 * the parameter, what was expected and what was found; a function without a status returns 0, ""
 * or NULL and does nothing. A close function does nothing, leaves the pointer and sets the
 * message when it is given a handle of another kind, one that is closed (a copy of the pointer),
 * one that belongs to another handle, or one that a call is using further up (from a callback:
 * QSAE_EBUSY's message). A context keeps the structs of its last 256 closed handles, at most 256
 * KiB, for that: what was closed before those, what belonged to a context all of whose handles
 * and itself are closed, closed cancel tokens and pointers to anything else are not noticed for
 * certain. A handle does not need those it was made from: they may be closed before it, but for a
 * set of SAEs, whose SAEs end with it. Two calls at once with a handle that allows one:
 * QSAE_EBUSY of models and audits, undefined of others.
 *
 * Thread-safety: safe. A context runs one parallel operation at a time, others queue. It must not
 * be used in a child after fork(); such a call returns QSAE_EENV.
 */
typedef struct qsae_context qsae_context;

#define QSAE_LOG_DEFAULT 0 /**< as QSAE_LOG_WARNING */
#define QSAE_LOG_NONE 1
#define QSAE_LOG_ERROR 2
#define QSAE_LOG_WARNING 3
#define QSAE_LOG_INFO 4
#define QSAE_LOG_DEBUG 5

#define QSAE_FILES_DEFAULT 0 /**< as QSAE_FILES_MAP */
#define QSAE_FILES_MAP 1     /**< map files: fast, shared; truncating one in use raises SIGBUS */
#define QSAE_FILES_READ 2    /**< read files into memory: for files that others may change */

/** Receives log lines (no newline at the end), from any thread, one at a time. It must not call the
 * library. */
typedef void (*qsae_log_callback)(void *cookie, int32_t level, const char *message);

/** Returns size bytes aligned to alignment (a power of two), or NULL. Called from any thread; it
 * must not call the library. */
typedef void *(*qsae_alloc_callback)(void *cookie, size_t size, size_t alignment);

/** Frees what the matching qsae_alloc_callback returned. Called from any thread; it must not call
 * the library. */
typedef void (*qsae_free_callback)(void *cookie, void *pointer);

typedef struct qsae_context_settings {
    size_t struct_size;       /**< set by qsae_context_settings_init */
    const char *cpu;          /**< highest kernel level: "c", "avx2", "avx512", "avx512bf16", "amx";
                                   NULL = the highest this CPU has; one it lacks: QSAE_EENV.
                                   "avx2+blis", ...: with f32 products by BLIS, see
                                   qsae_context_gemm() */
    qsae_log_callback log;    /**< NULL = silent */
    void *log_cookie;
    qsae_alloc_callback alloc; /**< both or neither; NULL = the C library. BLIS, jansson, libzip and
                                    file maps do not pass through it */
    qsae_free_callback free;
    void *alloc_cookie;
    int32_t threads;          /**< 1..1024; 0 = as many as the process may run on */
    int32_t log_level;        /**< QSAE_LOG_* */
    int32_t files;            /**< QSAE_FILES_* */
    int32_t pin;              /**< 1 = each thread of the library stays on one CPU of those the
                                   process may run on; the caller's own thread is never moved */
    const char *share_folder; /**< NULL, or an existing folder of this user that nobody else can
                                   write, best in /dev/shm: what models and SAEs keep packed,
                                   encoded or converted lies there in files named after their
                                   bytes, once for all processes and contexts of the machine with
                                   that folder. No result depends on it. Where the folder has no
                                   room, or a file is not what its name says, weights stay in
                                   memory of the process, with a warning in the log. Files are
                                   never removed; they may be at any time, and so may the folder:
                                   what is in use stays mapped, what is opened later is the
                                   process's own. Shortening a file in use raises SIGBUS. Does not
                                   pass through alloc */
} qsae_context_settings;

/** Zeroes *s up to size bytes and sets struct_size. size: sizeof(qsae_context_settings). */
QSAE_API void qsae_context_settings_init(qsae_context_settings *s, size_t size);

/**
 * Opens a context and starts its threads.
 * @param settings  NULL = defaults
 * @param out       receives the context; the caller closes it
 * @return QSAE_EINVAL, QSAE_ENOMEM; QSAE_ENOENT, QSAE_EIO: share_folder; QSAE_EENV: the CPU lacks
 *         the level, threads cannot start or be pinned, or BLIS was asked for and has no kernel with
 *         the library's sums, or would abort as BLIS_ARCH_TYPE in the environment names a kernel
 *         that this CPU or level lacks
 */
QSAE_API int32_t qsae_context_open(const qsae_context_settings *settings, qsae_context **out);

/** Closes *context and NULLs it. Handles opened on it stay usable until they are closed; nothing
 * more can be opened on it. */
QSAE_API void qsae_context_close(qsae_context **context);

/** Number of threads, the caller's included. */
QSAE_API int32_t qsae_context_threads(const qsae_context *context);

/** Kernel level in use: "c", "avx2", "avx512", "avx512bf16" or "amx". Static storage. */
QSAE_API const char *qsae_context_cpu(const qsae_context *context);

/** Highest kernel level of this machine. Static storage. */
QSAE_API const char *qsae_cpu_best(void);

/**
 * What computes f32 products: "c", "avx2" or "avx512", a kernel of the library; "blis-0.9.0/haswell"
 * where settings.cpu asked for BLIS. Both have the same bits, which is what BLIS is there to show; it
 * is not faster, and ends the process where memory runs out inside it.
 */
QSAE_API const char *qsae_context_gemm(const qsae_context *context);

/** The kernel that BLIS took, or "not asked". */
QSAE_API const char *qsae_context_blis(const qsae_context *context);

QSAE_END_DECLS

#endif
