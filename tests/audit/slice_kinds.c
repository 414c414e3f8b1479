/* SPDX-License-Identifier: BSD-2-Clause */
/* Every way to divide the tokens, counted again from the chunks of the corpus; names and lists that
 * are refused; positions left out of feature statistics. */
#include <unistd.h>

#include "document.h"

enum { LINES = 60, DOCUMENTS = 64, CHUNK = 64, VALUES = 600 };

static char folder[] = "/tmp/qsae-kinds-XXXXXX";
static char text_path[64], plain_path[64], list_path[64], array_path[64];

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Metadata of document i: every type that JSON has, at several depths. */
static json_t *metadata(int i)
{
    char name[16], wide[520] = "";
    json_t *const of_type[] = { json_string("x"), json_integer(3), json_real(0.5), json_true(),
                                json_false(), json_null(), json_array(), json_object() };
    for (int k = 0; k < 128 + i % 2; k++)
        strcat(wide, i % 4 < 2 ? "\xc3\xa9" : "\xe2\x82\xac"); /* 2 and 3 bytes */
    snprintf(name, sizeof name, "n%d", i);
    json_t *const o = json_pack("{s:O,s:s,s:s,s:{s:{s:i}},s:s}", "any", of_type[i % 8], "name",
                                name, "position", i % 2 ? "up" : "down", "a", "b", "c", i % 3,
                                "wide", wide);
    assert_non_null(o);
    if (i % 5)
        json_object_set_new(o, "some", json_integer(-7));
    for (int k = 0; k < 8; k++)
        json_decref(of_type[k]);
    return o;
}

static bool is_ascii(const char *text)
{
    while (*text && (unsigned char)*text < 128)
        text++;
    return !*text;
}

/* The beginnings of the bundled documents with metadata of this test, and without any. */
static int make_files(void **state)
{
    char *line = NULL;
    size_t size = 0;
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(text_path, sizeof text_path, "%s/text.jsonl", folder);
    snprintf(plain_path, sizeof plain_path, "%s/text.txt", folder);
    snprintf(list_path, sizeof list_path, "%s/counts.txt", folder);
    snprintf(array_path, sizeof array_path, "%s/counts.npy", folder);
    FILE *const in = fopen(DATA "/eval.jsonl", "rb"), *const out = fopen(text_path, "wb"),
         *const plain = fopen(plain_path, "wb");
    if (!in || !out || !plain)
        return -1;
    for (int i = 0; i < LINES && getline(&line, &size, in) > 0;) {
        json_t *const from = json_loads(line, 0, NULL);
        const char *const text = json_string_value(json_object_get(from, "text"));
        if (!is_ascii(text)) {
            json_decref(from);
            continue;
        }
        json_t *const to = metadata(i);
        json_object_set_new(to, "text", json_stringn(text, strnlen(text, 40 + 30 * (size_t)i++)));
        fprintf(plain, "%s\n", json_string_value(json_object_get(to, "text")));
        json_dumpf(to, out, JSON_COMPACT);
        fputc('\n', out);
        json_decref(from);
        json_decref(to);
    }
    free(line);
    fclose(in);
    return fclose(plain) | fclose(out);
}

static int remove_files(void **state)
{
    (void)state;
    unlink(text_path);
    unlink(plain_path);
    unlink(list_path);
    unlink(array_path);
    return rmdir(folder);
}

static void settings(qsae_audit_settings *s, const char *const *slices, int64_t n)
{
    defaults(s);
    s->text = text_path;
    s->context = CHUNK;
    s->batch = 4;
    s->n_saes = 0;
    s->reference_only = 1;
    s->slices = slices;
    s->n_slices = n;
}

static void refuses(qsae_context *ctx, const char *slice, int32_t status, const char *part)
{
    qsae_audit_settings s;
    qsae_audit *audit = NULL;
    settings(&s, &slice, 1);
    assert_fails(qsae_audit_open(ctx, &s, &audit), status, part);
    assert_null(audit);
}

/* ---- the same text, read by the test ---- */

struct text {
    qsae_tokenizer *tokenizer;
    qsae_corpus *corpus;
    qsae_corpus_info info;
    int64_t *count;              /* [vocab] of ids in the chunks */
    int64_t length[DOCUMENTS];
    json_t *metadata[DOCUMENTS];
    int64_t vocab;
};

