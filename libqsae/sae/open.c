/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening an SAE: parameters from the mapped file, checked against each other and the
 * configuration. */
#include <math.h>
#include <string.h>

#include "sae/encode.h"

/* Tensor of either spelling: W_enc, or w_enc as some releases write it. */
static const qsae__tensor *find_tensor(const qsae__tensors *t, const char *name)
{
    const qsae__tensor *found = qsae__tensors_find(t, name);
    if (!found && name[0] == 'W') {
        char lower[32] = "w";
        strncat(lower, name + 1, sizeof lower - 2);
        found = qsae__tensors_find(t, lower);
    }
    return found;
}

static bool is_float(int32_t dtype)
{
    return dtype == QSAE_F32 || dtype == QSAE_F16 || dtype == QSAE_BF16 || dtype == QSAE_F64;
}

static int32_t need(const qsae_sae *sae, const char *name, int32_t rank, const int64_t *shape,
                    const qsae__tensor **out)
{
    const qsae__tensor *const t = find_tensor(sae->tensors, name);
    const int32_t st = qsae__tensors_need(sae->tensors, t ? t->name : name, rank, shape, out);
    if (st != QSAE_OK)
        return st;
    if (!is_float((*out)->dtype))
        return qsae__fail(QSAE_EUNSUPPORTED,
                          "%s: tensor \"%s\": expected F32, F16, BF16 or F64, found "
                          "%s", (*out)->file, (*out)->name, qsae_dtype_name((*out)->dtype));
    return QSAE_OK;
}

/* A parameter vector of n elements in f32. */
static int32_t need_vector(qsae_sae *sae, const char *name, int64_t n, float **out)
{
    const qsae__tensor *t;
    const int32_t st = need(sae, name, 1, &n, &t);
    if (st != QSAE_OK)
        return st;
    float *const v = qsae__alloc_array(sae->ctx, n, sizeof *v);
    if (!v)
        return QSAE_ENOMEM;
    *out = v;
    if (!qsae__to_f32(t->dtype, t->data, n, v))
        return qsae__fail(QSAE_EINTERNAL, "%s: tensor \"%s\" cannot be read", t->file, t->name);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return qsae__fail(QSAE_ENONFINITE, "%s: tensor \"%s\": element %lld is not finite",
                              t->file, t->name, (long long)i);
    return QSAE_OK;
}

static int32_t check_size(const qsae_sae *sae, const char *key, int64_t config, int64_t found)
{
    if (config && config != found)
        return qsae__fail(QSAE_EMISMATCH, "%s: the configuration says %s = %lld, the tensors %lld",
                          sae->path, key, (long long)config, (long long)found);
    return QSAE_OK;
}

