/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/threads.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "core/memory.h"
#include "core/status.h"

struct job {
    qsae__tile_fn fn;
    void *arg;
    int64_t n;
    atomic_llong next;         /* first tile not handed out */
    atomic_llong failed;       /* lowest failing tile so far, n if none */
    int32_t status;            /* of that tile, under the mutex */
    char message[QSAE__MESSAGE_SIZE];
};

struct qsae__pool {
    pthread_mutex_t turn;      /* one parallel operation at a time */
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    struct job *job;
    int64_t generation;
    int32_t running;           /* helpers still in the present job */
    int32_t n_helpers;
    bool quit;
    pthread_t threads[];
};

struct helper {
    qsae_context *ctx;
    int32_t worker;
};

/* Set while this thread runs a tile: nested calls run in place. */
static _Thread_local const void *inside;
static _Thread_local int32_t inside_worker;

qsae__fpenv qsae__fpenv_enter(void)
{
    qsae__fpenv env = { 0 };
#if defined(__x86_64__)
    env.mxcsr = _mm_getcsr();
    _mm_setcsr(0x1f80); /* all exceptions masked, round to nearest, no FTZ or DAZ */
#endif
    return env;
}

void qsae__fpenv_leave(qsae__fpenv env)
{
#if defined(__x86_64__)
    _mm_setcsr(env.mxcsr);
#else
    (void)env;
#endif
}

static void run_tiles(qsae_context *ctx, struct job *job, int32_t worker)
{
    const qsae__fpenv env = qsae__fpenv_enter();
    const void *const outer = inside;
    const int32_t outer_worker = inside_worker;
    inside = ctx;
    inside_worker = worker;
    for (;;) {
        const long long t = atomic_fetch_add(&job->next, 1);
        /* Tiles above a failed one need not run; those below it still may fail first. */
        if (t >= job->n || t > atomic_load(&job->failed))
            break;
        const int32_t st = job->fn(job->arg, t, worker);
        if (st == QSAE_OK)
            continue;
        pthread_mutex_lock(&ctx->pool->mutex);
        if (t < atomic_load(&job->failed)) {
            atomic_store(&job->failed, t);
            job->status = st;
            memcpy(job->message, qsae__message(), sizeof job->message);
        }
        pthread_mutex_unlock(&ctx->pool->mutex);
    }
    inside = outer;
    inside_worker = outer_worker;
    qsae__fpenv_leave(env);
}

static void *helper_main(void *arg)
{
    struct helper *const h = arg;
    qsae_context *const ctx = h->ctx;
    struct qsae__pool *const pool = ctx->pool;
    const int32_t worker = h->worker;
    int64_t seen = 0;
    qsae__free(ctx, h);
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->quit && pool->generation == seen)
            pthread_cond_wait(&pool->wake, &pool->mutex);
        if (pool->quit)
            break;
        seen = pool->generation;
        struct job *const job = pool->job;
        pthread_mutex_unlock(&pool->mutex);
        run_tiles(ctx, job, worker);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->running == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

int32_t qsae__pool_open(qsae_context *ctx)
{
    const int32_t helpers = ctx->threads - 1;
    struct qsae__pool *pool =
        qsae__calloc(ctx, 1, sizeof *pool + (size_t)helpers * sizeof pool->threads[0]);
    if (!pool)
        return QSAE_ENOMEM;
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    ctx->pool = pool;
    /* The threads belong to the library: the host's signal handlers must not run on them. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int32_t st = QSAE_OK;
    for (int32_t i = 0; i < helpers && st == QSAE_OK; i++) {
        struct helper *h = qsae__alloc(ctx, sizeof *h);
        if (!h) {
            st = QSAE_ENOMEM;
            break;
        }
        *h = (struct helper){ .ctx = ctx, .worker = i + 1 };
        const int e = pthread_create(&pool->threads[i], NULL, helper_main, h);
        if (e) {
            qsae__free(ctx, h);
            st = qsae__fail(QSAE_EENV, "cannot start thread %d of %d: %s", (int)i + 2,
                            (int)ctx->threads, strerror(e));
        } else {
            pool->n_helpers++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (st != QSAE_OK)
        qsae__pool_close(ctx);
    return st;
}

void qsae__pool_close(qsae_context *ctx)
{
    struct qsae__pool *pool = ctx->pool;
    if (!pool)
        return;
    if ((long)getpid() == ctx->pid) { /* after fork the helpers are not there to join */
        pthread_mutex_lock(&pool->mutex);
        pool->quit = true;
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
        for (int32_t i = 0; i < pool->n_helpers; i++)
            pthread_join(pool->threads[i], NULL);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->mutex);
        pthread_mutex_destroy(&pool->turn);
    }
    qsae__free(ctx, pool);
    ctx->pool = NULL;
}

static int32_t run_in_place(int64_t n, qsae__tile_fn fn, void *arg)
{
    for (int64_t t = 0; t < n; t++) {
        const int32_t st = fn(arg, t, inside_worker);
        if (st != QSAE_OK)
            return st;
    }
    return QSAE_OK;
}

int32_t qsae__parallel(qsae_context *ctx, int64_t n_tiles, qsae__tile_fn fn, void *arg)
{
    if (inside == ctx)
        return run_in_place(n_tiles, fn, arg);
    if ((long)getpid() != ctx->pid)
        return qsae__fail(QSAE_EENV, "a context cannot be used in a child process after fork");
    struct qsae__pool *const pool = ctx->pool;
    struct job job = { .fn = fn, .arg = arg, .n = n_tiles };
    atomic_init(&job.next, 0);
    atomic_init(&job.failed, n_tiles);
    pthread_mutex_lock(&pool->turn);
    const bool spread = pool->n_helpers > 0 && n_tiles > 1;
    if (spread) {
        pthread_mutex_lock(&pool->mutex);
        pool->job = &job;
        pool->generation++;
        pool->running = pool->n_helpers;
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    run_tiles(ctx, &job, 0);
    if (spread) {
        pthread_mutex_lock(&pool->mutex);
        while (pool->running > 0)
            pthread_cond_wait(&pool->done, &pool->mutex);
        pool->job = NULL;
        pthread_mutex_unlock(&pool->mutex);
    }
    pthread_mutex_unlock(&pool->turn);
    if (job.status != QSAE_OK)
        memcpy(qsae__message(), job.message, sizeof job.message);
    return job.status;
}
