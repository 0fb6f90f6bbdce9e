"""The optimizer's step on full-size latents on a CPU, piece by piece.

On a CPU, the cost of a step is the amount of memory that it moves. With two factors per weight,
momentum and Frobenius decay, pulling back, stepping and merging one after the other move 29 numbers
per weight; dense SGD moves 5. Done together on pieces that stay in the cache they move 10, which is
the minimum: the gradient, the factors and their momenta are read; factors, momenta and the weight
are written. The gradients of the latents take no memory either. The arithmetic is PyTorch's own
functional SGD and AdamW.

A latent that the layer shares (STR's threshold) sums its gradient over all pieces and moves all
weights: the optimizer steps it after the pieces, and the weights are merged after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from baselines.engine import device
from baselines.engine.layer import Layer
from baselines.engine.memory_layout import in_memory_order, lie_alike
from baselines.engine.storage import Storage

PIECE = 1 << 17  # entries: eight such vectors take 4 MiB, about what the caches of two cores hold

Group = dict[str, Any]


def step_in_pieces(
    storage: Storage, optimizer: Optimizer, group: Group, layer: Layer
) -> list[Tensor] | None:
    """Step the latents of one layer piece by piece, if possible.

    It is possible on a CPU for SGD and AdamW once they have state, if all tensors have the same
    memory layout. A weight smaller than one piece is better stepped together with others.

    The latents that the layer shares are not stepped. If there are none, the weight is written.

    Args:
        group: the optimizer's parameter group, with learning rate, weight decay and so on.

    Returns:
        The gradients of the shared latents; None if it is not possible, with nothing changed.
    """
    rule, weight, grad = _RULES.get(type(optimizer)), layer.weight, layer.weight.grad
    latents, shared = layer.own_latents, layer.shared_latents
    states = [optimizer.state.get(latent, {}) for latent in latents]
    if not storage.in_pieces or weight.numel() < PIECE or rule is None or grad is None:
        return None
    if _is_special(optimizer, group):
        return None
    names = rule.moments(group)
    if any(name not in state for name in names for state in states):
        return None
    lists: list[Sequence[Tensor]] = [[weight], [grad], latents]
    lists += [[state[name] for state in states] for name in names]
    if not all(_is_like(weight, tensor) for tensors in lists for tensor in tensors):
        return None
    sums = [torch.zeros_like(latent) for latent in shared]
    for (theta,), (g,), params, *moments in zip(*map(_in_pieces, lists), strict=True):
        parts = tuple([param] for param in (*params, *shared))
        grads = [pulled for (pulled,) in storage.pull_back([g], parts)]
        for total, pulled in zip(sums, grads[len(params) :], strict=True):
            total += pulled
        del grads[len(params) :]
        rule.step(group, _Piece(params, grads, moments, states))
        if not shared:
            storage.merge_into([theta], parts)
    for state in states:
        if "step" in state:
            state["step"] += 1
    return sums


def merge_in_pieces(storage: Storage, layer: Layer) -> bool:
    """Write a weight from its latents, if it has at least one piece and one memory layout."""
    weight, latents, shared = layer.weight, layer.own_latents, layer.shared_latents
    if not storage.in_pieces or weight.numel() < PIECE:
        return False
    if not all(_is_like(weight, latent) for latent in latents):
        return False
    for (theta,), params in zip(_in_pieces([weight]), _in_pieces(latents), strict=True):
        storage.merge_into([theta], tuple([part] for part in (*params, *shared)))
    return True


def _is_special(optimizer: Optimizer, group: Group) -> bool:
    """Return whether the step does more than the rules below."""
    flags = ("differentiable", "amsgrad", "capturable")
    scaled = getattr(optimizer, "found_inf", None) is not None  # set by a GradScaler
    return scaled or any(group.get(flag) for flag in flags)


def _is_like(weight: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor is on the CPU with the weight's dtype, shape and memory layout."""
    if (tensor.dtype, tensor.shape) != (weight.dtype, weight.shape):
        return False
    return device.on_cpu(tensor) and lie_alike(tensor, weight)


def _in_pieces(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the first piece of every tensor, then the second ones, and so on."""
    flat = [in_memory_order(tensor.detach()) for tensor in tensors]
    return map(list, zip(*(torch.split(vector, PIECE) for vector in flat), strict=True))


@dataclass(frozen=True)
class _Piece:
    """A piece of a layer's latents, of their gradients and of each of the optimizer's moments.

    Attributes:
        states: the optimizer's state of the whole latents.
    """

    params: list[Tensor]
    grads: list[Tensor]
    moments: list[list[Tensor]]
    states: list[dict[str, Any]]


@dataclass(frozen=True)
class _Rule:
    """How an optimizer steps.

    Attributes:
        moments: names of the state tensors that have one entry per weight.
    """

    moments: Callable[[Group], tuple[str, ...]]
    step: Callable[[Group, _Piece], None]


def _sgd(group: Group, piece: _Piece) -> None:
    buffers: list[Tensor | None] = [*piece.moments[0]] if piece.moments else []
    sgd(
        piece.params,
        piece.grads,
        buffers,
        foreach=False,
        fused=bool(group["fused"]),
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )


def _adamw(group: Group, piece: _Piece) -> None:
    beta1, beta2 = group["betas"]
    means, squares = piece.moments
    adamw(
        piece.params,
        piece.grads,
        means,
        squares,
        [],
        [state["step"].clone() for state in piece.states],  # every piece is at the same step
        foreach=False,
        fused=bool(group["fused"]),
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


_RULES: dict[type[Optimizer], _Rule] = {
    SGD: _Rule(lambda group: ("momentum_buffer",) if group["momentum"] else (), _sgd),
    AdamW: _Rule(lambda group: ("exp_avg", "exp_avg_sq"), _adamw),
}