/* Sizes come from the tensors; a configuration that disagrees is an error. */
static int32_t load_matrices(qsae_sae *sae)
{
    qsae__sae_config *const c = &sae->config;
    const int64_t any[2] = { -1, -1 };
    const bool tied = c->activation == QSAE__PURSUIT;
    int32_t st = need(sae, tied ? "W_dec" : "W_enc", 2, any, &sae->w_enc);
    if (st != QSAE_OK)
        return st;
    const bool turned = tied || c->enc_turned;
    const int64_t d_in = sae->w_enc->shape[turned], d_sae = sae->w_enc->shape[!turned];
    const int64_t dec[2] = { d_sae, -1 };
    st = need(sae, "W_dec", 2, dec, &sae->w_dec);
    if (st != QSAE_OK)
        return st;
    const int64_t d_out = sae->w_dec->shape[1];
    if (d_in < 1 || d_sae < 1 || d_out < 1 || d_sae > INT32_MAX)
        return qsae__fail(QSAE_EFORMAT,
                          "%s: sizes %lld, %lld, %lld (d_in, d_sae, d_out) out of range",
                          sae->path, (long long)d_in, (long long)d_sae, (long long)d_out);
    if (d_in != d_out && !c->transcoder)
        return qsae__fail(QSAE_EMISMATCH, "%s: W_enc has %lld inputs but W_dec %lld outputs; only "
                          "transcoders may differ", sae->path, (long long)d_in, (long long)d_out);
    if ((st = check_size(sae, "d_in", c->d_in, d_in)) != QSAE_OK ||
        (st = check_size(sae, "d_sae", c->d_sae, d_sae)) != QSAE_OK ||
        (st = check_size(sae, "d_out", c->d_out, d_out)) != QSAE_OK)
        return st;
    if (c->k > d_sae)
        return qsae__fail(QSAE_EMISMATCH, "%s: k = %lld is more than the %lld features", sae->path,
                          (long long)c->k, (long long)d_sae);
    if (c->activation == QSAE__GROUPMAX && d_sae % c->k != 0)
        return qsae__fail(QSAE_EMISMATCH, "%s: the %lld features do not make k = %lld equal groups",
                          sae->path, (long long)d_sae, (long long)c->k);
    if (c->n_widths && c->widths[c->n_widths - 1] != d_sae)
        return qsae__fail(QSAE_EMISMATCH, "%s: matryoshka_widths end at %lld, the tensors at %lld",
                          sae->path, (long long)c->widths[c->n_widths - 1], (long long)d_sae);
    c->d_in = d_in;
    c->d_sae = d_sae;
    c->d_out = d_out;
    sae->enc = (qsae__dense){ .data = sae->w_enc->data, .dtype = sae->w_enc->dtype,
                              .round = sae->round, .level = sae->ctx->level,
                              .n_stride = turned ? d_in : 1, .k_stride = turned ? 1 : d_sae };
    if (tied)
        sae->w_enc = NULL;
    return QSAE_OK;
}

/* W_skip [d_out, d_in] (y += x W_skip^T), or Gemma Scope 2's affine_skip_connection [d_in, d_out],
 * which is its transpose. */
static int32_t load_skip(qsae_sae *sae, bool config_silent)
{
    qsae__sae_config *const c = &sae->config;
    const char *const name = c->lower_case ? "affine_skip_connection" : "W_skip";
    const bool there = find_tensor(sae->tensors, name) != NULL;
    if (there && !c->skip && !config_silent)
        return qsae__fail(QSAE_EMISMATCH, "%s: tensor \"%s\" is there, but the configuration says "
                          "there is no skip connection", sae->path, name);
    if (!there && !c->skip)
        return QSAE_OK;
    const int64_t plain[2] = { c->d_out, c->d_in }, turned[2] = { c->d_in, c->d_out };
    const int32_t st = need(sae, name, 2, c->lower_case ? turned : plain, &sae->w_skip);
    c->skip = true;
    if (st == QSAE_OK)
        sae->skip = (qsae__dense){ .data = sae->w_skip->data, .dtype = sae->w_skip->dtype,
                                   .round = sae->round, .level = sae->ctx->level,
                                   .n_stride = c->lower_case ? 1 : c->d_in,
                                   .k_stride = c->lower_case ? c->d_out : 1 };
    return st;
}

/* A scalar threshold for every feature: batchtopk, where training checkpoints of SAELens hold it in
 * F64 and their inference form rounds it to the element type of b_enc. */
static int32_t spread_threshold(qsae_sae *sae, const qsae__tensor *t)
{
    const int64_t n = sae->config.d_sae;
    const qsae__tensor *const b_enc = find_tensor(sae->tensors, "b_enc");
    float v;
    if (!qsae__to_f32(t->dtype, t->data, 1, &v))
        return qsae__fail(QSAE_EUNSUPPORTED, "%s: tensor \"%s\": expected F32, F16, BF16 or F64, "
                          "found %s", t->file, t->name, qsae_dtype_name(t->dtype));
    if (!isfinite(v))
        return qsae__fail(QSAE_ENONFINITE, "%s: tensor \"%s\" is not finite", t->file, t->name);
    if (b_enc && (b_enc->dtype == QSAE_BF16 || b_enc->dtype == QSAE_F16))
        qsae__round(sae->ctx, b_enc->dtype, &v, 1);
    sae->threshold = qsae__alloc_array(sae->ctx, n, sizeof *sae->threshold);
    for (int64_t i = 0; sae->threshold && i < n; i++)
        sae->threshold[i] = v;
    sae->min_threshold = v;
    return sae->threshold ? QSAE_OK : QSAE_ENOMEM;
}

