/* SPDX-License-Identifier: BSD-2-Clause */
/* Makes one state file of those of shards: evaluate --shard I/N --state FILE. See
 * doc/evaluate.md. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qsae/qsae.h>

static const char usage[] =
    "usage: merge [--numerics] OUT STATE...\n"
    "  OUT         the state file to write; evaluate with the options of the shards, less\n"
    "              --shard, and --state OUT has the result, or goes on with what is missing\n"
    "  STATE       files of shards, or merged ones, in any order\n"
    "  --numerics  also of machines whose arithmetic differs; the result lists it\n"
    "  --version, --help\n"
    "Exit status: 0, or 3 if chunks are still missing, 1 on errors, 2 for wrong options.\n";

int main(int argc, char **argv)
{
    qsae_context *context = NULL;
    qsae_merge_info info = { .struct_size = sizeof info };
    int32_t flags = 0;
    int at = 1;
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
        if (strcmp(argv[at], "--numerics") == 0) {
            flags = QSAE_MERGE_NUMERICS;
        } else if (strcmp(argv[at], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        } else if (strcmp(argv[at], "--version") == 0) {
            printf("libqsae %s\n", qsae_version());
            return 0;
        } else {
            fprintf(stderr, "merge: %s is unknown\n%s", argv[at], usage);
            return 2;
        }
    }
    if (argc - at < 2) {
        fprintf(stderr, "merge: expected OUT and at least one STATE\n%s", usage);
        return 2;
    }
    int32_t st = qsae_context_open(NULL, &context);
    if (st == QSAE_OK)
        st = qsae_audit_merge(context, (const char *const *)(argv + at + 1), argc - at - 1,
                              argv[at], flags, &info);
    qsae_context_close(&context);
    if (st != QSAE_OK) {
        fprintf(stderr, "merge: %s\n", qsae_error_message());
        return 1;
    }
    printf("%s: %lld of %lld chunks\n", argv[at], (long long)info.measured_chunks,
           (long long)info.chunks);
    if (info.gaps == 0)
        return 0;
    fprintf(stderr, "merge: missing: chunks %lld to %lld%s\n", (long long)info.gap_from,
            (long long)info.gap_to, info.gaps > 1 ? " and others" : "");
    return 3;
}
