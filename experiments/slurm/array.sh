#!/bin/bash
# Every task of an array trains one slab of a run's seeds. From the checkout, after `make`:
#
#     sbatch --array=0-15 experiments/slurm/array.sh                                   the paper preset, in runs/paper
#     sbatch --array=0-15 --gpus=1 --time=4:00:00 experiments/slurm/array.sh mine.toml --device gpu
#
# The first argument is a preset or a TOML file, the others are options of experiments.grid. Short of the time limit a task
# checkpoints and goes back to the queue by itself; one that was preempted or failed goes on from its last checkpoint once
# it is requeued or the same array is submitted again. `python -m phasejax merge runs/paper` when all are done.
#
#SBATCH --job-name=phasejax
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

settings=${1:-paper}
out=runs/$(basename "$settings" .toml)
if [ -e "$out/experiment.toml" ]; then
  from=(--resume "$out")
elif [ -f "$settings" ]; then
  from=(--config "$settings" --out "$out")
else
  from=(--preset "$settings" --out "$out")
fi

# A job that is cancelled or preempted gets SIGTERM in all its processes: python checkpoints, this shell only has to wait.
trap : TERM
# Two minutes before the time limit SLURM tells this shell alone.
limit=far
trap 'limit=near; kill -TERM "$python"' USR1

"${PYTHON:-.venv/bin/python}" -m experiments.grid "${from[@]}" --shard auto "${@:2}" &
python=$!
while kill -0 "$python" 2>/dev/null; do wait "$python"; done # a trap ends wait early
wait "$python"
code=$?

case $code,$limit in
  124,* | 143,near)
    # By task: a job's own number can be the whole array's.
    exec scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    ;;
esac
exit "$code"
