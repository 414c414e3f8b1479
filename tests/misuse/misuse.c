/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every public function with wrong arguments (reliability target 18). The scenarios of tests/faults
 * make good calls; here each of them is first made with one argument wrong at a time, which must
 * give an error, or what the header allows, leave handles as they are, and crash nothing. Then the
 * scenario goes on as if nothing had been. Prints TAP lines.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../faults/scenario.h"
#include "misuse.h"

static int64_t calls, refused, allowed, bad;

/* What headers allow: NULL that means "default", "none" or "not wanted"; numbers that are in range;
 * texts that are only looked up. "*": every function. */
static const struct {
    const char *function, *parameter;
    int b;                   /* -1: all */
} fine[] = {
#include "fine.h"
};

static bool is_fine(const char *function, const char *parameter, int b)
{
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
        if ((fine[i].function[0] == '*' || strcmp(fine[i].function, function) == 0) &&
            (fine[i].parameter[0] == '*' || strcmp(fine[i].parameter, parameter) == 0) &&
            (fine[i].b < 0 || fine[i].b == b))
            return true;
    return false;
}

void judge(const char *function, const char *parameter, int b, bool is_status, int64_t result,
           bool nulled)
{
    calls++;
    if (!is_status)
        return;
    const bool error = result < 0 && result > -(int64_t)QSAE_STATUS_COUNT;
    refused += error;
    if (error && (nulled || is_fine(function, parameter, b)) && qsae_error_message()[0])
        return;
    if (!error && is_fine(function, parameter, b)) {
        allowed++;
        return;
    }
    bad++;
    printf("# %s: %s, wrong value %d: returned %lld%s\n", function, parameter, b,
           (long long)result, error && !nulled ? " and left the handle" : "");
}

/* ---- values ---- */

bool wrong_i32(int b, int32_t *v)
{
    static const int32_t values[] = { INT32_MIN, INT32_MAX, -1 };
    *v = values[b < 3 ? b : 0];
    return b < 3;
}

bool wrong_i64(int b, int64_t *v)
{
    static const int64_t values[] = { INT64_MIN, -1, INT64_MAX };
    *v = values[b < 3 ? b : 0];
    return b < 3;
}

bool wrong_f64(int b, double *v)
{
    const double values[] = { NAN, -INFINITY, INFINITY, -1 };
    *v = values[b < 4 ? b : 0];
    return b < 4;
}

bool wrong_f32(int b, float *v)
{
    double d;
    const bool more = wrong_f64(b, &d);
    *v = (float)d;
    return more;
}

bool wrong_text(int b, const char **v)
{
    static char lengthy[70000];
    memset(lengthy, 'a', sizeof lengthy - 1);
    const char *const values[] = { NULL, "", lengthy, "\xff\xfe\x01/x",
                                   "/nowhere/\xc3/at all" };
    *v = values[b < 5 ? b : 0];
    return b < 5;
}

bool wrong_pointer(int b, void **v)
{
    *v = NULL;
    return b < 1;
}

/* A copy in memory of its own, so that what lies behind it is somebody else's. */
static char copy[8192];

bool wrong_rows(int b, void **v, const void *good)
{
    static float own[1 << 18];
    qsae_rows r = { .struct_size = sizeof r };
    *v = NULL;
    if (b == 0)
        return true;
    if (!good)
        return false;
    memcpy(&r, good, sizeof r);
    switch (b) {
    case 1:
        r.struct_size = 0;
        break;
    case 2:
        r.struct_size = 4;
        break;
    case 3:
        r.struct_size = SIZE_MAX;
        break;
    case 4:
        r.data = NULL;
        break;
    case 5:
        r.n_rows = -1;
        break;
    case 6:
        r.n_cols = -1;
        break;
    case 7:
        r.row_stride = r.n_cols - 1;
        break;
    case 8:
        r.dtype = 99;
        break;
    case 9:
        r.dtype = QSAE_Q4_K;
        break;
    case 10:
        r.n_rows = INT64_MAX;
        break;
    case 11:
        r.row_stride = INT64_MAX;
        r.n_rows = 3;
        break;
    case 12:
        r.data = (char *)own + 1;
        break;
    case 13:
        r.n_cols += 1;
        r.row_stride += 1;
        r.n_rows = 0;
        break;
    default:
        return false;
    }
    memcpy(copy, &r, sizeof r);
    *v = copy;
    return true;
}

