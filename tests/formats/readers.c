/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every call for memory and every call of the system under every reader of untrusted files fails,
 * once and from then on, also those of jansson, libzip and PCRE2: a status that fits, a message,
 * nothing left over, and the same call without the fault succeeds. EINTR and short reads are not
 * noticed. At every call with QSAE_LONG_TESTS=1 (of more than 800: an even sample of about 200),
 * else at a sample of about 12.
 */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../faults/inject.h"
#include "../support.h"
#include "formats/formats.h"
#include "formats/gguf.h"
#include "formats/json.h"
#include "formats/logits.h"
#include "formats/writer.h"
#include "formats/yaml.h"
#include "numpy_files.h"

static char folder[256];

static const char *path(const char *name)
{
    static char paths[4][512];
    static int next;
    char *const p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s%s%s", *name == '/' ? "" : folder, *name == '/' ? "" : "/",
             name);
    return p;
}

/* Of what the last run read: a run that succeeds in spite of a fault has read the same. */
static uint64_t content;

static int32_t load(qsae_context *ctx, const char *file)
{
    qsae__tensors *t = NULL;
    const int32_t st = qsae__tensors_load(ctx, file, &t);
    content = 0;
    for (int64_t i = 0; st == QSAE_OK && i < qsae__tensors_len(t); i++) {
        const qsae__tensor *const x = qsae__tensors_at(t, i);
        for (uint64_t k = 0; k < x->bytes; k++)
            content = content * 31 + ((const uint8_t *)x->data)[k];
    }
    qsae__tensors_unref(&t);
    return st;
}

static int32_t list(qsae_context *ctx, const char *file)
{
    qsae_tensors *t = NULL;
    const int32_t st = qsae_tensors_open(ctx, file, &t);
    qsae_tensors_close(&t);
    return st;
}

/* A file of this folder that is written, and opened a second time where it is mapped. */
static int32_t write_and_reopen(qsae_context *ctx, const char *file)
{
    qsae__file *f = NULL;
    int32_t st = qsae__file_write(ctx, file, "abc", 3);
    if (st == QSAE_OK)
        st = qsae__file_open(ctx, file, &f);
    if (st == QSAE_OK) {
        const int fd = qsae__file_reopen(f);
        if (fd >= 0)
            close(fd);
    }
    qsae__file_close(&f);
    return st;
}

static int32_t read_json(qsae_context *ctx, const char *file)
{
    json_t *v = NULL;
    qsae__strbuf text;
    int32_t st = qsae__json_load(ctx, file, &v);
    if (st == QSAE_OK) {
        char *const copy = qsae__json_dumps(v, JSON_COMPACT);
        if (!copy)
            st = qsae__fail(QSAE_ENOMEM, "%s: out of memory", file);
        free(copy);
    }
    if (st == QSAE_OK) {
        qsae__strbuf_init(&text, ctx);
        st = qsae__json_write(&text, v, 2);
        qsae__strbuf_free(&text);
    }
    json_decref(v);
    return st;
}

static int32_t read_yaml(qsae_context *ctx, const char *file)
{
    json_t *v = NULL;
    const int32_t st = qsae__yaml_load(ctx, file, &v);
    json_decref(v);
    return st;
}

static int32_t read_logits(qsae_context *ctx, const char *file)
{
    qsae__logits_in in;
    const int32_t st = qsae__logits_open(ctx, file, &in);
    qsae__logits_close(&in);
    return st;
}

static int32_t write_logits(qsae_context *ctx, const char *file)
{
    static const qsae__logits_shape shape = { 6, 3, 2 };
    static const int32_t tokens[12] = { 0, 1, 2 };
    static const uint16_t rows[4 * 8] = { 0 };
    qsae__logits_out *out = NULL;
    int32_t st = qsae__logits_create(ctx, file, &shape, tokens, &out);
    if (st == QSAE_OK)
        st = qsae__logits_put(out, 0, 3, rows);
    if (st == QSAE_OK)
        st = qsae__logits_put(out, 1, 3, rows + 8);
    if (st == QSAE_OK)
        return qsae__logits_commit(&out);
    qsae__logits_discard(&out);
    return st;
}

