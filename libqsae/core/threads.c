/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "core/checked.h"
#include "core/memory.h"
#include "core/status.h"

/*
 * A parallel operation is announced by one store and left by one subtraction of `gate`; nobody
 * sleeps or is woken while operations follow each other within SPIN_NS. Who waits longer sleeps on
 * a condition variable, and who goes to sleep says so (sleeping, waiting) before a last look at the
 * gate, while who changes the gate looks at that afterwards: one of the two sees the other.
 *
 * Helpers enter an operation of their own accord and only while it is open. The caller closes it
 * when no tile is left and waits for those inside: a helper that comes late, asleep or without a
 * CPU, costs nothing.
 */
#define SPIN_NS 100000
#define PAUSES 32 /* between two looks at the clock */

/* gate: number of the operation, whether it may be entered, helpers inside */
#define GATE_INSIDE ((uint64_t)0x7ff)
#define GATE_OPEN ((uint64_t)0x800)
#define GATE_NUMBER ((uint64_t)0x1000)

struct job {
    qsae__tile_fn fn;
    void *arg;
    int64_t n;
    atomic_llong next;         /* first tile not handed out */
    atomic_llong failed;       /* lowest failing tile so far, n if none */
    int32_t status;            /* of that tile, under the mutex */
    char message[QSAE__MESSAGE_SIZE];
};

struct helper {
    qsae_context *ctx;
    pthread_t thread;
    int32_t worker;
};

struct qsae__pool {
    pthread_mutex_t turn;            /* one parallel operation at a time */
    pthread_mutex_t mutex;           /* of the conditions, quit and a job's failure */
    pthread_cond_t wake, done;
    struct job *job;                 /* of an open gate */
    int32_t n_helpers;
    int64_t spin_ns;                 /* 0 where threads are more than CPUs */
    _Alignas(64) atomic_ullong gate;
    _Alignas(64) atomic_int sleeping; /* helpers on wake */
    atomic_bool waiting;             /* the caller is on done */
    atomic_bool quit;
    _Alignas(64) struct helper helpers[];
};

/* Set while this thread runs a tile: nested calls run in place. */
static _Thread_local const void *inside;
static _Thread_local int32_t inside_worker;

#define X87_DEFAULT 0x37f /* nearest, 64-bit significands, all exceptions masked */

qsae__fpenv qsae__fpenv_enter(void)
{
    qsae__fpenv env = { 0 };
#if defined(__x86_64__)
    const uint16_t x87 = X87_DEFAULT;
    env.control = _mm_getcsr();
    _mm_setcsr(0x1f80); /* all exceptions masked, round to nearest, no FTZ or DAZ */
    __asm__ volatile("fnstcw %0" : "=m"(env.x87));
    if (env.x87 != x87)
        __asm__ volatile("fldcw %0" : : "m"(x87));
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(env.control));
    if (env.control)
        __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
#endif
    return env;
}

void qsae__fpenv_leave(qsae__fpenv env)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)env.control);
    if (env.x87 != X87_DEFAULT)
        __asm__ volatile("fldcw %0" : : "m"(env.x87));
#elif defined(__aarch64__)
    if (env.control)
        __asm__ volatile("msr fpcr, %0" : : "r"(env.control) : "memory");
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

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One step of a short wait that began with *until = 0; false when it has lasted long enough. */
static bool spin(const struct qsae__pool *pool, int64_t *until, uint32_t *steps)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
    if ((*steps)++ % PAUSES)
        return true;
    const int64_t now = pool->spin_ns > 0 ? clock_ns() : 0;
    if (!*until)
        *until = now + pool->spin_ns;
    return now < *until;
}

/* Returns when there may be an operation to enter, or the end. */
static void await_work(struct qsae__pool *pool, uint64_t entered)
{
    int64_t until = 0;
    uint32_t steps = 0;
    uint64_t gate;
    do {
        gate = atomic_load(&pool->gate);
        if (((gate & GATE_OPEN) && gate / GATE_NUMBER != entered) || atomic_load(&pool->quit))
            return;
    } while (spin(pool, &until, &steps));
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleeping, 1);
    while (atomic_load(&pool->gate) / GATE_NUMBER == gate / GATE_NUMBER &&
           !atomic_load(&pool->quit))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static bool is_over(const struct qsae__pool *pool)
{
    return (atomic_load(&pool->gate) & GATE_INSIDE) == 0;
}

/* Enters the open operation unless this helper has been there. */
static bool enter(struct qsae__pool *pool, uint64_t *entered)
{
    unsigned long long gate = atomic_load(&pool->gate);
    while ((gate & GATE_OPEN) && gate / GATE_NUMBER != *entered) {
        if (!atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1))
            continue;
        *entered = gate / GATE_NUMBER;
        return true;
    }
    return false;
}

