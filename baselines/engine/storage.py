"""Storage: what the optimizer steps in place of the effective weights.

The network computes with the effective weight θ. A storage defines the *latent* tensors that
represent θ during training: `Plain` keeps θ itself, `Product` keeps two factors m and w.
A storage is a set of pure functions on flat lists (one entry per layer, so that foreach kernels
serve all layers in one call); `SparseModel` does the bookkeeping. A storage can wrap another one
and transform what that one keeps, as STR does with its soft threshold: θ = S ⊙ T(x), with x kept by
the inner storage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor]
Names = Sequence[str]


class Storage(ABC):
    """How effective weights are represented. Every list has one entry per layer, of equal shapes.

    Latents are given and returned in the order of `names`. A latent with no dimension is shared by
    all weights of a layer, and survives changes of the mask.
    """

    #: Names of the latents.
    names: tuple[str, ...]
    #: True if the one latent is θ itself, so that a full mask needs no copy (dense training).
    is_identity = False
    #: False if merge(split(θ)) differs from θ by more than rounding.
    keeps_values = True
    #: False if an entry of θ depends on more than one entry of a latent.
    in_pieces = True
    #: True if there are latents with no dimension.
    has_shared = False
    #: Weight decay of latents with no dimension; the weights' own decay does not apply to them.
    shared_decay = 0.0
    #: Names of the weight decays that `pull_back` adds to the gradients.
    added_decays: tuple[str, ...] = ()

    @abstractmethod
    def split(self, thetas: Tensors, names: Names = ()) -> tuple[Tensors, ...]:
        """Return fresh latents of the given effective weights. Those of a zero are trainable.

        Args:
            names: of the layers, for storages that split them differently.
        """

    def split_again(
        self, thetas: Tensors, latents: tuple[Tensors, ...], names: Names = (), keep: bool = False
    ) -> tuple[Tensors, ...]:
        """Return latents of the given effective weights that replace the given latents.

        Args:
            keep: keep latents that already yield their weights.
        """
        parts = self.split(thetas, names)
        if not keep:
            return parts
        same = [value == theta for value, theta in zip(self.merge(latents), thetas, strict=True)]
        return tuple(
            [torch.where(*each) for each in zip(same, held, new, strict=True)]
            for held, new in zip(latents, parts, strict=True)
        )

    @abstractmethod
    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        """Return the effective weights of the given latents."""

    def merge_into(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> None:
        """Write the effective weights to tensors of their shapes."""
        torch._foreach_copy_(list(thetas), list(self.merge(latents)))

    @abstractmethod
    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        """Return the gradients of the latents, given those of θ."""

    def unused(self, latents: tuple[Tensors, ...]) -> Tensors | None:
        """Return boolean tensors, True where θ's gradient reaches no latent; None if nowhere."""
        return None


class Plain(Storage):
    """The latent is θ itself."""

    names = ("theta",)
    is_identity = True

    def split(self, thetas: Tensors, names: Names = ()) -> tuple[Tensors, ...]:
        return ([theta.clone() for theta in thetas],)

    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        return latents[0]

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        return (grads,)


class Wrapped(Storage):
    """A storage around another one that it delegates to; subclasses override what they change."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.names = inner.names
        self.keeps_values, self.in_pieces = inner.keeps_values, inner.in_pieces
        self.has_shared, self.shared_decay = inner.has_shared, inner.shared_decay
        self.added_decays = inner.added_decays

    def split(self, thetas: Tensors, names: Names = ()) -> tuple[Tensors, ...]:
        return self.inner.split(thetas, names)

    def split_again(
        self, thetas: Tensors, latents: tuple[Tensors, ...], names: Names = (), keep: bool = False
    ) -> tuple[Tensors, ...]:
        return self.inner.split_again(thetas, latents, names, keep)

    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        return self.inner.merge(latents)

    def merge_into(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> None:
        self.inner.merge_into(thetas, latents)

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        return self.inner.pull_back(grads, latents)

    def unused(self, latents: tuple[Tensors, ...]) -> Tensors | None:
        return self.inner.unused(latents)


class DecayedLatents(Wrapped):
    """Adds λ·latent to the gradient of each latent, on top of the optimizer's own weight decay.

    An optimizer that decouples its weight decay (AdamW) treats the two differently.

    Attributes:
        decay: λ; may be changed between steps.
    """

    def __init__(self, inner: Storage, decay: float = 0.0) -> None:
        super().__init__(inner)
        self.decay = decay

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        pulled = super().pull_back(grads, latents)
        if not self.decay:
            return pulled
        return tuple(
            torch._foreach_add(list(part), list(latent), alpha=self.decay)
            for part, latent in zip(pulled, latents, strict=True)
        )
