/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names that were made to share the slots of a hash table, as anyone can who knows its function:
 * 10,000 of them that lie in 16 neighbouring slots of 16,384 by XXH3 without a seed, where the
 * last takes 10,000 steps. With the seed of a context they take no longer than other names. With
 * QSAE_LONG_TESTS=1 40,000. QSAE_TEST_SHOW=1 prints the times.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <xxhash.h>

#include "heap.h"
#include "shapes.h"
#include "support.h"

#define NAME 8
#define WINDOW 16
#define MOST_RATIO_OF_TIMES 2.3

static char folder[64];
static int64_t n_names, n_slots;

/* The next name of 8 hexadecimal digits from *at on; chosen: one that collides. */
static void next_name(uint32_t *at, bool chosen, char name[NAME])
{
    static const char digits[] = "0123456789abcdef";
    do {
        *at += 1;
        for (int k = 0; k < NAME; k++)
            name[k] = digits[*at >> 4 * (NAME - 1 - k) & 15];
    } while (chosen && (XXH3_64bits(name, NAME) & (uint64_t)(n_slots - 1)) >= WINDOW);
}

/* Steps of putting the names into a table without a seed: what an attacker counts on. */
static int64_t steps_without(const char *names)
{
    uint8_t *const taken = calloc((size_t)n_slots, 1);
    int64_t steps = 0;
    assert_non_null(taken);
    for (int64_t i = 0; i < n_names; i++) {
        uint64_t at = XXH3_64bits(names + i * NAME, NAME) & (uint64_t)(n_slots - 1);
        for (steps++; taken[at]; steps++)
            at = (at + 1) & (uint64_t)(n_slots - 1);
        taken[at] = 1;
    }
    free(taken);
    return steps;
}

static void put_names(struct out *o, const char *names)
{
    put_text(o, "{\"model\":{\"type\":\"BPE\",\"vocab\":");
    for (int64_t i = 0; i < n_names; i++)
        put_text(o, "%c\"%.8s\":%lld", i ? ',' : '{', names + i * NAME, (long long)i);
    put_text(o, "},\"merges\":[]}}");
}

/* CPU seconds of opening the file: the least of a few. */
static double open_names(qsae_context *ctx, const char *names)
{
    struct out o = { 0 };
    char path[128];
    double least = 1e9;
    put_names(&o, names);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(o.data, 1, o.n, f), o.n);
    assert_int_equal(fclose(f), 0);
    for (int i = 0; i < 7; i++) {
        qsae_tokenizer *t = NULL;
        const double start = cpu_seconds();
        assert_ok(qsae_tokenizer_open(ctx, path, &t));
        const double took = cpu_seconds() - start;
        least = took < least ? took : least;
        qsae_tokenizer_close(&t);
    }
    free(o.data);
    unlink(path);
    return least;
}

static void test_names(void **state)
{
    char *names[2];
    uint32_t at[2] = { 0, 0 };
    double took[2] = { 0, 0 };
    (void)state;
    n_names = full_length() ? 40000 : 10000;
    n_slots = full_length() ? 65536 : 16384; /* a power of two from 1.5 times the names on */
    for (int k = 0; k < 2; k++) {
        names[k] = malloc((size_t)n_names * NAME);
        assert_non_null(names[k]);
        for (int64_t i = 0; i < n_names; i++)
            next_name(&at[k], k == 1, names[k] + i * NAME);
    }
    assert_true(steps_without(names[0]) < 4 * n_names);
    assert_true(steps_without(names[1]) > n_names * n_names / 4);
    qsae_context *ctx = open_context(NULL, 1);
    strcpy(folder, "/tmp/qsae-collide-XXXXXX");
    assert_non_null(mkdtemp(folder));
    for (int chance = 0; chance < 3; chance++) { /* for the sake of neighbours */
        for (int k = 0; k < 2; k++)
            took[k] = open_names(ctx, names[k]);
        if (getenv("QSAE_TEST_SHOW"))
            print_message("# %lld names: %.2f ms, made to collide: %.2f ms\n", (long long)n_names,
                          1e3 * took[0], 1e3 * took[1]);
        if (SANITIZED || took[1] <= MOST_RATIO_OF_TIMES * took[0])
            break;
    }
    assert_true(SANITIZED || took[1] <= MOST_RATIO_OF_TIMES * took[0]);
    assert_int_equal(rmdir(folder), 0);
    qsae_context_close(&ctx);
    free(names[0]);
    free(names[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_names) };
    return cmocka_run_group_tests_name("collide", tests, NULL, NULL);
}
