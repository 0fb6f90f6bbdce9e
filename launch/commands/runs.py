"""`signbench runs`: list, show, retry or remove the runs of a folder."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from analysis.folder import LOCK, read_result
from baselines.errors import UserError
from baselines.fields import KEEP_COMMAS
from launch.commands.selection import Selection, split_known
from launch.commands.states import chosen_statuses
from launch.commands.submission import submit_runs
from launch.config.cluster import Cluster, Executor
from launch.config.dependencies import in_order
from launch.config.machine import Imports, Machine
from launch.config.run import Run
from launch.config.shell import run_command
from launch.executors.slots import check_slots
from launch.executors.status import ACTIVE, Status
from launch.flags import leading_names, parse
from launch.plugins import import_plugins
from launch.runs.reading import read_own_run, read_run

DONE = "finished"
USAGE = """usage: signbench runs ACTION [NAME…] [OPTIONS]

ACTION is
  list     print one line per run: state, accuracy and settings
  show     print all about runs, and the command that trains them
  retry    train runs that have failed or were stopped
  remove   remove the folders of runs

signbench runs ACTION --help shows the options of each.
"""


@dataclass(frozen=True)
class ListCommand:
    """List runs, or show all about them. Name runs before the options, or choose with --where;
    names can be patterns such as "digits-rigl-*"."""

    selection: Selection = field(default_factory=Selection)
    failed: bool = False
    """Only runs that have failed."""
    imports: Imports = ()
    """Import this Python module first, which defines methods, models or data of your own."""


@dataclass(frozen=True)
class RemoveCommand:
    """Remove the folders of runs. Name runs before the options, or choose with --where."""

    selection: Selection = field(default_factory=Selection)
    failed: bool = False
    """Only runs that have failed."""
    yes: bool = False
    """Do not ask."""


@dataclass(frozen=True)
class RetryCommand:
    """Train runs that have failed or were stopped; they resume from their last epoch. Name runs
    before the options, or choose with --where; without either, all of them."""

    machine: Machine = field(default_factory=Machine)
    where: tuple[str, ...] = field(default=(), metadata=KEEP_COMMAS)
    """Only runs that meet all conditions, such as "method=rigl,snip"."""
    failed: bool = False
    """Only runs that have failed."""
    slots: int = 0
    """Runs at the same time; 0: one per CPU core, or one on each GPU."""
    executor: Executor = "local"
    """Train them here, or submit them to Slurm."""
    cluster: Cluster = field(default_factory=Cluster)

    def __post_init__(self) -> None:
        check_slots(self.slots)


def command(args: list[str]) -> int:
    """Do one of `ACTIONS`. Return the exit code."""
    action, rest = split_known(args, ACTIONS, "runs")
    if action not in ACTIONS:  # --help
        print(USAGE, end="")
        return 0
    names, flags = leading_names(rest)
    return ACTIONS[action](names, flags)


def list_runs(names: list[str], flags: list[str]) -> int:
    """Print one line per run: state, accuracy, and what distinguishes it."""
    given = parse(ListCommand, flags, "signbench runs list")
    import_plugins(given.imports)
    found = chosen_statuses(given.selection, given.failed, names)
    for status in found:
        folder = given.selection.runs / status.name
        print(f"{status.state:9} {_accuracy(folder):>7}  {_title(folder)}")
    counts = Counter(status.state for status in found)
    print(", ".join(f"{n} {state}" for state, n in counts.items()) or "no runs")
    return 0


def show(names: list[str], flags: list[str]) -> int:
    """Print all about runs: state, result, and the command that trains them."""
    given = parse(ListCommand, flags, "signbench runs show")
    import_plugins(given.imports)
    for status in chosen_statuses(given.selection, given.failed, names):
        folder = given.selection.runs / status.name
        print(f"{_title(folder)}\n  {status.state}: {status.detail}\n  folder: {folder}")
        try:
            print(f"  command: {run_command(read_run(folder), given.imports)}")
            for key, value in (read_result(folder) or {}).items():
                print(f"  {key}: {value}")
        except UserError as error:
            print(f"  {error}")
    return 0


def retry(names: list[str], flags: list[str]) -> int:
    """Train what has not finished. Return 1 if a run fails."""
    from launch.executors.local import run_all
    from launch.training.check import check_runs

    given = parse(RetryCommand, flags, "signbench runs retry")
    machine = given.machine
    import_plugins(machine.imports)
    selection = Selection(machine.runs, given.where)
    found = chosen_statuses(selection, given.failed, names, strict=True)
    active = [s for s in found if _is_active(s, names)]
    left = [machine.runs / s.name for s in found if s not in active and s.state != DONE]
    on_slurm = given.executor == "slurm"
    runs = list(_startable(in_order(_readable(left)), machine.runs, on_slurm))
    print(f"{len(runs)} of {len(found)} runs to train; the others have finished or are active.")
    if unknown := [s for s in active if _may_be_queued(s)]:
        print(f"{len(unknown)} may be in a queue that cannot be read here: name them to retry.")
    check_runs(runs, machine, given.cluster if on_slurm else None)
    if on_slurm:
        return submit_runs(runs, machine, given.cluster, strict=False)
    failed = [o for o in run_all(runs, machine, given.slots) if o.result is None]
    for outcome in failed:
        print(f"failed: {outcome.run.name}: {outcome.error}", file=sys.stderr)
    return 1 if failed else 0


def _may_be_queued(status: Status) -> bool:
    """Return whether a run was submitted to a queue that is not known here."""
    return status.state == "waiting" and not status.active


def _is_active(status: Status, names: list[str]) -> bool:
    """Return whether a run is trained or waits. One that may wait does not if it is named."""
    return status.state in ACTIVE and not (names and _may_be_queued(status))


def _readable(folders: Iterable[Path]) -> Iterator[Run]:
    """Yield the runs of folders. Warn of those that cannot be trained again."""
    for folder in folders:
        try:
            yield read_own_run(folder)
        except UserError as error:
            warnings.warn(f"{folder.name} is not trained: {error}", stacklevel=2)


def _startable(runs: Iterable[Run], root: Path, on_slurm: bool) -> Iterator[Run]:
    """Yield the runs whose sources are there or are trained before them. Warn of the others."""
    from launch.training.check import check_sources

    before: dict[str, Run] = {}
    for run in runs:
        try:
            check_sources(run, before, root, on_slurm)
        except UserError as error:
            warnings.warn(f"{run.name} is not trained: {error}", stacklevel=2)
        else:
            before[run.name] = run
            yield run


def remove(names: list[str], flags: list[str]) -> int:
    """Remove run folders, after a question. Return 1 if the answer is no."""
    given = parse(RemoveCommand, flags, "signbench runs remove")
    if not (names or given.selection.where or given.failed):
        raise UserError("name the runs to remove, or choose with --where or --failed.")
    found = chosen_statuses(given.selection, given.failed, names, strict=True)
    for status in found:
        if _is_active(status, names):
            queued = "may be in a queue that cannot be read here: name it to remove it"
            why = queued if _may_be_queued(status) else "is running or waiting: stop it first"
            raise UserError(f"{status.name} {why}.")
    for status in found:
        print(f"{status.state:9} {status.name}")
    if not found or not (given.yes or _confirm(found)):
        print("nothing was removed.")
        return 0 if not found else 1
    for status in found:
        _remove(given.selection.runs / status.name)
    print(f"removed {len(found)} runs.")
    return 0


ACTIONS = {"list": list_runs, "show": show, "retry": retry, "remove": remove}


def _confirm(found: list[Status]) -> bool:
    if not sys.stdin.isatty():
        raise UserError("--yes removes them without a question.")
    return input(f"remove {len(found)} runs? [y/N] ").strip().lower() in ("y", "yes")


def _remove(folder: Path) -> None:
    """Remove a run's folder. Raises UserError if a process holds it or it cannot be removed."""
    if folder.is_symlink():
        raise UserError(f"cannot remove {folder}: it is a link.")
    try:
        with FileLock(folder / LOCK, timeout=0):
            for path in folder.iterdir():
                if path.name != LOCK:
                    _remove_path(path)
        # NFS keeps a file that is open until it is closed, and with it the folder
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
    except Timeout:
        raise UserError(f"{folder} is in use by another process.") from None
    except OSError as error:
        raise UserError(f"cannot remove {folder}: {error.strerror}.") from None


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _accuracy(folder: Path) -> str:
    try:
        result = read_result(folder)
    except UserError:
        return ""
    return f"{result['accuracy']:.2%}" if result else ""


def _title(folder: Path) -> str:
    """Return the title of a run, or the folder's name if the run is not known."""
    try:
        return read_run(folder).title
    except UserError:
        return folder.name
