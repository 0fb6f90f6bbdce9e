"""`signbench cancel`: cancel the Slurm jobs of runs that have not finished."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analysis.folder import list_runs
from baselines.errors import UserError
from launch.executors.queue import cancel_jobs, go_on, note_cancelled
from launch.executors.status import Status, statuses
from launch.flags import parse


@dataclass(frozen=True)
class CancelCommand:
    """Cancel the Slurm jobs of all runs in a folder that have not finished."""

    runs: Path = Path("runs")
    """Folder of the run folders."""


def command(args: list[str]) -> int:
    """Cancel the jobs. Return the exit code."""
    root = parse(CancelCommand, args, "signbench cancel").runs
    list_runs(root)  # says so if there is no such folder
    if not shutil.which("squeue"):
        raise UserError("there is no squeue here: cancel jobs on a machine of their cluster.")
    ending = ("finished", "cancelled")  # their jobs can be in the queue for some seconds
    active = [s for s in statuses(root, strict=True) if s.active and s.state not in ending]
    _note(root, active, cancelled=True)  # first: a job that is cancelled may end at once
    jobs = [status.job for status in active]
    try:
        cancel_jobs(jobs)
    except UserError:  # of another user, for example
        left = go_on(jobs)
        _note(root, [status for status in active if status.job in left], cancelled=False)
        raise
    print(f"cancelled {len(active)} jobs; the runs resume from their last epoch when resubmitted.")
    return 0


def _note(root: Path, active: Iterable[Status], cancelled: bool) -> None:
    """Record for runs whether their jobs were cancelled."""
    for status in active:
        try:
            note_cancelled(root / status.name, cancelled)
        except UserError as error:
            warnings.warn(
                f"cannot record whether {status.name} is cancelled: {error}", stacklevel=2
            )