static int32_t load_threshold(qsae_sae *sae)
{
    const int64_t n = sae->config.d_sae;
    const qsae__tensor *scalar = find_tensor(sae->tensors, "threshold");
    if (!scalar)
        scalar = find_tensor(sae->tensors, "topk_threshold");
    if (scalar && (scalar->rank == 0 ||
                   (scalar->rank == 1 && scalar->shape[0] == 1 && n != 1)))
        return spread_threshold(sae, scalar);
    const bool logs = !find_tensor(sae->tensors, "threshold") &&
                      find_tensor(sae->tensors, "log_threshold");
    const int32_t st = need_vector(sae, logs ? "log_threshold" : "threshold", n, &sae->threshold);
    if (st != QSAE_OK)
        return st;
    sae->min_threshold = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (logs)
            sae->threshold[i] = expf(sae->threshold[i]);
        if (sae->threshold[i] < sae->min_threshold)
            sae->min_threshold = sae->threshold[i];
    }
    return QSAE_OK;
}

/* |W_dec[i, :]| of the rounded rows, for rescale_acts_by_decoder_norm. Folding it into the weights,
 * as batchtopk does on saving, takes it as 1e-8 at least. */
static int32_t load_norms(qsae_sae *sae)
{
    const int64_t n = sae->config.d_sae, d = sae->config.d_out;
    const size_t size = (size_t)qsae_dtype_bits(sae->w_dec->dtype) / 8;
    float *const row = qsae__alloc_array(sae->ctx, d, sizeof *row);
    sae->norms = qsae__alloc_array(sae->ctx, n, sizeof *sae->norms);
    if (!row || !sae->norms) {
        qsae__free(sae->ctx, row);
        return QSAE_ENOMEM;
    }
    for (int64_t i = 0; i < n; i++) {
        qsae__to_f32(sae->w_dec->dtype, (const char *)sae->w_dec->data + (size_t)(i * d) * size, d,
                     row);
        if (sae->round)
            qsae__round(sae->ctx, sae->round, row, d);
        double sum = 0;
        for (int64_t j = 0; j < d; j++)
            sum += (double)row[j] * row[j];
        sae->norms[i] = (float)sqrt(sum);
        if (sae->config.activation == QSAE__JUMPRELU && sae->norms[i] < 1e-8f)
            sae->norms[i] = 1e-8f;
    }
    qsae__free(sae->ctx, row);
    return QSAE_OK;
}

/* batchtopk: W_enc[:, i] and b_enc times the norm in f32, as SAELens folds it when it saves a
 * training checkpoint for inference; the decoder divides. */
static int32_t fold_norms(qsae_sae *sae)
{
    const int64_t d = sae->config.d_in, n = sae->config.d_sae;
    int64_t size;
    if (!qsae__mul_i64(d, n, &size))
        return qsae__fail(QSAE_EOVERFLOW, "%s: too many weights", sae->path);
    if (!(sae->folded = qsae__alloc_array(sae->ctx, size, sizeof *sae->folded)))
        return QSAE_ENOMEM;
    const size_t bytes = (size_t)qsae_dtype_bits(sae->w_enc->dtype) / 8;
    for (int64_t k = 0; k < d; k++) {
        float *const row = sae->folded + k * n;
        qsae__to_f32(sae->w_enc->dtype, (const char *)sae->w_enc->data + (size_t)(k * n) * bytes, n,
                     row);
        for (int64_t i = 0; i < n; i++)
            row[i] *= sae->norms[i];
    }
    for (int64_t i = 0; i < n; i++)
        sae->b_enc[i] *= sae->norms[i];
    sae->enc.data = sae->folded;
    sae->enc.dtype = QSAE_F32;
    sae->gate = NULL;
    return QSAE_OK;
}

