/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Programs whose calls fail beneath them (reliability targets 6 and 7): the old result stays as it
 * was, or the new one is whole; a failure is an exit status and a message. Prints TAP lines.
 *
 *     test_fault_programs FOLDER PRELOAD [NAME [KIND]]
 *
 * The folder of the programs, the library that has preload.c; one of them, kinds that begin so.
 *
 * QSAE_LONG_TESTS=1: every call (QSAE_FAULTS_STEP=N: every N-th, of memory); else a few.
 * QSAE_TEST_PYTHON: path of a Python that has the package, for its commands.
 * QSAE_TEST_MPIEXEC: path of what starts the ranks of a job.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"
#include "job.h"
#include "launch.h"

enum { ARGUMENTS = 32, MOST = 1 << 21, FEW = 2, ROWS = 5 };

static struct fixture fixture;
static struct launch how;
static char state_path[300], lines_path[300], rows_path[300], result_path[300], shown_path[300];
static char named_path[300];
static char parts_path[300];
static char python[300], mpiexec[300]; /* a path; "": there is none */
static char own_files[600]; /* where what MPI opens is not */

#define MEASURED "MODEL", "--sae", "SAE", "--text", "TEXT", "--condition", \
    "rtn:bits=4", "--tokens", "80", "--context", "20", "--batch", "2", "--threads", "1", "--quiet"
#define MEASURE "evaluate", MEASURED
#define RANKS "evaluate_mpi", MEASURED

