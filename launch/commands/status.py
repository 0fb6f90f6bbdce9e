"""`signbench status`: the state of all runs in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.executors.status import statuses, to_text
from launch.flags import parse


@dataclass(frozen=True)
class StatusCommand:
    """Show the state of all runs in a folder, here and on Slurm."""

    runs: Path = Path("runs")
    """Folder of the run folders."""


def command(args: list[str]) -> int:
    """Print one line per run. Return the exit code."""
    print(to_text(statuses(parse(StatusCommand, args, "signbench status").runs)))
    return 0
