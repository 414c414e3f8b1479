/* SPDX-License-Identifier: BSD-2-Clause */
#include "shapes.h"

#include <unistd.h>

#include "formats/formats.h"
#include "support.h"

void put(struct out *o, const void *data, size_t n)
{
    if (o->n + n > o->room) {
        o->room = 2 * (o->n + n);
        o->data = realloc(o->data, o->room);
        assert_non_null(o->data);
    }
    memcpy(o->data + o->n, data, n);
    o->n += n;
}

void put_text(struct out *o, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    assert_in_range(n, 0, sizeof text - 1);
    put(o, text, (size_t)n);
}

void put_int(struct out *o, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        const char c = (char)(v >> (8 * i));
        put(o, &c, 1);
    }
}

#define BPE "{\"model\":{\"type\":\"BPE\",\"vocab\":"

/* The shortest entries of a vocabulary. */
static void put_vocab(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%c\"%llx\":%lld", i ? ',' : '{', (long long)i, (long long)i);
    put_text(o, "}");
}

static void make_vocab(struct out *o, int64_t n)
{
    put_text(o, BPE);
    put_vocab(o, n);
    put_text(o, ",\"merges\":[]}}");
}

static void make_vocab_alone(struct out *o, int64_t n)
{
    put_vocab(o, n);
}

/* As many ids as a file of its size may have, but few tokens. */
static void make_holes(struct out *o, int64_t n)
{
    put_text(o, BPE "{\"a\":%lld},\"merges\":[],\"x\":\"", (long long)(n * 2));
    for (int64_t i = 0; i < n; i++)
        put_text(o, "..........");
    put_text(o, "\"}}");
}

/* One merge over and over, the shortest. */
static void make_merges(struct out *o, int64_t n)
{
    put_text(o, BPE "{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%s\"a b\"", i ? "," : "");
    put_text(o, "]}}");
}

/* Merges that all differ. */
static void make_pairs(struct out *o, int64_t n)
{
    put_text(o, BPE "{\"<\":0");
    for (int64_t i = 0; i < n / 2; i++)
        put_text(o, ",\"%llx\":%lld,\"<%llx\":%lld", (long long)i, (long long)(2 * i + 1),
                 (long long)i, (long long)(2 * i + 2));
    put_text(o, "},\"merges\":[");
    for (int64_t i = 0; i < n / 2; i++)
        put_text(o, "%s[\"<\",\"%llx\"]", i ? "," : "", (long long)i);
    put_text(o, "]}}");
}