struct program {
    const char *name;        /* in the lines of the test */
    const char *arguments[ARGUMENTS];
    const char *out;         /* name of its OUT; NULL: it writes to standard output alone */
    bool fresh;              /* there is no old OUT */
    bool parts;              /* the files of a folder appear one by one */
    bool prints;             /* something on standard output, where OUT may be - */
    bool differs;            /* figures of time are on standard output */
    bool answers;            /* standard output may say why it failed */
    bool lengthy;            /* in the long form alone */
    bool foreign;            /* what its interpreter reads is not ours */
    bool apart;              /* MPI waits for ever, or aborts, where its own calls fail */
    bool goes_on;            /* after a failure the same command, from what is in PARTS */
    int ranks, rank;         /* of a job of so many the one under the fault; 0: it is no job */
};
static const struct program programs[] = {
    { "evaluate --json", { MEASURE, "--json", "OUT", NULL }, "out", .prints = true,
      .differs = true },
    { "evaluate --features", { MEASURE, "--features", "OUT", NULL }, "out", .prints = true,
      .differs = true, .lengthy = true },
    { "evaluate --features CSV", { MEASURE, "--features", "OUT", NULL }, "out.csv",
      .differs = true, .lengthy = true },
    { "evaluate --save-logits", { MEASURE, "--save-logits", "OUT", NULL }, "out",
      .differs = true, .lengthy = true },
    { "evaluate --sweep", { MEASURE, "--sweep", "modules", "--compat", "saebench", "--json", "OUT",
                            NULL }, "out", .differs = true, .lengthy = true },
    { "evaluate --slice", { MEASURE, "--slice", "position", "--controls", "--worst", "3",
                            "--contexts", "8,16", "--json", "OUT", NULL }, "out",
      .differs = true, .lengthy = true },
    { "evaluate --plan", { MEASURE, "--plan", "9", "--splice", "--probes", "PROBES", "--wide",
                           "--json", "OUT", NULL }, "out", .differs = true, .lengthy = true },
    { "evaluate --sliding", { MEASURE, "--sliding", "TEXT", "--json", "OUT", NULL }, "out",
      .differs = true, .lengthy = true },
    { "evaluate --at-risk", { "evaluate", "--predict", "FIT", "--predict-features", "LINES",
                              "--at-risk", "OUT", "--threads", "1", NULL }, "out",
      .prints = true },
    { "evaluate --at-risk CSV", { "evaluate", "--predict", "FIT", "--predict-features", "LINES",
                                  "--at-risk", "OUT", "--threads", "1", NULL }, "out.csv",
      .lengthy = true },
    { "merge", { "merge", "OUT", "STATE", NULL }, "out", .prints = true },
    { "quantize", { "quantize", "MODEL", "rtn:bits=4", "OUT", "--threads", "1", NULL }, "out",
      .fresh = true },
    { "quantize nf4", { "quantize", "MODEL", "nf4:block=64", "OUT", "--threads", "1",
                        "--shard-size", "20KB", NULL }, "out", .fresh = true, .lengthy = true },
    { "inspect", { "inspect", "MODEL", "SAE", "--tensors", "--condition", "nf4", "--threads", "1",
                   NULL }, NULL, .prints = true, .answers = true },
    { "inspect --json", { "inspect", "MODEL", "LAYERS", "--json", "--condition", "rtn:bits=4",
                          "--threads", "1", NULL }, NULL, .prints = true, .answers = true,
      .lengthy = true },
    { "rows", { "rows", "--sae", "SAE", "--threads", "1", "ROWS", "ROWS", NULL }, NULL,
      .prints = true },
    { "published", { "published", QSAE_TEST_DATA "/../../examples/published.json", "article",
                     "none=RESULT", NULL }, NULL, .prints = true, .lengthy = true },
    { "stream_residuals", { "stream_residuals", "SAE", "ROWS", NULL }, NULL, .prints = true,
      .lengthy = true },
    { "merge --help", { "merge", "--help", NULL }, NULL, .prints = true, .lengthy = true },
    { "evaluate --completion", { "evaluate", "--completion", "zsh", NULL }, NULL, .prints = true,
      .lengthy = true },
    { "qsae report", { "PYTHON", "-B", "-m", "qsae", "report", "RESULT", "-o", "OUT", NULL },
      "out.html", .lengthy = true, .foreign = true },
    { "qsae report --figures", { "PYTHON", "-B", "-m", "qsae", "report", "RESULT", "--figures",
                                 "OUT", "--format", "csv", NULL }, "out", .fresh = true,
      .parts = true, .lengthy = true, .foreign = true },
    { "qsae corpus", { "PYTHON", "-B", "-m", "qsae", "corpus", "TEXT", "-o", "OUT", NULL },
      "out.jsonl", .lengthy = true, .foreign = true },
    { "evaluate_mpi", { RANKS, "--json", "OUT", NULL }, "out", .prints = true, .differs = true,
      .apart = true },
    { "evaluate_mpi --state", { RANKS, "--state", "PARTS", "--json", "OUT", NULL }, "out",
      .differs = true, .lengthy = true, .apart = true, .goes_on = true },
    { "evaluate_mpi --plan", { RANKS, "--plan", "9", "--splice", "--json", "OUT", NULL }, "out",
      .differs = true, .lengthy = true, .apart = true },
    { "evaluate_mpi, rank 0 of 2", { RANKS, "--state", "PARTS", "--json", "OUT", NULL }, "out",
      .differs = true, .apart = true, .goes_on = true, .ranks = 2, .rank = 0 },
    { "evaluate_mpi, rank 1 of 2", { RANKS, "--state", "PARTS", "--json", "OUT", NULL }, "out",
      .differs = true, .apart = true, .goes_on = true, .ranks = 2, .rank = 1 },
    { "evaluate_mpi without --state, rank 0 of 2", { RANKS, "--json", "OUT", NULL }, "out",
      .differs = true, .lengthy = true, .apart = true, .ranks = 2, .rank = 0 },
    { "evaluate_mpi without --state, rank 1 of 2", { RANKS, "--json", "OUT", NULL }, "out",
      .differs = true, .lengthy = true, .apart = true, .ranks = 2, .rank = 1 },
};

static size_t content(const char *path, char *to, size_t most)
{
    FILE *const f = fopen(path, "rb");
    const size_t n = f ? fread(to, 1, most - 1, f) : 0;
    if (f)
        fclose(f);
    to[n] = '\0';
    return n;
}

/* A file, or the names and files of a folder in their order. Not there: no bytes. */
static size_t content_of(const char *path, char to[MOST])
{
    struct dirent **list;
    char file[600];
    const int n = scandir(path, &list, NULL, alphasort);
    size_t size = 0;
    if (n < 0)
        return content(path, to, MOST);
    for (int i = 0; i < n; i++) {
        if (list[i]->d_name[0] != '.') {
            snprintf(file, sizeof file, "%s/%.255s", path, list[i]->d_name);
            size += (size_t)snprintf(to + size, MOST - size, "%.255s\n", list[i]->d_name);
            size += content(file, to + size, MOST - size);
        }
        free(list[i]);
    }
    free(list);
    return size;
}

static bool put(const char *path, const char *text)
{
    FILE *const f = fopen(path, "wb");
    const bool written = f && fputs(text, f) >= 0;
    return f && fclose(f) == 0 && written;
}

