"""Files of torch.save and of numpy, read without executing anything. Damage is detected."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from analysis.checked import BrokenFile, FileError, cannot_read, is_sealed, open_regular, seal_file
from baselines.errors import first_line
from launch.runs.stubs import MOST_PICKLE_OBJECTS, load_with_stubs

_END_OF_ARCHIVE = b"PK\x05\x06"
_END_SIZE = 22  # of an archive without a comment
_MOST_PICKLE_PLAIN = 32 * 2**20  # bytes; torch's reader of plain contents is slow


def save_archive(value: Any, path: Path, label: str = "") -> None:
    """Write a file of torch.save that ends with a digest and a label of one line.

    The digest is that of the archive's directory, which has the checksums of all entries: one of
    the entries themselves would take as long as writing them.
    """
    torch.save(value, path)
    with zipfile.ZipFile(path) as archive:
        start: int = archive.start_dir
    seal_file(path, label, start)


def save_array(array: np.ndarray, path: Path, label: str = "") -> None:
    """Write a file of numpy.save that ends with its digest and a label of one line."""
    with path.open("wb") as stream:  # given a path, numpy would append a suffix
        np.save(stream, array, allow_pickle=False)
    seal_file(path, label)


def load_array(path: Path, label: str | None = None) -> np.ndarray:
    """Read a file of `save_array`, or of numpy.save.

    Args:
        label: that of the file, if it is known.

    Raises:
        FileError: the file is gone, damaged, another one, or no array of numbers.
    """
    try:
        sealed = is_sealed(path, label)
        with open_regular(path) as stream:
            array: np.ndarray = np.load(stream, allow_pickle=False)
            if not sealed and stream.read(1):
                raise BrokenFile(f"{path} is damaged: it has bytes after its array.")
            return array
    except FileError:
        raise
    except Exception as error:  # numpy raises exceptions of many types for garbage
        raise cannot_read(path, error) from None


def load_archive(path: Path, label: str | None = None, must_be_sealed: bool = False) -> Any:
    """Read a file of torch.save, with tensors on the CPU.

    The checksums that torch.save stores are verified, and the digest of `save_archive`.

    Args:
        label: that of the file, if it is known.
        must_be_sealed: refuse a file without a digest.

    Raises:
        FileError: the file cannot be read, is damaged or compressed, or has other contents.
        FileNotFoundError: there is no such file.
    """
    with _readable(path):
        sealed = is_sealed(path, label)
        if must_be_sealed and not sealed:
            raise BrokenFile(f"{path} has no digest: it is damaged, or from elsewhere.")
        is_archive = _check_archive(path, sealed)
        if sealed:
            return torch.load(path, map_location="cpu", weights_only=True)
        # mapped, a tensor that claims more than the file has is refused
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
        return _copy(found, _Copies(path)) if is_archive else found


def load_objects(path: Path, label: str | None = None) -> Any:
    """Read a file of torch.save that may have objects, which become stand-ins (`stubs.contents`).

    Tensors of files of others are mapped: copy them before the file changes.

    Args:
        label: that of the file, if it is known.

    Raises:
        FileError, FileNotFoundError: as `load_archive` does.
    """
    with _readable(path):
        sealed = is_sealed(path, label)
        if not _check_archive(path, sealed) or sealed:
            return torch.load(path, map_location="cpu", weights_only=True)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            _check_size_of_pickle(path)
            return load_with_stubs(path)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise what fails in reading a file as FileError."""
    try:
        yield
    except (FileError, MemoryError, FileNotFoundError):
        raise
    except OSError as error:
        raise cannot_read(path, error) from None
    except pickle.UnpicklingError:  # torch's own message advises to execute what the file says
        raise BrokenFile(
            f"{path} has other contents than tensors and plain values. If you trust it, save its "
            "state dict alone: torch.save(torch.load(FILE, weights_only=False)[KEY], NEW)."
        ) from None
    except Exception as error:  # torch.load raises exceptions of many types for garbage
        raise BrokenFile(f"{path} cannot be read as plain tensors: {first_line(error)}") from None


def copied_tensors(
    groups: Sequence[Mapping[str, torch.Tensor]], names: set[str], path: Path
) -> list[dict[str, torch.Tensor]]:
    """Return groups of tensors of `load_objects` with copies of those of the given names.

    Raises:
        BrokenFile: they have more than four times the bytes of the file.
    """
    copies = _Copies(path)
    with _readable(path):
        return [
            {k: copies.of(t) if k in names else t for k, t in group.items()} for group in groups
        ]


def _check_size_of_pickle(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".pkl") and entry.file_size > MOST_PICKLE_OBJECTS:
                raise BrokenFile(
                    f"{path} has objects with a description of {entry.file_size:,} bytes, above "
                    f"{MOST_PICKLE_OBJECTS:,}; save its state dict alone."
                )


def _check_archive(path: Path, sealed: bool) -> bool:
    """Check a ZIP archive by its checksums, and one of others by its directory.

    Returns:
        False for an older format.
    """
    with open_regular(path) as stream:
        if stream.read(2) != b"PK":
            return False
        if not sealed:
            _check_end(stream, path)
        with zipfile.ZipFile(stream) as archive:
            if not sealed:
                _check_entries(archive.infolist(), path)
            if damaged := archive.testzip():
                raise BrokenFile(f"{path} is damaged: the checksum of {damaged} is wrong.")
    return True


def _check_end(stream: IO[bytes], path: Path) -> None:
    stream.seek(max(0, os.fstat(stream.fileno()).st_size - _END_SIZE))
    if stream.read(4) != _END_OF_ARCHIVE:
        raise BrokenFile(f"{path} is damaged: it does not end as an archive of torch.save.")


def _check_entries(entries: list[zipfile.ZipInfo], path: Path) -> None:
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise BrokenFile(f"{path} is compressed, which files of torch.save are not.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise BrokenFile(f"{path} is damaged: its entries have more bytes than the file.")
    for entry in entries:
        if entry.filename.endswith(".pkl") and entry.file_size > _MOST_PICKLE_PLAIN:
            raise BrokenFile(f"{path} has a description of {entry.file_size:,} bytes.")


def _copy(value: Any, copies: _Copies) -> Any:
    """Return plain values with copies of their tensors, which no longer depend on the file."""
    done: dict[int, Any] = {}  # copies by what they are of: a file can have a list many times

    def copy(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return copies.of(part)
        if not isinstance(part, dict | list | tuple):
            return part
        if id(part) not in done:
            if isinstance(part, dict):
                done[id(part)] = {key: copy(item) for key, item in part.items()}
            else:
                done[id(part)] = [copy(item) for item in part]
        return done[id(part)]

    return copy(value)


class _Copies:
    """Copies of a file's tensors, one of all that are the same part of the same storage.

    Tensors that are larger than their storage are left as they are.
    """

    def __init__(self, path: Path) -> None:
        self._room = 4 * path.stat().st_size  # bytes that the copies may still take
        self._done: dict[Any, torch.Tensor] = {}

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """Return the copy of a tensor. Raises ValueError if there is no room for it."""
        if value.layout != torch.strided or value.is_meta:
            return value
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():
            return value
        key = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in self._done:
            self._room -= size
            if self._room < 0:
                raise ValueError("its tensors are larger than the file")
            self._done[key] = value.clone()
        return self._done[key]
