/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vocab.json and merges.txt, files of GPT-2 and of byte-level tokenizers after it, with what may
 * lie beside them (tokenizer_config.json, special_tokens_map.json, added_tokens.json). They are put
 * together as the tokenizer.json that the class of transformers makes of them (5.x,
 * tokenization_gpt2.py and its neighbours), which is then read.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/members.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#define END "<|endoftext|>"

#define QWEN \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+" \
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* What a tokenizer_class does that is in none of the files. */
struct kind {
    const char *name;       /* also with "Fast" behind it */
    const char *normalizer; /* NULL = none */
    const char *regex;      /* NULL = GPT-2's */
    const char *bos, *pad;  /* where nothing else is said; NULL = none */
    bool plain;             /* special tokens lose their flags */
};

static const struct kind kinds[] = {
    { "GPT2Tokenizer", NULL, NULL, END, NULL, false },
    { "CodeGenTokenizer", NULL, NULL, END, NULL, false },
    { "GPTNeoXTokenizer", "NFC", NULL, END, "<|padding|>", false },
    { "Qwen2Tokenizer", "NFC", QWEN, NULL, END, true },
};

struct files {
    qsae_context *ctx;
    const char *folder;
    const struct kind *kind;
    qsae__file *vocab_file, *merges_file;
    qsae__cut vocab_text;
    qsae__vocab vocab;  /* for the ids of special tokens */
    json_t *config;
    json_t *seen;       /* array of special tokens as they were named */
    json_t *added;      /* array of entries as in tokenizer.json's added_tokens */
    int64_t listed;     /* so many of them come from a list, not from a special token's name */
    int64_t next;       /* id of the next token that is in no file */
    int64_t size;       /* bytes of both files */
    qsae__hasher *hash;
};

static int32_t no_memory(const struct files *f)
{
    return qsae__fail(QSAE_ENOMEM, "%s: out of memory", f->folder);
}

/* A file of the folder; *file stays NULL if it may be missing and is. */
static int32_t open_file(const struct files *f, const char *name, bool required, qsae__file **file)
{
    char *const path = qsae__path_join(f->ctx, f->folder, name);
    int32_t status = path == NULL ? QSAE_ENOMEM : QSAE_OK;

    *file = NULL;
    if (status == QSAE_OK && (required || qsae__file_exists(path)))
        status = qsae__file_open(f->ctx, path, file);
    qsae__free(f->ctx, path);
    return status;
}

/* A JSON object; an empty one if the file is missing. */
static int32_t read_object(struct files *f, const char *name, unsigned flags, json_t **out)
{
    qsae__file *file = NULL;
    int32_t status = open_file(f, name, false, &file);

    *out = NULL;
    if (status == QSAE_OK && file == NULL) {
        *out = json_object();
        status = *out == NULL ? no_memory(f) : QSAE_OK;
    } else if (status == QSAE_OK) {
        status = qsae__json_parse_with((const char *)file->data, (size_t)file->size, name, flags,
                                       out);
        if (status == QSAE_OK && !json_is_object(*out))
            status = qsae__fail(QSAE_EFORMAT, "%s: expected object, found %s", name,
                                qsae__json_type_name(*out));
    }
    qsae__file_close(&file);
    return status == QSAE_OK ? status : qsae__fail_in(status, "%s", f->folder);
}

/* One of the two files. */
static int32_t read_part(struct files *f, const char *name, qsae__file **file)
{
    const int32_t status = open_file(f, name, true, file);

    if (status != QSAE_OK)
        return status;
    qsae__hasher_update(f->hash, (*file)->data, (size_t)(*file)->size);
    f->size += (int64_t)(*file)->size;
    return QSAE_OK;
}

static int32_t read_vocab(struct files *f)
{
    int32_t status = read_part(f, "vocab.json", &f->vocab_file);

    if (status != QSAE_OK)
        return status;
    const char *text = (const char *)f->vocab_file->data;
    size_t size = (size_t)f->vocab_file->size;
    status = qsae__json_check(text, size, "vocab.json");
    for (; status == QSAE_OK && strchr(" \t\r\n", *text) != NULL; text++)
        size--;
    if (status == QSAE_OK && *text != '{')
        status = qsae__fail(QSAE_EFORMAT, "vocab.json: expected object, found %s",
                            qsae__json_kind(text));
    if (status == QSAE_OK)
        status = qsae__vocab_read(&f->vocab, f->ctx, text, size, "vocab.json",
                                  QSAE__ID_MOST(f->size));
    f->vocab_text = (qsae__cut){ "model", "vocab", text, size };
    return status == QSAE_OK ? status : qsae__fail_in(status, "%s", f->folder);
}