/* Lines of what differs from run to run are cut out. */
static size_t without_times(char *text, size_t size)
{
    static const char *const own[] = { "seconds", "_per_second", "peak_rss" };
    char *to = text;
    for (char *p = text; p < text + size;) {
        const char *const end = memchr(p, '\n', (size_t)(text + size - p));
        const size_t n = end ? (size_t)(end + 1 - p) : (size_t)(text + size - p);
        bool differs = false;
        for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
            differs |= memmem(p, n, own[i], strlen(own[i])) != NULL;
        if (!differs) {
            memmove(to, p, n);
            to += n;
        }
        p += n;
    }
    return (size_t)(to - text);
}

/* Letters alone: rates, and the widths of their columns, are of one run. */
static size_t without_figures(char *text, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++)
        if ((text[i] | 32) >= 'a' && (text[i] | 32) <= 'z')
            text[n++] = text[i];
    return n;
}

struct result {
    size_t size, shown_size;
    char out[MOST], shown[MOST]; /* OUT; standard output */
};

static void take(const struct program *p, struct result *r)
{
    r->size = p->out ? without_times(r->out, content_of(named_path, r->out)) : 0;
    r->shown_size = content(shown_path, r->shown, MOST);
    if (p->differs)
        r->shown_size = without_figures(r->shown, r->shown_size);
}

static const char *argument(const char *name)
{
    static const struct {
        const char *name, *value;
    } known[] = { { "MODEL", fixture.model },   { "SAE", fixture.sae },
                  { "TEXT", fixture.jsonl },    { "LAYERS", fixture.layers },
                  { "PROBES", fixture.probes }, { "FIT", fixture.result },
                  { "OUT", named_path },        { "STATE", state_path },
                  { "LINES", lines_path },      { "ROWS", rows_path },
                  { "RESULT", result_path },    { "PYTHON", python },
                  { "PARTS", parts_path } };
    static char run[400];
    for (size_t i = 0; name && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].value;
    if (name && strcmp(name, "none=RESULT") == 0) {
        snprintf(run, sizeof run, "none=%s", result_path);
        return run;
    }
    return name;
}

/* Runs it where OUT is as it was before. */
static struct outcome run(const struct program *p, const struct fault *fault, const char *out)
{
    char *arguments[ARGUMENTS] = { NULL };
    snprintf(named_path, sizeof named_path, "%s/%s", fixture.scratch, p->out ? p->out : "none");
    for (int i = 0; p->arguments[i]; i++)
        arguments[i] = (char *)(uintptr_t)argument(p->arguments[i]);
    fixture_empty(fixture.scratch);
    if (p->out && !p->fresh)
        put(named_path, "old\n");
    if (!p->apart)
        return launch(&how, arguments, fault, out);
    struct launch own = how;
    char beside[sizeof fixture.folder];
    snprintf(beside, sizeof beside, "%.*s", (int)(strrchr(fixture.folder, '/') - fixture.folder),
             fixture.folder);
    own.callers = "libqsae:libjansson:libzip:libpcre2";
    own.under = own_files;
    setenv("TMPDIR", fixture.scratch, 1);
    setenv("UCX_MEM_MMAP_HOOK_MODE", "none", 1); /* MPICH's transport would have mmap for itself */
    setenv("OMPI_MCA_orte_tmpdir_base", beside, 1);    /* Open MPI's own files, which may stay */
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 1); /* ... and no daemon of its own */
    const struct outcome o =
        p->ranks ? job_launch(&own, mpiexec, p->ranks, p->rank, arguments, fault, out)
                 : launch(&own, arguments, fault, out);
    unsetenv("TMPDIR");
    return o;
}

/* Files beside OUT, which are none of its. */
static bool leaves(const struct program *p)
{
    return fixture_count(fixture.scratch) > (p->out && access(named_path, F_OK) == 0);
}