static void open_text(qsae_context *ctx, struct text *t)
{
    qsae_corpus_settings s;
    qsae_tokenizer_info info = { .struct_size = sizeof info };
    memset(t, 0, sizeof *t);
    assert_ok(qsae_tokenizer_open(ctx, DATA "/tiny-gemma3", &t->tokenizer));
    assert_ok(qsae_tokenizer_get_info(t->tokenizer, &info));
    t->vocab = info.vocab;
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = CHUNK;
    s.bos_policy = QSAE_BOS_DOC_START; /* of profile article */
    assert_ok(qsae_corpus_open(ctx, t->tokenizer, text_path, &s, &t->corpus));
    t->info.struct_size = sizeof t->info;
    assert_ok(qsae_corpus_get_info(t->corpus, &t->info));
    assert_int_equal(t->info.documents, LINES);
    t->count = calloc((size_t)t->vocab, sizeof *t->count);
    for (int64_t c = 0; c < t->info.chunks; c++) {
        const int32_t *ids;
        assert_ok(qsae_corpus_chunk(t->corpus, c, &ids, NULL, NULL, NULL));
        for (int i = 0; i < CHUNK; i++)
            t->count[ids[i]]++;
    }
    for (int i = 0; i < LINES; i++) {
        qsae_document_info d = { .struct_size = sizeof d };
        assert_ok(qsae_corpus_document(t->corpus, i, &d));
        t->length[i] = d.n_tokens;
        t->metadata[i] = metadata(i);
    }
}

static void close_text(struct text *t)
{
    for (int i = 0; i < LINES; i++)
        json_decref(t->metadata[i]);
    free(t->count);
    qsae_corpus_close(&t->corpus);
    qsae_tokenizer_close(&t->tokenizer);
}

/* A scored position. */
struct place {
    int32_t label;
    int64_t document, position;
};

static const char *position_of(int64_t v)
{
    return v < 256 ? "0-255" : v < 1024 ? "256-1023" : v < 4096 ? "1024-4095" : "4096+";
}

static const char *frequency_of(int64_t n)
{
    return n < 10 ? "<10" : n < 100 ? "10-99" : n < 1000 ? "100-999" : n < 10000 ? "1000-9999"
                                                                                 : ">=10000";
}

/* The text is ASCII, and so are its tokens. */
static const char *script_of(const struct text *t, int32_t id)
{
    const char *bytes;
    size_t n;
    assert_ok(qsae_tokenizer_token(t->tokenizer, id, &bytes, &n));
    if (qsae_tokenizer_is_special(t->tokenizer, id))
        return "common";
    for (size_t i = 0; i < n; i++) {
        assert_true((unsigned char)bytes[i] < 128);
        if ((bytes[i] | 32) >= 'a' && (bytes[i] | 32) <= 'z')
            return "latin";
    }
    return "common";
}

/* As much of the wide string as has 255 bytes: whole characters of 2 or 3. */
static const char *wide_of(int64_t i)
{
    static char out[256];
    const size_t bytes = i % 4 < 2 ? 254 : 255;
    json_t *const o = metadata((int)i);
    snprintf(out, sizeof out, "%.*s", (int)bytes,
             json_string_value(json_object_get(o, "wide")));
    json_decref(o);
    return out;
}

static void value_of(const struct text *t, const char *name, const struct place *p, char *out,
                     size_t size)
{
    static const char *const of_type[] = { "x", "3", "0.5", "true", "false", "(none)", "(none)",
                                           "(none)" };
    const char *v = NULL;
    char number[8];
    snprintf(number, sizeof number, "%d", (int)(p->document % 3));
    if (strcmp(name, "position") == 0)
        v = position_of(p->position);
    else if (strcmp(name, ".position") == 0)
        v = p->document % 2 ? "up" : "down";
    else if (strcmp(name, "length") == 0)
        v = position_of(t->length[p->document]);
    else if (strcmp(name, "any") == 0)
        v = of_type[p->document % 8];
    else if (strcmp(name, "some") == 0)
        v = p->document % 5 ? "-7" : "(none)";
    else if (strcmp(name, "a.b.c") == 0)
        v = number;
    else if (strcmp(name, "a.b") == 0)
        v = "(none)";
    else if (strcmp(name, "wide") == 0)
        v = wide_of(p->document);
    else if (strcmp(name, "script") == 0)
        v = script_of(t, p->label);
    else if (strcmp(name, "frequency") == 0)
        v = frequency_of(t->count[p->label]);
    if (!v)
        fail_msg("no values of %s", name);
    snprintf(out, size, "%s", v);
}

