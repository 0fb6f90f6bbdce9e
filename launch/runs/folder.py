"""RunFolder: writes the folder of one run so that a kill at any moment leaves it whole.

`analysis.folder` lists the files. An epoch's snapshot, rows and signs are on disk before its state
is, and all else before result.json is; only then are the states removed.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from analysis.checked import BrokenFile, digest_of, none_if_broken
from analysis.contents import EpochRow, LayerRow, Result
from analysis.folder import (
    CONFIG,
    DIGESTS,
    EPOCHS,
    FAILURE,
    LAST_STATE,
    LAYERS,
    LOCK,
    NAME,
    PREVIOUS_STATE,
    RESULT,
    SIGNS,
    has_digests,
    read_epochs,
    read_json,
    read_layers,
    read_result,
    signs_path,
    snapshot_path,
)
from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from launch.config.run import Run
from launch.runs.archives import load_archive, load_array, save_archive, save_array
from launch.runs.atomic import (
    make_folder,
    move_file,
    one_sync,
    remove_file,
    remove_leftovers,
    write_file,
    write_json,
    write_text,
)
from launch.runs.checkpoints import read_checkpoint
from launch.runs.provenance import write_config
from launch.runs.snapshots import write_snapshot

State = dict[str, Any]
Rows = tuple[list[EpochRow], list[LayerRow]]
RowTexts = tuple[str, str]  # epochs.csv, layers.csv
Row = TypeVar("Row", EpochRow, LayerRow)
NEEDED = {  # entries of a row that a result is made of
    EPOCHS: {"seconds", "test_accuracy", "test_loss", "train_accuracy", "flips"}
    | {"sparsity", "sparsity_all"},
    LAYERS: {"density"},
}
STATES = (LAST_STATE, PREVIOUS_STATE)  # the newest first


class Busy(UserError):
    """Another process holds the run's folder."""


