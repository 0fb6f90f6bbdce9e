"""`signbench status`: the state of all runs in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from launch.commands.selection import Selection
from launch.commands.states import chosen_statuses
from launch.commands.submission import resubmit_runs
from launch.executors.estimate import time_left
from launch.executors.progress import duration
from launch.executors.status import to_text
from launch.flags import parse


@dataclass(frozen=True)
class StatusCommand:
    """Show the state of all runs in a folder, here and on Slurm, and the time to their end."""

    selection: Selection = field(default_factory=Selection)
    failed: bool = False
    """Show only runs that have failed; the same as --where state=failed,broken."""
    resubmit: bool = False
    """Submit the runs again whose jobs have ended without a result, except cancelled ones."""


def command(args: list[str]) -> int:
    """Print one line per run. Return the exit code."""
    given = parse(StatusCommand, args, "signbench status")
    found = chosen_statuses(given.selection, failed=given.failed)
    if given.resubmit:
        names = {status.name for status in found}
        return resubmit_runs(given.selection.runs, names, cancelled=False)
    print(to_text(found))
    left = time_left(given.selection.runs, found)
    if left is not None:
        print(f"about {duration(left)} left")
    return 0