/* Tokens and documents of the parts of one division: those of the result and those counted. */
static void check_division(const struct text *t, const json_t *list, const char *name)
{
    static struct counted {
        char value[300];
        int64_t tokens, n_documents;
        bool document[DOCUMENTS];
    } all[VALUES];
    size_t n = 0, seen = 0, i;
    const json_t *part;
    for (int64_t c = 0; c < t->info.chunks; c++) {
        const int32_t *labels;
        const int64_t *document;
        assert_ok(qsae_corpus_chunk(t->corpus, c, NULL, &labels, &document, NULL));
        for (int r = 0; r < CHUNK; r++) {
            const struct place p = { labels[r], document[r], r };
            char value[300], part_of[2][140];
            size_t k = 0;
            if (p.label < 0)
                continue;
            if (strcmp(name, "script*a.b.c") == 0) {
                value_of(t, "script", &p, part_of[0], sizeof part_of[0]);
                value_of(t, "a.b.c", &p, part_of[1], sizeof part_of[1]);
                snprintf(value, sizeof value, "%s*%s", part_of[0], part_of[1]);
            } else {
                value_of(t, name, &p, value, sizeof value);
            }
            while (k < n && strcmp(all[k].value, value) != 0)
                k++;
            if (k == n) {
                all[n] = (struct counted){ .tokens = 0 };
                snprintf(all[n++].value, sizeof all[0].value, "%s", value);
            }
            all[k].tokens++;
            all[k].n_documents += !all[k].document[p.document];
            all[k].document[p.document] = true;
        }
    }
    json_array_foreach(list, i, part) {
        size_t k = 0;
        if (strcmp(text_at(part, "dimension"), name) != 0)
            continue;
        while (k < n && strcmp(all[k].value, text_at(part, "value")) != 0)
            k++;
        near(name, at(part, "tokens"), k < n ? (double)all[k].tokens : 0, 0);
        near(name, at(part, "documents"), k < n ? (double)all[k].n_documents : 0, 0);
        seen += k < n;
    }
    if (seen != n)
        fail_msg("%s: expected %zu values, found %zu of them", name, n, seen);
}

static void test_counts(void **state)
{
    static const char *const names[] = { "position", ".position", "length", "any", "some", "a.b.c",
                                         "a.b", "wide", "script", "frequency", "script*a.b.c" };
    const int64_t n = sizeof names / sizeof names[0];
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    struct text t;
    open_text(ctx, &t);
    settings(&s, names, n);
    json_t *const result = run(ctx, &s);
    const json_t *const slices = json_object_get(result, "slices");
    near("tokens", at(json_object_get(result, "reference"), "predicted"),
         (double)t.info.predicted_tokens, 0);
    assert_int_equal(json_array_size(json_object_get(slices, "dimensions")), n);
    for (int64_t i = 0; i < n; i++)
        check_division(&t, json_object_get(slices, "list"), names[i]);
    json_decref(result);
    close_text(&t);
    qsae_context_close(&ctx);
}

/* ---- names that are refused ---- */