static void put_unigram(struct out *o, int64_t n, const char *format)
{
    put_text(o, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[");
    for (int64_t i = 0; i < n; i++) {
        put_text(o, "%s[\"", i ? "," : "");
        put_text(o, format, (unsigned long long)i * UINT64_C(0x9e3779b97f4a7c15) >> 32);
        put_text(o, "\",0]");
    }
    put_text(o, "],\"unk_id\":0}}");
}

static void make_unigram(struct out *o, int64_t n)
{
    put_text(o, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%s[\"%llx\",-%lld.5]", i ? "," : "", (long long)i, (long long)i % 10);
    put_text(o, "],\"unk_id\":0}}");
}

static void make_empty_tokens(struct out *o, int64_t n)
{
    put_text(o, "{\"model\":{\"vocab\":[");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%s[\"\",0]", i ? "," : "");
    put_text(o, "],\"unk_id\":0}}");
}

/* Tokens that share nothing: below the limit of nodes, and beyond it. */
static void make_apart(struct out *o, int64_t n)
{
    put_unigram(o, n, "%08llx");
}

static void make_long_tokens(struct out *o, int64_t n)
{
    put_unigram(o, n, "%1$08llx%1$08llx%1$08llx%1$08llx%1$08llx%1$08llx"
                "%1$08llx%1$08llx%1$08llx%1$08llx%1$08llx%1$08llx");
}

static void make_added(struct out *o, int64_t n)
{
    put_text(o, BPE "{},\"merges\":[]},\"added_tokens\":[");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%s{\"id\":%lld,\"content\":\"%llx\"}", i ? "," : "", (long long)i,
                 (long long)i);
    put_text(o, "]}");
}

/* Values of the kind that take most memory, where nothing needs them. */
static void make_extra(struct out *o, int64_t n)
{
    put_text(o, BPE "{},\"merges\":[]},\"x\":[");
    for (int64_t i = 0; i < 50000 + 4 * n; i++)
        put_text(o, "%s[]", i ? "," : "");
    put_text(o, "]}");
}

/* The same, few enough to be read. */
static void make_few_extra(struct out *o, int64_t n)
{
    put_text(o, BPE "{},\"merges\":[]},\"x\":[");
    for (int64_t i = 0; i < n / 4; i++)
        put_text(o, "%s[]", i ? "," : "");
    put_text(o, "],\"y\":\"");
    for (int64_t i = 0; i < n; i++)
        put_text(o, "..........................");
    put_text(o, "\"}");
}

int32_t open_tokenizer(qsae_context *ctx, const char *folder, const char *file)
{
    char path[128];
    qsae_tokenizer *t = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    const int32_t status = qsae_tokenizer_open(ctx, path, &t);
    qsae_tokenizer_close(&t);
    return status;
}

/* vocab.json beside a merges.txt, which is no header of its own. */
static int32_t open_folder(qsae_context *ctx, const char *folder, const char *file)
{
    char path[128];
    qsae_tokenizer *t = NULL;
    (void)file;
    snprintf(path, sizeof path, "%s/merges.txt", folder);
    FILE *const f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs("#version: 0.2\n0 1\n", f) >= 0);
    assert_int_equal(fclose(f), 0);
    const int32_t status = qsae_tokenizer_open(ctx, folder, &t);
    qsae_tokenizer_close(&t);
    unlink(path);
    return status;
}

/* Keys, too many for their bytes. */
static void make_yaml(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < 6 * n; i++)
        put_text(o, "%llx: 1\n", (long long)i);
}

/* Maps within maps. */
static void make_maps(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < 6 * n; i++)
        put_text(o, "%llx:\n  a: 1\n", (long long)i);
}

static int32_t open_yaml(qsae_context *ctx, const char *folder, const char *file)
{
    char path[128];
    json_t *v = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    const int32_t status = qsae__yaml_load(ctx, path, &v);
    json_decref(v);
    return status;
}

static int32_t open_json(qsae_context *ctx, const char *folder, const char *file)
{
    char path[128];
    json_t *v = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    const int32_t status = qsae__json_load(ctx, path, &v);
    json_decref(v);
    return status;
}

/* As transformers writes what a configuration says about every layer. */
static void make_json(struct out *o, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        put_text(o, "%s  \"model.layers.%lld.gate_proj\": {\n    \"bits\": 4,\n"
                 "    \"method\": \"nf4\",\n    \"group_size\": 64\n  }", i ? ",\n" : "{\n",
                 (long long)i);
    put_text(o, "\n}\n");
}

#define NPY_BYTES 66

/* CRC-32, as zip files have it. */
static uint32_t checksum(const char *data, size_t n)
{
    uint32_t sum = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        sum ^= (uint8_t)data[i];
        for (int k = 0; k < 8; k++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
    }
    return ~sum;
}

/* n members, at most what a zip file has without extensions, each the least that NumPy writes: an
 * array of no elements. */
