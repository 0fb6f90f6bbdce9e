"""The time until all runs of a folder have finished, from the epochs that were trained so far."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.checked import FileError
from analysis.folder import read_config, read_epochs
from launch.executors.status import ACTIVE, Status, epoch_seconds


@dataclass(frozen=True)
class Work:
    """What is known of a run.

    Attributes:
        like: runs with an equal value take about as long.
        seconds: median of its epochs; None before the first.
    """

    like: str
    epochs: int
    done: int
    seconds: float | None


def time_left(root: Path, found: Sequence[Status]) -> float | None:
    """Return the seconds until the running and waiting runs have finished, at the present speed.

    The number of runs at the same time is assumed to stay. Epochs of a run that has none yet are
    assumed to last as long as those of runs of the same recipe, method and model.

    Returns:
        The time; None if no run is running or nothing is known of the time of an epoch.
    """
    works = {status.name: _work(root / status.name) for status in found}
    known = [work for work in works.values() if work is not None and work.seconds is not None]
    running = [status for status in found if status.state == "running"]
    if not running or not known:
        return None
    epochs = round(statistics.median(work.epochs for work in known))
    pending = (works[status.name] for status in found if status.state in ACTIVE)
    left = [_seconds(work or Work("", epochs, 0, None), known) for work in pending]
    return max(sum(left) / len(running), max(left))


def _seconds(work: Work, known: Sequence[Work]) -> float:
    """Return the time that the rest of a run takes."""
    alike = [other.seconds for other in known if other.like == work.like and other.seconds]
    everyone = [other.seconds for other in known if other.seconds]
    each = work.seconds or statistics.median(alike or everyone or [0.0])
    return each * max(0, work.epochs - work.done)


def _work(folder: Path) -> Work | None:
    """Return what is known of a run; None if nothing is known."""
    try:
        config, rows = read_config(folder), read_epochs(folder)
    except FileError:
        return None
    if config is None:
        return None
    run = config["run"]
    like = f"{run['recipe']} {run['method']} {run['settings'].get('model')}"
    total = int(config.get("epochs", len(rows)))
    return Work(like, total, len(rows), epoch_seconds(rows) if rows else None)
