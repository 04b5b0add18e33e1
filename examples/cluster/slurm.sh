#!/usr/bin/env bash
# A study as a SLURM job on four nodes: sbatch slurm.sh. Submitted again after a time limit, it goes on.
#SBATCH --job-name=finetricks
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=4
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # head would end while scontrol still writes

# Starts Ray on every node, runs the command on the first, and stops Ray when it ends.
srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_NNODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  finetricks sweep "$HOME/studies/study.yaml" --out "$HOME/studies/runs/study" --resume --address "$head:6379"
