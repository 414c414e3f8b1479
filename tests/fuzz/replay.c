/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs the fuzz targets on files, without a fuzzer.
 *   replay TARGET|all SEEDS [MUTATIONS [RANDOM]]   every file of SEEDS/TARGET/, and MUTATIONS
 *                                                  changed copies of each; a TAP line per target
 *   replay --write SEEDS                           the seeds a program must make: state files
 *   replay --run TARGET FILE...                    what a fuzzer has found
 */
#include "fuzz.h"

#include <dirent.h>
#include <time.h>

#include "audit_states.h"

#define TARGETS(X) \
    X(safetensors) X(npy) X(npz) X(gguf) X(json) X(yaml) X(condition) X(config) X(tokenizer) \
    X(gguf_tokenizer) X(index) X(corpus) X(logits) X(probes) X(predictor) X(sae) X(model) X(rows) \
    X(metric_state) X(audit_state) X(audit_merge)
#define DECLARE(name) int target_##name(const uint8_t *data, size_t size);
#define ENTRY(name) { #name, target_##name },
TARGETS(DECLARE)

size_t fuzz_metric_state_seed(int i, uint8_t **data);

struct target {
    const char *name;
    int (*run)(const uint8_t *data, size_t size);
};
static const struct target targets[] = { TARGETS(ENTRY) };
#define N_TARGETS (sizeof targets / sizeof targets[0])

/* Of one input, also where sanitizers and neighbours on the machine slow it down. */
#define MOST_SECONDS 5

struct seed {
    uint8_t *data;
    size_t size;
};

