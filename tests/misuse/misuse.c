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

/* Which wrong values of a parameter were given, for the number of patterns of each function. */
static struct {
    const char *function, *parameter;
    uint64_t values;
} given[2048];
static int n_given;

static void note(const char *function, const char *parameter, int b)
{
    int i = 0;
    while (i < n_given && (strcmp(given[i].function, function) != 0 ||
                           strcmp(given[i].parameter, parameter) != 0))
        i++;
    if (i == (int)(sizeof given / sizeof given[0]))
        return;
    n_given += i == n_given;
    given[i].function = function;
    given[i].parameter = parameter;
    given[i].values |= (uint64_t)1 << (b & 63);
    calls++;
}

static void fail(const char *function, const char *parameter, int b, const char *what)
{
    bad++;
    printf("# %s: %s, wrong value %d: %s: %s\n", function, parameter, b, what,
           qsae_error_message());
}

void judge(const char *function, const char *parameter, int b, enum result kind, int64_t result,
           bool nulled)
{
    note(function, parameter, b);
    if (kind == RESULT_NOTHING)
        return;
    if (kind == RESULT_NEUTRAL) {
        refused += result == 0;
        if (result != 0 && !is_fine(function, parameter, b))
            fail(function, parameter, b, "not what is documented without a handle");
        return;
    }
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

void judge_close(const char *function, const char *parameter, int b, void **place,
                 const void *before)
{
    note(function, parameter, b);
    refused++;
    if (before && *place != before)
        fail(function, parameter, b, "a pointer that is not to be closed was changed");
    if (before && !strstr(qsae_error_message(), "expected an open "))
        fail(function, parameter, b, "no message");
}

/* ---- values ---- */

bool wrong_i32(int b, int32_t *v)
{
    static const int32_t values[] = { INT32_MIN,     INT32_MAX, -1,      INT32_MIN + 1,
                                      INT32_MAX - 1, 1 << 30,   1 << 16, -(1 << 16),
                                      -77777,        0x5a5a5a5a };
    enum { N = sizeof values / sizeof values[0] };
    *v = values[b < N ? b : 0];
    return b < N;
}

bool wrong_i64(int b, int64_t *v)
{
    /* times 4 or 8 the large ones are more than there can be */
    static const int64_t values[] = { INT64_MIN,     -1,          INT64_MAX,
                                      INT64_MIN + 1, INT32_MIN,   -(INT64_C(1) << 62),
                                      INT64_MAX - 1, INT64_MAX / 2, INT64_C(1) << 62,
                                      INT64_MAX / 4 + 1 };
    enum { N = sizeof values / sizeof values[0] };
    *v = values[b < N ? b : 0];
    return b < N;
}

bool wrong_f64(int b, double *v)
{
    const double values[] = { NAN,   -INFINITY, INFINITY, -1,    -1e-300, 1e300, -1e300,
                              1e20, -1e20,     -NAN,     1e-300, -0x1p-149 };
    enum { N = sizeof values / sizeof values[0] };
    *v = values[b < N ? b : 0];
    return b < N;
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
                                   "/nowhere/\xc3/at all", "nowhere-%n%s%s\n/x", "/dev/null/x",
                                   "/nowhere/\x01", "nowhere/../../nowhere/x", "{\"a\":[1,/x" };
    enum { N = sizeof values / sizeof values[0] };
    *v = values[b < N ? b : 0];
    return b < N;
}

bool wrong_pointer(int b, void **v, const void *good, size_t size)
{
    static const uint8_t offsets[] = { 0, 1, 3, 2, 5, 7, 4, 6, 9, 13 };
    static const int most[] = { 1, 1, 2, 1, 6, 1, 1, 1, 10 }; /* by size: those not divisible */
    const uintptr_t at = (uintptr_t)good / 8 * 8;
    *v = b == 0 ? NULL : (void *)(at + offsets[b < 10 ? b : 0]);
    return size <= 8 && b < most[size];
}

