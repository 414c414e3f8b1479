/* SPDX-License-Identifier: BSD-2-Clause */
#include "audit_states.h"

#include "core/hash.h"

#define HASH (QSAE__HASH_SIZE - 1)

void fuzz_audit_sign(uint8_t *bytes, size_t size)
{
    char hex[QSAE__HASH_SIZE];
    if (size < HASH)
        return;
    qsae__hash(bytes, size - HASH, hex);
    memcpy(bytes + size - HASH, hex, HASH);
}

static int32_t stop(void *cookie, int64_t done, int64_t total, const char *unit, const char *phase)
{
    const int64_t *const at = cookie;
    (void)total;
    (void)unit;
    return at && strcmp(phase, "measure") == 0 && done >= *at ? 1 : 0;
}

void fuzz_audit_settings(qsae_audit_settings *s)
{
    static const char *const conditions[] = { "rtn:bits=4" };
    static const char *const saes[] = { QSAE_FUZZ_FIXTURE "/sae@0" };
    qsae_audit_settings_init(s, sizeof *s);
    s->model = QSAE_FUZZ_FIXTURE;
    s->text = QSAE_FUZZ_FIXTURE "/text.jsonl";
    s->conditions = conditions;
    s->n_conditions = 1;
    s->saes = saes;
    s->n_saes = 1;
    s->context = 8;
    s->batch = 2;
}

static int32_t open_audit(int mode, const char *state, int64_t shard, int64_t shards,
                          int64_t *stop_at, qsae_audit **out)
{
    qsae_audit_settings s;
    fuzz_audit_settings(&s);
    s.state = state;
    s.shard_index = shard;
    s.shard_count = shards;
    s.progress = stop;
    s.progress_cookie = stop_at;
    return qsae_audit_open(fuzz_context(mode), &s, out);
}

int32_t fuzz_audit_open(int mode, const char *state, qsae_audit **out)
{
    return open_audit(mode, state, 0, 0, NULL, out);
}

size_t fuzz_audit_seed(int i, uint8_t **data)
{
    const char *const path = fuzz_path("seed.state");
    int64_t stop_at = i == 0 ? 1 : i == 1 ? 17 : INT64_MAX;
    qsae_audit *audit = NULL;
    fuzz_remove("seed.state");
    fuzz_check(open_audit(0, path, i == 4, i > 2 ? 2 : 0, &stop_at, &audit) == QSAE_OK);
    const int32_t st = qsae_audit_run(audit);
    fuzz_check(st == QSAE_OK || st == 1);
    qsae_audit_close(&audit);
    FILE *const f = fopen(path, "rb");
    fuzz_check(f && fseek(f, 0, SEEK_END) == 0);
    const size_t size = (size_t)ftell(f);
    rewind(f);
    fuzz_check((*data = malloc(size)) && fread(*data, 1, size, f) == size);
    fclose(f);
    fuzz_remove("seed.state");
    return size;
}