static int32_t write_tensors(qsae_context *ctx, const char *file)
{
    static const char data[24] = "abcdefghijklmnopqrstuvw";
    const qsae__tensor t[2] = {
        { .name = "one",
          .data = data,
          .bytes = 24,
          .shape = { 2, 3, 4 },
          .rank = 3,
          .dtype = QSAE_U8 },
        { .name = "two", .data = data, .bytes = 8, .shape = { 2 }, .rank = 1, .dtype = QSAE_F32 },
    };
    return qsae__safetensors_write(ctx, file, t, 2);
}

static int32_t list_folder(qsae_context *ctx, const char *file)
{
    char **names = NULL;
    int64_t n = 0;
    const int32_t st = qsae__folder_list(ctx, file, &names, &n);
    if (st == QSAE_OK)
        qsae__folder_list_free(ctx, names, n);
    return st;
}

static int32_t open_weights(qsae_context *ctx, const char *file)
{
    qsae_weights *w = NULL;
    const int32_t st = qsae_weights_open(ctx, file, &w);
    qsae_weights_close(&w);
    return st;
}

static int32_t open_sae(qsae_context *ctx, const char *file)
{
    qsae_sae *sae = NULL;
    const int32_t st = qsae_sae_open(ctx, file, NULL, &sae);
    qsae_sae_close(&sae);
    return st;
}

static int32_t open_tokenizer(qsae_context *ctx, const char *file)
{
    qsae_tokenizer *t = NULL;
    const int32_t st = qsae_tokenizer_open(ctx, file, &t);
    qsae_tokenizer_close(&t);
    return st;
}

/* Text that normalization changes. */
static int32_t encode_text(qsae_context *ctx, const char *file)
{
    static const char text[] = "ab e\xcc\x81xx";
    qsae_tokenizer *t = NULL;
    int32_t ids[16];
    int64_t n = 0;
    int32_t st = qsae_tokenizer_open(ctx, file, &t);
    if (st == QSAE_OK)
        st = qsae_tokenizer_encode(t, text, sizeof text - 1, 0, ids, 16, &n);
    content = 0;
    for (int64_t i = 0; st == QSAE_OK && i < n; i++)
        content = content * 31 + (uint64_t)ids[i];
    qsae_tokenizer_close(&t);
    return st;
}

static int32_t open_probes(qsae_context *ctx, const char *file)
{
    qsae_tokenizer *t = NULL;
    qsae_probes *p = NULL;
    int32_t st = qsae_tokenizer_open(ctx, path("bpe/tokenizer.json"), &t);
    if (st == QSAE_OK)
        st = qsae_probes_open(ctx, t, file, NULL, &p);
    qsae_probes_close(&p);
    qsae_tokenizer_close(&t);
    return st;
}

/* `left`: blocks that libzip 1.7 may leave where it runs out of memory as it opens a member.
 * `longer`: with QSAE_LONG_TESTS=1 only. */
