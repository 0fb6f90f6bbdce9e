"""MaskedWeights: the prunable weights of a model and their masks, to be read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from baselines.engine.layer import Layer
from baselines.engine.places import Places
from baselines.engine.prunable import all_weights, frozen_weights, prunable_slots
from baselines.errors import MOST_LISTED, UserError


class MaskedWeights:
    """The prunable weights of a model and their masks. The base of `SparseModel`.

    Attributes:
        layers: by parameter name.
        slots: places of the weights in the model, by parameter name.
        places: where the weights are in the model.
        full_size: latents have the shapes of the weights.
    """

    def __init__(
        self, model: nn.Module, exclude: Iterable[str], include: Iterable[str], full_size: bool
    ) -> None:
        self.model, self.full_size = model, full_size
        exclude, include = (p if isinstance(p, str) else tuple(p) for p in (exclude, include))
        self.slots = prunable_slots(model, exclude, include)
        self._frozen = frozen_weights(model, exclude, include)
        self.layers = {
            name: Layer(name, slot.parameter, full_size=full_size)
            for name, slot in self.slots.items()
        }
        self.places = Places(model, self.weights)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers.values())

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Effective weights by name; zero where masked."""
        return {layer.name: layer.weight for layer in self}

    @property
    def masks(self) -> dict[str, Tensor]:
        """Boolean masks by name, True where active."""
        return {
            layer.name: torch.ones_like(layer.weight, dtype=torch.bool) if mask is None else mask
            for layer, mask in ((layer, layer.mask) for layer in self)
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the prunable weights by name; of experts a `BatchShape`."""
        return {name: slot.shape for name, slot in self.slots.items()}

    @property
    def nnz(self) -> int:
        """Number of active weights."""
        return sum(layer.nnz for layer in self)

    @property
    def numel(self) -> int:
        """Number of prunable weights."""
        return sum(layer.weight.numel() for layer in self)

    @property
    def masked(self) -> float:
        """Fraction of the prunable weights that are masked."""
        return 1 - self.nnz / self.numel

    def sparsity(self) -> float:
        """Return the fraction of the prunable weights that are exactly zero, in [0, 1].

        Raises:
            UserError: a weight was replaced by another parameter.
        """
        self.places.check()
        return _fraction_of_zeros(self.weights.values())

    def warn_if_denser(self) -> None:
        """Warn if the weights are denser than their masks: they were written from outside."""
        sparsity, masked = self.sparsity(), self.masked
        if sparsity < masked - 1e-6:
            warnings.warn(
                "the weights have been replaced, for example by an average or a checkpoint: their "
                f"sparsity is {sparsity:.3f}, that of the masks {masked:.3f}; "
                "sparsifier.net.set_masks(sparsifier.masks) applies the masks.",
                stacklevel=4,  # the line that ends the training
            )

    def warn_of_unfrozen(self, held: Iterable[Tensor]) -> None:
        """Warn, once, of weights that were frozen at first and are trained now: they stay dense.

        Args:
            held: parameters of the optimizer.
        """
        unfrozen = {id(w): name for name, w in self._frozen.items() if w.requires_grad}
        names = [unfrozen[id(p)] for p in held if id(p) in unfrozen] if unfrozen else []
        if names:
            self._frozen = {}
            more = ", …" if len(names) > MOST_LISTED else ""
            warnings.warn(
                f"{', '.join(names[:MOST_LISTED])}{more}: frozen when the model was made sparse, "
                "trained now. They stay dense: unfreeze before, or name them in exclude.",
                stacklevel=3,
            )

    def sparsity_all(self) -> float:
        """Return the sparsity of all weights of linear maps, also of excluded and frozen ones."""
        return _fraction_of_zeros((all_weights(self.model) | self.weights).values())

    def magnitudes(self) -> dict[str, Tensor]:
        """Return |θ| by layer, and −1 where masked: below every active weight, zeros included."""
        return {
            layer.name: layer.weight.detach().abs()
            if mask is None
            else layer.weight.detach().abs().masked_fill_(~mask, -1.0)
            for layer, mask in ((layer, layer.mask) for layer in self)
        }

    def require_ordinary(self, what: str) -> None:
        """Check that all weights have the form (outputs, inputs, *kernel).

        Args:
            what: what needs this form, for the message.

        Raises:
            UserError: one has another form.
        """
        for name, slot in self.slots.items():
            if not slot.is_ordinary:
                kind = type(slot.module).__name__
                raise UserError(
                    f"{what} needs weights of convolutions and Linear layers: exclude {name!r} of "
                    f"a {kind}."
                )

    def _check_layers(self, masks: Mapping[str, Tensor | None]) -> None:
        if masks.keys() != self.layers.keys():
            apart = ", ".join(sorted(masks.keys() ^ self.layers.keys()))
            raise UserError(f"the state is of other prunable layers: exclude or include {apart}.")
        for name, mask in masks.items():
            self._check(name, mask)

    def _check(self, name: str, tensor: Tensor | None) -> None:
        if name not in self.layers:
            raise UserError(f"no prunable layer {name!r}; there are {', '.join(self.layers)}.")
        shape = tuple(self.layers[name].weight.shape)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise UserError(f"{name} has shape {shape}, not {tuple(tensor.shape)}.")


def _fraction_of_zeros(tensors: Iterable[Tensor]) -> float:
    tensors = list(tensors)
    nonzero = sum(int(tensor.count_nonzero()) for tensor in tensors)
    return 1 - nonzero / sum(tensor.numel() for tensor in tensors)
