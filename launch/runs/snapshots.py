"""Snapshots of runs, and sources: a run's snapshot (`RUN@EPOCH`) or any checkpoint file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from analysis.folder import (
    SNAPSHOTS,
    find_snapshots,
    read_name,
    read_result,
    snapshot_epoch,
    snapshot_path,
)
from baselines.checkpoint import FILE_ENDINGS, Checkpoint, run_of
from baselines.errors import UserError
from launch.runs.atomic import make_folder
from launch.runs.checkpoints import read_checkpoint, write_checkpoint


def write_snapshot(folder: Path, name: str, epoch: int, checkpoint: Checkpoint) -> None:
    """Write the snapshot of a run after so many epochs into its folder. Raises UserError."""
    make_folder(folder / SNAPSHOTS)
    write_checkpoint(snapshot_path(folder, epoch), checkpoint, label=f"{name}@{epoch}")


def read_snapshot(folder: Path, epoch: str) -> Checkpoint:
    """Read a snapshot of a run.

    Args:
        epoch: a number, "init" or "final".

    Raises:
        UserError: there is no such snapshot, or it cannot be read.
    """
    return _read(_snapshot_of(folder, epoch))


def read_source(
    text: str,
    root: Path,
    key: str = "",
    like: Mapping[str, Tensor] | None = None,
    say: Callable[[str], None] | None = None,
) -> Checkpoint:
    """Read `RUN`, `RUN@EPOCH`, `RUN@init`, `RUN@final`, `FILE` or `FILE@KEY`.

    Args:
        root: the folder of the run folders; RUN may also be a path.
        key, like, say: of files, as for `read_checkpoint`. A key in the text counts more.

    Raises:
        UserError: there is no such run, epoch or file, or it cannot be read.
    """
    path, own_key = find_source(text, root)
    return _read(path, own_key or key, like, say)


def find_source(text: str, root: Path) -> tuple[Path, str]:
    """Return the file that `read_source` reads, of which there may be none, and the key in it.

    Raises:
        UserError: there is no such run or epoch.
    """
    path = Path(text).expanduser()
    if path.exists():
        return (_snapshot_of(path, "final") if path.is_dir() else path), ""
    head, at, tail = text.rpartition("@")
    place = Path(head).expanduser()
    if at and (place.is_file() or (head.endswith(FILE_ENDINGS) and not place.is_dir())):
        return place, tail
    if at:
        return _snapshot_of(place if "/" in head else root / head, tail), ""
    if not run_of(text):
        return path, ""
    if not (root / text).is_dir():
        raise UserError(f"there is no run {text} in {root}, and no such file.")
    return _snapshot_of(root / text, "final"), ""


def run_folder_of(text: str, root: Path) -> Path | None:
    """Return the folder of the run that a source is a snapshot of; None for another file.

    Raises:
        UserError: there is no such run or epoch.
    """
    path, _ = find_source(text, root)
    return path.parent.parent if path.parent.name == SNAPSHOTS else None


def _snapshot_of(folder: Path, epoch: str) -> Path:
    snapshots = find_snapshots(folder)
    if not snapshots:
        raise UserError(f"there is no run {folder} with snapshots.")
    if epoch == "final":
        return _final_of(folder, snapshots)
    number = 0 if epoch == "init" else -1
    if epoch.isdecimal() and len(epoch) < 10:
        number = int(epoch)
    if number not in snapshots:
        known = ", ".join(map(str, sorted(snapshots)))
        raise UserError(f"{folder} has no snapshot {epoch!r}; there are {known}, init and final.")
    return snapshots[number]


def _final_of(folder: Path, snapshots: Mapping[int, Path]) -> Path:
    """Return the snapshot after the last epoch of a run, which is the newest unless that is lost.

    Raises:
        UserError: it is lost, or the run has not finished.
    """
    result = read_result(folder)
    if result is None:
        raise UserError(f"{folder} has not finished: there is no final snapshot yet.")
    last = result.get("epochs", max(snapshots))
    if last not in snapshots:
        raise UserError(f"the last snapshot of {folder}, epoch {last}, is missing.")
    return snapshots[last]


def _read(
    path: Path,
    key: str = "",
    like: Mapping[str, Tensor] | None = None,
    say: Callable[[str], None] | None = None,
) -> Checkpoint:
    """Read a file. A snapshot must be that of its run and epoch."""
    folder, epoch = path.parent.parent, snapshot_epoch(path)
    name = None if epoch is None else read_name(folder)
    if name is not None:
        return read_checkpoint(path, label=f"{name}@{epoch}")
    return read_checkpoint(path, None, key, like, say)
