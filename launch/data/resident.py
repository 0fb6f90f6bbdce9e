"""Splits held on the training device: small images, features and tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from launch.config.recipe import Recipe
from launch.data.arrays import is_images
from launch.data.augment import Normalise
from launch.data.batches import Data, check_batch_size
from launch.data.normalisation import chosen_constants
from launch.data.order import Order, choose
from launch.data.sources import Splits, are_files
from launch.ranks import Share


class Resident:
    """A split held as one tensor on the device.

    Args:
        inputs: images (N, H, W, C) uint8, or (N, …) float32 or int64.
        normalise: converts images; None for other inputs, which are used as they are.
        padding, flip: augmentation of images; 0 and False for a test set.
        shuffle: shuffle and drop an incomplete last batch, for a training split.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        device: torch.device,
        seed: int = 0,
        share: Share | None = None,
        normalise: Normalise | None = None,
        padding: int = 0,
        flip: bool = False,
        shuffle: bool = False,
    ) -> None:
        self._size = inputs.shape[1:3]  # of images
        if normalise is not None:
            inputs = np.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        self.skipped = 0  # all images were read before
        self._inputs = torch.from_numpy(inputs).to(device)
        self._labels = torch.from_numpy(labels).long().to(device)
        self._order = Order(len(labels), batch_size, shuffle, seed, share or Share())
        self._normalise, self._padding, self._flip = normalise, padding, flip

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
        if self._padding or self._flip:
            inputs = self._crops(index, corner, mirror)
        else:
            inputs = self._inputs.index_select(0, index)
        if self._normalise is not None:
            inputs = self._normalise(inputs)
        return inputs, self._labels.index_select(0, index)

    def _crops(self, index: Tensor, corner: Tensor, mirror: Tensor) -> Tensor:
        """Return images, cropped at corners of the padded ones, and mirrored where wanted."""
        _, height, width, channels = self._inputs.shape
        down, along = (torch.arange(side, device=index.device) for side in self._size)
        rows = corner[:, :1] + down
        columns = corner[:, 1:] + torch.where(mirror[:, None], self._size[1] - 1 - along, along)
        at = (index[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        images = self._inputs.view(-1, channels).index_select(0, at.flatten())
        return images.view(*at.shape, channels)


def load_resident(
    recipe: Recipe, splits: Splits, device: torch.device, seed: int, share: Share
) -> Data:
    """Return the splits of a data set that fits on the device. Arguments as of `load_data`."""
    train, test, held_out = splits.arrays
    check_batch_size(recipe.batch_size, len(train[1]))
    normalise = None
    if is_images(train[0]):
        mean, std = chosen_constants(recipe, splits.inputs) or pixel_statistics(train[0])
        width = train[0].shape[2]
        normalise = Normalise(mean.to(device), std.clamp_min(1e-6).to(device), width)
    batch, size = recipe.batch_size, recipe.image_size
    make = partial(Resident, batch_size=batch, device=device, share=share, normalise=normalise)
    fitted = f"the largest square in the middle is resized to {size} × {size} (PIL.ImageOps.fit)"
    return Data(
        make(*train, seed=seed, padding=recipe.crop_padding, flip=recipe.flip, shuffle=True),
        make(*test),
        splits.classes,
        splits.inputs,
        make(*held_out) if held_out else None,
        splits.digest,
        normalise,
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
