/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is in this model, SAE or tensor file, and will libqsae run it? What does a condition do to
 * its weights? See doc/inspect.md. Exit status 0 if everything named would run.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

#include "errors.h"

static const char usage[] =
    "usage: inspect [options] PATH...\n"
    "  PATH                 a model (folder or GGUF file), an SAE, a file of tensors\n"
    "  --condition SPEC     the error of each weight under this condition (repeatable)\n"
    "  --other MODEL2       the errors of another checkpoint of the model (under the condition)\n"
    "  --tensors            list all tensors\n"
    "  --json               print one JSON document\n"
    "  --threads N\n"
    "  --version, --help\n";

#define TEXT(object, key) json_string_value(json_object_get(object, key))
#define YES(object, key) json_is_true(json_object_get(object, key))
#define NUMBER(object, key) ((long long)json_integer_value(json_object_get(object, key)))

static json_t *tensor_list(qsae_context *context, const char *path)
{
    qsae_tensors *tensors;
    if (qsae_tensors_open(context, path, &tensors) != QSAE_OK)
        return NULL;
    json_t *const list = json_array();
    for (int64_t i = 0; i < qsae_tensors_count(tensors); i++) {
        qsae_tensor_info t = { .struct_size = sizeof t };
        if (qsae_tensors_get(tensors, i, &t) != QSAE_OK)
            break;
        json_t *const shape = json_array();
        for (int32_t d = 0; d < t.rank; d++)
            json_array_append_new(shape, json_integer(t.shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", t.name, "dtype",
                                              qsae_dtype_name(t.dtype), "shape", shape, "bytes",
                                              (json_int_t)t.bytes));
    }
    qsae_tensors_close(&tensors);
    return list;
}

/* "BF16 2, U8 14": how many there are of each dtype, in the order they are met. */
static void dtype_counts(const json_t *tensors, char *text, size_t size)
{
    size_t i, k;
    const json_t *t, *u;
    size_t used = 0;
    *text = 0;
    json_array_foreach(tensors, i, t) {
        const char *const dtype = TEXT(t, "dtype");
        int n = 0, seen = 0;
        json_array_foreach(tensors, k, u) {
            const int same = !strcmp(TEXT(u, "dtype"), dtype);
            seen |= same && k < i;
            n += same;
        }
        if (!seen && used < size)
            used += (size_t)snprintf(text + used, size - used, "%s%s %d", used ? ", " : "", dtype,
                                     n);
    }
}

/* The model of a path, or NULL with its status and message. */
static json_t *model_of(qsae_context *context, const char *path, int32_t *status)
{
    qsae_weights *weights;
    qsae_model_info m = { .struct_size = sizeof m };
    json_t *model = NULL;
    *status = qsae_weights_open(context, path, &weights);
    if (*status != QSAE_OK)
        return NULL;
    if ((*status = qsae_weights_get_info(weights, &m)) == QSAE_OK)
        model = json_pack(
            "{s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s}", "type",
            m.type, "parameters", (json_int_t)m.parameters, "dtype", qsae_dtype_name(m.dtype),
            "storage", m.storage, "layers", (json_int_t)m.layers, "width", (json_int_t)m.width,
            "heads", (json_int_t)m.heads, "kv_heads", (json_int_t)m.kv_heads, "head_dim",
            (json_int_t)m.head_dim, "window", (json_int_t)m.window, "mlp_width",
            (json_int_t)m.mlp_width, "vocab", (json_int_t)m.vocab, "tied", m.tied, "hash", m.hash);
    qsae_weights_close(&weights);
    return model;
}