static const struct reader {
    const char *name, *file;
    int32_t (*run)(qsae_context *ctx, const char *file);
    int left;
    bool longer;
} readers[] = {
    { "safetensors", "one.safetensors", load, 0, false },
    { "tensors", "one.safetensors", list, 0, false },
    { "npy", "f.npy", load, 0, false },
    { "npz", "f.npz", load, 1, false },
    { "npz with other names", "other.npz", load, 1, false },
    { "gguf", "two-00001-of-00002.gguf", load, 0, false },
    { "index", "index", load, 0, false },
    { "single", "single", load, 0, false },
    { "json", "a.json", read_json, 0, false },
    { "yaml", "a.yaml", read_yaml, 0, false },
    { "logits", "base", read_logits, 0, false },
    { "rows", "base.out", write_logits, 0, false },
    { "written", "out", write_tensors, 0, false },
    { "file", "file", write_and_reopen, 0, false },
    { "snapshot", "hub/snapshots/main", load, 0, false },
    { "folder", "single", list_folder, 0, false },
    { "weights", QSAE_TEST_DATA "/models/gemma3_sharded", open_weights, 0, false },
    { "compressed weights", QSAE_TEST_DATA "/models/stored_int4_group", open_weights, 0, false },
    { "compressed weights in 8 bits", QSAE_TEST_DATA "/models/stored_w8a8", open_weights, 0,
      false },
    { "weights of GGUF", QSAE_TEST_DATA "/models/gguf_gemma3/model.gguf", open_weights, 0, false },
    { "Gemma 4", QSAE_TEST_DATA "/models/gemma4_dense", open_weights, 0, false },
    { "SAELens", QSAE_TEST_DATA "/saes/jumprelu", open_sae, 0, false },
    { "Gemma Scope", QSAE_TEST_DATA "/saes/gemma_scope_npz", open_sae, 1, false },
    { "Gemma Scope 2", QSAE_TEST_DATA "/saes/gemma_scope_2/resid_post/layer_2_width_48_l0_small",
      open_sae, 0, false },
    { "BPE", "bpe/tokenizer.json", open_tokenizer, 0, false },
    { "Unigram", "unigram/tokenizer.json", open_tokenizer, 0, false },
    { "files", "files", open_tokenizer, 0, false },
    { "listed", "listed", open_tokenizer, 0, false },
    { "probes", "probes.jsonl", open_probes, 0, false },
    { "tokenizer", QSAE_TEST_EXAMPLES "/tiny-gemma3", open_tokenizer, 0, false },
    { "weights of GGUF, GPT-2", QSAE_TEST_DATA "/models/gguf_gpt2/model.gguf", open_weights, 0,
      true },
    { "weights of GGUF, Llama 3", QSAE_TEST_DATA "/models/gguf_llama_rope3/model.gguf",
      open_weights, 0, true },
    { "weights of GGUF, Gemma 2", QSAE_TEST_DATA "/models/gguf_gemma2/model.gguf", open_weights, 0,
      true },
    { "tokenizer of GGUF", "t.gguf", open_tokenizer, 0, true },
    { "text", "bpe/tokenizer.json", encode_text, 0, true },
    { "many tokens", "many", open_tokenizer, 0, true },
};

static const struct fault {
    const char *name;
    enum inject_kind kind;
    int what;
    bool unnoticed;
} faults[] = {
    { "memory", INJECT_MEMORY, 0, false }, { "maps", INJECT_MAP, 0, false },
    { "EIO", INJECT_IO, EIO, false },      { "ENOMEM of the system", INJECT_IO, ENOMEM, false },
    { "EINTR", INJECT_IO, EINTR, true },   { "short", INJECT_IO, INJECT_SHORT, true },
};

static bool status_fits(const struct fault *f, int32_t st)
{
    if (f->kind == INJECT_MEMORY)
        return st == QSAE_ENOMEM;
    /* What cannot be looked at may be taken for absent; a file that cannot be is still refused. */
    return st == QSAE_EIO || st == QSAE_ENOMEM || inject_fired() == CALL_STAT ||
           inject_fired() == CALL_FOLDER;
}

static qsae_context *open_mode(int32_t mode)
{
    qsae_context_settings s;
    qsae_context *ctx = NULL;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.files = mode;
    assert_ok(qsae_context_open(&s, &ctx));
    return ctx;
}

/* One fault, in a context of its own, which keeps the structs of closed handles; false with a line
 * on stdout. want: the content without it. */
