/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * States whose parts are damaged where it hurts, with right checksums: the words that describe
 * metrics, and what is measured once (probes, contexts). Anything but a crash; what is taken has a
 * result or is refused. QSAE_LONG_TESTS=1 in the environment: 4,000 of them.
 */
#include <unistd.h>

#include "core/hash.h"
#include "document.h"
#include "folder.h"

#define HASH 32
#define SPOTS_MOST 1024

static uint64_t seed = 77;

static uint64_t draw(uint64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

static char *in_folder(char path[64], const char *name)
{
    snprintf(path, 64, "%s/%s", folder, name);
    return path;
}

static void write_bytes(const char *path, const void *data, size_t size)
{
    FILE *const f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* A part of the file to damage. */
struct spot {
    size_t at, size;
};

struct state_file {
    uint8_t *data;
    size_t size, at;             /* at: of the reader */
    struct spot describes[SPOTS_MOST], once[SPOTS_MOST];
    size_t n_describes, n_once;
};

static uint64_t word(struct state_file *s)
{
    uint64_t v;
    assert_true(s->at + sizeof v <= s->size);
    memcpy(&v, s->data + s->at, sizeof v);
    s->at += sizeof v;
    return v;
}

static struct spot block(struct state_file *s)
{
    const uint64_t size = word(s);
    const struct spot out = { s->at, (size_t)size };
    assert_true(size <= s->size - s->at);
    s->at += out.size;
    return out;
}

/* Where the parts are: the layout of libqsae/audit/state.c. */
static void find_spots(struct state_file *s)
{
    s->at = 8 + HASH;
    (void)block(s);
    s->at += 2 * sizeof(uint64_t);
    s->at += 2 * sizeof(uint64_t) * (size_t)word(s);
    (void)word(s);
    s->at += sizeof(uint64_t) * (size_t)word(s);
    for (uint64_t n = word(s); n > 0; n--) {
        const struct spot name = block(s);
        const char *const text = (const char *)s->data + name.at;
        (void)word(s);
        const struct spot description = block(s), data = block(s);
        assert_true(s->n_describes < SPOTS_MOST && s->n_once < SPOTS_MOST);
        if (description.size)
            s->describes[s->n_describes++] = description;
        else if (data.size &&
                 (strncmp(text, "probes", 6) == 0 || strncmp(text, "contexts", 8) == 0))
            s->once[s->n_once++] = data;
    }
    assert_int_equal(s->at, s->size - HASH);
}

static void settings(qsae_audit_settings *s, const char *set)
{
    static const char *const conditions[] = { "rtn:bits=4" }, *const slices[] = { "entropy" };
    static const int64_t lengths[] = { 16, 40 };
    defaults(s);
    s->profile = QSAE_PROFILE_DEFAULT;
    s->context = 60;
    s->batch = 3;
    s->max_tokens = 400;
    s->conditions = conditions;
    s->n_conditions = 1;
    s->slices = slices;
    s->n_slices = 1;
    s->probes = set;
    s->contexts = lengths;
    s->n_contexts = 2;
}

/* A word becomes one that counts and indices are wrong with. */
static void damage(uint8_t *data, const struct spot *spot)
{
    static const uint64_t values[] = { 0, 1, 2, 3, 16, 1024, 1025, (uint64_t)1 << 31,
                                       (uint64_t)1 << 32, (uint64_t)1 << 61, INT64_MAX,
                                       (uint64_t)1 << 63, UINT64_MAX };
    const size_t at = spot->size < 8 ? 0 : (size_t)draw(spot->size / 8) * 8;
    if (draw(3) == 0 || spot->size < 8)
        data[spot->at + draw(spot->size)] ^= (uint8_t)(1 + draw(255));
    else
        memcpy(data + spot->at + at, &values[draw(sizeof values / sizeof values[0])], 8);
}

static void seal(uint8_t *data, size_t size)
{
    char hex[QSAE__HASH_SIZE];
    qsae__hash(data, size - HASH, hex);
    memcpy(data + size - HASH, hex, HASH);
}

static bool opens(qsae_context *ctx, const qsae_audit_settings *s)
{
    qsae_audit *audit;
    const char *text;
    size_t size;
    const int32_t st = qsae_audit_open(ctx, s, &audit);
    if (st != QSAE_OK) {
        assert_true(st == QSAE_EFORMAT || st == QSAE_EMISMATCH || st == QSAE_EUNSUPPORTED ||
                    st == QSAE_EINVAL || st == QSAE_EOVERFLOW || st == QSAE_ENOMEM);
        return false;
    }
    (void)qsae_audit_result(audit, &text, &size);
    qsae_audit_close(&audit);
    return true;
}

static void test_parts(void **state)
{
    static const char probes[] =
        "{\"context\": \"The cat\", \"good\": \" sat\", \"bad\": \" blue\"}\n"
        "{\"context\": \"One and one are\", \"good\": \" two\", \"bad\": \" cold\"}\n";
    static struct state_file f;
    qsae_context *ctx = open_context(NULL, 1);
    qsae_audit_settings s;
    char set[64], path[64], bad[64], merged[64];
    const char *const files[] = { in_folder(bad, "bad") };
    const int times = full_length() ? 4000 : 60;
    int refused = 0;
    (void)state;
    write_bytes(in_folder(set, "probes.jsonl"), probes, strlen(probes));
    settings(&s, set);
    s.state = in_folder(path, "state");
    json_decref(run(ctx, &s));
    FILE *const in = fopen(path, "rb");
    assert_non_null(in);
    assert_int_equal(fseek(in, 0, SEEK_END), 0);
    f.size = (size_t)ftell(in);
    rewind(in);
    f.data = malloc(f.size);
    uint8_t *const copy = malloc(f.size);
    assert_non_null(f.data);
    assert_non_null(copy);
    assert_int_equal(fread(f.data, 1, f.size, in), f.size);
    fclose(in);
    find_spots(&f);
    assert_true(f.n_describes > 4 && f.n_once >= 2);
    s.state = bad;
    in_folder(merged, "merged");
    for (int i = 0; i < times; i++) {
        memcpy(copy, f.data, f.size);
        for (uint64_t k = 1 + draw(2); k > 0; k--)
            damage(copy, i % 2 ? &f.once[draw(f.n_once)] : &f.describes[draw(f.n_describes)]);
        seal(copy, f.size);
        write_bytes(bad, copy, f.size);
        const int32_t st = qsae_audit_merge(ctx, files, 1, merged, 0, NULL);
        refused += !opens(ctx, &s) || st != QSAE_OK;
    }
    memcpy(copy, f.data, f.size);
    seal(copy, f.size);
    assert_memory_equal(copy, f.data, f.size); /* the seal is the library's */
    assert_true(refused > times / 4);
    free(copy);
    free(f.data);
    qsae_context_close(&ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_parts) };
    return cmocka_run_group_tests_name("damage", tests, make_folder, remove_folder);
}