static uint32_t next(uint32_t *state)
{
    uint32_t x = *state; /* xorshift32 */
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

static struct seed read_file(const char *path)
{
    struct seed s = { NULL, 0 };
    FILE *const f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    s.size = (size_t)ftell(f);
    rewind(f);
    s.data = malloc(s.size + 1);
    if (!s.data || fread(s.data, 1, s.size, f) != s.size)
        exit(2);
    fclose(f);
    return s;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Files of a folder by name; none is fine. */
static int read_folder(const char *folder, struct seed *seeds, int most)
{
    char *names[512], path[2048];
    int n = 0;
    DIR *const dir = opendir(folder);
    for (struct dirent *e; dir && n < most && n < 512 && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            names[n++] = strdup(e->d_name);
    if (dir)
        closedir(dir);
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        seeds[i] = read_file(path);
        free(names[i]);
    }
    return n;
}

/* Seeds that only the library can write. */
static int make_seeds(const char *name, struct seed *seeds)
{
    int n = 0;
    if (strcmp(name, "metric_state") == 0)
        for (; n < 10; n++)
            seeds[n].size = fuzz_metric_state_seed(n, &seeds[n].data);
    if (strcmp(name, "audit_state") == 0)
        for (; n < 5; n++)
            seeds[n].size = fuzz_audit_seed(n, &seeds[n].data);
    if (strcmp(name, "audit_merge") == 0)
        for (; n < 2; n++) { /* both shards; a state with itself */
            uint8_t *a, *b;
            const size_t x = fuzz_audit_seed(3, &a), y = fuzz_audit_seed(n ? 3 : 4, &b);
            seeds[n].size = 4 + x + y;
            seeds[n].data = malloc(seeds[n].size);
            fuzz_check(seeds[n].data);
            for (int i = 0; i < 4; i++)
                seeds[n].data[i] = (uint8_t)(x >> (8 * i));
            memcpy(seeds[n].data + 4, a, x);
            memcpy(seeds[n].data + 4 + x, b, y);
            free(a);
            free(b);
        }
    return n;
}

/* One change; p has room for `room` bytes. */
static size_t mutate(uint8_t *p, size_t n, size_t room, uint32_t *state)
{
    static const uint64_t odd[] = { 0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000,
                                    0xffffffff, INT64_MAX, (uint64_t)1 << 63, UINT64_MAX,
                                    UINT64_MAX - 31, (uint64_t)1 << 62, (uint64_t)1 << 61 };
    static const char *const words[] = { "-1", "1e999", "null", "[", "{", "\"\"", "true", "0.5",
                                         "9223372036854775807", "18446744073709551616", "NaN",
                                         "\\u0000", "\xff", "," };
    const size_t at = n ? next(state) % n : 0;
    size_t k = 1u << next(state) % 4;
    switch (next(state) % 8) {
    case 0:
        if (n)
            p[at] = (uint8_t)(p[at] ^ 1u << next(state) % 8);
        return n;
    case 1:
        if (n)
            p[at] = (uint8_t)next(state);
        return n;
    case 2:
        for (size_t i = 0; i < k && at + i < n; i++)
            p[at + i] = (uint8_t)(odd[next(state) % 16] >> (8 * i));
        return n;
    case 3: { /* one number, whole */
        const uint64_t v = odd[next(state) % 16];
        for (size_t i = 0; i < 8 && at + i < n; i++)
            p[at + i] = (uint8_t)(v >> (8 * i));
        return n;
    }
    case 4:
        k = n - at < 4 * k ? n - at : 4 * k;
        memmove(p + at, p + at + k, n - at - k);
        return n - k;
    case 5:
        k = n - at < 4 * k ? n - at : 4 * k;
        if (n + k > room)
            return n;
        memmove(p + at + k, p + at, n - at);
        return n + k;
    case 6: {
        const char *const w = words[next(state) % (sizeof words / sizeof words[0])];
        const size_t length = strlen(w);
        if (n + length > room)
            return n;
        memmove(p + at + length, p + at, n - at);
        memcpy(p + at, w, length);
        return n + length;
    }
    default:
        return next(state) % 4 ? n : at;
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void replay(const struct target *t, const char *folder, long mutations, uint32_t random,
                   int number)
{
    struct seed seeds[512];
    char path[1024];
    double slowest = 0;
    long runs = 0, taken = 0;
    fuzz_empty(); /* other targets' */
    snprintf(path, sizeof path, "%s/%s", folder, t->name);
    int n = make_seeds(t->name, seeds);
    n += read_folder(path, seeds + n, 512 - n);
    for (int i = 0; i < n; i++) {
        const size_t room = seeds[i].size + 64;
        uint8_t *const copy = malloc(room);
        uint32_t state = random + (uint32_t)i * 2654435761u + 1;
        fuzz_check(copy);
        for (long k = 0; k <= mutations; k++) {
            size_t size = seeds[i].size;
            if (size)
                memcpy(copy, seeds[i].data, size);
            for (uint32_t c = k ? 1 + next(&state) % 4 : 0; c > 0; c--)
                size = mutate(copy, size, room, &state);
            const double start = seconds();
            const long before = fuzz_count_accepted();
            t->run(copy, size);
            taken += k == 0 && fuzz_count_accepted() > before;
            const double took = seconds() - start;
            slowest = took > slowest ? took : slowest;
            runs++;
        }
        free(copy);
        free(seeds[i].data);
    }
    printf("%s %d - %s: %ld of %d seeds taken, %ld inputs, slowest %.1f ms\n",
           taken > 0 && slowest < MOST_SECONDS ? "ok" : "not ok", number, t->name, taken, n, runs,
           1e3 * slowest);
    fflush(stdout);
}

static int write_seeds(const char *folder)
{
    struct seed seeds[16];
    char path[1024];
    for (size_t i = 0; i < N_TARGETS; i++) {
        const int n = make_seeds(targets[i].name, seeds);
        for (int k = 0; k < n; k++) {
            snprintf(path, sizeof path, "%s/%s/state%d", folder, targets[i].name, k);
            FILE *const f = fopen(path, "wb");
            if (!f || fwrite(seeds[k].data, 1, seeds[k].size, f) != seeds[k].size ||
                fclose(f) != 0) {
                perror(path);
                return 2;
            }
            free(seeds[k].data);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_seeds(argv[2]);
    const int run = argc > 3 && strcmp(argv[1], "--run") == 0;
    const char *const name = argc > 2 ? argv[1 + run] : "";
    const long mutations = !run && argc > 3 ? atol(argv[3]) : 0;
    const uint32_t random = !run && argc > 4 ? (uint32_t)atol(argv[4]) : 0;
    int done = 0;
    for (size_t i = 0; i < N_TARGETS; i++) {
        if (strcmp(name, targets[i].name) != 0 && strcmp(name, "all") != 0)
            continue;
        done++;
        if (!run)
            replay(&targets[i], argv[2], mutations, random, done);
        for (int k = 3; run && k < argc; k++) {
            const struct seed s = read_file(argv[k]);
            targets[i].run(s.data, s.size);
            free(s.data);
        }
    }
    if (!done) {
        fprintf(stderr, "usage: %s TARGET|all SEEDS [MUTATIONS [RANDOM]]\n", argv[0]);
        return 2;
    }
    if (!run)
        printf("1..%d\n", done);
    return 0;
}