/* scaling_factor: all ones are dropped; others belong to a finetuned SAE that must say so. */
static int32_t load_scale(qsae_sae *sae)
{
    const int64_t n = sae->config.d_sae;
    if (!find_tensor(sae->tensors, "scaling_factor"))
        return QSAE_OK;
    int32_t st = need_vector(sae, "scaling_factor", n, &sae->scale);
    bool ones = st == QSAE_OK;
    for (int64_t i = 0; i < n && ones; i++)
        ones = fabsf(sae->scale[i] - 1.0f) <= 1e-5f;
    if (st == QSAE_OK && ones) {
        qsae__free(sae->ctx, sae->scale);
        sae->scale = NULL;
    } else if (st == QSAE_OK && !sae->config.scaling_allowed) {
        st = qsae__fail(QSAE_EMISMATCH, "%s: tensor \"scaling_factor\" is not all ones, but "
                        "finetuning_scaling_factor is not set", sae->path);
    }
    return st;
}

static int32_t load_parameters(qsae_sae *sae, bool config_silent)
{
    const qsae__sae_config *const c = &sae->config;
    int32_t st = load_matrices(sae);
    if (st == QSAE_OK)
        st = load_skip(sae, config_silent);
    if (st == QSAE_OK)
        st = need_vector(sae, "b_dec", c->d_out, &sae->b_dec);
    for (int64_t i = 0; st == QSAE_OK && i < c->d_out; i++)
        if (c->activation == QSAE__PURSUIT && !c->apply_b_dec)
            sae->b_dec[i] = 0; /* tied: what is not subtracted is not added */
    if (st == QSAE_OK && c->activation != QSAE__PURSUIT)
        st = need_vector(sae, c->activation == QSAE__GATED ? "b_gate" : "b_enc", c->d_sae,
                         &sae->b_enc);
    if (st == QSAE_OK && c->activation == QSAE__JUMPRELU)
        st = load_threshold(sae);
    if (sae->min_threshold >= 0) /* what passes is positive: equal SAEs have equal hashes */
        sae->config.keeps_negative = false;
    if (st == QSAE_OK && c->activation == QSAE__GATED) {
        st = need_vector(sae, "r_mag", c->d_sae, &sae->gain);
        for (int64_t i = 0; st == QSAE_OK && i < c->d_sae; i++)
            sae->gain[i] = expf(sae->gain[i]);
        if (st == QSAE_OK)
            st = need_vector(sae, "b_mag", c->d_sae, &sae->b_mag);
    }
    if (st == QSAE_OK && c->rescale_by_norm)
        st = load_norms(sae);
    sae->gate = sae->norms;
    if (st == QSAE_OK && sae->norms && c->activation == QSAE__JUMPRELU && !c->norm_undone)
        st = fold_norms(sae);
    return st == QSAE_OK ? load_scale(sae) : st;
}

void qsae_sae_settings_init(qsae_sae_settings *s, size_t size)
{
    qsae__settings_init(s, size);
}

/* What the caller knows better than the files. A scale that changes nothing would leave them with
 * an SAE other than the one asked for. */
static int32_t apply_settings(qsae_sae *sae, const qsae_sae_settings *s)
{
    if (s->center_input)
        sae->config.center_input = s->center_input > 0;
    if (s->scale != 0 && sae->config.scale == 0)
        return qsae__fail(QSAE_EINVAL, "%s: scale: the files do not ask for one: the SAE is none "
                          "of expected_average_only_in or dataset-wise normalisation", sae->path);
    return QSAE_OK;
}

/* What the first call that encodes makes is made at once where processes share it: the folder may
 * be gone later. */
static int32_t open_screen(qsae_sae *sae)
{
    const bool encodes = sae->ctx->shares && sae->config.activation != QSAE__PURSUIT;
    return encodes && !qsae__is_wide(sae) ? qsae__screen_open(sae) : QSAE_OK;
}

