/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Rows of any engine, from files or pipes: what an SAE makes of them, and of a compressed model's
 * rows of the same tokens beside them. The stream's format is in doc/rows.md.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

#include "options.h"
#include "program.h"

#define ROWS 256              /* of a slab */
#define HEADER 32             /* bytes */
#define RECORD 16             /* bytes in front of a row: its token index and document */
#define PIPE_BYTES (1 << 20)  /* a writer of two pipes may be so far ahead with one */
#define FLAG_POSITIONS 1u

enum { OPT_SAE = 1, OPT_THREADS };

static const struct option_row options[] = {
    { NULL, NULL, NULL, "options", 0 },
    { "sae", NULL, "SAE",
      "the sparse autoencoder that reads them; without it two streams are compared", OPT_SAE },
    { "threads", "t", "N", "1 to 1024 (default: the CPUs of the process)", OPT_THREADS },
};

static const char *const operands[] = {
    "REFERENCE", "rows of the residual stream (doc/rows.md): a file, a pipe, or - for stdin",
    "COMPRESSED", "rows of the same tokens of a compressed model: noise floor and survival too",
    NULL
};

static const char *const examples[] = {
    "what an SAE misses of the rows of any engine",
    "--sae sae reference.rows",
    "and what a compressed model did to its features",
    "--sae sae reference.rows compressed.rows",
    NULL
};

static const char *const statuses[] = {
    "0", "done",
    "1", "failed; the reason is on standard error",
    "2", "wrong usage",
    NULL
};

static const struct program program = {
    .name = "rows",
    .summary = "What an SAE makes of rows of any engine, from files or pipes.",
    .synopsis = "[--sae SAE] [--threads N] REFERENCE [COMPRESSED]",
    .operands = operands,
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .examples = examples,
    .statuses = statuses,
};

/* One stream, and what libqsae makes of its present slab. */
struct stream {
    const char *name;
    FILE *file;
    int64_t columns, layer, total; /* total: rows announced, -1 if open */
    int64_t seen;            /* rows read so far */
    int32_t dtype;
    uint32_t flags;
    size_t element;          /* bytes */
    uint8_t *rows;           /* [ROWS, columns] */
    int64_t first;           /* token index of the slab's first row */
    int64_t *document;       /* [ROWS] */
    uint8_t next[RECORD];    /* of the row after the slab, where it does not follow on */
    int has_next, ended;
    float *y, *state, *values;
    int64_t *indptr, entries;
    int32_t *indices;
    qsae_metric *reconstruction;
};

struct run {
    const char *sae_path;
    int32_t threads;
    qsae_context *context;
    qsae_sae *sae;
    qsae_sae_info info;
    struct stream stream[2];
    int streams;
    qsae_metric *drift, *features;
};

static int failed(const char *what)
{
    complain("%s", what);
    return 0;
}

static int ok(int32_t status)
{
    return status == QSAE_OK || failed(qsae_error_message());
}

