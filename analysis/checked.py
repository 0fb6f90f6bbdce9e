"""Checked files: a digest is stored with the data, and verified on every read.

    JSON            entries "format" and "sha256", the digest of the other entries
    binary files    a last line, the digest of all bytes before it; other readers ignore it
    epochs.csv and layers.csv of a finished run, whose digests are in result.json

Files without a digest are those of version 0.1, which are read unverified.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from baselines.errors import UserError

T = TypeVar("T")

FORMAT, DIGEST = "format", "sha256"  # the entries of a JSON object; each one demands the other
VERSION = 2
MOST_TEXT, MOST_ROWS = 2**25, 2**30  # bytes of a JSON file, and of a CSV file
_LAST_LINE = re.compile(rb"\nsha256 (?:from (\d{1,18}) )?([0-9a-f]{64})(?: ([^\n]*))?\n\Z")
_LONGEST_LINE = 600
_OF_THE_PATH = {  # errors that say what is there, and stay
    *(errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV),
    *(errno.ENOENT, errno.ENOTDIR, errno.ENXIO),
}


class FileError(UserError):
    """A file cannot be used: it is broken or unreadable."""


class BrokenFile(FileError):
    """A file is damaged, or has other contents than expected."""


class UnreadableFile(FileError):
    """The system fails to read a file, which may be whole: it must not be replaced."""


def cannot_read(path: Path, error: Exception) -> FileError:
    """Return the error for a file whose reading has failed."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number in _OF_THE_PATH:
        return BrokenFile(f"{path} cannot be read: {error}.")
    return UnreadableFile(
        f"{path} cannot be read ({os.strerror(number)}), but may be whole: try again."
    )


def none_if_broken(read: Callable[[Path], T], path: Path) -> T | None:
    """Return what a reader returns for a path; None if the file is broken.

    Raises:
        UnreadableFile: the system fails to read it.
    """
    try:
        return read(path)
    except BrokenFile:
        return None


def digest_of(data: bytes) -> str:
    """Return the digest of data, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


# ---- JSON


def seal_json(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of its entries."""
    return {**value, FORMAT: VERSION, DIGEST: _digest_of_json(value)}


def unseal_json(value: dict[str, Any], path: Path, must_be_sealed: bool = False) -> dict[str, Any]:
    """Return an object without its digest.

    Args:
        must_be_sealed: refuse an object without a digest.

    Raises:
        BrokenFile: the digest is not that of the entries.
    """
    entries = {k: v for k, v in value.items() if k not in (FORMAT, DIGEST)}
    sealed = must_be_sealed or FORMAT in value or DIGEST in value
    if sealed and seal_json(entries) != value:
        raise BrokenFile(f"{path} is damaged: its digest is not that of its contents.")
    return entries


def _digest_of_json(value: dict[str, Any]) -> str:
    return digest_of(json.dumps(value, sort_keys=True).encode())


# ---- binary files


def seal_file(path: Path, label: str = "", start: int = 0) -> None:
    """Append the digest of a file and of a label to it.

    Args:
        label: what the file is, so that another file in its place is detected. One line.
        start: first byte of the digest. The bytes before it must have checksums of their own.
    """
    with path.open("r+b") as stream:
        stream.seek(start)
        digest = hashlib.file_digest(stream, "sha256")
        digest.update(label.encode())
        where = f"from {start} " if start else ""
        stream.write(f"\nsha256 {where}{digest.hexdigest()} {label}\n".encode())


def is_sealed(path: Path, label: str | None = None) -> bool:
    """Return whether a file ends with a digest; False also if that line is damaged.

    Args:
        label: that of the file, if it is known.

    Raises:
        FileError: the file is damaged, has another label, or cannot be read.
    """
    with open_regular(path) as stream:
        tail = max(0, os.fstat(stream.fileno()).st_size - _LONGEST_LINE)
        stream.seek(tail)
        found = _LAST_LINE.search(stream.read())
        if not found:
            return False
        start, own = int(found[1] or 0), found[3] or b""
        digest = _digest_between(stream, start, tail + found.start())
        digest.update(own)
    if digest.hexdigest().encode() != found[2]:
        raise BrokenFile(f"{path} is damaged: its digest is not that of its contents.")
    check_label(own.decode(), label, path)
    return True


def check_label(found: str, label: str | None, path: Path) -> None:
    """Raise BrokenFile if the label of a file is not the known one. A file may have none."""
    if found and label is not None and found != label:
        raise BrokenFile(f"{path} is another file in the place of {label}: {found}.")


def _digest_between(stream: IO[bytes], start: int, end: int) -> Any:
    digest = hashlib.sha256()
    stream.seek(start)
    while start < end:
        part = stream.read(min(end - start, 2**20))
        if not part:
            raise BrokenFile(f"{stream.name} is damaged: it has changed while it was read.")
        digest.update(part)
        start += len(part)
    return digest


# ---- any files


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; opening a named pipe would block forever.

    Raises:
        OSError: it cannot be opened.
        BrokenFile: it is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BrokenFile(f"{path} is not a regular file.")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """Return the text of a file.

    Args:
        most: number of bytes that the file may have.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no file.
        FileError: it cannot be read.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                raise BrokenFile(f"{path} has more than {most:,} bytes.")
            data: bytes = stream.read(size)
        return data.decode()
    except (FileNotFoundError, NotADirectoryError, FileError):
        raise
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from None