static void print_model(const char *path, const json_t *m, const json_t *tensors)
{
    char dtypes[400];
    dtype_counts(tensors, dtypes, sizeof dtypes);
    printf("%s: language model, runs\n", path);
    printf("  type          %s\n", TEXT(m, "type"));
    printf("  parameters    %lld (%s)\n", NUMBER(m, "parameters"), TEXT(m, "dtype"));
    if (*TEXT(m, "storage"))
        printf("  storage       %s\n", TEXT(m, "storage"));
    printf("  tensors       %s\n", dtypes);
    printf("  layers        %lld of width %lld\n", NUMBER(m, "layers"), NUMBER(m, "width"));
    printf("  attention     %lld heads, %lld key/value heads of %lld\n", NUMBER(m, "heads"),
           NUMBER(m, "kv_heads"), NUMBER(m, "head_dim"));
    if (NUMBER(m, "window"))
        printf("  window        %lld tokens on sliding layers\n", NUMBER(m, "window"));
    printf("  MLP           %lld\n", NUMBER(m, "mlp_width"));
    printf("  vocabulary    %lld%s\n", NUMBER(m, "vocab"),
           json_is_true(json_object_get(m, "tied")) ? ", tied head" : "");
    printf("  hash          %s\n", TEXT(m, "hash"));
}

/* What evaluate --sae does with it. */
static const char *audits_of(const qsae_sae_info *s)
{
    if (s->encode_only)
        return "no: a layer of a cross-layer transcoder; the whole folder is measured";
    if (s->transcoder && strcmp(s->hook, s->hook_out) == 0)
        return "yes, with @LAYER:SITE:SITE_OUT: the files do not say where its output belongs";
    if (!*s->hook)
        return "yes, with @LAYER[:SITE]: the files name no hook";
    if (s->center_input)
        return "yes, of models processed with center_writing_weights";
    return s->transcoder ? "yes: it reconstructs the rows of its output hook" : "yes";
}

/* Layers that belong together, or NULL: the folder holds none. */
static json_t *layers_of(qsae_context *context, const char *path, int32_t *status)
{
    qsae_sae_layers *layers;
    qsae_sae_layers_info s = { .struct_size = sizeof s };
    json_t *out = NULL, *list = json_array();
    *status = qsae_sae_layers_open(context, path, NULL, &layers);
    if (*status == QSAE_OK && (*status = qsae_sae_layers_get_info(layers, &s)) == QSAE_OK)
        out = json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:O}", "kind", s.kind, "format",
                        s.format, "width", (json_int_t)s.width, "width_out",
                        (json_int_t)s.width_out, "features", (json_int_t)s.features, "model_name",
                        s.model_name, "hash", s.hash, "layers", list);
    for (int64_t i = 0; out && i < s.layers; i++) {
        int64_t layer;
        qsae_sae *sae;
        qsae_sae_info one = { .struct_size = sizeof one };
        if (qsae_sae_layers_get(layers, i, &layer, &sae) == QSAE_OK &&
            qsae_sae_get_info(sae, &one) == QSAE_OK)
            json_array_append_new(list, json_pack("{s:I, s:s, s:I, s:s, s:s}", "layer",
                                                  (json_int_t)layer, "architecture",
                                                  one.architecture, "features",
                                                  (json_int_t)one.features, "hook", one.hook,
                                                  "hook_out", one.hook_out));
    }
    qsae_sae_layers_close(&layers);
    json_decref(list);
    return out;
}

static void print_layers(const char *path, const json_t *s)
{
    size_t i;
    const json_t *l;
    printf("%s: %s of %zu layers, runs\n", path,
           !strcmp(TEXT(s, "kind"), "clt") ? "cross-layer transcoder" :
           !strcmp(TEXT(s, "kind"), "crosscoder") ? "crosscoder" : "set of transcoders",
           json_array_size(json_object_get(s, "layers")));
    printf("  format        %s\n", TEXT(s, "format"));
    printf("  width         %lld in, %lld features, %lld out\n", NUMBER(s, "width"),
           NUMBER(s, "features"), NUMBER(s, "width_out"));
    if (*TEXT(s, "model_name"))
        printf("  model         %s\n", TEXT(s, "model_name"));
    json_array_foreach(json_object_get(s, "layers"), i, l)
        printf("  layer %-7lld %s, %lld features, %s to %s\n", NUMBER(l, "layer"),
               TEXT(l, "architecture"), NUMBER(l, "features"),
               *TEXT(l, "hook") ? TEXT(l, "hook") : "(the files do not say)", TEXT(l, "hook_out"));
    const json_t *const first = json_array_get(json_object_get(s, "layers"), 0);
    printf("  audits        yes, all layers together%s\n", first && *TEXT(first, "hook") ? "" :
           ", with @0:SITE:SITE_OUT: the files name no hooks");
    printf("  hash          %s\n", TEXT(s, "hash"));
}

