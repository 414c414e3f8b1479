/* SPDX-License-Identifier: BSD-2-Clause */
#include "text/tokenizer.h"

#include <string.h>

#include "formats/members.h"

/* Tables may take what the file has bytes for: a node of a Unigram model costs 9 bytes. Real files
 * stay far below. */
#define UNIGRAM_NODES(bytes) ((bytes) / 3 + 49152)

int32_t qsae__token_id(const qsae_tokenizer *t, const char *content)
{
    for (int64_t i = 0; i < t->n_added; i++)
        if (strcmp(t->contents[i], content) == 0)
            return t->added[i].id;
    return qsae__vocab_find(&t->model.vocab, content, strlen(content));
}

/* One entry of added_tokens; its content is put at *text. */
static int32_t read_added(qsae_tokenizer *t, const json_t *json, const char *where, int64_t limit,
                          char **text, const char *end)
{
    qsae__added *a = &t->added[t->n_added];
    const char *content = NULL;
    int64_t id = 0;
    int32_t known, status = qsae__json_i64(json, where, "id", true, 0, limit - 1, &id, NULL);

    memset(a, 0, sizeof *a);
    a->normalized = true; /* defaults of the crate */
    if (status == QSAE_OK)
        status = qsae__json_str(json, where, "content", true, &content, NULL);
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "special", false, &a->special, NULL);
    a->normalized = !a->special;
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "normalized", false, &a->normalized, NULL);
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "single_word", false, &a->single_word, NULL);
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "lstrip", false, &a->lstrip, NULL);
    if (status == QSAE_OK)
        status = qsae__json_bool(json, where, "rstrip", false, &a->rstrip, NULL);
    if (status != QSAE_OK)
        return status;
    a->id = (int32_t)id;
    known = qsae__vocab_find(&t->model.vocab, content, strlen(content));
    if (known >= 0 && known != a->id)
        return qsae__fail(QSAE_EFORMAT, "%s: \"%s\" has id %d, in the vocabulary %d", where,
                          content, a->id, known);
    if (known < 0 && id < t->model.vocab.count && t->model.vocab.sizes[id] != UINT32_MAX)
        return qsae__fail(QSAE_EFORMAT, "%s: \"%s\" takes id %d of another token", where, content,
                          a->id);
    const size_t size = strlen(content) + 1;
    if (size > (size_t)(end - *text))
        return qsae__fail(QSAE_EIO, "%s: file changed while it was read", where);
    t->contents[t->n_added++] = memcpy(*text, content, size);
    *text += size;
    t->vocab = qsae__max_i64(t->vocab, id + 1);
    return QSAE_OK;
}

/* Fills the matchers; contents of tokens with normalized = true are normalized like text. */
static int32_t add_to_matchers(qsae_tokenizer *t, bool special)
{
    qsae__strbuf buffers[2];
    int32_t status = QSAE_OK;

    qsae__strbuf_init(&buffers[0], t->ctx);
    qsae__strbuf_init(&buffers[1], t->ctx);
    for (int64_t i = 0; i < t->n_added && status == QSAE_OK; i++) {
        const qsae__added *a = &t->added[i];
        const char *text = t->contents[i];
        size_t size = strlen(text);
        if (a->special != special || size == 0)
            continue;
        if (a->normalized)
            status = qsae__normalize(&t->normalizer, t->contents[i], size, buffers, &text, &size,
                                     NULL);
        if (status == QSAE_OK)
            status = qsae__matcher_add(a->normalized ? &t->normalized : &t->raw, text, size, a);
    }
    qsae__strbuf_free(&buffers[0]);
    qsae__strbuf_free(&buffers[1]);
    return status;
}

static int32_t mark_known(qsae_tokenizer *t)
{
    t->known = qsae__calloc(t->ctx, t->vocab, 1);
    if (t->known == NULL)
        return QSAE_ENOMEM;
    for (int64_t id = 0; id < t->model.n_tokens; id++)
        t->known[id] = t->model.vocab.sizes[id] != UINT32_MAX;
    for (int64_t i = 0; i < t->n_added; i++) {
        uint8_t *known = &t->known[t->added[i].id];
        *known = t->added[i].special || *known == 2 ? 2 : 1;
    }
    return QSAE_OK;
}

