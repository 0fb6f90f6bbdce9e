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

from baselines.engine import device
from baselines.engine.closure import evaluate_closure
from baselines.engine.cpu_step import PIECE, merge_in_pieces, step_in_pieces
from baselines.engine.layer import Layer
from baselines.engine.optimizer_state import (
    clear_gradients,
    complete_momentum,
    fitting_state,
    moved_state,
    remove_groups,
    replace_parameters,
    set_gradients,
)
from baselines.engine.reentry import Reentry
from baselines.engine.storage import Storage
from baselines.errors import UserError


class Latents:
    """Makes the latents of all layers, and every step of the optimizer a step on them.

    Args:
        layers: by name; entries may be replaced by `move` while attached.

        optimizer: one that `attachable` has returned.
    """

    def __init__(self, layers: dict[str, Layer], storage: Storage, optimizer: Optimizer) -> None:
        self.layers, self.storage, self.optimizer = layers, storage, optimizer
        self._reentry = Reentry()
        for layer in layers.values():
            layer.clear_masked(layer.weight)
            parts = storage.split([layer.gather(layer.weight.detach())])
            self._set_latents(layer, [part for (part,) in parts])
        self._take_over_state()
        if shared := [latent for layer in self.stepped for latent in layer.shared_latents]:
            optimizer.add_param_group({"params": shared, "weight_decay": storage.shared_decay})
        if not storage.keeps_values:
            self.push(self.stepped)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_pre_hook(self._show_latents),
            optimizer.register_state_dict_post_hook(self._show_weights),
            optimizer.register_load_state_dict_pre_hook(self._show_latents),
            optimizer.register_load_state_dict_post_hook(self._show_weights),
        ]

    def remove(self) -> None:
        """Remove the hooks and the latents' optimizer state."""
        for handle in self._handles:
            handle.remove()
        self.forget_state()
        remove_groups(self.optimizer, [x for layer in self.stepped for x in layer.shared_latents])
        for layer in self.layers.values():
            layer.latents = {}

    @property
    def stepped(self) -> list[Layer]:
        """The layers whose latents are not simply their weights."""
        return [layer for layer in self.layers.values() if not layer.is_in_place]

    def _set_latents(self, layer: Layer, parts: Iterable[Tensor]) -> None:
        if self.storage.is_identity and layer.index is None:
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
                dense = Layer(layer.name, layer.weight)
                self.optimizer.state[latent] = moved_state(state, layer.weight, dense, layer)

    # ---- stepping

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        changed = evaluate_closure(args, kwargs)
        if self._reentry.enter():
            self._show_weights(optimizer)  # if an exception has ended the step before
            self._prepare_step(optimizer)
        return changed

    @torch.no_grad()
    def _prepare_step(self, optimizer: Optimizer) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise UserError("call scaler.unscale_(optimizer) before scaler.step(optimizer).")
        self.follow()
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        waiting = []
        for layer in self.stepped:
            if layer.weight.grad is None:
                clear_gradients(tuple(layer.latents.values()))
            elif not self._step_now(layer, groups[id(layer.weight)]):
                waiting.append(layer)
        for block in blocks(waiting):
            latents = _columns(block)
            parts = self.storage.pull_back([_gather_gradient(layer) for layer in block], latents)
            for tensors, grads in zip(latents, parts, strict=True):
                set_gradients(tensors, grads)
        self._show_latents(optimizer)
        for group in optimizer.param_groups:
            complete_momentum(optimizer, group)

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

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._reentry.leave():
            return
        self._show_weights(optimizer)
        self.push([layer for layer in self.stepped if layer.has_gradient])

    def _show_latents(self, optimizer: Optimizer, *_: Any) -> None:
        """Put the latents into the parameter groups in place of the weights."""
        by = {id(layer.weight): layer.own_latents for layer in self.stepped}
        replace_parameters(optimizer, by)

    def _show_weights(self, optimizer: Optimizer, *_: Any) -> None:
        """Put the weights back."""
        by: dict[int, tuple[nn.Parameter, ...]] = {}
        for layer in self.stepped:
            first, *rest = layer.own_latents
            by |= {id(first): (layer.weight,), **{id(latent): () for latent in rest}}
        replace_parameters(optimizer, by)

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
            latent if latent.ndim == 0 else new.gather(old.scatter(latent.detach(), zero)).clone()
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
            shared = held.ndim == 0  # it stays in its parameter group
            parts.append(held.copy_(value) if shared else value.clone())
        self._set_latents(new, parts)
        states = [self.optimizer.state.pop(latent, {}) for latent in old.latents.values()]
        for latent, state in zip(new.latents.values(), states, strict=True):
            if kept := fitting_state(state, latent):
                self.optimizer.state[latent] = kept

    def follow(self) -> None:
        """Take over weights that somebody else has written."""
        for layer in [layer for layer in self.stepped if layer.was_written]:
            layer.clear_masked(layer.weight)
            (value,) = self.storage.merge(_columns([layer]))
            if not torch.equal(value, layer.gather(layer.weight)):
                self.split_again([layer])
            layer.mark_read()

    def split_again(self, layers: list[Layer]) -> None:
        """Split the effective weights again; they do not change but for rounding."""
        for block in blocks(layers):
            latents = _columns(block)
            thetas = [layer.gather(layer.weight) for layer in block]
            parts = self.storage.split_again(thetas, latents)
            for held, values in zip(latents, parts, strict=True):
                torch._foreach_copy_(held, list(values))
        self.push(layers)

    def change(self, change: Callable[[Layer], None]) -> None:
        """Call a function that may write to the latents of each layer, then push them."""
        self.follow()
        for layer in self.layers.values():
            change(layer)
        self.push(self.stepped)

    def push(self, layers: list[Layer]) -> None:
        """Write the merged latents to the weights."""
        for block in blocks([layer for layer in layers if not self._merge_now(layer)]):
            for layer, value in zip(block, self.storage.merge(_columns(block)), strict=True):
                layer.scatter(value, layer.weight)
        for layer in layers:
            layer.mark_read()

    def _merge_now(self, layer: Layer) -> bool:
        return layer.index is None and merge_in_pieces(self.storage, layer)


def blocks(layers: list[Layer]) -> list[list[Layer]]:
    """Group layers that are worked on together.

    On a GPU all of them, for few kernel launches. On a CPU as many as keep the temporary tensors in
    the cache, and in memory that was used before.
    """
    if not layers:
        return []
    if not device.on_cpu(layers[0].weight):
        return [layers]
    found: list[list[Layer]] = []
    room = 0
    for layer in layers:
        room -= layer.nnz
        if room < 0 or not found:
            found.append([])
            room = PIECE - layer.nnz
        found[-1].append(layer)
    return found


def _columns(layers: list[Layer]) -> tuple[list[Tensor], ...]:
    """Return one list per latent, with one entry per layer."""
    return tuple(map(list, zip(*(layer.latents.values() for layer in layers), strict=True)))


def _gather_gradient(layer: Layer) -> Tensor:
    grad, weight = layer.weight.grad, layer.weight
    assert grad is not None
    latent = next(iter(layer.latents.values()))
    alike = (weight.device, weight.dtype) == (latent.device, latent.dtype)
    if not alike or layer.stride != weight.stride():
        raise UserError(
            "the model was moved, or its dtype or memory format changed, after it was made sparse."
        )
    return layer.gather(grad)