/* Lines "left right"; those that begin with #version and an empty last one are none. */
static int32_t check_merges(struct files *f)
{
    const char *p, *end;
    size_t bad;
    int32_t status = read_part(f, "merges.txt", &f->merges_file);

    if (status != QSAE_OK)
        return status;
    p = (const char *)f->merges_file->data;
    end = p + f->merges_file->size;
    for (int64_t line = 1; p < end; line++) {
        const char *const stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop != NULL ? stop : end) - p);
        n -= n > 0 && p[n - 1] == '\r';
        if (!qsae__utf8_check(p, n, &bad))
            return qsae__fail(QSAE_EFORMAT, "%s: merges.txt:%lld: not UTF-8", f->folder,
                              (long long)line);
        if (n == 0 || memchr(p, '\0', n) != NULL)
            return qsae__fail(QSAE_EFORMAT, "%s: merges.txt:%lld: expected two tokens, found %s",
                              f->folder, (long long)line, n == 0 ? "nothing" : "U+0000");
        p = stop != NULL ? stop + 1 : end;
    }
    return QSAE_OK;
}

static const char *content_of(const json_t *v)
{
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

/* Where a token is among the added ones, -1 if it is not. */
static int64_t find_added(const struct files *f, const char *content)
{
    for (size_t i = 0; i < json_array_size(f->added); i++) {
        const char *s = content_of(json_array_get(f->added, i));
        if (s != NULL && strcmp(s, content) == 0)
            return (int64_t)i;
    }
    return -1;
}

static const char *const flags[] = { "single_word", "lstrip", "rstrip", "normalized" };

/* A special token has the flags that `from` gives it, none if that is a string. */
static int32_t set_flags(const struct files *f, json_t *entry, const json_t *from)
{
    int failed = json_object_set_new(entry, "special", json_true());

    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        json_t *const v = json_object_get(from, flags[i]);
        failed |= v != NULL ? json_object_set(entry, flags[i], v)
                            : json_object_set_new(entry, flags[i], json_false());
    }
    return failed ? no_memory(f) : QSAE_OK;
}

/* Adds a token with an id; `from` may hold its flags. */
static int32_t add(struct files *f, const json_t *from, const char *content, int64_t id,
                   bool special)
{
    json_t *entry = json_is_object(from) ? json_deep_copy(from) : json_object();
    bool failed = entry == NULL || json_object_set_new(entry, "id", json_integer(id)) != 0 ||
                  json_object_set_new(entry, "content", json_string(content)) != 0;

    if (!failed && special)
        failed = json_object_set_new(entry, "special", json_true()) != 0;
    if (failed || json_array_append(f->added, entry) != 0) {
        json_decref(entry);
        return no_memory(f);
    }
    json_decref(entry);
    f->next = qsae__max_i64(f->next, id + 1);
    return QSAE_OK;
}

/* A special token by its text: one that is there already, one of the vocabulary, or a new one. */
static int32_t add_special(struct files *f, json_t *v, const char *key)
{
    const char *const content = content_of(v);
    int64_t at, known;
    int32_t status = QSAE_OK;

    if (qsae__json_absent(v))
        return QSAE_OK;
    if (content == NULL)
        return qsae__fail(QSAE_EFORMAT, "%s: tokenizer_config.json: key \"%s\": expected string or "
                          "object with content, found %s", f->folder, key,
                          qsae__json_type_name(v));
    for (size_t i = 0; i < json_array_size(f->seen); i++)
        if (json_equal(v, json_array_get(f->seen, i)))
            return QSAE_OK;
    if (json_array_append(f->seen, v) != 0)
        return no_memory(f);
    at = find_added(f, content);
    if (at < 0) {
        known = qsae__vocab_find(&f->vocab, content, strlen(content));
        status = add(f, v, content, known >= 0 ? known : f->next, true);
        at = (int64_t)json_array_size(f->added) - 1;
    } else if (at >= f->listed) { /* of two special tokens of one text the last has the flags */
        status = set_flags(f, json_array_get(f->added, (size_t)at), v);
    }
    if (status == QSAE_OK && f->kind->plain)
        status = set_flags(f, json_array_get(f->added, (size_t)at), NULL);
    return status;
}

