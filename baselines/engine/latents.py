"""Latents: what an optimizer steps in place of the prunable weights.

`Latents` exists while an optimizer is attached to a `SparseModel`. Before each step it gives the
latents their gradients and puts them into the optimizer's parameter groups in place of the
weights; after the step it writes the merged latents to the weights and puts the weights back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from baselines.engine.blocks import blocks, columns
from baselines.engine.cpu_step import merge_in_pieces, step_in_pieces
from baselines.engine.layer import Layer
from baselines.engine.optimizer_state import (
    clear_gradients,
    complete_momentum,
    fitting_state,
    moved_state,
    set_gradients,
    show_latents,
    show_weights,
)
from baselines.engine.step_hooks import StepHooks
from baselines.engine.storage import Storage
from baselines.errors import UserError

Hook = Callable[[Optimizer], None]


def nothing(optimizer: Optimizer) -> None:
    """Do nothing."""


class Latents:
    """Makes the latents of all layers, and every step of the optimizer a step on them.

    Args:
        layers: by name; entries may be replaced by `move` while attached.
        optimizer: one that `served_optimizer` returned.
        before: called before each step, ahead of all that is done here.
        after: called after each step.

    Raises:
        Exception: any; nothing is changed then.
    """

    def __init__(
        self,
        layers: dict[str, Layer],
        storage: Storage,
        optimizer: Optimizer,
        before: Hook = nothing,
        after: Hook = nothing,
    ) -> None:
        self.layers, self.storage, self.optimizer = layers, storage, optimizer
        self._before, self._after = before, after
        self._is_stepping = False
        self._handles: list[Any] = []
        state = dict(optimizer.state)
        try:
            self._make()
            self._register()
            if not storage.keeps_values:
                self.push(self.stepped)
        except BaseException:
            optimizer.state.clear()
            optimizer.state.update(state)
            self._remove_hooks()
            self._drop()
            raise

    def _make(self) -> None:
        for layer in self.layers.values():
            layer.clear_masked(layer.weight)
            parts = self.storage.split([layer.take(layer.weight.detach())])
            self._set_latents(layer, [part for (part,) in parts])
        self._take_over_state()

    def _register(self) -> None:
        optimizer = self.optimizer
        self._handles = [
            optimizer.register_state_dict_pre_hook(self._show_latents),
            optimizer.register_state_dict_post_hook(self._show_weights),
            optimizer.register_load_state_dict_pre_hook(self._show_latents),
            optimizer.register_load_state_dict_post_hook(self._show_weights),
            StepHooks(optimizer, self._before_step, self._after_step, self._restore),
        ]

    def remove(self) -> None:
        """Remove the hooks and the latents' optimizer state."""
        self._remove_hooks()
        self.forget_state()
        self._drop()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _drop(self) -> None:
        for layer in self.layers.values():
            layer.latents = {}

    @property
    def stepped(self) -> list[Layer]:
        """The layers whose latents are not simply their weights."""
        return [layer for layer in self.layers.values() if not layer.is_in_place]

    @property
    def _masked_in_place(self) -> list[Layer]:
        return [x for x in self.layers.values() if x.is_in_place and x.index is not None]

    def _set_latents(self, layer: Layer, parts: Iterable[Tensor]) -> None:
        if self.storage.is_identity and (layer.index is None or layer.full_size):
            layer.latents = dict.fromkeys(self.storage.names, layer.weight)
            return
        latents = (p if isinstance(p, nn.Parameter) else nn.Parameter(p) for p in parts)
        layer.latents = dict(zip(self.storage.names, latents, strict=True))

    def _take_over_state(self) -> None:
        """Keep the optimizer's state of the weights with `Plain`, drop it with other storages."""
        for layer in self.stepped:
            layer.mark_read()
            state = self.optimizer.state.pop(layer.weight, {})
            if state and self.storage.is_identity:
                (latent,) = layer.latents.values()
                dense = layer.with_mask(None)
                self.optimizer.state[latent] = moved_state(state, layer.weight, dense, layer)

    # ---- stepping

    def _before_step(self) -> None:
        self._before(self.optimizer)
        if getattr(self.optimizer, "grad_scale", None) is not None:
            raise UserError("call scaler.unscale_(optimizer) before scaler.step(optimizer).")
        for layer in self.stepped:
            _check_gradient(layer)
        self.follow()
        self._is_stepping = True
        self._show_weights()  # they are there unless saving or loading a state failed
        for layer in self._masked_in_place:
            if layer.weight.grad is not None:
                layer.clear_masked(layer.weight.grad)
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        waiting = []
        for layer in self.stepped:
            if layer.weight.grad is None:
                clear_gradients(tuple(layer.latents.values()))
            elif not self._step_now(layer, groups[id(layer.weight)]):
                waiting.append(layer)
        for block in blocks(waiting):
            latents = columns(block)
            parts = self.storage.pull_back([_gather_gradient(layer) for layer in block], latents)
            for tensors, grads in zip(latents, parts, strict=True):
                set_gradients(tensors, grads)
        self._show_latents()
        for group in self.optimizer.param_groups:
            complete_momentum(self.optimizer, group)

    def _step_now(self, layer: Layer, group: dict[str, Any]) -> bool:
        """Take a layer's step in the optimizer's place, if it can be taken in pieces.

        Latents that the layer shares are left to the optimizer.
        """
        if layer.index is not None:
            return False
        grads = step_in_pieces(self.storage, self.optimizer, group, layer)
        if grads is None:
            return False
        clear_gradients(layer.own_latents)
        if shared := layer.shared_latents:
            set_gradients(shared, grads)
        layer.mark_read()
        return True

    def _after_step(self) -> None:
        self._show_weights()
        stepped = [layer for layer in self.stepped if layer.has_gradient]
        self._clear_masked(stepped)
        self.push(stepped)
        self._is_stepping = False
        self._after(self.optimizer)

    def _restore(self) -> None:
        """Make model, optimizer and latents agree after a step that failed."""
        self._show_weights()
        if self._is_stepping:
            self._is_stepping = False
            self._clear_masked(self.stepped)
            self.push(self.stepped)

    def _clear_masked(self, layers: list[Layer]) -> None:
        """Set what latents of full size have at masked positions to zero."""
        for layer in layers + self._masked_in_place:
            if layer.full_size:
                for latent in layer.own_latents:
                    layer.clear_masked(latent)

    def _show_latents(self, *_: Any) -> None:
        show_latents(self.optimizer, self.stepped, self.storage.shared_decay)

    def _show_weights(self, *_: Any) -> None:
        show_weights(self.optimizer, self.stepped)

    # ---- between steps

    def forget_state(self) -> None:
        """Drop the latents' optimizer state."""
        for layer in self.stepped:
            for latent in layer.latents.values():
                self.optimizer.state.pop(latent, None)

    def move(self, old: Layer, new: Layer) -> None:
        """Give a layer under a new mask the latents and the optimizer state of the old one."""
        zeros = self.storage.split([torch.zeros_like(old.weight)])
        parts = [
            latent if latent.ndim == 0 else new.take(old.put(latent.detach(), zero)).clone()
            for latent, (zero,) in zip(old.latents.values(), zeros, strict=True)
        ]
        self._set_latents(new, parts)
        before, after = list(old.latents.values()), list(new.latents.values())
        states = [self.optimizer.state.pop(latent, {}) for latent in before]
        for latent, moved, state in zip(before, after, states, strict=True):
            if state:
                self.optimizer.state[moved] = moved_state(state, latent, old, new)

    def load(self, old: Layer, new: Layer, values: Mapping[str, Tensor]) -> None:
        """Give a layer saved latents.

        The optimizer's state stays in its place: it may have been loaded already.
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

    def follow(self) -> None:
        """Take over weights that somebody else has written."""
        for layer in [layer for layer in self.stepped if layer.was_written]:
            layer.clear_masked(layer.weight)
            (value,) = self.storage.merge(columns([layer]))
            if not torch.equal(value, layer.take(layer.weight)):
                self.split_again([layer])
            layer.mark_read()

    def split_again(self, layers: list[Layer]) -> None:
        """Split the effective weights again; they do not change but for rounding."""
        for block in blocks(layers):
            latents = columns(block)
            thetas = [layer.take(layer.weight) for layer in block]
            parts = self.storage.split_again(thetas, latents)
            for held, values in zip(latents, parts, strict=True):
                torch._foreach_copy_(held, list(values))
        self.push(layers)

    def change(self, change: Callable[[Layer], None]) -> None:
        """Call a function that may write to the latents of each layer, then push them."""
        self.follow()
        for layer in self.stepped:
            change(layer)
        self.push(self.stepped)

    def push(self, layers: list[Layer]) -> None:
        """Write the merged latents to the weights."""
        for block in blocks([layer for layer in layers if not self._merge_now(layer)]):
            for layer, value in zip(block, self.storage.merge(columns(block)), strict=True):
                layer.put(value, layer.weight)
        for layer in layers:
            layer.mark_read()

    def _merge_now(self, layer: Layer) -> bool:
        return layer.index is None and merge_in_pieces(self.storage, layer)


def _check_gradient(layer: Layer) -> None:
    weight = layer.weight
    latent = next(iter(layer.latents.values()))
    alike = (weight.device, weight.dtype) == (latent.device, latent.dtype)
    if not alike or layer.stride != weight.stride():
        raise UserError(
            "the model was moved, or its dtype or memory format changed, after it was made sparse."
        )


def _gather_gradient(layer: Layer) -> Tensor:
    assert layer.weight.grad is not None
    return layer.take(layer.weight.grad)