static bool one(int32_t mode, const struct reader *r, const struct fault *f, int64_t at,
                bool onwards, uint64_t want, int64_t *statuses)
{
    const int64_t before = inject_blocks();
    qsae_context *ctx = open_mode(mode);
    inject_arm(f->kind, at, onwards, f->what);
    const int32_t st = r->run(ctx, path(r->file));
    const bool fits = st == QSAE_OK ? content == want : (!f->unnoticed && status_fits(f, st));
    inject_disarm();
    qsae_context_close(&ctx);
    const int64_t left = inject_blocks() - before;
    *statuses += st != QSAE_OK;
    if (!fits || left > r->left || (st != QSAE_OK && !qsae_error_message()[0])) {
        printf("#   %s, call %lld%s: %s, %lld blocks are left: %s\n", f->name, (long long)at,
               onwards ? " and from then on" : "", qsae_status_name(st), (long long)left,
               qsae_error_message());
        return false;
    }
    ctx = open_mode(mode);
    const int32_t again = r->run(ctx, path(r->file));
    qsae_context_close(&ctx);
    if (again == QSAE_OK)
        return true;
    printf("#   %s, call %lld: not without the fault either: %s\n", f->name, (long long)at,
           qsae_error_message());
    return false;
}

static bool series(const struct reader *r, const struct fault *f, int32_t mode, int64_t *n,
                   int64_t *statuses)
{
    qsae_context *ctx = open_mode(mode);
    bool good = true;
    for (int warm = 0; warm < 2; warm++) /* what libraries set up once */
        assert_ok(r->run(ctx, path(r->file)));
    inject_arm(f->kind, -1, false, f->what);
    assert_ok(r->run(ctx, path(r->file)));
    const int64_t calls = inject_disarm();
    const uint64_t want = content;
    qsae_context_close(&ctx);
    const int64_t most = !full_length() ? 12 : calls <= 800 ? calls : 200;
    const int64_t step = calls > most ? calls / most : 1;
    for (int onwards = 0; onwards < (f->unnoticed ? 1 : 2); onwards++)
        for (int64_t at = step / 2; at < calls; at += step, ++*n)
            good = one(mode, r, f, at, onwards, want, statuses) && good;
    return good;
}

static void write_file(const char *name, const void *data, size_t size)
{
    FILE *const f = fopen(path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void write_safetensors(const char *name, const char *header, const char *data)
{
    char text[512] = { (char)strlen(header) };
    const size_t n = strlen(header), size = strlen(data);
    memcpy(text + 8, header, n);
    memcpy(text + 8 + n, data, size);
    write_file(name, text, 8 + n + size);
}

/* A part of a split GGUF file with one tensor of four bytes. */
static void write_part(const char *name, char no, char tensor)
{
    static const char head[] = "GGUF\3\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0";
    static const char keys[] =
        "\x8\0\0\0\0\0\0\0split.no\0\0\0\0N\xb\0\0\0\0\0\0\0split.count\0\0\0"
        "\0\2\1\0\0\0\0\0\0\0T\1\0\0\0\4\0\0\0\0\0\0\0\x18\0\0\0\0\0\0\0\0\0\0";
    char data[160] = { 0 };
    const size_t n = sizeof head + sizeof keys, start = (n + 31) / 32 * 32;
    memcpy(data, head, sizeof head);
    memcpy(data + sizeof head, keys, sizeof keys);
    data[sizeof head + 20] = no;
    data[sizeof head + 53] = tensor;
    memcpy(data + start, "abcd", 4);
    write_file(name, data, start + 4);
}

static void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text));
}

#define SPACE "\xc4\xa0" /* the byte-level character of a space */
#define VOCAB \
    "{\"a\":0,\"b\":1,\"ab\":2,\"" SPACE "\":3,\"" SPACE "a\":4,\"<|endoftext|>\":5,\"c\":6}"

