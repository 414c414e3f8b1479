/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * evaluate, by the ranks of an MPI job: rank i of n measures part i of n of the text, as
 * evaluate --shard does, into a state file of its own; then the states go up a binary tree, and
 * rank 0 has the result of one process. See doc/scaling.md.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "evaluation.h"
#include "program.h"
#include "ranks.h"
#include "shared_weights.h"

enum { PATH_SIZE = 4096 };

struct job {
    struct evaluation o;
    struct ranks ranks;
    qsae_context *context;
    char folder[PATH_SIZE - 64]; /* of states; room for a name */
    bool own_folder;             /* without --state: ours to remove */
    double saved;                /* when the state was written last */
    bool due;                    /* a run is stopped to write it, and goes on */
    int mpi_error;               /* met while measuring */
};

/* ---- command line ---- */

/* What is not as in evaluate; --shard makes room for --save-every. */
static const struct {
    int instead_of;
    struct option_row row;
} changed[] = {
    { OPT_STATE,
      { "state", NULL, "FOLDER",
        "keep what each rank has measured there, go on from it if it exists", OPT_STATE } },
    { OPT_SHARD,
      { "save-every", NULL, "SECONDS", "at most 60: write states more often than each minute",
        OPT_SAVE_EVERY } },
    { OPT_SHARE_WEIGHTS,
      { "share-weights", NULL, "FOLDER",
        "hold packed weights there, once for all ranks of a machine (default: in a folder of its "
        "own in /dev/shm or $TMPDIR while they load); no: each in its own memory",
        OPT_SHARE_WEIGHTS } },
    { OPT_THREADS,
      { "threads", "t", "N",
        "1 to 1024 (default: the CPUs of the process, divided by the ranks that share them)",
        OPT_THREADS } },
};

/* The rows of evaluate with them; the caller frees. */
static struct option_row *own_rows(void)
{
    const size_t n = evaluate_program.n_options;
    struct option_row *const rows = needed(calloc(n, sizeof *rows));
    for (size_t i = 0; i < n; i++) {
        rows[i] = evaluate_program.options[i];
        for (size_t k = 0; k < sizeof changed / sizeof changed[0]; k++)
            if (changed[k].instead_of == evaluate_program.options[i].id)
                rows[i] = changed[k].row;
    }
    return rows;
}

static const char *const examples[] = {
    "behind \"mpiexec -n 8\": eight processes of this machine",
    "model --text wiki.jsonl --condition nf4 --json result.json",
    "behind \"srun\": one rank per node, in a job that can be stopped",
    "model --text pile.jsonl --condition nf4 --state states --json result.json",
    NULL
};

static const char *const statuses[] = {
    "0", "done",
    "1", "failed; the reason and the rank are on standard error",
    "2", "wrong usage",
    "130", "interrupted; with --state the same command goes on",
    NULL
};

/* Ranks that say the same are heard once: of a wrong command line, and of --help. */
static void mute(bool quiet)
{
    static int kept[2] = { -1, -1 };
    for (int fd = 1; fd <= 2; fd++) {
        fflush(fd == 1 ? stdout : stderr);
        if (quiet) {
            const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
            kept[fd - 1] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
            if (null >= 0 && kept[fd - 1] >= 0)
                dup2(null, fd);
            if (null >= 0)
                close(null);
        } else if (kept[fd - 1] >= 0) {
            dup2(kept[fd - 1], fd);
            close(kept[fd - 1]);
            kept[fd - 1] = -1;
        }
    }
}

static void parse(struct evaluation *o, int argc, char **argv)
{
    struct program program = evaluate_program;
    struct option_row *const rows = own_rows();
    const bool quiet = ranks_expected() > 0;
    program.name = "evaluate_mpi";
    program.summary = "evaluate, by all ranks of an MPI job: started by mpiexec or srun, each rank "
                      "measures its part of the text, and rank 0 writes the result of one process.";
    program.options = rows;
    program.examples = examples;
    program.statuses = statuses;
    if (quiet)
        mute(true);
    evaluation_parse(o, &program, argc, argv);
    if (!o->audit.model)
        usage_error("--predict-features without MODEL runs no model: evaluate does it");
    if (o->audit.save_logits)
        usage_error("--save-logits: the file has the rows of all chunks; evaluate writes it");
    if (quiet)
        mute(false);
    free(rows);
}

/* ---- the folder of states ---- */

