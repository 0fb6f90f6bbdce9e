"""`signbench status`: the state of all runs in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from analysis.conditions import parse_conditions
from launch.commands.selection import Selection
from launch.commands.states import chosen_statuses
from launch.commands.submission import resubmit_runs
from launch.console import duration
from launch.executors.estimate import time_left
from launch.executors.status import Status, to_text
from launch.flags import parse

OWN_ERRORS = ("Diverged: ", "Collapsed: ")  # come again with the same settings


@dataclass(frozen=True)
class StatusCommand:
    """Show the state of all runs in a folder, here and on Slurm, and the time to their end."""

    selection: Selection = field(default_factory=Selection)
    failed: bool = False
    """Show only runs that have failed; the same as --where state=failed,broken."""
    resubmit: bool = False
    """Submit the runs again whose jobs have ended without a result, except those that were
    cancelled, or that diverged or collapsed and would do so again, unless --failed or a condition
    on the state chooses them."""


def command(args: list[str]) -> int:
    """Print one line per run. Return the exit code."""
    given = parse(StatusCommand, args, "signbench status")
    found = chosen_statuses(given.selection, failed=given.failed)
    if given.resubmit:
        chosen = found if _chooses_state(given) else list(_without_own_errors(found))
        names = {status.name for status in chosen}
        return resubmit_runs(given.selection.runs, names, cancelled=False)
    print(to_text(found))
    left = time_left(given.selection.runs, found)
    if left is not None:
        print(f"about {duration(left)} left")
    return 0


def _chooses_state(given: StatusCommand) -> bool:
    conditions = parse_conditions(given.selection.where)
    return given.failed or any(condition.field == "state" for condition in conditions)


def _without_own_errors(found: list[Status]) -> Iterator[Status]:
    """Yield the runs without those that would fail again, and print how many these are."""
    left = 0
    for status in found:
        if status.state == "failed" and status.detail.startswith(OWN_ERRORS):
            left += 1
        else:
            yield status
    if left:
        print(
            f"left out: {left} that diverged or collapsed and would do so again. Add --failed to "
            "submit them, too."
        )
