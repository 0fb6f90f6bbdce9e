"""Slurm's queue: the jobs of runs, and the commands that list and cancel them."""

from __future__ import annotations

import re
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.checked import BrokenFile
from analysis.contents import JobRecord
from analysis.folder import JOB, read_job
from baselines.errors import UserError
from launch.runs.atomic import write_json

_ENDING = ("CANCELLED", "COMPLETING")  # states of jobs that scancel has reached
Queue = Mapping[str, tuple[str, str]]  # state and reason of jobs, by id


def list_jobs() -> dict[str, tuple[str, str]]:
    """Return state and reason of all users' jobs by id, with one call of squeue.

    Users may share a folder of runs.

    Raises:
        UserError: squeue fails.
    """
    fields = "--format=%i %T %r"
    lines = _output("squeue", "--noheader", "--array", fields).splitlines()
    parts = [line.split(maxsplit=2) for line in lines if line.strip()]
    return {job: (state, "".join(reason)) for job, state, *reason in parts}


def cancel_jobs(jobs: Sequence[str]) -> None:
    """Cancel jobs, whether they wait or run.

    Raises:
        UserError: scancel fails for some of them. It is called for all.
    """
    problems: dict[str, None] = {}
    for i in range(0, len(jobs), 500):
        try:
            _output("scancel", *jobs[i : i + 500])
        except UserError as error:
            problems[str(error)] = None
    if problems:
        raise UserError(" ".join(problems))


def go_on(jobs: Sequence[str]) -> set[str]:
    """Return the jobs that are still in the queue and not ending; all if squeue fails."""
    try:
        queue = list_jobs()
    except UserError:
        return set(jobs)
    return {job for job in jobs if queue.get(job, ("CANCELLED",))[0] not in _ENDING}


def note_cancelled(folder: Path, cancelled: bool = True) -> None:
    """Record in a run's folder whether its job was cancelled. Raises UserError."""
    record = read_job(folder)
    if record is not None:
        write_json(folder / JOB, {**record, "cancelled": cancelled})


def is_ending(record: JobRecord, state: str) -> bool:
    """Return whether a job was cancelled and is in the queue until its processes have ended."""
    return bool(record.get("cancelled")) and state in _ENDING


def is_queued(record: JobRecord, queue: Queue) -> bool:
    """Return whether a run's last job waits or runs, and does not end after it was cancelled."""
    state, _ = queue.get(record["job"], ("", ""))
    return bool(state) and not is_ending(record, state)


def queued_job(folder: Path, queue: Queue) -> str:
    """Return the id of a run's last job if it is waiting or running; otherwise an empty string.

    A damaged record is ignored, with a warning.

    Raises:
        UnreadableFile: the system fails to read it.
    """
    try:
        record = read_job(folder)
    except BrokenFile as error:
        warnings.warn(str(error), stacklevel=2)
        return ""
    return record["job"] if record and is_queued(record, queue) else ""


def max_array_size() -> int:
    """Return how many jobs an array may have on this cluster."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output("scontrol", "show", "config"))
    return max(1, int(found[1])) if found else 1000


def _output(*command: str) -> str:
    """Return the output of a Slurm command. Raises UserError if it fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except FileNotFoundError:
        raise UserError(f"there is no {command[0]} here: this is no Slurm cluster.") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer.") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]} fails: {' '.join(error.stderr.split())}") from None
