"""Files of torch.save and of numpy, read without executing anything. Damage is found."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.checked import BrokenFile, is_sealed, open_regular, seal_file

_END_OF_ARCHIVE = b"PK\x05\x06"
_END_SIZE = 22  # of an archive without a comment
_MOST_PICKLE = 32 * 2**20  # bytes; torch's reader of plain contents is slow


def save_archive(value: Any, path: Path) -> None:
    """Write a file of torch.save that ends with its digest."""
    torch.save(value, path)
    seal_file(path)


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a file of numpy.save that ends with its digest."""
    with path.open("wb") as stream:  # given a path, numpy would append a suffix
        np.save(stream, array, allow_pickle=False)
    seal_file(path)


def load_array(path: Path) -> np.ndarray:
    """Read a file of `save_array`, or of numpy.save.

    Raises:
        BrokenFile: the file is gone, damaged, or no array of numbers.
    """
    try:
        sealed = is_sealed(path)
        with open_regular(path) as stream:
            array: np.ndarray = np.load(stream, allow_pickle=False)
            if not sealed and stream.read(1):
                raise BrokenFile(f"{path} is damaged: it has bytes after its array.")
            return array
    except BrokenFile:
        raise
    except Exception as error:  # numpy raises exceptions of many types for garbage
        raise BrokenFile(f"{path} cannot be read: {error}.") from None


def load_archive(path: Path, must_be_sealed: bool = False) -> Any:
    """Read a file of torch.save, with tensors on the CPU.

    The digest of a file of `save_archive` is verified. Of others, the checksums are that
    torch.save stores.

    Args:
        must_be_sealed: refuse a file without a digest.

    Raises:
        BrokenFile: the file is damaged, compressed, or not plain tensors and values.
        OSError: it cannot be opened.
    """
    try:
        if is_sealed(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        if must_be_sealed:
            raise BrokenFile(f"{path} has no digest: it is damaged, or from elsewhere.")
        is_archive = _check_archive(path)
        # mapped, a tensor that claims more than the file has is refused
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except (BrokenFile, MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # torch.load raises exceptions of many types for garbage and code
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise BrokenFile(f"{path} cannot be read as plain tensors: {reason}") from None


def _check_archive(path: Path) -> bool:
    """Check a ZIP archive by its directory and checksums. Return False for an older format."""
    with open_regular(path) as stream:
        if stream.read(2) != b"PK":
            return False
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - _END_SIZE))
        if stream.read(4) != _END_OF_ARCHIVE:
            raise BrokenFile(f"{path} is damaged: it does not end as an archive of torch.save.")
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise BrokenFile(f"{path} is compressed, which files of torch.save are not.")
            if sum(entry.file_size for entry in entries) > size:
                raise BrokenFile(f"{path} is damaged: its entries have more bytes than the file.")
            for entry in entries:
                if entry.filename.endswith(".pkl") and entry.file_size > _MOST_PICKLE:
                    raise BrokenFile(f"{path} has a description of {entry.file_size:,} bytes.")
            if damaged := archive.testzip():
                raise BrokenFile(f"{path} is damaged: the checksum of {damaged} is wrong.")
    return True
