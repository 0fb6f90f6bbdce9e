"""The states of the runs in a folder: read from their folders, and from one call of squeue."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.checked import FileError
from analysis.contents import EpochRow, JobRecord
from analysis.folder import (
    CONFIG,
    JOB,
    LOCK,
    list_runs,
    read_config,
    read_epochs,
    read_failure,
    read_job,
    read_result,
)
from baselines.errors import UserError, describe, one_line
from launch.console import duration
from launch.executors.queue import is_ending, list_jobs

ACTIVE = ("running", "waiting")
STATES = ("running", "waiting", "stopped", "cancelled", "failed", "broken", "finished")


@dataclass(frozen=True)
class Status:
    """The state of one run.

    Attributes:
        state: one of `STATES`.
        job: id of the job that it was last submitted as; empty if it never was.
        active: whether that job is in the queue.
    """

    name: str
    state: str
    detail: str
    job: str = ""
    active: bool = False


def statuses(root: Path, strict: bool = False) -> list[Status]:
    """Return the states of all runs in a folder, in the order of `STATES`.

    Args:
        strict: whether it is an error if squeue fails, rather than a warning.

    Raises:
        UserError: squeue fails, and `strict`.
    """
    folders = list_runs(root, (CONFIG, JOB)) if root.is_dir() else []
    submitted = any(os.path.exists(folder / JOB) for folder in folders)
    jobs = _queue(strict) if submitted else None
    found = [_status(folder, jobs) for folder in folders]
    return sorted(found, key=lambda s: (STATES.index(s.state), s.name))


def _queue(strict: bool) -> dict[str, tuple[str, str]] | None:
    """Return Slurm's queue; None if there is no squeue here, or if it fails."""
    try:
        return list_jobs() if shutil.which("squeue") else None
    except UserError as error:
        if strict:
            raise
        warnings.warn(f"the queue is not known: {error}", stacklevel=2)
        return None


def _status(folder: Path, jobs: dict[str, tuple[str, str]] | None) -> Status:
    """Return the state of a run.

    Args:
        jobs: Slurm's queue; None if it is not known here.
    """
    record, in_queue = None, None
    try:
        record = read_job(folder)
        in_queue = jobs.get(record["job"]) if record and jobs else None
        state, detail = _state(folder, record, in_queue, is_known=jobs is not None)
    except FileError as error:
        state, detail = "broken", str(error)
    except Exception as error:  # a folder from elsewhere can hold anything
        state, detail = "broken", f"it cannot be read: {describe(error)}"
    job = record["job"] if record else ""
    return Status(folder.name, state, one_line(detail), job, in_queue is not None)


def _state(
    folder: Path, record: JobRecord | None, in_queue: tuple[str, str] | None, is_known: bool
) -> tuple[str, str]:
    """Return a run's state and its details.

    Args:
        in_queue: state and reason of its job, if that is in the queue.
        is_known: whether the queue is known.
    """
    if (result := read_result(folder)) is not None:
        took = f", {duration(result['seconds'])}" if "seconds" in result else ""
        return "finished", f"accuracy {result['accuracy']:.2%}{took}"
    if record and in_queue and is_ending(record, in_queue[0]):
        return "cancelled", _resumable(folder)
    if (in_queue and in_queue[0] in ("RUNNING", "COMPLETING")) or _is_locked(folder):
        return "running", _progress(folder)
    if record and in_queue:
        return "waiting", f"job {record['job']} {in_queue[0].lower()} ({in_queue[1]})"
    if (failure := read_failure(folder)) is not None:
        return "failed", failure["reason"]
    if record and record.get("cancelled"):
        return "cancelled", _resumable(folder)
    if record and not is_known:
        return "waiting", f"job {record['job']}, as far as is known: its queue cannot be read here"
    if record:
        return "failed", f"job {record['job']} exited without a result: see {record['log']}"
    return "stopped", f"{_progress(folder)}; the same command resumes from there"


def _resumable(folder: Path) -> str:
    return f"{_progress(folder)}; it resumes from there when resubmitted"


def _progress(folder: Path) -> str:
    """Return epoch, accuracy and time left."""
    config, rows = read_config(folder), read_epochs(folder)
    total = config.get("epochs", 0) if config else 0
    if not rows:
        return f"epoch 0/{total or '?'}"
    left = f", {duration(epoch_seconds(rows) * (total - len(rows)))} left" if total else ""
    return f"epoch {len(rows)}/{total or '?'}, accuracy {rows[-1]['test_accuracy']:.2%}{left}"


def epoch_seconds(rows: Sequence[EpochRow]) -> float:
    """Return the median time of an epoch, training and evaluation."""
    return statistics.median(row["seconds"] + row.get("test_seconds", 0.0) for row in rows)


def _is_locked(folder: Path) -> bool:
    """Return whether a process holds the folder, without writing to it."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError as error:  # without flock, a file that is there is a lock, as for `FileLock`
        return error.errno == errno.ENOSYS
    finally:
        os.close(descriptor)


def to_text(found: list[Status]) -> str:
    """Return one line per run, and the number of runs in each state."""
    counts = Counter(status.state for status in found)
    lines = [f"{s.state:9} {one_line(s.name)}  {s.detail}" for s in found]
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return "\n".join([*lines, summary or "no runs"])
