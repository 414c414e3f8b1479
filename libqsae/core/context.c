/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/context.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/settings.h"
#include "core/shared.h"
#include "core/status.h"
#include "core/threads.h"

#define HUGE_PAGE ((size_t)2 << 20)

/* The default allocator. Large blocks are aligned to, and advised as, huge pages: a 4 KiB page walk
 * per row of a weight tile costs more than the arithmetic, and first touches are several times
 * cheaper. */
static void *alloc_default(void *cookie, size_t size, size_t alignment)
{
    (void)cookie;
    const bool large = size >= 2 * HUGE_PAGE;
    void *p = NULL;
    if (posix_memalign(&p, large ? HUGE_PAGE : alignment, size))
        return NULL;
    if (large)
        (void)madvise(p, size, MADV_HUGEPAGE);
    return p;
}

static void free_default(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

static int32_t online_threads(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        const int n = CPU_COUNT(&set);
        return n < 1 ? 1 : n > 1024 ? 1024 : n;
    }
    return 1;
}

/* "LEVEL" or "LEVEL+blis". */
static int32_t check_cpu(const char *cpu, int32_t *level, bool *blis)
{
    const int32_t best = qsae__cpu_level();
    *level = best;
    *blis = false;
    if (!cpu)
        return QSAE_OK;
    char name[16];
    const char *const plus = strchr(cpu, '+');
    snprintf(name, sizeof name, "%.*s", (int)(plus && plus - cpu < 15 ? plus - cpu : 15), cpu);
    *blis = plus && strcmp(plus, "+blis") == 0;
    *level = (plus != NULL) == *blis ? qsae__level_from_name(name) : -1;
    if (*level < 0)
        return qsae__fail(QSAE_EINVAL,
                          "cpu: \"%s\" is unknown; expected c, avx2, avx512, avx512bf16 or amx, "
                          "or one of these and +blis", cpu);
    return *level <= best ? QSAE_OK
                          : qsae__fail(QSAE_EENV, "cpu: level %s asked for, this machine has %s",
                                       name, qsae__level_name(best));
}

static int32_t check(const qsae_context_settings *s, int32_t *level, bool *blis)
{
    const int32_t st = check_cpu(s->cpu, level, blis);
    if (st != QSAE_OK)
        return st;
    if (s->threads < 0 || s->threads > 1024)
        return qsae__fail(QSAE_EINVAL, "threads: expected 0..1024, found %d", (int)s->threads);
    if (s->log_level < 0 || s->log_level > QSAE_LOG_DEBUG)
        return qsae__fail(QSAE_EINVAL, "log_level: expected 0..5, found %d", (int)s->log_level);
    if (s->files < 0 || s->files > QSAE_FILES_READ)
        return qsae__fail(QSAE_EINVAL, "files: expected 0..2, found %d", (int)s->files);
    if (!s->alloc != !s->free)
        return qsae__fail(QSAE_EINVAL, "alloc and free: expected both or neither");
    if (s->pin < 0 || s->pin > 1)
        return qsae__fail(QSAE_EINVAL, "pin: expected 0 or 1, found %d", (int)s->pin);
    return QSAE_OK;
}

int32_t qsae__context_new(const qsae_context_settings *settings, qsae_context **out)
{
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    qsae_context_settings s;
    int32_t st = qsae__settings_copy(&s, sizeof s, settings, "qsae_context_settings"), level = 0;
    bool blis = false;
    if (st != 0 || (st = check(&s, &level, &blis)) != 0)
        return st;
    const qsae_alloc_callback alloc = s.alloc ? s.alloc : alloc_default;
    const qsae_free_callback release = s.free ? s.free : free_default;
    qsae_context *const ctx = alloc(s.alloc_cookie, 2 * sizeof *ctx, 64);
    if (!ctx)
        return qsae__fail(QSAE_ENOMEM, "out of memory: %zu bytes for a context", 2 * sizeof *ctx);
    *ctx = (qsae_context){
        .core = ctx,
        .level = level,
        .blis = blis,
        .threads = s.threads ? s.threads : online_threads(),
        .log_level = s.log_level ? s.log_level : QSAE_LOG_WARNING,
        .files = s.files ? s.files : QSAE_FILES_MAP,
        .pin = s.pin,
        .log = s.log,
        .log_cookie = s.log_cookie,
        .alloc = alloc,
        .free = release,
        .alloc_cookie = s.alloc_cookie,
        .pid = (long)getpid(),
    };
    qsae__seed_choose(&ctx->seed);
    qsae__handle_init(ctx);
    atomic_flag_clear(&ctx->retired.lock);
    atomic_init(&ctx->refs, 1);
    if (s.share_folder)
        st = qsae__shares_open(ctx, s.share_folder);
    if (st != 0 || (st = qsae__pool_open(ctx)) != 0) {
        qsae__shares_close(ctx);
        release(s.alloc_cookie, ctx);
        return st;
    }
    *out = ctx;
    return QSAE_OK;
}

