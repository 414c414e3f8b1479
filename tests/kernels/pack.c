/* SPDX-License-Identifier: BSD-2-Clause */
/* Operands brought into strips and panels, every level against the layout of packed.h stated again
 * here. Sources end at a page that cannot be read. */
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../support.h"
#include "kernels.h"

#include "kernels/kernels.h"
#include "kernels/packed.h"

#define CANARY 0xa5
#define MARGIN 128

/* bytes whose end is the end of what may be read. */
struct source {
    uint8_t *map, *at;
    size_t size;
};

static void open_source(struct source *s, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    s->size = whole + page;
    s->map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(s->map != MAP_FAILED);
    assert_int_equal(mprotect(s->map + whole, page, PROT_NONE), 0);
    s->at = s->map + whole - bytes;
}

static void close_source(struct source *s)
{
    munmap(s->map, s->size);
}

/* Destination with canaries; dirty, so that padding must be written. */
static uint8_t *open_target(int64_t bytes)
{
    uint8_t *p = aligned_alloc(64, (size_t)(bytes + 2 * MARGIN));
    assert_non_null(p);
    memset(p, CANARY, (size_t)(bytes + 2 * MARGIN));
    return p + MARGIN;
}

static void check_target(uint8_t *got, const uint8_t *want, int64_t bytes, const char *what,
                         uint32_t seed)
{
    for (int64_t i = -MARGIN; i < bytes + MARGIN; i++) {
        const uint8_t v = i < 0 || i >= bytes ? CANARY : want[i];
        if (got[i] != v)
            fail_msg("%s, seed %u: byte %lld of %lld is %02x, expected %02x", what, seed,
                     (long long)i, (long long)bytes, got[i], v);
    }
    free(got - MARGIN);
}

static const qsae__pack_ops *ops_at(int level)
{
    if (!level_name(level)) {
        printf("skipped: pack operations of %s are not on this machine\n",
               qsae__level_name(level));
        return NULL;
    }
    return qsae__packed_level(level)->pack;
}

static float next_f32(uint32_t *seed)
{
    static const uint32_t special[] = { 0,          0x80000000, 0x7f800000, 0xff800000, 0x7f800001,
                                        0xff80ffff, 0x7fc00001, 0x00000001, 0x80008000, 0x007fffff,
                                        0x3f808000, 0x3f818000, 0x7f7fffff, 0x7f7f8000,
                                        0x3f80ffff };
    const uint32_t r = next_random(seed);
    if (r % 5 == 0)
        return qsae__f32_from_bits(special[(r >> 8) % (sizeof special / sizeof special[0])]);
    return r % 5 == 1 ? qsae__f32_from_bits(next_random(seed)) : next_float(seed);
}

static void put(uint8_t *at, uint16_t h)
{
    memcpy(at, &h, sizeof h);
}

/* Strips of bf16 from f32, of bf16 copied, of three parts. */
static void rows_once(const qsae__pack_ops *ops, uint32_t seed)
{
    const uint32_t first = seed;
    const int64_t rows = 1 + next_random(&seed) % 16, k = 1 + next_random(&seed) % 150;
    const int64_t ldx = k + next_random(&seed) % 5, steps = (k + 31) / 32, size = steps * 1024;
    const int64_t part = size + 64 * (next_random(&seed) % 3);
    const size_t count = (size_t)((rows - 1) * ldx + k);
    struct source x, h;
    open_source(&x, count * 4);
    open_source(&h, count * 2);
    for (size_t i = 0; i < count; i++) {
        const float v = next_f32(&seed);
        memcpy(x.at + 4 * i, &v, 4);
        put(h.at + 2 * i, (uint16_t)next_random(&seed));
    }
    uint8_t *got[3] = { open_target(size), open_target(size), open_target(3 * part) };
    uint8_t *want[3] = { calloc(1, (size_t)size), calloc(1, (size_t)size),
                         malloc((size_t)(3 * part)) };
    assert_true(want[0] && want[1] && want[2]);
    memset(want[2], CANARY, (size_t)(3 * part));
    for (int p = 0; p < 3; p++)
        memset(want[2] + p * part, 0, (size_t)size);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < k; i++) {
            const int64_t to = i / 32 * 1024 + r * 64 + i % 32 * 2;
            float v;
            memcpy(&v, x.at + 4 * (r * ldx + i), 4);
            put(want[0] + to, qsae__f32_to_bf16(v));
            memcpy(want[1] + to, h.at + 2 * (r * ldx + i), 2);
            for (int p = 0; p < 3; p++) { /* truncated, so never beyond the value */
                const uint32_t u = qsae__f32_bits(v);
                put(want[2] + p * part + to, (uint16_t)(u >> 16 | (v != v ? 0x40 : 0)));
                v = fabsf(v) < INFINITY ? v - qsae__bf16_to_f32((uint16_t)(u >> 16)) : 0.0f;
            }
        }
    ops->rows(QSAE_F32, x.at, ldx, rows, k, got[0]);
    ops->rows(QSAE_BF16, h.at, ldx, rows, k, got[1]);
    ops->split((const float *)(const void *)x.at, ldx, rows, k, got[2], part);
    check_target(got[0], want[0], size, "rows of f32", first);
    check_target(got[1], want[1], size, "rows of bf16", first);
    check_target(got[2], want[2], 2 * part + size, "parts", first);
    for (int i = 0; i < 3; i++)
        free(want[i]);
    close_source(&x);
    close_source(&h);
}

