/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test_same: within one process a case has the same digest however it is cut, threaded, aligned
 * and held in memory, and in whatever floating-point mode the caller is.
 * test_same digests LEVEL [NAME]: "NAME WHERE VALUES DIGEST" of every case at a kernel level, for
 * same.sh and aarch64.sh; with a NAME, that case alone with a digest of each of its arrays.
 * QSAE_LONG_TESTS=1: more and larger inputs.
 */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "same.h"

#include "kernels/kernels.h"

char same_folder[256];
int same_full;

static same_case cases[220];
static size_t n_cases;
static const char *print_level, *print_case;

/* --- arrays and digests -----------------------------------------------------------------------*/

#define MARGIN 128
#define FILL 0x6b

void *same_array(same_run *r, int64_t n, size_t element)
{
    const size_t size = (size_t)n * element, shift = r->shift - r->shift % element;
    if (r->n_taken == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 64;
        r->taken = realloc(r->taken, (size_t)r->capacity * sizeof *r->taken);
        assert_non_null(r->taken);
    }
    char *const base = aligned_alloc(64, (size + shift + 2 * MARGIN + 63) / 64 * 64);
    assert_non_null(base);
    memset(base, FILL, size + shift + 2 * MARGIN);
    r->taken[r->n_taken++] = (struct same_taken){ base, size + shift };
    return base + MARGIN + shift;
}

static void release(same_run *r)
{
    for (int i = 0; i < r->n_taken; i++) {
        const unsigned char *const base = r->taken[i].base;
        for (size_t k = 0; k < MARGIN; k++)
            if (base[k] != FILL || base[MARGIN + r->taken[i].size + k] != FILL)
                fail_msg("array %d: written outside", i);
        free(r->taken[i].base);
    }
    free(r->taken);
    r->taken = NULL;
    r->n_taken = r->capacity = 0;
}

void same_add(same_run *r, const void *data, int64_t n, size_t element)
{
    qsae__hasher_update(r->hasher, data, (size_t)n * element);
    r->values += n;
    if (print_case) {
        char hex[QSAE__HASH_SIZE];
        qsae__hash(data, (size_t)n * element, hex);
        printf("  %lld values of %zu bytes: %s\n", (long long)n, element, hex);
    }
}

int64_t same_step(const same_run *r, int64_t first, int64_t all)
{
    return r->split && r->split < all - first ? r->split : all - first;
}

static float number(uint32_t *seed, int bits, int power)
{
    const int32_t whole = (int32_t)(next_random(seed) >> (32 - bits)) - (1 << (bits - 1));
    const uint32_t scale = (uint32_t)(127 - (bits - 1) + power) << 23;
    float unit;
    memcpy(&unit, &scale, sizeof unit);
    return (float)whole * unit;
}

float same_number(uint32_t *seed, int power)
{
    return number(seed, 24, power);
}

float same_short(uint32_t *seed, int power)
{
    return number(seed, 8, power);
}

void same_numbers(uint32_t *seed, float *x, int64_t n, int power, bool odd)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = same_number(seed, power);
        if (!odd || next_random(seed) % 29)
            continue;
        const uint32_t bits = next_random(seed) % 2 ? next_random(seed) >> 9 : 0;
        memcpy(&x[i], &bits, sizeof bits);
    }
}

/* The digest of a case under settings; *r keeps its context. */
static void digest(const same_case *c, same_run *r, char hex[QSAE__HASH_SIZE])
{
    r->values = 0;
    assert_ok(qsae__hasher_open(r->ctx, &r->hasher));
    same_mode_set(r->mode);
    c->compute(r, c->argument);
    same_mode_set(0);
    release(r);
    qsae__hasher_hex(r->hasher, hex);
    qsae__hasher_close(r->ctx, &r->hasher);
}

/* --- what must not matter ---------------------------------------------------------------------*/

typedef struct variant {
    int32_t threads, files, memory, mode;
    int64_t split;
    size_t shift;
} variant;

static qsae_context *context_of(const variant *v, const char *level)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = v->threads;
    s.cpu = level;
    s.files = v->files;
    same_mode_set(v->mode);
    const int32_t st = qsae_context_open(&s, &ctx);
    same_mode_check(v->mode, "qsae_context_open");
    same_mode_set(0);
    assert_ok(st);
    return ctx;
}

