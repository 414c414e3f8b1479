/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Known-bad files: each is refused with the status that make.py says, mapped and copied, and leaves
 * no descriptor, mapping, thread or memory behind; in at most 10 ms of CPU, with at most 1 MiB and
 * 8 bytes of memory per byte of the files. TAP, a line per kind. usage: test_hostile CORPUS [NAME]
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qsae/qsae.h>

#include "core/hash.h"
#include "heap.h"

#define MOST_SECONDS 0.010
#define MOST_BYTES ((size_t)1 << 20)
#define HASH (QSAE__HASH_SIZE - 1)

struct reader {
    const uint8_t *at, *end;
};

struct hostile {
    char kind[256], name[256], status[256], main[256];
    char files[8][256];
    int n_files;
    size_t bytes;
};

static char folder[64];
static qsae_context *contexts[2];
static qsae_tokenizer *tokenizer;
static int failures;

static uint32_t number(struct reader *r, int bytes)
{
    uint32_t v = 0;
    if (r->end - r->at < bytes) {
        fprintf(stderr, "the corpus ends early\n");
        exit(2);
    }
    for (int i = 0; i < bytes; i++)
        v |= (uint32_t)*r->at++ << (8 * i);
    return v;
}

static void text(struct reader *r, char out[256])
{
    const uint32_t n = number(r, 1);
    if ((size_t)(r->end - r->at) < n)
        exit(2);
    memcpy(out, r->at, n);
    out[n] = 0;
    r->at += n;
}

static const char *path_of(const char *name)
{
    static char paths[4][384];
    static int next;
    char *const path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s%s%s", folder, *name ? "/" : "", name);
    return path;
}

static void write_file(const char *name, const uint8_t *data, size_t n)
{
    FILE *const f = fopen(path_of(name), "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) {
        perror(name);
        exit(2);
    }
}

/* What a forger would do to a state. */
static uint8_t *sign(const uint8_t *data, size_t n)
{
    uint8_t *const copy = malloc(n + 1);
    char hex[QSAE__HASH_SIZE];
    if (!copy)
        exit(2);
    memcpy(copy, data, n);
    if (n >= HASH) {
        qsae__hash(copy, n - HASH, hex);
        memcpy(copy + n - HASH, hex, HASH);
    }
    return copy;
}

/* Reads a case and puts its files into the folder. */
static void unpack(struct reader *r, struct hostile *c)
{
    text(r, c->kind);
    text(r, c->name);
    text(r, c->status);
    text(r, c->main);
    c->n_files = (int)number(r, 1);
    c->bytes = 0;
    for (int i = 0; i < c->n_files && i < 8; i++) {
        text(r, c->files[i]);
        const uint32_t link = number(r, 1), n = number(r, 4);
        if ((size_t)(r->end - r->at) < n)
            exit(2);
        if (link) {
            char target[512];
            snprintf(target, sizeof target, "%.*s", (int)n, (const char *)r->at);
            if (symlink(target, path_of(c->files[i])) != 0)
                exit(2);
        } else if (strcmp(c->kind, "state") == 0) {
            uint8_t *const copy = sign(r->at, n);
            write_file(c->files[i], copy, n);
            free(copy);
        } else {
            write_file(c->files[i], r->at, n);
        }
        r->at += n;
        c->bytes += n;
    }
}

/* ---- opening ---- */

static int32_t open_tensors(qsae_context *ctx, const char *path)
{
    qsae_tensors *t = NULL;
    const int32_t st = qsae_tensors_open(ctx, path, &t);
    qsae_tensors_close(&t);
    return st;
}

static int32_t open_tokenizer(qsae_context *ctx, const char *path)
{
    qsae_tokenizer *t = NULL;
    const int32_t st = qsae_tokenizer_open(ctx, path, &t);
    qsae_tokenizer_close(&t);
    return st;
}

static int32_t open_model(qsae_context *ctx, const char *path)
{
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    int32_t st = qsae_weights_open(ctx, path, &w);
    if (st == QSAE_OK)
        st = qsae_model_open(w, NULL, &m);
    qsae_model_close(&m);
    qsae_weights_close(&w);
    return st;
}

