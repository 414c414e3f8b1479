/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "paper.h"
#include "program.h"

#define SUFFIX ".sliding" /* of its state file */

enum { MOST = 8, SPEC = 128, WINDOW = 2048, STRIDE = 512 };

/* The conditions of a result that round to nearest the whole model, one scale per row. */
static int64_t by_row(const json_t *result, char specs[MOST][SPEC])
{
    size_t i;
    int64_t n = 0;
    const json_t *c;
    json_array_foreach(json_object_get(result, "conditions"), i, c) {
        const char *const label = json_string_value(json_object_get(c, "label"));
        int bits;
        if (!label || strpbrk(label, "@+") || sscanf(label, "rtn:bits=%d", &bits) != 1 || n == MOST)
            continue;
        snprintf(specs[n++], SPEC, "rtn:bits=%d,axis=row", bits);
    }
    return n;
}

int32_t sliding_run(qsae_context *context, const qsae_audit_settings *main, const json_t *result,
                    const char *text, json_t **out)
{
    char specs[MOST][SPEC];
    const char *conditions[MOST];
    const char *json;
    size_t size;
    json_error_t error;
    qsae_audit *audit = NULL;
    qsae_audit_settings s;
    *out = NULL;
    qsae_audit_settings_init(&s, sizeof s);
    s.model = main->model;
    s.text = text;
    s.profile = main->profile;
    s.compute = main->compute;
    s.attention = main->attention;
    s.process = main->process;
    s.memory = main->memory;
    s.stream_bytes = main->stream_bytes;
    s.text_field = main->text_field;
    s.max_tokens = main->max_tokens;
    s.progress = main->progress;
    s.progress_cookie = main->progress_cookie;
    s.cancel = main->cancel;
    s.context = WINDOW;
    s.stride = STRIDE;
    s.batch = 1;
    s.bos_policy = QSAE_BOS_STREAM_START;
    s.keep_tail = 1;
    s.reference_only = 1;
    s.conditions = conditions;
    s.n_conditions = by_row(result, specs);
    for (int64_t i = 0; i < s.n_conditions; i++)
        conditions[i] = specs[i];
    char *const state =
        main->state ? needed(malloc(strlen(main->state) + sizeof SUFFIX)) : NULL;
    if (state)
        s.state = strcat(strcpy(state, main->state), SUFFIX);
    int32_t st = qsae_audit_open(context, &s, &audit);
    if (st == QSAE_OK)
        st = qsae_audit_run(audit);
    if (st == QSAE_OK)
        st = qsae_audit_result(audit, &json, &size);
    if (st == QSAE_OK && !(*out = json_read(json, size, &error)))
        st = QSAE_ESTATE;
    qsae_audit_close(&audit);
    free(state);
    return st;
}
