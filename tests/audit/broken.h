/* SPDX-License-Identifier: BSD-2-Clause */
/* A model whose activations are no numbers. */
#ifndef TESTS_AUDIT_BROKEN_H
#define TESTS_AUDIT_BROKEN_H

#include <sys/stat.h>
#include <unistd.h>

#include "document.h"

/* The bundled model in a folder of its own, with NaN in all of one tensor. */
static inline void make_broken(const char *to, const char *tensor)
{
    static const char *const files[] = { "config.json", "tokenizer.json", "tokenizer_config.json" };
    char path[128], from[512];
    uint64_t n = 0;
    assert_int_equal(mkdir(to, 0700), 0);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", to, files[i]);
        snprintf(from, sizeof from, DATA "/tiny-gemma3/%s", files[i]);
        assert_int_equal(symlink(from, path), 0);
    }
    FILE *const in = fopen(DATA "/tiny-gemma3/model.safetensors", "rb");
    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    const size_t size = (size_t)ftell(in);
    unsigned char *const data = malloc(size);
    rewind(in);
    assert_int_equal(fread(data, 1, size, in), size);
    fclose(in);
    memcpy(&n, data, sizeof n);
    json_t *const header = json_loadb((const char *)data + 8, n, 0, NULL);
    const json_t *const at_bytes = json_object_get(json_object_get(header, tensor),
                                                   "data_offsets");
    const json_int_t end = json_integer_value(json_array_get(at_bytes, 1));
    json_int_t b = json_integer_value(json_array_get(at_bytes, 0));
    assert_true(b < end);
    for (; b < end; b += 2)
        memcpy(data + 8 + n + b, "\xc0\x7f", 2);
    json_decref(header);
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    FILE *const out = fopen(path, "wb");
    assert_int_equal(fwrite(data, 1, size, out), size);
    fclose(out);
    free(data);
}

static inline void remove_broken(const char *at_path)
{
    static const char *const files[] = { "config.json", "tokenizer.json", "tokenizer_config.json",
                                         "model.safetensors" };
    char path[128];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", at_path, files[i]);
        unlink(path);
    }
    rmdir(at_path);
}

#endif
