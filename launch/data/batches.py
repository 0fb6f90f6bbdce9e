"""What a training loop knows of its data: two splits that yield batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from baselines.errors import UserError


class Batches(Protocol):
    """One split. Batches are (normalised float images (B, C, H, W), labels (B,)) on the device.

    Attributes:
        skipped: number of images so far that could not be read, on this rank.
    """

    skipped: int

    def __len__(self) -> int:
        """Number of batches per epoch on this rank."""
        ...

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, a function of the seed and the epoch alone."""
        ...

    def sample(self, per_class: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `per_class` images of each class (or all of a smaller class), not augmented, the
        same on all ranks."""
        ...


@dataclass(frozen=True)
class Data:
    """Both splits of a data set, and the shape of what is in them."""

    train: Batches
    test: Batches
    classes: int
    channels: int


@dataclass(frozen=True)
class Contents:
    """What is known of a data set before it is loaded.

    Attributes:
        images: number of training images; None if counting them takes long.
    """

    classes: int
    channels: int
    images: int | None = None


def check_batch_size(batch_size: int, images: int) -> None:
    """Raise UserError if a training split has no complete batch."""
    if images < batch_size:
        raise UserError(f"batch_size {batch_size} is above the {images} training images.")