/* FOLDER/NAME-0003-of-0008.state, or FOLDER/NAME.state for part < 0. */
static bool state_path(const struct job *j, const char *name, int part, char path[PATH_SIZE])
{
    const int n = part < 0 ? snprintf(path, PATH_SIZE, "%s/%s.state", j->folder, name)
                           : snprintf(path, PATH_SIZE, "%s/%s-%04d-of-%04d.state", j->folder, name,
                                      part + 1, j->ranks.count);
    return n > 0 && n < PATH_SIZE;
}

/* Whether a file is what a process that was killed has left of this rank's: half a state, or one
 * that came from another rank. */
static bool is_litter(const struct job *j, const char *name)
{
    char own[2][64];
    snprintf(own[0], sizeof own[0], "-%04d-of-%04d.state.tmp-", j->ranks.rank + 1, j->ranks.count);
    snprintf(own[1], sizeof own[1], "-%04d-of-%04d.state", j->ranks.rank + 1, j->ranks.count);
    return strstr(name, own[0]) != NULL ||
           ((strncmp(name, "received-", 9) == 0 || strncmp(name, "merged-", 7) == 0) &&
            strstr(name, own[1]) != NULL) ||
           (j->ranks.rank == 0 && strncmp(name, "all.state.tmp-", 14) == 0);
}

/* Refuses states of another number of ranks, which would be of other parts; clears what is left of
 * processes that were killed. */
static int check_parts(const struct job *j)
{
    DIR *const folder = opendir(j->folder);
    int other = 0;
    if (!folder) {
        rank_complain(&j->ranks, "%s: %s", j->folder, strerror(errno));
        return -1;
    }
    for (const struct dirent *e; errno = 0, (e = readdir(folder));) {
        int part, count, end = 0;
        if (sscanf(e->d_name, "part-%d-of-%d.state%n", &part, &count, &end) == 2 && end &&
            !e->d_name[end] && count != j->ranks.count)
            other = count;
        else if (is_litter(j, e->d_name))
            unlinkat(dirfd(folder), e->d_name, 0);
    }
    const int why = errno;
    closedir(folder);
    if (why)
        rank_complain(&j->ranks, "%s: %s", j->folder, strerror(why));
    else if (other)
        rank_complain(&j->ranks, "%s: has states of %d ranks, these are %d; start as many, or "
                      "merge the states (qsae-merge) and go on with qsae-evaluate --state",
                      j->folder, other, j->ranks.count);
    return why || other ? -1 : 0;
}

static int open_folder(struct job *j)
{
    const char *const tmp = getenv("TMPDIR");
    const char *const given = j->o.audit.state;
    j->own_folder = !given;
    const int n = given ? snprintf(j->folder, sizeof j->folder, "%s", given)
                        : snprintf(j->folder, sizeof j->folder, "%s/qsae-mpi-XXXXXX",
                                   tmp && *tmp ? tmp : "/tmp");
    if (n <= 0 || n >= (int)sizeof j->folder) {
        rank_complain(&j->ranks, "--state: too long a name");
        return -1;
    }
    if (!given ? !mkdtemp(j->folder) : mkdir(given, 0777) != 0 && errno != EEXIST) {
        rank_complain(&j->ranks, "%s: %s", j->folder, strerror(errno));
        j->own_folder = false;
        return -1;
    }
    return given ? check_parts(j) : 0;
}

/* ---- measuring ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Rank 0 shows the progress of its own part. All hear whether another rank has stopped, and stop
 * at whole batches alone when a state is due. */
static int32_t progress(void *cookie, int64_t done, int64_t total, const char *unit,
                        const char *phase)
{
    struct job *const j = cookie;
    if (j->ranks.rank == 0 && progress_wanted(j->o.quiet))
        progress_line(NULL, done, total, unit, phase);
    if (ranks_stopped(&j->ranks, &j->mpi_error) != 0)
        return QSAE_ECANCELED;
    j->due = j->o.save_every > 0 && strcmp(phase, "measure") == 0 &&
             now() - j->saved >= j->o.save_every;
    return j->due ? QSAE_ECANCELED : QSAE_OK;
}

/* Until all is measured: a run that stops writes its state, and goes on. */
static int32_t run(struct job *j, qsae_audit *audit)
{
    int32_t st;
    do {
        j->due = false;
        j->saved = now();
        st = qsae_audit_run(audit);
    } while (st == QSAE_ECANCELED && j->due && !program_interrupted());
    progress_clear();
    return st;
}

/*
 * Ranks of a machine hold the weights of a measurement once, in files that have names only while
 * all of them load: a job that is killed later leaves nothing. True where they do; the folder is ""
 * where this rank does not. False: one rank, or --share-weights, or no room.
 */
