#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# One part of a text per task of a job array, each with a state of its own. Nothing here is to be
# edited: options of evaluate follow the folder of states. See doc/scaling.md.
#
#     sbatch --array=1-64 array.sh FOLDER MODEL --text FILE --condition nf4
#
#SBATCH --job-name=qsae
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the end of the job's time evaluate hears of it, and writes what it has.
#SBATCH --signal=TERM@120
set -u
folder=$1
shift
mkdir -p "$folder" || exit 1
part=$SLURM_ARRAY_TASK_ID
parts=$SLURM_ARRAY_TASK_COUNT
srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    qsae-evaluate "$@" --shard "$part/$parts" --state "$folder/part-$part-of-$parts.state"
status=$?
# Out of time: the same task once more, from its state. 143: the signal came before evaluate began.
if [ "$status" = 130 ] || [ "$status" = 143 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$part" && status=0
fi
exit "$status"