int32_t qsae__added_ready(qsae_tokenizer *t)
{
    int32_t status = add_to_matchers(t, true); /* of equal strings the special one counts */

    if (status == QSAE_OK)
        status = add_to_matchers(t, false);
    return status == QSAE_OK ? mark_known(t) : status;
}

/* Elements of added_tokens, each of which is parsed and forgotten. */
static int32_t add_elements(qsae_tokenizer *t, const qsae__tokenizer_source *source, int64_t n)
{
    qsae__members list;
    qsae__member e;
    bool more = true;
    char *text = t->contents_text;
    int32_t status = qsae__elements_open(&list, source->added.text, source->added.size,
                                         source->path);

    for (int64_t i = 0; status == QSAE_OK; i++) {
        json_t *entry = NULL;
        status = qsae__members_next(&list, &e, &more);
        if (status != QSAE_OK || !more)
            return status;
        if (i == n)
            return qsae__fail(QSAE_EIO, "%s: file changed while it was read", source->path);
        status = qsae__json_parse(e.value, e.value_size, "added_tokens", &entry);
        if (status == QSAE_OK)
            status = read_added(t, entry, "added_tokens", QSAE__ID_MOST(source->bytes), &text,
                                t->contents_text + source->added.size);
        json_decref(entry);
        if (status != QSAE_OK)
            return qsae__fail_in(status, "%s: entry %lld", source->path, (long long)i);
    }
    return status;
}

static int32_t read_added_tokens(qsae_tokenizer *t, const qsae__tokenizer_source *source)
{
    const char *const list = source->added.text;
    size_t names;
    int64_t n = 0;
    int32_t status = QSAE_OK;

    t->vocab = t->model.vocab.count;
    t->raw.most = t->normalized.most = QSAE__ADDED_NODES(source->bytes);
    if (list != NULL && *list != 'n') {
        status = qsae__cut_expect(&source->added, source->path, '[');
        if (status == QSAE_OK)
            status = qsae__json_count(list, source->added.size, source->path, &n, &names);
    }
    if (status != QSAE_OK)
        return status;
    t->added = qsae__calloc(t->ctx, n, sizeof *t->added);
    t->contents = qsae__calloc(t->ctx, n, sizeof *t->contents);
    t->contents_text = qsae__alloc(t->ctx, n > 0 ? source->added.size : 0);
    if (t->added == NULL || t->contents == NULL || t->contents_text == NULL)
        return QSAE_ENOMEM;
    if (n > 0)
        status = add_elements(t, source, n);
    return status == QSAE_OK ? qsae__added_ready(t) : status;
}

/* Files without a type are older than it; a list of tokens with scores is Unigram's. */
static int32_t read_model(qsae_tokenizer *t, const json_t *model,
                          const qsae__tokenizer_source *source)
{
    const qsae__cut *const vocab = &source->model.vocab;
    const char *type = vocab->text != NULL && *vocab->text == '[' ? "Unigram" : "BPE";
    const int32_t status = qsae__json_str(model, "model", "type", false, &type, NULL);

    if (status != QSAE_OK)
        return status;
    if (strcmp(type, "Unigram") == 0)
        return qsae__unigram_read(&t->unigram, &t->model, t->ctx, model, vocab, "model",
                                  UNIGRAM_NODES(source->bytes));
    return qsae__bpe_read(&t->model, t->ctx, model, &source->model, "model",
                          QSAE__ID_MOST(source->bytes));
}

/* Metaspace's "first" asks which pieces start where the text does. Where the first character of
 * the text has become several and these are cut apart there is more than one (or another one, if it
 * was white space that is cut off); no such file is in use. */
static int32_t check_first(const qsae_tokenizer *t)
{
    bool several = false, spaces = false, apart = false;

    for (int64_t i = 0; i < t->normalizer.count; i++) {
        several |= qsae__norm_expands(&t->normalizer.steps[i]);
        spaces |= qsae__norm_spaces(&t->normalizer.steps[i]);
    }
    for (int64_t i = 0; i < t->pretokenizer.count; i++) {
        const qsae__pre_step *const s = &t->pretokenizer.steps[i];
        if (s->kind == QSAE__PRE_METASPACE && s->prepend == QSAE__PREPEND_FIRST && several && apart)
            return qsae__fail(QSAE_EUNSUPPORTED, "pre_tokenizer: Metaspace: prepend_scheme "
                              "\"first\" behind steps that prepend and cut is not supported");
        several |= s->kind == QSAE__PRE_METASPACE || s->kind == QSAE__PRE_BYTES;
        apart |= s->kind != QSAE__PRE_SPACES || spaces;
    }
    return QSAE_OK;
}