static uint64_t little(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static int wrong(const struct stream *s, const char *key, const char *expected, int64_t found)
{
    complain("%s: %s: expected %s, found %" PRId64, s->name, key, expected, found);
    return 0;
}

/* Both streams are opened before either is read: a writer of two pipes waits for that. */
static int open_file(struct stream *s)
{
    s->file = strcmp(s->name, "-") == 0 ? stdin : file_open(s->name, "rb");
    if (!s->file)
        complain("%s: cannot be opened", s->name);
#ifdef F_SETPIPE_SZ
    else
        (void)fcntl(fileno(s->file), F_SETPIPE_SZ, PIPE_BYTES); /* a file refuses, which is fine */
#endif
    return s->file != NULL;
}

/* Memory is taken once the header has been compared with the SAE or the other stream. */
static int read_header(struct stream *s)
{
    uint8_t h[HEADER];
    const size_t n = fread(h, 1, sizeof h, s->file);
    if (n != sizeof h)
        return wrong(s, "header", "32 bytes", (int64_t)n);
    if (memcmp(h, "QSAEROWS", 8) != 0) {
        complain("%s: magic: expected QSAEROWS", s->name);
        return 0;
    }
    const int64_t version = (int64_t)little(h + 8, 2);
    s->dtype = (int32_t)little(h + 10, 2);
    s->flags = (uint32_t)little(h + 12, 4);
    s->columns = (int64_t)little(h + 16, 4);
    s->layer = (int32_t)(uint32_t)little(h + 20, 4);
    s->total = (int64_t)little(h + 24, 8);
    s->element = s->dtype == QSAE_F32 ? 4 : 2;
    if (version != 1)
        return wrong(s, "version", "1", version);
    if (s->dtype != QSAE_F32 && s->dtype != QSAE_F16 && s->dtype != QSAE_BF16)
        return wrong(s, "dtype", "1 (f32), 2 (f16) or 3 (bf16)", s->dtype);
    if (s->flags & ~FLAG_POSITIONS)
        return wrong(s, "flags", "0 or 1", s->flags);
    if (s->columns < 1 || s->columns > 1 << 20)
        return wrong(s, "columns", "1 to 1048576", s->columns);
    if (s->layer < -1)
        return wrong(s, "layer", "-1 or more", s->layer);
    if (s->total < -1)
        return wrong(s, "rows", "-1 or more", s->total);
    return 1;
}

static int ends_within(const struct stream *s)
{
    if (ferror(s->file))
        complain("%s: reading failed at row %" PRId64, s->name, s->seen);
    else
        complain("%s: the stream ends within row %" PRId64, s->name, s->seen);
    return -1;
}

/* The record and values of one row. 1; 0 at the end of the stream; -1 with a message. */
static int read_row(struct stream *s, uint8_t *record, uint8_t *values)
{
    const size_t bytes = (size_t)s->columns * s->element;
    uint8_t more;
    if (s->seen == s->total) {
        if (fread(&more, 1, 1, s->file) == 0)
            return ferror(s->file) ? ends_within(s) : 0;
        complain("%s: more bytes than those of %" PRId64 " rows", s->name, s->total);
        return -1;
    }
    if (s->flags & FLAG_POSITIONS) {
        const size_t n = fread(record, 1, RECORD, s->file);
        if (n == 0 && s->total < 0 && !ferror(s->file))
            return 0;
        if (n != RECORD)
            return ends_within(s);
    }
    const size_t n = fread(values, 1, bytes, s->file);
    if (n == 0 && s->total < 0 && !(s->flags & FLAG_POSITIONS) && !ferror(s->file))
        return 0;
    if (n != bytes)
        return ends_within(s);
    s->seen++;
    return 1;
}

/*
 * The next row becomes row n of the slab, whose tokens follow one another. 1; 0 where the stream
 * has ended or jumps to another token, whose row waits for the next slab; -1 with a message.
 */
static int take(struct stream *s, int64_t n)
{
    const size_t bytes = (size_t)s->columns * s->element;
    uint8_t *const row = s->rows + (size_t)n * bytes, *const waiting = s->rows + ROWS * bytes;
    if (s->has_next && n > 0)
        return 0;
    if (s->has_next) {
        memcpy(row, waiting, bytes);
    } else {
        const int got = s->ended ? 0 : read_row(s, s->next, row);
        s->ended = got != 1;
        if (got != 1)
            return got;
    }
    if (n == 0)
        s->first = s->seen - 1;
    s->has_next = 0;
    s->document[n] = 0;
    if (!(s->flags & FLAG_POSITIONS))
        return 1;
    const int64_t token = (int64_t)little(s->next, 8);
    s->document[n] = (int64_t)little(s->next + 8, 8);
    if (token < 0 || token > INT64_MAX / 4 || s->document[n] < 0) {
        complain("%s: row %" PRId64 ": token and document: expected 0 or more, found %" PRId64
                 " and %" PRId64, s->name, s->seen - 1, token, s->document[n]);
        return -1;
    }
    if (n == 0) {
        s->first = token;
    } else if (token != s->first + n) {
        memcpy(waiting, row, bytes);
        s->has_next = 1;
        return 0;
    }
    return 1;
}

static void *array(int64_t n, size_t size)
{
    void *const p = n >= 0 && (uint64_t)n < SIZE_MAX / size ? calloc((size_t)n + 1, size) : NULL;
    if (!p)
        failed("out of memory");
    return p;
}

static int open_stream(struct run *r, struct stream *s, const qsae_metric_settings *settings)
{
    if (!(s->rows = array((ROWS + 1) * s->columns, s->element)) ||
        !(s->document = array(ROWS, sizeof *s->document)))
        return 0;
    if (!r->sae)
        return 1;
    return ok(qsae_metric_open_reconstruction(r->context, s->columns, r->info.features, settings,
                                              &s->reconstruction)) &&
           (s->y = array(ROWS * s->columns, sizeof *s->y)) &&
           (s->indptr = array(ROWS, sizeof *s->indptr)) &&
           (s->state = array((int64_t)ROWS * r->info.state_size, sizeof *s->state));
}

static int open_all(struct run *r)
{
    qsae_context_settings cs;
    qsae_metric_settings s;
    qsae_context_settings_init(&cs, sizeof cs);
    qsae_metric_settings_init(&s, sizeof s);
    cs.threads = r->threads;
    r->info.struct_size = sizeof r->info;
    if (!ok(qsae_context_open(&cs, &r->context)) ||
        (r->sae_path && (!ok(qsae_sae_open(r->context, r->sae_path, NULL, &r->sae)) ||
                         !ok(qsae_sae_get_info(r->sae, &r->info)))))
        return 0;
    if (r->sae && r->info.transcoder)
        return failed("a transcoder reconstructs other rows than those that it reads");
    for (int k = 0; k < r->streams; k++)
        if (!open_file(&r->stream[k]))
            return 0;
    for (int k = 0; k < r->streams; k++) {
        struct stream *const t = &r->stream[k];
        char expected[64];
        if (!read_header(t))
            return 0;
        const int64_t width = r->sae ? r->info.width : r->stream[0].columns;
        snprintf(expected, sizeof expected, "%" PRId64, width);
        if (t->columns != width)
            return wrong(t, "columns", expected, t->columns);
        snprintf(expected, sizeof expected, "%" PRId64, r->stream[0].layer);
        if (t->layer >= 0 && r->stream[0].layer >= 0 && t->layer != r->stream[0].layer)
            return wrong(t, "layer", expected, t->layer);
        if (!open_stream(r, t, &s))
            return 0;
    }
    const int64_t d = r->stream[0].columns;
    return r->streams < 2 ||
           (ok(qsae_metric_open_drift(r->context, d, &s, &r->drift)) &&
            (!r->sae ||
             ok(qsae_metric_open_features(r->context, r->info.features, &s, &r->features))));
}

/* Sparse activations and reconstructions of a slab. */
static int encode(struct run *r, struct stream *s, const qsae_rows *x, qsae_rows *y)
{
    int64_t nnz;
    int32_t st = qsae_sae_encode_sparse(r->sae, x, s->indptr, s->indices, s->values, s->entries,
                                        s->state, &nnz);
    if (st == QSAE_ESPACE) {
        free(s->indices);
        free(s->values);
        s->indices = array(nnz, sizeof *s->indices);
        s->values = array(nnz, sizeof *s->values);
        s->entries = s->indices && s->values ? nnz : 0;
        if (!s->entries)
            return 0;
        st = qsae_sae_encode_sparse(r->sae, x, s->indptr, s->indices, s->values, s->entries,
                                    s->state, &nnz);
    }
    return ok(st) && ok(qsae_sae_reconstruct(r->sae, x, y));
}

/* Rows of one slab from all streams in turn, row by row, as two pipes hold little: their number. -1
 * with a message, also where the streams have other tokens. */
static int64_t read_slab(struct run *r, qsae_positions *at)
{
    struct stream *const a = &r->stream[0], *const b = &r->stream[r->streams - 1];
    /* A stream that says where its rows belong decides where a slab ends. */
    struct stream *const lead = a->flags & FLAG_POSITIONS ? a : b, *const led = lead == a ? b : a;
    int64_t n = 0;
    int got = 1, also = 1;
    while (n < ROWS && got == 1 && also == 1) {
        got = take(lead, n);
        if (got >= 0 && led != lead && (got == 1 || n == 0))
            also = take(led, n);
        else
            also = got;
        n += got == 1 && also == 1;
    }
    if (got < 0 || also < 0)
        return -1;
    if (got != also || (n > 0 && a->flags & b->flags & FLAG_POSITIONS &&
                        (a->first != b->first || memcmp(a->document, b->document,
                                                        (size_t)n * sizeof *a->document) != 0))) {
        complain("%s and %s: expected the same tokens, found others after %" PRId64 " and %" PRId64
                 " rows", a->name, b->name, a->seen, b->seen);
        return -1;
    }
    *at = (qsae_positions){ sizeof *at, lead->first, lead->document, NULL, NULL, n };
    return n;
}

/* 1: there may be more; 0: the end; -1: an error. */
static int slab(struct run *r)
{
    qsae_rows x[2], y[2];
    qsae_sparse_rows acts[2];
    qsae_positions at;
    const int64_t n = read_slab(r, &at);
    if (n <= 0)
        return (int)n;
    for (int k = 0; k < r->streams; k++) {
        struct stream *const s = &r->stream[k];
        x[k] = (qsae_rows){ sizeof *x, s->rows, n, s->columns, s->columns, s->dtype, 0 };
        if (!r->sae)
            continue;
        y[k] = (qsae_rows){ sizeof *y, s->y, n, s->columns, s->columns, QSAE_F32, 0 };
        if (!encode(r, s, &x[k], &y[k]))
            return -1;
        acts[k] = (qsae_sparse_rows){ sizeof *acts, n, s->indptr, s->indices, s->values };
        if (!ok(qsae_metric_update_reconstruction(s->reconstruction, &at, &x[k], &y[k], &acts[k])))
            return -1;
    }
    if (r->streams == 2 &&
        (!ok(qsae_metric_update_drift(r->drift, &at, &x[0], &x[1], r->sae ? &y[0] : NULL,
                                      r->sae ? &y[1] : NULL)) ||
         (r->sae && !ok(qsae_metric_update_features(r->features, &at, &acts[0], &acts[1])))))
        return -1;
    return 1;
}

static int print(struct run *r)
{
    static const char *const one[] = { "tokens", "nonfinite_rows", "fvu_dim", "fvu_scalar",
                                       "fvu_raw", "mse", "l0", "dead_features", NULL };
    static const char *const drift[] = { "P", "R_r", "R_q", "ratio", NULL };
    static const char *const features[] = { "active", "survived", "degraded", "damaged",
                                            "survived_percent", "mean_r", "median_r", NULL };
    double v[2] = { NAN, NAN };
    for (int i = 0; r->sae && one[i]; i++) {
        for (int k = 0; k < r->streams; k++)
            if (!ok(qsae_metric_get(r->stream[k].reconstruction, one[i], &v[k])))
                return 0;
        printf(r->streams == 2 ? "%-18s %14.8g %14.8g\n" : "%-18s %14.8g\n", one[i], v[0], v[1]);
    }
    for (int i = 0; r->drift && drift[i]; i++) {
        if (!ok(qsae_metric_get(r->drift, drift[i], v)))
            return 0;
        if (r->sae || i == 0)
            printf("%-18s %14s %14.8g\n", drift[i], "", v[0]);
    }
    for (int i = 0; r->features && features[i]; i++) {
        if (!ok(qsae_metric_get(r->features, features[i], v)))
            return 0;
        printf("%-18s %14s %14.8g\n", features[i], "", v[0]);
    }
    return fflush(stdout) == 0 || failed("writing failed");
}

static void close_all(struct run *r)
{
    for (int k = 0; k < 2; k++) {
        struct stream *const s = &r->stream[k];
        if (s->file && s->file != stdin)
            fclose(s->file);
        free(s->rows);
        free(s->document);
        free(s->y);
        free(s->state);
        free(s->values);
        free(s->indptr);
        free(s->indices);
        qsae_metric_close(&s->reconstruction);
    }
    qsae_metric_close(&r->drift);
    qsae_metric_close(&r->features);
    qsae_sae_close(&r->sae);
    qsae_context_close(&r->context);
}

static void parse(int argc, char **argv, struct run *r)
{
    struct arguments arguments = arguments_begin(&program, argc, argv);
    const char *value;
    int c;
    while ((c = arguments_next(&arguments, &value)) != ARGUMENT_END)
        if (c == OPT_SAE)
            r->sae_path = value;
        else if (c == OPT_THREADS)
            r->threads = option_threads(value);
        else if (r->streams < 2)
            r->stream[r->streams++].name = value;
        else
            usage_error("%s: at most two streams are compared", value);
    if (r->streams == 2 && strcmp(r->stream[0].name, "-") == 0 &&
        strcmp(r->stream[1].name, "-") == 0)
        usage_error("standard input can be one stream only");
    if (r->streams == 0 || (r->streams == 1 && !r->sae_path))
        usage_error("expected --sae and one stream, or two streams");
}

int main(int argc, char **argv)
{
    struct run r = { .threads = 0 };
    parse(argc, argv, &r);
    int more = open_all(&r) ? 1 : -1;
    while (more > 0)
        more = slab(&r);
    const int good = more == 0 && print(&r);
    close_all(&r);
    return program_end(good ? EXIT_DONE : EXIT_FAILED);
}
