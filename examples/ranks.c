/* SPDX-License-Identifier: BSD-2-Clause */
#include "ranks.h"

#include <errno.h>
#include <mpi.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum { TAG_STOP = 1, TAG_SIZE, TAG_BYTES };
enum { PIECE = 1 << 20 };        /* bytes of a message */

/* NULL: no launcher has put it there. */
static const char *launched_as(void)
{
    static const char *const names[] = { "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK",
                                         "SLURM_PROCID" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *const text = getenv(names[i]);
        if (text && *text)
            return text;
    }
    return NULL;
}

int ranks_expected(void)
{
    const char *const text = launched_as();
    return text ? atoi(text) : 0;
}

void rank_complain(const struct ranks *r, const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vsnprintf(text, sizeof text, format, list);
#pragma GCC diagnostic pop
    va_end(list);
    complain("rank %d on %s: %s", r->rank, r->host, text);
}

static void nap(int turn)
{
    const long most = 10 * 1000 * 1000;
    const struct timespec t = { .tv_nsec = turn < 100 ? 100000L * turn : most };
    nanosleep(&t, NULL);
}

/* A launcher that ends a job does not look for what ranks have said last: it must have read that,
 * which takes no time where it lives. */
static _Noreturn void end_job(void)
{
    int unread = 0;
    for (int turn = 0; turn < 300 && ioctl(STDERR_FILENO, FIONREAD, &unread) == 0 && unread; turn++)
        nap(turn);
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILED);
    exit(EXIT_FAILED); /* should MPI_Abort return */
}

void ranks_fail(const struct ranks *r, int error, const char *call)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    if (error == MPI_ERR_NO_MEM) /* said of ours; MPI's own words are about a call of its own */
        snprintf(text, sizeof text, "out of memory");
    else if (MPI_Error_string(error, text, &n) != MPI_SUCCESS)
        snprintf(text, sizeof text, "error %d", error);
    rank_complain(r, "%s: %s", call, text);
    end_job();
}

void ranks_without_memory(struct ranks *r)
{
    if (!launched_as())
        return;
    if (r->count == 0)
        ranks_begin(r);
    rank_complain(r, "out of memory");
    end_job();
}

static void need(const struct ranks *r, int error, const char *call)
{
    if (error != MPI_SUCCESS)
        ranks_fail(r, error, call);
}

/* ---- begin and end ---- */

/* The ranks of this machine, and which of them have the same CPUs as this one: a launcher that
 * binds them gives each its own. */
static void find_locals(struct ranks *r)
{
    MPI_Comm node;
    cpu_set_t own, *all;
    int n = 1, me = 0;
    r->locals = 1;
    need(r, MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, r->rank, MPI_INFO_NULL,
                                &node), "MPI_Comm_split_type");
    need(r, MPI_Comm_size(node, &n), "MPI_Comm_size");
    need(r, MPI_Comm_rank(node, &me), "MPI_Comm_rank");
    all = calloc((size_t)n, sizeof *all);
    if (!all)
        ranks_fail(r, MPI_ERR_NO_MEM, "calloc");
    CPU_ZERO(&own);
    if (sched_getaffinity(0, sizeof own, &own) != 0)
        CPU_SET((size_t)me % CPU_SETSIZE, &own);
    need(r, MPI_Allgather(&own, (int)sizeof own, MPI_BYTE, all, (int)sizeof own, MPI_BYTE, node),
         "MPI_Allgather");
    r->locals = 0;
    for (int i = 0; i < n; i++) {
        if (!CPU_EQUAL(&own, &all[i]))
            continue;
        if (i == me)
            r->local = r->locals;
        r->locals++;
    }
    free(all);
    r->node_rank = me;
    r->node_count = n;
    r->node = (int)MPI_Comm_c2f(node);
}