static int by_id(const void *a, const void *b)
{
    const int64_t x = json_integer_value(json_object_get(*(json_t *const *)a, "id"));
    const int64_t y = json_integer_value(json_object_get(*(json_t *const *)b, "id"));

    return x < y ? -1 : x > y;
}

static int32_t sort_added(struct files *f)
{
    const size_t n = json_array_size(f->added);
    json_t **const list = qsae__alloc_array(f->ctx, (int64_t)n, sizeof(json_t *));
    json_t *sorted = json_array();
    int32_t status = QSAE_OK;

    if (list == NULL || sorted == NULL)
        status = QSAE_ENOMEM;
    for (size_t i = 0; i < n && status == QSAE_OK; i++)
        list[i] = json_array_get(f->added, i);
    if (n > 1 && status == QSAE_OK)
        qsort(list, n, sizeof *list, by_id);
    for (size_t i = 0; i < n && status == QSAE_OK; i++)
        if (json_array_append(sorted, list[i]) != 0)
            status = QSAE_ENOMEM;
    qsae__free(f->ctx, list);
    if (status != QSAE_OK) {
        json_decref(sorted);
        return no_memory(f);
    }
    json_decref(f->added);
    f->added = sorted;
    return QSAE_OK;
}

static const char *const named[] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
};
#define NAMED (sizeof named / sizeof *named)

static bool is_named(const struct files *f, const char *content)
{
    for (size_t k = 0; k < NAMED; k++) {
        const char *s = content_of(json_object_get(f->config, named[k]));
        if (s != NULL && strcmp(s, content) == 0)
            return true;
    }
    return false;
}

/* tokenizer_config.json's added_tokens_decoder: {"id": {"content", flags}}. */
static int32_t add_decoder(struct files *f, json_t *decoder)
{
    const char *key;
    json_t *v;
    int32_t status = QSAE_OK;

    json_object_foreach(decoder, key, v) {
        char *end = NULL;
        const long long id = strtoll(key, &end, 10);
        const char *const content = content_of(v);
        if (*key == '\0' || *end != '\0' || id < 0 || id >= INT32_MAX || !json_is_object(v) ||
            content == NULL)
            return qsae__fail(QSAE_EFORMAT, "%s: tokenizer_config.json: added_tokens_decoder: "
                              "\"%s\": expected an id and an object with content", f->folder, key);
        status = add(f, v, content, id, false);
        if (status != QSAE_OK)
            return status;
    }
    return status;
}

/* added_tokens.json: {"content": id}. */
static int32_t add_listed(struct files *f, json_t *list)
{
    const char *key;
    json_t *v;
    int32_t status = QSAE_OK;

    json_object_foreach(list, key, v) {
        const int64_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= INT32_MAX)
            return qsae__fail(QSAE_EFORMAT, "%s: added_tokens.json: \"%s\": expected an id, found "
                              "%s", f->folder, key, qsae__json_type_name(v));
        status = add(f, NULL, key, id, is_named(f, key));
        if (status != QSAE_OK)
            return status;
    }
    return status;
}

static int32_t find_kind(struct files *f)
{
    const char *name = "GPT2Tokenizer";
    int32_t status = qsae__json_str(f->config, "tokenizer_config.json", "tokenizer_class", false,
                                    &name, NULL);

    if (status != QSAE_OK)
        return qsae__fail_in(status, "%s", f->folder);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const size_t n = strlen(kinds[i].name);
        if (strncmp(name, kinds[i].name, n) == 0 &&
            (name[n] == '\0' || strcmp(name + n, "Fast") == 0)) {
            f->kind = &kinds[i];
            return QSAE_OK;
        }
    }
    return qsae__fail(QSAE_EUNSUPPORTED, "%s: tokenizer_config.json: tokenizer_class \"%s\" "
                      "without tokenizer.json: only the classes of GPT-2, CodeGen, GPT-NeoX "
                      "and Qwen2 are read from vocab.json and merges.txt (save the tokenizer with "
                      "transformers to get tokenizer.json)", f->folder, name);
}

