"""`signbench status`: the state of all runs in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.commands.submission import resubmit_runs
from launch.executors.status import statuses, to_text
from launch.flags import parse


@dataclass(frozen=True)
class StatusCommand:
    """Show the state of all runs in a folder, here and on Slurm."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    resubmit: bool = False
    """Submit the runs again whose jobs have ended without a result, except cancelled ones."""


def command(args: list[str]) -> int:
    """Print one line per run. Return the exit code."""
    given = parse(StatusCommand, args, "signbench status")
    if given.resubmit:
        return resubmit_runs(given.runs)
    print(to_text(statuses(given.runs)))
    return 0