int32_t qsae__tokenizer_read_root(qsae_tokenizer *t, const qsae__tokenizer_source *source)
{
    const json_t *const root = source->root, *model = NULL;
    const char *const path = source->path;
    int32_t status;

    status = qsae__json_get(root, path, "model", true, JSON_OBJECT, &model);
    if (status != QSAE_OK)
        return status;
    status = qsae__normalizer_read(&t->normalizer, json_object_get(root, "normalizer"),
                                   "normalizer");
    if (status == QSAE_OK)
        status = qsae__pretokenizer_read(&t->pretokenizer, json_object_get(root, "pre_tokenizer"),
                                         "pre_tokenizer");
    if (status == QSAE_OK)
        status = check_first(t);
    if (status == QSAE_OK)
        status = read_model(t, model, source);
    if (status != QSAE_OK)
        return qsae__fail_in(status, "%s", path);
    status = read_added_tokens(t, source);
    if (status != QSAE_OK)
        return status;
    status = qsae__template_read(t, json_object_get(root, "post_processor"), "post_processor");
    if (status != QSAE_OK)
        return qsae__fail_in(status, "%s", path);
    return qsae__views_build(t, json_object_get(root, "decoder"));
}

static int32_t read_json(qsae_tokenizer *t, const char *path)
{
    qsae__cut cuts[] = { { .outer = "model", .inner = "vocab" },
                         { .outer = "model", .inner = "merges" }, { .outer = "added_tokens" } };
    qsae__file *file = NULL;
    json_t *root = NULL;
    int32_t status = qsae__file_open(t->ctx, path, &file);

    if (status != QSAE_OK)
        return status;
    if (file->size > INT32_MAX) {
        status = qsae__fail(QSAE_EOVERFLOW, "%s: larger than 2 GiB", path);
        goto fail;
    }
    qsae__hash(file->data, (size_t)file->size, t->hash);
    status = qsae__json_parse_cut((const char *)file->data, (size_t)file->size, path, 0, cuts, 3,
                                  &root);
    if (status == QSAE_OK)
        status = qsae__tokenizer_read_root(t, &(qsae__tokenizer_source){
            .path = path, .root = root, .model = { .vocab = cuts[0], .merges = cuts[1] },
            .added = cuts[2], .bytes = (int64_t)file->size });
fail:
    json_decref(root);
    qsae__file_close(&file);
    return status;
}

static int32_t read_gguf(qsae_tokenizer *t, const char *path)
{
    qsae__tensors *set = NULL;
    int32_t status = qsae__tensors_load(t->ctx, path, &set);

    if (status == QSAE_OK && qsae__tensors_gguf(set) == NULL)
        status = qsae__fail(QSAE_ENOENT, "%s: neither tokenizer.json nor a GGUF file as the model",
                            path);
    if (status == QSAE_OK)
        status = qsae__tokenizer_read_gguf(t, qsae__tensors_gguf(set));
    qsae__tensors_unref(&set);
    return status;
}

/* A folder with vocab.json and merges.txt, but no tokenizer.json. */
static int32_t find_parts(qsae_context *ctx, const char *path, const char *json, bool *found)
{
    char *vocab = NULL, *merges = NULL;
    int32_t status = QSAE_OK;

    *found = false;
    if (!qsae__folder_exists(path) || qsae__file_exists(json))
        return QSAE_OK;
    vocab = qsae__path_join(ctx, path, "vocab.json");
    merges = qsae__path_join(ctx, path, "merges.txt");
    if (vocab == NULL || merges == NULL)
        status = QSAE_ENOMEM;
    else
        *found = qsae__file_exists(vocab) && qsae__file_exists(merges);
    qsae__free(ctx, vocab);
    qsae__free(ctx, merges);
    return status;
}