static json_t *sae_of(qsae_context *context, const char *path, int32_t *status)
{
    qsae_sae *sae;
    qsae_sae_info s = { .struct_size = sizeof s };
    json_t *out = NULL;
    *status = qsae_sae_open(context, path, NULL, &sae);
    if (*status != QSAE_OK)
        return NULL;
    if ((*status = qsae_sae_get_info(sae, &s)) == QSAE_OK)
        out = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:I, s:i, s:s}", "format",
                        s.format, "architecture", s.architecture, "k", (json_int_t)s.k, "width",
                        (json_int_t)s.width, "features", (json_int_t)s.features, "width_out",
                        (json_int_t)s.width_out, "hook", s.hook, "normalize", s.normalize,
                        "apply_b_dec", s.apply_b_dec, "context_size", (json_int_t)s.context_size,
                        "prepend_bos", (int)s.prepend_bos, "hash", s.hash);
    if (out)
        json_object_update_new(
            out, json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:b, s:b, s:b, s:b, s:i, s:s}",
                           "hook_out",
                           s.hook_out, "model_name", s.model_name, "neuronpedia_id",
                           s.neuronpedia_id, "min_threshold", (double)s.min_threshold, "scale",
                           s.scale, "norm_in", s.norm_in, "norm_out", s.norm_out, "skip", s.skip,
                           "center_input", s.center_input, "encode_only", s.encode_only,
                           "transcoder", s.transcoder, "head", (int)s.head, "audits",
                           audits_of(&s)));
    qsae_sae_close(&sae);
    return out;
}

static void print_sae(const char *path, const json_t *s)
{
    printf("%s: sparse autoencoder, %s\n", path, YES(s, "encode_only") ?
           "encodes (one layer of a cross-layer transcoder; with #5:7 it decodes what layer 5 "
           "writes to layer 7)" : "runs");
    printf("  format        %s\n", TEXT(s, "format"));
    printf("  architecture  %s", TEXT(s, "architecture"));
    if (NUMBER(s, "k"))
        printf(", k = %lld", NUMBER(s, "k"));
    if (strstr(TEXT(s, "architecture"), "jumprelu"))
        printf(", least threshold %g", json_number_value(json_object_get(s, "min_threshold")));
    printf("%s\n  width         %lld in, %lld features, %lld out\n",
           YES(s, "skip") ? ", skip connection" : "", NUMBER(s, "width"),
           NUMBER(s, "features"), NUMBER(s, "width_out"));
    if (*TEXT(s, "model_name"))
        printf("  model         %s\n", TEXT(s, "model_name"));
    printf("  hook          %s\n", *TEXT(s, "hook") ? TEXT(s, "hook") : "(the files do not say)");
    if (strcmp(TEXT(s, "hook"), TEXT(s, "hook_out")) != 0)
        printf("  output hook   %s\n", TEXT(s, "hook_out"));
    if (NUMBER(s, "head") >= 0)
        printf("  head          %lld: its columns of the hook\n", NUMBER(s, "head"));
    printf("  audits        %s\n", TEXT(s, "audits"));
    if (*TEXT(s, "neuronpedia_id"))
        printf("  neuronpedia   %s\n", TEXT(s, "neuronpedia_id"));
    printf("  input         normalize %s, b_dec %s%s\n", TEXT(s, "normalize"),
           YES(s, "apply_b_dec") ? "subtracted" : "not subtracted",
           YES(s, "center_input") ? ", mean of the row subtracted" : "");
    if (json_number_value(json_object_get(s, "scale")) != 0)
        printf("  scale         %g folded into the weights\n",
               json_number_value(json_object_get(s, "scale")));
    if (NUMBER(s, "context_size"))
        printf("  trained on    %lld tokens of context%s\n", NUMBER(s, "context_size"),
               NUMBER(s, "prepend_bos") == 1 ? ", BOS in front" : "");
    printf("  hash          %s\n", TEXT(s, "hash"));
}

