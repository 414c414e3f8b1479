/* SPDX-License-Identifier: BSD-2-Clause */
/* Scenario of weights that lie in a folder for all processes: written, taken from what is there, and
 * without a name for the rest of the run. Those of the other scenarios are too small for it. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "play.h"

#define BUNDLED QSAE_TEST_DATA "/../../examples/data/"

enum { N = 4, WIDTH = 128, FEATURES = 1024 };

static void make_folder(struct run *r, const char *path)
{
    inject_pause();
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        wrong(r, "%s: %s", path, strerror(errno));
    inject_resume();
}

/* No file is left that was not finished, unless its removal failed. */
static void look(struct run *r, const char *path)
{
    inject_pause();
    DIR *const folder = opendir(path);
    for (const struct dirent *e; folder && (e = readdir(folder));)
        if (strstr(e->d_name, ".tmp-") && r->kind != INJECT_IO)
            wrong(r, "%s/%s is left", path, e->d_name);
    if (folder)
        closedir(folder);
    inject_resume();
}

static void play_sae_of(struct run *r, qsae_context *ctx)
{
    float x[N * WIDTH], y[N * WIDTH];
    qsae_sae *sae = NULL;
    qsae_sae_settings s;
    const qsae_rows in = play_rows(x, N, WIDTH, 5);
    qsae_rows out = play_rows(y, N, WIDTH, 6);
    MAKE(qsae_sae_settings_init(&s, sizeof s));
    s.dtype = QSAE_BF16;
    TRY(qsae_sae_open(ctx, BUNDLED "tiny-gemma3-sae", &s, &sae));
    TRY(qsae_sae_reconstruct(sae, &in, &out));
    see(r, y, sizeof y);
end:
    MAKE(qsae_sae_close(&sae));
}

static void play_model_of(struct run *r, qsae_context *ctx)
{
    static const int32_t ids[] = { 2, 17, 90, 400 };
    float nll[N] = { 0 };
    qsae_weights *w = NULL;
    qsae_model *m = NULL;
    qsae_model_settings s;
    qsae_pass p;
    TRY(qsae_weights_open(ctx, BUNDLED "tiny-gemma3", &w));
    MAKE(qsae_model_settings_init(&s, sizeof s));
    s.condition = "rtn:bits=8@with=embed|head";
    TRY(qsae_model_open(w, &s, &m));
    MAKE(qsae_pass_init(&p, sizeof p));
    p.ids = ids;
    p.n_seq = 1;
    p.n_tokens = N;
    p.nll = nll;
    TRY(qsae_model_forward(m, &p));
    see(r, nll, sizeof nll);
end:
    MAKE(qsae_model_close(&m));
    MAKE(qsae_weights_close(&w));
}

void play_shared(struct run *r)
{
    qsae_context *ctx = NULL;
    qsae_context_settings s = play_settings(r);
    char path[256];
    make_folder(r, scratch(r, "weights", path));
    s.share_folder = path;
    TRY(qsae_context_open(&s, &ctx));
    for (int i = 0; i < 2 && !r->wrong[0] && !(r->abandon && r->failures); i++)
        play_sae_of(r, ctx);
    if (!r->wrong[0] && !(r->abandon && r->failures))
        play_model_of(r, ctx);
end:
    MAKE(qsae_context_close(&ctx));
    look(r, path);
}