int32_t qsae_sae_open(qsae_context *context, const char *path, const qsae_sae_settings *settings,
                      qsae_sae **out)
{
    QSAE__FPENV;
    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (!path)
        return qsae__fail(QSAE_EINVAL, "qsae_sae_open: path must not be NULL");
    qsae_sae_settings s;
    int32_t st = qsae__settings_copy(&s, sizeof s, settings, "qsae_sae_settings");
    if (st != QSAE_OK)
        return st;
    if (s.reserved || s.reserved2 || s.center_input < -1 || s.center_input > 1 ||
        (s.dtype && s.dtype != QSAE_F32 && s.dtype != QSAE_BF16 && s.dtype != QSAE_F16 &&
         s.dtype != QSAE_I8))
        return qsae__fail(QSAE_EINVAL,
                          "qsae_sae_open: dtype must be 0, F32, BF16, F16 or I8, center_input -1, "
                          "0 or 1, and reserved 0");
    qsae__sae_place place = { .folder = NULL };
    qsae_sae *sae = qsae__calloc(context, 1, sizeof *sae);
    if (!sae)
        return QSAE_ENOMEM;
    qsae__handle_init(sae);
    sae->ctx = qsae__context_ref(context);
    sae->cancel = s.cancel;
    sae->round = s.dtype == QSAE_BF16 || s.dtype == QSAE_F16 ? s.dtype : 0;
    sae->path = qsae__strdup(context, path);
    st = sae->path ? qsae__sae_find(context, path, s.layer, &place) : QSAE_ENOMEM;
    if (st == QSAE_OK)
        st = place.form->read(context, &place, &s, &sae->config, &sae->tensors);
    if (st == QSAE_OK)
        st = apply_settings(sae, &s);
    if (st == QSAE_OK)
        st = qsae__tensors_share(sae->tensors);
    if (st == QSAE_OK)
        st = load_parameters(sae, !place.config);
    if (st == QSAE_OK)
        st = qsae__sae_store(sae, s.dtype);
    if (st == QSAE_OK)
        st = qsae_sae_set_prefix(sae, s.prefix);
    if (st == QSAE_OK)
        st = open_screen(sae);
    if (st == QSAE_OK && sae->config.normalize == QSAE__NORM_UNSCALED)
        qsae__log(context, QSAE_LOG_WARNING, "%s: expected_average_only_in: the scale sqrt(d_in) / "
                  "mean |x| is not in the file; rows are encoded unscaled", path);
    sae->state_size = sae->config.normalize == QSAE__NORM_LAYER ? 2 :
                      sae->config.normalize == QSAE__NORM_CONSTANT ? 1 : 0;
    qsae__sae_place_free(context, &place);
    if (st != QSAE_OK) {
        qsae__unshare(sae);
        qsae_sae_close(&sae);
        return st;
    }
    *out = sae;
    return QSAE_OK;
}

void qsae__sae_free(qsae_sae *s)
{
    if (!s)
        return;
    qsae_context *const ctx = s->ctx;
    qsae__screen_close(s);
    qsae__sae_store_close(s);
    qsae__tensors_unref(&s->tensors);
    qsae__sae_config_free(ctx, &s->config);
    qsae__free(ctx, s->path);
    qsae__free(ctx, s->b_enc);
    qsae__free(ctx, s->b_dec);
    qsae__free(ctx, s->threshold);
    qsae__free(ctx, s->gain);
    qsae__free(ctx, s->b_mag);
    qsae__free(ctx, s->norms);
    qsae__free(ctx, s->folded);
    qsae__free(ctx, s->scale);
    qsae__retire(ctx, s);
    qsae__context_unref(ctx);
}

void qsae_sae_close(qsae_sae **sae)
{
    if (!qsae__leave(sae, "sae"))
        return;
    qsae__sae_free(*sae);
    *sae = NULL;
}
