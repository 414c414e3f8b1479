/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The searches for a scale behind ggml's K-quants and IQ4 (ggml-quants.c: make_qkx2_quants,
 * make_qx_quants, make_q3_quants, quantize_row_iq4_nl_impl), without importance weights. Every lane
 * is a group of elements that share a scale, so that each group's sums run over its elements in
 * order, as ggml's do. x is [n] vectors, lane l of vector i being element i of group l.
 *
 * ggml keeps the codes of its best try. Here the try's parameters are kept, and the codes made of
 * them at the end: they are needed only where the group's rounded scale is 0.
 */
#ifndef QSAE_KERNELS_GGML_SEARCH_IMPL_H
#define QSAE_KERNELS_GGML_SEARCH_IMPL_H

#include "kernels/ggml_parts.h"
#include "kernels/lanes.h"

#define GROUPS (NATIVE / 4) /* lanes of a register */
#define TINY 1e-15f         /* groups below it are zero */

INLINE vn n_set(float v)
{
    return (vn){ 0 } + v;
}

INLINE vn n_select(in mask, vn a, vn b)
{
    return (vn)(((in)a & mask) | ((in)b & ~mask));
}

INLINE in n_select_int(in mask, in a, in b)
{
    return (a & mask) | (b & ~mask);
}

INLINE vn n_abs(vn v)
{
    return (vn)((in)v & 0x7fffffff);
}

INLINE vn n_sqrt(vn v)
{
#if defined(__AVX512F__)
    return (vn)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
    return (vn)_mm256_sqrt_ps((__m256)v);
#else
    for (int l = 0; l < GROUPS; l++)
        v[l] = sqrtf(v[l]);
    return v;
#endif
}

/* Nearest whole number, half to even, below 2^22 in magnitude; 0 for NaN without a payload. */
INLINE in n_nearest(vn v)
{
    return ((in)(v + 12582912.0f) & 0x7fffff) - 0x400000;
}

INLINE in n_clamp(in v, int low, int high)
{
    v = n_select_int(v < high, v, (in){ 0 } + high);
    return n_select_int(v > low, v, (in){ 0 } + low);
}

INLINE vn n_code(vn v, int low, int high)
{
    return __builtin_convertvector(n_clamp(n_nearest(v), low, high), vn);
}

