/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/machine.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A number that is all of a file; 0 for "max", none, or no file. */
static uint64_t limit_in(const char *path)
{
    char text[32];
    FILE *const f = fopen(path, "re");
    if (!f)
        return 0;
    const bool got = fgets(text, sizeof text, f) != NULL;
    fclose(f);
    return got ? strtoull(text, NULL, 10) : 0;
}

/* The least of the limits of a group and of those that it is in, below the root. */
static uint64_t limit_of(const char *root, char *group, const char *file)
{
    uint64_t least = 0;
    for (;;) {
        char path[1200];
        const int n = snprintf(path, sizeof path, "%s%s/%s", root, group, file);
        const uint64_t v = n > 0 && (size_t)n < sizeof path ? limit_in(path) : 0;
        least = v > 0 && (least == 0 || v < least) ? v : least;
        char *const slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

uint64_t qsae__cgroup_limit(const char *list, const char *root)
{
    char line[1024], path[1200];
    uint64_t least = 0;
    FILE *const f = fopen(list, "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f)) { /* hierarchy:controllers:group */
        char *const controllers = strchr(line, ':');
        char *const group = controllers ? strchr(controllers + 1, ':') : NULL;
        uint64_t v = 0;
        if (!group)
            continue;
        *group = 0;
        group[1 + strcspn(group + 1, "\n")] = 0;
        if (strcmp(controllers + 1, "") == 0) {
            v = limit_of(root, group + 1, "memory.max");
        } else if (strcmp(controllers + 1, "memory") == 0) {
            snprintf(path, sizeof path, "%s/memory", root);
            v = limit_of(path, group + 1, "memory.limit_in_bytes");
        }
        least = v > 0 && (least == 0 || v < least) ? v : least;
    }
    fclose(f);
    return least;
}

uint64_t qsae__machine_memory(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const uint64_t all = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    const uint64_t limit = qsae__cgroup_limit("/proc/self/cgroup", "/sys/fs/cgroup");
    return limit > 0 && (all == 0 || limit < all) ? limit : all;
}