static void make_tokenizers(void)
{
    static const char *const folders[] = { "bpe", "unigram", "files", "listed", "many" };
    for (int i = 0; i < 5; i++)
        mkdir(path(folders[i]), 0700);
    write_text(
        "bpe/tokenizer.json",
        "{\"added_tokens\":[{\"id\":7,\"content\":\"<s>\",\"special\":true,\"lstrip\":true}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
        "\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"a\"}]},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
        "\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[7]}}},"
        "\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"unk_token\":\"c\",\"vocab\":" VOCAB ",\"merges\":[\"a b\","
        "[\"" SPACE "\",\"a\"]]}}");
    write_text(
        "unigram/tokenizer.json",
        "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"},\"model\":{"
        "\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-1.5],[\"b\",-2.25e0],"
        "[\"ab\",-2.5],[\"\xe2\x96\x81\",-1]]}}");
    write_text("files/vocab.json", VOCAB);
    write_text("files/merges.txt", "#version: 0.2\na b\n" SPACE " a\n");
    write_text(
        "files/tokenizer_config.json",
        "{\"tokenizer_class\":\"GPT2Tokenizer\",\"add_bos_token\":true,\"eos_token\":{\"content\":"
        "\"<e>\",\"lstrip\":true},\"additional_special_tokens\":[\"<x>\",\"<y>\"]}");
    write_text("files/special_tokens_map.json", "{\"bos_token\":\"<b>\",\"pad_token\":\"<x>\"}");
    write_text("files/added_tokens.json", "{\"<x>\":8,\"<b>\":7}");
    write_text("many/vocab.json", VOCAB);
    write_text("many/merges.txt", "a b\n");
    write_text("many/tokenizer_config.json",
               "{\"tokenizer_class\":\"GPT2Tokenizer\",\"additional_special_tokens\":[\"<0>\","
               "\"<1>\",\"<2>\",\"<3>\",\"<4>\",\"<5>\",\"<6>\",\"<7>\",\"<8>\",\"<9>\"]}");
    write_text("listed/vocab.json", VOCAB);
    write_text("listed/merges.txt", "a b\n");
    write_text(
        "listed/tokenizer_config.json",
        "{\"tokenizer_class\":\"Qwen2TokenizerFast\",\"added_tokens_decoder\":{\"7\":{\"content\":"
        "\"<e>\",\"special\":true},\"8\":{\"content\":\"<x>\",\"special\":false}},\"eos_token\":"
        "\"<e>\",\"add_eos_token\":true}");
    static const char gguf[] =
        "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\4\0\0\0\0\0\0"
        "\0\x14\0\0\0\0\0\0\0tokenizer.ggml.model\x8\0\0\0\4\0\0\0\0\0\0\0gpt2"
        "\x12\0\0\0\0\0\0\0tokenizer.ggml.pre\x8\0\0\0\x5\0\0\0\0\0\0\0qwen2"
        "\x15\0\0\0\0\0\0\0tokenizer.ggml.tokens\x9\0\0\0\x8\0\0\0\2\0\0\0\0\0\0\0"
        "\1\0\0\0\0\0\0\0a\2\0\0\0\0\0\0\0aa"
        "\x15\0\0\0\0\0\0\0tokenizer.ggml.merges\x9\0\0\0\x8\0\0\0\1\0\0\0\0\0\0\0"
        "\3\0\0\0\0\0\0\0a a";
    write_file("t.gguf", gguf, sizeof gguf - 1);
    write_text("probes.jsonl",
               "{\"context\":\"a b\",\"good\":\" a\",\"bad\":\"b\",\"tags\":[\"t\",\"u\"]}\n"
               "{\"context\":\"a \",\"good\":\"c\",\"bad\":\"ab\",\"tags\":[\"u\"]}\n");
}

