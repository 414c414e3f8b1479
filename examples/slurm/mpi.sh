#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# All parts in one job, a rank per node, merged by the ranks. See doc/scaling.md.
#
#     sbatch --nodes=64 mpi.sh FOLDER MODEL --text FILE --condition nf4 --json OUT
#
#SBATCH --job-name=qsae-mpi
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -u
folder=$1
shift
srun ${QSAE_MPI:+--mpi="$QSAE_MPI"} \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    qsae-evaluate-mpi "$@" --state "$folder"
status=$?
if [ "$status" = 130 ] || [ "$status" = 143 ]; then
    scontrol requeue "$SLURM_JOB_ID" && status=0
fi
exit "$status"
