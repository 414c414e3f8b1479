/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is in this model, SAE or tensor file, and will libqsae run it? What does a condition do to
 * its weights? See doc/inspect.md. Exit status 0 if everything named would run.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

#include "errors.h"
#include "layout.h"
#include "options.h"
#include "program.h"

enum { OPT_CONDITION = 1, OPT_OTHER, OPT_TENSORS, OPT_JSON, OPT_THREADS };

static const struct option_row rows[] = {
    { NULL, NULL, NULL, "options", 0 },
    { "model", "m", "MODEL", "the same as an operand", ARGUMENT_OPERAND },
    { "condition", NULL, "SPEC", "the error of each weight under this condition (repeatable)",
      OPT_CONDITION },
    { "other", NULL, "MODEL2",
      "the errors of another checkpoint of the model (under the condition)", OPT_OTHER },
    { "tensors", NULL, NULL, "list all tensors", OPT_TENSORS },
    { "json", NULL, NULL, "print one JSON document", OPT_JSON },
    { "threads", "t", "N", "1 to 1024 (default: the CPUs of the process)", OPT_THREADS },
};

static const char *const operands[] = {
    "PATH", "a model (folder or GGUF file), an SAE, a file of tensors", NULL
};

static const char *const examples[] = {
    "what is it, and does it run?",
    "gemma-3-1b-pt gemma-scope-2/layer_12",
    "how far is each matrix from the original in 4 bits?",
    "--condition nf4 gemma-3-1b-pt",
    "how far is a GGUF file?",
    "--other model-q4_k_m.gguf model",
    NULL
};

static const char *const statuses[] = {
    "0", "everything named would run",
    "1", "something would not; the reason is printed",
    "2", "wrong usage",
    NULL
};

static const struct program program = {
    .name = "inspect",
    .summary = "Says what a model, SAE or tensor file is, whether libqsae runs it, and what a "
               "condition does to its weights.",
    .synopsis = "[options] PATH...",
    .operands = operands,
    .options = rows,
    .n_options = sizeof rows / sizeof rows[0],
    .examples = examples,
    .statuses = statuses,
};

#define TEXT(object, key) json_string_value(json_object_get(object, key))
#define YES(object, key) json_is_true(json_object_get(object, key))
#define NUMBER(object, key) ((long long)json_integer_value(json_object_get(object, key)))

