"""Submission of runs to Slurm, shared by commands."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from launch.config.cluster import Cluster
from launch.config.machine import Machine
from launch.config.run import Run
from launch.config.shell import runs_flag


def print_scripts(runs: list[Run], machine: Machine, cluster: Cluster) -> None:
    """Print what a submission would give to sbatch."""
    from launch.executors.script import sbatch_scripts

    for script in sbatch_scripts(runs, machine, cluster):
        print(script)


def submit_runs(runs: list[Run], machine: Machine, cluster: Cluster, strict: bool = True) -> int:
    """Submit runs and print their jobs. Return the exit code.

    Args:
        strict: as for `launch.executors.slurm.submit`.
    """
    from launch.executors.slurm import submit

    submitted = submit(runs, machine, cluster, strict)
    for run, job in submitted:
        print(f"job {job}: {run.title}")
    left = len(runs) - len(submitted)
    others = "queued or finished" if strict else "queued, finished or left out"
    print(f"submitted {len(submitted)} of {len(runs)} runs; {left} are {others}.")
    command = shlex.join(["signbench", "status", *runs_flag(machine.runs)])
    print(f"follow them with: {command}")
    return 0


def resubmit_runs(root: Path, names: Collection[str], cancelled: bool) -> int:
    """Submit again what has ended without a result, and print the jobs. Return the exit code.

    Args:
        names: the runs to consider.
        cancelled: whether to submit those that were cancelled.
    """
    from launch.executors.resubmission import resubmit

    submitted = resubmit(root, names, cancelled)
    for run, job in submitted:
        print(f"job {job}: {run.title}")
    print(f"submitted {len(submitted)} runs again.")
    return 0
