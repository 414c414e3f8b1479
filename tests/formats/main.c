/* SPDX-License-Identifier: BSD-2-Clause */
#include "formats_test.h"

#include <dirent.h>
#include <unistd.h>

char test_folder[256];
qsae_context *test_contexts[2];

int test_setup(void **state)
{
    const char *base = getenv("TMPDIR");

    (void)state;
    snprintf(test_folder, sizeof test_folder, "%s/qsae-formats-XXXXXX", base != NULL
             ? base : "/tmp");
    return mkdtemp(test_folder) == NULL;
}

int test_teardown(void **state)
{
    DIR *dir = opendir(test_folder);

    (void)state;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.')
            test_remove(e->d_name);
    if (dir != NULL)
        closedir(dir);
    return rmdir(test_folder);
}

const char *test_path(const char *name)
{
    static char paths[8][640];
    static int next;
    char *p = paths[next++ % 8];

    snprintf(p, sizeof paths[0], "%s/%s", test_folder, name);
    return p;
}

void test_write(const char *name, const void *data, size_t size)
{
    FILE *f = fopen(test_path(name), "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

void test_remove(const char *name)
{
    unlink(test_path(name));
}

void test_refused(const char *name, int32_t status, const char *part)
{
    for (int mode = 0; mode < 2; mode++) {
        qsae__tensors *t = (qsae__tensors *)&mode;
        const int32_t got = qsae__tensors_load(test_contexts[mode], test_path(name), &t);
        if (got != status)
            fail_msg("%s: expected %s, got %s: %s", name, qsae_status_name(status),
                     qsae_status_name(got), qsae_error_message());
        assert_null(t);
        if (strstr(qsae_error_message(), part) == NULL ||
            strstr(qsae_error_message(), test_folder) == NULL)
            fail_msg("%s: expected \"%s\" and the path in \"%s\"", name, part,
                     qsae_error_message());
    }
}

void test_safetensors(const char *name, const char *header, size_t data_size)
{
    const size_t n = strlen(header), size = 8 + n + data_size;
    unsigned char *file = malloc(size);

    assert_non_null(file);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_size; i++)
        file[8 + n + i] = (unsigned char)i;
    test_write(name, file, size);
    free(file);
}

static char **wanted;
static int n_wanted, n_run;

/* Only the groups that the command line names, if it names any. */
static int run(const struct CMUnitTest *tests, size_t n, const char *name)
{
    bool run_it = n_wanted == 0;

    for (int i = 0; i < n_wanted; i++)
        run_it = run_it || strcmp(wanted[i], name) == 0;
    n_run += run_it;
    return !run_it ? 0 : _cmocka_run_group_tests(name, tests, n, test_setup, test_teardown);
}

int main(int argc, char **argv)
{
    int failed = 0;

    n_wanted = argc - 1;
    wanted = argv + 1;
    for (int mode = 0; mode < 2; mode++) {
        qsae_context_settings s;
        qsae_context_settings_init(&s, sizeof s);
        s.files = mode == 0 ? QSAE_FILES_MAP : QSAE_FILES_READ;
        s.threads = 2;
        if (qsae__context_new(&s, &test_contexts[mode]) != QSAE_OK)
            return 1;
    }
    failed += run(json_tests, n_json_tests, "json");
    failed += run(json_edge_tests, n_json_edge_tests, "JSON edges");
    failed += run(safetensors_tests, n_safetensors_tests, "safetensors");
    failed += run(many_tests, n_many_tests, "many");
    failed += run(edge_tests, n_edge_tests, "edges");
    failed += run(part_tests, n_part_tests, "parts");
    failed += run(block_tests, n_block_tests, "blocks");
    failed += run(yaml_tests, n_yaml_tests, "yaml");
    failed += run(logits_tests, n_logits_tests, "logits");
    failed += run(writer_tests, n_writer_tests, "writer");
    failed += run(npy_tests, n_npy_tests, "npy");
    failed += run(gguf_tests, n_gguf_tests, "gguf");
    failed += run(index_tests, n_index_tests, "index");
    for (int mode = 0; mode < 2; mode++)
        qsae__context_unref(test_contexts[mode]);
    return failed != 0 || n_run == 0;
}
