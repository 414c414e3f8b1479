/* SPDX-License-Identifier: BSD-2-Clause */
/* Folders of SAEs made from text, for tests that change one thing at a time. */
#include "layout.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../memory.h"
#include "../merge.h"
#include "sae/parts.h"

#define MOST 24

/* Tensors of a file while it is made: names and values are freed. */
struct made {
    qsae__tensor t[MOST];
    int64_t n;
};

static int32_t dtype_of(const char *name)
{
    for (int32_t d = 1; d < 64; d++)
        if (qsae_dtype_name(d) && strcmp(qsae_dtype_name(d), name) == 0)
            return d;
    fail_msg("no dtype %s", name);
    return 0;
}

static void put(void *data, int32_t dtype, int64_t i, double v)
{
    const float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    switch (dtype) {
    case QSAE_F32: ((float *)data)[i] = f; break;
    case QSAE_F64: ((double *)data)[i] = v; break;
    case QSAE_I32: ((int32_t *)data)[i] = (int32_t)v; break;
    case QSAE_I64: ((int64_t *)data)[i] = (int64_t)v; break;
    case QSAE_BF16: ((uint16_t *)data)[i] = (uint16_t)(bits >> 16); break;
    default: break; /* zeros */
    }
}

static void drop(struct made *m, const char *name)
{
    for (int64_t i = 0; i < m->n; i++)
        if (strcmp(m->t[i].name, name) == 0) {
            free((void *)(uintptr_t)m->t[i].name);
            free((void *)(uintptr_t)m->t[i].data);
            m->t[i] = m->t[--m->n];
            return;
        }
}

/* One "NAME=DTYPE[2,3]:VALUE" or "-NAME". */
static void apply(struct made *m, const char *word)
{
    char name[128], dtype[16];
    const char *const equals = strchr(word, '=');
    if (word[0] == '-') {
        const int64_t before = m->n;
        drop(m, word + 1);
        assert_int_equal(m->n, before - 1);
        return;
    }
    assert_non_null(equals);
    assert_in_range(m->n, 0, MOST - 1);
    snprintf(name, sizeof name, "%.*s", (int)(equals - word), word);
    drop(m, name);
    const char *p = strchr(equals, '[');
    assert_non_null(p);
    snprintf(dtype, sizeof dtype, "%.*s", (int)(p - equals - 1), equals + 1);
    qsae__tensor t = { .name = strdup(name), .dtype = dtype_of(dtype) };
    int64_t n = 1;
    for (p++; *p != ']'; p += *p == ',') {
        char *end;
        t.shape[t.rank] = strtoll(p, &end, 10);
        n *= t.shape[t.rank++];
        p = end;
    }
    t.bytes = (uint64_t)n * (uint64_t)qsae_dtype_bits(t.dtype) / 8;
    void *const data = calloc((size_t)n + 1, 8);
    uint32_t seed = 17;
    for (const char *q = name; *q; q++)
        seed = seed * 31 + (unsigned char)*q;
    for (int64_t i = 0; i < n; i++)
        put(data, t.dtype, i, p[1] == ':' ? strtod(p + 2, NULL) : (double)next_float(&seed) / 2);
    t.data = data;
    m->t[m->n++] = t;
}

static void apply_all(struct made *m, const char *words)
{
    char *const copy = strdup(words ? words : ""), *rest = NULL;
    for (char *w = strtok_r(copy, " ", &rest); w; w = strtok_r(NULL, " ", &rest))
        apply(m, w);
    free(copy);
}

static void write_tensors(qsae_context *ctx, const char *path, const char *base,
                          const char *change)
{
    struct made m = { .n = 0 };
    apply_all(&m, base);
    apply_all(&m, change);
    assert_ok(qsae__safetensors_write(ctx, path, m.t, m.n));
    while (m.n > 0)
        drop(&m, m.t[0].name);
}

static void write_text(const char *path, const char *base, const char *change)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    if (change && change[0] == '{') {
        json_t *const to = merged_json(base, change);
        assert_int_equal(json_dumpf(to, f, 0), 0);
        json_decref(to);
    } else {
        fputs(!change ? base : change[0] == '=' ? change + 1 : change, f);
    }
    assert_int_equal(fclose(f), 0);
}

/* Makes the folders of a path, but for its last part. */
static void make_folders(const char *path)
{
    char copy[700];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *p = copy + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(copy, 0700);
            *p = '/';
        }
}

/* The files of a change; path: what is opened. */
static void make(qsae_context *ctx, const struct change *c, char path[512])
{
    const struct layout *const l = c->layout;
    char file[700];
    snprintf(path, 512, "%s", test_path(l->folder));
    snprintf(file, sizeof file, "%s/%s", path, l->params);
    make_folders(file);
    write_tensors(ctx, file, l->tensors, c->tensors);
    if (l->more) {
        snprintf(file, sizeof file, "%s/%s", path, l->more);
        write_tensors(ctx, file, l->more_tensors, NULL);
    }
    if (l->config) {
        snprintf(file, sizeof file, "%s/%s", path, l->config);
        write_text(file, l->text, c->text);
    }
    if (l->beside) {
        snprintf(file, sizeof file, "%s/%s", path, l->beside);
        write_text(file, l->beside_text, NULL);
    }
    if (l->open)
        snprintf(path, 512, "%s/%s", test_path(l->folder), l->open);
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *at)
{
    (void)s;
    (void)type;
    return at->level > 0 ? remove(path) : 0;
}

