/* SPDX-License-Identifier: BSD-2-Clause */
#include "text_test.h"

#include <dirent.h>
#include <unistd.h>

char test_folder[256];
qsae_context *test_ctx;

int test_setup(void **state)
{
    const char *base = getenv("TMPDIR");

    (void)state;
    snprintf(test_folder, sizeof test_folder, "%s/qsae-text-XXXXXX", base != NULL ? base : "/tmp");
    return mkdtemp(test_folder) == NULL;
}

static void clear(const char *folder)
{
    DIR *dir = opendir(folder);

    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        char path[768];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.' && unlink(path) != 0)
            clear(path);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(folder);
}

int test_teardown(void **state)
{
    (void)state;
    clear(test_folder);
    return 0;
}

const char *test_path(const char *name)
{
    static char paths[8][640];
    static int next;
    char *p = paths[next++ % 8];

    snprintf(p, sizeof paths[0], "%s/%s", test_folder, name);
    return p;
}

void test_write_bytes(const char *name, const void *data, size_t size)
{
    FILE *f = fopen(test_path(name), "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

void test_write(const char *name, const char *text)
{
    test_write_bytes(name, text, strlen(text));
}

int32_t test_open(const char *json, qsae_tokenizer **out)
{
    test_write("tokenizer.json", json);
    return qsae_tokenizer_open(test_ctx, test_folder, out);
}

bool test_message(const char *part)
{
    if (strstr(qsae_error_message(), part) != NULL)
        return true;
    print_error("expected \"%s\" in \"%s\"\n", part, qsae_error_message());
    return false;
}

qsae_tokenizer *test_open_bos(const char *json)
{
    qsae_tokenizer *t = NULL;

    test_write("tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    if (test_open(json, &t) != QSAE_OK)
        fail_msg("%s", qsae_error_message());
    return t;
}

void test_corpus_refused(qsae_tokenizer *t, const char *name, const qsae_corpus_settings *s,
                         int32_t status, const char *part)
{
    qsae_corpus *c = NULL;
    const int32_t got = qsae_corpus_open(test_ctx, t, test_path(name), s, &c);

    if (got != status || !test_message(part))
        fail_msg("%s, expected %s %s: %s", qsae_status_name(got), qsae_status_name(status), part,
                 qsae_error_message());
    assert_null(c);
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
    qsae_context_settings s;
    int failed = 0;

    n_wanted = argc - 1;
    wanted = argv + 1;
    qsae_context_settings_init(&s, sizeof s);
    s.threads = 2;
    if (qsae__context_new(&s, &test_ctx) != QSAE_OK)
        return 1;
    failed += run(fixture_tests, n_fixture_tests, "fixtures");
    failed += run(tokenizer_tests, n_tokenizer_tests, "tokenizer");
    failed += run(edge_tests, n_edge_tests, "edges");
    failed += run(step_tests, n_step_tests, "steps");
    failed += run(memory_tests, n_memory_tests, "memory");
    failed += run(list_tests, n_list_tests, "lists");
    failed += run(unigram_tests, n_unigram_tests, "unigram");
    failed += run(files_tests, n_files_tests, "files");
    failed += run(spelling_tests, n_spelling_tests, "spellings");
    failed += run(difference_tests, n_difference_tests, "differences");
    failed += run(cut_tests, n_cut_tests, "cuts");
    failed += run(map_tests, n_map_tests, "maps");
    failed += run(input_tests, n_input_tests, "inputs");
    failed += run(shown_tests, n_shown_tests, "shown");
    failed += run(spelled_tests, n_spelled_tests, "spelled");
    failed += run(shortcut_tests, n_shortcut_tests, "shortcuts");
    failed += run(gguf_tests, n_gguf_tests, "gguf");
    failed += run(gguf_refused_tests, n_gguf_refused_tests, "gguf refused");
    failed += run(corpus_tests, n_corpus_tests, "corpus");
    failed += run(source_tests, n_source_tests, "sources");
    failed += run(selection_tests, n_selection_tests, "selection");
    qsae__context_unref(test_ctx);
    return failed != 0 || n_run == 0;
}
