"""Data sets in one file of arrays: .npz, .pt or .safetensors. Nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.errors import UserError, one_line
from launch.data.arrays import Arrays, as_arrays

ENDINGS = (".npz", ".pt", ".pth", ".safetensors")
_SPLITS = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
_INPUTS = ("x", "inputs", "images", "data", "features", "tokens", "input_ids")
_LABELS = ("y", "labels", "label", "targets", "target")
TEST_PART = 5  # one in so many examples of each class is for testing, if there is no test split


def read_arrays(path: Path) -> tuple[Arrays, Arrays]:
    """Return the training and the test split in a file.

    The arrays are named by split and content in either order: x_train, train_images, test_labels,
    … A file with x and y alone is split: a fifth of each class, always the same, is for testing.

    Raises:
        UserError: there is no such file, it cannot be read, or has no such arrays.
    """
    found = {key.lower(): value for key, value in _read(path).items()}
    train, test = (_split(found, names, path) for names in _SPLITS.values())
    if train is None and test is None and (whole := _pair(found, "", path)) is not None:
        return _divide(whole, path)
    if train is None or test is None:
        missing = "training" if train is None else "test"
        raise UserError(
            f"{path} has no {missing} split among {', '.join(found) or 'nothing'}: name the arrays "
            "x_train, y_train, x_test and y_test."
        )
    return train, test


def _read(path: Path) -> Mapping[str, Any]:
    """Return the arrays in a file by name; those of nested mappings by joined names."""
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise exceptions of many types for garbage
        raise UserError(f"{path} cannot be read as arrays: {one_line(error, 200)}") from None
    if isinstance(found, tuple | list) and len(found) == 2:
        names = ("x", "y") if isinstance(found[0], Tensor) else ("train", "test")
        found = dict(zip(names, found, strict=True))
    return dict(_flat(found)) if isinstance(found, Mapping) else {}


def _flat(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            yield from _flat(entry, f"{prefix}{key}_")
        elif isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], Tensor):
            yield f"{prefix}{key}_x", entry[0]  # a split as a pair
            yield f"{prefix}{key}_y", entry[1]
        else:
            yield f"{prefix}{key}", entry


def _split(found: Mapping[str, Any], names: tuple[str, ...], path: Path) -> Arrays | None:
    """Return the first of some splits that there is."""
    pairs = (_pair(found, name, path) for name in names)
    return next((pair for pair in pairs if pair is not None), None)


def _pair(found: Mapping[str, Any], split: str, path: Path) -> Arrays | None:
    """Return inputs and labels of a split; None if there are none."""

    def entry(contents: tuple[str, ...]) -> Any:
        names = [n for c in contents for n in ((f"{c}_{split}", f"{split}_{c}") if split else (c,))]
        return next((found[name] for name in names if name in found), None)

    inputs, labels = entry(_INPUTS), entry(_LABELS)
    if inputs is None or labels is None:
        return None
    return as_arrays(inputs, labels, f"{path}, {split or 'all'}")


def _divide(whole: Arrays, path: Path) -> tuple[Arrays, Arrays]:
    from sklearn.model_selection import train_test_split

    x, y = whole
    try:
        parts = train_test_split(x, y, test_size=1 / TEST_PART, stratify=y, random_state=0)
    except ValueError as error:
        raise UserError(f"{path} cannot be split for testing: {error}") from None
    return (parts[0], parts[2]), (parts[1], parts[3])