static void leave(struct qsae__pool *pool)
{
    const uint64_t left = atomic_fetch_sub(&pool->gate, 1) - 1;
    if ((left & (GATE_OPEN | GATE_INSIDE)) || !atomic_load(&pool->waiting))
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void *helper_main(void *arg)
{
    const struct helper *const h = arg;
    struct qsae__pool *const pool = h->ctx->pool;
    uint64_t entered = 0;
    while (!atomic_load(&pool->quit)) {
        await_work(pool, entered);
        if (!enter(pool, &entered))
            continue;
        run_tiles(h->ctx, pool->job, h->worker);
        leave(pool);
    }
    return NULL;
}

static void announce(struct qsae__pool *pool, struct job *job)
{
    const uint64_t number = atomic_load(&pool->gate) / GATE_NUMBER + 1;
    pool->job = job; /* nobody is inside */
    atomic_store(&pool->gate, number * GATE_NUMBER | GATE_OPEN);
    const int64_t wake = qsae__min_i64(atomic_load(&pool->sleeping), job->n - 1);
    if (wake <= 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    if (wake >= pool->n_helpers)
        pthread_cond_broadcast(&pool->wake);
    for (int64_t i = 0; wake < pool->n_helpers && i < wake; i++)
        pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* Closes the operation and waits until the helpers inside have left. */
static void finish(struct qsae__pool *pool)
{
    const uint64_t gate = atomic_fetch_and(&pool->gate, ~(unsigned long long)GATE_OPEN);
    int64_t until = 0;
    uint32_t steps = 0;
    if ((gate & GATE_INSIDE) == 0)
        return;
    do {
        if (is_over(pool))
            return;
    } while (spin(pool, &until, &steps));
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->waiting, true);
    while (!is_over(pool))
        pthread_cond_wait(&pool->done, &pool->mutex);
    atomic_store(&pool->waiting, false);
    pthread_mutex_unlock(&pool->mutex);
}

/* CPUs the process may run on; 0 if the system does not say. */
static int32_t cpus_allowed(cpu_set_t *set)
{
    CPU_ZERO(set);
    return sched_getaffinity(0, sizeof *set, set) == 0 ? CPU_COUNT(set) : 0;
}

/* Puts the helper of a worker on one CPU of the set: worker i on CPU i modulo their number, so that
 * the first is left to the caller, whose thread stays as it is. */
static int32_t pin(pthread_t thread, int32_t worker, const cpu_set_t *set, int32_t cpus)
{
    cpu_set_t one;
    int cpu = -1;
    for (int32_t left = worker % cpus; left >= 0; left -= CPU_ISSET(cpu, set) != 0)
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    const int e = pthread_setaffinity_np(thread, sizeof one, &one);
    return e ? qsae__fail(QSAE_EENV, "cannot pin thread %d to CPU %d: %s", (int)worker + 1, cpu,
                          strerror(e))
             : QSAE_OK;
}

static int32_t start_helper(qsae_context *ctx, int32_t i)
{
    struct qsae__pool *const pool = ctx->pool;
    struct helper *const h = &pool->helpers[i];
    h->ctx = ctx;
    h->worker = i + 1;
    const int e = pthread_create(&h->thread, NULL, helper_main, h);
    if (e)
        return qsae__fail(QSAE_EENV, "cannot start thread %d of %d: %s", (int)i + 2,
                          (int)ctx->threads, strerror(e));
    pool->n_helpers++;
    return QSAE_OK;
}

static void destroy_locks(struct qsae__pool *pool, int made)
{
    if (made > 3)
        pthread_cond_destroy(&pool->done);
    if (made > 2)
        pthread_cond_destroy(&pool->wake);
    if (made > 1)
        pthread_mutex_destroy(&pool->mutex);
    if (made > 0)
        pthread_mutex_destroy(&pool->turn);
}

static int32_t make_locks(struct qsae__pool *pool)
{
    int made = 0, e = pthread_mutex_init(&pool->turn, NULL);
    if (!e && (made = 1, e = pthread_mutex_init(&pool->mutex, NULL)) == 0 &&
        (made = 2, e = pthread_cond_init(&pool->wake, NULL)) == 0 &&
        (made = 3, e = pthread_cond_init(&pool->done, NULL)) == 0)
        return QSAE_OK;
    destroy_locks(pool, made);
    return qsae__fail(QSAE_EENV, "cannot make a lock: %s", strerror(e));
}

int32_t qsae__pool_open(qsae_context *ctx)
{
    const int32_t helpers = ctx->threads - 1;
    struct qsae__pool *pool =
        qsae__calloc(ctx, 1, sizeof *pool + (size_t)helpers * sizeof pool->helpers[0]);
    if (!pool)
        return QSAE_ENOMEM;
    cpu_set_t set;
    const int32_t cpus = cpus_allowed(&set);
    pool->spin_ns = ctx->threads <= cpus ? SPIN_NS : 0;
    atomic_init(&pool->gate, 0);
    atomic_init(&pool->sleeping, 0);
    atomic_init(&pool->waiting, false);
    atomic_init(&pool->quit, false);
    int32_t st = make_locks(pool);
    if (st != QSAE_OK) {
        qsae__free(ctx, pool);
        return st;
    }
    ctx->pool = pool;
    if (ctx->pin && cpus == 0)
        st = qsae__fail(QSAE_EENV, "cannot pin threads: the CPUs of the process are unknown");
    /* The threads belong to the library: the host's signal handlers must not run on them, but for
     * those of a fault, which would otherwise end the process without a word. */
    static const int faults[] = { SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP };
    sigset_t all, old;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int32_t i = 0; i < helpers && st == QSAE_OK; i++) {
        st = start_helper(ctx, i);
        if (st == QSAE_OK && ctx->pin)
            st = pin(pool->helpers[i].thread, i + 1, &set, cpus);
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
        atomic_store(&pool->quit, true);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
        for (int32_t i = 0; i < pool->n_helpers; i++)
            pthread_join(pool->helpers[i].thread, NULL);
        destroy_locks(pool, 4);
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
    ctx = ctx->core;
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
    if (spread)
        announce(pool, &job);
    run_tiles(ctx, &job, 0);
    if (spread)
        finish(pool);
    pthread_mutex_unlock(&pool->turn);
    if (job.status != QSAE_OK)
        memcpy(qsae__message(), job.message, sizeof job.message);
    return job.status;
}
