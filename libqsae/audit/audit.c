/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit/contexts.h"
#include "audit/llama.h"
#include "audit/probed.h"
#include "audit/slices.h"
#include "audit/state.h"
#include "core/inner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double qsae__now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Resident set of the process now; 0 where the system does not tell. */
uint64_t qsae__resident_bytes(void)
{
    unsigned long long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

void qsae_audit_settings_init(qsae_audit_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

int32_t qsae_audit_open(qsae_context *context, const qsae_audit_settings *settings,
                        qsae_audit **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    qsae_audit_settings s;
    int32_t st = qsae__settings_copy(&s, sizeof s, settings, "qsae_audit_settings");
    if (st != QSAE_OK)
        return st;
    qsae_audit *a = qsae__calloc(context, 1, sizeof *a);
    if (!a)
        return QSAE_ENOMEM;
    qsae__handle_init(a);
    a->ctx = qsae__context_ref(context);
    qsae__json_begin();
    qsae__inner_begin();
    st = qsae__json_status(qsae__plan_open(a, &s));
    qsae__inner_end();
    if (st != QSAE_OK) {
        qsae__unshare(a);
        qsae_audit_close(&a);
        return st;
    }
    *out = a;
    return QSAE_OK;
}

void qsae_audit_close(qsae_audit **audit)
{
    if (!qsae__leave(audit, "audit"))
        return;
    qsae_audit *a = *audit;
    qsae_context *ctx = a->ctx;
    qsae__inner_begin();
    qsae__pass_close(a);
    qsae__contexts_close(a);
    qsae__participants_close(a);
    qsae__slices_close(a);
    qsae__llama_close(a);
    qsae__probed_close(a);
    qsae__places_close(a);
    qsae_corpus_close(&a->corpus);
    json_decref(a->selection);
    qsae_tokenizer_close(&a->tokenizer);
    qsae__inner_end();
    json_decref(a->snapshots);
    json_decref(a->identity);
    qsae__free(ctx, a->covered);
    qsae__free(ctx, a->measured_with);
    qsae__free(ctx, a->cache);
    qsae__free(ctx, a->exclude_tokens);
    qsae__free(ctx, a->excluded);
    qsae__free(ctx, a->state_path);
    free(a->json);
    free(a->plan_json);
    json_decref(a->plan);
    qsae__retire(ctx, a);
    qsae__context_unref(ctx);
    *audit = NULL;
}

/* Tokens of chunks from..to - 1. */
static int64_t tokens_in(const qsae_audit *a, int64_t from, int64_t to)
{
    const int64_t context = a->corpus_info.context, all = a->corpus_info.tokens;
    return qsae__min_i64(to * context, all) - qsae__min_i64(from * context, all);
}

/* Where models take turns each of them goes over the text. */
static int32_t report(qsae_audit *a)
{
    const int64_t turns = a->memory == QSAE_MEMORY_IN_TURN ? a->n_participants : 1;
    int64_t done = turns * qsae__covered_tokens(a, a->from_chunk, a->to_chunk);
    for (int64_t i = 0; i < a->n_participants && turns > 1; i++)
        done += tokens_in(a, a->next_chunk, a->participants[i].next_chunk);
    return a->progress ? a->progress(a->progress_cookie, done,
                                     turns * tokens_in(a, a->from_chunk, a->to_chunk), "tokens",
                                     "measure")
                       : QSAE_OK;
}

/* Whether there is anything to save. */
static bool begun(const qsae_audit *a)
{
    bool any = a->n_covered > 0;
    for (int64_t i = 0; i < a->n_participants; i++)
        any |= a->participants[i].next_chunk > a->next_chunk;
    return any;
}

/* Notes the arithmetic that figures are computed with. */
static int32_t note_numerics(qsae_audit *a)
{
    char line[256], *all;
    qsae__numerics_line(a, line, sizeof line);
    const int32_t st = qsae__lines_union(a->ctx, a->measured_with, line, &all);
    if (st != QSAE_OK)
        return st;
    qsae__free(a->ctx, a->measured_with);
    a->measured_with = all;
    return QSAE_OK;
}

static int32_t run_batch(qsae_audit *a)
{
    const bool first = a->n_covered == 0 && a->participants[0].next_chunk == a->next_chunk;
    int32_t st = qsae__pass_batch(a);
    if (st == QSAE_OK && first)
        qsae__plan_check_saes(a);
    return st == QSAE_OK ? note_numerics(a) : st;
}

#define SAVE_EVERY 60.0  /* seconds between state files, */
#define SAVE_TIMES 100.0 /* and this many times what writing the last one took: 1% of a run */

static int32_t run(qsae_audit *a)
{
    QSAE__FPENV;
    qsae__json_begin();
    int32_t st = qsae__match_run(a);
    if (st == QSAE_OK && !a->pass && a->next_chunk < a->end_chunk)
        st = qsae__pass_open(a);
    double last = qsae__now(), saved = last, pause = SAVE_EVERY;
    if (st == QSAE_OK)
        st = report(a);
    while (st == QSAE_OK && a->next_chunk < a->end_chunk) {
        if ((st = run_batch(a)) != QSAE_OK)
            break;
        const double now = qsae__now();
        a->seconds += now - last;
        last = now;
        if (a->state_path && now - saved > pause) {
            st = qsae__state_save(a);
            saved = qsae__now();
            pause = fmax(SAVE_EVERY, SAVE_TIMES * (saved - now));
        }
        if (st == QSAE_OK)
            st = report(a);
    }
    if (st == QSAE_OK)
        st = qsae__probed_run(a);
    if (st == QSAE_OK)
        st = qsae__llama_finish(a);
    st = qsae__json_status(st == QSAE_OK ? qsae__contexts_run(a) : st);
    /* A stopped run keeps what it has: the file is at the last whole batch. */
    if (a->state_path && !a->half && (begun(a) || a->from_chunk == a->to_chunk)) {
        char message[QSAE__MESSAGE_SIZE];
        memcpy(message, qsae__message(), sizeof message);
        const int32_t saving = qsae__state_save(a);
        if (st != QSAE_OK)
            memcpy(qsae__message(), message, sizeof message);
        else
            st = saving;
    }
    return st;
}

int32_t qsae_audit_run(qsae_audit *a)
{
    if (qsae__need(a, "audit"))
        return QSAE_EINVAL;
    if (qsae__begin_call(a, "qsae_audit_run") != QSAE_OK)
        return QSAE_EBUSY;
    qsae__inner_begin();
    const int32_t st = run(a);
    qsae__inner_end();
    qsae__end_call(a);
    return st;
}

int32_t qsae__whole(const qsae_audit *a)
{
    return a->half ? qsae__fail(QSAE_ESTATE, "the last batch is measured in part, as the run "
                                "failed: call qsae_audit_run again")
                   : QSAE_OK;
}

static int32_t result(qsae_audit *a, const char **json, size_t *n_bytes)
{
    QSAE__FPENV;
    if (!json)
        return qsae__fail(QSAE_EINVAL, "qsae_audit_result: json is NULL");
    *json = NULL;
    json_t *document = NULL;
    qsae__json_begin();
    int32_t st = qsae__whole(a);
    if (st == QSAE_OK)
        st = qsae__result_document(a, &document);
    if ((st = qsae__json_status(st)) != QSAE_OK) {
        json_decref(document);
        return st;
    }
    char *text = qsae__json_dumps(document, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    json_decref(document);
    if (!text)
        return qsae__fail(QSAE_ENOMEM, "out of memory: the result document");
    free(a->json);
    a->json = text;
    *json = text;
    if (n_bytes)
        *n_bytes = strlen(text);
    return QSAE_OK;
}

int32_t qsae_audit_result(qsae_audit *a, const char **json, size_t *n_bytes)
{
    if (qsae__need(a, "audit"))
        return QSAE_EINVAL;
    if (qsae__need_aligned(json, "json") ||
        qsae__need_aligned(n_bytes, "n_bytes"))
        return QSAE_EINVAL;
    if (qsae__begin_call(a, "qsae_audit_result") != QSAE_OK)
        return QSAE_EBUSY;
    qsae__inner_begin();
    const int32_t st = result(a, json, n_bytes);
    qsae__inner_end();
    qsae__end_call(a);
    return st;
}
