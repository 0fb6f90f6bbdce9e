"""Storage: what the optimizer really steps on.

The network computes with the effective weight θ. A storage says by which *latent* tensors θ is
kept while it is trained: `Plain` by θ itself, `signin.product.Product` by two factors m and w.
It is a set of pure functions on flat lists (an entry a layer, so that foreach kernels serve all
layers in one call); `SparseModel` does the bookkeeping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

Tensors = Sequence[Tensor]


class Storage(ABC):
    """How effective weights are kept. Every list has an entry a layer, of equal shapes."""

    #: True where the one latent *is* θ, so that a full mask needs no copy: dense training.
    is_identity = False

    @abstractmethod
    def split(self, thetas: Tensors) -> tuple[Tensors, ...]:
        """Fresh latents of the given effective weights. Those of a zero must be trainable."""

    @abstractmethod
    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        """The effective weights of the given latents."""

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
