"""SparseModel: the prunable weights of any nn.Module, their masks, and what is stepped for them.

The model stays plain: no layer is replaced and nothing is added to the forward pass. By the
chain rule all work can be done around `optimizer.step()`:

    before the step   g = weight.grad, gathered at the active positions
                      storage.pull_back(g) becomes the gradient of the latents
                      the optimizer is shown the latents in place of the weights
    after it          weight ← storage.merge(latents), scattered to the active positions
                      the optimizer is shown the model's own weights again

So latents and their optimizer state exist only where the mask is one, masked weights are zero at
all times, `weight.grad` is the dense gradient (averaged over ranks by DDP), and between steps
model and optimizer look as they do in any PyTorch program: `zero_grad`, gradient clipping,
GradScaler, autocast, DDP and torch.compile need no change.

Works with optimizers that treat every entry of a tensor alike (SGD, Adam(W), RMSprop, Lion, …).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from baselines.engine.cpu_step import PIECE, merge_in_pieces, step_in_pieces
from baselines.engine.memory import in_memory_order, lie_alike
from baselines.engine.prunable import all_weights, prunable_weights, unwrap
from baselines.engine.storage import Plain, Storage
from baselines.errors import UserError


@dataclass(eq=False)
class Layer:
    """One prunable weight tensor.

    Attributes:
        index: offsets in memory of the active positions, in row-major order; None where all are.
        latents: what is stepped, while an optimizer is attached: vectors over the active
            positions, or of the weight's shape where all are. The weight itself where the storage
            is the identity and all are. Those of no dimension are shared by the layer.
    """

    name: str
    weight: nn.Parameter
    index: Tensor | None = None
    latents: tuple[nn.Parameter, ...] = ()

    def __post_init__(self) -> None:
        self.stride = self.weight.stride()  # what the index was made for
        self.version = self.weight._version  # counts writes: a higher one was somebody else's

    @property
    def nnz(self) -> int:
        return self.weight.numel() if self.index is None else self.index.numel()

    @property
    def mask(self) -> Tensor | None:
        """True at the active positions, of the weight's shape; None where all are."""
        if self.index is None:
            return None
        mask = torch.zeros_like(self.weight, dtype=torch.bool)
        in_memory_order(mask)[self.index] = True
        return mask

    @property
    def own_latents(self) -> tuple[nn.Parameter, ...]:
        """Those with an entry a weight."""
        return tuple(latent for latent in self.latents if latent.ndim > 0)

    @property
    def shared_latents(self) -> tuple[nn.Parameter, ...]:
        """Those that all weights of the layer share."""
        return tuple(latent for latent in self.latents if latent.ndim == 0)

    @property
    def in_place(self) -> bool:
        return self.latents[0] is self.weight

    def gather(self, dense: Tensor) -> Tensor:
        """Entries of a tensor of the weight's shape at the active positions."""
        if self.index is None:
            return dense
        # take uses all threads, index_select one
        return in_memory_order(self._laid_out(dense)).take(self.index)

    def scatter(self, values: Tensor, dense: Tensor) -> Tensor:
        """Writes values at the active positions into a tensor of the weight's shape."""
        if self.index is None:
            return dense.copy_(values)
        target = self._laid_out(dense)
        in_memory_order(target).index_copy_(0, self.index, values)
        return dense if target is dense else dense.copy_(target)

    def _laid_out(self, dense: Tensor) -> Tensor:
        """The tensor itself, or a copy that lies in memory as the weight does."""
        if lie_alike(dense, self.weight):
            return dense
        return torch.empty_like(self.weight, dtype=dense.dtype).copy_(dense)

    def with_mask(self, mask: Tensor | None) -> Layer:
        """The layer under another mask, its latents still to be made."""
        if mask is None or bool(mask.all()):
            return Layer(self.name, self.weight)
        offsets = torch.empty_like(self.weight, dtype=torch.int64)
        in_memory_order(offsets).copy_(torch.arange(offsets.numel(), device=offsets.device))
        return Layer(self.name, self.weight, offsets[mask.to(offsets.device, torch.bool)])

    def clear_masked(self, dense: Tensor) -> None:
        """Zeroes a tensor of the weight's shape where masked."""
        if self.index is not None:
            active = self.gather(dense)
            self.scatter(active, dense.zero_())


