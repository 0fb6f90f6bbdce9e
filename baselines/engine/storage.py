"""Storage: what the optimizer really steps on.

The network computes with the effective weight θ. A storage says by which *latent* tensors θ is
kept while it is trained: `Plain` by θ itself, `signin.product.Product` by two factors m and w.
It is a set of pure functions on flat lists (an entry a layer, so that foreach kernels serve all
layers in one call); `SparseModel` does the bookkeeping. A storage may be put around another one to
transform what that one keeps, as STR does with its soft threshold: θ = S ⊙ T(x), x kept inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor]


class Storage(ABC):
    """How effective weights are kept. Every list has an entry a layer, of equal shapes.

    A latent of no dimension is a number that all weights of the layer share; it outlasts changes
    of the mask.
    """

    #: True where the one latent *is* θ, so that a full mask needs no copy: dense training.
    is_identity = False
    #: False where merge(split(θ)) is another θ, and not for rounding alone.
    keeps_values = True
    #: Weight decay of latents of no dimension; that of the weights is not theirs.
    shared_decay = 0.0

    @abstractmethod
    def split(self, thetas: Tensors) -> tuple[Tensors, ...]:
        """Fresh latents of the given effective weights. Those of a zero must be trainable."""

    def split_again(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        """Latents of the given effective weights, in place of those that there are."""
        return self.split(thetas)

    @abstractmethod
    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        """The effective weights of the given latents."""

    def merge_into(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> None:
        """Writes them to tensors of their shape."""
        torch._foreach_copy_(list(thetas), list(self.merge(latents)))

    @abstractmethod
    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        """Gradients of the latents, from those of θ."""


class Plain(Storage):
    """θ is stepped as it is."""

    is_identity = True

    def split(self, thetas: Tensors) -> tuple[Tensors, ...]:
        return ([theta.clone() for theta in thetas],)

    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        return latents[0]

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        return (grads,)
