"""The folder of one run: what is in it, and how it is written so that a kill leaves it whole.

    config.json          the run, with versions and git revision
    epochs.csv           a row an epoch
    layers.csv           a row a layer and epoch
    snapshots/epoch-*.safetensors   effective weights and masks of kept epochs
    signs/               of each epoch, while the run lasts
    last.pt previous.pt  to go on from; plain tensors and numbers
    failure.json         why the run stopped, if it did
    result.json          written last: its presence means finished

Every file is written beside its place and renamed into it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from baselines.errors import UserError
from launch.config.run import Run
from signin.fixed import MASK

REVISION = "revision.json"  # beside the packages, in a copy of the code

Row = dict[str, Any]
State = dict[str, Any]


def _file_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()


class Busy(UserError):
    """Another process holds the run's folder."""


class RunFolder:
    """Reads and writes one run's folder.

    Raises:
        UserError: the folder cannot be written, or holds another run.
    """

    def __init__(self, run: Run, runs: Path) -> None:
        self.path = runs / run.name
        self._run = run

    @property
    def result(self) -> Row | None:
        """What a finished run found; None for any other."""
        return _read_json(self.path / "result.json")

    @contextmanager
    def opened(self, patience: float = 0.0) -> Iterator[None]:
        """Holds the folder for this process alone.

        Args:
            patience: seconds to wait for another process that holds it.

        Raises:
            Busy: another process holds it.
            UserError: it cannot be written, or it holds another run.
        """
        lock = FileLock(self.path / "lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=patience)
        except Timeout:
            raise Busy(f"{self.path} is in use by another process.") from None
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}.") from error
        with lock:
            for leftover in self.path.rglob("*.tmp"):
                leftover.unlink()
            self._write_config()
            (self.path / "failure.json").unlink(missing_ok=True)
            yield

    # ---- rows

    def read_rows(self, file: str, before: int) -> list[Row]:
        """Rows of the epochs before the given one."""
        path = self.path / file
        if not path.exists():
            return []
        with path.open(newline="") as stream:
            return [row for row in csv.DictReader(stream) if int(row["epoch"]) < before]

    def write_rows(self, file: str, rows: list[Row]) -> None:
        if rows:
            write_csv(self.path / file, rows)

    # ---- states

    def save_state(self, state: State) -> None:
        """Keeps the state before as previous.pt."""
        last = self.path / "last.pt"
        if last.exists():
            last.replace(self.path / "previous.pt")
        write_file(last, lambda path: torch.save(state, path))

    def newest_state(self) -> State | None:
        """The newest state that can be read. Files that cannot are set aside with a warning."""
        for file in ("last.pt", "previous.pt"):
            path = self.path / file
            if not path.exists():
                continue
            try:
                state: State = torch.load(path, map_location="cpu", weights_only=True)
                if state.keys() >= {"epoch", "loop", "signs"}:
                    return state
                reason = "entries are missing"
            except Exception as error:  # whatever garbage makes torch.load raise
                reason = str(error).split("\n", 1)[0]
            path.replace(path.with_name(f"{file}.unreadable"))
            warnings.warn(
                f"{path} cannot be read ({reason}); set aside as {file}.unreadable.", stacklevel=2
            )
        return None

    def drop_states(self) -> None:
        """A finished run needs none, nor the signs of its epochs."""
        shutil.rmtree(self.path / "signs", ignore_errors=True)
        for file in ("last.pt", "previous.pt"):
            (self.path / file).unlink(missing_ok=True)

    # ---- signs, until the run has ended

    def keep_signs(self, epoch: int, packed: np.ndarray) -> None:
        def write(path: Path) -> None:
            with path.open("wb") as stream:  # given a path, numpy would add an ending
                np.save(stream, packed, allow_pickle=False)

        (self.path / "signs").mkdir(exist_ok=True)
        write_file(self._signs_path(epoch), write)

    def kept_signs(self, epoch: int) -> np.ndarray:
        """Raises UserError where they are gone."""
        try:
            return np.load(self._signs_path(epoch), allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            raise UserError(f"{self._signs_path(epoch)} cannot be read: {error}.") from None

    def _signs_path(self, epoch: int) -> Path:
        return self.path / "signs" / f"epoch-{epoch}.npy"

    # ---- snapshots and ends

    def snapshot(
        self, epoch: int, model: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> None:
        """Writes the model's state dict, and the masks under "mask:<name>"."""
        from safetensors.torch import save_file

        (self.path / "snapshots").mkdir(exist_ok=True)
        tensors = {**model, **{MASK + name: mask for name, mask in masks.items()}}
        # clones: safetensors takes neither other layouts nor memory that tensors share
        whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        write_file(self.snapshot_path(epoch), lambda path: save_file(whole, path))

    def snapshot_path(self, epoch: int) -> Path:
        return self.path / "snapshots" / f"epoch-{epoch}.safetensors"

    def finish(self, result: Row) -> None:
        write_json(self.path / "result.json", result)
        self.drop_states()

    def fail(self, reason: str) -> None:
        """Notes why the run stopped; the first reason counts."""
        if not (self.path / "failure.json").exists():
            write_json(self.path / "failure.json", {"reason": reason})

    def _write_config(self) -> None:
        path = self.path / "config.json"
        run = json.loads(json.dumps(dataclasses.asdict(self._run)))
        there = _read_json(path)
        if there is None:
            about = {"run": run, "label": self._run.label, "epochs": self._run.epochs}
            write_json(path, {**about, **_environment()})
        elif not _agree(self._relevant(run), there.get("run", {})):
            raise UserError(f"{self.path} holds a run with other settings; see its config.json.")

    def _relevant(self, run: Row) -> Row:
        """Without settings of factors where there are none: they are no part of the name either."""
        leave = set() if self._run.factorised else {"sign_in"}
        return {**run, "settings": {k: v for k, v in run["settings"].items() if k not in leave}}


def _agree(new: Any, old: Any) -> bool:
    """Equal in all fields that both have: fields may be added in later versions."""
    if isinstance(new, dict) and isinstance(old, dict):
        return all(_agree(new[key], old[key]) for key in new.keys() & old.keys())
    return bool(new == old)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Has a file written beside its place, then renames it into it.

    Raises:
        UserError: it cannot be written, for whatever reason. What was there before is unharmed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        temporary.chmod(_FILE_MODE)  # some libraries make files that only their owner can read
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except Exception as error:  # libraries make errors of their own of a full disk
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).split("\n", 1)[0]
        raise UserError(f"cannot write {path}: {reason}.") from error


def write_text(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_file(path, write)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def write_csv(path: Path, rows: list[Row]) -> None:
    """Columns are those of any row, in the order in which they come up."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)

    write_file(path, write)


def peek_json(path: Path) -> Row | None:
    """What a file that others write holds; None where it cannot be read, for whatever reason."""
    try:
        return _read_json(path)
    except OSError:
        return None


def _read_json(path: Path) -> Row | None:
    try:
        value: Row = json.loads(path.read_text())
        return value
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def git_state() -> Row:
    """Of the code that runs: of its checkout, or as noted in a copy of it."""
    noted = _read_json(Path(__file__).parents[2] / REVISION)
    if noted is not None:
        return noted
    return {"git": _git("rev-parse", "HEAD"), "git_dirty": bool(_git("status", "--porcelain"))}


def _environment() -> Row:
    packages = ("torch", "torchvision", "timm", "numpy", "signbench")
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        **git_state(),
        "host": platform.node(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Of the checkout that this file is in; None outside one."""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