static bool begin_sharing(struct job *j, char folder[PATH_SIZE])
{
    const struct ranks *const r = &j->ranks;
    struct stat info;
    folder[0] = '\0';
    if (r->node_count < 2 || j->o.own_weights || j->o.context.share_folder)
        return false;
    if (r->node_rank == 0 &&
        shared_weights_make(shared_weights_size(&j->o), folder, PATH_SIZE) != 0) {
        rank_complain(r, "%s", folder);
        folder[0] = '\0';
    }
    ranks_node_text(r, folder, PATH_SIZE);
    const bool shared = *folder != '\0';
    if (shared && r->node_rank != 0 && stat(folder, &info) != 0) { /* a container of its own */
        rank_complain(r, "%s: %s: this rank holds the weights by itself", folder, strerror(errno));
        folder[0] = '\0';
    }
    return shared;
}

/* When this rank has loaded, or failed to. */
static void end_sharing(const struct job *j, const char *folder)
{
    ranks_node_meet(&j->ranks);
    if (j->ranks.node_rank == 0)
        folder_remove(folder);
}

/* The context that a measurement is opened on: one of its own where weights are shared. */
static int32_t measuring_context(const struct job *j, const char *folder, qsae_context **own)
{
    qsae_context_settings s = j->o.context;
    s.share_folder = folder;
    return *folder ? qsae_context_open(&s, own) : QSAE_OK;
}

/* This rank's part, into `path`. */
static void measure(struct job *j, const qsae_audit_settings *settings, const char *path,
                    struct outcome *own)
{
    qsae_audit_settings s = *settings;
    qsae_audit *audit = NULL;
    qsae_context *sharing = NULL;
    char folder[PATH_SIZE];
    const bool shared = begin_sharing(j, folder);
    s.state = path;
    s.shard_index = j->ranks.rank;
    s.shard_count = j->ranks.count;
    s.progress = progress;
    s.progress_cookie = j;
    int32_t st = measuring_context(j, folder, &sharing);
    if (st == QSAE_OK)
        st = qsae_audit_open(sharing ? sharing : j->context, &s, &audit);
    if (st != QSAE_OK)
        ranks_stop(&j->ranks); /* who still loads need not go on */
    if (shared)
        end_sharing(j, folder);
    if (st == QSAE_OK)
        st = run(j, audit);
    if (j->mpi_error)
        ranks_fail(&j->ranks, j->mpi_error, "MPI_Iprobe"); /* the state is written */
    own->code = st == QSAE_OK                                      ? EXIT_DONE
                : st == QSAE_ECANCELED && (j->ranks.heard || program_interrupted())
                    ? EXIT_INTERRUPTED
                    : EXIT_FAILED;
    if (own->code == EXIT_FAILED) {
        snprintf(own->message, sizeof own->message, "%s", qsae_error_message());
        rank_complain(&j->ranks, "%s", own->message); /* at once: the others may take long */
    }
    if (own->code != EXIT_DONE)
        ranks_stop(&j->ranks);
    qsae_audit_close(&audit);
    qsae_context_close(&sharing);
}

/* Launchers name a process that was killed by its number: which rank is that? */
static void announce(const struct job *j, const struct outcome *all)
{
    const int n = j->ranks.count;
    for (int i = 0, to; i < n; i = to) {
        for (to = i + 1; to < n && strcmp(all[i].host, all[to].host) == 0;)
            to++;
        fprintf(stderr, "%s: ranks %d to %d on %s are processes", program_name(), i, to - 1,
                all[i].host);
        for (int k = i; k < to; k++)
            fprintf(stderr, " %d", (int)all[k].pid);
        fputc('\n', stderr);
    }
}

/* Everyone's worst exit status; rank 0 names those that failed. */
static int32_t together(struct job *j, const struct outcome *own, bool first_time)
{
    struct outcome *const all = needed(calloc((size_t)j->ranks.count, sizeof *all));
    int failed = 0, first = -1;
    int32_t code = EXIT_DONE;
    int64_t sent = 0;
    ranks_outcomes(&j->ranks, own, all);
    for (int i = 0; i < j->ranks.count; i++) {
        sent += all[i].sent;
        if (all[i].code == EXIT_FAILED && failed++ == 0)
            first = i;
        if (all[i].code != EXIT_DONE && code != EXIT_FAILED)
            code = all[i].code;
    }
    if (j->ranks.rank == 0 && first_time && !j->o.quiet)
        announce(j, all);
    if (j->ranks.rank == 0 && sent > 0 && !j->o.quiet)
        complain("%lld bytes of states sent by %d ranks", (long long)sent, j->ranks.count - 1);
    if (j->ranks.rank == 0 && failed > 0)
        complain("%d of %d ranks failed, rank %d on %s first: %s", failed, j->ranks.count, first,
                 all[first].host, all[first].message);
    if (j->ranks.rank == 0 && code == EXIT_INTERRUPTED)
        complain("interrupted");
    if (j->ranks.rank == 0 && code != EXIT_DONE && !first_time && !j->own_folder)
        complain("the same command goes on from %s", j->folder);
    free(all);
    return code;
}

