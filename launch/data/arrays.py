"""Inputs and labels as arrays: their forms.

uint8   images (N, H, W, C), (N, C, H, W) or (N, H, W), which can be augmented
float   features of any shape, used as they are
other integers   tokens
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.errors import UserError
from launch.inputs import CHANNELS, Inputs, float_inputs

Arrays = tuple[np.ndarray, np.ndarray]  # inputs (N, …), labels (N,)


def as_arrays(inputs: Any, labels: Any, source: str) -> Arrays:
    """Return inputs and labels in the forms that the loop trains on.

    Images become uint8 (N, H, W, C), other numbers float32, tokens and labels int64.

    Args:
        inputs, labels: arrays or tensors; labels of shape (N,) or (N, 1).
        source: what they are from, for messages.

    Raises:
        UserError: they have other forms, or are not finite.
    """
    x, y = _array(inputs), _array(labels)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or not len(x):
        raise UserError(
            f"{source}: inputs (N, …) and labels (N,) are needed, not {x.shape} and {y.shape}."
        )
    if y.dtype.kind == "f" and np.array_equal(y, y.round()):
        y = y.astype(np.int64)
    if y.dtype.kind not in "iub" or y.min() < 0:
        found = (
            "text" if y.dtype.kind in "USO" else "negative" if y.dtype.kind == "i" else "fractions"
        )
        how = "; numpy.unique(labels, return_inverse=True) numbers them" * (found == "text")
        raise UserError(f"{source}: labels must be classes 0, 1, …, not {found}{how}.")
    if x.dtype == np.uint8:
        return _images(x, source), y.astype(np.int64)
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            raise UserError(f"{source}: inputs have values that are not finite.")
        return x.astype(np.float32), y.astype(np.int64)
    if x.dtype.kind in "iu" and x.min() >= 0:
        return x.astype(np.int64), y.astype(np.int64)
    raise UserError(f"{source}: inputs must be numbers, or tokens 0, 1, …, not {x.dtype}.")


def describe_arrays(train: Arrays, test: Arrays, source: str) -> tuple[int, Inputs]:
    """Return the number of classes, and what the inputs are.

    Raises:
        UserError: the splits differ in shape or type.
    """
    (x, y), (x_test, y_test) = train, test
    if x.shape[1:] != x_test.shape[1:] or x.dtype != x_test.dtype:
        raise UserError(
            f"{source}: training inputs are {x.dtype} of shape {x.shape[1:]}, test inputs "
            f"{x_test.dtype} of shape {x_test.shape[1:]}."
        )
    classes = int(max(y.max(), y_test.max())) + 1
    if absent := sorted({*range(classes)} - {*y.tolist()}):
        shown = f"{', '.join(map(str, absent[:5]))}{', …' * (len(absent) > 5)}"
        warnings.warn(f"{source}: no training example is of class {shown}.", stacklevel=2)
    if is_images(x):
        return classes, Inputs((x.shape[3], *x.shape[1:3]))
    if x.dtype == np.int64:
        return classes, Inputs(x.shape[1:], "int64", int(max(x.max(), x_test.max())) + 1)
    return classes, float_inputs(x.shape[1:], source)


def digest_of_arrays(*arrays: np.ndarray) -> str:
    """Return a digest of types, shapes and contents of arrays, to tell data apart."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def is_images(x: np.ndarray) -> bool:
    """Return whether inputs are images (N, H, W, C) of uint8."""
    return x.dtype == np.uint8


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    return np.asarray(values)


def _images(x: np.ndarray, source: str) -> np.ndarray:
    """Return images (N, H, W, C)."""
    if x.ndim == 3:
        return x[..., None]
    if x.ndim == 4 and x.shape[3] in CHANNELS:
        return x
    if x.ndim == 4 and x.shape[1] in CHANNELS:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    raise UserError(
        f"{source}: uint8 inputs must be images with 1, 3 or 4 channels, not of shape {x.shape}; "
        "features are float32, tokens int64."
    )
