/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Zstandard texts (RFC 8878), made by hand of blocks that repeat one byte: a file of 80 bytes takes
 * no more than 1 MiB to decompress, what zstd itself takes included, and what frames say that they
 * hold takes nothing until they hold it.
 */
#include <unistd.h>

#include "heap.h"
#include "shapes.h"
#include "support.h"

#define FILE_BYTES 80
#define MOST_TEXT (256 * FILE_BYTES + (768 << 10))
#define BLOCK (128 << 10)
#define UNSAID UINT64_MAX

static char path[64];
static qsae_context *ctx;
static qsae_tokenizer *tokenizer;

/* A frame of n bytes c that says it holds `said`. */
static void put_frame(struct out *o, char c, int64_t n, uint64_t said)
{
    put_int(o, 0xfd2fb528, 4);
    put_int(o, said == UNSAID ? 0x00 : 0xc0, 1);
    put_int(o, 0x38, 1); /* a window of 128 KiB */
    if (said != UNSAID)
        put_int(o, said, 8);
    do {
        const int64_t size = n < BLOCK ? n : BLOCK;
        n -= size;
        put_int(o, (uint64_t)(n == 0) | 1 << 1 | (uint64_t)size << 3, 3);
        put(o, &c, 1);
    } while (n > 0);
}

static void put_skipped(struct out *o, uint64_t n)
{
    put_int(o, 0x184d2a50 + n % 16, 4);
    put_int(o, n, 4);
    for (; n > 0; n--)
        put_int(o, 0xff, 1);
}

static int32_t open_text(const struct out *o, const char *name, char hash[64])
{
    qsae_corpus *c = NULL;
    qsae_corpus_settings s;
    qsae_corpus_info info = { .struct_size = sizeof info };
    char full[128];
    snprintf(full, sizeof full, "%s/%s", path, name);
    FILE *const f = fopen(full, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(o->data, 1, o->n, f), o->n);
    assert_int_equal(fclose(f), 0);
    qsae_corpus_settings_init(&s, sizeof s);
    s.context = 4;
    heap_start();
    const int32_t status = qsae_corpus_open(ctx, tokenizer, full, &s, &c);
    if (status == QSAE_OK && hash) {
        assert_ok(qsae_corpus_get_info(c, &info));
        snprintf(hash, 64, "%s", info.token_hash);
    }
    qsae_corpus_close(&c);
    unlink(full);
    return status;
}

/* Opens it filled up to 80 bytes with a frame that is skipped; part NULL: the limit is named. */
static void check(struct out *o, int32_t status, const char *part)
{
    char limit[32];
    if (o->n + 8 <= FILE_BYTES)
        put_skipped(o, FILE_BYTES - 8 - o->n);
    snprintf(limit, sizeof limit, "at most %zu bytes", 256 * o->n + (768 << 10));
    part = part ? part : limit;
    assert_in_range(o->n, FILE_BYTES - 8, FILE_BYTES);
    assert_fails(open_text(o, "x.txt.zst", NULL), status, part);
    if (heap_peak() >= 1 << 20)
        fail_msg("%s: %zu bytes of memory", part, heap_peak());
    if (heap_counts_all() && getenv("QSAE_TEST_SHOW"))
        print_message("# \"%s\": peak %zu\n", part, heap_peak());
    o->n = 0;
}

static void test_growth(void **state)
{
    struct out o = { 0 };
    (void)state;
    put_frame(&o, 'a', 8, 8); /* what zstd keeps from the first use on is none of the following */
    assert_ok(open_text(&o, "x.txt.zst", NULL));
    o.n = 0;
    put_frame(&o, ' ', MOST_TEXT, UNSAID); /* all of it is read, and found to be no text */
    check(&o, QSAE_EINVAL, "no document with text");
    put_frame(&o, ' ', MOST_TEXT, MOST_TEXT);
    check(&o, QSAE_EINVAL, "no document with text");
    put_frame(&o, ' ', MOST_TEXT + 1, UNSAID);
    check(&o, QSAE_EFORMAT, NULL);
    put_frame(&o, ' ', MOST_TEXT + 1, MOST_TEXT + 1);
    check(&o, QSAE_EFORMAT, "found 806913");
    put_frame(&o, ' ', 17 * BLOCK, UNSAID);
    check(&o, QSAE_EFORMAT, NULL);
    put_frame(&o, ' ', 4 * BLOCK, UNSAID);
    put_frame(&o, ' ', 4 * BLOCK, UNSAID);
    check(&o, QSAE_EFORMAT, "found more than 806912");
    put_frame(&o, ' ', 8, UINT64_C(1) << 40); /* one that lies about it */
    check(&o, QSAE_EFORMAT, "found 1099511627776");
    put_frame(&o, ' ', 8, UINT64_C(1) << 63);
    put_frame(&o, ' ', 8, UINT64_C(1) << 63);
    check(&o, QSAE_EFORMAT, "found 9223372036854775808");
    put_frame(&o, ' ', 8, 8); /* a sum beyond 64 bits */
    put_frame(&o, ' ', 8, UINT64_MAX - 3);
    check(&o, QSAE_EFORMAT, "found 18446744073709551615");
    put_frame(&o, ' ', 8, 500000);
    put_frame(&o, ' ', 8, 500000);
    check(&o, QSAE_EFORMAT, "found 1000000");
    put_frame(&o, ' ', 6 * BLOCK, 8);
    check(&o, QSAE_EFORMAT, "expected Zstandard data");
    put_frame(&o, ' ', 8, 6 * BLOCK);
    check(&o, QSAE_EFORMAT, "expected Zstandard data");
    free(o.data);
}

