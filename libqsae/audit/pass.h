/* SPDX-License-Identifier: BSD-2-Clause */
/* What the two orders of a pass share: batch by batch (pass.c), layer by layer (stream.c). */
#ifndef QSAE_AUDIT_PASS_H
#define QSAE_AUDIT_PASS_H

#include "audit/slices.h"

#define QSAE__GROUP_MOST 64      /* conditions at once */

/* What a model leaves behind. */
struct rows_of {
    float *final;                /* [rows, width] final norm's output */
    float **taps;                /* [n_taps] rows [rows, columns of the tap] */
    float *kept;                 /* streamed: what layers leave for later ones beside x */
    float *nll, *kl;
    float *entropy, *overlap;    /* overlap with the likeliest tokens of the reference */
    int32_t *top;
};

/* The reference's rows before a layer. */
struct branch {
    int64_t layer;
    float *x;                    /* [rows, width] */
};

struct pass {
    struct audit_batch batch;
    qsae__slab *slabs;           /* [n_slabs] one per width */
    int64_t n_slabs;
    int64_t width_max, width;    /* of all, of the reference */
    struct tap {
        int32_t layer, site;
        int64_t cols;
    } *taps;                     /* [n_taps] */
    int64_t n_taps;
    int64_t *sae_tap;            /* [n_saes] index into the taps: what it reconstructs */
    int64_t *sae_in;             /* [n_saes] what it reads */
    int64_t *sae_entry;          /* [n_saes] the tap before its layer, which splices begin with; -1:
                                    they need none, or begin with the embedding */
    struct branch *branches;     /* [n_branches] layers ascending */
    int64_t n_branches;
    int64_t group;               /* conditions at once */
    struct rows_of *rows;        /* [1 + group]; 0 is the reference */
    qsae__csr *csr_r;            /* [n_saes] */
    qsae__csr csr_q;
    qsae__csr *csr_set;          /* [n_saes] of SAEs that are layers of a set, like csr_q */
    const qsae__csr **acts;      /* [n_saes] scratch */
    float **y_r;                 /* [n_saes] of [rows, the SAE's width] */
    float *y_q;                  /* [rows, the widest] */
    float **y_set;               /* [n_saes] like y_q, of layers of a set that is spliced in */
    struct splice_rows *spliced; /* [n_saes] scratch */
    struct audit_splice *splice; /* or NULL */
    struct stream *stream;       /* of a streamed pass, or NULL */
    struct inturn *inturn;       /* of a pass of one model after another, or NULL */
};

/*
 * First layer a participant computes otherwise than the reference. 0 where nothing is known to be
 * equal, and where nothing differs at all: a null control must run.
 */
int64_t qsae__pass_first(const qsae_audit *a, const struct participant *who);
/* The slab of a width. */
qsae__slab *qsae__pass_slab(const struct pass *p, int64_t width);
/* The embedding (layer -1), a block, or the final norm (after the last) of one model; its rows at
 * the taps there go to out->taps. final: [rows, width] receives the final norm's. */
int32_t qsae__pass_step(const struct pass *p, struct participant *who, int64_t layer,
                        qsae__slab *slab, const struct rows_of *out, float *final);
/* A participant's rows of a batch at the taps: [n_taps] of [rows, columns of the tap]. */
int32_t qsae__pass_open_taps(qsae_audit *a, const struct pass *p, float ***taps);
void qsae__pass_free_taps(qsae_audit *a, const struct pass *p, float **taps);
/* reconstruct.c: a participant's rows at a tap: the reference's own below where it begins. */
float *qsae__pass_rows(const struct pass *p, const struct participant *who,
                       const struct rows_of *own, int64_t tap);
/* Whether a participant's rows of an SAE are the reference's. */
bool qsae__pass_same(const qsae_audit *a, const struct participant *who, int64_t sae);
/* A participant's rows that an SAE reconstructs; of one attention head, its columns of them. */
float *qsae__pass_target(const qsae_audit *a, const struct pass *p, const struct participant *who,
                         const struct rows_of *own, int64_t sae);
/* Where a participant's encoded rows of SAE i are; of equal rows the reference's. */
qsae__csr *qsae__pass_acts(const qsae_audit *a, struct pass *p, const struct participant *who,
                           int64_t i);
/* Encodes all layers that belong together, before any of them is decoded. */
int32_t qsae__pass_encode_sets(const qsae_audit *a, struct pass *p, const struct participant *who,
                               const struct rows_of *own);
/* y [rows, width_out] of SAE i on a participant's rows; layers of a set are encoded. */
int32_t qsae__pass_reconstruct(const qsae_audit *a, struct pass *p, const struct participant *who,
                               const struct rows_of *own, int64_t i, float *y);
/* Blocks of one model on p->batch, its rows at the taps and its final rows. */
int32_t qsae__pass_forward(qsae_audit *a, struct pass *p, struct participant *who,
                           struct rows_of *out);
/* The reference's SAEs on p->rows[0]. */
int32_t qsae__pass_reference(qsae_audit *a, struct pass *p);
/* Head and metrics of p->batch for a group: the reference's rows in p->rows[0], those of
 * participants[members[j]] in p->rows[1 + j]. */
int32_t qsae__pass_finish(qsae_audit *a, struct pass *p, const int64_t *members, int64_t n);

/* stream.c: sets p->group and opens buffers; each: bytes of a participant's rows of a batch.
 * Measures the next logical batch, whose layers were run with all of the slab it belongs to. */
int32_t qsae__stream_open(qsae_audit *a, struct pass *p, int64_t each);
void qsae__stream_close(qsae_audit *a, struct pass *p);
int32_t qsae__stream_batch(qsae_audit *a, struct pass *p);

/* shuffle.c: rows of a batch at an SAE, [rows, width] each, and their features: the reference's and
 * those of a condition. */
struct shuffle_rows {
    float *x_r, *y_r, *x, *y;    /* [rows, width_out] */
    int64_t ld;                  /* row stride of x_r and x; the others have none between */
    const qsae__csr *csr_r, *csr;
};

/* Drift and survival of control:shuffle, whose rows come from other documents. */
int32_t qsae__shuffle_update(qsae_audit *a, struct participant *who, int64_t sae,
                             const struct audit_batch *b, const struct shuffle_rows *in);

/* inturn.c: sets p->group. Measures the next logical batch of the model whose turn it is. */
int32_t qsae__inturn_open(qsae_audit *a, struct pass *p);
void qsae__inturn_close(qsae_audit *a, struct pass *p);
int32_t qsae__inturn_batch(qsae_audit *a, struct pass *p);

#endif
