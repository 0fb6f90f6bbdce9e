"""Atomic writes: a temporary file in the same folder is renamed.

A process that is killed at any moment leaves the old or the new file, never a part of a file.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.errors import UserError

TEMPORARY = ".tmp"


def _file_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_FILE_MODE = _file_mode()


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically.

    Args:
        write: called with a temporary path, at which it writes the file.

    Raises:
        UserError: the file cannot be written, for whatever reason. The file before is unharmed.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        write(temporary)
        temporary.chmod(_FILE_MODE)  # some libraries make files that only their owner can read
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except Exception as error:  # libraries raise exceptions of their own when a disk is full
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).split("\n", 1)[0]
        raise UserError(f"cannot write {path}: {reason}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Raises UserError."""
    write_file(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Raises UserError."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically. Raises UserError.

    Its columns are the keys of all rows, in the order in which they first appear.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_file(path, write)


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed processes left in a folder that nobody else writes to."""
    for leftover in folder.rglob(f"*{TEMPORARY}"):
        leftover.unlink()