/* Codes 0..top of x - min over scale, as float: [n]. Returns the scale, *least the negated min. */
INLINE vn search_min(int n, int top, const vn *x, const vn *w, float first, float step, int tries,
                     bool square, vn *code, vn *least)
{
    vn min = x[0], max = x[0], sum_w = w[0], sum_x = w[0] * x[0], best = n_set(0);
    for (int i = 1; i < n; i++) {
        min = n_select(x[i] < min, x[i], min);
        max = n_select(x[i] > max, x[i], max);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    min = n_select(min > 0.0f, n_set(0), min);
    const in flat = max == min;
    const vn flat_min = -min;
    vn inverse = (float)top / (max - min), scale = 1.0f / inverse;
    vn code_inverse = inverse, code_min = min;
    for (int i = 0; i < n; i++) {
        const vn l = n_code(inverse * (x[i] - min), 0, top), e = scale * l + min - x[i];
        best += w[i] * (square ? e * e : n_abs(e));
    }
    for (int try = 0; try <= tries; try++) {
        vn sum_l = n_set(0), sum_l2 = n_set(0), sum_xl = n_set(0), error = n_set(0);
        inverse = (first + step * (float)try + (float)top) / (max - min);
        for (int i = 0; i < n; i++) {
            const vn l = code[i] = n_code(inverse * (x[i] - min), 0, top), wl = w[i] * l;
            sum_l += wl;
            sum_l2 += wl * l;
            sum_xl += wl * x[i];
        }
        const vn det = sum_w * sum_l2 - sum_l * sum_l;
        vn new_scale = (sum_w * sum_xl - sum_x * sum_l) / det;
        vn new_min = (sum_l2 * sum_x - sum_l * sum_xl) / det;
        const in above = new_min > 0.0f;
        new_min = n_select(above, n_set(0), new_min);
        new_scale = n_select(above, sum_xl / sum_l2, new_scale);
        for (int i = 0; i < n; i++) {
            const vn e = new_scale * code[i] + new_min - x[i];
            error += w[i] * (square ? e * e : n_abs(e));
        }
        const in better = (det > 0.0f) & (error < best);
        code_inverse = n_select(better, inverse, code_inverse);
        code_min = n_select(better, min, code_min);
        best = n_select(better, error, best);
        scale = n_select(better, new_scale, scale);
        min = n_select(better, new_min, min);
    }
    for (int i = 0; i < n; i++)
        code[i] = n_select(flat, n_set(0), n_code(code_inverse * (x[i] - code_min), 0, top));
    *least = n_select(flat, flat_min, -min);
    return n_select(flat, n_set(0), scale);
}

/* The element of largest magnitude, *magnitude. */
INLINE vn extreme(int n, const vn *x, vn *magnitude)
{
    vn value = n_set(0), m = n_set(0);
    for (int i = 0; i < n; i++) {
        const in more = n_abs(x[i]) > m;
        m = n_select(more, n_abs(x[i]), m);
        value = n_select(more, x[i], value);
    }
    *magnitude = m;
    return value;
}

/* Codes -half..half-1 of x over scale, plus half, weighted by x^2; 0 where the group is zero. */
INLINE vn search_scale(int n, int half, const vn *x, vn *code)
{
    vn m;
    const vn max = extreme(n, x, &m);
    const in zero = m < TINY;
    vn best = n_set(0), scale = n_set(0), code_inverse = n_set(0);
    for (int k = 0; k <= 18; k++) { /* 0, -9 to -1, 1 to 9 */
        const int try = k == 0 ? 0 : k <= 9 ? k - 10 : k - 9;
        const vn inverse = -((float)half + 0.1f * (float)try) / max;
        vn sum_xl = n_set(0), sum_l2 = n_set(0);
        for (int i = 0; i < n; i++) {
            const vn l = n_code(inverse * x[i], -half, half - 1), w = x[i] * x[i];
            sum_xl += w * x[i] * l;
            sum_l2 += w * l * l;
        }
        const vn ratio = sum_xl / sum_l2;
        if (k == 0) {
            scale = n_select(sum_l2 == 0.0f, n_set(0), ratio);
            best = scale * sum_xl;
            code_inverse = inverse;
            continue;
        }
        const in better = (sum_l2 > 0.0f) & (sum_xl * sum_xl > best * sum_l2);
        scale = n_select(better, ratio, scale);
        best = n_select(better, ratio * sum_xl, best);
        code_inverse = n_select(better, inverse, code_inverse);
    }
    for (int i = 0; i < n; i++)
        code[i] = n_select(zero, n_set(0),
                           n_code(code_inverse * x[i], -half, half - 1) + (float)half);
    return n_select(zero, n_set(0), scale);
}

/* The same for few codes: each is changed in turn while that makes the fit better. */
INLINE vn search_codes(int n, int half, const vn *x, vn *code)
{
    vn m, sum_xl = n_set(0), sum_l2 = n_set(0);
    const vn inverse = (float)-half / extreme(n, x, &m);
    const in zero = m < TINY;
    for (int i = 0; i < n; i++) {
        const vn l = code[i] = n_code(inverse * x[i], -half, half - 1), w = x[i] * x[i];
        sum_xl += w * x[i] * l;
        sum_l2 += w * l * l;
    }
    for (int try = 0; try < 5; try++)
        for (int i = 0; i < n; i++) {
            const vn w = x[i] * x[i], wx = w * x[i], l = code[i];
            vn xl = sum_xl - wx * l, l2 = sum_l2 - w * l * l;
            const vn next = n_code(x[i] * l2 / xl, -half, half - 1);
            in change = (xl > 0.0f) & (next != l);
            xl += wx * next;
            l2 += w * next * next;
            change &= (l2 > 0.0f) & (xl * xl * sum_l2 > sum_xl * sum_xl * l2);
            code[i] = n_select(change, next, l);
            sum_xl = n_select(change, xl, sum_xl);
            sum_l2 = n_select(change, l2, sum_l2);
        }
    for (int i = 0; i < n; i++)
        code[i] = n_select(zero, n_set(0), code[i] + (float)half);
    return n_select(~zero & (sum_l2 > 0.0f), sum_xl / sum_l2, n_set(0));
}

/* The value of IQ4's code for v (put_iq4). */
INLINE vn iq4_value(vn v)
{
    const vn twice = v + v;
    vn value = n_set(qsae__iq4_values[0]);
#pragma GCC unroll 15
    for (int k = 1; k < 16; k++)
        value = n_select(twice < (float)(qsae__iq4_values[k - 1] + qsae__iq4_values[k]), value,
                         n_set(qsae__iq4_values[k]));
    return value;
}

/* A scale for groups of 32 values of IQ4, `tries` to either side of the first. */
INLINE vn search_iq4(const vn *x, int tries)
{
    vn m, best = n_set(0), scale = n_set(0);
    const float low = qsae__iq4_values[0];
    const vn max = extreme(32, x, &m);
    for (int try = -tries - 1; try <= tries; try++) {
        const bool start = try == -tries - 1;
        const vn inverse = start ? 1.0f / (tries > 0 ? -max / low : max / low)
                                 : ((float)try + low) / max;
        vn sum_xq = n_set(0), sum_q2 = n_set(0);
        for (int i = 0; i < 32; i++) {
            const vn q = iq4_value(inverse * x[i]), wq = x[i] * x[i] * q;
            sum_xq += wq * x[i];
            sum_q2 += wq * q;
        }
        const vn ratio = sum_xq / sum_q2;
        const in better = (sum_q2 > 0.0f) & (sum_xq * sum_xq > best * sum_q2);
        scale = start ? n_select(sum_q2 > 0.0f, ratio, n_set(0)) : n_select(better, ratio, scale);
        best = start ? scale * sum_xq : n_select(better, ratio * sum_xq, best);
        if (tries < 0)
            break;
    }
    return n_select(m < TINY, n_set(0), scale);
}

#endif
