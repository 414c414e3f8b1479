/* SPDX-License-Identifier: BSD-2-Clause */
#include "shared_weights.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "program.h"

#define SPARE 67108864.0 /* bytes: MPI itself, and others, want some of /dev/shm, too */

static bool is_safetensors(const char *name)
{
    static const char suffix[] = ".safetensors";
    const size_t n = strlen(name);
    return n >= sizeof suffix && strcmp(name + n - (sizeof suffix - 1), suffix) == 0;
}

static int no_dots(const struct dirent *e)
{
    return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

/* Calls see(its descriptor, name, cookie) for whatever is in a folder; where it cannot be read, for
 * nothing: errno, or 0. */
static int each_in(const char *path, void (*see)(int folder, const char *name, void *cookie),
                    void *cookie)
{
    struct dirent **list = NULL;
    int folder;
    do
        folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (folder < 0 && errno == EINTR);
    const int n = folder < 0 ? -1 : scandir(path, &list, no_dots, alphasort);
    const int why = n < 0 ? errno : 0;
    for (int i = 0; i < n; i++) {
        see(folder, list[i]->d_name, cookie);
        free(list[i]);
    }
    free(list);
    if (folder >= 0)
        close(folder);
    return why;
}

struct sizes {
    int64_t weights, all;
};

static void add_size(int folder, const char *name, void *cookie)
{
    struct sizes *const sum = cookie;
    struct stat info;
    if (fstatat(folder, name, &info, 0) != 0 || !S_ISREG(info.st_mode))
        return;
    sum->all += info.st_size;
    sum->weights += is_safetensors(name) ? info.st_size : 0;
}

/* Bytes of a file, or of the weights in a folder: its *.safetensors, or if it has none all of it; 0
 * where there is nothing. */
static int64_t size_of(const char *path)
{
    struct stat info;
    struct sizes sum = { 0, 0 };
    if (stat(path, &info) != 0)
        return 0;
    if (!S_ISDIR(info.st_mode))
        return info.st_size;
    each_in(path, add_size, &sum);
    return sum.weights > 0 ? sum.weights : sum.all;
}

/* SAE[@LAYER[:SITE]]. */
static int64_t size_of_sae(const char *spec)
{
    char path[4096];
    const char *const at = strrchr(spec, '@');
    const int64_t whole = size_of(spec);
    const int n = at ? snprintf(path, sizeof path, "%.*s", (int)(at - spec), spec) : -1;
    return whole == 0 && n > 0 && n < (int)sizeof path ? size_of(path) : whole;
}

int64_t shared_weights_size(const struct evaluation *o)
{
    const qsae_audit_settings *const a = &o->audit;
    int64_t sum = (1 + a->n_conditions) * size_of(a->model);
    for (int64_t i = 0; i < a->n_conditions; i++) /* another checkpoint */
        sum += size_of(a->conditions[i]);
    for (int64_t i = 0; i < a->n_saes; i++)
        sum += size_of_sae(a->saes[i]);
    return sum;
}

int shared_weights_make(int64_t bytes, char *text, size_t size)
{
    const char *const tmp = getenv("TMPDIR");
    const char *const places[] = { "/dev/shm", tmp && *tmp ? tmp : "/tmp" };
    char why[2][512];
    for (int i = 0; i < 2; i++) {
        struct statvfs info;
        const int n = snprintf(text, size, "%s/qsae-weights-XXXXXX", places[i]);
        if (statvfs(places[i], &info) != 0) {
            snprintf(why[i], sizeof why[i], "%.400s: %s", places[i], strerror(errno));
            continue;
        }
        const double room = (double)info.f_bavail * (double)info.f_frsize - SPARE;
        if (room < (double)bytes)
            snprintf(why[i], sizeof why[i], "%.400s has room for %.1f GB", places[i],
                     room > 0 ? room * 1e-9 : 0);
        else if (n < 0 || (size_t)n >= size)
            snprintf(why[i], sizeof why[i], "%.400s: too long a name", places[i]);
        else if (!mkdtemp(text))
            snprintf(why[i], sizeof why[i], "%.400s: %s", text, strerror(errno));
        else
            return 0;
    }
    snprintf(text, size, "%.1f GB of weights are not shared: %s, %s", (double)bytes * 1e-9, why[0],
             why[1]);
    return -1;
}

static void remove_one(int folder, const char *name, void *cookie)
{
    int *const why = cookie;
    if (unlinkat(folder, name, 0) != 0 && *why == 0)
        *why = errno;
}

void folder_remove(const char *folder)
{
    int why = 0;
    const int unread = each_in(folder, remove_one, &why);
    if (rmdir(folder) != 0)
        complain("%s: it could not be removed: %s", folder,
                 strerror(unread ? unread : why ? why : errno));
}