/* Whether each file of the folder OUT is one of the wanted ones, as it should be. */
static bool whole_files(const struct result *want)
{
    static char block[MOST];
    struct dirent **list;
    char file[600];
    const int n = scandir(named_path, &list, NULL, NULL);
    bool whole = true;
    for (int i = 0; i < n; i++) {
        const char *const name = list[i]->d_name;
        if (*name != '.') {
            snprintf(file, sizeof file, "%s/%.255s", named_path, name);
            const size_t head = (size_t)snprintf(block, sizeof block, "%.255s\n", name);
            const size_t size = head + content(file, block + head, sizeof block - head);
            whole &= memmem(want->out, want->size, block, size) != NULL;
        }
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    return whole;
}

/* Whether a message names the rank, and one a file (a condition may be one), or what else is
 * missing. Where the job would go on from is said in any case. */
static bool names_rank(const struct program *p, const char *words)
{
    const char *const causes[] = { fixture.folder, fixture.sae, "/dev/shm/qsae-weights-",
                                   "rtn:bits=4: ", "out of memory" };
    char rank[32];
    bool cause = false;
    const char *const all = words;
    snprintf(rank, sizeof rank, "rank %d on ", p->rank);
    for (size_t n; (n = strcspn(words, "\n")) > 0 || *words; words += n + (words[n] != '\0')) {
        if (memmem(words, n, "goes on from", 12))
            continue;
        for (size_t i = 0; i < sizeof causes / sizeof causes[0]; i++)
            cause |= memmem(words, n, causes[i], strlen(causes[i])) != NULL;
    }
    return cause && strstr(all, rank);
}

/* "" or what is wrong with a run. */
static const char *judge(const struct program *p, const struct outcome *o,
                         const struct result *want, bool transparent)
{
    static struct result now;
    take(p, &now);
    const bool done = WIFEXITED(o->status) && WEXITSTATUS(o->status) == 0;
    const bool whole = now.size == want->size && memcmp(now.out, want->out, now.size) == 0;
    const bool old = p->fresh ? now.size == 0 : now.size == 4 && memcmp(now.out, "old\n", 4) == 0;
    if (!WIFEXITED(o->status))
        return "ended by a signal";
    if (WEXITSTATUS(o->status) > 90 && WEXITSTATUS(o->status) < 99)
        return "did not start";
    if (o->repeated)
        return "fsync was repeated after it failed";
    if (!done && transparent)
        return "failed";
    if (done && !whole)
        return "status 0 without its result";
    if (done && (now.shown_size != want->shown_size ||
                 memcmp(now.shown, want->shown, now.shown_size) != 0))
        return "status 0 without all that it prints";
    if (!done && p->ranks && !names_rank(p, o->words))
        return "no message that names the rank and a file";
    if (!done && o->words[0] == '\0' && !(p->answers && now.shown_size > 0))
        return "no message";
    if (p->out && !old && !whole && !(p->parts && whole_files(want)))
        return "neither the old result nor the new one";
    /* Where the new one stands and the old one could not come back, that stays beside it. */
    if ((leaves(p) || o->left) && !o->removing &&
        !strstr(o->words, "it could not be removed") && !(whole && !done && !p->fresh))
        return "left a temporary file";
    return "";
}

struct kind {
    const char *name;
    enum inject_kind kind;     /* INJECT_NOTHING: system calls */
    enum trace_calls calls;
    int what;
    bool transparent, onwards;
    bool brief;                /* of jobs in the short form, too */
};
static const struct kind kinds[] = {
    { "memory", INJECT_MEMORY, 0, 0, false, false, true },
    { "memory from then on", INJECT_MEMORY, 0, 0, false, true, false },
    { "map", INJECT_MAP, 0, 0, false, false, false },
    { "EIO", INJECT_IO, 0, EIO, false, false, true },
    { "ENOSPC", INJECT_IO, 0, ENOSPC, false, true, false },
    { "EMFILE", INJECT_IO, 0, EMFILE, false, false, false },
    { "EINTR", INJECT_IO, 0, EINTR, true, false, false },
    { "short", INJECT_IO, 0, INJECT_SHORT, true, false, false },
    { "system call: EIO", INJECT_NOTHING, TRACE_FILES, EIO, false, false, true },
    { "system call: EIO from then on", INJECT_NOTHING, TRACE_FILES, EIO, false, true, false },
    { "system call: ENOSPC", INJECT_NOTHING, TRACE_WRITING, ENOSPC, false, true, true },
    { "system call: EMFILE", INJECT_NOTHING, TRACE_OPENING, EMFILE, false, true, false },
    { "system call: short", INJECT_NOTHING, TRACE_MOVING, INJECT_SHORT, true, false, false },
    { "system call: EIO of writing", INJECT_NOTHING, TRACE_WRITING, EIO, false, false, false },
};

static bool lengthy;
static int64_t parts; /* files among the states when all is done */
static int64_t step = 1;
static const char *only = ""; /* the kinds whose names begin so */

static const struct fault none = { INJECT_MAP, { .at = -1 }, -1 };

/* "" or what is wrong when the same command goes on from what a fault has left. */
static const char *again(const struct program *p, const struct result *want)
{
    const struct outcome o = run(p, &none, shown_path);
    const char *const text = judge(p, &o, want, true);
    if (*text)
        printf("# %s, called again: status %#x, %.300s\n", p->name, (unsigned)o.status, o.words);
    return !*text && fixture_count(parts_path) != parts ? "left a file among the states" : text;
}

/* All faults of a kind in a program; how many were bad. */
static int series(const struct program *p, const struct kind *k, const struct result *want,
                  int64_t *faults)
{
    struct fault f = { k->kind, { k->calls, -1, k->onwards, k->what }, -1 };
    int bad = 0;
    fixture_empty(parts_path);
    const struct outcome plain = run(p, &f, shown_path);
    const char *const first = judge(p, &plain, want, true);
    const int64_t few = plain.calls / (p->ranks ? 1 : FEW) + 1;
    const int64_t stride = !lengthy ? few : k->kind == INJECT_MEMORY ? step : 1;
    if (*first) {
        printf("# %s, %s: %s (status %#x) %s\n", p->name, k->name, first, (unsigned)plain.status,
               plain.words);
        return 1;
    }
    if (lengthy)
        printf("# %s, %s: %lld calls\n", p->name, k->name, (long long)plain.calls);
    for (int64_t i = stride / 2; i < plain.calls; i += stride) {
        f.trace.at = i;
        fixture_empty(parts_path);
        const struct outcome o = run(p, &f, shown_path);
        const char *text = judge(p, &o, want, k->transparent);
        if (!*text && p->goes_on)
            text = again(p, want);
        ++*faults;
        if (text[0] && bad++ < 5)
            printf("# %s, %s, call %lld of %lld: %s (status %#x) %.300s\n", p->name, k->name,
                   (long long)i, (long long)plain.calls, text, (unsigned)o.status, o.words);
    }
    return bad;
}

/* Files that may not grow beyond some size. */
static int full(const struct program *p, const struct result *want, int64_t *faults)
{
    int bad = 0;
    const long size = (long)(p->out ? want->size : want->shown_size);
    const long by = lengthy ? size / 64 + 1 : size / 2 + 1;
    for (long most = 0; most < size && !(p->out && p->fresh); most += by) {
        const struct fault f = { INJECT_NOTHING, { .at = -1 }, most };
        const struct outcome o = run(p, &f, shown_path);
        const char *const text = judge(p, &o, want, false);
        ++*faults;
        if (text[0] && bad++ < 5)
            printf("# %s, files of at most %ld bytes: %s (status %#x) %.300s\n", p->name, most,
                   text, (unsigned)o.status, o.words);
    }
    return bad;
}

static bool judged(const struct program *p, const char *traces, int n)
{
    static struct result want;
    int64_t faults = 0;
    fixture_empty(parts_path);
    const struct outcome plain = run(p, &none, shown_path);
    parts = fixture_count(parts_path);
    take(p, &want);
    int bad = plain.status != 0 || (p->out && (want.size == 0 || want.size == 4));
    if (bad)
        printf("# %s: status %#x, %zu bytes: %s\n", p->name, (unsigned)plain.status, want.size,
               plain.words);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0] && !bad; k++)
        if (strncmp(kinds[k].name, only, strlen(only)) == 0 &&
            (kinds[k].kind != INJECT_NOTHING || !*traces) &&
            (kinds[k].brief || lengthy || p->ranks == 0) &&
            (!p->foreign || (kinds[k].kind == INJECT_NOTHING && kinds[k].calls == TRACE_WRITING)))
            bad += series(p, &kinds[k], &want, &faults);
    bad += bad || p->foreign || p->apart || *only ? 0 : full(p, &want, &faults);
    printf("%sok %d - %s: %lld faults\n", bad ? "not " : "", n, p->name, (long long)faults);
    return bad == 0;
}

