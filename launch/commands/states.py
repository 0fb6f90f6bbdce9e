"""The runs of a selection with their states, as `signbench status` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from baselines.errors import UserError
from launch.commands.selection import Selection
from launch.executors.status import STATES, Status, statuses

FAILED = ("failed", "broken")


def chosen_statuses(
    selection: Selection, failed: bool = False, names: Sequence[str] = (), strict: bool = False
) -> list[Status]:
    """Return the states of the selected runs. Conditions on `state` refer to these states.

    Args:
        failed: whether to return only runs that have failed.
        names: names of runs, patterns of names, or paths; all if empty.
        strict: as for `launch.executors.status.statuses`.

    Raises:
        UserError: there is no such folder, a condition is not valid, no run has one of the names,
            or a path is in another folder.
    """
    from analysis.folder import list_runs

    list_runs(selection.runs)  # says so if there is no such folder
    found = statuses(selection.runs, strict)
    if selection.where:
        found = _select_by_conditions(selection.where, found, selection.runs)
    if names:
        found = _select_by_name(found, names, selection.runs)
    return [status for status in found if not failed or status.state in FAILED]


def _select_by_conditions(where: Sequence[str], found: list[Status], root: Path) -> list[Status]:
    """Return the runs that meet the conditions."""
    from analysis.conditions import check_states, parse_conditions, select_runs
    from analysis.folder import list_runs
    from analysis.frame import load_runs

    conditions = parse_conditions(where)
    check_states(conditions, STATES)
    if all(condition.field == "state" for condition in conditions):  # holds for broken ones, too
        return [s for s in found if all(condition.holds(s.state) for condition in conditions)]
    runs = load_runs(list_runs(root))
    states = {status.name: status.state for status in found}
    runs = runs.assign(state=[states.get(folder.name, "") for folder in runs["folder"]])
    chosen = {folder.name for folder in select_runs(runs, where, STATES)["folder"]}
    return [status for status in found if status.name in chosen]


def _select_by_name(found: list[Status], names: Sequence[str], root: Path) -> list[Status]:
    """Return the runs with one of the names.

    Raises:
        UserError: no run has a name, or a path is in another folder.
    """
    chosen: set[str] = set()
    for name in names:
        folder, pattern = Path(name).expanduser().parent, Path(name).name
        if folder != Path() and folder.resolve() != root.resolve():
            raise UserError(f"{name} is not in {root}: give --runs {folder}.")
        matching = {s.name for s in found if s.name == pattern or fnmatchcase(s.name, pattern)}
        if not matching:
            raise UserError(f"there is no run {name} in {root}.")
        chosen |= matching
    return [status for status in found if status.name in chosen]
