"""A quarter of the digits in a file, 9 steps of 32 images per epoch: tests train fast with it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from launch.data.sources import read_digits

BATCH, STEPS, TEST = 32, 9, 72  # images per step, steps per epoch, test images
# options of methods that else take most of the time: fewer levels (5, not 9), events, and blocks
CHEAPER: dict[str, dict[str, Any]] = {
    **{name: {"keep": 0.6} for name in ("lrr", "wr", "imp")},
    **{name: {"events": 4, "block_size": 8} for name in ("woodfisher", "cap")},
}


def small_digits(**choices: Any) -> dict[str, Any]:
    """Return fields of a run on the recipe `digits` that make it train on these images."""
    return {"data": str(_file()), "batch_size": BATCH, **choices}


@cache
def _file() -> Path:
    """Write the file, once per process."""
    images, labels = read_digits()
    train, test = slice(BATCH * STEPS), slice(BATCH * STEPS, BATCH * STEPS + TEST)
    file = Path(tempfile.mkdtemp()) / "digits.npz"
    np.savez(
        file,
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
    )
    return file