/* *found: path is a GGUF file, or a folder with one and no tokenizer.json. */
static int32_t find_gguf(qsae_context *ctx, const char *path, const char *json, bool *found)
{
    qsae__file *file = NULL;
    char **names = NULL;
    int64_t n = 0;
    int32_t status;

    *found = false;
    if (!qsae__folder_exists(path)) {
        status = qsae__file_open(ctx, path, &file);
        if (status == QSAE_OK)
            *found = file->size >= 4 && memcmp(file->data, "GGUF", 4) == 0;
        qsae__file_close(&file);
        return status;
    }
    if (qsae__file_exists(json))
        return QSAE_OK;
    status = qsae__folder_list(ctx, path, &names, &n);
    for (int64_t i = 0; i < n && status == QSAE_OK; i++) {
        const size_t size = strlen(names[i]);
        *found |= size > 5 && strcmp(names[i] + size - 5, ".gguf") == 0;
    }
    qsae__folder_list_free(ctx, names, n);
    return status;
}

/* bos_token and the like: a string or {"content": string}; null or missing leaves *id. */
static int32_t read_special(const qsae_tokenizer *t, const json_t *config, const char *path,
                            const char *key, int32_t *id)
{
    const json_t *v = json_object_get(config, key);
    const char *content = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);

    if (v == NULL || json_is_null(v))
        return QSAE_OK;
    if (content == NULL)
        return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": expected string or object with content, "
                          "found %s", path, key, qsae__json_type_name(v));
    *id = qsae__token_id(t, content);
    if (*id < 0)
        return qsae__fail(QSAE_EFORMAT, "%s: key \"%s\": token \"%s\" is not in the tokenizer",
                          path, key, content);
    return QSAE_OK;
}

int32_t qsae__tokenizer_read_named(qsae_tokenizer *t, const json_t *config, const char *path)
{
    int32_t status = read_special(t, config, path, "bos_token", &t->bos);

    if (status == QSAE_OK)
        status = read_special(t, config, path, "eos_token", &t->eos);
    if (status == QSAE_OK)
        status = read_special(t, config, path, "pad_token", &t->pad);
    if (status == QSAE_OK)
        status = read_special(t, config, path, "unk_token", &t->unk);
    return status;
}

/* tokenizer_config.json beside it; without one the template and the model tell BOS, EOS and
 * unknown. */
static int32_t read_config(qsae_tokenizer *t, const char *path)
{
    qsae__file *file = NULL;
    json_t *config = NULL;
    int32_t status;

    t->bos = t->prefix.count > 0 ? t->prefix.data[0] : -1;
    t->eos = t->suffix.count > 0 ? t->suffix.data[t->suffix.count - 1] : -1;
    t->pad = -1;
    t->unk = t->model.unk_token == NULL ? t->model.unk : qsae__token_id(t, t->model.unk_token);
    if (!qsae__file_exists(path))
        return QSAE_OK;
    status = qsae__file_open(t->ctx, path, &file);
    if (status != QSAE_OK)
        return status;
    /* model_max_length may be 1e30 written as an integer */
    status = qsae__json_parse_with((const char *)file->data, (size_t)file->size, path,
                                   QSAE__JSON_REALS, &config);
    if (status == QSAE_OK && !json_is_object(config))
        status = qsae__fail(QSAE_EFORMAT, "%s: expected object, found %s", path,
                            qsae__json_type_name(config));
    if (status == QSAE_OK)
        status = qsae__tokenizer_read_named(t, config, path);
    json_decref(config);
    qsae__file_close(&file);
    return status;
}

/* tokenizer.json and tokenizer_config.json for a folder or a file. */
static int32_t find_files(qsae_context *ctx, const char *path, char **json, char **config)
{
    const char *slash = strrchr(path, '/');
    char *folder;

    if (qsae__folder_exists(path)) {
        *json = qsae__path_join(ctx, path, "tokenizer.json");
        *config = qsae__path_join(ctx, path, "tokenizer_config.json");
    } else {
        *json = qsae__strdup(ctx, path);
        folder = slash == NULL ? qsae__strdup(ctx, ".")
                               : qsae__strndup(ctx, path, (size_t)(slash - path) + 1);
        *config = folder == NULL ? NULL : qsae__path_join(ctx, folder, "tokenizer_config.json");
        qsae__free(ctx, folder);
    }
    return *json == NULL || *config == NULL ? QSAE_ENOMEM : QSAE_OK;
}

