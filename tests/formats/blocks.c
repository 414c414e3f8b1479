/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory of a set that processes share (core/shared.h). */
#include "core/shared.h"
#include "formats/set.h"
#include "formats_test.h"
#include "../memory.h"

enum { SIZE = 8192 };

static void add(qsae__tensors *t, const char *name, void *data, uint64_t bytes)
{
    const qsae__tensor one = { .name = name, .file = "made", .dtype = QSAE_I8, .rank = 1,
                               .shape = { (int64_t)bytes }, .data = data, .bytes = bytes };
    assert_ok(qsae__set_add(t, &one));
}

/* "beyond" ends before its block does, "inside" begins within that of "outer", "elsewhere" lies in
 * no block: only "alone" and "outer" are blocks, and only "alone" is alone in one. */
static qsae__tensors *made(qsae_context *ctx, char *elsewhere)
{
    qsae__tensors *t = NULL;
    char *block[3];
    assert_ok(qsae__set_new(ctx, "made", &t));
    for (int i = 0; i < 3; i++) {
        assert_non_null(block[i] = qsae__set_alloc(t, SIZE));
        memset(block[i], 'a' + i, SIZE);
    }
    add(t, "alone", block[0], SIZE);
    add(t, "beyond", block[1], SIZE / 2);
    add(t, "outer", block[2], SIZE);
    add(t, "inside", block[2] + SIZE / 2, SIZE / 2);
    add(t, "elsewhere", elsewhere, SIZE);
    assert_ok(qsae__set_finish(t));
    return t;
}

static void test_set_share(void **state)
{
    static const char *const names[] = { "alone", "beyond", "outer", "inside", "elsewhere" };
    static const char bytes[] = "abccx";
    static char elsewhere[SIZE];
    struct limited l = { INT64_MAX, 0 };
    const void *before[5];
    qsae_context_settings s;
    int64_t n = 0;
    (void)state;
    memset(elsewhere, 'x', sizeof elsewhere);
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 1;
    s.alloc = limited_alloc;
    s.free = limited_free;
    s.alloc_cookie = &l;
    /* Without a folder nothing moves; with one each allocation fails once, and then it succeeds. */
    for (int32_t st = QSAE_ENOMEM; st != QSAE_OK || n <= 1; n++) {
        qsae_context *ctx = NULL;
        uint64_t held = 0;
        s.share_folder = n > 0 ? test_folder : NULL;
        assert_ok(qsae__context_new(&s, &ctx));
        if (n > 0)
            qsae__shares_set_least(ctx, 1);
        qsae__tensors *t = made(ctx, elsewhere);
        for (int i = 0; i < 5; i++)
            before[i] = qsae__tensors_find(t, names[i])->data;
        l.left = n > 0 ? n - 1 : 0;
        st = qsae__tensors_share(t);
        l.left = INT64_MAX;
        const bool moved = n > 0 && st == QSAE_OK;
        assert_true(st == QSAE_OK || (st == QSAE_ENOMEM && n > 0));
        for (int i = 0; i < 5; i++) {
            const qsae__tensor *const one = qsae__tensors_find(t, names[i]);
            assert_int_equal(one->data != before[i], moved && i == 0);
            for (uint64_t k = 0; k < one->bytes; k++)
                assert_int_equal(((const char *)one->data)[k], bytes[i]);
        }
        assert_int_equal(qsae__shares_held(ctx, &held), moved);
        assert_int_equal(held, moved ? SIZE : 0);
        if (n == 0) { /* one alone, as those that are made from others are */
            qsae__tensor one = *qsae__tensors_find(t, "alone");
            assert_ok(qsae__set_share(t, &one));
            assert_ptr_equal(one.data, before[0]);
        } else if (moved) {
            qsae__tensor one = *qsae__tensors_find(t, "elsewhere");
            assert_ok(qsae__set_share(t, &one));
            assert_ptr_equal(one.data, elsewhere);
        }
        qsae__tensors_unref(&t);
        assert_int_equal(qsae__shares_held(ctx, &held), 0);
        qsae__context_unref(ctx);
        assert_int_equal(l.blocks, 0);
    }
    assert_true(n > 3);
}

const struct CMUnitTest block_tests[] = {
    cmocka_unit_test(test_set_share),
};
const size_t n_block_tests = sizeof block_tests / sizeof block_tests[0];
