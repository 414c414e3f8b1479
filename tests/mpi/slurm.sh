#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The scripts of examples/slurm with a scheduler that is a loop: srun runs its command, scontrol
# notes what is to run again. Prints TAP. Arguments: source folder, folder of the programs.
src=$1
bin=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
. "$src/tests/install/tap.sh"
. "$src/tests/mpi/common.sh"

cat >"$tmp/srun" <<'END'
#!/bin/sh
while case ${1-} in -*) true ;; *) false ;; esac; do shift; done
[ ! -e "$SLURM_TEST_STOP" ] || {
    rm "$SLURM_TEST_STOP"
    # Time is up soon.
    "$@" & sleep 0.1
    kill -TERM $! 2>/dev/null
    wait $!
    exit
}
exec "$@"
END
cat >"$tmp/scontrol" <<'END'
#!/bin/sh
echo "$@" >>"$SLURM_TEST_LOG"
END
mkdir "$tmp/bin"
mv "$tmp/srun" "$tmp/scontrol" "$tmp/bin"
chmod +x "$tmp/bin/srun" "$tmp/bin/scontrol"
named qsae-evaluate "$bin/evaluate"
named qsae-merge "$bin/merge"
PATH=$tmp/bin:$PATH
SLURM_TEST_STOP=$tmp/stop
SLURM_TEST_LOG=$tmp/requeued
export PATH SLURM_TEST_STOP SLURM_TEST_LOG

task() { # PART PARTS: a task of the array, as Slurm would start it
    # shellcheck disable=SC2086
    SLURM_ARRAY_JOB_ID=77 SLURM_JOB_ID=$((77 + $1)) SLURM_ARRAY_TASK_ID=$1 \
        SLURM_ARRAY_TASK_COUNT=$2 SLURM_CPUS_PER_TASK=1 \
        sh "$src/examples/slurm/array.sh" "$tmp/states" $small >/dev/null
}

array() { # the second task runs out of time, and is requeued until it is done
    for part in 1 2 3; do
        : >"$tmp/requeued"
        [ $part != 2 ] || : >"$tmp/stop"
        task $part 3 || return 1
        [ $part != 2 ] || [ -s "$tmp/requeued" ] || return 1
        while [ -s "$tmp/requeued" ]; do
            grep -qx "requeue 77_$part" "$tmp/requeued" || return 1
            : >"$tmp/requeued"
            task $part 3 || return 1
        done
    done
    [ ! -e "$tmp/stop" ] && [ "$(ls "$tmp/states" | wc -l)" = 3 ]
}

merged() {
    # shellcheck disable=SC2086
    sh "$src/examples/slurm/merge.sh" "$tmp/states" $small --json "$tmp/merged.json" &&
        same "$tmp/one.json" "$tmp/merged.json"
}

missing() { # a part is not there: no result that looks whole
    rm -f "$tmp/states/part-1-of-3.state" "$tmp/states/all.state" "$tmp/merged.json"
    # shellcheck disable=SC2086
    ! sh "$src/examples/slurm/merge.sh" "$tmp/states" $small --json "$tmp/merged.json" &&
        [ ! -e "$tmp/merged.json" ]
}

failing() { # a task that cannot be measured says so
    ! SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=2 \
        sh "$src/examples/slurm/array.sh" "$tmp/other" /nowhere --text "$data/eval.jsonl"
}

# shellcheck disable=SC2086
check "one process" "$bin/evaluate" $small --json "$tmp/one.json"
for script in array merge mpi; do
    check "$script.sh is a script" sh -n "$src/examples/slurm/$script.sh"
done
check "an array, a task of which runs out of time" array
check "its parts, merged: the result of one process" merged
check "a part is missing" missing
check "a task that fails" failing
if [ -x "$bin/evaluate_mpi" ] && command -v mpiexec >/dev/null; then
    # srun starts the ranks; here mpiexec does.
    start=$tmp/bin/qsae-evaluate-mpi
    printf '#!/bin/sh\nexec mpiexec -n 2 "%s" "$@"\n' "$bin/evaluate_mpi" >"$start"
    chmod +x "$start"
    # shellcheck disable=SC2086
    check "mpi.sh" sh "$src/examples/slurm/mpi.sh" "$tmp/mpi" $small --quiet --json "$tmp/mpi.json"
    check "its result: that of one process" same "$tmp/one.json" "$tmp/mpi.json"
else
    skip "mpi.sh" "built without MPI"
fi
finish
