/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The k largest of n as torch.topk picks them on a CPU (aten/src/ATen/native/TopKImpl.h): by
 * std::partial_sort where 64 k <= n, else std::nth_element, whose choice among equal values is that
 * of libstdc++ (bits/stl_algo.h, bits/stl_heap.h). In bf16 a router gives equal probabilities often
 * enough for this to decide which experts run.
 */
#include "model/top.h"

#include <math.h>

/* Elements are indices into p. */
struct list {
    const float *p;
    int32_t *at;
};

/* Whether x goes before y: NaN first, then larger. */
static bool before(const float *p, int32_t x, int32_t y)
{
    return (isnan(p[x]) && !isnan(p[y])) || p[x] > p[y];
}

static bool is(const struct list *l, int64_t x, int64_t y)
{
    return before(l->p, l->at[x], l->at[y]);
}

static void swap(const struct list *l, int64_t x, int64_t y)
{
    const int32_t t = l->at[x];
    l->at[x] = l->at[y];
    l->at[y] = t;
}

/* Sinks value from a hole of the heap of n elements from `first` on, whose root is the last in
 * order: down to a leaf, then up to where it belongs. */
static void adjust_heap(const struct list *l, int64_t first, int64_t hole, int64_t n, int32_t value)
{
    int32_t *const a = l->at + first;
    const int64_t top = hole;
    int64_t child = hole;
    while (child < (n - 1) / 2) {
        child = 2 * (child + 1);
        if (before(l->p, a[child], a[child - 1]))
            child--;
        a[hole] = a[child];
        hole = child;
    }
    if (n % 2 == 0 && child == (n - 2) / 2) {
        child = 2 * child + 1;
        a[hole] = a[child];
        hole = child;
    }
    while (hole > top && before(l->p, a[(hole - 1) / 2], value)) {
        a[hole] = a[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    a[hole] = value;
}

/* The elements that come first of [first, last), as a heap in [first, middle). */
static void heap_select(const struct list *l, int64_t first, int64_t middle, int64_t last)
{
    const int64_t n = middle - first;
    for (int64_t parent = (n - 2) / 2; n >= 2 && parent >= 0; parent--)
        adjust_heap(l, first, parent, n, l->at[first + parent]);
    for (int64_t i = middle; i < last; i++) {
        if (!is(l, i, first))
            continue;
        const int32_t value = l->at[i];
        l->at[i] = l->at[first];
        adjust_heap(l, first, 0, n, value);
    }
}

/* Puts the median of three at `result`. */
static void median_to(const struct list *l, int64_t result, int64_t a, int64_t b, int64_t c)
{
    int64_t m;
    if (is(l, a, b))
        m = is(l, b, c) ? b : is(l, a, c) ? c : a;
    else
        m = is(l, a, c) ? a : is(l, b, c) ? c : b;
    swap(l, result, m);
}

/* Cuts [first, last) in two by the median of its second, middle and last element. */
static int64_t partition(const struct list *l, int64_t first, int64_t last)
{
    const int64_t pivot = first;
    median_to(l, first, first + 1, first + (last - first) / 2, last - 1);
    for (first++;; first++) {
        while (is(l, first, pivot))
            first++;
        for (last--; is(l, pivot, last);)
            last--;
        if (first >= last)
            return first;
        swap(l, first, last);
    }
}

static void insertion_sort(const struct list *l, int64_t first, int64_t last)
{
    for (int64_t i = first + 1; i < last; i++) {
        const int32_t value = l->at[i];
        int64_t k = i;
        for (; k > first && before(l->p, value, l->at[k - 1]); k--)
            l->at[k] = l->at[k - 1];
        l->at[k] = value;
    }
}

static void nth_element(const struct list *l, int64_t nth, int64_t n)
{
    int64_t first = 0, last = n, depth = 0;
    for (int64_t i = n; i > 1; i /= 2)
        depth += 2;
    while (last - first > 3) {
        if (depth-- == 0) {
            heap_select(l, first, nth + 1, last);
            swap(l, first, nth);
            return;
        }
        const int64_t cut = partition(l, first, last);
        if (cut <= nth)
            first = cut;
        else
            last = cut;
    }
    insertion_sort(l, first, last);
}

void qsae__top(const float *p, int64_t n, int64_t k, int32_t *at)
{
    const struct list l = { p, at };
    for (int64_t i = 0; i < n; i++)
        at[i] = (int32_t)i;
    if (64 * k <= n)
        heap_select(&l, 0, k, n);
    else
        nth_element(&l, k - 1, n);
    insertion_sort(&l, 0, k);
}
