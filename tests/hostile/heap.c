/* SPDX-License-Identifier: BSD-2-Clause */
#include "heap.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

static atomic_long live, peak, base;

static void add(void *p)
{
    if (!p)
        return;
    const long now = atomic_fetch_add(&live, (long)malloc_usable_size(p)) +
                     (long)malloc_usable_size(p);
    long most = atomic_load(&peak);
    while (now > most && !atomic_compare_exchange_weak(&peak, &most, now))
        ;
}

static void drop(void *p)
{
    if (p)
        atomic_fetch_sub(&live, (long)malloc_usable_size(p));
}

#if defined(__GLIBC__) && !SANITIZED
#define COUNTS_ALL 1
/* Seen by the shared libraries too. */
#define SHOWN __attribute__((visibility("default")))

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *p);

SHOWN void *malloc(size_t size)
{
    void *const p = __libc_malloc(size);
    add(p);
    return p;
}

SHOWN void *calloc(size_t n, size_t size)
{
    void *const p = __libc_calloc(n, size);
    add(p);
    return p;
}

SHOWN void *realloc(void *old, size_t size)
{
    drop(old);
    void *const p = __libc_realloc(old, size);
    if (p || size)
        add(p ? p : old);
    return p;
}

SHOWN void *aligned_alloc(size_t alignment, size_t size)
{
    void *const p = __libc_memalign(alignment, size);
    add(p);
    return p;
}

SHOWN void *memalign(size_t alignment, size_t size)
{
    return aligned_alloc(alignment, size);
}

SHOWN int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *const p = aligned_alloc(alignment, size);
    if (p)
        *out = p;
    return p ? 0 : ENOMEM;
}

SHOWN void free(void *p)
{
    drop(p);
    __libc_free(p);
}
#else
#define COUNTS_ALL 0
#endif

static void *context_alloc(void *cookie, size_t size, size_t alignment)
{
    void *const p = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    (void)cookie;
    if (!COUNTS_ALL)
        add(p);
    return p;
}

static void context_free(void *cookie, void *p)
{
    (void)cookie;
    if (!COUNTS_ALL)
        drop(p);
    free(p);
}

void heap_settings(qsae_context_settings *s)
{
    s->alloc = context_alloc;
    s->free = context_free;
}

void heap_start(void)
{
    atomic_store(&base, atomic_load(&live));
    atomic_store(&peak, atomic_load(&live));
}

size_t heap_peak(void)
{
    return (size_t)(atomic_load(&peak) - atomic_load(&base));
}

long heap_now(void)
{
    return atomic_load(&live) - atomic_load(&base);
}

int heap_counts_all(void)
{
    return COUNTS_ALL;
}

double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