qsae_context *qsae__context_view(qsae_context *core)
{
    core[1] = core[0];
    return core + 1;
}

void qsae_context_settings_init(qsae_context_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

qsae_context *qsae__context_ref(qsae_context *ctx)
{
    atomic_fetch_add_explicit(&ctx->core->refs, 1, memory_order_relaxed);
    return ctx->core;
}

void qsae__context_unref(qsae_context *ctx)
{
    if (!ctx || atomic_fetch_sub_explicit(&ctx->core->refs, 1, memory_order_acq_rel) != 1)
        return;
    qsae_context *const core = ctx->core;
    qsae__pool_close(core);
    qsae__retired_free(core);
    qsae__shares_close(core);
    qsae__handle_close(&core->base, QSAE__A_CONTEXT);
    core->free(core->alloc_cookie, core);
}

void qsae_context_close(qsae_context **context)
{
    if (!qsae__leave(context, "context"))
        return;
    qsae__context_unref(*context);
    *context = NULL;
}

int32_t qsae_context_threads(const qsae_context *ctx)
{
    return qsae__is_open(ctx) ? ctx->threads : 0;
}

const char *qsae_context_cpu(const qsae_context *ctx)
{
    return qsae__is_open(ctx) ? qsae__level_name(ctx->level) : "";
}

const char *qsae_context_gemm(const qsae_context *ctx)
{
    return qsae__is_open(ctx) ? ctx->gemm_name : "";
}

const char *qsae_context_blis(const qsae_context *ctx)
{
    return qsae__is_open(ctx) ? ctx->blis_name : "";
}

void qsae__log(qsae_context *ctx, int32_t level, const char *format, ...)
{
    if (!ctx->log || level > ctx->log_level)
        return;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ctx->log(ctx->log_cookie, level, text);
}

struct qsae_cancel_token {
    qsae__handle base;
    atomic_int set;
};

int32_t qsae_cancel_token_open(qsae_cancel_token **out)
{
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    *out = malloc(sizeof **out);
    if (!*out)
        return qsae__fail(QSAE_ENOMEM, "out of memory: a cancel token");
    memset(*out, 0, sizeof **out);
    qsae__handle_init(*out);
    atomic_init(&(*out)->set, 0);
    return QSAE_OK;
}

void qsae_cancel_token_cancel(qsae_cancel_token *token)
{
    if (qsae__is_open(token))
        atomic_store_explicit(&token->set, 1, memory_order_relaxed);
}

void qsae_cancel_token_reset(qsae_cancel_token *token)
{
    if (qsae__is_open(token))
        atomic_store_explicit(&token->set, 0, memory_order_relaxed);
}

void qsae_cancel_token_close(qsae_cancel_token **token)
{
    if (!qsae__leave(token, "token"))
        return;
    free(*token);
    *token = NULL;
}

int32_t qsae__canceled(const qsae_cancel_token *token)
{
    if (!token)
        return QSAE_OK;
    if (qsae__need(token, "cancel"))
        return QSAE_EINVAL;
    if (atomic_load_explicit(&token->set, memory_order_relaxed))
        return qsae__fail(QSAE_ECANCELED, "canceled by the caller");
    return QSAE_OK;
}