static void test_refused(void **state)
{
    static const struct {
        const char *slice, *part;
    } cases[] = {
        { NULL, "slice: expected a name" },
        { "", "slice: expected a name" },
        { "*", "slice: expected a name" },
        { "class*", "slice: expected a name" },
        { "*class", "slice: expected a name" },
        { "none", "slice none: no document has it in its metadata; expected position, class" },
        { ".class", "slice .class: no document has it" },
        { ".", "slice .: no document has it" },
        { "a.b.c.d", "slice a.b.c.d: no document has it" },
        { "class*none", "slice none: no document has it" },
        { "script*name", "slice script*name: more than 512 combinations" },
        { "class*any*script*position", "slice class*any*script*position: more than 3 factors" },
        { "script*class*frequency", "slice script*class*frequency: more than 512 combinations" },
        { "entropy=", "slice entropy=: expected up to 15 ascending borders in nats" },
        { "entropy=x", "expected up to 15" },
        { "entropy=+1", "expected up to 15" },
        { "entropy= 1", "expected up to 15" },
        { "entropy=-1", "expected up to 15" },
        { "entropy=0", "expected up to 15" },
        { "entropy=.0", "expected up to 15" },
        { "entropy=.", "expected up to 15" },
        { "entropy=1,", "expected up to 15" },
        { "entropy=1;2", "expected up to 15" },
        { "entropy=2,1", "expected up to 15" },
        { "entropy=1,1", "expected up to 15" },
        { "entropy=1e999", "expected up to 15" },
        { "entropy=1,1.0000001", "differ in six digits" },
        { "entropy=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "expected up to 15" },
    };
    char deep[400] = "wide";
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuses(ctx, cases[i].slice, QSAE_EINVAL, cases[i].part);
    memset(deep + 4, 'x', 300);
    refuses(ctx, deep, QSAE_EINVAL, "no document has it");
    /* More values than a division may have; text without metadata. */
    qsae_audit_settings s;
    qsae_audit *audit = NULL;
    const char *slice = "name";
    char path[64], line[64];
    snprintf(path, sizeof path, "%s/many.jsonl", folder);
    FILE *const f = fopen(path, "wb");
    for (int i = 0; i < 65; i++) {
        snprintf(line, sizeof line, "{\"text\": \"Good morning.\", \"name\": %d}\n", i);
        fputs(line, f);
    }
    fclose(f);
    settings(&s, &slice, 1);
    s.text = path;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL,
                 "slice name: more than 64 values in the documents");
    unlink(path);
    s.text = plain_path;
    assert_fails(qsae_audit_open(ctx, &s, &audit), QSAE_EINVAL, "slice name: no document has it");
    qsae_context_close(&ctx);
}

static void test_borders(void **state)
{
    static const char *const names[] = { "entropy=.5,1,2.25",
                                         "entropy=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15" };
    static const char *const want[] = { "<0.5", "0.5-1", "1-2.25", ">=2.25" };
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    double tokens = 0, coarse = 0, fine = 0;
    size_t i;
    const json_t *part;
    settings(&s, names, 2);
    s.reference_only = 0;
    s.conditions = (const char *const[]){ "none" };
    s.n_conditions = 1;
    json_t *const result = run(ctx, &s);
    const json_t *const slices = json_object_get(result, "slices");
    assert_int_equal(json_array_size(json_object_get(slices, "list")), 4 + 16);
    json_array_foreach(json_object_get(slices, "list"), i, part) {
        if (i < 4)
            assert_string_equal(text_at(part, "value"), want[i]);
        tokens += i < 4 ? at(part, "tokens") : 0;
        coarse += i < 2 ? at(part, "tokens") : 0;
        fine += i == 4 ? at(part, "tokens") : 0;
    }
    near("tokens", tokens, at(json_object_get(result, "reference"), "predicted"), 0);
    near("below 1", coarse, fine, 0);
    assert_true(coarse > 0 && coarse < tokens);
    const json_t *const edges = json_object_get(
        json_array_get(json_object_get(slices, "dimensions"), 0), "entropy_edges");
    near("edge", json_number_value(json_array_get(edges, 0)), 0.5, 0);
    near("edge", json_number_value(json_array_get(edges, 2)), 2.25, 0);
    json_decref(result);
    qsae_context_close(&ctx);
}

/* ---- lists of frequencies ---- */

static void write_array(const char *shape, const int64_t *v, size_t n)
{
    char data[128 + 8 * 8] = "\x93NUMPY\x01\x00\x76\x00";
    char head[119];
    assert_in_range(n, 0, 8);
    const int used = snprintf(head, sizeof head, "{'descr': '<i8', 'fortran_order': False, "
                              "'shape': %s, }", shape);
    memset(data + 10, ' ', 117);
    memcpy(data + 10, head, (size_t)used);
    data[127] = '\n';
    memcpy(data + 128, v, n * sizeof *v);
    write_file(array_path, data, 128 + n * sizeof *v);
}

