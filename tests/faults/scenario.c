/* SPDX-License-Identifier: BSD-2-Clause */
#include "scenario.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CALLS_MOST 512

static struct {
    char name[64];
} covered[CALLS_MOST];
static int n_covered;

void cover(const char *call)
{
    size_t n = strcspn(call, "(");
    for (int i = 0; i < n_covered; i++)
        if (strlen(covered[i].name) == n && memcmp(covered[i].name, call, n) == 0)
            return;
    if (n_covered < CALLS_MOST && n < sizeof covered[0].name)
        snprintf(covered[n_covered++].name, sizeof covered[0].name, "%.*s", (int)n, call);
}

static bool is_covered(const char *name)
{
    for (int i = 0; i < n_covered; i++)
        if (strcmp(covered[i].name, name) == 0)
            return true;
    return false;
}

int uncovered(const char *map)
{
    char line[256], name[128];
    int missing = 0, all = 0;
    FILE *const f = fopen(map, "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, " qsae_%100[a-z0-9_];", name + 5) == 1) {
            memcpy(name, "qsae_", 5);
            all++;
            if (is_covered(name))
                continue;
            printf("# no scenario calls %s\n", name);
            missing++;
        }
    if (f)
        fclose(f);
    return all > 100 ? missing : -1;
}

void wrong(struct run *r, const char *format, ...)
{
    va_list args;
    if (r->wrong[0])
        return;
    va_start(args, format);
    vsnprintf(r->wrong, sizeof r->wrong, format, args);
    va_end(args);
}

void section(struct run *r)
{
    r->sections++;
    if (r->section && !r->wrong[0] && !r->again)
        r->section(r);
}

/* What a call may return when that kind of call failed beneath it. */
static bool fits(const struct run *r, int32_t status)
{
    switch (r->kind) {
    case INJECT_MEMORY:
    case INJECT_HOOK:
        return status == QSAE_ENOMEM;
    case INJECT_THREAD:
        return status == QSAE_EENV || status == QSAE_ENOMEM;
    default: /* what cannot be looked at may be called absent or another thing, not a success */
        return status == QSAE_EIO || status == QSAE_ENOMEM || inject_fired() == CALL_STAT ||
               inject_fired() == CALL_FOLDER;
    }
}

bool retry(struct run *r, int32_t status, const char *call)
{
    const enum inject_call fired = inject_fired();
    if (fired == CALL_NONE) {
        wrong(r, "%s: %s without a fault", call, qsae_error_message());
        return false;
    }
    if (r->failures++ == 0) {
        r->status = status;
        r->call = call;
        snprintf(r->message, sizeof r->message, "%s", qsae_error_message());
        if (!fits(r, status))
            wrong(r, "%s: %s (%s)", call, qsae_status_name(status), r->message);
        if (!r->message[0])
            wrong(r, "%s: no message", call);
    }
    if (!r->abandon)
        inject_disarm();
    return !r->abandon;
}

void see(struct run *r, const void *data, size_t size)
{
    const unsigned char *const p = data;
    for (size_t i = 0; i < size; i++)
        r->hash = (r->hash ^ p[i]) * 0x100000001b3u; /* FNV-1a */
}

void see_text(struct run *r, const char *text)
{
    see(r, text ? text : "(null)", text ? strlen(text) + 1 : 7);
}

void see_number(struct run *r, double value)
{
    see(r, &value, sizeof value);
}
