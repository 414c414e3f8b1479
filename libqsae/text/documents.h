/* SPDX-License-Identifier: BSD-2-Clause */
/* Documents of files and folders, before tokenization. */
#ifndef QSAE_TEXT_DOCUMENTS_H
#define QSAE_TEXT_DOCUMENTS_H

#include <qsae/text.h>

#include "formats/formats.h"

/* Where a document lies: plain text, or one line of JSON. */
typedef struct qsae__record {
    const char *text;       /* in the mapped file, or what it decompresses to */
    uint64_t size;
    int32_t source;         /* index of the file */
    int32_t jsonl;
    int64_t line;           /* as qsae_document_info.line */
} qsae__record;

typedef struct qsae__documents {
    qsae_context *ctx;
    char **sources;         /* [n_files] paths */
    qsae__file **files;     /* [n_files] */
    char **buffers;         /* [n_files] decompressed text, NULL = the file itself */
    qsae__record *records;  /* [count], in order */
    int64_t n_files, files_capacity;
    int64_t count, capacity;
    uint64_t bytes;         /* of all files */
} qsae__documents;

/* Opens a file or the files of a folder and finds the documents. Blank lines are left out. */
int32_t qsae__documents_open(qsae__documents *d, qsae_context *ctx, const char *path,
                             int32_t format, const char *separator);
/* Opens one file that is read elsewhere: no documents, but a name for them. */
int32_t qsae__documents_source(qsae__documents *d, qsae_context *ctx, const char *path);

/* Keeps the documents with these indices [n], in that order. */
int32_t qsae__documents_order(qsae__documents *d, const int64_t *order, int64_t n);
void qsae__documents_free(qsae__documents *d);

/* Closes the files; sources stay. */
void qsae__documents_close_files(qsae__documents *d);

/* A Zstandard file's contents into memory of its context. QSAE_EUNSUPPORTED in a build without. */
int32_t qsae__zstd_read(const qsae__file *f, char **out, uint64_t *size);

/* White space as Python's str.isspace() sees it. */
bool qsae__python_space(uint32_t c);

/* Cuts such white space off both ends. Text that is not UTF-8 is QSAE_EFORMAT. */
int32_t qsae__strip(const char **text, size_t *size);

#endif
