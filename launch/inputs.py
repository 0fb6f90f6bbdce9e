"""What the inputs of a model are: images, features or tokens."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

CHANNELS = (1, 3, 4)  # of images
OF_IMAGES = ("channels", "in_chans", "image_size", "img_size")  # facts that only images have
OF_TOKENS = ("vocabulary", "vocab_size", "length")


@dataclass(frozen=True)
class Inputs:
    """Shape and type of the inputs of a model.

    Attributes:
        shape: of one input. Of images, it is (channels, height, width).
        dtype: int64 of tokens, float32 of all else.
        vocabulary: number of different tokens; 0 if the inputs are no tokens.
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"
    vocabulary: int = 0

    @classmethod
    def image(cls, channels: int, size: int) -> Inputs:
        """Return the inputs that are square images."""
        return cls((channels, size, size))

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def facts(self) -> dict[str, Any]:
        """What a function that makes a model can ask for, by the names of its parameters."""
        facts: dict[str, Any] = {"inputs": self, "shape": self.shape}
        facts["features"] = math.prod(self.shape)
        if self.is_image:
            channels, height, width = self.shape
            size = height if height == width else (height, width)
            facts |= dict(zip(OF_IMAGES, (channels, channels, size, size), strict=True))
        if self.vocabulary:
            values = (self.vocabulary, self.vocabulary, self.shape[0])
            facts |= dict(zip(OF_TOKENS, values, strict=True))
        return facts

    def zeros(self, n: int = 1, like: Tensor | None = None) -> Tensor:
        """Return n inputs of zeros.

        Args:
            like: a parameter, whose device they get and, if they are no tokens, whose type.
        """
        real = torch.get_default_dtype() if like is None else like.dtype
        dtype = torch.int64 if self.dtype == "int64" else real
        return torch.zeros(
            n, *self.shape, dtype=dtype, device=None if like is None else like.device
        )

    def random(self, n: int, generator: torch.Generator, like: Tensor | None = None) -> Tensor:
        """Return n random inputs: uniform in [0, 1), or tokens.

        Args:
            generator: of the CPU.
            like: as for `zeros`.
        """
        if self.vocabulary:
            x = torch.randint(self.vocabulary, (n, *self.shape), generator=generator)
            return x if like is None else x.to(like.device)
        x = torch.rand(n, *self.shape, generator=generator)
        return x if like is None else x.to(like)

    def __str__(self) -> str:
        shape = " × ".join(map(str, self.shape)) or "no dimensions"
        if self.vocabulary:
            return f"tokens of shape {shape}"
        return f"images of {shape}" if self.is_image else f"features of shape {shape}"


def float_inputs(shape: tuple[int, ...], source: str) -> Inputs:
    """Return inputs that are floats of a shape. Warn if they seem to be images (H, W, C)."""
    if len(shape) == 3 and shape[2] in CHANNELS and shape[0] not in CHANNELS:
        warnings.warn(
            f"{source}: floats of shape {tuple(shape)} are taken as (C, H, W). If they are images "
            "(H, W, C), give them as (C, H, W), or as uint8.",
            stacklevel=2,
        )
    return Inputs(tuple(shape))