static int32_t open_sae(qsae_context *ctx, const char *path)
{
    qsae_sae *s = NULL;
    const int32_t st = qsae_sae_open(ctx, path, NULL, &s);
    qsae_sae_close(&s);
    return st;
}

static int32_t open_corpus(qsae_context *ctx, const char *path)
{
    qsae_corpus *c = NULL;
    qsae_corpus_settings s;
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = 4;
    const int32_t st = qsae_corpus_open(ctx, tokenizer, path, &s, &c);
    qsae_corpus_close(&c);
    return st;
}

static int32_t open_probes(qsae_context *ctx, const char *path)
{
    qsae_probes *p = NULL;
    const int32_t st = qsae_probes_open(ctx, tokenizer, path, NULL, &p);
    qsae_probes_close(&p);
    return st;
}

static int32_t open_predictor(qsae_context *ctx, const char *path)
{
    qsae_predictor *p = NULL;
    const int32_t st = qsae_predictor_open(ctx, path, NULL, NULL, &p);
    qsae_predictor_close(&p);
    return st;
}

/* The rows too: they are looked at when they are read. */
static int32_t open_logits(qsae_context *ctx, const char *path)
{
    static float rows[4096];
    qsae_logits_reader *r = NULL;
    int32_t st = qsae_logits_reader_open(ctx, path, &r);
    if (st == QSAE_OK)
        st = qsae_logits_reader_rows(r, 0, rows, 4096);
    qsae_logits_reader_close(&r);
    return st;
}

static int32_t open_state(qsae_context *ctx, const char *path)
{
    const char *const files[1] = { path };
    return qsae_audit_merge(ctx, files, 1, path_of("merged"), 0, NULL);
}

static int32_t open_condition(qsae_context *ctx, const char *path)
{
    static char spec[65536];
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    qsae_model_settings s;
    FILE *const f = fopen(path, "rb");
    const size_t n = f ? fread(spec, 1, sizeof spec - 1, f) : 0;
    spec[n] = 0;
    if (!f || fclose(f) != 0 || qsae_weights_open(ctx, QSAE_FUZZ_FIXTURE, &w) != QSAE_OK)
        exit(2);
    qsae_model_settings_init(&s, sizeof s);
    s.condition = spec;
    const int32_t st = qsae_model_open(w, &s, &m);
    qsae_model_close(&m);
    qsae_weights_close(&w);
    return st;
}

