/* SPDX-License-Identifier: BSD-2-Clause */
#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST (1 << 17)

static bool put(const char *folder, const char *name, const char *data, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *const f = fopen(path, "wb");
    const bool written = f && fwrite(data, 1, size, f) == size;
    const bool closed = f && fclose(f) == 0;
    return written && closed;
}

static bool copy(const char *from, const char *folder, const char *name)
{
    static char data[MOST];
    FILE *const f = fopen(from, "rb");
    if (!f)
        return false;
    const size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    return n < sizeof data && put(folder, name, data, n);
}

/* Letters and the space, in byte order of ids. */
static bool make_tokenizer(const char *folder)
{
    char t[1200];
    int n = snprintf(t, sizeof t, "{\"added_tokens\":[{\"id\":27,\"content\":\"<|endoftext|>\","
                     "\"special\":true,\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                     "\"normalized\":false}],\"normalizer\":null,\"pre_tokenizer\":null,"
                     "\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\","
                     "\"merges\":[\"a b\"],\"vocab\":{\" \":0");
    for (int i = 0; i < 26; i++)
        n += snprintf(t + n, sizeof t - (size_t)n, ",\"%c\":%d", 'a' + i, i + 1);
    n += snprintf(t + n, sizeof t - (size_t)n, ",\"<|endoftext|>\":27,\"ab\":28}}}");
    static const char config[] = "{\"bos_token\":\"<|endoftext|>\","
                                 "\"eos_token\":\"<|endoftext|>\"}";
    return put(folder, "tokenizer.json", t, (size_t)n) &&
           put(folder, "tokenizer_config.json", config, sizeof config - 1);
}

static bool make_text(const struct fixture *f)
{
    char text[2048], words[240];
    int n = 0;
    uint32_t x = 5;
    for (int d = 0; d < 6; d++) {
        for (size_t i = 0; i < sizeof words - 1; i++) {
            x = x * 1664525u + 1013904223u;
            words[i] = (x >> 20) % 7 ? (char)('a' + (x >> 24) % 26) : ' ';
        }
        words[sizeof words - 1] = '\0';
        n += snprintf(text + n, sizeof text - (size_t)n, "{\"text\":\"%s\",\"kind\":\"%d\"}\n",
                      words, d % 2);
    }
    static const char probes[] =
        "{\"context\":\"abc def\",\"good\":\" gh\",\"bad\":\" xy\",\"tags\":[\"one\"]}\n"
        "{\"context\":\"hij k\",\"good\":\"lm\",\"bad\":\"no\",\"tags\":[\"two\",\"one\"]}\n";
    return put(f->folder, "text.jsonl", text, (size_t)n) &&
           put(f->folder, "text.txt", words, sizeof words - 1) &&
           put(f->folder, "probes.jsonl", probes, sizeof probes - 1);
}

static bool make_result(const struct fixture *f)
{
    static const char text[] =
        "{\"format\":\"qsae-result\",\"conditions\":[{\"label\":\"rtn:bits=6,axis=tl\",\"saes\":"
        "[{\"name\":\"s\",\"layer\":1,\"site\":\"resid_post\",\"hash\":\"00\",\"survival\":"
        "{\"predictor\":{\"auc\":0.9,\"auc_sd\":0.01,\"auc_single\":{},\"fit\":{\"inputs\":"
        "[\"rarity\",\"log_mean\"],\"means\":[1,2],\"sds\":[1,0.5],\"coefficients\":[0.25,-1],"
        "\"intercept\":0.125}}}}]}]}";
    return put(f->folder, "result.json", text, sizeof text - 1);
}

bool fixture_make(struct fixture *f)
{
    const char *const tmp = getenv("TMPDIR");
    snprintf(f->folder, sizeof f->folder, "%.30s/qsae-faults-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(f->folder)) {
        fprintf(stderr, "%s: cannot be made\n", f->folder);
        return false;
    }
    snprintf(f->model, sizeof f->model, "%s/model", f->folder);
    snprintf(f->scratch, sizeof f->scratch, "%s/scratch", f->folder);
    snprintf(f->jsonl, sizeof f->jsonl, "%s/text.jsonl", f->folder);
    snprintf(f->text, sizeof f->text, "%s/text.txt", f->folder);
    snprintf(f->probes, sizeof f->probes, "%s/probes.jsonl", f->folder);
    snprintf(f->result, sizeof f->result, "%s/result.json", f->folder);
    snprintf(f->sae, sizeof f->sae, QSAE_TEST_DATA "/saes/standard");
    snprintf(f->layers, sizeof f->layers, QSAE_TEST_DATA "/sae_formats/set_jump");
    snprintf(f->base, sizeof f->base, QSAE_TEST_DATA "/metrics/llama/base.kld");
    const bool made = mkdir(f->model, 0777) == 0 && mkdir(f->scratch, 0777) == 0 &&
                      copy(QSAE_TEST_DATA "/models/neox_source/config.json", f->model,
                           "config.json") &&
                      copy(QSAE_TEST_DATA "/models/neox_source/model.safetensors", f->model,
                           "model.safetensors") &&
                      make_tokenizer(f->model) && make_text(f) && make_result(f);
    if (!made)
        fprintf(stderr, "%s: cannot be filled\n", f->folder);
    return made;
}

void fixture_empty(const char *folder)
{
    char path[512];
    struct stat info;
    DIR *const dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
            fixture_empty(path);
            rmdir(path);
        } else {
            unlink(path);
        }
    }
    if (dir)
        closedir(dir);
}

void fixture_remove(const struct fixture *f)
{
    fixture_empty(f->folder);
    rmdir(f->folder);
}

int64_t fixture_count(const char *folder)
{
    int64_t n = 0;
    DIR *const dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (dir)
        closedir(dir);
    return n;
}

int fixture_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}