static void check(const char *level, const variant *list, size_t n, size_t every)
{
    static char first[220][QSAE__HASH_SIZE];
    static const variant plain = { .threads = 1 };
    same_run base = { .ctx = context_of(&plain, level) };
    int64_t values = 0;
    for (size_t i = 0; i < n_cases; i++) {
        digest(&cases[i], &base, first[i]);
        values += base.values;
    }
    qsae_context_close(&base.ctx);
    for (size_t k = 0; k < n; k++) {
        const variant *const v = &list[k];
        same_run r = { .ctx = context_of(v, level), .split = v->split, .shift = v->shift,
                       .memory = v->memory, .mode = v->mode };
        for (size_t i = k % every; i < n_cases; i += every) {
            char hex[QSAE__HASH_SIZE];
            digest(&cases[i], &r, hex);
            if (strcmp(hex, first[i]) != 0)
                fail_msg("%s at %s: other bits with %d threads, files %d, memory %d, split %lld, "
                         "shift %zu, mode \"%s\"", cases[i].name, level, v->threads, v->files,
                         v->memory, (long long)v->split, v->shift, same_mode_name(v->mode));
        }
        qsae_context_close(&r.ctx);
    }
    print_message("level %s: %zu cases of %lld values, %zu variants\n", level, n_cases,
                  (long long)values, n);
}

static void at_levels(const variant *list, size_t n, size_t every)
{
    for (int l = 0; level_name(l); l++)
        if (same_full || !level_name(l + 1))
            check(level_name(l), list, n, same_full ? 1 : every);
}

static void test_threads_and_splits(void **state)
{
    static const variant list[] = {
        { .threads = 2, .split = 1 }, { .threads = 3, .split = 2 }, { .threads = 4, .split = 3 },
        { .threads = 7, .split = 7 }, { .threads = 8, .split = 5 }, { .threads = 16, .split = 4 },
        { .threads = 2, .files = QSAE_FILES_READ },
        { .threads = 3, .memory = QSAE_MEMORY_STREAMED, .files = QSAE_FILES_READ, .split = 2 },
    };
    (void)state;
    at_levels(list, sizeof list / sizeof list[0], 4);
}

static void test_alignments(void **state)
{
    variant list[63];
    (void)state;
    for (size_t i = 0; i < 63; i++)
        list[i] = (variant){ .threads = 1 + (int32_t)(i % 2), .shift = i + 1 };
    at_levels(list, 63, 63);
}

static void test_modes(void **state)
{
    variant list[SAME_MODES];
    (void)state;
    for (int32_t i = 0; i < SAME_MODES; i++)
        list[i] = (variant){ .threads = i % 2 ? 3 : 1, .mode = i,
                             .memory = i == 5 ? QSAE_MEMORY_STREAMED : 0 };
    at_levels(list + 1, SAME_MODES - 1, 1);
}

/* --- the program ------------------------------------------------------------------------------*/

static void collect(void)
{
    const size_t most = sizeof cases / sizeof cases[0];
    n_cases += same_models(cases + n_cases, most - n_cases);
    n_cases += same_saes(cases + n_cases, most - n_cases);
    n_cases += same_codecs(cases + n_cases, most - n_cases);
    n_cases += same_metrics(cases + n_cases, most - n_cases);
}

static void remove_folder(const char *path)
{
    char full[600];
    DIR *const dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(full, sizeof full, "%s/%s", path, e->d_name);
        if (unlink(full) != 0)
            remove_folder(full);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

static int setup(void **state)
{
    const char *const base = getenv("TMPDIR");
    (void)state;
    snprintf(same_folder, sizeof same_folder, "%s/qsae-same-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(same_folder))
        return 1;
    qsae_context *ctx = open_context(NULL, 1);
    same_models_setup(ctx);
    same_saes_setup(ctx);
    qsae_context_close(&ctx);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_folder(same_folder);
    return 0;
}

static void print_digests(void **state)
{
    static const char *const where[] = { "everywhere", "f32", "bf16" };
    (void)state;
    same_run r = { .ctx = open_context(print_level, 2) };
    for (size_t i = 0; i < n_cases; i++) {
        char hex[QSAE__HASH_SIZE];
        if (print_case && strcmp(print_case, cases[i].name) != 0)
            continue;
        digest(&cases[i], &r, hex);
        printf("%s %s %lld %s\n", cases[i].name, where[cases[i].where], (long long)r.values, hex);
    }
    qsae_context_close(&r.ctx);
}

int main(int argc, char **argv)
{
    same_full = full_length();
    collect();
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "digests") == 0) {
        const struct CMUnitTest one[] = { cmocka_unit_test(print_digests) };
        bool there = false;
        for (int l = 0; level_name(l); l++)
            there = there || strcmp(level_name(l), argv[2]) == 0;
        if (!there) {
            printf("skipped: level %s is not on this machine\n", argv[2]);
            return 0;
        }
        print_level = argv[2];
        print_case = argc == 4 ? argv[3] : NULL;
        return cmocka_run_group_tests_name("digests", one, setup, teardown);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_and_splits),
        cmocka_unit_test(test_alignments),
        cmocka_unit_test(test_modes),
    };
    return cmocka_run_group_tests_name("same", tests, setup, teardown);
}