void ranks_begin(struct ranks *r)
{
    int provided = MPI_THREAD_SINGLE;
    *r = (struct ranks){ .rank = ranks_expected() };
    if (gethostname(r->host, sizeof r->host - 1) != 0)
        strcpy(r->host, "?");
    need(r, MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    need(r, MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    need(r, MPI_Comm_rank(MPI_COMM_WORLD, &r->rank), "MPI_Comm_rank");
    need(r, MPI_Comm_size(MPI_COMM_WORLD, &r->count), "MPI_Comm_size");
    if (provided < MPI_THREAD_FUNNELED)
        ranks_fail(r, MPI_ERR_OTHER, "MPI_Init_thread: no threads beside MPI");
    find_locals(r);
}

void ranks_end(void)
{
    MPI_Finalize(); /* nothing is left that could be done about an error */
}

/* ---- waiting ---- */

/* Gives the CPU away: MPI's own waiting would keep it from ranks that still measure. An
 * interruption stops the others where `listen` is not NULL. */
static void wait_for(const struct ranks *r, MPI_Request *request, const char *call,
                     struct ranks *listen)
{
    int done = 0;
    for (int turn = 0; !done; turn += turn < 1000) {
        need(r, MPI_Test(request, &done, MPI_STATUS_IGNORE), call);
        if (!done && listen && program_interrupted())
            ranks_stop(listen);
        if (!done && turn < 100)
            sched_yield();
        else if (!done)
            nap(turn - 100);
    }
}

/* ---- stopping ---- */

void ranks_stop(struct ranks *r)
{
    if (r->told)
        return;
    r->told = true;
    for (int i = 0; i < r->count; i++) {
        MPI_Request request;
        if (i == r->rank)
            continue;
        need(r, MPI_Isend(NULL, 0, MPI_BYTE, i, TAG_STOP, MPI_COMM_WORLD, &request), "MPI_Isend");
        /* Everyone takes it in (ranks_outcomes), and there is nothing to keep for it. */
        need(r, MPI_Request_free(&request), "MPI_Request_free");
    }
}

static int take_stop(struct ranks *r, int *found)
{
    int e = MPI_Iprobe(MPI_ANY_SOURCE, TAG_STOP, MPI_COMM_WORLD, found, MPI_STATUS_IGNORE);
    if (e == MPI_SUCCESS && *found) {
        e = MPI_Recv(NULL, 0, MPI_BYTE, MPI_ANY_SOURCE, TAG_STOP, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
        r->stops += e == MPI_SUCCESS;
        r->heard |= e == MPI_SUCCESS;
    }
    return e;
}

int ranks_stopped(struct ranks *r, int *error)
{
    int found = 0;
    *error = take_stop(r, &found);
    return *error != MPI_SUCCESS ? -1 : r->heard;
}

/* ---- what all know ---- */

void ranks_outcomes(struct ranks *r, const struct outcome *own, struct outcome *all)
{
    MPI_Request request;
    int told, all_told = 0, found;
    need(r, MPI_Iallgather(own, (int)sizeof *own, MPI_BYTE, all, (int)sizeof *own, MPI_BYTE,
                           MPI_COMM_WORLD, &request), "MPI_Iallgather");
    wait_for(r, &request, "MPI_Iallgather", r);
    /* Nobody tells anything after this: every notice is taken in here. */
    told = r->told;
    need(r, MPI_Iallreduce(&told, &all_told, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &request),
         "MPI_Iallreduce");
    wait_for(r, &request, "MPI_Iallreduce", NULL);
    while (r->stops < all_told - told)
        need(r, take_stop(r, &found), "MPI_Iprobe");
    r->stops = 0;
    r->told = r->heard = false;
}

/* What the first rank of a communicator has there, to all others of it. */
static void broadcast(const struct ranks *r, MPI_Comm all, void *data, int n, MPI_Datatype type)
{
    MPI_Request request;
    need(r, MPI_Ibcast(data, n, type, 0, all, &request), "MPI_Ibcast");
    wait_for(r, &request, "MPI_Ibcast", NULL);
}

int32_t ranks_agree(const struct ranks *r, int32_t code)
{
    broadcast(r, MPI_COMM_WORLD, &code, 1, MPI_INT32_T);
    return code;
}

char *ranks_text(const struct ranks *r, const char *text)
{
    int n = r->rank == 0 && text ? (int)strlen(text) : -1;
    broadcast(r, MPI_COMM_WORLD, &n, 1, MPI_INT);
    if (n < 0)
        return NULL;
    char *const copy = calloc(1, (size_t)n + 1);
    if (!copy)
        ranks_fail(r, MPI_ERR_NO_MEM, "calloc");
    if (r->rank == 0)
        memcpy(copy, text, (size_t)n);
    broadcast(r, MPI_COMM_WORLD, copy, n, MPI_CHAR);
    return copy;
}

/* Without memory of its own: the first rank may have made what the text names. */
void ranks_node_text(const struct ranks *r, char *text, int size)
{
    broadcast(r, MPI_Comm_f2c((MPI_Fint)r->node), text, size, MPI_CHAR);
}

void ranks_node_meet(const struct ranks *r)
{
    MPI_Request request;
    need(r, MPI_Ibarrier(MPI_Comm_f2c((MPI_Fint)r->node), &request), "MPI_Ibarrier");
    wait_for(r, &request, "MPI_Ibarrier", NULL);
}

/* ---- files ---- */

static void send(const struct ranks *r, int to, const void *data, int n, int tag)
{
    MPI_Request request;
    need(r, MPI_Isend(data, n, MPI_BYTE, to, tag, MPI_COMM_WORLD, &request), "MPI_Isend");
    wait_for(r, &request, "MPI_Isend", NULL);
}

static void receive(const struct ranks *r, int from, void *data, int n, int tag)
{
    MPI_Request request;
    need(r, MPI_Irecv(data, n, MPI_BYTE, from, tag, MPI_COMM_WORLD, &request), "MPI_Irecv");
    wait_for(r, &request, "MPI_Irecv", NULL);
}

static char *new_piece(const struct ranks *r)
{
    char *const piece = calloc(1, PIECE);
    if (!piece)
        ranks_fail(r, MPI_ERR_NO_MEM, "calloc");
    return piece;
}

static int piece_of(int64_t size, int64_t at)
{
    return size - at < PIECE ? (int)(size - at) : PIECE;
}

/* Its size, open for reading; -1 after a message. */
static int64_t open_file(const struct ranks *r, const char *path, FILE **f)
{
    int64_t size = -1;
    *f = file_open(path, "rbe");
    if (*f && fseeko(*f, 0, SEEK_END) == 0)
        size = (int64_t)ftello(*f);
    if (size >= 0 && fseeko(*f, 0, SEEK_SET) != 0)
        size = -1;
    if (size < 0)
        rank_complain(r, "%s: %s", path, strerror(errno));
    return size;
}

int ranks_send_file(const struct ranks *r, int to, const char *path, int64_t *sent)
{
    FILE *f = NULL;
    const int64_t size = path ? open_file(r, path, &f) : -1;
    bool good = size >= 0;
    char *const piece = new_piece(r);
    send(r, to, &size, (int)sizeof size, TAG_SIZE);
    for (int64_t at = 0; at < size; at += PIECE) {
        const int n = piece_of(size, at);
        if (good && fread(piece, 1, (size_t)n, f) != (size_t)n) {
            rank_complain(r, "%s: %s", path, ferror(f) ? strerror(errno) : "it became shorter");
            good = false;
        }
        send(r, to, piece, n, TAG_BYTES);
        *sent += n;
    }
    /* What was sent of a file that could not be read to its end is no state: its checksum fails. */
    free(piece);
    if (f)
        fclose(f);
    return good ? 0 : -1;
}

int ranks_receive_file(const struct ranks *r, int from, const char *path)
{
    int64_t size = -1;
    int why = 0;
    receive(r, from, &size, (int)sizeof size, TAG_SIZE);
    if (size < 0)
        return -1;
    FILE *const f = file_open(path, "wbe");
    if (!f)
        why = errno;
    char *const piece = new_piece(r);
    for (int64_t at = 0; at < size; at += PIECE) {
        const int n = piece_of(size, at);
        receive(r, from, piece, n, TAG_BYTES);
        if (!why && fwrite(piece, 1, (size_t)n, f) != (size_t)n)
            why = errno ? errno : EIO;
    }
    free(piece);
    if (f && fclose(f) != 0 && !why)
        why = errno;
    if (why)
        rank_complain(r, "%s: %s", path, strerror(why));
    return why ? -1 : 0;
}
