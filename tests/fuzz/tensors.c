/* SPDX-License-Identifier: BSD-2-Clause */
/* Shared by the targets of one tensor file each: opened both ways, every byte read. */
#include "tensors.h"

#include "formats/formats.h"

/* Reads every byte, and the compiler cannot know that nobody wants them. */
static void touch(const void *data, uint64_t n)
{
    static volatile uint8_t sum;
    for (uint64_t k = 0; k < n; k++)
        sum = (uint8_t)(sum + ((const uint8_t *)data)[k]);
}

static void read_all(const qsae__tensors *t)
{
    for (int64_t i = 0; i < qsae__tensors_len(t); i++) {
        const qsae__tensor *const x = qsae__tensors_at(t, i);
        fuzz_check(x->name && x->file && x->rank >= 0 && x->rank <= 8);
        fuzz_check(qsae__tensors_find(t, x->name) == x);
        fuzz_check(i == 0 || strcmp(qsae__tensors_at(t, i - 1)->name, x->name) < 0);
        touch(x->data, x->bytes);
    }
}

static void read_pairs(const qsae__gguf *g)
{
    const char *key;
    for (int64_t i = 0; (key = qsae__gguf_key(g, i)); i++) {
        qsae__gguf_array a;
        const char *s;
        uint64_t n;
        int64_t v;
        double d;
        bool b;
        int32_t there = 0;
        (void)qsae__gguf_i64(g, key, true, INT64_MIN, INT64_MAX, &v, NULL);
        (void)qsae__gguf_f64(g, key, true, &d, NULL);
        (void)qsae__gguf_bool(g, key, true, &b, NULL);
        (void)qsae__gguf_str(g, key, true, &s, &n, NULL);
        if (qsae__gguf_get_array(g, key, true, -1, &a, &there) != QSAE_OK || !there)
            continue;
        const uint8_t *at = a.data;
        for (int64_t k = 0; k < a.count; k++) {
            if (a.type == QSAE__GGUF_STRING) {
                qsae__gguf_next(&at, &s, &n);
                touch(s, n);
            } else {
                d = qsae__gguf_element(&a, k);
                touch(&d, sizeof d);
            }
        }
    }
}

int fuzz_tensors(const char *name, const uint8_t *data, size_t size)
{
    const char *const path = fuzz_put(name, data, size);
    int32_t status[FUZZ_MODES];
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_tensors *t = NULL;
        status[mode] = qsae_tensors_open(fuzz_context(mode), path, &t);
        if (status[mode] != QSAE_OK) {
            fuzz_refused(status[mode], t);
            continue;
        }
        fuzz_accepted();
        read_all(qsae__tensors_of(t));
        if (qsae__tensors_gguf(qsae__tensors_of(t)))
            read_pairs(qsae__tensors_gguf(qsae__tensors_of(t)));
        for (int64_t i = 0; i < qsae_tensors_count(t); i++) {
            qsae_tensor_info info = { .struct_size = sizeof info };
            qsae_qmatrix *m = NULL;
            fuzz_check(qsae_tensors_get(t, i, &info) == QSAE_OK);
            /* Most are no matrices; those of a stored format are unpacked. */
            if (i < 8 && qsae_tensors_matrix(t, info.name, &m) == QSAE_OK)
                fuzz_check(qsae_qmatrix_rows(m) >= 0 && qsae_qmatrix_cols(m) >= 0);
            qsae_qmatrix_close(&m);
        }
        qsae_tensors_close(&t);
    }
    fuzz_check(status[0] == status[1]);
    return 0;
}