int32_t qsae_tokenizer_open(qsae_context *context, const char *path, qsae_tokenizer **out)
{
    QSAE__FPENV;
    qsae_tokenizer *t;
    char *json = NULL, *config = NULL;
    bool gguf = false, parts = false;
    int32_t status;

    if (qsae__need_out(out))
        return QSAE_EINVAL;
    if (qsae__enter(&context) != QSAE_OK)
        return QSAE_EINVAL;
    if (path == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_tokenizer_open: path is NULL");
    t = qsae__calloc(context, 1, sizeof *t);
    if (t == NULL)
        return QSAE_ENOMEM;
    qsae__handle_init(t);
    t->ctx = qsae__context_ref(context);
    t->normalizer.ctx = t->pretokenizer.ctx = t->prefix.ctx = t->suffix.ctx = context;
    qsae__matcher_init(&t->raw, context);
    qsae__matcher_init(&t->normalized, context);
    status = find_files(context, path, &json, &config);
    if (status == QSAE_OK)
        status = find_parts(context, path, json, &parts);
    if (status == QSAE_OK && !parts)
        status = find_gguf(context, path, json, &gguf);
    if (status == QSAE_OK)
        status = parts ? qsae__tokenizer_read_files(t, path)
                       : gguf ? read_gguf(t, path) : read_json(t, json);
    if (status == QSAE_OK && !gguf && !parts)
        status = read_config(t, config);
    if (status == QSAE_OK)
        qsae__bpe_ready(&t->model);
    qsae__free(context, json);
    qsae__free(context, config);
    if (status != QSAE_OK) {
        qsae__unshare(t);
        qsae_tokenizer_close(&t);
    }
    *out = t;
    return status;
}

void qsae_tokenizer_close(qsae_tokenizer **tokenizer)
{
    qsae_tokenizer *t;
    qsae_context *ctx;

    if (!qsae__leave(tokenizer, "tokenizer"))
        return;
    t = *tokenizer;
    ctx = t->ctx;
    *tokenizer = NULL;
    qsae__free(ctx, t->contents);
    qsae__free(ctx, t->contents_text);
    qsae__free(ctx, t->added);
    qsae__bpe_free(&t->model);
    qsae__unigram_free(&t->unigram);
    qsae__normalizer_free(&t->normalizer);
    qsae__pretokenizer_free(&t->pretokenizer);
    qsae__matcher_free(&t->raw);
    qsae__matcher_free(&t->normalized);
    qsae__free(ctx, t->prefix.data);
    qsae__free(ctx, t->suffix.data);
    qsae__free(ctx, t->views);
    qsae__free(ctx, t->view_at);
    qsae__free(ctx, t->known);
    qsae__retire(ctx, t);
    qsae__context_unref(ctx);
}

int32_t qsae_tokenizer_get_info(const qsae_tokenizer *t, qsae_tokenizer_info *info)
{
    qsae_tokenizer_info full = { .struct_size = sizeof full };

    if (qsae__need(t, "tokenizer"))
        return QSAE_EINVAL;
    if (info == NULL)
        return qsae__fail(QSAE_EINVAL, "qsae_tokenizer_get_info: a NULL");
    full.vocab = t->vocab;
    full.bos = t->bos;
    full.eos = t->eos;
    full.pad = t->pad;
    full.unk = t->unk;
    full.adds_bos = t->bos >= 0 && t->prefix.count > 0 && t->prefix.data[0] == t->bos;
    full.adds_eos = t->eos >= 0 && t->suffix.count > 0 &&
                    t->suffix.data[t->suffix.count - 1] == t->eos;
    full.hash = t->hash;
    return qsae__info_copy(info, &full, sizeof full, "qsae_tokenizer_info");
}

int32_t qsae_tokenizer_is_special(const qsae_tokenizer *t, int32_t id)
{
    return qsae__is_open(t) && id >= 0 && id < t->vocab && t->known[id] == 2;
}
