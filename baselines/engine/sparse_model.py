"""SparseModel: the prunable weights of any nn.Module, their masks, and what is stepped for them.

The model stays plain: no layer is replaced and nothing is added to the forward pass. By the
chain rule all work can be done around `optimizer.step()`:

    before the step   g = weight.grad, gathered at the active positions
                      storage.pull_back(g) becomes the gradient of the latents
                      the latents replace the weights in the optimizer's parameter groups
    after the step    weight ← storage.merge(latents), scattered to the active positions
                      the weights are back in the parameter groups

Latents and their optimizer state exist only where the mask is one, masked weights are zero at
all times, `weight.grad` is the dense gradient (averaged over ranks by DDP), and between steps
model and optimizer look as they do in any PyTorch program: `zero_grad`, gradient clipping,
GradScaler, autocast, DDP and torch.compile need no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from baselines.engine.attached import AttachedLatents, Hook, nothing
from baselines.engine.first_forward import FirstForward
from baselines.engine.layer import Layer
from baselines.engine.masked_weights import MaskedWeights
from baselines.engine.prunable import unwrap
from baselines.engine.served_optimizer import served_optimizer
from baselines.engine.storage import Plain, Storage
from baselines.engine.weight_use import check_use
from baselines.errors import UserError
from baselines.finite import all_finite


class SparseModel(MaskedWeights):
    """Masks and latents for the prunable weights of a model.

    The weights of linear maps that require a gradient are prunable, unless they are excluded: those
    of convolutions, also transposed ones, of nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNN,
    nn.LSTM, nn.GRU and their cells, of Hugging Face's Conv1D, and of experts of a mixture. Modules
    that share a weight count as one layer.

    Weights may be written from outside at any time (by `load_state_dict`, or when DDP broadcasts
    those of rank 0): the next step starts from them, and clears what is masked. Writes through
    `weight.data` are not detected; use `set_weights` instead.

    Args:
        model: any module, before or after it is wrapped by DDP or torch.compile; on its final
            device and in its final memory format.
        storage: what the optimizer steps; by default `Plain()`, the weights themselves. It may be
            replaced while no optimizer is attached.
        exclude: glob patterns over parameter names (`"*head*"`) of weights that stay dense.
        dense_latents: give latents the shapes of the weights, zero where masked, for optimizers
            that treat weights by shape. Takes the memory of a dense training.
        include: patterns of further parameters, such as embeddings, to prune.
        stays_dense: no mask will be set, so that modules may transform their weights.

    Raises:
        UserError: nothing is prunable, a pattern matches nothing, a weight cannot be handled (see
            `prunable_weights`), or a module transforms its weight before it uses it.
    """

    def __init__(
        self,
        model: nn.Module,
        storage: Storage | None = None,
        exclude: Iterable[str] = (),
        dense_latents: bool = False,
        include: Iterable[str] = (),
        stays_dense: bool = False,
    ) -> None:
        super().__init__(unwrap(model), exclude, include, dense_latents)
        if not stays_dense:
            check_use(self.slots.values())
        self._stays_dense = stays_dense
        self.first_forward: FirstForward | None = None  # while attached, unless dense
        self.storage = Plain() if storage is None else storage
        self._latents: AttachedLatents | None = None
        self.changes = 0  # number of calls that changed masks

    # ---- changes

    @torch.no_grad()
    def set_masks(self, masks: Mapping[str, Tensor | None]) -> None:
        """Change the masks of the named layers (None: all positions active).

        Remaining weights keep their latents and optimizer state exactly. Pruned weights become
        zero. New weights start at zero, with the latents that the storage gives to a zero and with
        cleared optimizer state.

        Raises:
            UserError: an unknown layer, or a mask of another shape. Nothing is changed then.
        """
        self.places.check()
        for name, mask in masks.items():
            self._check(name, mask)
        if self._latents is not None:
            self._latents.follow()
        for name, mask in masks.items():
            self._set_mask(self.layers[name], mask)
        self.changes += 1
        if self._latents is not None:
            self._latents.push(self._latents.stepped)

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set effective weights (zero where masked); Product's β is reset. State is kept.

        Raises:
            UserError: an unknown layer, or a tensor of another shape. Nothing is changed then.
        """
        for name, value in weights.items():
            self._check(name, value)
        for name, value in weights.items():
            self.layers[name].weight.copy_(value)
            self.layers[name].clear_masked(self.layers[name].weight)
        if self._latents is not None:
            self._latents.follow(keep=False)

    @torch.no_grad()
    def follow(self) -> None:
        """Update latents from weights that were written from outside. Every step does this first.

        Raises:
            UserError: a weight was replaced by another parameter, or the model was moved.
        """
        self.places.check()
        if self._latents is not None:
            self._latents.follow()

    @torch.no_grad()
    def rescale(self, reset_state: bool = False) -> None:
        """Split the effective weights again: Product's β is set again, θ does not change.

        Args:
            reset_state: also clear the latents' optimizer state.
        """
        if self._latents is not None:
            self._latents.follow()
            self._latents.split_again(self._latents.stepped)
            if reset_state:
                self._latents.forget_state()

    @torch.no_grad()
    def change_latents(self, change: Callable[[Layer], None]) -> None:
        """Call a function that may write to the latents of each layer, then update the weights."""
        if self._latents is not None:
            self._latents.change(change)

    def clear_state(self) -> None:
        """Clear the optimizer's state of all parameters, also of those that are not pruned."""
        if self._latents is not None:
            self._latents.optimizer.state.clear()

    def has_finite_gradients(self) -> bool:
        """Return whether the optimizer's gradients are all finite; waits for the device.

        A GradScaler skips a step if one is not finite, also that of a weight that stays dense.
        """
        parameters = self.stepped_parameters or self.weights.values()
        return all_finite(parameter.grad for parameter in parameters)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set unused gradients to zero. Needed only before clipping by a norm."""
        for layer in self:
            layer.mask_gradient()
        if self._latents is not None:
            self._latents.clear_unused()

    # ---- the optimizer

    @property
    def stepped_parameters(self) -> list[nn.Parameter]:
        """All parameters that the attached optimizer holds, prunable or not."""
        groups = [] if self._latents is None else self._latents.optimizer.param_groups
        return [parameter for group in groups for parameter in group["params"]]

    def served_optimizer(self, optimizer: Any) -> Optimizer:
        """Return the optimizer that `attach` would attach: the given one, or one that it wraps.

        Raises:
            UserError: as `attach`.
        """
        if self._latents is not None:
            raise UserError("an optimizer is attached already; detach() it first.")
        return served_optimizer(optimizer, self.weights, self.full_size, self.storage)

    @torch.no_grad()
    def attach(self, optimizer: Any, before: Hook = nothing, after: Hook = nothing) -> SparseModel:
        """Create the latents, and make every step of the optimizer a step on them.

        State that the optimizer already holds is kept with `Plain`, else dropped. Set known masks
        first, so that no latents of full size are made.

        Args:
            optimizer: a torch optimizer, or a wrapper that passes its steps to one.
            before: called with the optimizer before each step, before anything else.
            after: called with the optimizer after each step.

        Raises:
            UserError: the optimizer lacks a prunable weight or is not supported, or one is
                attached already. Nothing is changed then.
        """
        chosen = self.served_optimizer(optimizer)

        def checked(optimizer: Optimizer) -> None:
            self.follow()
            before(optimizer)

        self._latents = AttachedLatents(self.layers, self.storage, chosen, checked, after)
        if not self._stays_dense:
            self.first_forward = FirstForward(self.model, self.weights)
        return self

    def detach(self) -> nn.Module:
        """Remove the hooks and drop the latents' optimizer state.

        Returns:
            The plain model: its weights are the sparse network, θ = S ⊙ m ⊙ w for Product, unless
            they were written since the last step. Those stay as they are.
        """
        if self._latents is not None:
            self._latents.remove()
        if self.first_forward is not None:
            self.first_forward.remove()
        self._latents = self.first_forward = None
        return self.model

    # ---- state

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Return masks and latents: what the states of the model and the optimizer lack."""
        self.places.check()
        latents: dict[str, dict[str, Tensor]] = {}
        if self._latents is not None:
            self._latents.follow()
            for layer in self._latents.stepped:
                latents[layer.name] = {k: v.detach() for k, v in layer.latents.items()}
        return {"masks": {layer.name: layer.mask for layer in self}, "latents": latents}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load masks and latents. The model's and the optimizer's states may come before or after.

        Raises:
            UserError: the state has latents and no optimizer is attached, or it is of other layers.
        """
        masks, latents = state["masks"], state["latents"]
        if latents and self._latents is None:
            raise UserError("attach the optimizer before loading the state of a training.")
        self._check_layers(masks)
        for layer in self:
            layer.mark_read()  # the weights belong to the masks that are loaded
        self.changes += 1
        for name, mask in masks.items():
            self._load(self.layers[name], mask, latents.get(name))

    def _load(self, old: Layer, mask: Tensor | None, values: Mapping[str, Tensor] | None) -> None:
        new = old.with_mask(mask)
        if values is None and old.is_in_place and old.full_size:
            new.hold(old.latents)  # the optimizer's state may have been loaded already
            self._replace(old, new)
        elif values is not None and self._latents is not None:
            self._latents.load(old, new, values)
            self._replace(old, new)
            self._latents.push([new])
        else:  # saved without an optimizer, or the latent is the weight
            self._set_mask(old, mask)
            if self._latents is not None and not self.layers[old.name].is_in_place:
                self._latents.split_again([self.layers[old.name]])

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no optimizer: hooks belong to the one that they were registered with."""
        return {**self.__dict__, "_latents": None, "first_forward": None}

    # ---- helpers

    def _set_mask(self, old: Layer, mask: Tensor | None) -> None:
        new = old.with_mask(mask)
        if self._latents is not None:
            self._latents.move(old, new)
        self._replace(old, new)

    def _replace(self, old: Layer, new: Layer) -> None:
        self.layers[old.name] = new
        new.clear_masked(new.weight)
        new.mark_read()
