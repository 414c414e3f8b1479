/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "audit/slices.h"
#include "core/machine.h"

bool qsae__participant_features(const struct participant *p)
{
    return !p->checkpoint || !p->checkpoint->reason;
}

static void close_participant(qsae_audit *a, struct participant *p)
{
    for (int64_t i = 0; p->saes && i < a->n_saes; i++) {
        qsae_metric_close(&p->saes[i].reconstruction);
        qsae_metric_close(&p->saes[i].drift);
        qsae_metric_close(&p->saes[i].survival);
        for (int v = 0; v < QSAE__SPLICES; v++)
            qsae_metric_close(&p->saes[i].splice[v]);
    }
    qsae__free(a->ctx, p->saes);
    qsae__slices_metrics_close(a, p);
    qsae__free(a->ctx, p->outliers);
    qsae_metric_close(&p->cross_entropy);
    qsae_metric_close(&p->divergence);
    qsae_metric_close(&p->llama);
    qsae_model_close(&p->model);
    qsae_weights_close(&p->weights);
    if (p->match)
        qsae__condition_free(a->ctx, &p->match->request);
    qsae__free(a->ctx, p->match);
    qsae__checkpoint_close(a, &p->checkpoint);
    qsae__place_free(a, p->place);
    qsae__free(a->ctx, p->label);
    memset(p, 0, sizeof *p);
}

void qsae__participants_close(qsae_audit *a)
{
    /* The reference's weights last: conditions share them. */
    for (int64_t i = a->n_participants - 1; i >= 0; i--)
        close_participant(a, &a->participants[i]);
    qsae__free(a->ctx, a->participants);
    a->participants = NULL;
    a->n_participants = 0;
}

int32_t qsae__participant_model(qsae_audit *a, struct participant *p, const char *condition)
{
    qsae_model_settings m;
    qsae_model_settings_init(&m, sizeof m);
    m.condition = condition;
    m.compute = a->compute;
    m.attention = a->attention;
    m.progress = a->progress;
    m.progress_cookie = a->progress_cookie;
    m.cancel = a->cancel;
    m.memory = a->memory == QSAE_MEMORY_RESIDENT ? QSAE_MEMORY_RESIDENT : QSAE_MEMORY_STREAMED;
    int32_t st = qsae_model_open(p->weights ? p->weights : a->participants[0].weights, &m,
                                 &p->model);
    if (st != QSAE_OK)
        return st;
    p->cost.struct_size = sizeof p->cost;
    if ((st = qsae_model_get_cost(p->model, &p->cost)) != QSAE_OK)
        return st;
    if (!p->label && !(p->label = qsae__strdup(a->ctx, p->cost.condition)))
        return QSAE_ENOMEM;
    p->n_outliers = qsae__model_linears(p->model);
    if (!p->outliers)
        p->outliers = qsae__calloc(a->ctx, p->n_outliers, sizeof *p->outliers);
    return p->outliers ? QSAE_OK : QSAE_ENOMEM;
}

/* A condition whose sparsity is yet to be found: opened by qsae__match_run. */
static int32_t open_match(qsae_audit *a, struct participant *p, qsae__condition *request)
{
    p->match = qsae__calloc(a->ctx, 1, sizeof *p->match);
    if (!p->match) {
        qsae__condition_free(a->ctx, request);
        return QSAE_ENOMEM;
    }
    p->match->request = *request;
    p->label = qsae__strdup(a->ctx, request->canonical);
    p->n_outliers = qsae__model_linears(a->participants[0].model);
    p->outliers = qsae__calloc(a->ctx, p->n_outliers, sizeof *p->outliers);
    return p->label && p->outliers ? QSAE_OK : QSAE_ENOMEM;
}

/* A checkpoint, its weights processed as the caller or the profile says. */
static int32_t open_weights(qsae_audit *a, const char *path, struct participant *p)
{
    qsae_weights *stored = NULL;
    int32_t st = qsae_weights_open(a->ctx, path, &stored);
    if (st != QSAE_OK)
        return st;
    const char *const own = qsae__weights_layer_norm(stored) ? a->profile->process : NULL;
    st = qsae_weights_process(stored, a->process ? a->process : own, &p->weights);
    if (st != QSAE_OK && own && !a->process)
        st = qsae__fail_in(st, "profile %s processes weights as TransformerLens does, unless "
                           "process is \"none\"", a->profile->name);
    qsae_weights_close(&stored);
    return st;
}

/* Another checkpoint. */
static int32_t open_checkpoint(qsae_audit *a, struct participant *p, const char *path)
{
    int32_t st = open_weights(a, path, p);
    if (st == QSAE_OK && !(p->label = qsae__strdup(a->ctx, path)))
        st = QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = qsae__checkpoint_open(a, p);
    return st == QSAE_OK ? qsae__participant_model(a, p, NULL) : st;
}

/* A string that can be nothing but a path. */
static bool path_only(const char *text)
{
    const size_t n = strlen(text);
    return *text == '/' || strncmp(text, "./", 2) == 0 || strncmp(text, "../", 3) == 0 ||
           (n > 5 && strcmp(text + n - 5, ".gguf") == 0);
}