/* ---- merging ---- */

/* What `from` has measured goes into the state at *have, which then is at `to`. */
static int take_in(struct job *j, int from, const char **have, const char *to)
{
    char path[PATH_SIZE];
    int good = 0;
    state_path(j, "received", j->ranks.rank, path);
    if (ranks_receive_file(&j->ranks, from, path) != 0)
        good = -1;
    const char *const both[] = { *have, path };
    if (good == 0 && *have && qsae_audit_merge(j->context, both, 2, to, 0, NULL) != QSAE_OK) {
        rank_complain(&j->ranks, "the states of ranks from %d on: %s", from, qsae_error_message());
        good = -1;
    }
    unlink(path);
    *have = good == 0 && *have ? to : NULL;
    return good;
}

/*
 * The states go up a binary tree: in round k rank r, a multiple of 2^(k+1), takes in that of rank
 * r + 2^k, which has those up to the next. Merging does not depend on the order, so the tree has no
 * say in the bytes. What rank 0 ends with is at `all`.
 */
static void merge(struct job *j, const char *part, const char *all, struct outcome *own)
{
    const int rank = j->ranks.rank, count = j->ranks.count;
    char merged[PATH_SIZE];
    const char *have = part;
    int good = 0;
    state_path(j, "merged", rank, merged);
    for (int step = 1; step < count; step *= 2) {
        if (rank % (2 * step) != 0) {
            good |= ranks_send_file(&j->ranks, rank - step, have, &own->sent);
            break;
        }
        if (rank + step < count)
            good |= take_in(j, rank + step, &have, rank == 0 ? all : merged);
    }
    if (rank == 0 && count == 1 &&
        qsae_audit_merge(j->context, &part, 1, all, 0, NULL) != QSAE_OK) {
        rank_complain(&j->ranks, "%s", qsae_error_message());
        good = -1;
    }
    if (rank != 0)
        unlink(merged);
    if (good == 0)
        return;
    own->code = EXIT_FAILED;
    snprintf(own->message, sizeof own->message, "its states could not be merged");
}

/* All parts of one measurement, `name` in the folder; rank 0 then has it at `all`. */
static int32_t share_out(struct job *j, const qsae_audit_settings *s, const char *name,
                         const char *all)
{
    struct outcome own = { .pid = (int32_t)getpid() };
    char part[PATH_SIZE];
    memcpy(own.host, j->ranks.host, sizeof own.host);
    state_path(j, name, j->ranks.rank, part);
    measure(j, s, part, &own);
    const int32_t code = together(j, &own, false);
    if (code != EXIT_DONE)
        return code;
    merge(j, part, all, &own);
    return together(j, &own, false);
}

/* ---- the result ---- */

/* The merged state, open; what is measured once, after the text, is measured here. */
static int32_t open_all(struct job *j, const qsae_audit_settings *settings, const char *all,
                        qsae_audit **audit)
{
    qsae_audit_settings s = *settings;
    s.state = all;
    if (progress_wanted(j->o.quiet))
        s.progress = progress_line;
    int32_t st = qsae_audit_open(j->context, &s, audit);
    if (st == QSAE_OK)
        st = qsae_audit_run(*audit);
    progress_clear();
    if (st != QSAE_OK)
        rank_complain(&j->ranks, "%s", qsae_error_message());
    return st == QSAE_OK          ? EXIT_DONE
           : st == QSAE_ECANCELED ? EXIT_INTERRUPTED
                                  : EXIT_FAILED;
}

/* The sweep by all ranks, the plan by rank 0, its measurement by all again. */
static int32_t plan(struct job *j)
{
    struct plan *const p = &j->o.plan;
    qsae_audit_settings sweep;
    qsae_audit *audit = NULL;
    char all[PATH_SIZE];
    state_path(j, "sweep", -1, all);
    plan_sweep(p, &j->o.audit, &sweep);
    int32_t code = share_out(j, &sweep, "sweep", all);
    if (code == EXIT_DONE && j->ranks.rank == 0) {
        code = open_all(j, &sweep, all, &audit);
        if (code == EXIT_DONE && plan_choose(audit, p) != QSAE_OK) {
            rank_complain(&j->ranks, "%s", qsae_error_message());
            code = EXIT_FAILED;
        }
        qsae_audit_close(&audit);
    }
    if ((code = ranks_agree(&j->ranks, code)) != EXIT_DONE)
        return code;
    char *const text = ranks_text(&j->ranks, p->json);
    free(p->json);
    p->json = text;
    return plan_adopt(p, &j->o.audit) == QSAE_OK ? EXIT_DONE : EXIT_FAILED;
}

