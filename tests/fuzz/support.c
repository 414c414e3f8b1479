/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

static char folder[64];
static long accepted;
static qsae_context *contexts[FUZZ_MODES];
static qsae_tokenizer *tokenizers[FUZZ_MODES];

void fuzz_empty(void)
{
    DIR *const dir = opendir(fuzz_folder());
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            fuzz_remove(e->d_name);
    if (dir)
        closedir(dir);
}

static void clean(void)
{
    for (int mode = 0; mode < FUZZ_MODES; mode++) {
        qsae_tokenizer_close(&tokenizers[mode]);
        qsae_context_close(&contexts[mode]);
    }
    fuzz_empty();
    rmdir(folder);
}

const char *fuzz_folder(void)
{
    if (!folder[0]) {
        strcpy(folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/qsae-fuzz-XXXXXX"
                                                     : "/tmp/qsae-fuzz-XXXXXX");
        fuzz_check(mkdtemp(folder));
        atexit(clean);
    }
    return folder;
}

const char *fuzz_path(const char *name)
{
    static char paths[8][384];
    static int next;
    char *const path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", fuzz_folder(), name);
    return path;
}

const char *fuzz_put(const char *name, const void *data, size_t size)
{
    const char *const path = fuzz_path(name);
    /* Not over the old bytes: a handle may still hold them mapped. */
    unlink(path);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    fuzz_check(fd >= 0);
    for (size_t done = 0; done < size;) {
        const ssize_t n = write(fd, (const char *)data + done, size - done);
        fuzz_check(n > 0);
        done += (size_t)n;
    }
    close(fd);
    return path;
}

void fuzz_remove(const char *name)
{
    unlink(fuzz_path(name));
}

static void *exact_alloc(void *cookie, size_t size, size_t alignment)
{
    void *p = NULL;
    (void)cookie;
    return posix_memalign(&p, alignment, size) == 0 ? p : NULL;
}

static void exact_free(void *cookie, void *p)
{
    (void)cookie;
    free(p);
}

qsae_context *fuzz_context(int mode)
{
    if (!contexts[mode]) {
        qsae_context_settings s;
        qsae_context_settings_init(&s, sizeof s);
        s.threads = 1;
        s.files = mode == 0 ? QSAE_FILES_MAP : QSAE_FILES_READ;
        s.alloc = exact_alloc;
        s.free = exact_free;
        fuzz_folder();
        fuzz_check(qsae_context_open(&s, &contexts[mode]) == QSAE_OK);
    }
    return contexts[mode];
}

uint8_t *fuzz_copy(const void *data, size_t size)
{
    uint8_t *const copy = malloc(size ? size : 1);
    fuzz_check(copy);
    if (size)
        memcpy(copy, data, size);
    return copy;
}

uint8_t fuzz_byte(fuzz_input *in)
{
    if (!in->size)
        return 0;
    in->size--;
    return *in->data++;
}

fuzz_input fuzz_part(fuzz_input *in)
{
    size_t size = 0;
    for (int i = 0; i < 4; i++)
        size |= (size_t)fuzz_byte(in) << (8 * i);
    const fuzz_input part = { in->data, size < in->size ? size : in->size };
    in->data += part.size;
    in->size -= part.size;
    return part;
}

void fuzz_accepted(void)
{
    accepted++;
}

long fuzz_count_accepted(void)
{
    return accepted;
}

void fuzz_refused(int32_t status, const void *out)
{
    fuzz_check(status < 0 && status > -qsae_status_count());
    fuzz_check(status != QSAE_EINTERNAL);
    fuzz_check(!out && qsae_error_message()[0]);
}

/* Byte-level BPE over the printable letters that stand for bytes, with two merges. */
qsae_tokenizer *fuzz_tokenizer(int mode)
{
    if (!tokenizers[mode]) {
        char *const json = malloc(1 << 16);
        size_t n;
        fuzz_check(json);
        n = (size_t)sprintf(json, "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
                            "\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"<s>\":1,"
                            "\"a\":2,\"b\":3,\"ab\":4,\"\\u2581\":5,\"t\":6,\"e\":7,\"te\":8");
        for (int i = 0; i < 256; i++)
            n += (size_t)sprintf(json + n, ",\"<0x%02X>\":%d", (unsigned)i, 9 + i);
        sprintf(json + n, "},\"merges\":[\"a b\",\"t e\"]},\"added_tokens\":[{\"id\":0,\"content\":"
                "\"<unk>\",\"special\":true},{\"id\":1,\"content\":\"<s>\",\"special\":true}],"
                "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
                "\"content\":\"\\u2581\"}}");
        fuzz_remove("tokenizer_config.json");
        const char *const path = fuzz_put("fixed.tokenizer.json", json, strlen(json));
        fuzz_check(qsae_tokenizer_open(fuzz_context(mode), path, &tokenizers[mode]) == QSAE_OK);
        free(json);
    }
    return tokenizers[mode];
}
