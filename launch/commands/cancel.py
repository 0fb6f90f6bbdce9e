"""`signbench cancel`: cancel the Slurm jobs of runs that have not finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.executors.queue import cancel_jobs
from launch.executors.status import statuses
from launch.flags import parse


@dataclass(frozen=True)
class CancelCommand:
    """Cancel the Slurm jobs of all runs in a folder that have not finished."""

    runs: Path = Path("runs")
    """Folder of the run folders."""


def command(args: list[str]) -> int:
    """Cancel the jobs. Return the exit code."""
    found = statuses(parse(CancelCommand, args, "signbench cancel").runs)
    jobs = [status.job for status in found if status.active]
    cancel_jobs(jobs)
    print(f"cancelled {len(jobs)} jobs; the runs resume from their last epoch when resubmitted.")
    return 0
