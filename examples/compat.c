/* SPDX-License-Identifier: BSD-2-Clause */
#include "compat.h"

#include <math.h>
#include <string.h>

/* A figure: scale value + offset of a key, which may lie in "splice". */
struct figure {
    const char *name, *key;
    double scale, offset;
};

#define SAME(name, key) { name, key, 1, 0 }
#define ONE_MINUS(name, key) { name, key, -1, 1 }
#define END { NULL, NULL, 0, 0 }

#define SAELENS_COMMON \
    SAME("kl_div_score", "splice/kl_recovered"), SAME("kl_div_with_ablation", "splice/kl_zero"), \
    SAME("kl_div_with_sae", "splice/kl_sae"), SAME("ce_loss_score", "splice/ce_recovered"), \
    SAME("ce_loss_with_ablation", "splice/ce_zero"), SAME("ce_loss_with_sae", "splice/ce_sae"), \
    SAME("ce_loss_without_sae", "splice/ce"), \
    ONE_MINUS("explained_variance_legacy", "fvu_tokmean"), SAME("mse", "mse_saelens"), \
    SAME("cossim", "cossim"), SAME("l2_norm_in", "mean_norm_in"), \
    SAME("l2_norm_out", "mean_norm_out"), SAME("l2_ratio", "l2_ratio"), \
    SAME("relative_reconstruction_bias", "relative_reconstruction_bias"), SAME("l0", "l0"), \
    SAME("l1", "l1")

/* sae.md C.1 and C.2: who defines what how. */
static const struct figure saelens_6_18[] = {
    ONE_MINUS("explained_variance", "fvu_v6_saebench"), SAELENS_COMMON, END
};
static const struct figure saelens_current[] = {
    ONE_MINUS("explained_variance", "fvu_dim"), SAELENS_COMMON, END
};
static const struct figure dictionary_learning[] = {
    ONE_MINUS("frac_variance_explained", "fvu_v4_dictionary_learning"),
    SAME("l2_loss", "mean_residual_norm"), SAME("l1_loss", "l1"), SAME("l0", "l0"),
    SAME("cossim", "cossim"), SAME("l2_ratio", "l2_ratio"),
    SAME("relative_reconstruction_bias", "relative_reconstruction_bias"),
    SAME("loss_original", "splice/ce"), SAME("loss_reconstructed", "splice/ce_sae"),
    SAME("loss_zero", "splice/ce_zero"), SAME("frac_recovered", "splice/ce_recovered"), END
};
static const struct figure sparsify[] = {
    SAME("fvu", "fvu_v3_sparsify"), SAME("l0", "l0"), SAME("dead", "dead_features"), END
};

const char *const compat_names[] = { "saelens-6.18", "saelens-current", "saebench",
                                     "dictionary_learning", "sparsify", NULL };
static const struct figure *const tools[] = { saelens_6_18, saelens_current, saelens_6_18,
                                              dictionary_learning, sparsify };

static double value(const json_t *sae, const struct figure *f)
{
    const char *key = f->key;
    const json_t *o = sae;
    if (strncmp(key, "splice/", 7) == 0) {
        o = json_object_get(sae, "splice");
        key += 7;
    }
    const json_t *const v = json_object_get(o, key);
    return json_is_number(v) ? f->scale * json_number_value(v) + f->offset : NAN;
}

static void print_model(const struct page *p, const json_t *who, int index)
{
    size_t i;
    const json_t *sae;
    json_array_foreach(json_object_get(who, "saes"), i, sae) {
        fputc('\n', p->out);
        say(p, 2, "%s, %s, as %s", json_string_value(json_object_get(who, "label")),
            json_string_value(json_object_get(sae, "name")), compat_names[index]);
        for (const struct figure *f = tools[index]; f->name; f++) {
            const double v = value(sae, f);
            if (isnan(v))
                fprintf(p->out, "  %-30s -\n", f->name);
            else
                fprintf(p->out, "  %-30s %.6g\n", f->name, v);
        }
    }
}

void compat_print(const struct page *p, const json_t *result, int index)
{
    size_t i;
    const json_t *who, *const corpus = json_object_get(result, "corpus");
    print_model(p, json_object_get(result, "reference"), index);
    json_array_foreach(json_object_get(result, "conditions"), i, who)
        print_model(p, who, index);
    fprintf(p->out, "\nbatches of %lld x %lld tokens, on which some of these definitions depend\n",
            (long long)json_integer_value(json_object_get(corpus, "batch")),
            (long long)json_integer_value(json_object_get(corpus, "context")));
}
