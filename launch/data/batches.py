"""What a training loop knows of its data: splits that yield batches."""

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
    """The splits of a data set, and the shape of what is in them."""

    train: Batches
    test: Batches
    classes: int
    channels: int
    validation: Batches | None = None
    """Training images that are held out; None if none are."""

    @property
    def splits(self) -> list[Batches]:
        return [self.train, self.test, *([self.validation] if self.validation else [])]


def check_batch_size(batch_size: int, images: int) -> None:
    """Raise UserError if a training split has no complete batch."""
    if images < batch_size:
        raise UserError(f"batch_size {batch_size} is above the {images} training images.")
