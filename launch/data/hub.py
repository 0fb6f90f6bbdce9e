"""Data sets of the library `datasets`: `hf:NAME`, `hf:NAME:CONFIG`, or `hf:FOLDER` of a saved one.

Columns are found by their types and usual names. Images become images of the recipe's size, a
column input_ids tokens, and all numeric columns together features.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from baselines.errors import UserError, one_line
from launch.data.arrays import Arrays, as_arrays
from launch.data.augment import CentreCrop, Normalise, RandomResizedCrop
from launch.data.images import converted
from launch.data.items import integer_labels
from launch.data.normalisation import Constants
from launch.data.own import Split
from launch.data.streamed import IMAGENET_MEAN, IMAGENET_STD

PREFIX = "hf:"
_SPLITS = (("train",), ("test", "validation", "val", "valid"))
_LABELS = ("label", "labels", "fine_label", "target", "y", "class")


def read_huggingface(
    data: str, root: Path, size: int, resident: bool, flip: bool
) -> tuple[Split, Split]:
    """Return the training and the test split.

    Args:
        data: begins with `PREFIX`.
        root: folder of data sets; downloads go to its folder huggingface.
        size: height and width of the images.
        resident: whether images are read at once, as arrays.
        flip: whether training images that are read while training are flipped at random.

    Raises:
        UserError: the library is not installed, or there is no such data set, split or column.
    """
    found = _load(data, root)
    names = [next((name for name in known if name in found), "") for known in _SPLITS]
    if not all(names):
        raise UserError(f"data {data} needs the splits train and test, not {', '.join(found)}.")
    train = found[names[0]]
    label = _label(train, data)
    tests = (found[name] for name in _SPLITS[1] if name in found)
    test = next((split for split in tests if _has_labels(split, label)), None)
    if test is None:
        raise UserError(f"data {data}: the split {names[1]} has no labels, and there is no other.")
    image = next((n for n, f in train.features.items() if type(f).__name__ == "Image"), "")
    if not image:
        return _columns(train, label, data), _columns(test, label, data)
    if resident:
        return _pixels(train, image, label, size, data), _pixels(test, image, label, size, data)
    augment, centre = RandomResizedCrop(size, flip), CentreCrop(size)
    return Images(train, image, label, augment, centre), Images(test, image, label, centre, centre)


class Images(Dataset[tuple[Tensor, int]]):
    """Images of a split as normalised tensors (3, size, size).

    Attributes:
        plain: the same images without augmentation.
    """

    def __init__(
        self,
        rows: Any,
        image: str,
        label: str,
        transform: RandomResizedCrop | CentreCrop,
        centre: CentreCrop,
    ) -> None:
        self.rows, self.image, self.label, self.transform = rows, image, label, transform
        self.targets = integer_labels(_values(rows, label), f"column {label}")
        self.classes = getattr(rows.features[label], "names", None)
        self.plain = self if transform is centre else Images(rows, image, label, centre, centre)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.normalise = Normalise(mean, std, transform.size)

    def normalised(self, constants: Constants | None) -> Images:
        """Return the same images, normalised by other constants unless these are None."""
        if constants is None:
            return self
        other = copy(self)
        other.normalise = Normalise(*constants, self.transform.size)
        other.plain = other if self.plain is self else self.plain.normalised(constants)
        return other

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        picture = converted(row[self.image], "RGB", f"image {index}")
        pixels = torch.from_numpy(np.array(picture))
        rng = Random(int(torch.randint(2**62, ())))  # the loop seeds torch for each item
        image = self.normalise(self.transform(pixels, rng)[None])[0]
        return image, int(row[self.label])


def find_saved(data: str) -> Path | None:
    """Return the folder that data are in; None if they are of the hub."""
    folder = Path(data.removeprefix(PREFIX).partition(":")[0]).expanduser()
    return folder if folder.is_dir() else None


def _load(data: str, root: Path) -> Mapping[str, Any]:
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise UserError(f"data {data} needs: pip install datasets.") from None
    name, _, config = data.removeprefix(PREFIX).partition(":")
    folder = find_saved(data)
    if folder and (folder / "state.json").is_file():
        raise UserError(f"data {data} are one split: save a DatasetDict with train and test.")
    try:
        if folder and (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))  # type: ignore[no-any-return,unused-ignore]
        path = str(folder or name)
        cache = str(root / "huggingface")
        return datasets.load_dataset(path, config or None, cache_dir=cache)  # type: ignore[no-any-return,unused-ignore]
    except Exception as error:  # the library raises exceptions of many types
        raise UserError(f"cannot load {data}: {one_line(error)}") from error


def _label(split: Any, data: str) -> str:
    """Return the column of the labels."""
    kinds = {name: type(feature).__name__ for name, feature in split.features.items()}
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    for candidates in (classes, list(kinds)):
        named = [name for name in _LABELS if name in candidates]
        if named or (classes and candidates is classes):
            return str((named or classes)[0])
    raise UserError(f"data {data} has no column label among {', '.join(kinds)}.")


def _values(split: Any, column: str) -> Any:
    """Return all values of a column at once: one by one, as `datasets` 4 reads them, takes long."""
    return split[column][:]


def _labels(split: Any, label: str) -> np.ndarray:
    return np.array(_values(split, label))


def _has_labels(split: Any, label: str) -> bool:
    """Return whether a split has a label; without labels, it may have -1 in their place."""
    return label in split.features and any(y not in (None, -1) for y in _values(split, label))


def _columns(split: Any, label: str, data: str) -> Arrays:
    """Return tokens or features."""
    if "input_ids" in split.features:
        tokens = _values(split, "input_ids")
        if len({len(row) for row in tokens}) > 1:
            raise UserError(f"data {data}: input_ids are of different lengths; pad them.")
        return as_arrays(np.array(tokens, np.int64), _labels(split, label), f"data {data}")
    columns = [name for name in split.features if name != label]
    parts = [np.asarray(_values(split, name)) for name in columns]
    texts = [n for n, part in zip(columns, parts, strict=True) if part.dtype.kind not in "iufb"]
    if texts or not parts:
        raise UserError(
            f"data {data}: column {texts[0] if texts else ''} is no number; give an image column, "
            "tokens as input_ids, or numbers alone."
        )
    features = np.concatenate([p.reshape(len(p), -1).astype(np.float32) for p in parts], axis=1)
    return as_arrays(features, _labels(split, label), f"data {data}")


def _pixels(split: Any, image: str, label: str, size: int, data: str) -> Arrays:
    """Return all images as arrays, each cropped to a square and resized."""
    from PIL import ImageOps

    def read(picture: Any) -> np.ndarray:
        grey = picture.mode in ("L", "1") or picture.mode.startswith("I;16")
        picture = converted(picture, "L" if grey else "RGB", f"data {data}: an image")
        fitted = np.asarray(ImageOps.fit(picture, (size, size)))
        return fitted[..., None] if grey else fitted

    images = [read(picture) for picture in split[image]]
    if len({picture.shape for picture in images}) > 1:
        images = [np.broadcast_to(p, (size, size, 3)) for p in images]
    return as_arrays(np.stack(images), _labels(split, label), f"data {data}")
