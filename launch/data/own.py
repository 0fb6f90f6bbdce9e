"""Data sets that a user's own module makes, named as `package.module:name`."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from baselines.errors import UserError, describe
from launch.data.arrays import Arrays, as_arrays
from launch.plugins import call_with_known

Split = Arrays | Dataset[Any]
SIZES = ("image_size", "img_size")  # parameters for the size of images


def takes_size(found: Any) -> bool:
    """Return whether what a user's module has is called with the size of images."""
    return callable(found) and not signature(found).parameters.keys().isdisjoint(SIZES)


def read_own(found: Any, path: str, root: Path, image_size: int) -> tuple[Split, Split]:
    """Return the training and the test split that a function or class of a user's module gives.

    It is called with those of the parameters root, data_dir, image_size, train and split that it
    has. With train (True, False) or split ("train", "test") it is called once for each split, as
    torchvision's classes are; without, it returns both. A split is a torch Dataset of pairs
    (tensor, label), or a pair of inputs and labels. The name may also be that of a pair of splits.

    Raises:
        UserError: it cannot be called, or gives something else.
    """
    known = {"root": root, "data_dir": root, **dict.fromkeys(SIZES, image_size)}
    try:
        splits = _splits(found, known, path)
    except UserError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"data {path}: {describe(error)}") from error
    if not isinstance(splits, (tuple, list)) or len(splits) != 2:
        raise UserError(
            f"data {path}: a pair of a training and a test split is needed, not "
            f"{type(splits).__name__}. A class needs a parameter train or split."
        )
    train, test = (_as_split(split, f"data {path}") for split in splits)
    if isinstance(train, Dataset) != isinstance(test, Dataset):
        raise UserError(f"data {path}: one split is a Dataset, the other a pair of arrays.")
    return train, test


def _splits(found: Any, known: Mapping[str, Any], path: str) -> Any:
    if not callable(found):
        return found
    names = signature(found).parameters
    for name, values in (("train", (True, False)), ("split", ("train", "test"))):
        if name in names:
            return [call_with_known(found, {**known, name: value}, path) for value in values]
    return call_with_known(found, {**known, "train": True, "split": "train"}, path)


def _as_split(split: Any, source: str) -> Split:
    if isinstance(split, IterableDataset) or not hasattr(split, "__getitem__"):
        raise UserError(f"{source}: a split must be a Dataset with indices, or inputs and labels.")
    if isinstance(split, Dataset):
        return split
    if not isinstance(split, (tuple, list)) or len(split) != 2:
        raise UserError(f"{source}: a split must be a Dataset, or a pair of inputs and labels.")
    return as_arrays(split[0], split[1], source)
