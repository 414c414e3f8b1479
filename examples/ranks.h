/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The processes of an MPI job, as evaluate_mpi needs them. Calls are for the thread that called
 * ranks_begin. What MPI itself reports is told with the rank and the call, and ends the job
 * (MPI_Abort): no call here returns such an error but ranks_stopped.
 */
#ifndef EXAMPLES_RANKS_H
#define EXAMPLES_RANKS_H

#include <stdbool.h>
#include <stdint.h>

enum { RANK_HOST = 64, RANK_MESSAGE = 512 };

struct ranks {
    int rank, count;             /* of all */
    int local, locals;           /* among those of this machine that may use the same CPUs */
    int node_rank, node_count;   /* among those of this machine */
    int node;                    /* MPI's number of their communicator */
    char host[RANK_HOST];
    bool told, heard;            /* to stop */
    int stops;                   /* notices of that which came in */
};

/* What became of a rank. */
struct outcome {
    int32_t code;                /* exit status */
    int32_t pid;
    int64_t sent;                /* bytes of its states */
    char host[RANK_HOST];
    char message[RANK_MESSAGE];
};

/* The rank that a launcher (Hydra, Open MPI, Slurm) has put into the environment; 0 if none has.
 * For what is said before ranks_begin. */
int ranks_expected(void);

void ranks_begin(struct ranks *r);
void ranks_end(void);

/* "rank 3 on HOST: ..." on standard error. */
__attribute__((format(printf, 2, 3))) void rank_complain(const struct ranks *r,
                                                         const char *format, ...);

/* Tells the others to stop; the first call alone does. */
void ranks_stop(struct ranks *r);
/* 1: another rank has told so; 0; -1 where MPI fails, which *error (MPI's number) then is. */
int ranks_stopped(struct ranks *r, int *error);
/* Ends the job for that error. */
void ranks_fail(const struct ranks *r, int error, const char *call);
/* Ends it for want of memory, where there is a job. A rank that ends by itself before ranks_begin
 * would be waited for: it begins then (count 0), to tell the others. */
void ranks_without_memory(struct ranks *r);

/*
 * Everyone's outcome [count], known to all. Waits for all ranks without using a CPU; an
 * interruption in the meantime tells the others to stop.
 */
void ranks_outcomes(struct ranks *r, const struct outcome *own, struct outcome *all);

/*
 * The bytes of a file from one rank to another, in messages of at most 1 MiB. Both return 0, or -1
 * after a message: where the file cannot be read, the receiver hears so; where it cannot be
 * written, the rest is taken in all the same. path NULL: there is none to send. The bytes are
 * added to *sent.
 */
int ranks_send_file(const struct ranks *r, int to, const char *path, int64_t *sent);
int ranks_receive_file(const struct ranks *r, int from, const char *path);

/* Rank 0's number, known to all; waits as ranks_outcomes does. */
int32_t ranks_agree(const struct ranks *r, int32_t code);
/* Rank 0's text (NULL: none), which the caller frees, to all others; NULL on them where there is
 * none. */
char *ranks_text(const struct ranks *r, const char *text);

/* The text of the machine's first rank, in a place of that size, to all ranks of the machine. Waits
 * as ranks_outcomes does. */
void ranks_node_text(const struct ranks *r, char *text, int size);
/* Waits likewise for all ranks of the machine. */
void ranks_node_meet(const struct ranks *r);

#endif