class SparseModel:
    """Masks and latents for the prunable weights of a model.

    Prunable are the weights of all Conv1d/2d/3d and Linear modules and the input projections of
    nn.MultiheadAttention that require a gradient, except those excluded. Prunable modules that
    share a weight count as one layer.

    Weights may be written from outside at any time (by `load_state_dict`, say, or when DDP
    broadcasts rank 0's): the next step starts from them, and clears what is masked. Only writes
    through `weight.data` go unseen; use `set_weights` for those.

    Args:
        model: any module, before or after it is wrapped by DDP or torch.compile; on its final
            device and in its final memory format.
        storage: what the optimizer steps on; `Plain()`, the weights themselves, by default. It
            may be replaced as long as no optimizer is attached.
        exclude: glob patterns over parameter names (`"*head*"`) of weights that stay dense.

    Raises:
        UserError: nothing is prunable, a pattern matches nothing, or a weight cannot be handled
            (see `prunable_weights`).
    """

    def __init__(
        self, model: nn.Module, storage: Storage | None = None, exclude: Iterable[str] = ()
    ) -> None:
        self.model = unwrap(model)
        self.storage = Plain() if storage is None else storage
        weights = prunable_weights(self.model, exclude)
        self.layers = {name: Layer(name, weight) for name, weight in weights.items()}
        self._optimizer: Optimizer | None = None
        self._handles: list[Any] = []
        self.changes = 0  # of masks, counted
        self.decay = 0.0  # λ: λ·latent joins each latent's gradient, whatever the optimizer decays

    # ---- looking

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
    def shapes(self) -> dict[str, torch.Size]:
        return {layer.name: layer.weight.shape for layer in self}

    @property
    def nnz(self) -> int:
        """Number of active weights."""
        return sum(layer.nnz for layer in self)

    @property
    def numel(self) -> int:
        """Number of prunable weights."""
        return sum(layer.weight.numel() for layer in self)

    def sparsity(self) -> float:
        """Fraction of the prunable weights that are exactly zero, counted in the weights."""
        return _fraction_of_zeros(self.weights.values())

    def sparsity_all(self) -> float:
        """The same over all Conv and Linear weights, excluded and frozen ones too."""
        return _fraction_of_zeros(all_weights(self.model).values())

    def magnitudes(self) -> dict[str, Tensor]:
        """|θ| by layer, −1 where masked: below every active weight, zeros included."""
        return {
            layer.name: layer.weight.detach().abs()
            if mask is None
            else layer.weight.detach().abs().masked_fill_(~mask, -1.0)
            for layer, mask in ((layer, layer.mask) for layer in self)
        }

    # ---- changing

    @torch.no_grad()
    def set_masks(self, masks: Mapping[str, Tensor | None]) -> None:
        """Changes the masks of the named layers (None: all active).

        Weights that stay keep their latents and optimizer state to the bit. Weights that go
        become zero. Weights that come start at zero, with the latents that the storage gives to a
        zero and with cleared optimizer state.

        Raises:
            UserError: an unknown layer, or a mask of another shape. Nothing is changed then.
        """
        for name, mask in masks.items():
            self._check(name, mask)
        self._follow()
        for name, mask in masks.items():
            self._set_mask(self.layers[name], mask)
        self.changes += 1

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Sets effective weights (masked positions stay zero). Optimizer state is kept.

        Raises:
            UserError: an unknown layer, or a tensor of another shape. Nothing is changed then.
        """
        for name, value in weights.items():
            self._check(name, value)
        for name, value in weights.items():
            self.layers[name].weight.copy_(value)
            self.layers[name].clear_masked(self.layers[name].weight)
        self._follow()

    @torch.no_grad()
    def rescale(self, reset_state: bool = False) -> None:
        """Splits the effective weights afresh: Product's β is set again, θ does not change.

        Args:
            reset_state: also clear the latents' optimizer state. The paper's listing keeps it.
        """
        self._split_again(self._stepped)
        if reset_state:
            self._forget_latents()

    @torch.no_grad()
    def change_latents(self, change: Callable[[Layer], None]) -> None:
        """Calls a function that may write to a layer's latents, layer by layer; weights follow."""
        self._follow()
        for layer in self._stepped:
            change(layer)
        self._push(self._stepped)

    def clear_state(self) -> None:
        """Forgets all of the optimizer's state, momentum of unpruned parameters included."""
        if self._optimizer is not None:
            self._optimizer.state.clear()

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zeroes gradients where masked. Call it before clipping by a norm; else not needed."""
        for layer in self:
            if layer.weight.grad is not None:
                layer.clear_masked(layer.weight.grad)

    # ---- stepping

    @torch.no_grad()
    def attach(self, optimizer: Optimizer) -> SparseModel:
        """Makes the latents, and every step of the optimizer a step on them.

        State that the optimizer holds already is taken over with `Plain`, else dropped. Masks
        that are known should be set before: then no latents of full size are made.

        Raises:
            UserError: the optimizer lacks a prunable weight, or one is attached already.
        """
        if self._optimizer is not None:
            raise UserError("an optimizer is attached already; detach() it first.")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [layer.name for layer in self if id(layer.weight) not in held]
        if missing:
            raise UserError(f"the optimizer does not hold {', '.join(missing)}.")
        for layer in self:
            layer.clear_masked(layer.weight)
            self._make_latents(layer, self.storage.split([layer.gather(layer.weight.detach())]))
        self._optimizer = optimizer
        for layer in self._stepped:
            layer.version = layer.weight._version
            state = optimizer.state.pop(layer.weight, {})
            if state and self.storage.is_identity:
                dense = Layer(layer.name, layer.weight)
                optimizer.state[layer.latents[0]] = _moved(state, layer.weight, dense, layer)
        shared = [latent for layer in self for latent in layer.shared_latents]
        if shared:  # what decays weights is not meant for them
            group = {"params": shared, "weight_decay": self.storage.shared_decay}
            optimizer.add_param_group(group)
        if not self.storage.keeps_values:
            self._push(self._stepped)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_state_dict_pre_hook(self._show_latents),
            optimizer.register_state_dict_post_hook(self._show_weights),
            optimizer.register_load_state_dict_pre_hook(self._show_latents),
            optimizer.register_load_state_dict_post_hook(self._show_weights),
        ]
        return self

    def detach(self) -> nn.Module:
        """Takes the hooks off and drops the latents' optimizer state.

        Returns:
            The plain model: its weights are the sparse network, θ = S ⊙ m ⊙ w for Product.
        """
        for handle in self._handles:
            handle.remove()
        self._forget_latents()
        if self._optimizer is not None:
            shared = {id(latent) for layer in self for latent in layer.shared_latents}
            groups = self._optimizer.param_groups
            groups[:] = [g for g in groups if not {id(p) for p in g["params"]} & shared]
        self._optimizer, self._handles = None, []
        return self.model

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if any(callable(argument) for argument in (*args[1:], *kwargs.values())):
            raise UserError("SparseModel cannot serve optimizer.step(closure).")
        if getattr(optimizer, "grad_scale", None) is not None:
            raise UserError("call scaler.unscale_(optimizer) before scaler.step(optimizer).")
        self._follow()
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        waiting = []
        for layer in self._stepped:
            group = groups[id(layer.weight)]
            if layer.weight.grad is None:
                _clear_grads(layer.latents)
            elif not self._step_now(layer, optimizer, group):
                waiting.append(layer)
        for block in _blocks(waiting):
            latents = _latents(block)
            parts = self.storage.pull_back([_gather_grad(layer) for layer in block], latents)
            for tensors, grads in zip(latents, parts, strict=True):
                _set_grads(tensors, grads, self.decay)
        self._show_latents(optimizer)
        for group in optimizer.param_groups:
            _complete_momentum(optimizer, group)

    def _step_now(self, layer: Layer, optimizer: Optimizer, group: dict[str, Any]) -> bool:
        """Takes a layer's step in the optimizer's place, if it can be taken in pieces.

        Latents that the layer shares are left to the optimizer.
        """
        if layer.index is not None:
            return False
        own, shared = layer.own_latents, layer.shared_latents
        grads = step_in_pieces(
            self.storage, optimizer, group, layer.weight, own, shared, self.decay
        )
        if grads is None:
            return False
        _clear_grads(own)
        if shared:
            _set_grads(shared, grads, self.decay)
        layer.version = layer.weight._version
        return True

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._show_weights(optimizer)
        self._push([layer for layer in self._stepped if layer.latents[-1].grad is not None])

    @property
    def _stepped(self) -> list[Layer]:
        """The layers whose latents are not simply their weights; none while detached."""
        return [layer for layer in self if self._optimizer is not None and not layer.in_place]

    def _show_latents(self, optimizer: Optimizer, *_: Any) -> None:
        _replace(optimizer, {id(layer.weight): layer.own_latents for layer in self._stepped})

    def _show_weights(self, optimizer: Optimizer, *_: Any) -> None:
        shown: dict[int, tuple[nn.Parameter, ...]] = {}
        for layer in self._stepped:
            first, *rest = layer.own_latents
            shown |= {id(first): (layer.weight,), **{id(latent): () for latent in rest}}
        _replace(optimizer, shown)

    # ---- keeping

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Masks and latents. With the model's and the optimizer's own, all there is to resume."""
        self._follow()
        return {
            "masks": {layer.name: layer.mask for layer in self},
            "latents": {
                layer.name: [latent.detach() for latent in layer.latents] for layer in self._stepped
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse. Load the model's own before this one, and the optimizer's after it.

        Raises:
            UserError: the state has latents, and no optimizer is attached that would step them.
        """
        if state["latents"] and self._optimizer is None:
            raise UserError("attach the optimizer before loading the state of a training.")
        for layer in self:
            layer.version = layer.weight._version  # the weights belong to the masks to come
        self.set_masks(state["masks"])
        for layer in self._stepped:
            if layer.name in state["latents"]:
                torch._foreach_copy_(list(layer.latents), state["latents"][layer.name])
                self._push([layer])
            else:  # saved without an optimizer
                self._split_again([layer])

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no optimizer: hooks belong to the one that they were registered with."""
        return {**self.__dict__, "_optimizer": None, "_handles": []}

    # ---- bookkeeping of the latents, here and nowhere else

    def _check(self, name: str, tensor: Tensor | None) -> None:
        if name not in self.layers:
            raise UserError(f"no prunable layer {name!r}; there are {', '.join(self.layers)}.")
        shape = tuple(self.layers[name].weight.shape)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise UserError(f"{name} has shape {shape}, not {tuple(tensor.shape)}.")

    def _make_latents(self, layer: Layer, parts: tuple[Any, ...]) -> None:
        if self.storage.is_identity and layer.index is None:
            layer.latents = (layer.weight,)
        else:
            layer.latents = tuple(
                part if isinstance(part, nn.Parameter) else nn.Parameter(part) for (part,) in parts
            )

    def _set_mask(self, old: Layer, mask: Tensor | None) -> None:
        """Re-indexes latents and their optimizer state: spread out dense, gathered again."""
        new = old.with_mask(mask)
        if self._optimizer is not None:
            self._move_latents(old, new, self._optimizer)
        new.clear_masked(new.weight)
        new.version = new.weight._version
        self.layers[new.name] = new

    def _move_latents(self, old: Layer, new: Layer, optimizer: Optimizer) -> None:
        zeros = self.storage.split([torch.zeros_like(old.weight)])
        moved = [
            latent if latent.ndim == 0 else new.gather(old.scatter(latent.detach(), zero)).clone()
            for latent, (zero,) in zip(old.latents, zeros, strict=True)
        ]
        self._make_latents(new, tuple([latent] for latent in moved))
        states = [optimizer.state.pop(latent, {}) for latent in old.latents]
        for before, after, state in zip(old.latents, new.latents, states, strict=True):
            if state:
                optimizer.state[after] = _moved(state, before, old, new)

    def _forget_latents(self) -> None:
        """Drops their optimizer state."""
        if self._optimizer is not None:
            for layer in self._stepped:
                for latent in layer.latents:
                    self._optimizer.state.pop(latent, None)

    def _follow(self) -> None:
        """Takes over weights that somebody else has written."""
        written = [layer for layer in self._stepped if layer.weight._version != layer.version]
        for layer in written:
            layer.clear_masked(layer.weight)
            (value,) = self.storage.merge(_latents([layer]))
            if not torch.equal(value, layer.gather(layer.weight)):
                self._split_again([layer])
            layer.version = layer.weight._version

    def _split_again(self, layers: list[Layer]) -> None:
        for block in _blocks(layers):
            latents = _latents(block)
            thetas = [layer.gather(layer.weight) for layer in block]
            parts = self.storage.split_again(thetas, latents)
            for held, values in zip(latents, parts, strict=True):
                torch._foreach_copy_(held, list(values))
        self._push(layers)

    def _push(self, layers: list[Layer]) -> None:
        """Writes the merged latents to the weights."""
        for block in _blocks([layer for layer in layers if not self._merge_now(layer)]):
            for layer, value in zip(block, self.storage.merge(_latents(block)), strict=True):
                layer.scatter(value, layer.weight)
        for layer in layers:
            layer.version = layer.weight._version

    def _merge_now(self, layer: Layer) -> bool:
        own, shared = layer.own_latents, layer.shared_latents
        return layer.index is None and merge_in_pieces(self.storage, layer.weight, own, shared)


def _blocks(layers: list[Layer]) -> list[list[Layer]]:
    """Layers to work on together: on a GPU all, for few launches; elsewhere as many as leave what
    is computed in between in the cache, and in memory that was used before."""
    if layers and layers[0].weight.is_cuda:
        return [layers]
    blocks: list[list[Layer]] = []
    room = 0
    for layer in layers:
        room -= layer.nnz
        if room < 0 or not blocks:
            blocks.append([])
            room = PIECE - layer.nnz
        blocks[-1].append(layer)
    return blocks


def _latents(layers: list[Layer]) -> tuple[list[Tensor], ...]:
    """A list a latent, with an entry a layer."""
    return tuple(map(list, zip(*(layer.latents for layer in layers), strict=True)))


def _clear_grads(latents: Sequence[Tensor]) -> None:
    """The optimizer passes over them."""
    for latent in latents:
        latent.grad = None


def _set_grads(latents: Sequence[Tensor], grads: Sequence[Tensor], decay: float) -> None:
    """Into the memory of the step before: to ask for it anew costs more than to write it."""
    kept: list[Tensor] = []
    for latent in latents:
        if latent.grad is None:
            latent.grad = torch.empty_like(latent)
        kept.append(latent.grad)
    torch._foreach_copy_(kept, list(grads))
    if decay:
        torch._foreach_add_(kept, list(latents), alpha=decay)


def _complete_momentum(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Fused SGD fails on a group in which some have momentum and some, new ones, not yet.

    Zero momentum is the same as none (without dampening).
    """
    if not (isinstance(optimizer, SGD) and group["fused"] and group["momentum"]):
        return
    stepped = [p for p in group["params"] if p.grad is not None]
    new = [p for p in stepped if optimizer.state.get(p, {}).get("momentum_buffer") is None]
    if len(new) < len(stepped) and not group["dampening"]:
        for parameter in new:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _gather_grad(layer: Layer) -> Tensor:
    grad = layer.weight.grad
    assert grad is not None
    weight, latent = layer.weight, layer.latents[0]
    if (weight.device, weight.dtype) != (latent.device, latent.dtype) or (
        layer.stride != weight.stride()
    ):
        raise UserError(
            "the model was moved, or its type or memory format changed, after SparseModel was made."
        )
    return layer.gather(grad)


def _moved(state: Mapping[str, Any], latent: Tensor, old: Layer, new: Layer) -> dict[str, Any]:
    """Optimizer state of a latent after a change of mask: zero for weights that come."""

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != latent.shape or latent.ndim == 0:
            return value
        dense = torch.zeros_like(old.weight, dtype=value.dtype)
        return new.gather(old.scatter(value, dense))

    return {key: move(value) for key, value in state.items()}


def _replace(optimizer: Optimizer, by: Mapping[int, tuple[nn.Parameter, ...]]) -> None:
    for group in optimizer.param_groups:
        group["params"] = [q for p in group["params"] for q in by.get(id(p), (p,))]


def _fraction_of_zeros(tensors: Iterable[Tensor]) -> float:
    tensors = list(tensors)
    nonzero = sum(int(tensor.count_nonzero()) for tensor in tensors)
    return 1 - nonzero / sum(tensor.numel() for tensor in tensors)
