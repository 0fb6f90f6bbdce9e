"""What has become of the runs in a folder: read from their folders, and from squeue, asked once."""

from __future__ import annotations

import csv
import shutil
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from launch.executors.queue import JOB_FILE, job_record, queue
from launch.runs.record import peek_json

STATES = ("running", "waiting", "stopped", "failed", "finished")


@dataclass(frozen=True)
class Status:
    """Of one run."""

    name: str
    state: str
    detail: str
    job: str = ""
    active: bool = False  # whether the job is in the queue


def statuses(runs: Path) -> list[Status]:
    """Of all runs in a folder, in the order of `STATES`."""
    folders = [
        path
        for path in (runs.iterdir() if runs.is_dir() else ())
        if (path / "config.json").exists() or (path / JOB_FILE).exists()
    ]
    jobs = queue() if shutil.which("squeue") and any(map(job_record, folders)) else {}
    found = [_status(folder, jobs) for folder in folders]
    return sorted(found, key=lambda s: (STATES.index(s.state), s.name))


def _status(folder: Path, jobs: dict[str, tuple[str, str]]) -> Status:
    record = job_record(folder)
    job = str(record.get("job", ""))
    state, reason = jobs.get(job, ("", ""))

    def status(word: str, detail: str) -> Status:
        return Status(folder.name, word, detail, job, bool(state))

    result = peek_json(folder / "result.json")
    if result:
        return status("finished", f"accuracy {result['accuracy']:.2%}, {_time(result['seconds'])}")
    if state in ("RUNNING", "COMPLETING") or _is_locked(folder):
        return status("running", _progress(folder))
    if state:
        return status("waiting", f"job {job} {state.lower()} ({reason})")
    failure = peek_json(folder / "failure.json")
    if failure:
        return status("failed", failure["reason"])
    if job:
        return status("failed", f"job {job} ended without a word: see {record.get('log')}")
    return status("stopped", f"{_progress(folder)}; the same command goes on from there")


def _progress(folder: Path) -> str:
    """Epoch, accuracy and time left."""
    rows = list(_rows(folder / "epochs.csv"))
    total = int((peek_json(folder / "config.json") or {}).get("epochs", 0))
    if not rows:
        return f"epoch 0/{total or '?'}"
    seconds = statistics.median(float(row["seconds"]) for row in rows)
    left = f", {_time(seconds * (total - len(rows)))} left" if total else ""
    accuracy = float(rows[-1]["test_accuracy"])
    return f"epoch {len(rows)}/{total or '?'}, accuracy {accuracy:.2%}{left}"


def _is_locked(folder: Path) -> bool:
    if not (folder / "lock").exists():
        return False
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.exists():
        with path.open(newline="") as stream:
            yield from csv.DictReader(stream)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def to_text(found: list[Status]) -> str:
    """A line a run, and how many there are of each kind."""
    counts = Counter(status.state for status in found)
    lines = [f"{s.state:9} {s.name}  {s.detail}" for s in found]
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return "\n".join([*lines, summary or "no runs"])
