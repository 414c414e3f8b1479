/* SPDX-License-Identifier: BSD-2-Clause */
/* Makes one state file of those of shards: evaluate --shard I/N --state FILE. See
 * doc/evaluate.md. */
#include <stdio.h>
#include <stdlib.h>

#include <qsae/qsae.h>

#include "options.h"
#include "program.h"

enum { OPT_NUMERICS = 1 };

static const struct option_row rows[] = {
    { NULL, NULL, NULL, "options", 0 },
    { "numerics", NULL, NULL,
      "also of machines whose arithmetic differs; the result lists it", OPT_NUMERICS },
};

static const char *const operands[] = {
    "OUT", "the state file to write; evaluate with the options of the shards, less --shard, and "
    "--state OUT has the result, or goes on with what is missing",
    "STATE", "files of shards, or merged ones, in any order",
    NULL
};

static const char *const examples[] = {
    "two parts, measured anywhere, then the result of both",
    "all.state a.state b.state",
    NULL
};

static const char *const statuses[] = {
    "0", "done",
    "1", "failed; the reason is on standard error",
    "2", "wrong usage",
    "3", "OUT is written, but chunks are still missing",
    NULL
};

static const struct program program = {
    .name = "merge",
    .summary = "Makes one state file of those of the parts of a text.",
    .synopsis = "[--numerics] OUT STATE...",
    .operands = operands,
    .options = rows,
    .n_options = sizeof rows / sizeof rows[0],
    .examples = examples,
    .statuses = statuses,
};

/* OUT, then the states, in `paths`; how many. */
static int64_t parse(int argc, char **argv, const char **paths, int32_t *flags)
{
    struct arguments arguments = arguments_begin(&program, argc, argv);
    const char *value;
    int64_t n = 0;
    int c;
    while ((c = arguments_next(&arguments, &value)) != ARGUMENT_END)
        if (c == ARGUMENT_OPERAND)
            paths[n++] = value;
        else
            *flags = QSAE_MERGE_NUMERICS;
    if (n < 2)
        usage_error("expected OUT and at least one STATE");
    return n;
}

int main(int argc, char **argv)
{
    qsae_context *context = NULL;
    qsae_context_settings settings;
    qsae_merge_info info = { .struct_size = sizeof info };
    const char **const paths = needed(calloc((size_t)argc + 1, sizeof *paths));
    int32_t flags = 0;
    const int64_t n = parse(argc, argv, paths, &flags);
    qsae_context_settings_init(&settings, sizeof settings);
    settings.log = program_log;
    int32_t st = qsae_context_open(&settings, &context);
    if (st == QSAE_OK)
        st = qsae_audit_merge(context, paths + 1, n - 1, paths[0], flags, &info);
    qsae_context_close(&context);
    if (st == QSAE_OK)
        printf("%s: %lld of %lld chunks\n", paths[0], (long long)info.measured_chunks,
               (long long)info.chunks);
    else
        complain("%s", qsae_error_message());
    free(paths);
    if (st == QSAE_OK && info.gaps > 0)
        complain("missing: chunks %lld to %lld%s", (long long)info.gap_from,
                 (long long)info.gap_to, info.gaps > 1 ? " and others" : "");
    return program_end(st != QSAE_OK ? EXIT_FAILED : info.gaps ? EXIT_OUTSIDE : EXIT_DONE);
}
