#!/bin/bash
# One training stage on several machines of a Slurm cluster, one process for each GPU.
#   sbatch --nodes 2 --gpus-per-node 8 docs/cluster/slurm.sh train_vqvae.py --run.dir /shared/runs
# Without GPUs, two processes on each machine:
#   PROCESSES=2 sbatch --nodes 2 docs/cluster/slurm.sh train_vqvae.py --run.dir /shared/runs
# run.dir is a folder that all machines see. A job that Slurm queues again (preempted, or a machine is gone; --requeue)
# goes on with --resume. After its time is over, submit it anew with --resume.
#SBATCH --job-name=reconstruct-masked-images
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail

stage=${1:?usage: sbatch docs/cluster/slurm.sh STAGE.py [options of the stage]}
shift
processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
resume=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then resume=(--resume); fi

cd "$SLURM_SUBMIT_DIR"
source "${VENV:-.venv}/bin/activate"
exec srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$processes" \
  --rdzv-backend c10d --rdzv-endpoint "$head:${PORT:-29500}" --rdzv-id "$SLURM_JOB_ID" "$stage" "$@" "${resume[@]}"
