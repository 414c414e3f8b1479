/* SPDX-License-Identifier: BSD-2-Clause */
#include "feature_lines.h"

#include <string.h>

#include "csv.h"
#include "program.h"

static int32_t put_json(void *cookie, const char *line, size_t n_bytes)
{
    FILE *const f = cookie;
    fwrite(line, 1, n_bytes, f);
    fputc('\n', f);
    return QSAE_OK;
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
                                              "top_overlap", "r_low", "r_high" };
#define COUNT(keys) (sizeof keys / sizeof keys[0])

/* r_low, r_high: of r_interval. */
static const json_t *cell_of(const json_t *condition, const char *key)
{
    const json_t *const r = json_object_get(condition, "r_interval");
    return strcmp(key, "r_low") == 0    ? json_array_get(r, 0)
           : strcmp(key, "r_high") == 0 ? json_array_get(r, 1)
                                        : json_object_get(condition, key);
}

static void put_row(FILE *f, const json_t *feature, const json_t *condition)
{
    for (size_t i = 0; i < COUNT(feature_keys); i++)
        csv_cell(f, json_object_get(feature, feature_keys[i]), ',');
    for (size_t i = 0; i < COUNT(condition_keys); i++)
        csv_cell(f, cell_of(condition, condition_keys[i]),
                 i + 1 < COUNT(condition_keys) ? ',' : '\n');
}

/* A row per feature and condition; one where there are no conditions. */
static int32_t put_csv(void *cookie, const char *line, size_t n_bytes)
{
    size_t i;
    json_error_t error;
    json_t *const feature = json_read(line, n_bytes, &error), *condition;
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

int features_write(qsae_audit *audit, int64_t n_saes, const char *path)
{
    const size_t n = strlen(path);
    const bool csv = n > 4 && strcmp(path + n - 4, ".csv") == 0;
    struct output o;
    int32_t st = QSAE_OK;
    if (output_open(&o, path) != 0)
        return -1;
    if (csv)
        put_heading(o.file);
    for (int64_t i = 0; i < n_saes && st == QSAE_OK; i++)
        st = qsae_audit_features(audit, i, csv ? put_csv : put_json, o.file);
    if (st != QSAE_OK)
        complain("%s: %s", path, qsae_error_message());
    return output_close(&o, st == QSAE_OK);
}
