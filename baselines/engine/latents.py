"""Latents: what an optimizer steps in place of the prunable weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from baselines.engine.blocks import blocks, columns
from baselines.engine.cpu_step import merge_in_pieces
from baselines.engine.layer import Layer
from baselines.engine.optimizer_state import fitting_state, moved_state
from baselines.engine.storage import Storage
from baselines.errors import UserError


class Latents:
    """The latents of all layers and the optimizer's state of them, between steps.

    Args:
        layers: by name; entries may be replaced by `move`.
        optimizer: holds the weights.
    """

    def __init__(self, layers: dict[str, Layer], storage: Storage, optimizer: Optimizer) -> None:
        self.layers, self.storage, self.optimizer = layers, storage, optimizer

    @property
    def stepped(self) -> list[Layer]:
        """The layers whose latents are not simply their weights."""
        return [layer for layer in self.layers.values() if not layer.is_in_place]

    @property
    def masked_in_place(self) -> list[Layer]:
        """The masked layers whose latents are simply their weights."""
        return [x for x in self.layers.values() if x.is_in_place and x.index is not None]

    def make(self) -> None:
        """Split the weights. The optimizer's state of them is kept with `Plain`, else dropped."""
        for layer in self.layers.values():
            layer.clear_masked(layer.weight)
            parts = self.storage.split([layer.take(layer.weight.detach())], [layer.name])
            self._set_latents(layer, [part for (part,) in parts])
        self._take_over_state()
        if not self.storage.keeps_values:
            self.push(self.stepped)

    def drop(self) -> None:
        """Drop the latents and the optimizer's state of them."""
        self.forget_state()
        for layer in self.layers.values():
            layer.hold({})

    def _set_latents(self, layer: Layer, parts: Iterable[Tensor]) -> None:
        if self.storage.is_identity and (layer.index is None or layer.full_size):
            layer.hold(dict.fromkeys(self.storage.names, layer.weight))
            return
        latents = (p if isinstance(p, nn.Parameter) else nn.Parameter(p) for p in parts)
        layer.hold(dict(zip(self.storage.names, latents, strict=True)))
        clear_masked_latents([layer])

    def _take_over_state(self) -> None:
        for layer in self.stepped:
            layer.mark_read()
            state = self.optimizer.state.pop(layer.weight, {})
            if state and self.storage.is_identity:
                (latent,) = layer.latents.values()
                kept = layer.weight, layer.with_mask(None), layer
                self.optimizer.state[latent] = moved_state(self.optimizer, state, *kept)

    def forget_state(self) -> None:
        """Drop the latents' optimizer state."""
        for layer in self.stepped:
            for latent in layer.latents.values():
                self.optimizer.state.pop(latent, None)

    def move(self, old: Layer, new: Layer) -> None:
        """Give a layer under a new mask the latents and the optimizer state of the old one."""
        zeros = self.storage.split([torch.zeros_like(old.weight)], [old.name])
        parts = [
            latent if latent.ndim == 0 else new.take(old.put(latent.detach(), zero)).clone()
            for latent, (zero,) in zip(old.latents.values(), zeros, strict=True)
        ]
        self._set_latents(new, parts)
        before, after = list(old.latents.values()), list(new.latents.values())
        states = [self.optimizer.state.pop(latent, {}) for latent in before]
        for latent, moved, state in zip(before, after, states, strict=True):
            if state:
                self.optimizer.state[moved] = moved_state(self.optimizer, state, latent, old, new)

    def load(self, old: Layer, new: Layer, values: Mapping[str, Tensor]) -> None:
        """Give a layer saved latents.

        The optimizer's state does not change: it may have been loaded already.
        """
        parts: list[Tensor] = []
        for name, held in old.latents.items():
            value = values[name].to(new.weight)
            shared = held.ndim == 0  # it keeps its place
            if not shared and value.shape != new.latent_shape:
                raise UserError(f"{new.name} was saved with another setting of dense_latents.")
            parts.append(held.copy_(value) if shared else value.clone())
        self._set_latents(new, parts)
        states = [self.optimizer.state.pop(latent, {}) for latent in old.latents.values()]
        for latent, state in zip(new.latents.values(), states, strict=True):
            if kept := state if new.full_size else fitting_state(state, latent):
                self.optimizer.state[latent] = kept

    def follow(self, keep: bool = True) -> None:
        """Update latents from weights that were written from outside, and clear masked entries.

        Args:
            keep: split only the weights that have changed; otherwise all weights of their layer.

        Raises:
            UserError: the model was moved before.
        """
        for layer in self.stepped + self.masked_in_place:
            if not layer.was_written:
                continue
            layer.check_placement()
            layer.clear_masked(layer.weight)
            if not layer.is_in_place:
                self._follow(layer, keep)
            layer.mark_read()

    def _follow(self, layer: Layer, keep: bool) -> None:
        (value,) = self.storage.merge(columns([layer]))
        if not torch.equal(value, layer.take(layer.weight)):
            self.split_again([layer], keep)

    def split_again(self, layers: list[Layer], keep: bool = False) -> None:
        """Split the effective weights again; they change only by rounding.

        Args:
            keep: keep latents that already yield their weights.
        """
        for block in blocks(layers):
            latents = columns(block)
            thetas = [layer.take(layer.weight) for layer in block]
            names = [layer.name for layer in block]
            parts = self.storage.split_again(thetas, latents, names, keep)
            for held, values in zip(latents, parts, strict=True):
                torch._foreach_copy_(held, list(values))
        clear_masked_latents(layers)
        self.push(layers)

    def change(self, change: Callable[[Layer], None]) -> None:
        """Call a function that may write to the latents of each layer, then push them."""
        self.follow()
        for layer in self.layers.values():
            change(layer)
        self.push(self.stepped)
        self.mark_in_place()

    def clear_unused(self) -> None:
        """Set the weights' gradients to zero where they reach no latent."""
        for layer in self.stepped:
            if (grad := layer.weight.grad) is None:
                continue
            if (unused := self.storage.unused(columns([layer]))) is None:
                return
            layer.put(layer.take(grad).masked_fill(unused[0], 0.0), grad)

    def push(self, layers: list[Layer]) -> None:
        """Write the merged latents to the weights."""
        for block in blocks([layer for layer in layers if not self._merge_now(layer)]):
            for layer, value in zip(block, self.storage.merge(columns(block)), strict=True):
                layer.put(value, layer.weight)
        for layer in layers:
            layer.mark_read()

    def mark_in_place(self) -> None:
        """Remember the versions of masked weights that are stepped directly."""
        for layer in self.masked_in_place:
            layer.mark_read()

    def _merge_now(self, layer: Layer) -> bool:
        return layer.index is None and merge_in_pieces(self.storage, layer)


def clear_masked_latents(layers: Iterable[Layer]) -> None:
    """Set latents of full size to zero where masked."""
    for layer in layers:
        if layer.full_size:
            for latent in layer.own_latents:
                layer.clear_masked(latent)
