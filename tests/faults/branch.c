/* SPDX-License-Identifier: BSD-2-Clause */
#include "branch.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILES_MOST = 32, DESCRIPTORS = 64, SECONDS = 120 };

/* A file as it was: its bytes, and another name that keeps it. */
struct kept {
    char name[64];
    ino_t inode;
    char *data;
    size_t size;
};

struct kept_fd {
    bool open, writable;
    off_t offset, size;
    char *data;              /* of one that is written and has no name */
};

static struct {
    const struct branch *branch;
    struct kept files[FILES_MOST];
    int n_files;
    struct kept_fd fds[DESCRIPTORS];
    char shadow[300];        /* folder of the other names */
    pid_t pid;               /* of the process that branches; 0: none does */
} state;

/* A context that was opened before a fork refuses to work after it: these children are to work. */
pid_t getpid(void)
{
    return state.pid ? state.pid : (pid_t)syscall(SYS_getpid);
}

static void give_up(const char *what, const char *name)
{
    fprintf(stderr, "%s: %s: cannot be kept\n", what, name);
    _exit(3);
}

static char *all_of(int fd, off_t size)
{
    char *const data = malloc((size_t)size + 1);
    if (!data || pread(fd, data, (size_t)size, 0) != (ssize_t)size)
        give_up("file", "bytes");
    return data;
}

static void put_back(int fd, const char *data, off_t size)
{
    if (ftruncate(fd, size) != 0 || pwrite(fd, data, (size_t)size, 0) != (ssize_t)size)
        give_up("file", "bytes");
}

static const char *in(const char *folder, const char *name, char path[600])
{
    snprintf(path, 600, "%s/%s", folder, name);
    return path;
}

static void keep_file(const char *name)
{
    char path[600], other[600];
    struct stat info;
    struct kept *const k = &state.files[state.n_files];
    const int fd = state.n_files < FILES_MOST
                       ? open(in(state.branch->folder, name, path), O_RDONLY | O_CLOEXEC)
                       : -1;
    if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || strlen(name) > 63 ||
        link(path, in(state.shadow, name, other)) != 0)
        give_up("file", name);
    snprintf(k->name, sizeof k->name, "%s", name);
    k->inode = info.st_ino;
    k->size = (size_t)info.st_size;
    k->data = all_of(fd, info.st_size);
    close(fd);
    state.n_files++;
}

static void keep_fd(int fd)
{
    struct kept_fd *const k = &state.fds[fd];
    struct stat info;
    *k = (struct kept_fd){ 0 };
    if (fcntl(fd, F_GETFD) < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return;
    k->open = true;
    k->offset = lseek(fd, 0, SEEK_CUR);
    k->size = info.st_size;
    k->writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR && info.st_nlink == 0;
    if (k->writable)
        k->data = all_of(fd, info.st_size);
}

static void keep(void)
{
    DIR *const dir = opendir(state.branch->folder);
    if (!dir)
        give_up("folder", state.branch->folder);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.')
            keep_file(e->d_name);
    closedir(dir);
    for (int fd = 3; fd < DESCRIPTORS; fd++)
        keep_fd(fd);
}

/* Removes what was not there. */
static void remove_new(void)
{
    char path[600];
    DIR *const dir = opendir(state.branch->folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        bool known = e->d_name[0] == '.';
        for (int i = 0; i < state.n_files; i++)
            known |= strcmp(state.files[i].name, e->d_name) == 0 &&
                     state.files[i].inode == e->d_ino;
        if (!known && unlink(in(state.branch->folder, e->d_name, path)) != 0)
            give_up("file", e->d_name);
    }
    if (dir)
        closedir(dir);
}

static void restore(void)
{
    char path[600], other[600];
    remove_new();
    for (int i = 0; i < state.n_files; i++) {
        const struct kept *const k = &state.files[i];
        struct stat info;
        in(state.branch->folder, k->name, path);
        if (lstat(path, &info) != 0 && link(in(state.shadow, k->name, other), path) != 0)
            give_up("file", k->name);
        const int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &info) != 0)
            give_up("file", k->name);
        char *const now = all_of(fd, info.st_size);
        if ((size_t)info.st_size != k->size || memcmp(now, k->data, k->size) != 0)
            put_back(fd, k->data, (off_t)k->size);
        free(now);
        close(fd);
    }
    for (int fd = 3; fd < DESCRIPTORS; fd++) {
        if (!state.fds[fd].open)
            continue;
        lseek(fd, state.fds[fd].offset, SEEK_SET);
        if (state.fds[fd].writable)
            put_back(fd, state.fds[fd].data, state.fds[fd].size);
    }
}

static void forget(void)
{
    for (int i = 0; i < state.n_files; i++)
        free(state.files[i].data);
    state.n_files = 0;
    for (int fd = 3; fd < DESCRIPTORS; fd++) {
        free(state.fds[fd].data);
        state.fds[fd].data = NULL;
    }
}

static void remove_names(void)
{
    char other[600];
    for (int i = 0; i < state.n_files; i++)
        unlink(in(state.shadow, state.files[i].name, other));
}

/* Called at a call that can fail; true: in this process, which is a child, it does. */
static bool at_call(void *cookie, int64_t index, bool *onwards)
{
    const struct branch *const b = cookie;
    if (index < b->first || (index - b->first) % b->stride)
        return false;
    keep();
    for (int mode = 0; mode < b->modes; mode++) {
        int status = 0;
        const pid_t child = fork();
        if (child == 0) {
            forget();
            *onwards = b->onwards(mode);
            alarm(SECONDS);
            b->began(b->cookie, index, mode);
            return true;
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            give_up("fork", "child");
        restore();
        b->ended(b->cookie, index, mode, status);
    }
    remove_names();
    forget();
    return false;
}

void branch_arm(enum inject_kind kind, int what, const struct branch *b)
{
    state.branch = b;
    state.pid = (pid_t)syscall(SYS_getpid);
    snprintf(state.shadow, sizeof state.shadow, "%s-kept", b->folder);
    if (mkdir(state.shadow, 0777) != 0 && access(state.shadow, W_OK) != 0)
        give_up("folder", state.shadow);
    inject_at_calls(at_call, (void *)(uintptr_t)b);
    inject_arm(kind, -1, false, what);
}
