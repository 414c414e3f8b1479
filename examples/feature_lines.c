/* SPDX-License-Identifier: BSD-2-Clause */
#include "feature_lines.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

static int32_t put_json(void *cookie, const char *line, size_t n_bytes)
{
    FILE *const f = cookie;
    fwrite(line, 1, n_bytes, f);
    fputc('\n', f);
    return QSAE_OK;
}

/* A cell: a number or null as it is, text in quotes. */
static void put_cell(FILE *f, const json_t *v, char end)
{
    if (json_is_string(v)) {
        fputc('"', f);
        for (const char *c = json_string_value(v); *c; c++) {
            if (*c == '"')
                fputc('"', f);
            fputc(*c, f);
        }
        fputc('"', f);
    } else if (json_is_integer(v)) {
        fprintf(f, "%lld", (long long)json_integer_value(v));
    } else if (json_is_real(v)) {
        fprintf(f, "%.9g", json_real_value(v));
    }
    fputc(end, f);
}

static const char *const feature_keys[] = { "name", "layer", "site", "feature", "fires", "density",
                                            "mean", "max", "fires_in_windows",
                                            "consistent_activation", "encoder_norm", "encoder_bias",
                                            "decoder_norm", "encoder_decoder_cosine",
                                            "neuronpedia" };
static const char *const condition_keys[] = { "label", "band", "r", "gain", "cosine", "fires",
                                              "fires_in_both", "density", "density_ratio", "mean",
                                              "max", "fires_in_windows",
                                              "consistent_activation", "newly",
                                              "cofire_jaccard", "precision", "recall", "r_on",
                                              "relative_error", "mean_ratio", "energy",
                                              "top_overlap" };
#define COUNT(keys) (sizeof keys / sizeof keys[0])

static void put_row(FILE *f, const json_t *feature, const json_t *condition)
{
    for (size_t i = 0; i < COUNT(feature_keys); i++)
        put_cell(f, json_object_get(feature, feature_keys[i]), ',');
    for (size_t i = 0; i < COUNT(condition_keys); i++)
        put_cell(f, json_object_get(condition, condition_keys[i]),
                 i + 1 < COUNT(condition_keys) ? ',' : '\n');
}

/* A row per feature and condition; one where there are no conditions. */
static int32_t put_csv(void *cookie, const char *line, size_t n_bytes)
{
    size_t i;
    json_error_t error;
    json_t *const feature = json_loadb(line, n_bytes, 0, &error), *condition;
    const json_t *const conditions = json_object_get(feature, "conditions");
    json_array_foreach(conditions, i, condition)
        put_row(cookie, feature, condition);
    if (json_array_size(conditions) == 0)
        put_row(cookie, feature, NULL);
    json_decref(feature);
    return QSAE_OK;
}

static void put_heading(FILE *f)
{
    for (size_t i = 0; i < COUNT(feature_keys); i++)
        fprintf(f, "%s,", i ? feature_keys[i] : "sae");
    for (size_t i = 0; i < COUNT(condition_keys); i++)
        fprintf(f, "%s%s", i ? ",q_" : "", i ? condition_keys[i] : "condition");
    fputc('\n', f);
}

int features_write(const char *program, qsae_audit *audit, int64_t n_saes, const char *path)
{
    const size_t n = strlen(path);
    const int csv = n > 4 && strcmp(path + n - 4, ".csv") == 0;
    char *const temp = malloc(n + 16);
    int32_t st = QSAE_OK;
    if (!temp)
        return -1;
    sprintf(temp, "%s.tmp-XXXXXX", path);
    const int fd = mkstemp(temp);
    FILE *const f = fd < 0 ? NULL : fdopen(fd, "wb");
    if (f && csv)
        put_heading(f);
    for (int64_t i = 0; f && i < n_saes && st == QSAE_OK; i++)
        st = qsae_audit_features(audit, i, csv ? put_csv : put_json, f);
    int bad = !f || ferror(f) || fflush(f) != 0 || fsync(fd) != 0;
    if (f)
        bad |= fclose(f) != 0;
    if (bad || st != QSAE_OK || rename(temp, path) != 0) {
        fprintf(stderr, "%s: %s: %s\n", program, path,
                st != QSAE_OK ? qsae_error_message() : strerror(errno));
        if (fd >= 0)
            unlink(temp);
        bad = 1;
    }
    free(temp);
    return bad ? -1 : 0;
}
