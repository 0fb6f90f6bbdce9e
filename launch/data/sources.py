"""Where data come from: built-in sets, image folders, files, a user's module, Hugging Face."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from torch.utils.data import Dataset, Subset

from baselines.errors import UserError
from launch.data.array_files import ENDINGS, read_arrays
from launch.data.arrays import Arrays, describe_arrays, digest_of_arrays
from launch.data.hub import PREFIX, find_saved, read_huggingface
from launch.data.images import digest_of_files, find_folder, read_once, scan, test_folder
from launch.data.items import describe_items, read_labels, without_augmentation
from launch.data.order import hold_out
from launch.data.own import Split, read_own, takes_size
from launch.inputs import Inputs
from launch.plugins import import_attribute

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
RESIDENT_MAX_SIZE = 64  # larger images are read while training


class Splits(NamedTuple):
    """The splits of a data set, all arrays or all datasets. Without held-out examples, validation
    is None."""

    train: Split
    test: Split
    classes: int
    inputs: Inputs
    validation: Split | None = None
    digest: str = ""  # as of `Data`; of a Dataset it is not known yet

    @property
    def arrays(self) -> tuple[Arrays, Arrays, Arrays | None]:
        """The three splits, of arrays."""
        splits = (self.train, self.test, self.validation)
        assert not any(isinstance(split, Dataset) for split in splits)
        return splits  # type: ignore[return-value]

    def holding_out(self, fraction: float) -> Splits:
        """Return the splits with a fraction of the training examples held out for validation."""
        if isinstance(self.train, Dataset):
            kept, held = hold_out(read_labels(self.train).numpy(), fraction)
            validation: Split = Subset(without_augmentation(self.train), held.tolist())
            return self._replace(train=Subset(self.train, kept.tolist()), validation=validation)
        x, y = self.train
        kept, held = hold_out(y, fraction)
        return self._replace(train=(x[kept], y[kept]), validation=(x[held], y[held]))


def is_folder(data: str) -> bool:
    """Return whether data are a folder of images."""
    if data in SOURCES or Path(data).suffix in ENDINGS or data.startswith(PREFIX):
        return False
    return ":" not in data or Path(data).expanduser().is_dir()


def are_files(data: str) -> bool:
    """Return whether images of data have sizes of their own: those of a folder or Hugging Face."""
    return is_folder(data) or data.startswith(PREFIX)


def takes_image_size(data: str) -> bool:
    """Return whether data are made by a user's function or class with a parameter for the size."""
    return _is_own(data) and takes_size(_own(data))


def _is_own(data: str) -> bool:
    """Return whether data are made by a user's module."""
    if data in SOURCES:
        return SOURCES[data] is not _BUILT_IN.get(data)
    return not are_files(data) and ":" in data


def _own(data: str) -> Any:
    """Return what a user's module has for data. Raises UserError."""
    return SOURCES[data] if data in SOURCES else import_attribute(data, "data")


def read_splits(data: str, root: Path, image_size: int, workers: int, flip: bool) -> Splits:
    """Return the splits of data that fit in memory, or that are a user's Dataset.

    Args:
        data: a name in `SOURCES`, an image folder, a file, `package.module:name`, or `hf:NAME`.
        root: folder of data sets; downloads and decoded images go there too.
        image_size: height and width to which the images of a folder are resized.
        workers: threads that decode images.
        flip: whether images that a Dataset reads are flipped at random.

    Raises:
        UserError: the data set is not there, or cannot be read.
    """
    version = _version(data, root)
    read = _read_splits.__wrapped__ if version is None else _read_splits
    return read(data, root, image_size, workers, flip, version)


def _version(data: str, root: Path) -> object:
    """Return what differs once data of a name have changed; None if nothing tells."""
    if _is_own(data):
        found = _own(data)
        return found if callable(found) and isinstance(found, Hashable) else None
    if data in SOURCES:
        return SOURCES[data]
    if is_folder(data):
        return None
    with suppress(OSError):
        if data.startswith(PREFIX):
            folder = find_saved(data)
            return data if folder is None else _files_of(folder.resolve())
        file = _data_file(data, root).resolve()
        return file, file.stat().st_mtime_ns, file.stat().st_size
    return None


def _files_of(folder: Path) -> frozenset[tuple[Path, int, int]]:
    """Return paths, times and sizes of all that is in a folder. Raises OSError."""
    found = ((path, path.stat()) for path in folder.rglob("*"))
    return frozenset((path, stat.st_mtime_ns, stat.st_size) for path, stat in found)


def _data_file(data: str, root: Path) -> Path:
    file = Path(data).expanduser()
    return file if file.is_file() else root / file


@lru_cache(maxsize=2)  # consecutive runs in one process share what was read
def _read_splits(
    data: str, root: Path, image_size: int, workers: int, flip: bool, version: object
) -> Splits:
    if _is_own(data):
        return _described(*read_own(_own(data), data, root, image_size), data, made=True)
    if data in _BUILT_IN:
        train, test, classes = _BUILT_IN[data](root)
        inputs = describe_arrays(train, test, data)[1]
        digest = _digest(train, test, made=train[0].dtype.kind == "f")
        return Splits(train, test, classes, inputs, digest=digest)
    if is_folder(data):
        return _folder(find_folder(data, root), root, image_size, workers)
    if data.startswith(PREFIX):
        resident = image_size <= RESIDENT_MAX_SIZE
        read = read_huggingface(data, root, image_size, resident, flip)
        return _described(*read, data, made=True)
    return _described(*read_arrays(_data_file(data, root)), data)