/* Special tokens that the configuration says nothing about. */
static int32_t add_defaults(const struct files *f)
{
    const char *const defaults[NAMED] = { f->kind->bos, END, END, NULL, f->kind->pad };

    for (size_t k = 0; k < NAMED; k++)
        if (defaults[k] != NULL && json_object_get(f->config, named[k]) == NULL &&
            json_object_set_new(f->config, named[k], json_string(defaults[k])) != 0)
            return no_memory(f);
    return QSAE_OK;
}

/* Who is special: the configuration, special_tokens_map.json over it unless the configuration lists
 * the added tokens itself, the class's defaults where neither says anything. */
static int32_t read_added(struct files *f)
{
    json_t *map = NULL, *listed = NULL, *decoder, *v;
    int32_t status = read_object(f, "special_tokens_map.json", 0, &map);

    if (status == QSAE_OK)
        status = read_object(f, "added_tokens.json", 0, &listed);
    decoder = json_object_get(f->config, "added_tokens_decoder");
    if (status == QSAE_OK && !json_is_object(decoder) && json_object_update(f->config, map) != 0)
        status = no_memory(f);
    if (status == QSAE_OK)
        status = add_defaults(f);
    if (status == QSAE_OK)
        status = json_is_object(decoder) ? add_decoder(f, decoder) : add_listed(f, listed);
    if (status == QSAE_OK)
        status = sort_added(f);
    f->listed = (int64_t)json_array_size(f->added);
    for (size_t k = 0; k < NAMED && status == QSAE_OK; k++)
        status = add_special(f, json_object_get(f->config, named[k]), named[k]);
    for (int k = 0; k < 2 && status == QSAE_OK; k++) {
        const char *const key = k == 0 ? "additional_special_tokens" : "extra_special_tokens";
        v = json_object_get(f->config, key);
        if (v != NULL && !json_is_null(v) && !json_is_array(v) && json_object_size(v) > 0)
            status = qsae__fail(QSAE_EUNSUPPORTED, "%s: tokenizer_config.json: key \"%s\": an "
                                "object", f->folder, key);
        for (size_t i = 0; i < json_array_size(v) && status == QSAE_OK; i++)
            status = add_special(f, json_array_get(v, i), key);
    }
    json_decref(map);
    json_decref(listed);
    return status == QSAE_OK ? sort_added(f) : status;
}

/* One item of the template, none if the token is not wanted. */
static int32_t add_item(const struct files *f, json_t *single, json_t *special, bool wanted,
                        const char *key)
{
    const char *const content = content_of(json_object_get(f->config, key));
    bool failed;

    if (!wanted || content == NULL)
        return QSAE_OK;
    failed = json_array_append_new(single, json_pack("{s{ss}}", "SpecialToken", "id", content));
    for (size_t i = 0; i < json_array_size(f->added) && !failed; i++) {
        const json_t *const e = json_array_get(f->added, i);
        if (strcmp(content_of(e), content) == 0)
            failed = json_object_set_new(special, content, json_pack("{s[O]}", "ids",
                                         json_object_get(e, "id"))) != 0;
    }
    return failed ? no_memory(f) : QSAE_OK;
}

/* The normalizer and the pre-tokenizer. */
static int32_t add_steps(const struct files *f, json_t *root, bool prefix)
{
    const struct kind *const k = f->kind;
    json_t *pre = json_pack("{sssbsb}", "type", "ByteLevel", "add_prefix_space", prefix,
                            "use_regex", k->regex == NULL);

    if (k->regex != NULL)
        pre = json_pack("{sss[{sss{ss}ss}o]}", "type", "Sequence", "pretokenizers", "type", "Split",
                        "pattern", "Regex", k->regex, "behavior", "Isolated", pre);
    if (json_object_set_new(root, "pre_tokenizer", pre) != 0 ||
        (k->normalizer != NULL &&
         json_object_set_new(root, "normalizer", json_pack("{ss}", "type", k->normalizer)) != 0))
        return no_memory(f);
    return QSAE_OK;
}