/* Tokens by value of a division by a list. */
static json_t *frequencies(qsae_context *ctx, const char *name)
{
    qsae_audit_settings s;
    settings(&s, &name, 1);
    json_t *const result = run(ctx, &s), *const out = json_object();
    const json_t *part;
    size_t i;
    json_array_foreach(json_object_get(json_object_get(result, "slices"), "list"), i, part)
        json_object_set(out, text_at(part, "value"), json_object_get(part, "tokens"));
    json_object_set(out, "fingerprint", json_object_get(result, "fingerprint"));
    json_decref(result);
    return out;
}

static void test_lists(void **state)
{
    static const struct {
        const char *line, *part;
    } wrong[] = {
        { "5", "counts.txt:2: expected a token below 2048 and its count" },
        { "5 x", "counts.txt:2: expected a token" }, { "x 5", "counts.txt:2: expected a token" },
        { "-1 3", "counts.txt:2: expected a token" }, { "1 -2", "counts.txt:2: expected a token" },
        { "2048 1", "counts.txt:2: expected a token" }, { "1 2 3", "counts.txt:2: expected" },
        { "1,2", "counts.txt:2: expected a token" },
        { "1 1234567890123456789", "counts.txt:2: expected a token" },
    };
    static const char *const same[] = { "7 12\n9 1000\n", "7\t12\t\r\n9 1000\r\n",
                                        "# id count\n\n \t\n7 12 # twelve\n9  1000",
                                        "7 3\n9 1000\n7 12\n" };
    const int64_t counts[8] = { 1, 2, 3, 4, 5, 6, 7, -8 };
    char name[96], text[64];
    json_t *first = NULL;
    struct text t;
    int64_t of[2] = { 0 };
    (void)state;
    qsae_context *ctx = open_context(NULL, 1);
    open_text(ctx, &t);
    for (int64_t c = 0; c < t.info.chunks; c++) {
        const int32_t *labels;
        assert_ok(qsae_corpus_chunk(t.corpus, c, NULL, &labels, NULL, NULL));
        for (int r = 0; r < CHUNK; r++) {
            of[0] += labels[r] == 7;
            of[1] += labels[r] == 9;
        }
    }
    snprintf(name, sizeof name, "frequency=%s", list_path);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const int n = snprintf(text, sizeof text, "0 1\n%s\n", wrong[i].line);
        write_file(list_path, text, (size_t)n);
        refuses(ctx, name, QSAE_EFORMAT, wrong[i].part);
    }
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        write_file(list_path, same[i], strlen(same[i]));
        json_t *const got = frequencies(ctx, name);
        near("12", at(got, "10-99"), (double)of[0], 0);
        near("1000", at(got, "1000-9999"), (double)of[1], 0);
        near("0", at(got, "<10"), (double)(t.info.predicted_tokens - of[0] - of[1]), 0);
        if (!first)
            first = json_incref(got);
        assert_true(json_equal(first, got));
        json_decref(got);
    }
    /* Another count in the same bucket is another measurement. */
    write_file(list_path, "7 13\n9 1000\n", 12);
    json_t *const other = frequencies(ctx, name);
    near("13", at(other, "10-99"), (double)of[0], 0);
    assert_string_not_equal(text_at(other, "fingerprint"), text_at(first, "fingerprint"));
    json_decref(other);
    json_decref(first);
    close_text(&t);
    refuses(ctx, "frequency=", QSAE_ENOENT, "");
    refuses(ctx, "frequency=/nowhere/counts", QSAE_ENOENT, "/nowhere/counts");

    snprintf(name, sizeof name, "frequency=%s", array_path);
    write_array("(2, 3)", counts, 6);
    refuses(ctx, name, QSAE_EFORMAT,
            "expected at most 2048 counts, one per token, found 2 rows of 3");
    write_array("(8,)", counts, 8);
    refuses(ctx, name, QSAE_EFORMAT, "count of token 7: expected at least 0, found -8");
    write_array("(7,)", counts, 7);
    json_t *const few = frequencies(ctx, name);
    assert_true(at(few, "<10") > 0 && at(few, "10-99") == 0);
    json_decref(few);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_borders), cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests_name("slice_kinds", tests, make_files, remove_files);
}