class RunFolder:
    """The folder of one run.

    Args:
        root: the folder of the run folders.
    """

    def __init__(self, run: Run, root: Path) -> None:
        self.path = root / run.name
        self._run = run

    @property
    def result(self) -> Result | None:
        """The result of a finished run; None for any other, and if it is damaged.

        Raises:
            UnreadableFile: the system fails to read it.
        """
        return none_if_broken(read_result, self.path)

    @contextmanager
    def opened(self, patience: float = 0.0) -> Iterator[None]:
        """Lock the folder for this process. Create it if needed.

        Args:
            patience: seconds to wait for another process that holds it.

        Raises:
            Busy: another process holds it.
            UserError: it cannot be written or read, or it holds another run.
        """
        lock = FileLock(self.path / LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = lock.acquire(timeout=patience)
        except Timeout:
            raise Busy(f"{self.path} is in use by another process.") from None
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}.") from error
        with held:  # not `with lock`, which would acquire it a second time
            remove_leftovers(self.path)
            self._set_aside_if_broken(CONFIG, lambda: read_json(self.path / CONFIG))
            self._set_aside_if_broken(RESULT, lambda: read_result(self.path))
            write_config(self.path, self._run)
            remove_file(self.path / FAILURE)
            yield

    def _set_aside_if_broken(self, file: str, read: Callable[[], object]) -> None:
        try:
            read()
        except BrokenFile as error:
            self.set_aside(file, str(error))

    def set_aside(self, file: str, reason: str) -> None:
        """Rename a file that cannot be used, with a warning. Raises UserError."""
        path = self.path / file
        move_file(path, path.with_name(f"{file}.unreadable"))
        reason = reason.removeprefix(f"{path} ")
        warnings.warn(
            f"{path} cannot be used ({reason}); set aside as {file}.unreadable.", stacklevel=2
        )

    # ---- rows

    def rows_before(self, epoch: int, layers: Collection[str]) -> Rows:
        """Return the rows of epochs.csv and layers.csv before an epoch. Warn of missing ones.

        Args:
            layers: names of all layers; an epoch needs a row of each.
        """
        epochs = self._rows_before(epoch, EPOCHS, read_epochs, [""])
        return epochs, self._rows_before(epoch, LAYERS, read_layers, layers)

    def _rows_before(
        self, epoch: int, file: str, read: Callable[[Path], list[Row]], layers: Collection[str]
    ) -> list[Row]:
        by_epoch: dict[int, list[Row]] = {}
        problem = ""
        try:
            for row in read(self.path):
                by_epoch.setdefault(row["epoch"], []).append(row)
        except BrokenFile as error:
            problem = f": {error}"
        whole = {
            epoch: rows
            for epoch, rows in by_epoch.items()
            if sorted(str(row.get("layer", "")) for row in rows) == sorted(layers)
            and all(row.keys() >= NEEDED[file] for row in rows)
        }
        if missing := [str(e) for e in range(epoch) if e not in whole]:
            warnings.warn(
                f"{self.path / file} lacks rows of epochs {', '.join(missing):.60}, which stay "
                f"missing{problem}",
                stacklevel=2,
            )
        return [row for e in range(epoch) for row in whole.get(e, ())]

    def write_rows(self, texts: RowTexts) -> None:
        """Write epochs.csv and layers.csv. Raises UserError."""
        for file, text in zip((EPOCHS, LAYERS), texts, strict=True):
            write_text(self.path / file, text, locked=True)

    # ---- states

    def save_state(self, state: State) -> None:
        """Write the state to resume from, and keep the state before. Raises UserError."""
        last = self.path / LAST_STATE
        with one_sync():
            if last.exists():
                move_file(last, self.path / PREVIOUS_STATE)
            write_file(last, lambda path: save_archive(state, path, self._run.name), locked=True)

    def read_state(self, file: str) -> tuple[State | None, str]:
        """Return one of the states in `STATES`, or why it is damaged; neither if there is no file.

        Raises:
            UnreadableFile: the system fails to read it.
        """
        try:
            state = load_archive(self.path / file, self._run.name, has_digests(self.path))
        except FileNotFoundError:
            return None, ""
        except BrokenFile as error:
            return None, str(error)
        if not isinstance(state, dict):
            return None, f"{self.path / file} holds no state."
        return state, ""

    # ---- signs

    def keep_signs(self, epoch: int, packed: np.ndarray) -> None:
        """Keep the signs after so many epochs until the run has finished. Raises UserError."""
        make_folder(self.path / SIGNS)
        label = f"{self._run.name}@{epoch}"
        write_file(signs_path(self.path, epoch), lambda path: save_array(packed, path, label))

    def kept_signs(self, epoch: int) -> np.ndarray:
        """Return what `keep_signs` kept. Raises BrokenFile if it is gone or damaged."""
        return load_array(signs_path(self.path, epoch), f"{self._run.name}@{epoch}")

    # ---- snapshots and ends

    def save_snapshot(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Write the snapshot after so many epochs. Raises UserError."""
        write_snapshot(self.path, self._run.name, epoch, checkpoint)

    def warn_of_lost_snapshots(self, epochs: Iterable[int]) -> None:
        """Warn of snapshots that are gone or damaged; the run itself does not need them."""
        for epoch in epochs:
            path = snapshot_path(self.path, epoch)
            try:
                read_checkpoint(path, f"{self._run.name}@{epoch}")
            except UserError as error:
                warnings.warn(f"a snapshot is lost: {error}", stacklevel=2)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result; remove states and signs, which are not needed any more."""
        files = {file: digest_of((self.path / file).read_bytes()) for file in (EPOCHS, LAYERS)}
        write_json(self.path / RESULT, {NAME: self._run.name, **result, DIGESTS: files})
        self.tidy()

    @property
    def is_tidy(self) -> bool:
        """Whether there are no states and signs."""
        return not any(os.path.exists(self.path / name) for name in (SIGNS, *STATES))

    def tidy(self) -> None:
        """Remove states and signs, which a finished run does not need. Raises UserError."""
        shutil.rmtree(self.path / SIGNS, ignore_errors=True)
        for file in STATES:
            remove_file(self.path / file)

    def fail(self, reason: str) -> None:
        """Write why the run stopped. The first reason is kept."""
        if not (self.path / FAILURE).exists():
            write_json(self.path / FAILURE, {"reason": reason})