static void make_npz(struct out *o, int64_t n)
{
    char npy[NPY_BYTES + 1];
    struct out names = { 0 };
    n = n < UINT16_MAX ? n : UINT16_MAX;
    snprintf(npy, sizeof npy, "\x93NUMPY\x01%c8%c{'descr': '|u1', 'fortran_order': False, "
             "'shape': (0,)}\n", 0, 0);
    const uint32_t sum = checksum(npy, NPY_BYTES);
    for (int64_t i = 0; i < n; i++) {
        char name[32];
        const int size = snprintf(name, sizeof name, "%llx.npy", (long long)i);
        const uint64_t at = o->n;
        struct out *const both[] = { o, &names };
        put_int(o, 0x04034b50, 4);
        put_int(&names, 0x02014b50, 4);
        put_int(&names, 20, 2);
        for (int k = 0; k < 2; k++) {
            put_int(both[k], 20, 2);
            put_int(both[k], 0, 8);
            put_int(both[k], sum, 4);
            put_int(both[k], NPY_BYTES, 4);
            put_int(both[k], NPY_BYTES, 4);
            put_int(both[k], (uint64_t)size, 2);
            put_int(both[k], 0, 2);
        }
        put(o, name, (size_t)size);
        put(o, npy, NPY_BYTES);
        put_int(&names, 0, 8);
        put_int(&names, 0, 2);
        put_int(&names, at, 4);
        put(&names, name, (size_t)size);
    }
    const uint64_t at = o->n;
    put(o, names.data, names.n);
    put_int(o, 0x06054b50, 4);
    put_int(o, 0, 4);
    put_int(o, (uint64_t)n & 0xffff, 2);
    put_int(o, (uint64_t)n & 0xffff, 2);
    put_int(o, names.n, 4);
    put_int(o, at, 4);
    put_int(o, 0, 2);
    free(names.data);
}

static int32_t open_npz(qsae_context *ctx, const char *folder, const char *file)
{
    char path[128];
    qsae_tensors *t = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    const int32_t status = qsae_tensors_open(ctx, path, &t);
    qsae_tensors_close(&t);
    return status;
}

const struct shape text_shapes[] = {
    { "tokenizer: vocab", "tokenizer.json", make_vocab, open_tokenizer, QSAE_OK, 0, 0 },
    { "tokenizer: ids", "tokenizer.json", make_holes, open_tokenizer, QSAE_OK, 0, 0 },
    { "tokenizer: merges", "tokenizer.json", make_merges, open_tokenizer, QSAE_OK, 0, 0 },
    { "tokenizer: pairs", "tokenizer.json", make_pairs, open_tokenizer, QSAE_OK, 0, 0 },
    { "tokenizer: added", "tokenizer.json", make_added, open_tokenizer, QSAE_OK, 0, 0 },
    { "tokenizer: lists", "tokenizer.json", make_extra, open_tokenizer, QSAE_EFORMAT, 0, 0 },
    { "tokenizer: few lists", "tokenizer.json", make_few_extra, open_tokenizer, QSAE_OK, 0, 0 },
    { "unigram", "tokenizer.json", make_unigram, open_tokenizer, QSAE_OK, 0, 0 },
    { "unigram: empty", "tokenizer.json", make_empty_tokens, open_tokenizer, QSAE_OK, 0, 0 },
    { "unigram: apart", "tokenizer.json", make_apart, open_tokenizer, QSAE_OK, 0, 0 },
    { "unigram: long", "tokenizer.json", make_long_tokens, open_tokenizer, QSAE_EFORMAT, 0, 0 },
    { "vocab.json", "vocab.json", make_vocab_alone, open_folder, QSAE_EFORMAT, 0, 0 },
    { "json", "x.json", make_json, open_json, QSAE_OK, TREE_RATIO, 0 },
    { "yaml", "x.yaml", make_yaml, open_yaml, QSAE_EFORMAT, TREE_RATIO, 0 },
    { "yaml: maps", "x.yaml", make_maps, open_yaml, QSAE_EFORMAT, TREE_RATIO, 0 },
    { "npz", "x.npz", make_npz, open_npz, QSAE_OK, 0, 0 },
};
const size_t n_text_shapes = sizeof text_shapes / sizeof *text_shapes;