/* What the program zstd (1.5.4) reads and what it does not. */
static void test_frames(void **state)
{
    struct out o = { 0 }, plain = { 0 };
    char want[64], found[64];
    (void)state;
    put_text(&plain, "aaaaaaaaaabbbbbbbbbb");
    assert_ok(open_text(&plain, "x.txt", want));
    put_skipped(&o, 5);
    put_frame(&o, 'a', 7, 7);
    put_skipped(&o, 0);
    put_frame(&o, 'a', 3, UNSAID);
    put_frame(&o, 'a', 0, 0); /* an empty frame */
    put_frame(&o, 'b', 10, UNSAID);
    put_skipped(&o, 17);
    assert_ok(open_text(&o, "x.txt.zst", found));
    assert_string_equal(found, want);
    const size_t n = o.n;
    const char *const behind[] = { "\0", "ab", "abcd", "garbage", "\x28\xb5\x2f",
                                   "\x28\xb5\x2f\xfd", "\x50\x2a\x4d\x18\x09",
                                   "\x25\xb5\x2f\xfd\x00\x38\x03" };
    const size_t sizes[] = { 1, 2, 4, 7, 3, 4, 5, 7 };
    for (size_t i = 0; i < sizeof behind / sizeof behind[0]; i++) {
        o.n = n;
        put(&o, behind[i], sizes[i]);
        assert_fails(open_text(&o, "x.txt.zst", NULL), QSAE_EFORMAT, "expected Zstandard data");
    }
    o.n = n;
    put_skipped(&o, 9);
    o.n -= 1;
    assert_fails(open_text(&o, "x.txt.zst", NULL), QSAE_EFORMAT, "ends early");
    o.n = 0;
    assert_fails(open_text(&o, "x.txt.zst", NULL), QSAE_EFORMAT, "ends early");
    put_skipped(&o, 3); /* a text of nothing */
    assert_fails(open_text(&o, "x.txt.zst", NULL), QSAE_EINVAL, "no document with text");
    o.n = 0;
    put_int(&o, 0xfd2fb528, 4); /* asks for dictionary 7 */
    put_int(&o, 0x013801 | 7 << 16, 3);
    put_int(&o, 0x53, 3);
    put(&o, "a", 1);
    assert_fails(open_text(&o, "x.txt.zst", NULL), QSAE_EFORMAT, "ictionary");
    free(o.data);
    free(plain.data);
}

static int open_all(void **state)
{
    qsae_context_settings s;
    (void)state;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    heap_settings(&s);
    strcpy(path, "/tmp/qsae-packed-XXXXXX");
    return qsae_context_open(&s, &ctx) != QSAE_OK || !mkdtemp(path) ||
           qsae_tokenizer_open(ctx, QSAE_FUZZ_FIXTURE, &tokenizer) != QSAE_OK;
}

static int close_all(void **state)
{
    (void)state;
    qsae_tokenizer_close(&tokenizer);
    qsae_context_close(&ctx);
    return rmdir(path);
}

int main(void)
{
#ifdef QSAE_HAVE_ZSTD
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_growth),
                                        cmocka_unit_test(test_frames) };
    return cmocka_run_group_tests_name("packed", tests, open_all, close_all);
#else
    (void)test_growth;
    (void)test_frames;
    (void)open_all;
    (void)close_all;
    printf("this build has no zstd\n");
    return 77; /* meson: skipped */
#endif
}
