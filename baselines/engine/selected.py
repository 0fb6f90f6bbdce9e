"""Selected: a storage of θ as those entries of x that a mask of x itself selects."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from baselines.engine.storage import Names, Storage, Tensors, Wrapped

MOST_ROUNDS = 16  # of clearing values; more are needed only if θ has far more zeros than S(x)


class Selected(Wrapped):
    """θ = S(x) ⊙ x, with x kept by another storage and a mask S(x). The base of two methods.

    Entries of x that are not selected are zero in θ and keep their values.

    Args:
        inner: storage of x.
    """

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.keeps_values = self.in_pieces = False

    @abstractmethod
    def mask(self, x: Tensor) -> Tensor:
        """Return S(x), a boolean tensor of x's shape."""

    def split_again(
        self, thetas: Tensors, latents: tuple[Tensors, ...], names: Names = (), keep: bool = False
    ) -> tuple[Tensors, ...]:
        """Return latents of θ. Entries of x that yield θ already are kept if S(x) allows it."""
        xs = self.inner.merge(latents)
        moved = [self._moved(x, theta) for x, theta in zip(xs, thetas, strict=True)]
        return self.inner.split_again(moved, latents, names, keep)

    def _moved(self, x: Tensor, theta: Tensor) -> Tensor:
        moved = torch.where(x * self.mask(x) == theta, x, theta)
        for _ in range(MOST_ROUNDS):
            selected = moved * self.mask(moved)
            if torch.equal(selected, theta):
                return moved
            # values that stay may be larger than what was written elsewhere: they are cleared
            moved = moved.masked_fill((theta == 0) & (selected != 0), 0.0)
        return theta

    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        return [x * self.mask(x) for x in self.inner.merge(latents)]

    def merge_into(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> None:
        torch._foreach_copy_(list(thetas), list(self.merge(latents)))