/* A copy in memory of its own, so that what lies behind it is somebody else's. */
static _Alignas(64) char copy[8192];

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
    case 14:
    case 15:
        break;
    default:
        return false;
    }
    char *const at = copy + (b == 14 ? 1 : b == 15 ? 4 : 0);
    memcpy(at, &r, sizeof r);
    *v = at;
    return true;
}

static bool wrong_size(int b, void **v, const void *good, size_t size, bool newer)
{
    const size_t sizes[] = { 0, 4, SIZE_MAX, size + 64, 1, 7, 4097, (size_t)INT64_MAX };
    *v = NULL;
    if (b == 0)
        return true;
    if (!good || b > 12 || size + 64 > sizeof copy)
        return false;
    char *const at = copy + (b == 9 ? 1 : b == 10 ? 2 : b == 11 ? 4 : b == 12 ? 7 : 0);
    memset(copy, 0, sizeof copy);
    memcpy(at, good, size);
    if (b == 4 && newer) /* of a newer program: as large as it says, and filled */
        b = 1;
    if (b <= 8)
        memcpy(at, &sizes[b - 1], sizeof sizes[0]);
    if (b == 4)
        copy[size + 63] = 1;
    *v = at;
    return true;
}

bool wrong_struct(int b, void **v, const void *good, size_t size)
{
    return wrong_size(b, v, good, size, false);
}

/* Filled by the call: a larger one is a newer program's. */
bool wrong_info(int b, void **v, const void *good, size_t size)
{
    return wrong_size(b, v, good, size, true);
}

bool wrong_init(int b, void **v, size_t *size)
{
    memset(copy, 0x5a, sizeof copy);
    *v = b == 0 ? NULL : copy;
    *size = b == 0 ? 64 : b < 9 ? (size_t)b - 1 : 0;
    if (b == 9)
        *v = copy + 1;
    return b < 10;
}

void judge_init(const char *function, int b)
{
    note(function, "s", b);
    refused++;
    for (size_t i = 0; i < sizeof copy; i++)
        if (copy[i] != 0x5a) {
            fail(function, "s", b, "wrote beyond its size");
            return;
        }
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

/* Wrong values per function with arguments: fewest and median. */
static bool patterns(void)
{
    static int counts[512];
    static const char *names[512];
    int n = 0;
    for (int i = 0; i < n_given; i++) {
        int k = 0;
        while (k < n && strcmp(names[k], given[i].function) != 0)
            k++;
        if (k == 512)
            return false;
        if (k == n) {
            names[n] = given[i].function;
            counts[n++] = 0;
        }
        counts[k] += __builtin_popcountll(given[i].values);
    }
    for (int k = 0; k < n; k++)
        if (counts[k] < 10)
            printf("# %s: %d wrong values\n", names[k], counts[k]);
    for (int k = 1; k < n; k++)
        for (int i = k; i > 0 && counts[i] < counts[i - 1]; i--) {
            const int c = counts[i];
            counts[i] = counts[i - 1];
            counts[i - 1] = c;
        }
    printf("# %d functions with arguments: %d wrong values at least, %d in the middle, %d at "
           "most\n", n, n ? counts[0] : 0, n ? counts[n / 2] : 0, n ? counts[n - 1] : 0);
    return n > 100 && counts[0] >= 10;
}

int main(void)
{
    static struct fixture f;
    int n = 0;
    if (!fixture_make(&f) || !museum_open(&f))
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
    for (int i = 0; i < n_handle_checks; i++)
        check(&n, handle_checks[i].run(&f), handle_checks[i].name);
    check(&n, patterns(), "every function with arguments got 10 wrong values or more");
    check(&n, museum_whole(), "handles that were given where they do not belong are as before");
    museum_close();
    printf("# %lld wrong calls: %lld refused, %lld allowed\n1..%d\n", (long long)calls,
           (long long)refused, (long long)allowed, n);
    fixture_remove(&f);
    return bad > 0;
}
