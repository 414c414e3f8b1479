/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/handle.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "core/context.h"
#include "core/inner.h"
#include "core/memory.h"
#include "core/status.h"

/* A mark: 48 bits that other memory hardly holds by chance, then the kind, then OPEN or not. */
#define MAGIC ((unsigned long long)0x9d51ae48c7e3 << 16)
#define OPEN ((unsigned long long)1)

static const struct {
    const char *article, *name;
} kinds[] = {
    { "", "" },
#define NAME(id, type, article, name) { article, name },
    QSAE__HANDLES(NAME)
#undef NAME
};

static _Thread_local int inner; /* how deep */

void qsae__inner_begin(void)
{
    inner++;
}

void qsae__inner_end(void)
{
    inner--;
}

static unsigned long long mark_of(enum qsae__handle_kind kind)
{
    return MAGIC | (unsigned long long)kind << 8;
}

static bool aligned(const void *handle)
{
    return handle && (uintptr_t)handle % _Alignof(qsae__handle) == 0;
}

int32_t qsae__alignment(const void *pointer, size_t size, const char *parameter)
{
    if (!pointer || qsae__is_aligned(pointer, size))
        return QSAE_OK;
    return qsae__fail(QSAE_EINVAL, "%s: expected an address divisible by %zu", parameter, size);
}

int32_t qsae__out_fail(const void *out)
{
    return qsae__fail(QSAE_EINVAL, "out: expected %s, found %s",
                      out ? "an address that a pointer may have" : "where to leave the handle",
                      out ? "another one" : "NULL");
}

bool qsae__handle_is_open(const void *handle, enum qsae__handle_kind kind)
{
    const qsae__handle *const head = handle;
    return aligned(handle) &&
           atomic_load_explicit(&head->mark, memory_order_relaxed) == (mark_of(kind) | OPEN);
}

int32_t qsae__handle_fail(const void *handle, enum qsae__handle_kind kind, const char *parameter)
{
    const char *const name = kinds[kind].name;
    const qsae__handle *const head = handle;
    if (!handle)
        return qsae__fail(QSAE_EINVAL, "%s: expected an open %s, found NULL", parameter, name);
    const unsigned long long mark =
        aligned(handle) ? atomic_load_explicit(&head->mark, memory_order_relaxed) : 0;
    const size_t found = (size_t)(mark >> 8 & 0xff);
    const bool ours = (mark & ~(unsigned long long)0xffff) == MAGIC && found > 0 &&
                      found < sizeof kinds / sizeof kinds[0];
    if (!ours)
        return qsae__fail(QSAE_EINVAL, "%s: expected an open %s, found no handle of this library",
                          parameter, name);
    if (found == (size_t)kind)
        return qsae__fail(QSAE_EINVAL, "%s: expected an open %s, found a closed %s", parameter,
                          name, name);
    return qsae__fail(QSAE_EINVAL, "%s: expected an open %s, found %s %s%s", parameter, name,
                      mark & OPEN ? kinds[found].article : "a", mark & OPEN ? "" : "closed ",
                      kinds[found].name);
}

void qsae__handle_set(qsae__handle *head, enum qsae__handle_kind kind, int users)
{
    if (users > 0)
        head->size = 1;
    atomic_store(&head->users, users);
    atomic_store(&head->mark, mark_of(kind) | OPEN);
}

void qsae__handle_close(qsae__handle *head, enum qsae__handle_kind kind)
{
    atomic_store(&head->mark, mark_of(kind));
}

bool qsae__handle_leave(void *handle, enum qsae__handle_kind kind, const char *parameter)
{
    qsae__handle *const head = handle;
    if (!handle)
        return false;
    if (!qsae__handle_is_open(handle, kind)) {
        qsae__handle_fail(handle, kind, parameter);
        return false;
    }
    if (atomic_load(&head->calls) > 0) {
        qsae__fail(QSAE_EBUSY, "%s: cannot be closed while a call uses it", parameter);
        return false;
    }
    /* Of two that close the last pointer at the same time one wins. */
    int users = atomic_load(&head->users);
    do {
        if (users < 1) {
            qsae__fail(QSAE_EINVAL, "%s: expected a handle that its caller closes", parameter);
            return false;
        }
    } while (!atomic_compare_exchange_weak(&head->users, &users, users - 1));
    if (users == 1)
        qsae__handle_close(head, kind);
    return true;
}

int32_t qsae__handle_claim(qsae__handle *head, const char *function)
{
    int none = 0;
    if (!atomic_compare_exchange_strong(&head->calls, &none, 1))
        return qsae__fail(QSAE_EBUSY, "%s: the handle is in use", function);
    return QSAE_OK;
}

void qsae__handle_retire(qsae_context *ctx, qsae__handle *head, size_t size)
{
    qsae__retired *const r = &ctx->core->retired;
    qsae__handle *gone = NULL;
    const unsigned long long mark = atomic_load(&head->mark);
    const bool had = head->size > 0 && inner == 0;
    memset((char *)head + sizeof *head, 0, size - sizeof *head);
    atomic_store(&head->mark, mark & ~OPEN);
    head->size = size;
    head->next = NULL;
    if (!had) {
        qsae__free(ctx, head);
        return;
    }
    while (atomic_flag_test_and_set_explicit(&r->lock, memory_order_acquire)) {
        if ((long)getpid() != ctx->pid) { /* a child's: who holds it may not be there */
            qsae__free(ctx, head);
            return;
        }
        sched_yield();
    }
    if (r->last)
        r->last->next = head;
    else
        r->first = head;
    r->last = head;
    r->count++;
    r->bytes += size;
    if (r->count > QSAE__RETIRED_MOST || r->bytes > QSAE__RETIRED_BYTES) {
        gone = r->first;
        qsae__handle *end = NULL;
        while (r->first && (r->count > QSAE__RETIRED_MOST || r->bytes > QSAE__RETIRED_BYTES)) {
            end = r->first;
            r->first = end->next;
            r->count--;
            r->bytes -= end->size;
        }
        if (!r->first)
            r->last = NULL;
        end->next = NULL;
    }
    atomic_flag_clear_explicit(&r->lock, memory_order_release);
    while (gone) {
        qsae__handle *const next = gone->next;
        qsae__free(ctx, gone);
        gone = next;
    }
}

void qsae__retired_free(qsae_context *ctx)
{
    qsae__retired *const r = &ctx->core->retired;
    while (r->first) {
        qsae__handle *const next = r->first->next;
        qsae__free(ctx, r->first);
        r->first = next;
    }
    r->last = NULL;
}