static void make_files(void)
{
    static const char
        one[] = "{\"__metadata__\":{\"k\\n\":\"v\\n\"},\"a\":{\"dtype\":\"U8\",\"shape\":[2,2],"
                "\"data_offsets\":[0,4]}}",
        index[] = "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\"}}",
        json[] = "{\"a\": [1, 2.5, true, null, \"\\u00e9\", {}], \"b\": {\"c\": -7}}",
        yaml[] = "a: 1\nb:\n  c: 'x'\n  d: 2.5\ne:\n- 1\n";
    char base[132] = "_logits_\6\0\0\0\3\0\0\0\2";
    mkdir(path("index"), 0700);
    mkdir(path("single"), 0700);
    write_safetensors("one.safetensors", one, "abcd");
    write_safetensors("single/x.safetensors", one, "abcd");
    write_file("single/y.txt", "y", 1);
    write_file("f.npy", npy_fortran, sizeof npy_fortran);
    write_file("f.npz", npz_deflated, sizeof npz_deflated);
    unsigned char other[sizeof npz_deflated]; /* a name that libzip turns into UTF-8 */
    memcpy(other, npz_deflated, sizeof other);
    for (size_t i = 0; i + 5 < sizeof other; i++)
        if (memcmp(other + i, "f.npy", 5) == 0)
            other[i] = 0x82;
    write_file("other.npz", other, sizeof other);
    mkdir(path("hub"), 0700);
    mkdir(path("hub/blobs"), 0700);
    mkdir(path("hub/snapshots"), 0700);
    mkdir(path("hub/snapshots/main"), 0700);
    write_safetensors("hub/blobs/0123456789abcdef0123456789abcdef01234567", one, "abcd");
    assert_int_equal(symlink("../../blobs/0123456789abcdef0123456789abcdef01234567",
                             path("hub/snapshots/main/s")), 0);
    write_text("hub/snapshots/main/model.safetensors.index.json", "{\"weight_map\":{\"a\":\"s\"}}");
    write_part("two-00001-of-00002.gguf", 0, 'a');
    write_part("two-00002-of-00002.gguf", 1, 'b');
    write_safetensors("index/s1", one, "abcd");
    write_safetensors("index/s2",
                      "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "abcd");
    write_file("index/model.safetensors.index.json", index, sizeof index - 1);
    write_file("a.json", json, sizeof json - 1);
    write_file("a.yaml", yaml, sizeof yaml - 1);
    write_file("base", base, sizeof base);
    make_tokenizers();
}

static void remove_all(const char *at)
{
    DIR *const dir = opendir(at);
    char name[512];
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
            snprintf(name, sizeof name, "%.255s/%.255s", at, e->d_name);
            if (remove(name) != 0)
                remove_all(name);
        }
    if (dir)
        closedir(dir);
    rmdir(at);
}

int main(int argc, char **argv)
{
    const char *const base = getenv("TMPDIR");
    const int n_readers = (int)(sizeof readers / sizeof readers[0]);
    int failed = 0;
    snprintf(folder, sizeof folder, "%s/qsae-readers-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    make_files();
    printf("1..%d\n", n_readers);
    for (int i = 0; i < n_readers; i++) {
        const struct reader *const r = &readers[i];
        int64_t n = 0, statuses = 0;
        bool good = true;
        if (argc > 1 && strcmp(argv[1], r->name) != 0) {
            printf("ok %d - %s # SKIP another was asked for\n", i + 1, r->name);
            continue;
        }
        if (r->longer && !full_length()) {
            printf("ok %d - %s # SKIP only with QSAE_LONG_TESTS=1\n", i + 1, r->name);
            continue;
        }
        for (size_t f = 0; f < sizeof faults / sizeof faults[0]; f++)
            for (int32_t mode = QSAE_FILES_MAP; mode <= QSAE_FILES_READ; mode++)
                good = series(r, &faults[f], mode, &n, &statuses) && good;
        printf("%sok %d - %s: %lld faults, %lld statuses\n", good ? "" : "not ", i + 1, r->name,
               (long long)n, (long long)statuses);
        fflush(stdout);
        failed |= !good;
    }
    remove_all(folder);
    return failed;
}
