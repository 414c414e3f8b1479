/* SPDX-License-Identifier: BSD-2-Clause */
/* Linked to what MemorySanitizer runs: functions of the C library that clang 14's does not know, by
 * those that it knows. Nothing is included: the headers may give one the name of the other. */
int stat(const char *path, void *info);
int lstat(const char *path, void *info);
int fstat(int fd, void *info);
int stat64(const char *path, void *info);
int lstat64(const char *path, void *info);
int fstat64(int fd, void *info);

/* On a 64-bit machine their structs are the same. */
_Static_assert(sizeof(long) == 8, "64 bits");

int stat64(const char *path, void *info)
{
    return stat(path, info);
}

int lstat64(const char *path, void *info)
{
    return lstat(path, info);
}

int fstat64(int fd, void *info)
{
    return fstat(fd, info);
}
