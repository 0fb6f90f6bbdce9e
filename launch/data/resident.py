"""Splits of small images, held on the training device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from launch.config.recipe import Recipe
from launch.data.augment import Normalise
from launch.data.batches import Data, check_batch_size
from launch.data.normalisation import chosen_constants
from launch.data.order import Order, choose
from launch.data.sources import Splits, are_files
from launch.ranks import Share


class Resident:
    """A split held as one uint8 tensor on the device.

    Args:
        images: (N, H, W, C) uint8.
        mean, std: per channel, of pixels in [0, 1].
        padding, flip: augmentation; 0 and False for a test set.
        shuffle: shuffle and drop an incomplete last batch, for a training split.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
        seed: int = 0,
        share: Share | None = None,
        padding: int = 0,
        flip: bool = False,
        shuffle: bool = False,
    ) -> None:
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        self.skipped = 0  # all images were read before
        self._pixels = torch.from_numpy(padded).to(device)
        self._labels = torch.from_numpy(labels).long().to(device)
        self._height, self._width = images.shape[1:3]
        self._order = Order(len(labels), batch_size, shuffle, seed, share or Share())
        self._padding, self._flip = padding, flip
        self.normalise = Normalise(mean.to(device), std.to(device), self._width)

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        n, device = len(self._labels), self._labels.device
        indices, generator = self._order.draw(epoch)
        corner = torch.randint(2 * self._padding + 1, (n, 2), generator=generator)
        mirror = torch.randint(2, (n,), generator=generator, dtype=torch.bool) & self._flip
        drawn = [values.to(device) for values in (indices, corner, mirror)]
        for batch in zip(*map(self._order.parts, drawn), strict=True):
            yield self._batch(*batch)

    def sample(self, per_class: int) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = choose(self._labels, per_class, self._order.seed).to(self._labels.device)
        for index in torch.split(chosen, self._order.batch_size):
            centre = torch.full((len(index), 2), self._padding, device=index.device)
            yield self._batch(index, centre, torch.zeros_like(index, dtype=torch.bool))

    def _batch(self, index: Tensor, corner: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self._pixels
        if self._padding or self._flip:
            _, height, width, channels = pixels.shape
            down = torch.arange(self._height, device=index.device)
            along = torch.arange(self._width, device=index.device)
            rows = corner[:, :1] + down
            columns = corner[:, 1:] + torch.where(mirror[:, None], self._width - 1 - along, along)
            at = (index[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
            images = pixels.view(-1, channels).index_select(0, at.flatten())
            images = images.view(*at.shape, channels)
        else:
            images = pixels.index_select(0, index)
        return self.normalise(images), self._labels.index_select(0, index)


def load_resident(
    recipe: Recipe, splits: Splits, device: torch.device, seed: int, share: Share
) -> Data:
    """Return the splits of a data set that fits on the device. Arguments as of `load_data`."""
    train, test, held_out = splits.arrays
    check_batch_size(recipe.batch_size, len(train[1]))
    mean, std = chosen_constants(recipe, splits.inputs) or pixel_statistics(train[0])
    make = partial(
        Resident,
        mean=mean,
        std=std.clamp_min(1e-6),
        device=device,
        batch_size=recipe.batch_size,
        share=share,
    )
    evaluated, size = make(*test), recipe.image_size
    fitted = f"the largest square in the middle is resized to {size} × {size} (PIL.ImageOps.fit)"
    return Data(
        make(*train, seed=seed, padding=recipe.crop_padding, flip=recipe.flip, shuffle=True),
        evaluated,
        splits.classes,
        splits.inputs,
        make(*held_out) if held_out else None,
        splits.digest,
        evaluated.normalise,
        fitted if are_files(recipe.data) else "",
    )


def pixel_statistics(images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of images (N, H, W, C), scaled to [0, 1].

    They are exact: computed from how often each of the 256 values occurs.
    """
    channels = torch.from_numpy(images).flatten(0, 2).unbind(1)
    counts = torch.stack([torch.bincount(c, minlength=256) for c in channels]).double()
    n, values = len(channels[0]), torch.arange(256, dtype=torch.float64) / 255
    mean = counts @ values / n
    squares = (counts * (values - mean[:, None]) ** 2).sum(1)
    return mean.float(), (squares / (n - 1)).sqrt().float()
