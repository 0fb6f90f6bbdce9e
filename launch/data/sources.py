"""Arrays of the data sets that are held on the device: built-in ones and small image folders."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from baselines.errors import UserError
from launch.data.images import find_folder, read_once, scan, test_folder

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, H, W, C) uint8, labels (N,)


@lru_cache(maxsize=2)  # consecutive runs in one process share what was read
def load_arrays(data: str, root: Path, image_size: int, workers: int) -> tuple[Arrays, Arrays, int]:
    """Return the training split, the test split, and the number of classes.

    Args:
        data: a name in `SOURCES`, or an image folder.
        root: folder of data sets; downloads and decoded images go there too.
        image_size: height and width to which the images of a folder are resized.
        workers: threads that decode images.

    Raises:
        UserError: the data set is not there, or an image cannot be read.
    """
    if data in SOURCES:
        return SOURCES[data](root)
    folder = find_folder(data, root)
    train = scan(folder / "train")
    test = scan(test_folder(folder), classes=train.classes)
    read = partial(read_once, cache=root / "decoded", size=image_size, workers=workers)
    return (
        (read(train.paths), np.array(train.labels)),
        (read(test.paths), np.array(test.labels)),
        len(train.classes),
    )


def _digits(root: Path) -> tuple[Arrays, Arrays, int]:
    """Return scikit-learn's 1,797 digits of 8×8 pixels, with a third of each class for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)
    x, x_test, y, y_test = train_test_split(
        images, labels, test_size=1 / 3, stratify=labels, random_state=0
    )
    return (x, y), (x_test, y_test), 10


def _torchvision(root: Path, name: str) -> tuple[Arrays, Arrays, int]:
    """Return a data set of torchvision, which downloads and checks it."""
    from torchvision import datasets

    parts = []
    for train in (True, False):
        try:
            part = getattr(datasets, name)(root, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot get {name} in {root}: {error}. Put its archive there, or use --data DIR "
                "with a folder of images."
            ) from error
        images = np.asarray(part.data)
        images = images.reshape(*images.shape[:3], -1)  # (N, H, W) has one channel
        parts.append((images, np.asarray(part.targets)))
    return parts[0], parts[1], len(part.classes)


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
        return np.frombuffer(gzip.decompress(archive.read_bytes()), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {archive}: {error}.") from error


# each takes the folder of data sets; a module of a user's own adds one with `SOURCES[name] = …`
SOURCES: dict[str, Callable[[Path], tuple[Arrays, Arrays, int]]] = {
    "digits": _digits,
    "cifar10": partial(_torchvision, name="CIFAR10"),
    "cifar100": partial(_torchvision, name="CIFAR100"),
    "fashion-mnist": _fashion_mnist,
}
