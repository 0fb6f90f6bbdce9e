"""Running many runs: on this machine, or on Slurm."""
