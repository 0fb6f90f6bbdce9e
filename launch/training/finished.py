"""Runs that have finished before: what is printed, and completing what a killed process left."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from analysis.contents import Result
from analysis.folder import CONFIG, read_json
from baselines.errors import UserError
from launch.config.machine import Machine
from launch.config.run import Run
from launch.runs.folder import RunFolder
from launch.trackers import complete_tracking, is_tracked


def finished_text(run: Run, machine: Machine, folder: Path, result: Result) -> str:
    """Return what is printed of a run that has finished; of other data, where they are."""
    here = str(machine.data_dir.resolve())
    there = (read_json(folder / CONFIG) or {}).get("data_dir", here)
    data = "" if there == here else f", with the data in {there}"
    return f"{run.title}: finished before, accuracy {result['accuracy']:.2%}{data}"


def complete(run: Run, machine: Machine, folder: RunFolder, result: Result) -> None:
    """Complete a run whose process was killed just after it wrote the result.

    The folder is locked by this process.
    """
    with suppress(UserError):  # leftover files are harmless
        folder.tidy()
    if not is_tracked(folder.path, machine.tracker):
        complete_tracking(run, machine, folder.path, result)


def complete_if_needed(run: Run, machine: Machine, folder: RunFolder, result: Result) -> None:
    """Call `complete`, and write a lost config.json, unless another process has the lock."""
    is_whole = (folder.path / CONFIG).exists() and folder.is_tidy
    if is_whole and is_tracked(folder.path, machine.tracker):
        return
    with suppress(UserError), folder.opened():
        complete(run, machine, folder, result)