static const struct {
    const char *kind;
    int32_t (*open)(qsae_context *ctx, const char *path);
} kinds[] = {
    { "gguf", open_tensors },      { "tokenizer", open_tokenizer }, { "safetensors", open_tensors },
    { "model", open_model },       { "index", open_tensors },       { "sae", open_sae },
    { "npy", open_tensors },       { "npz", open_tensors },         { "pickle", open_tensors },
    { "corpus", open_corpus },     { "probes", open_probes },       { "predictor", open_predictor },
    { "logits", open_logits },     { "state", open_state },         { "condition", open_condition },
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

/* ---- what is left of it ---- */

static int entries(const char *path)
{
    DIR *const dir = opendir(path);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* Mappings of files of the folder. */
static int mappings(void)
{
    char line[1024];
    FILE *const f = fopen("/proc/self/maps", "r");
    int n = 0;
    while (f && fgets(line, sizeof line, f))
        n += strstr(line, folder) != NULL;
    if (f)
        fclose(f);
    return n;
}

static void complain(const struct hostile *c, int mode, const char *what)
{
    failures++;
    printf("# %s (%s): %s [%s]\n", c->name, mode ? "copied" : "mapped", what, qsae_error_message());
}

static void check(const struct hostile *c, int mode, int32_t (*open)(qsae_context *, const char *))
{
    const char *const path = path_of(c->main);
    char line[400];
    const int fds = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    double took = 1e9;
    int32_t st = QSAE_OK;
    size_t peak = 0;
    long left = 0;
    for (int i = 0; i < 5 && took > MOST_SECONDS; i++) { /* once, but for a slow neighbour */
        heap_start();
        const double start = cpu_seconds();
        st = open(contexts[mode], path);
        took = cpu_seconds() - start;
        peak = heap_peak();
        left = heap_now();
    }
    if (strcmp(qsae_status_name(st), c->status) != 0) {
        snprintf(line, sizeof line, "expected %s, found %s", c->status, qsae_status_name(st));
        complain(c, mode, line);
    }
    if (st != QSAE_OK && !qsae_error_message()[0])
        complain(c, mode, "no message");
    if (entries("/proc/self/fd") != fds || entries("/proc/self/task") != threads || mappings())
        complain(c, mode, "a descriptor, thread or mapping is left");
    if (access(path_of("merged"), F_OK) == 0)
        complain(c, mode, "a file is left");
    if (peak > MOST_BYTES + 8 * c->bytes) {
        snprintf(line, sizeof line, "%zu bytes of memory for %zu", peak, c->bytes);
        complain(c, mode, line);
    }
    if (left > 4096) { /* what libraries keep once is in the first call of a kind */
        heap_start();
        (void)open(contexts[mode], path);
        if (heap_now() > 0)
            complain(c, mode, "memory is left");
    }
    if (took > MOST_SECONDS && !SANITIZED) {
        snprintf(line, sizeof line, "%.1f ms", 1e3 * took);
        complain(c, mode, line);
    }
}

static void remove_all(void)
{
    DIR *const dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlink(path_of(e->d_name));
    if (dir)
        closedir(dir);
}

static void open_all(void)
{
    strcpy(folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/qsae-bad-XXXXXX"
                                                 : "/tmp/qsae-bad-XXXXXX");
    for (int mode = 0; mode < 2; mode++) {
        qsae_context_settings s;
        qsae_context_settings_init(&s, sizeof s);
        s.threads = 2;
        s.files = mode ? QSAE_FILES_READ : QSAE_FILES_MAP;
        heap_settings(&s);
        if (qsae_context_open(&s, &contexts[mode]) != QSAE_OK)
            exit(2);
    }
    if (!mkdtemp(folder) ||
        qsae_tokenizer_open(contexts[0], QSAE_FUZZ_FIXTURE, &tokenizer) != QSAE_OK)
        exit(2);
}

int main(int argc, char **argv)
{
    FILE *const f = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (argc < 2) {
        printf("1..0 # SKIP Python, which writes the corpus, is not installed\n");
        return 0;
    }
    if (!f || fseek(f, 0, SEEK_END) != 0)
        return 2;
    const size_t size = (size_t)ftell(f);
    uint8_t *const data = malloc(size);
    rewind(f);
    if (!data || fread(data, 1, size, f) != size || fclose(f) != 0 || size < 12 ||
        memcmp(data, "QSAEBAD1", 8) != 0)
        return 2;
    struct reader r = { data + 8, data + size };
    const uint32_t n = number(&r, 4);
    int of_kind[N_KINDS] = { 0 }, bad_of_kind[N_KINDS] = { 0 };
    open_all();
    for (uint32_t i = 0; i < n; i++) {
        static struct hostile c;
        unpack(&r, &c);
        for (size_t k = 0; k < N_KINDS; k++)
            if (strcmp(kinds[k].kind, c.kind) == 0 && (argc < 3 || strstr(c.name, argv[2]))) {
                const int before = failures;
                for (int mode = 0; mode < 2; mode++)
                    check(&c, mode, kinds[k].open);
                of_kind[k]++;
                bad_of_kind[k] += failures > before;
            }
        remove_all();
    }
    int sum = 0;
    for (size_t k = 0; k < N_KINDS; k++) {
        sum += of_kind[k];
        printf("%sok %zu - %s: %d files\n",
               bad_of_kind[k] || (!of_kind[k] && argc < 3) ? "not " : "", k + 1, kinds[k].kind,
               of_kind[k]);
    }
    printf("%sok %zu - %d files in all, at least 500\n", sum >= 500 || argc > 2 ? "" : "not ",
           N_KINDS + 1, sum);
    printf("1..%zu\n", N_KINDS + 1);
    qsae_tokenizer_close(&tokenizer);
    qsae_context_close(&contexts[0]);
    qsae_context_close(&contexts[1]);
    rmdir(folder);
    free(data);
    return failures != 0;
}