static bool wrong_size(int b, void **v, const void *good, size_t size, int most)
{
    const size_t sizes[] = { 0, 4, SIZE_MAX, size + 64 };
    *v = NULL;
    if (b == 0)
        return true;
    if (!good || b > most || size + 64 > sizeof copy)
        return false;
    memset(copy, 0, sizeof copy);
    memcpy(copy, good, size);
    memcpy(copy, &sizes[b - 1], sizeof sizes[0]);
    if (b == 4)
        copy[size + 63] = 1;
    *v = copy;
    return true;
}

bool wrong_struct(int b, void **v, const void *good, size_t size)
{
    return wrong_size(b, v, good, size, 4);
}

/* Filled by the call: a larger one is a newer program's. */
bool wrong_info(int b, void **v, const void *good, size_t size)
{
    return wrong_size(b, v, good, size, 3);
}

/* ---- more than wrong values ---- */

static void check(int *n, bool good, const char *what)
{
    bad += !good;
    printf("%sok %d - %s\n", good ? "" : "not ", ++*n, what);
}

/* A handle is used in a child: refused, or of no matter; never a hang. */
static bool after_fork(const struct fixture *f)
{
    qsae_context *ctx = NULL;
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    qsae_context_settings s;
    int status = -1;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 2;
    const int32_t ids[4] = { 1, 2, 3, 4 };
    float nll[4];
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = 4;
    pass.nll = nll;
    const bool made = qsae_context_open(&s, &ctx) == QSAE_OK &&
                      qsae_weights_open(ctx, f->model, &w) == QSAE_OK &&
                      qsae_model_open(w, NULL, &m) == QSAE_OK;
    fflush(stdout);
    const pid_t child = made ? fork() : -1;
    if (child == 0) {
        alarm(20);
        const int32_t st = qsae_model_forward(m, &pass);
        qsae_model_close(&m);
        qsae_weights_close(&w);
        qsae_context_close(&ctx);
        _exit(st == QSAE_EENV ? 0 : 1);
    }
    if (child > 0)
        (void)waitpid(child, &status, 0);
    const bool here = made && qsae_model_forward(m, &pass) == QSAE_OK;
    qsae_model_close(&m);
    qsae_weights_close(&w);
    qsae_context_close(&ctx);
    return here && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* A canceled pass, then another with the token cleared. */
static bool after_cancel(const struct fixture *f)
{
    qsae_context *ctx = NULL;
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    qsae_cancel_token *token = NULL;
    const int32_t ids[4] = { 1, 2, 3, 4 };
    float nll[4];
    qsae_pass pass;
    qsae_pass_init(&pass, sizeof pass);
    pass.ids = ids;
    pass.n_seq = 1;
    pass.n_tokens = 4;
    pass.nll = nll;
    bool good = qsae_context_open(NULL, &ctx) == QSAE_OK &&
                qsae_cancel_token_open(&token) == QSAE_OK &&
                qsae_weights_open(ctx, f->model, &w) == QSAE_OK &&
                qsae_model_open(w, NULL, &m) == QSAE_OK;
    pass.cancel = token;
    qsae_cancel_token_cancel(token);
    good = good && qsae_model_forward(m, &pass) == QSAE_ECANCELED;
    qsae_cancel_token_reset(token);
    good = good && qsae_model_forward(m, &pass) == QSAE_OK;
    qsae_model_close(&m);
    qsae_weights_close(&w);
    qsae_cancel_token_close(&token);
    qsae_context_close(&ctx);
    return good;
}

int main(void)
{
    static struct fixture f;
    int n = 0;
    if (!fixture_make(&f))
        return 1;
    for (int i = 0; i < n_scenarios; i++) {
        struct run r = { .f = &f, .kind = INJECT_NOTHING, .threads = 1 };
        const int64_t before = bad, made = calls;
        const int descriptors = fixture_descriptors();
        scenarios[i].play(&r);
        fixture_empty(f.scratch);
        if (r.wrong[0])
            printf("# %s\n", r.wrong);
        bad += r.wrong[0] != 0 || fixture_descriptors() != descriptors;
        printf("%sok %d - %s: %lld wrong calls\n", bad > before ? "not " : "", ++n,
               scenarios[i].name, (long long)(calls - made));
        fflush(stdout);
    }
    check(&n, uncovered(QSAE_TEST_MAP) == 0, "every public function is among them");
    check(&n, after_fork(&f), "a model in a child process is refused, and goes on in the parent");
    check(&n, after_cancel(&f), "a canceled model goes on");
    printf("# %lld wrong calls: %lld refused, %lld allowed\n1..%d\n", (long long)calls,
           (long long)refused, (long long)allowed, n);
    fixture_remove(&f);
    return bad > 0;
}
