"""Snapshots of runs, and sources: a run's snapshot (`RUN@EPOCH`) or any checkpoint file."""

from __future__ import annotations

from pathlib import Path

from analysis.folder import SNAPSHOTS, find_snapshots, is_finished, snapshot_path
from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from launch.runs.checkpoints import read_checkpoint, write_checkpoint
from launch.runs.files import make_folder


def write_snapshot(folder: Path, epoch: int, checkpoint: Checkpoint) -> None:
    """Write the snapshot after so many epochs into a run folder. Raises UserError."""
    make_folder(folder / SNAPSHOTS)
    write_checkpoint(snapshot_path(folder, epoch), checkpoint)


def read_snapshot(folder: Path, epoch: str) -> Checkpoint:
    """Read a snapshot of a run.

    Args:
        epoch: a number, "init" or "final".

    Raises:
        UserError: there is no such snapshot, or it cannot be read.
    """
    snapshots = find_snapshots(folder)
    if not snapshots:
        raise UserError(f"there is no run {folder} with snapshots.")
    if epoch == "final" and not is_finished(folder):
        raise UserError(f"{folder} has not finished: there is no final snapshot yet.")
    named = {"init": 0, "final": max(snapshots)}
    number = named.get(epoch, int(epoch) if epoch.isdecimal() else -1)
    if number not in snapshots:
        known = ", ".join(map(str, sorted(snapshots)))
        raise UserError(f"{folder} has no snapshot {epoch!r}; there are {known}, init and final.")
    return read_checkpoint(snapshots[number])


def read_source(text: str, root: Path) -> Checkpoint:
    """Read `RUN@EPOCH`, `RUN@init`, `RUN@final`, a run folder (its final snapshot), or a file.

    Args:
        root: the folder of the run folders; RUN may also be a path.

    Raises:
        UserError: there is no such run, epoch or file, or it cannot be read.
    """
    run, at, epoch = text.rpartition("@")
    if at and not Path(text).exists():
        return read_snapshot(Path(run) if "/" in run else root / run, epoch)
    path = Path(text).expanduser()
    return read_snapshot(path, "final") if path.is_dir() else read_checkpoint(path)
