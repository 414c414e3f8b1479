#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The result of what array.sh has measured. The options are those of the parts; --json and whatever
# else shows the result may be added. See doc/scaling.md.
#
#     sbatch --dependency=afterok:JOB merge.sh FOLDER MODEL --text FILE --condition nf4 --json OUT
#
#SBATCH --job-name=qsae-merge
#SBATCH --nodes=1
#SBATCH --ntasks=1
set -eu
folder=$1
shift
qsae-merge "$folder/all.state" "$folder"/part-*-of-*.state
qsae-evaluate "$@" --state "$folder/all.state"