static int32_t open_condition(qsae_audit *a, struct participant *p, const char *text)
{
    qsae__condition c;
    bool exists = false;
    int32_t st = qsae__path_look(text, &exists);
    if (st != QSAE_OK) {
        /* it may be either */
    } else if (exists) {
        st = open_checkpoint(a, p, text);
    } else if (path_only(text)) {
        st = qsae__fail(QSAE_ENOENT, "no such folder or file");
    } else if ((st = qsae__condition_parse(a->ctx, text, &c)) == QSAE_OK) {
        if (c.prune_match > 0 || c.prune_target)
            return open_match(a, p, &c);
        p->control = c.control;
        qsae__condition_free(a->ctx, &c);
        st = qsae__participant_model(a, p, text);
    }
    return st == QSAE_OK ? QSAE_OK : qsae__fail_in(st, "condition %s", text);
}

/* The conditions to open: as given, or those of a sweep. */
static int32_t list_conditions(qsae_audit *a, const qsae_audit_settings *s, struct audit_list *list)
{
    const char *const *conditions = s->conditions;
    int64_t n = s->n_conditions;
    if (n == 0 && a->profile->conditions && !s->reference_only) {
        conditions = a->profile->conditions;
        while (conditions[n])
            n++;
    }
    int32_t st = QSAE_OK;
    for (int64_t i = 0; i < n && st == QSAE_OK; i++) {
        bool path = true;
        if (a->sweep && (st = qsae__path_look(conditions[i], &path)) != QSAE_OK)
            break;
        st = path ? qsae__list_add(a, conditions[i], list)
                  : qsae__list_sweep(a, conditions[i], list);
    }
    return st == QSAE_OK && s->controls ? qsae__controls_add(a, list) : st;
}

/* Opens participant n_participants, which takes the place. What a part of a sweep finds nothing to
 * change in is left out. */
static int32_t open_next(qsae_audit *a, const char *condition, struct audit_place **place)
{
    struct participant *const p = &a->participants[a->n_participants++];
    qsae_model_info info = { .struct_size = offsetof(qsae_model_info, hash) };
    p->place = *place;
    *place = NULL;
    int32_t st = open_condition(a, p, condition);
    if (st != QSAE_OK || !p->place || strcmp(p->place->module, "head") == 0)
        return st;
    st = qsae_model_get_info(p->model, &info);
    const int64_t first = qsae__model_first_changed(a->participants[0].model, p->model);
    if (st == QSAE_OK && (first >= info.layers || p->cost.quantized_tensors == 0)) {
        close_participant(a, p);
        a->n_participants--;
    }
    return st;
}

static int32_t open_conditions(qsae_audit *a, struct audit_list *list)
{
    struct participant *all = qsae__calloc(a->ctx, list->n + 1, sizeof *all);
    int32_t st = QSAE_OK;
    if (!all)
        return QSAE_ENOMEM;
    all[0] = a->participants[0];
    qsae__free(a->ctx, a->participants);
    a->participants = all;
    for (int64_t i = 0; i < list->n && st == QSAE_OK; i++)
        st = open_next(a, list->items[i].condition, &list->items[i].place);
    if (st == QSAE_OK && list->n > 0 && a->n_participants == 1)
        st = qsae__fail(QSAE_EINVAL, "sweep: the conditions select no layer of this model");
    return st;
}

int32_t qsae__participants_open(qsae_audit *a, const qsae_audit_settings *s)
{
    struct audit_list list = { 0 };
    a->participants = qsae__calloc(a->ctx, 1, sizeof *a->participants);
    if (!a->participants)
        return QSAE_ENOMEM;
    a->n_participants = 1;
    int32_t st = open_weights(a, s->model, &a->participants[0]);
    if (st == QSAE_OK)
        st = qsae__participant_model(a, &a->participants[0], NULL);
    if (st == QSAE_OK)
        st = list_conditions(a, s, &list);
    if (st == QSAE_OK)
        st = open_conditions(a, &list);
    qsae__list_free(a, &list);
    return st;
}

/* Bytes the models would take resident, about: each checkpoint, and what conditions hold beside
 * it. One whose sparsity is yet to be found is taken for as large as the reference. */
static double resident_bytes(const qsae_audit *a)
{
    const double reference = (double)a->participants[0].cost.weight_bytes;
    double sum = reference;
    for (int64_t i = 0; i < a->n_participants; i++) {
        const struct participant *const p = &a->participants[i];
        if (i > 0 && p->weights)
            sum += (double)p->cost.weight_bytes;
        sum += p->model ? (double)qsae__model_held(p->model) : reference;
    }
    return sum;
}

#define MEMORY_SHARE 0.8 /* of the machine's memory that resident weights may take */

int32_t qsae__participants_settle(qsae_audit *a, int32_t memory)
{
    const double need = resident_bytes(a),
                 have = (double)qsae__machine_memory();
    const bool large = have > 0 && need > MEMORY_SHARE * have;
    a->memory = memory ? memory : large ? QSAE_MEMORY_STREAMED : QSAE_MEMORY_RESIDENT;
    if (!memory && large)
        qsae__log(a->ctx, QSAE_LOG_INFO, "the models would take about %.1f GB of this machine's "
                  "%.1f: their layers are streamed from the files", need * 1e-9, have * 1e-9);
    for (int64_t i = 0; i < a->n_participants && a->memory == QSAE_MEMORY_RESIDENT; i++) {
        struct participant *const p = &a->participants[i];
        if (!p->model)
            continue;
        const int32_t st =
            qsae__model_keep(p->model, a->progress, a->progress_cookie, a->cancel);
        if (st != QSAE_OK)
            return i ? qsae__fail_in(st, "condition %s", p->label) : st;
    }
    return QSAE_OK;
}