def _described(train: Split, test: Split, data: str, made: bool = False) -> Splits:
    if isinstance(train, Dataset) or isinstance(test, Dataset):
        assert isinstance(train, Dataset) and isinstance(test, Dataset)
        return Splits(train, test, *describe_items(train, test, f"data {data}"))
    classes, inputs = describe_arrays(train, test, f"data {data}")
    return Splits(train, test, classes, inputs, digest=_digest(train, test, made))


def _digest(train: Arrays, test: Arrays, made: bool) -> str:
    """Return the digest of splits.

    Args:
        made: inputs are computed or decoded here, so that they can differ on another CPU or with
            another library; only the labels count.
    """
    return digest_of_arrays(*((train[1], test[1]) if made else (*train, *test)))


def _folder(folder: Path, root: Path, size: int, workers: int) -> Splits:
    """Return the decoded images of a folder."""
    train = scan(folder / "train")
    test = scan(test_folder(folder), classes=train.classes)
    read = partial(read_once, cache=root / "decoded", size=size, workers=workers)
    first, second = ((read(split.paths), np.array(split.labels)) for split in (train, test))
    digest = digest_of_files(folder, train, test)
    return Splits(first, second, len(train.classes), Inputs.image(3, size), digest=digest)


def _digits(root: Path) -> tuple[Arrays, Arrays, int]:
    """Return scikit-learn's digits, with a third of each class for testing.

    The split, which scikit-learn made, is a file.
    """
    images, labels = read_digits()
    split = json.loads(Path(__file__).with_name("digits_split.json").read_text())
    train, test = ((images[split[name]], labels[split[name]]) for name in ("train", "test"))
    return train, test, 10


def read_digits() -> Arrays:
    """Return scikit-learn's 1,797 digits: images of 8×8 pixels, and labels.

    They are read from scikit-learn's file: importing the package takes longer than an epoch.
    """
    table = np.loadtxt(_digits_file(), delimiter=",")
    images = (table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)
    return images, table[:, -1].astype(np.int64)


def _digits_file() -> Path:
    """Return where scikit-learn has the digits, without importing it."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _torchvision(root: Path, name: str) -> tuple[Arrays, Arrays, int]:
    """Return a data set of torchvision, which downloads and checks it."""
    from torchvision import datasets

    parts = []
    for train in (True, False):
        read = partial(getattr(datasets, name), root, train=train)
        try:
            part = _read_or_download(read, root, name)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot get {name} in {root}: {error}. Put its archive there, or use --data DIR "
                "with a folder of images."
            ) from error
        images = np.asarray(part.data)
        images = images.reshape(*images.shape[:3], -1)  # (N, H, W) has one channel
        parts.append((images, np.asarray(part.targets)))
    return parts[0], parts[1], len(part.classes)


def _read_or_download(read: Callable[..., Any], root: Path, name: str) -> Any:
    """Return a split of torchvision's. Nothing is written if it is there."""
    with suppress(Exception):  # it is not, or another process is writing it
        return read(download=False)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{name}.lock"):  # ranks and other runs would write the same file
        return read(download=True)


def _fashion_mnist(root: Path) -> tuple[Arrays, Arrays, int]:
    """Return Fashion-MNIST from Debian's package dataset-fashion-mnist, or through torchvision."""
    if not DEBIAN_FASHION_MNIST.is_dir():
        return _torchvision(root, "FashionMNIST")
    return _debian_split("train"), _debian_split("t10k"), 10


def _debian_split(name: str) -> Arrays:
    """Return a split of IDX files, whose headers are 16 bytes for images and 8 for labels."""
    images = _unpack(DEBIAN_FASHION_MNIST / f"{name}-images-idx3-ubyte.gz")[16:]
    labels = _unpack(DEBIAN_FASHION_MNIST / f"{name}-labels-idx1-ubyte.gz")[8:]
    return images.reshape(-1, 28, 28, 1), labels.astype(np.int64)


def _unpack(archive: Path) -> np.ndarray:
    """Return the bytes in an archive. Raises UserError."""
    try:
        return np.frombuffer(bytearray(gzip.decompress(archive.read_bytes())), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {archive}: {error}.") from error


# each takes the folder of data sets; images are uint8 (N, H, W, C)
_BUILT_IN: dict[str, Callable[[Path], tuple[Arrays, Arrays, int]]] = {
    "digits": _digits,
    "cifar10": partial(_torchvision, name="CIFAR10"),
    "cifar100": partial(_torchvision, name="CIFAR100"),
    "fashion-mnist": _fashion_mnist,
}

# a module of a user's own adds one with `SOURCES[name] = …`: what `package.module:name` can name
SOURCES: dict[str, Any] = dict(_BUILT_IN)