static int32_t all_of_it(struct job *j)
{
    char all[PATH_SIZE];
    qsae_audit *audit = NULL;
    int32_t code = j->o.plan.bits > 0 ? plan(j) : EXIT_DONE;
    if (code != EXIT_DONE)
        return code;
    state_path(j, "all", -1, all);
    code = share_out(j, &j->o.audit, "part", all);
    if (code == EXIT_DONE && j->ranks.rank == 0) {
        const char *const given = j->o.audit.state;
        code = open_all(j, &j->o.audit, all, &audit);
        j->o.audit.state = all; /* what a second text (--sliding) names its own after */
        if (progress_wanted(j->o.quiet))
            j->o.audit.progress = progress_line;
        if (code == EXIT_DONE)
            code = evaluation_finish(&j->o, j->context, audit);
        if (code == EXIT_FAILED)
            rank_complain(&j->ranks, "no result");
        qsae_audit_close(&audit);
        j->o.audit.state = given;
    }
    return ranks_agree(&j->ranks, code);
}

/* ---- the job ---- */

/* Ranks that share CPUs divide them; with --pin each has its own. */
static void divide_cpus(struct job *j)
{
    cpu_set_t own, part;
    const struct ranks *const r = &j->ranks;
    if (sched_getaffinity(0, sizeof own, &own) != 0 || r->locals < 2)
        return;
    const int cpus = CPU_COUNT(&own);
    const int from = (int)((int64_t)cpus * r->local / r->locals),
              to = (int)((int64_t)cpus * (r->local + 1) / r->locals);
    if (j->o.context.threads == 0)
        j->o.context.threads = to > from ? to - from : 1;
    if (!j->o.context.pin || to <= from)
        return;
    CPU_ZERO(&part);
    for (int cpu = 0, n = 0; cpu < CPU_SETSIZE && n < to; cpu++)
        if (CPU_ISSET((size_t)cpu, &own) && n++ >= from)
            CPU_SET((size_t)cpu, &part);
    if (sched_setaffinity(0, sizeof part, &part) != 0)
        rank_complain(r, "--pin: %s", strerror(errno));
}

static int32_t start(struct job *j)
{
    struct outcome own = { .pid = (int32_t)getpid() };
    int32_t st = QSAE_OK;
    memcpy(own.host, j->ranks.host, sizeof own.host);
    if (open_folder(j) != 0) {
        own.code = EXIT_FAILED;
        snprintf(own.message, sizeof own.message, "the folder of states");
    }
    divide_cpus(j);
    if (j->ranks.rank == 0) /* warnings are alike on all of them */
        j->o.context.log = program_log;
    if (own.code == EXIT_DONE)
        st = qsae_context_open(&j->o.context, &j->context);
    if (st != QSAE_OK) {
        own.code = EXIT_FAILED;
        snprintf(own.message, sizeof own.message, "%s", qsae_error_message());
        rank_complain(&j->ranks, "%s", own.message);
    }
    return together(j, &own, true);
}

static struct job *at_work; /* for what ends the program anywhere */

static void drop_folder(void)
{
    if (at_work->own_folder)
        folder_remove(at_work->folder);
    at_work->own_folder = false;
}

static void without_memory(void)
{
    mute(false);
    drop_folder();
    ranks_without_memory(&at_work->ranks);
}

int main(int argc, char **argv)
{
    static struct job j;
    qsae_cancel_token *cancel = NULL;
    at_work = &j;
    atexit(drop_folder);
    program_without_memory(without_memory);
    parse(&j.o, argc, argv);
    ranks_begin(&j.ranks);
    int32_t code = EXIT_FAILED;
    needed(program_cancel_open(&cancel) == QSAE_OK ? cancel : NULL); /* it lacks nothing else */
    j.o.audit.cancel = cancel;
    code = start(&j);
    if (code == EXIT_DONE)
        code = all_of_it(&j);
    drop_folder();
    qsae_context_close(&j.context);
    qsae_cancel_token_close(&cancel);
    evaluation_free(&j.o);
    code = program_end(code);
    ranks_end();
    return code;
}
