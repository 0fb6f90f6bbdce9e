"""Image folders: their files, and the files' pixels in RGB for any format and mode."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

from analysis.checked import FileError, open_regular
from baselines.errors import UserError, first_line
from launch.limits import IMAGE
from launch.runs.archives import load_array, save_array
from launch.runs.atomic import make_folder, remove_leftovers, write_file

_MOST_BYTES = 2**28
_USUAL_SCANS = 32  # of a progressive JPEG, the embedded preview included
# PIL would hand others to external programs
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """The files of one split. Labels are positions in the sorted list of classes."""

    classes: tuple[str, ...]
    paths: list[Path]
    labels: list[int]

    def part(self, indices: Iterable[int]) -> ImageFolder:
        """Return some of the files."""
        paths, labels = zip(*((self.paths[i], self.labels[i]) for i in indices), strict=True)
        return ImageFolder(self.classes, list(paths), list(labels))


def scan(folder: Path, classes: tuple[str, ...] | None = None) -> ImageFolder:
    """List FOLDER/<class>/**/<image>.

    Args:
        classes: those of the training split, all of which a test split must have.

    Raises:
        UserError: no such folder, no classes, a class without images, or an unknown class.
    """
    classes = class_names(folder, classes)
    paths: list[Path] = []
    labels: list[int] = []
    ignored: list[Path] = []
    for label, name in enumerate(classes):
        entries = sorted((folder / name).rglob("*"))
        images = [path for path in entries if path.suffix.lower() in _ENDINGS]
        if not images:
            raise UserError(f"{folder / name} has no images ({', '.join(_ENDINGS)}).")
        paths += images
        labels += [label] * len(images)
        ignored += [path for path in entries if _is_ignored(path)]
    if ignored:
        warnings.warn(
            f"{folder}: {len(ignored)} files are ignored, such as {ignored[0].name}: images end in "
            f"{', '.join(_ENDINGS)}.",
            stacklevel=2,
        )
    return ImageFolder(classes, paths, labels)


def digest_of_files(folder: Path, *splits: ImageFolder) -> str:
    """Return a digest of the names of the files in an image folder, to tell folders apart.

    The files are not opened: there may be millions.
    """
    digest, above = hashlib.sha256(), len(str(folder / "x")) - 1
    for split in splits:
        digest.update(os.fsencode("\n".join(str(path)[above:] for path in split.paths)))
    return digest.hexdigest()[:16]


def _is_ignored(path: Path) -> bool:
    """Return whether an entry of a class's folder is a file, not hidden, without a known ending."""
    known = path.suffix.lower() in _ENDINGS or path.name.startswith(".")
    return not known and bool(path.suffix) and path.is_file()


def class_names(folder: Path, known: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Return the classes of a split: the known ones, or else the names of its folders.

    Raises:
        UserError: no such folder, no classes, or one that is not among the known ones.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; an image set has DIR/train/<class>/ and DIR/test/.")
    found = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    if not found:
        raise UserError(f"{folder} has no class folders.")
    unknown = sorted(set(found) - set(found if known is None else known))
    if unknown:
        raise UserError(f"{folder / unknown[0]} is a class that the training set does not have.")
    return found if known is None else known


def find_folder(data: str, root: Path) -> Path:
    """Return `data` itself if it is a folder or an absolute path, else that folder in `root`."""
    given = Path(data).expanduser()
    return given if given.is_dir() or given.is_absolute() else root / data


def test_folder(folder: Path) -> Path:
    """Return the folder's test split: test/, or else val/."""
    return folder / "test" if (folder / "test").is_dir() else folder / "val"


test_folder.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it


def read_image(path: Path) -> Tensor:
    """Return pixels (H, W, 3) in RGB, uint8, for any mode of the file (16 bits are scaled to 8).

    Raises:
        UserError: not an image, a truncated one, or one of too many pixels; the message names the
            file.
    """
    try:
        with open_regular(path) as stream:
            data: bytes = stream.read(_MOST_BYTES + 1)
    except (OSError, FileError) as error:
        raise UserError(f"cannot read image {path}: {error}") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"cannot read image {path}: it has more than {_MOST_BYTES:,} bytes")
    # same pixels as PIL (CMYK: to within 1) in two thirds of the time
    with contextlib.suppress(OSError, ValueError):  # not a JPEG, or a damaged one
        height, width, *_ = decode_jpeg_header(data)
        if height * width * _scans(data) <= IMAGE.value:
            return torch.from_numpy(decode_jpeg(data))
    return torch.from_numpy(np.array(_open(path, data)))


def _scans(data: bytes) -> int:
    """Return how often a JPEG is decoded: a progressive one has a scan for each refinement."""
    return max(1, data.count(b"\xff\xda") // _USUAL_SCANS)


def _open(path: Path, data: bytes) -> Any:
    """Return a PIL image in RGB."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # `IMAGE` holds, which can be changed
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            scans = _scans(data) if image.format in ("JPEG", "MPO") else 1
            IMAGE.check(image.width * image.height * scans, f"image {path}")
            return converted(image, "RGB", str(path))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # PIL raises exceptions of many types for garbage
        raise UserError(f"cannot read image {path}: {first_line(error)}") from error


def converted(image: Any, mode: str, name: str) -> Any:
    """Return a PIL image in a mode of 8 bits, for which pixels of 16 bits are scaled.

    Raises:
        UserError: its pixels have an unknown range.
    """
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):  # PIL would clip at 255
        raise UserError(f"{name} has pixels of mode {image.mode}; convert it to 8 bits.")
    return image.convert(mode)


def read_once(paths: list[Path], cache: Path, size: int, workers: int) -> np.ndarray:
    """Return all images (N, size, size, 3), from the cache if the files are unchanged since."""
    digest = hashlib.sha256(f"checked {size}".encode())
    for path in paths:
        stat = path.stat()
        digest.update(os.fsencode(path.resolve()))
        digest.update(f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    file = cache / f"{digest.hexdigest()[:32]}.npy"
    with contextlib.suppress(FileError):  # absent or damaged
        found = load_array(file)
        if found.shape == (len(paths), size, size, 3) and found.dtype == np.uint8:
            return found
    images = _read_all(paths, size, workers)
    with contextlib.suppress(UserError):  # without a cache the next run reads them again
        make_folder(cache)
        remove_leftovers(cache)
        write_file(file, lambda temporary: save_array(images, temporary))
    return images


def _read_all(paths: list[Path], size: int, workers: int) -> np.ndarray:
    from PIL import Image, ImageOps

    def read(path: Path) -> np.ndarray:
        pixels = read_image(path).numpy()
        if pixels.shape[:2] == (size, size):
            return pixels
        # crop to a square, then resize
        return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size)))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return np.stack(list(pool.map(read, paths)))
