"""Resubmission of runs whose Slurm jobs have ended without a result."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.contents import JobRecord
from analysis.folder import JOB, is_finished, list_runs, read_job
from baselines.errors import UserError
from launch.config.cluster import Cluster
from launch.config.dependencies import stages
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.queue import is_queued, list_jobs
from launch.executors.slurm import submit
from launch.plugins import import_plugins
from launch.runs.reading import read_own_run

Settings = tuple[Machine, Cluster, Path]  # and the folder to submit from


def resubmit(root: Path, names: Collection[str], cancelled: bool) -> list[tuple[Run, str]]:
    """Submit again the runs in a folder that are neither finished nor queued.

    Each is submitted with the settings of its last submission, and from the same folder, in which
    its own modules and relative paths are. A run that cannot be submitted is left out with a
    warning.

    Args:
        names: the runs to consider.
        cancelled: whether to submit those that were cancelled.

    Returns:
        The runs that were submitted, with their job ids.

    Raises:
        UserError: Slurm is not installed, or refuses the jobs.
    """
    queued, root = list_jobs(), root.resolve()
    settings_of: dict[Run, Settings] = {}
    for folder in list_runs(root, (JOB,)):
        if folder.name not in names:
            continue
        try:
            record = read_job(folder)
            if record is None or is_finished(folder) or is_queued(record, queued):
                continue
            if record.get("cancelled") and not cancelled:
                continue
            settings = _settings(record, root)
            with _inside(settings[2]):
                import_plugins(settings[0].imports)
                run = read_own_run(folder)
            settings_of[run] = settings
        except UserError as error:
            warnings.warn(f"{folder.name} is not submitted: {error}", stacklevel=2)
    submitted: list[tuple[Run, str]] = []
    for stage in stages(settings_of):  # a job can depend on those that are in the queue
        for settings in dict.fromkeys(settings_of[run] for run in stage):
            group = [run for run in stage if settings_of[run] == settings]
            machine, cluster, home = settings
            with _inside(home):
                submitted += submit(group, machine, cluster, strict=False)
    return submitted


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Make a folder the current one. Raises UserError."""
    before = Path.cwd()
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(f"it was submitted from {folder}: {error.strerror}.") from None
    try:
        yield
    finally:
        os.chdir(before)


def _settings(record: JobRecord, root: Path) -> Settings:
    """Return what a run was submitted with; its folder may have been moved since."""
    if "machine" not in record or "cluster" not in record:
        raise UserError("an earlier version submitted it; repeat the command.")
    try:
        machine = Machine(**_fields(record["machine"]))
        cluster, home = Cluster(**_fields(record["cluster"])), Path(record.get("cwd", "."))
        return replace(machine, runs=root), cluster, home.resolve()
    except TypeError as error:
        raise UserError(f"its {JOB} is that of another version: {error}") from None


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass, whose paths and tuples are texts and lists in JSON."""
    paths = {k: Path(values[k]) for k in ("runs", "data_dir") if k in values}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()} | paths