/* NULL if there is none; {"error": message} if it does not run. */
static json_t *tokenizer_of(qsae_context *context, const char *path)
{
    qsae_tokenizer *tokenizer;
    qsae_tokenizer_info t = { .struct_size = sizeof t };
    json_t *out = NULL;
    const int32_t st = qsae_tokenizer_open(context, path, &tokenizer);
    if (st == QSAE_ENOENT)
        return NULL;
    if (st != QSAE_OK)
        return json_pack("{s:s}", "error", qsae_error_message());
    if (qsae_tokenizer_get_info(tokenizer, &t) == QSAE_OK)
        out = json_pack("{s:I, s:i, s:b, s:i}", "vocab", (json_int_t)t.vocab, "bos", (int)t.bos,
                        "adds_bos", t.adds_bos, "eos", (int)t.eos);
    qsae_tokenizer_close(&tokenizer);
    return out;
}

static void print_tokenizer(const json_t *t)
{
    if (TEXT(t, "error"))
        printf("  tokenizer     does not run: %s\n", TEXT(t, "error"));
    else if (t)
        printf("  tokenizer     %lld entries, BOS %lld%s, EOS %lld\n", NUMBER(t, "vocab"),
               NUMBER(t, "bos"), json_is_true(json_object_get(t, "adds_bos")) ? " (added)" : "",
               NUMBER(t, "eos"));
}

static void print_tensors(const json_t *tensors)
{
    size_t i, d;
    const json_t *t, *n;
    json_array_foreach(tensors, i, t) {
        printf("  %-8s [", TEXT(t, "dtype"));
        json_array_foreach(json_object_get(t, "shape"), d, n)
            printf("%s%lld", d ? ", " : "", (long long)json_integer_value(n));
        printf("] %s\n", TEXT(t, "name"));
    }
}

/* What was asked for. */
struct options {
    const char **conditions; /* [n_conditions] */
    int n_conditions;
    const char *other;
    int tensors, json;
};

/* Describes one path; prints it unless JSON is wanted. *runs: whether all of it went well. */
static json_t *inspect(qsae_context *context, const char *path, const struct options *o, int *runs)
{
    int32_t as_model, as_sae = QSAE_OK, as_layers = QSAE_OK;
    char why[1024], why_sae[1024];
    json_t *const out = json_pack("{s:s}", "path", path);
    json_t *const model = model_of(context, path, &as_model);
    snprintf(why, sizeof why, "%s", qsae_error_message());
    json_t *sae = model ? NULL : sae_of(context, path, &as_sae);
    snprintf(why_sae, sizeof why_sae, "%s", qsae_error_message());
    json_t *const layers =
        model || (sae && !YES(sae, "encode_only")) ? NULL : layers_of(context, path, &as_layers);
    if (layers) { /* the whole folder, rather than one of its layers */
        json_decref(sae);
        sae = NULL;
    }
    json_t *const tensors = tensor_list(context, path);
    json_t *const tokenizer = model ? tokenizer_of(context, path) : NULL;
    *runs = model || sae || layers;
    if (model && !o->json)
        print_model(path, model, tensors);
    if (sae && !o->json)
        print_sae(path, sae);
    if (layers && !o->json)
        print_layers(path, layers);
    if (!o->json)
        print_tokenizer(tokenizer);
    if (!*runs && !o->json)
        printf("%s: will not run\n  as a model    %s: %s\n  as an SAE     %s: %s\n", path,
               qsae_status_message(as_model), why, qsae_status_message(as_sae), why_sae);
    if (!*runs)
        json_object_update_new(out, json_pack("{s:s, s:s}", "model_error", why, "sae_error",
                                              why_sae));
    if (o->tensors && !o->json)
        print_tensors(tensors);
    json_object_update_new(out, json_pack("{s:o*, s:o*, s:o*, s:o*}", "model", model, "sae", sae,
                                          "sae_layers", layers, "tokenizer", tokenizer));
    if (o->tensors)
        json_object_set(out, "tensors", tensors);
    json_decref(tensors);
    for (int i = 0; i < o->n_conditions && json_object_get(out, "model"); i++) {
        json_t *reports = json_object_get(out, "errors"), *report = NULL;
        if (!reports)
            json_object_set_new(out, "errors", reports = json_array());
        *runs &= errors_report(context, path, o->other, o->conditions[i], !o->json, &report);
        json_array_append_new(reports, report);
    }
    return out;
}