static void clear(void)
{
    assert_int_equal(nftw(test_folder, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void settings_of(const struct change *c, qsae_sae_settings *s)
{
    qsae_sae_settings_init(s, sizeof *s);
    s->layer = c->layer;
    s->activation = c->activation;
    s->scale = c->scale;
}

/* A member of what was read, by name. */
static json_t *member(const qsae_sae *sae, const char *name)
{
    qsae_sae_info i = { .struct_size = sizeof i };
    assert_ok(qsae_sae_get_info(sae, &i));
    const struct {
        const char *name, *text;
        double number;
    } all[] = {
        { "architecture", i.architecture, 0 }, { "format", i.format, 0 }, { "hook", i.hook, 0 },
        { "hook_out", i.hook_out, 0 }, { "normalize", i.normalize, 0 },
        { "model", i.model_name, 0 }, { "neuronpedia", i.neuronpedia_id, 0 },
        { "width", NULL, (double)i.width }, { "width_out", NULL, (double)i.width_out },
        { "features", NULL, (double)i.features }, { "k", NULL, (double)i.k },
        { "context_size", NULL, (double)i.context_size },
        { "min_threshold", NULL, (double)i.min_threshold },
        { "prepend_bos", NULL, i.prepend_bos }, { "apply_b_dec", NULL, i.apply_b_dec },
        { "skip", NULL, i.skip }, { "widths", NULL, (double)i.n_widths },
        { "center_input", NULL, i.center_input }, { "encode_only", NULL, i.encode_only },
        { "scale", NULL, i.scale }, { "norm_in", NULL, i.norm_in },
        { "norm_out", NULL, i.norm_out }, { "transcoder", NULL, i.transcoder },
        { "head", NULL, i.head }, { "last_width", NULL, i.n_widths ?
          (double)i.widths[i.n_widths - 1] : 0 },
        { "scale_out", NULL, sae->config.scale_out },
        { "b_dec0", NULL, (double)sae->b_dec[0] },
        { "b_enc0", NULL, sae->b_enc ? (double)sae->b_enc[0] : 0 },
        { "rescale_by_norm", NULL, sae->config.rescale_by_norm },
        { "scaled", NULL, sae->scale != NULL },
        { "keeps_negative", NULL, sae->config.keeps_negative },
        { "max_iterations", NULL, (double)sae->config.max_iterations },
        { "residual_threshold", NULL, sae->config.residual_threshold },
        { "stop_on_repeat", NULL, sae->config.stop_on_repeat },
    };
    for (size_t n = 0; n < sizeof all / sizeof all[0]; n++)
        if (strcmp(all[n].name, name) == 0)
            return all[n].text ? json_string(all[n].text) : json_real(all[n].number);
    fail_msg("no member %s", name);
    return NULL;
}

static void check_values(const qsae_sae *sae, const struct change *c)
{
    json_t *const want = json_loads(c->part, 0, NULL), *v;
    const char *key;
    if (!want)
        fail_msg("no JSON: %s", c->part);
    json_object_foreach(want, key, v) {
        json_t *const have = member(sae, key);
        const double w = json_number_value(v);
        const bool same = json_is_string(v) ? json_equal(v, have)
                                            : fabs(json_real_value(have) - w) <= 1e-6 * fabs(w);
        char *const text = json_dumps(have, JSON_ENCODE_ANY);
        if (!same)
            fail_msg("%s, %s %s: %s: expected the value of %s, found %s", c->layout->folder,
                     c->text ? c->text : "", c->tensors ? c->tensors : "", key, c->part, text);
        free(text);
        json_decref(have);
    }
    json_decref(want);
}

void check_change(qsae_context *ctx, const struct change *c)
{
    char path[512];
    qsae_sae *sae = NULL;
    qsae_sae_settings s;
    make(ctx, c, path);
    settings_of(c, &s);
    const int32_t st = qsae_sae_open(ctx, path, &s, &sae);
    const char *const message = st == QSAE_OK ? "" : qsae_error_message();
    if (st != c->status)
        fail_msg("%s, %s %s: expected %s, found %s (%s)", path, c->text ? c->text : "",
                 c->tensors ? c->tensors : "", qsae_status_name(c->status), qsae_status_name(st),
                 message);
    if (st == QSAE_OK) {
        check_values(sae, c);
    } else {
        assert_null(sae);
        if (!strstr(message, c->part) || !strstr(message, test_path(c->layout->folder)))
            fail_msg("%s, %s %s: message \"%s\" lacks \"%s\" or the path", path,
                     c->text ? c->text : "", c->tensors ? c->tensors : "", message, c->part);
    }
    qsae_sae_close(&sae);
    clear();
}

void check_relative(qsae_context *ctx, const struct change *c)
{
    char path[512], before[512];
    qsae_sae *sae = NULL;
    make(ctx, c, path);
    char *const name = strrchr(path, '/');
    *name = 0;
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(path), 0);
    const int32_t st = qsae_sae_open(ctx, name + 1, NULL, &sae);
    assert_int_equal(chdir(before), 0);
    assert_ok(st);
    check_values(sae, c);
    qsae_sae_close(&sae);
    clear();
}

struct opened {
    const struct change *change;
    const char *path;
};

static int32_t open_once(qsae_context *ctx, const void *what)
{
    const struct opened *const o = what;
    qsae_sae_settings s;
    qsae_sae *sae = NULL;
    settings_of(o->change, &s);
    const int32_t st = qsae_sae_open(ctx, o->path, &s, &sae);
    assert_int_equal(sae != NULL, st == QSAE_OK);
    qsae_sae_close(&sae);
    return st;
}

void check_memory(const struct change *c)
{
    char path[512];
    const struct opened o = { c, path };
    qsae_context *ctx = open_context("c", 1);
    make(ctx, c, path);
    qsae_context_close(&ctx);
    check_every_allocation(open_once, &o, 10);
    clear();
}
