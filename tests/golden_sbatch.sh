#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=10
#SBATCH --dependency=afterany:6:7_1
#SBATCH --error=LOGS/%j_0_log.err
#SBATCH --gpus-per-node=8
#SBATCH --job-name=signbench
#SBATCH --mem=200GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=LOGS/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=2880
#SBATCH --wckey=submitit

# setup
export SIGNBENCH_JOB_START=$(date +%s)
export PYTHONPATH=/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output LOGS/%j_%t_log.out --error LOGS/%j_%t_log.err --cpus-per-task=10 COMMAND
