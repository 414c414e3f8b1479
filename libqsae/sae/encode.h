/* SPDX-License-Identifier: BSD-2-Clause */
/* What encode.c and screen.c share: a call encodes stretches of rows, a stretch is cut into blocks
 * of rows, a block goes through the features in tiles. */
#ifndef QSAE_SAE_ENCODE_H
#define QSAE_SAE_ENCODE_H

#include <stdatomic.h>

#include "kernels/product.h"
#include "kernels/sparse.h"
#include "sae/parts.h"

#define QSAE__ENCODE_NB QSAE__GEMM_NB /* features of a tile */
#define QSAE__ENCODE_KB 64            /* inputs of a chunk of prepared rows */

/* A feature that is or may be active in a row. */
typedef struct qsae__entry {
    int32_t row;      /* of the block */
    int32_t feature;
    /* Product x W_enc of the feature; before qsae__screen_exact, topk: upper bound of what is
     * compared. In a block that is not screened: the activation. */
    float value;
} qsae__entry;

typedef struct qsae__encode_block {
    int64_t row0, rows;      /* of the call */
    float *x;                /* screened: its part of the job's x */
    bool screened;           /* entries are candidates */
    qsae__entry *entry;      /* by tile, in a tile by row, in a row by feature */
    int64_t n, capacity;
    int64_t *tile;           /* [tiles + 1] first entry of each tile */
    int64_t tile_start;      /* of the tile in work */
    int64_t zeros;           /* rows of norm 0 where that is counted */
} qsae__encode_block;

/* Candidates while their products are computed, by panel of columns; each panel is filled up to a
 * multiple of QSAE__PAIRS. */
typedef struct qsae__exact {
    const float **x;         /* rows */
    int32_t *column;         /* of the panel */
    float *part, *sum;       /* of the present block of k, of the blocks before it */
    qsae__entry **entry;     /* NULL where filled up */
    int64_t capacity;
} qsae__exact;

/* Scratch of one worker. */
typedef struct qsae__encode_worker {
    float *x;                /* [block rows, d_in] prepared input */
    float *tile;             /* [block rows, QSAE__ENCODE_NB] products */
    float *panels;           /* QSAE__GEMM_SCRATCH */
    int32_t *index;          /* [QSAE__ENCODE_NB] */
    uint8_t *skip;           /* [block rows] row is not finite */
    float *heap;             /* topk: [block rows, k] the largest lower bounds, least first */
    int64_t *heap_size;      /* [block rows] */
    uint8_t *strips;         /* screen: block rows packed to bf16 */
    float *a, *b;            /* screen: [block rows], see qsae__screen */
    qsae__exact exact;       /* screen */
} qsae__encode_worker;

typedef struct qsae__encode_job {
    qsae_sae *sae;
    const qsae_rows *rows;   /* of the caller */
    float *state;            /* [n, state_size] or NULL */
    const qsae__sparse_ops *ops;
    qsae__panels panels;     /* W_enc */
    qsae__encode_worker *worker;
    qsae__encode_block *block; /* [n_blocks] of the stretch */
    int64_t n_blocks, block_rows, tiles;
    float *x;                /* screen: [chunks, chunk] prepared input of the stretch, chunks of */
    int64_t chunk;           /* k one after the other: [rows, QSAE__ENCODE_KB] each */
    int64_t n_found;         /* blocks in use */
    qsae__sae_block *out;    /* [n_blocks] */
} qsae__encode_job;

/* Bounds of a screened product: |s - h| <= a(row) p(feature) + b(row) q(feature) + c. */
struct qsae__screen {
    qsae__packed_weight *w;  /* of all features, or NULL: packed tile by tile (wide.c) */
    int64_t steps;           /* of the packed product */
    float *p, *q;            /* [d_sae] */
    float c;
    double s_error, h_error; /* relative to |x| |w|, of the bf16 and of the f32 sum */
};

/* Centred and normalised input of one row (sae.md A.1 steps 1 to 4), state_size values to state.
 * False if it is not finite; *zero: it has no norm to divide by. */
