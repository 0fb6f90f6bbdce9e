"""Atomic writes: a temporary file in the same folder is renamed.

A process that is killed at any moment leaves the old or the new file, never a part of a file. After
a crash of the machine the same holds, and files are on disk in the order in which they were
written.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from analysis.checked import seal_json
from baselines.errors import UserError, first_line

TEMPORARY = ".tmp"
LOCKED = f".locked{TEMPORARY}"  # of files that are only written under the lock of their folder
LEFTOVER_AGE = 3600.0  # seconds after which a temporary file is taken to be that of a dead process

_unsynced: ContextVar[set[Path] | None] = ContextVar("unsynced", default=None)


def _file_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()


def write_file(path: Path, write: Callable[[Path], object], locked: bool = False) -> None:
    """Write a file atomically.

    Args:
        write: called with a temporary path in the same folder, at which it writes the file.
        locked: whether this file is only ever written under the lock of its folder. What a kill
            leaves of it is then removed when the folder is next locked.

    Raises:
        UserError: the file cannot be written, for whatever reason. The file before is unharmed.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}{LOCKED if locked else TEMPORARY}")
    try:
        write(temporary)
        temporary.chmod(_FILE_MODE)  # some libraries make files that only their owner can read
        _sync(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:  # also Ctrl-C, and the exit of a job that is preempted
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, Exception):  # libraries raise their own when a disk is full
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: Path, error: Exception) -> UserError:
    """Return the error for a file that cannot be written."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return UserError(f"cannot write {path}: {reason}.")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if needed. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def move_file(path: Path, target: Path) -> None:
    """Rename a file within its folder. Raises UserError."""
    try:
        path.replace(target)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(target, error) from error


def remove_file(path: Path) -> None:
    """Remove a file, if there is one. Raises UserError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}.") from error


def write_text(path: Path, text: str, locked: bool = False) -> None:
    """Write a text file atomically, as `write_file` does. Raises UserError."""
    write_file(path, lambda temporary: temporary.write_text(text, newline=""), locked)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its digest atomically. Raises UserError."""
    plain = json.loads(json.dumps(value, default=str))
    write_text(path, json.dumps(seal_json(plain), indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically. Raises UserError.

    Its columns are the keys of all rows, in the order in which they first appear.
    """
    write_text(path, CsvText().extended(rows))


class CsvText:
    """The text of a CSV file that grows. Rows that it has are not written again."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._length = 0
        self._text = ""

    def extended(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return the text of all rows.

        Args:
            rows: those of the call before, unchanged, and more.
        """
        new = rows[self._length :]
        columns = list(dict.fromkeys([*self._columns, *(key for row in new for key in row)]))
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, columns)
        if columns != self._columns or not self._text:
            self._columns, self._text, new = columns, "", rows
            writer.writeheader()
        writer.writerows(new)
        self._length = len(rows)
        self._text += stream.getvalue()
        return self._text


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed from a folder that is locked.

    Some of its own files may be written without the lock: their leftovers are recognised by age.
    """
    # those of `write_file`, and those that safetensors makes in turn
    patterns = (f"*{TEMPORARY}", f"{TEMPORARY}??????")
    for leftover in [path for pattern in patterns for path in folder.rglob(pattern)]:
        with contextlib.suppress(OSError):
            age = time.time() - leftover.stat().st_mtime
            is_locked = leftover.parent != folder or leftover.name.endswith(LOCKED)
            if is_locked or age > LEFTOVER_AGE:
                leftover.unlink()


# ---- what a crash of the machine leaves


@contextlib.contextmanager
def one_sync() -> Iterator[None]:
    """Synchronise each folder once, at the end of the block, rather than after each file in it."""
    folders = set[Path]()
    token = _unsynced.set(folders)
    try:
        yield
    finally:
        _unsynced.reset(token)
    for folder in folders:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Bring renamed files of a folder to disk, at once or at the end of `one_sync`."""
    waiting = _unsynced.get()
    if waiting is not None:
        waiting.add(folder)
        return
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
