"""The order of batches and random choices of images, each a function of its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from baselines.errors import UserError
from launch.ranks import Share

HELD_OUT = 0x76616C  # mixed into the seed that draws the held-out images


class Order(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """The order of the examples of a split, and this rank's part of each batch.

    As a sampler, it yields this rank's part of each batch as a list of (epoch, index).

    Args:
        n: number of examples.
        batch_size: of all ranks together.
        shuffle: shuffle and drop an incomplete last batch, for a training split. Otherwise a rank
            whose part of the last batch is empty has one batch less.

    Attributes:
        epoch: the epoch that iteration yields.
    """

    def __init__(self, n: int, batch_size: int, shuffle: bool, seed: int, share: Share) -> None:
        self.n, self.batch_size, self.shuffle = n, batch_size, shuffle
        self.seed, self.share = seed, share
        self.epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(self.n, self.batch_size)
        return full if self.shuffle else full + (rest > self.share.rank)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        indices, _ = self.draw(self.epoch)
        for part in self.parts(indices):
            yield [(self.epoch, index) for index in part.tolist()]

    def draw(self, epoch: int) -> tuple[Tensor, torch.Generator]:
        """Return the indices of all examples in the order of an epoch, and the epoch's generator,
        from which augmentation is drawn next."""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        if not self.shuffle:
            return torch.arange(self.n), generator
        return torch.randperm(self.n, generator=generator), generator

    def parts(self, values: Tensor) -> Iterator[Tensor]:
        """Yield this rank's part of each batch of values, one for each example of an epoch."""
        for batch in torch.split(values, self.batch_size)[: len(self)]:
            yield self.share.of(batch)


def choose(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return indices of `per_class` images of each class, or all of a smaller class."""
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(mix(seed, 0, 0)))
    shuffled = labels[order]
    chosen = [order[shuffled == label][:per_class] for label in range(int(labels.max()) + 1)]
    return torch.cat(chosen)


def hold_out(labels: Sequence[int] | np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images to train on, and of those that are held out, in order.

    They are the same for all seeds: a run that trains another's mask has another seed, and must
    not hold out what that one trained on. A larger fraction also holds out those of a smaller one,
    except for one image of a class if rounding differs.

    Each class gives the fraction of its images, rounded such that the total is right, but keeps at
    least one image.

    Raises:
        UserError: no image is held out.
    """
    classes, counts = np.unique(labels, return_counts=True)
    exact = fraction * counts
    numbers = np.floor(exact).astype(int)
    missing = round(fraction * len(labels)) - numbers.sum()
    numbers[np.argsort(numbers - exact, kind="stable")[:missing]] += 1  # largest remainders
    order = np.random.Generator(np.random.PCG64(mix(0, HELD_OUT))).permutation(len(labels))
    by_class = [order[np.asarray(labels)[order] == label] for label in classes]
    parts = [own[: min(n, len(own) - 1)] for own, n in zip(by_class, numbers, strict=True)]
    held_out = np.sort(np.concatenate(parts))
    if not len(held_out):
        raise holds_out_none(fraction, len(labels))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def holds_out_none(fraction: float, images: int) -> UserError:
    """Return the error of a fraction that is too small."""
    return UserError(f"validation {fraction:g} of {images} images holds out none.")


def mix(*numbers: int) -> int:
    """Return one seed made of several numbers, such as (seed, epoch, index)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