bool qsae__prepare_row(const qsae_sae *sae, float *x, float *state, bool *zero);

/* Activation of a feature whose product is h; false if it is not active. */
bool qsae__activate(const qsae_sae *sae, int64_t feature, float h, float *value);

/* Finds what may be active in the rows of h [rows, QSAE__ENCODE_NB], features n0..n1. screen: NULL
 * where h is exact. */
int32_t qsae__encode_tile(const qsae__encode_job *j, const struct qsae__screen *screen,
                          qsae__encode_block *b, qsae__encode_worker *w, int64_t n0, int64_t n1);

/* topk: drops entries of the first tiles that cannot be among the k largest. */
void qsae__encode_thin(const qsae_sae *sae, qsae__encode_block *b, const qsae__encode_worker *w,
                       int64_t tiles);

/* topk, groupmax: what is left of the count entries of a row, indices ascending, and their final
 * values. heap: scratch of k values for topk. */
int64_t qsae__sae_finish_row(const qsae_sae *sae, float *heap, int32_t *indices, float *values,
                             int64_t count);

/* W_enc read from a mapped file that may not fit in memory. */
typedef struct qsae__source {
    const qsae_sae *sae;
    const qsae__tensor *file;
    const qsae__dense *dense;
    qsae__panels from;
    int fd;                  /* of the file, -1 = read through the mapping */
    uint64_t offset;         /* of W_enc in it */
    bool across;             /* runs along the features, one for each k */
    int64_t piece;           /* bytes that a run may bring into memory */
    atomic_llong count, *read; /* since pages were given back */
} qsae__source;

/* As qsae__sae_panels, for a file whose pages are given back on the way; s must outlive what is
 * returned. */
qsae__panels qsae__source_open(const qsae_sae *sae, qsae__source *s);
void qsae__source_close(qsae__source *s);

/* SAEs whose encoder is too wide to be packed or read block by block: the same results, features
 * outside, all rows of a stretch inside (wide.c). */
bool qsae__is_wide(const qsae_sae *sae);
int32_t qsae__wide_blocks(qsae_sae *sae, const qsae_rows *x, float *state, qsae__sae_blocks *out);

bool qsae__screen_serves(const qsae_sae *sae);
/* All but w; p and q without values. QSAE_ENOMEM; the caller frees p and q. */
int32_t qsae__screen_init(qsae_context *ctx, int64_t d, int64_t features, struct qsae__screen *s);
/* p and q of features n0..n1, at most QSAE__ENCODE_NB; with packed also their packed panels.
 * panels: QSAE__GEMM_SCRATCH. */
void qsae__screen_features(struct qsae__screen *s, const qsae__sparse_ops *ops,
                           const qsae__panels *w, int64_t n0, int64_t n1, float *panels,
                           uint8_t *packed);
/* Prepared rows: strips, chunks of k as in qsae__encode_job.x, bounds. */
void qsae__screen_rows(const qsae__encode_job *j, const struct qsae__screen *s, const float *x,
                       int64_t rows, uint8_t *strips, float *chunks, float *a, float *b);
/* tile [rows, QSAE__ENCODE_NB] = the bf16 product with n features. */
void qsae__screen_multiply(const qsae_context *ctx, int64_t steps, const uint8_t *strips,
                           int64_t rows, const uint8_t *packed, int64_t n, float *tile);

/* Makes sae->screen; QSAE_OK without one where the level has no bf16 product. */
int32_t qsae__screen_open(qsae_sae *sae);
/* Candidates of a block. *dense: there are too many of them for this to be worth it. */
int32_t qsae__screen_block(const qsae__encode_job *j, qsae__encode_block *b,
                           qsae__encode_worker *w, bool *dense);
/* Tile function: products of the candidates of a tile of features, in all blocks. */
int32_t qsae__screen_exact(void *job, int64_t tile, int32_t worker);
int32_t qsae__screen_job_open(qsae__encode_job *j);
int32_t qsae__screen_worker_open(const qsae__encode_job *j, qsae__encode_worker *w);
void qsae__screen_worker_close(qsae_context *ctx, qsae__encode_worker *w);

#endif
