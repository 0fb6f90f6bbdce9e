"""What a training loop knows of its data: splits that yield batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from baselines.errors import UserError
from launch.data.augment import Normalise
from launch.inputs import Inputs


class Batches(Protocol):
    """One split. Batches are (inputs (B, …), labels (B,)) on the device; images are normalised
    floats (B, C, H, W).

    Attributes:
        skipped: number of images so far that could not be read, on this rank.
    """

    skipped: int

    def __len__(self) -> int:
        """Number of batches per epoch on this rank."""
        ...

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, which depend on the seed and the epoch only."""
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
    inputs: Inputs
    validation: Batches | None = None
    """Training images that are held out; None if none are."""
    digest: str = ""
    """Tells other data apart: digest of arrays, of the names of the files in an image folder, or of
    the labels of a Dataset and of computed floats. Empty if it is not known."""
    normalise: Normalise | None = None
    """Converts pixels to inputs; None for inputs that are no images, and for a user's Dataset."""
    resize: str = ""
    """How images of files are brought to the inputs' size for evaluation, in words."""

    @property
    def shape(self) -> dict[str, Any]:
        """What config.json and result.json have of the classes and inputs."""
        return {
            "classes": self.classes,
            "input_shape": list(self.inputs.shape),
            "vocabulary": self.inputs.vocabulary,
        }

    @property
    def about(self) -> dict[str, Any]:
        """What config.json has of the data."""
        facts = {"data_digest": self.digest, **self.shape}
        if self.normalise is None:
            return facts
        facts |= {"mean": self.normalise.mean.tolist(), "std": self.normalise.std.tolist()}
        return facts | ({"resize": self.resize} if self.resize else {})

    @property
    def splits(self) -> list[Batches]:
        return [self.train, self.test, *([self.validation] if self.validation else [])]


@dataclass(frozen=True)
class Contents:
    """What is known of a data set before it is loaded.

    Attributes:
        examples: number of training examples; None if counting them takes long.
    """

    classes: int
    inputs: Inputs
    examples: int | None = None


def check_ranks(batch_size: int, ranks: int) -> None:
    """Raise UserError if a batch cannot be divided equally over the ranks."""
    if batch_size % ranks:
        raise UserError(f"batch_size {batch_size} does not divide over {ranks} ranks.")


def check_batch_size(batch_size: int, examples: int) -> None:
    """Raise UserError if a training split has no complete batch."""
    if examples < batch_size:
        raise UserError(
            f"batch_size {batch_size} is above the {examples} training examples: set a smaller one."
        )
