/* SPDX-License-Identifier: BSD-2-Clause */
/* Runs a program as the ranks of an MPI job, one of which is under a fault. */
#ifndef TESTS_FAULTS_JOB_H
#define TESTS_FAULTS_JOB_H

#include "launch.h"

/* As launch(), by `mpiexec` (a path). The outcome is the job's, but what is told of calls is the
 * rank's: none where it was killed. The test program must begin with job_rank. */
struct outcome job_launch(const struct launch *l, const char *mpiexec, int ranks, int rank,
                          char *const *arguments, const struct fault *fault, const char *out);

/* Where the test program runs as a rank of such a job: does so and ends. */
void job_rank(int argc, char **argv);

#endif
