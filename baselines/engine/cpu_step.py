"""An optimizer's step on latents of full size, piece by piece.

What a step costs on a CPU is the numbers that it moves through memory. With two factors a weight,
momentum and Frobenius decay, pulling back, stepping and merging one after the other move 29 of
them; dense SGD moves 5. Done together on a piece that stays in the cache, they move 10, the least
there is: the gradient, the factors and their momenta in; factors, momenta and the weight out. Nor
do gradients of the latents take memory. The arithmetic is torch's own functional SGD and AdamW.

A latent that the layer shares (STR's threshold) has its gradient from all pieces, and moves all
weights: the optimizer steps it when the pieces are done, and the weights are merged after that.
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

from baselines.engine.memory import in_memory_order, lie_alike
from baselines.engine.storage import Storage

PIECE = 1 << 17  # entries: eight vectors of them are 4 MiB, about what two cores' caches hold

Group = dict[str, Any]


def step_in_pieces(
    storage: Storage,
    optimizer: Optimizer,
    group: Group,
    weight: Tensor,
    latents: Sequence[Tensor],
    shared: Sequence[Tensor],
    decay: float,
) -> list[Tensor] | None:
    """Steps the latents of one weight, where that can be done in pieces.

    It can on a CPU for SGD and AdamW, once they have state, if all tensors lie in memory alike. A
    weight of less than a piece is better stepped with others.

    Args:
        group: the optimizer's, with learning rate, weight decay and so on.
        latents: those with an entry a weight.
        shared: those without. They are not stepped. Where there are none, the weight is written.
        decay: λ: λ·latent joins each latent's gradient.

    Returns:
        The gradients of the shared latents. None if it could not be done; nothing has changed.
    """
    rule, grad = _RULES.get(type(optimizer)), weight.grad
    states = [optimizer.state.get(latent, {}) for latent in latents]
    if weight.numel() < PIECE or rule is None or grad is None or _is_special(optimizer, group):
        return None
    names = rule.moments(group)
    if any(name not in state for name in names for state in states):
        return None
    lists = [[weight], [grad], latents, *([state[name] for state in states] for name in names)]
    if not all(_is_like(weight, tensor) for tensors in lists for tensor in tensors):
        return None
    if decay and rule.decays_gradient:
        group, decay = {**group, "weight_decay": group["weight_decay"] + decay}, 0.0
    sums = [torch.zeros_like(latent) for latent in shared]
    for (theta,), (g,), params, *moments in zip(*map(_in_pieces, lists), strict=True):
        parts = tuple([param] for param in (*params, *shared))
        grads = [pulled for (pulled,) in storage.pull_back([g], parts)]
        for total, pulled in zip(sums, grads[len(params) :], strict=True):
            total += pulled
        del grads[len(params) :]
        if decay:
            torch._foreach_add_(grads, params, alpha=decay)
        rule.step(group, _Piece(params, grads, moments, states))
        if not shared:
            storage.merge_into([theta], parts)
    for state in states:
        if "step" in state:
            state["step"] += 1
    return sums


def merge_in_pieces(
    storage: Storage, weight: Tensor, latents: Sequence[Tensor], shared: Sequence[Tensor]
) -> bool:
    """Writes a weight from its latents, if it has a piece at least and all lie in memory alike."""
    if weight.numel() < PIECE or not all(_is_like(weight, latent) for latent in latents):
        return False
    for (theta,), params in zip(_in_pieces([weight]), _in_pieces(latents), strict=True):
        storage.merge_into([theta], tuple([part] for part in (*params, *shared)))
    return True


def _is_special(optimizer: Optimizer, group: Group) -> bool:
    """Whether a step is more than the rules below."""
    flags = ("differentiable", "amsgrad", "capturable")
    scaled = getattr(optimizer, "found_inf", None) is not None  # by a GradScaler
    return scaled or any(group.get(flag) for flag in flags)


def _is_like(weight: Tensor, tensor: Tensor) -> bool:
    """On a CPU, of the weight's type and shape, and in memory as it is."""
    if (tensor.dtype, tensor.shape) != (weight.dtype, weight.shape):
        return False
    return tensor.device.type == "cpu" and lie_alike(tensor, weight)


def _in_pieces(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The first pieces of all, then the second ones, and so on."""
    flat = [in_memory_order(tensor.detach()) for tensor in tensors]
    return map(list, zip(*(torch.split(vector, PIECE) for vector in flat), strict=True))


@dataclass(frozen=True)
class _Piece:
    """A piece of a layer: of its latents, their gradients, and each of the optimizer's moments.

    Attributes:
        states: the optimizer's, of the whole latents.
    """

    params: list[Tensor]
    grads: list[Tensor]
    moments: list[list[Tensor]]
    states: list[dict[str, Any]]


@dataclass(frozen=True)
class _Rule:
    """An optimizer's step.

    Attributes:
        moments: names of its state that has an entry a weight.
        decays_gradient: whether weight decay is λ·parameter, added to the gradient.
    """

    moments: Callable[[Group], tuple[str, ...]]
    step: Callable[[Group, _Piece], None]
    decays_gradient: bool


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
    SGD: _Rule(lambda group: ("momentum_buffer",) if group["momentum"] else (), _sgd, True),
    AdamW: _Rule(lambda group: ("exp_avg", "exp_avg_sq"), _adamw, False),
}