/* A standard output that takes nothing. */
static bool refused(const struct program *q, int n)
{
    struct program p = *q;
    for (int k = 0; p.arguments[k]; k++)
        if (strcmp(p.arguments[k], "OUT") == 0 && strcmp(p.name, "merge") != 0)
            p.arguments[k] = "-";
    const struct outcome o = run(&p, &none, "/dev/full");
    const bool good = WIFEXITED(o.status) && WEXITSTATUS(o.status) != 0 && o.words[0];
    printf("%sok %d - %s: standard output is full\n", good ? "" : "not ", n, p.name);
    return good;
}

/* Python and MPI may be missing. */
static bool is_here(const struct program *p)
{
    char path[600];
    const char *const name = argument(p->arguments[0]);
    if (!name)
        return false;
    snprintf(path, sizeof path, "%s/%s", how.folder, name);
    return access(*name == '/' ? name : path, X_OK) == 0 && *name != '\0' &&
           (p->ranks == 0 || *mpiexec != '\0');
}

static bool make(const char *option, const char *path)
{
    struct program making = { "evaluate", { MEASURE }, NULL, .prints = true };
    int n = 0;
    while (making.arguments[n])
        n++;
    making.arguments[n] = option;
    making.arguments[n + 1] = path;
    const struct outcome o = run(&making, &none, NULL);
    return o.status == 0;
}

