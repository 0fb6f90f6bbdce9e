"""`signbench cancel`: cancel the Slurm jobs of runs that have not finished."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from analysis.folder import list_runs
from baselines.errors import UserError
from launch.executors.queue import cancel_jobs, note_cancelled
from launch.executors.status import statuses
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
    active = [status for status in statuses(root) if status.active]
    for status in active:  # first: scancel can fail for some of them
        try:
            note_cancelled(root / status.name)
        except UserError as error:
            warnings.warn(f"{status.name} is not noted as cancelled: {error}", stacklevel=2)
    cancel_jobs([status.job for status in active])
    print(f"cancelled {len(active)} jobs; the runs resume from their last epoch when resubmitted.")
    return 0
