"""Preprocessing of images: crops, flips, and normalisation to zero mean and unit variance.

Pixels are uint8 (height, width, channels), the order of decoders and of channels_last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from torch import Tensor

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True)
class RandomResizedCrop:
    """Crop a random part of an image, resize it to a square, and optionally flip half of them.

    From Szegedy et al. 2014 (arXiv 1409.4842), with torchvision's settings: 8 to 100 % of the
    area, an aspect ratio between 3/4 and 4/3. Draws from the image's own generator; torchvision's
    class draws from the global one and takes ten times as long.
    """

    size: int
    flip: bool

    def __call__(self, pixels: Tensor, rng: Random) -> Tensor:
        top, left, height, width = random_box(pixels.shape[0], pixels.shape[1], rng)
        image = _resize(pixels[top : top + height, left : left + width], [self.size, self.size])
        return image.flip(1) if self.flip and rng.random() < 0.5 else image


@dataclass(frozen=True)
class CentreCrop:
    """Crop the square in the middle, 7/8 of the shorter side (224 of 256)."""

    size: int

    @property
    def shorter(self) -> int:
        """Length to which the shorter side is resized."""
        return round(self.size * 256 / 224)

    def __str__(self) -> str:
        return (
            f"the shorter side is resized to {self.shorter} pixels (bilinear, antialiased), then "
            f"{self.size} × {self.size} in the middle are cropped"
        )

    def __call__(self, pixels: Tensor, rng: Random) -> Tensor:
        image = _resize(pixels, [self.shorter])
        top, left = (round((length - self.size) / 2) for length in image.shape[:2])
        return image[top : top + self.size, left : left + self.size]


def random_box(height: int, width: int, rng: Random) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop; the largest in the middle if ten do not fit."""
    low, high = ASPECT
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randrange(height - h + 1), rng.randrange(width - w + 1), h, w
    w, h = min(width, round(height * high)), min(height, round(width / low))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(pixels: Tensor, size: list[int]) -> Tensor:
    """Resize to that size, or to that length of the shorter side (bilinear, antialiased)."""
    from torchvision.transforms.v2 import functional as F  # takes a second to import

    # resizing a contiguous copy is faster than resizing a crop with gaps between its rows
    image: Tensor = F.resize(pixels.contiguous().permute(2, 0, 1), size, antialias=True)
    return image.permute(1, 2, 0)


@dataclass(frozen=True)
class Normalise:
    """Compute (x/255 − mean)/std of a batch with one multiplication and one addition.

    Args:
        mean, std: per channel, of pixels in [0, 1].
        width: of the images, for whole rows vectorise better than the channels of a pixel.
    """

    mean: Tensor
    std: Tensor
    width: int

    @cached_property
    def _scale(self) -> Tensor:
        return (1 / (255 * self.std)).repeat(self.width)

    @cached_property
    def _shift(self) -> Tensor:
        return (-self.mean / self.std).repeat(self.width)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return (B, H, W, C) uint8 as (B, C, H, W) float32, channels_last in memory."""
        rows = pixels.flatten(2).to(torch.float32).mul_(self._scale).add_(self._shift)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)