/* The paths begin at argv[optind] then; other than 0: the exit status, plus 1. */
static int read_options(int argc, char **argv, struct options *o, qsae_context_settings *s)
{
    static const struct option options[] = {
        { "condition", required_argument, NULL, 'c' }, { "other", required_argument, NULL, 'o' },
        { "tensors", no_argument, NULL, 't' },         { "json", no_argument, NULL, 'j' },
        { "threads", required_argument, NULL, 'n' },   { "version", no_argument, NULL, 'v' },
        { "help", no_argument, NULL, 'h' },            { NULL, 0, NULL, 0 },
    };
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *end = NULL;
        switch (c) {
        case 'c':
            o->conditions[o->n_conditions++] = optarg;
            break;
        case 'o':
            o->other = optarg;
            break;
        case 't':
            o->tensors = 1;
            break;
        case 'j':
            o->json = 1;
            break;
        case 'n':
            s->threads = (int32_t)strtol(optarg, &end, 10);
            if (*end || s->threads < 1) {
                fprintf(stderr, "inspect: --threads %s: expected a number from 1\n", optarg);
                return 3;
            }
            break;
        case 'v':
            printf("%s\n", qsae_version());
            return 1;
        case 'h':
            fputs(usage, stdout);
            return 1;
        default:
            fputs(usage, stderr);
            return 3;
        }
    }
    if (o->other && !o->n_conditions)
        o->conditions[o->n_conditions++] = "none";
    if (optind < argc)
        return 0;
    fputs(usage, stderr);
    return 3;
}

int main(int argc, char **argv)
{
    const char **const conditions = calloc((size_t)argc + 1, sizeof *conditions);
    struct options o = { .conditions = conditions };
    qsae_context_settings s;
    qsae_context *context = NULL;
    int all = 1, status = 1;
    if (!conditions)
        return 1;
    qsae_context_settings_init(&s, sizeof s);
    const int stop = read_options(argc, argv, &o, &s);
    if (stop) {
        free(conditions);
        return stop - 1;
    }
    if (qsae_context_open(&s, &context) != QSAE_OK) {
        fprintf(stderr, "inspect: %s\n", qsae_error_message());
        free(conditions);
        return 1;
    }
    json_t *const files = json_array();
    for (int i = optind; i < argc; i++) {
        int runs = 0;
        json_array_append_new(files, inspect(context, argv[i], &o, &runs));
        all &= runs;
    }
    json_t *const document = json_pack("{s:s, s:i, s:s, s:o}", "format", "qsae-inspect", "version",
                                       1, "library", qsae_version(), "files", files);
    if (document && (!o.json || json_dumpf(document, stdout, JSON_INDENT(1)) == 0))
        status = all ? 0 : 1;
    if (o.json)
        putchar('\n');
    json_decref(document);
    qsae_context_close(&context);
    free(conditions);
    return status;
}