/* NULL where there are none, which of a model that runs is trouble. */
static json_t *tensor_list(qsae_context *context, const char *path, bool runs)
{
    qsae_tensors *tensors;
    const int32_t st = qsae_tensors_open(context, path, &tensors);
    program_trouble(st != QSAE_OK && runs ? QSAE_EIO : st);
    if (st != QSAE_OK)
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

/* "  KEY           value", wrapped beside the key. */
__attribute__((format(printf, 3, 4))) static void line(const struct page *p, const char *key,
                                                       const char *format, ...)
{
    char *text;
    size_t size;
    va_list list;
    FILE *const f = text_open(&text, &size);
    va_start(list, format);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vfprintf(f, format, list);
#pragma GCC diagnostic pop
    va_end(list);
    text_close(f, &text);
    say(p, 16, "  %-13s %s", key, text);
    free(text);
}

/* The model of a path, or NULL with its status and message. */
static json_t *model_of(qsae_context *context, const char *path, int32_t *status)
{
    qsae_weights *weights;
    qsae_model_info m = { .struct_size = sizeof m };
    json_t *model = NULL;
    *status = qsae_weights_open(context, path, &weights);
    program_trouble(*status);
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
    program_trouble(*status);
    qsae_weights_close(&weights);
    return model;
}

static void print_model(const struct page *p, const char *path, const json_t *m,
                        const json_t *tensors)
{
    char dtypes[400];
    dtype_counts(tensors, dtypes, sizeof dtypes);
    say(p, 2, "%s: language model, runs", path);
    line(p, "type", "%s", TEXT(m, "type"));
    line(p, "parameters", "%lld (%s)", NUMBER(m, "parameters"), TEXT(m, "dtype"));
    if (*TEXT(m, "storage"))
        line(p, "storage", "%s", TEXT(m, "storage"));
    line(p, "tensors", "%s", dtypes);
    line(p, "layers", "%lld of width %lld", NUMBER(m, "layers"), NUMBER(m, "width"));
    line(p, "attention", "%lld heads, %lld key/value heads of %lld", NUMBER(m, "heads"),
         NUMBER(m, "kv_heads"), NUMBER(m, "head_dim"));
    if (NUMBER(m, "window"))
        line(p, "window", "%lld tokens on sliding layers", NUMBER(m, "window"));
    line(p, "MLP", "%lld", NUMBER(m, "mlp_width"));
    line(p, "vocabulary", "%lld%s", NUMBER(m, "vocab"),
         json_is_true(json_object_get(m, "tied")) ? ", tied head" : "");
    line(p, "hash", "%s", TEXT(m, "hash"));
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
    program_trouble(*status);
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

static void print_layers(const struct page *p, const char *path, const json_t *s)
{
    char key[32];
    size_t i;
    const json_t *l;
    say(p, 2, "%s: %s of %zu layers, runs", path,
        !strcmp(TEXT(s, "kind"), "clt") ? "cross-layer transcoder" :
        !strcmp(TEXT(s, "kind"), "crosscoder") ? "crosscoder" : "set of transcoders",
        json_array_size(json_object_get(s, "layers")));
    line(p, "format", "%s", TEXT(s, "format"));
    line(p, "width", "%lld in, %lld features, %lld out", NUMBER(s, "width"),
         NUMBER(s, "features"), NUMBER(s, "width_out"));
    if (*TEXT(s, "model_name"))
        line(p, "model", "%s", TEXT(s, "model_name"));
    json_array_foreach(json_object_get(s, "layers"), i, l) {
        snprintf(key, sizeof key, "layer %lld", NUMBER(l, "layer"));
        line(p, key, "%s, %lld features, %s to %s", TEXT(l, "architecture"), NUMBER(l, "features"),
             *TEXT(l, "hook") ? TEXT(l, "hook") : "(the files do not say)", TEXT(l, "hook_out"));
    }
    const json_t *const first = json_array_get(json_object_get(s, "layers"), 0);
    line(p, "audits", "yes, all layers together%s", first && *TEXT(first, "hook") ? "" :
         ", with @0:SITE:SITE_OUT: the files name no hooks");
    line(p, "hash", "%s", TEXT(s, "hash"));
}

static json_t *sae_of(qsae_context *context, const char *path, int32_t *status)
{
    qsae_sae *sae;
    qsae_sae_info s = { .struct_size = sizeof s };
    json_t *out = NULL;
    *status = qsae_sae_open(context, path, NULL, &sae);
    program_trouble(*status);
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

static void print_code(const struct page *p, const json_t *s)
{
    char k[48] = "", threshold[64] = "";
    if (NUMBER(s, "k"))
        snprintf(k, sizeof k, ", k = %lld", NUMBER(s, "k"));
    if (strstr(TEXT(s, "architecture"), "jumprelu"))
        snprintf(threshold, sizeof threshold, ", least threshold %g",
                 json_number_value(json_object_get(s, "min_threshold")));
    line(p, "architecture", "%s%s%s%s", TEXT(s, "architecture"), k, threshold,
         YES(s, "skip") ? ", skip connection" : "");
    line(p, "width", "%lld in, %lld features, %lld out", NUMBER(s, "width"),
         NUMBER(s, "features"), NUMBER(s, "width_out"));
}

static void print_sae(const struct page *p, const char *path, const json_t *s)
{
    say(p, 2, "%s: sparse autoencoder, %s", path, YES(s, "encode_only") ?
        "encodes (one layer of a cross-layer transcoder; with #5:7 it decodes what layer 5 "
        "writes to layer 7)" : "runs");
    line(p, "format", "%s", TEXT(s, "format"));
    print_code(p, s);
    if (*TEXT(s, "model_name"))
        line(p, "model", "%s", TEXT(s, "model_name"));
    line(p, "hook", "%s", *TEXT(s, "hook") ? TEXT(s, "hook") : "(the files do not say)");
    if (strcmp(TEXT(s, "hook"), TEXT(s, "hook_out")) != 0)
        line(p, "output hook", "%s", TEXT(s, "hook_out"));
    if (NUMBER(s, "head") >= 0)
        line(p, "head", "%lld: its columns of the hook", NUMBER(s, "head"));
    line(p, "audits", "%s", TEXT(s, "audits"));
    if (*TEXT(s, "neuronpedia_id"))
        line(p, "neuronpedia", "%s", TEXT(s, "neuronpedia_id"));
    line(p, "input", "normalize %s, b_dec %s%s", TEXT(s, "normalize"),
         YES(s, "apply_b_dec") ? "subtracted" : "not subtracted",
         YES(s, "center_input") ? ", mean of the row subtracted" : "");
    if (json_number_value(json_object_get(s, "scale")) != 0)
        line(p, "scale", "%g folded into the weights",
             json_number_value(json_object_get(s, "scale")));
    if (NUMBER(s, "context_size"))
        line(p, "trained on", "%lld tokens of context%s", NUMBER(s, "context_size"),
             NUMBER(s, "prepend_bos") == 1 ? ", BOS in front" : "");
    line(p, "hash", "%s", TEXT(s, "hash"));
}

/* NULL if there is none; {"error": message} if it does not run. */
static json_t *tokenizer_of(qsae_context *context, const char *path)
{
    qsae_tokenizer *tokenizer;
    qsae_tokenizer_info t = { .struct_size = sizeof t };
    json_t *out = NULL;
    const int32_t st = qsae_tokenizer_open(context, path, &tokenizer);
    program_trouble(st);
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

static void print_tokenizer(const struct page *p, const json_t *t)
{
    if (TEXT(t, "error"))
        line(p, "tokenizer", "does not run: %s", TEXT(t, "error"));
    else if (t)
        line(p, "tokenizer", "%lld entries, BOS %lld%s, EOS %lld", NUMBER(t, "vocab"),
             NUMBER(t, "bos"), json_is_true(json_object_get(t, "adds_bos")) ? " (added)" : "",
             NUMBER(t, "eos"));
}

static void print_tensors(const struct page *p, const json_t *tensors)
{
    size_t i, d;
    const json_t *t, *n;
    json_array_foreach(tensors, i, t) {
        char shape[256] = "";
        json_array_foreach(json_object_get(t, "shape"), d, n)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%lld", d ? ", " : "",
                     (long long)json_integer_value(n));
        say(p, 11, "  %-8s [%s] %s", TEXT(t, "dtype"), shape, TEXT(t, "name"));
    }
}

/* What was asked for. */
struct options {
    const char **conditions; /* [n_conditions] */
    int n_conditions;
    const char *other;
    const char **paths; /* [n_paths] */
    int n_paths;
    int tensors, json;
};

/* Describes one path; prints it unless JSON is wanted. *runs: whether all of it went well. */
static json_t *inspect(qsae_context *context, const char *path, const struct options *o, int *runs)
{
    int32_t as_model, as_sae = QSAE_OK, as_layers = QSAE_OK;
    char why[1024], why_sae[1024];
    const struct page page = page_of(stdout, false);
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
    json_t *const tensors = tensor_list(context, path, model != NULL);
    json_t *const tokenizer = model ? tokenizer_of(context, path) : NULL;
    *runs = model || sae || layers;
    if (model && !o->json)
        print_model(&page, path, model, tensors);
    if (sae && !o->json)
        print_sae(&page, path, sae);
    if (layers && !o->json)
        print_layers(&page, path, layers);
    if (!o->json)
        print_tokenizer(&page, tokenizer);
    if (!*runs && !o->json) {
        say(&page, 2, "%s: will not run", path);
        line(&page, "as a model", "%s: %s", qsae_status_message(as_model), why);
        line(&page, "as an SAE", "%s: %s", qsae_status_message(as_sae), why_sae);
    }
    if (!*runs)
        json_object_update_new(out, json_pack("{s:s, s:s}", "model_error", why, "sae_error",
                                              why_sae));
    if (o->tensors && !o->json)
        print_tensors(&page, tensors);
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

static void read_options(int argc, char **argv, struct options *o, qsae_context_settings *s)
{
    struct arguments arguments = arguments_begin(&program, argc, argv);
    const char *value;
    int c;
    while ((c = arguments_next(&arguments, &value)) != ARGUMENT_END)
        switch (c) {
        case OPT_CONDITION: o->conditions[o->n_conditions++] = value; break;
        case OPT_OTHER: o->other = value; break;
        case OPT_TENSORS: o->tensors = 1; break;
        case OPT_JSON: o->json = 1; break;
        case OPT_THREADS: s->threads = option_threads(value); break;
        default: o->paths[o->n_paths++] = value; break;
        }
    if (o->other && !o->n_conditions)
        o->conditions[o->n_conditions++] = "none";
    if (o->n_paths == 0)
        usage_error("expected a PATH");
}

/* An exit status. */
static int inspect_all(qsae_context *context, const struct options *o)
{
    int all = 1, bad = 0;
    json_t *const files = json_array();
    for (int i = 0; i < o->n_paths; i++) {
        int runs = 0;
        json_array_append_new(files, inspect(context, o->paths[i], o, &runs));
        all &= runs;
    }
    json_t *const document = json_pack("{s:s, s:i, s:s, s:o}", "format", "qsae-inspect", "version",
                                       1, "library", qsae_version(), "files", files);
    if (o->json) {
        bad = !document || json_dumpf(document, stdout, JSON_INDENT(1)) != 0;
        putchar('\n');
    }
    json_decref(document);
    return all && !bad ? EXIT_DONE : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    struct options o = { .n_paths = 0 };
    qsae_context_settings s;
    qsae_context *context = NULL;
    int code = EXIT_FAILED;
    o.conditions = calloc((size_t)argc + 1, sizeof *o.conditions);
    o.paths = calloc((size_t)argc + 1, sizeof *o.paths);
    if (o.conditions && o.paths) {
        qsae_context_settings_init(&s, sizeof s);
        read_options(argc, argv, &o, &s);
        s.log = program_log;
        json_needs_memory(true);
        if (qsae_context_open(&s, &context) == QSAE_OK)
            code = inspect_all(context, &o);
        else
            complain("%s", qsae_error_message());
    } else {
        complain("out of memory");
    }
    qsae_context_close(&context);
    free(o.conditions);
    free(o.paths);
    return program_end(code);
}