/* Rows of the SAE's width, as of any engine (doc/rows.md). */
static bool make_rows(void)
{
    const uint8_t head[32] = { 'Q', 'S', 'A', 'E', 'R', 'O', 'W', 'S', [8] = 1, [10] = 1,
                               [16] = FIXTURE_WIDTH, [20] = 1, [24] = ROWS };
    float rows[ROWS * FIXTURE_WIDTH];
    for (int i = 0; i < ROWS * FIXTURE_WIDTH; i++)
        rows[i] = (float)(i * 37 % 101) / 50 - 1;
    FILE *const f = fopen(rows_path, "wb");
    const bool written = f && fwrite(head, 1, sizeof head, f) == sizeof head &&
                         fwrite(rows, 1, sizeof rows, f) == sizeof rows;
    return f && fclose(f) == 0 && written;
}

static bool prepare(void)
{
    static char report[300];
    static const char *const names[] = { "state", "lines", "rows", "measured", "shown", "parts",
                                        "report" };
    char *const paths[] = { state_path, lines_path, rows_path, result_path, shown_path,
                            parts_path, report };
    snprintf(own_files, sizeof own_files, "%s:%s", fixture.folder, QSAE_TEST_DATA);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        snprintf(paths[i], sizeof report, "%s/%s", fixture.folder, names[i]);
    how.report = report;
    return make_rows() && make("--state", state_path) && make("--features", lines_path) &&
           make("--json", result_path);
}

int main(int argc, char **argv)
{
    job_rank(argc, argv);
    const char *const v = getenv("QSAE_LONG_TESTS"), *const s = getenv("QSAE_FAULTS_STEP");
    lengthy = v && *v == '1';
    if (getenv("QSAE_TEST_PYTHON"))
        snprintf(python, sizeof python, "%s", getenv("QSAE_TEST_PYTHON"));
    if (getenv("QSAE_TEST_MPIEXEC"))
        snprintf(mpiexec, sizeof mpiexec, "%s", getenv("QSAE_TEST_MPIEXEC"));
    step = s && atoll(s) > 0 ? atoll(s) : 1;
    if (argc < 3 || !fixture_make(&fixture))
        return 1;
    how = (struct launch){ argv[1], argv[2], .report = NULL };
    only = argc > 4 ? argv[4] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    int n = 1;
    bool bad = false, good = prepare();
    printf("%sok 1 - a state file, lines of features, a result and rows\n", good ? "" : "not ");
    const char *const missing = trace_missing();
    if (*missing)
        printf("ok %d - system calls that fail # SKIP %s\n", ++n, missing);
    for (size_t i = 0; good && i < sizeof programs / sizeof programs[0]; i++) {
        const struct program *const p = &programs[i];
        if (argc > 3 ? strcmp(argv[3], p->name) != 0 : p->lengthy && !lengthy)
            continue;
        if (!is_here(p)) {
            printf("ok %d - %s # SKIP it%s is not here\n", ++n, p->name,
                   p->ranks ? ", or mpiexec," : "");
            continue;
        }
        const bool one = judged(p, missing, ++n);
        const bool two = !p->prints || refused(p, ++n);
        bad |= !one || !two;
    }
    printf("1..%d\n", n);
    fixture_remove(&fixture);
    return bad || !good;
}