/* Panels of bf16 and int8, strips of int8. */
static void columns_once(const qsae__pack_ops *ops, uint32_t seed)
{
    const uint32_t first = seed;
    const int64_t columns = 1 + next_random(&seed) % 32, k = 1 + next_random(&seed) % 300;
    const int64_t ld = k + next_random(&seed) % 5, size2 = (k + 31) / 32 * 2048;
    const int64_t size1 = (k + 63) / 64 * 2048, rows = columns < 16 ? columns : 16;
    const size_t count = (size_t)((columns - 1) * ld + k);
    const bool flip = next_random(&seed) % 2;
    struct source h, q;
    open_source(&h, count * 2 + 1); /* an odd address */
    open_source(&q, count);
    for (size_t i = 0; i < count; i++) {
        put(h.at + 2 * i, (uint16_t)next_random(&seed));
        q.at[i] = (uint8_t)(next_random(&seed) >> 8);
    }
    memmove(h.at + 1, h.at, count * 2);
    uint8_t *want[3] = { calloc(1, (size_t)size2), calloc(1, (size_t)size1),
                         malloc((size_t)size1 / 2) };
    int32_t sum[33], expected[32] = { 0 };
    assert_true(want[0] && want[1] && want[2]);
    memset(want[2], flip ? 0x80 : 0, (size_t)size1 / 2);
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < k; i++) {
            const uint8_t *code = q.at + j * ld + i;
            memcpy(want[0] + i / 2 * 128 + j * 4 + i % 2 * 2, h.at + 1 + 2 * (j * ld + i), 2);
            want[1][i / 4 * 128 + j * 4 + i % 4] = *code;
            expected[j] += (int8_t)*code;
            if (j < rows)
                want[2][i / 64 * 1024 + j * 64 + i % 64] = flip ? *code ^ 0x80 : *code;
        }
    uint8_t *got[3] = { open_target(size2), open_target(size1), open_target(size1 / 2) };
    sum[columns] = 4711;
    /* Never dereferenced as uint16_t: the address is odd. */
    ops->panel((const uint16_t *)(uintptr_t)(h.at + 1), ld, columns, k, got[0]);
    ops->panel_s8((const int8_t *)q.at, ld, columns, k, got[1], first % 4 ? sum : NULL);
    ops->rows_s8((const int8_t *)q.at, ld, rows, k, flip, got[2]);
    check_target(got[0], want[0], size2, "panel of bf16", first);
    check_target(got[1], want[1], size1, "panel of int8", first);
    check_target(got[2], want[2], size1 / 2, "rows of int8", first);
    if (first % 4)
        assert_memory_equal(sum, expected, sizeof(int32_t) * (size_t)columns);
    assert_int_equal(sum[columns], 4711);
    for (int i = 0; i < 3; i++)
        free(want[i]);
    close_source(&h);
    close_source(&q);
}

void test_pack_levels(void **state)
{
    (void)state;
    for (int level = 0; level < QSAE__LEVEL_COUNT; level++) {
        const qsae__pack_ops *ops = ops_at(level);
        for (uint32_t round = 1; ops && round <= 200; round++) {
            rows_once(ops, round * 2654435761u);
            columns_once(ops, round * 2246822519u);
        }
    }
}

/* Three parts sum to the value, every exponent from 2^-100 on. */
void test_pack_split_exact(void **state)
{
    (void)state;
    for (int level = 0; level < QSAE__LEVEL_COUNT; level++) {
        const qsae__pack_ops *ops = ops_at(level);
        uint32_t seed = 99;
        for (int round = 0; ops && round < 300; round++) {
            float x[512];
            uint8_t parts[3][1024] __attribute__((aligned(64)));
            for (int i = 0; i < 512; i++) {
                const uint32_t r = next_random(&seed);
                x[i] = qsae__f32_from_bits((r & 0x807fffff) | (27 + (r >> 23) % 228) << 23);
            }
            ops->split(x, 32, 16, 32, parts[0], 1024);
            for (int i = 0; i < 512; i++) {
                double sum = 0;
                for (int p = 0; p < 3; p++) {
                    uint16_t h;
                    memcpy(&h, parts[p] + 2 * i, sizeof h);
                    sum += (double)qsae__bf16_to_f32(h);
                }
                if (sum != (double)x[i])
                    fail_msg("level %d, seed 99: parts of %a sum to %a", level, (double)x[i], sum);
            }
        }
    }
}