/* The same as tokenizer.json. */
static int32_t build(struct files *f, json_t **root)
{
    bool prefix = false, bos = false, eos = false;
    json_t *single = json_array(), *special = json_object();
    int32_t status = qsae__json_bool(f->config, f->folder, "add_prefix_space", false, &prefix,
                                     NULL);

    if (status == QSAE_OK)
        status = qsae__json_bool(f->config, f->folder, "add_bos_token", false, &bos, NULL);
    if (status == QSAE_OK)
        status = qsae__json_bool(f->config, f->folder, "add_eos_token", false, &eos, NULL);
    if (status == QSAE_OK && (single == NULL || special == NULL))
        status = no_memory(f);
    if (status == QSAE_OK)
        status = add_item(f, single, special, bos, "bos_token");
    if (status == QSAE_OK &&
        json_array_append_new(single, json_pack("{s{ss}}", "Sequence", "id", "A")) != 0)
        status = no_memory(f);
    if (status == QSAE_OK)
        status = add_item(f, single, special, eos, "eos_token");
    if (status == QSAE_OK) {
        *root = json_pack("{s{sssOsO}s{ss}}", "post_processor", "type", "TemplateProcessing",
                          "single", single, "special_tokens", special, "model", "type", "BPE");
        status = *root == NULL ? no_memory(f) : add_steps(f, *root, prefix);
    }
    json_decref(single);
    json_decref(special);
    return status;
}

/* Everything but the two files that decides about ids. added: the added tokens, written as JSON. */
static int32_t hash_rest(struct files *f, const json_t *root, qsae__strbuf *added)
{
    static const char *const keys[] = { "pre_tokenizer", "post_processor", "normalizer" };
    qsae__strbuf text;
    int32_t status = qsae__json_write(added, f->added, -1);

    qsae__strbuf_init(&text, f->ctx);
    qsae__strbuf_add(&text, added->data, (size_t)added->size);
    for (size_t i = 0; i < 3 && status == QSAE_OK; i++)
        if (json_object_get(root, keys[i]) != NULL)
            status = qsae__json_write(&text, json_object_get(root, keys[i]), -1);
    if (status == QSAE_OK)
        status = text.status;
    if (status == QSAE_OK)
        qsae__hasher_string(f->hash, text.data);
    qsae__strbuf_free(&text);
    return status;
}

/* The model and the added tokens stand in texts of their own. */
static int32_t read_all(qsae_tokenizer *t, const struct files *f, const json_t *root,
                        const qsae__strbuf *added)
{
    return qsae__tokenizer_read_root(t, &(qsae__tokenizer_source){
        .path = f->folder, .root = root, .bytes = f->size,
        .model = { .vocab = f->vocab_text,
                   .merges = { "model", "merges", (const char *)f->merges_file->data,
                               (size_t)f->merges_file->size },
                   .lines = true },
        .added = { "added_tokens", NULL, added->data, (size_t)added->size } });
}

int32_t qsae__tokenizer_read_files(qsae_tokenizer *t, const char *folder)
{
    struct files f = { .ctx = t->ctx, .folder = folder, .added = json_array(),
                       .seen = json_array() };
    json_t *root = NULL;
    qsae__strbuf added;
    int32_t status = f.added == NULL || f.seen == NULL ? no_memory(&f)
                                                       : qsae__hasher_open(t->ctx, &f.hash);

    qsae__strbuf_init(&added, t->ctx);
    if (status == QSAE_OK)
        status = read_object(&f, "tokenizer_config.json", QSAE__JSON_REALS, &f.config);
    if (status == QSAE_OK)
        status = find_kind(&f);
    if (status == QSAE_OK)
        status = read_vocab(&f);
    if (status == QSAE_OK)
        status = check_merges(&f);
    f.next = f.vocab.entries;
    if (status == QSAE_OK)
        status = read_added(&f);
    qsae__vocab_free(&f.vocab);
    if (status == QSAE_OK)
        status = build(&f, &root);
    if (status == QSAE_OK)
        status = hash_rest(&f, root, &added);
    if (status == QSAE_OK)
        status = read_all(t, &f, root, &added);
    if (status == QSAE_OK) {
        qsae__hasher_hex(f.hash, t->hash);
        t->bos = t->eos = t->pad = t->unk = -1;
        status = qsae__tokenizer_read_named(t, f.config, folder);
    }
    json_decref(root);
    json_decref(f.config);
    json_decref(f.added);
    json_decref(f.seen);
    qsae__strbuf_free(&added);
    qsae__file_close(&f.vocab_file);
    qsae__file_close(&f.merges_file);
    qsae__hasher_close(t->ctx, &f.hash);
    return status;
}
