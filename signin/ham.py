"""HAM: after each step of the optimizer, a multiplicative step that speeds up weights near zero.

"Hyperbolic Aware Minimization: Implicit Bias for Sparsity" (arXiv 2506.02630), by the authors of
Sign-In. It keeps the hyperbolic geometry of θ = m ⊙ w without the second factor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_not_negative
from baselines.fields import check_types
from baselines.sign_rule import SignRule

MAX_EXPONENT = 5.0  # of one step, as in the authors' code


@dataclass(frozen=True)
class HAM(SignRule):
    """Hyperbolic Aware Minimization: θ ← θ·exp(−lr·(α·sign(θ)·∂L/∂θ + β)) after each step.

    Acts on all parameters of at least two dimensions, as in the authors' code: prunable weights,
    and those that stay dense. Where a method transforms or selects weights (STR, SR-STE, Top-KAST),
    it acts on the weights before that.
    """

    ham_alpha: float = 200.0
    """Strength α of the multiplicative step."""
    ham_beta: float = 1e-3
    """Decay β: weights shrink by exp(−lr·β) per step."""

    def __post_init__(self) -> None:
        check_types(self)
        check_not_negative(ham_alpha=self.ham_alpha, ham_beta=self.ham_beta)

    def theta_decay(self, weight_decay: float, momentum: float = 0.0) -> float:
        """Return λ + (1 − momentum)·β: momentum amplifies the weight decay λ, but not β."""
        return weight_decay + (1 - momentum) * self.ham_beta

    def before_update(self, net: SparseModel, optimizer: Optimizer) -> dict[int, Tensor]:
        """Return the gradients of latents and of other parameters, by the id of the parameter.

        They are copies, since some optimizers change gradients in place (Adamax and SGD with
        Nesterov momentum, on a GPU). Those of a fused optimizer, which changes none, are omitted
        unless a storage transforms them.
        """
        found: dict[int, Tensor] = {}
        copies = not all(group.get("fused") for group in optimizer.param_groups)
        for layer in net:
            if (grad := layer.weight.grad) is None:
                continue
            if not net.storage.is_identity:
                latents = tuple([latent] for latent in layer.latents.values())
                pulled = net.storage.pull_back([layer.take(grad)], latents)
                found[id(layer.weight)] = pulled[0][0]
            elif copies:
                taken = layer.take(grad)
                found[id(layer.weight)] = grad.clone() if taken is grad else taken
        if copies:
            others = _others(net, optimizer)
            found |= {id(p): p.grad.clone() for p, _ in others if p.grad is not None}
        return found

    def after_update(self, net: SparseModel, optimizer: Optimizer, before: Any) -> None:
        """Take the multiplicative step."""
        grads: dict[int, Tensor] = before
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

        def change(layer: Layer) -> None:
            x = next(iter(layer.latents.values()))
            grad = grads.get(id(layer.weight), x.grad)
            if grad is not None:
                self._multiply(x, grad, rates[id(layer.weight)])

        net.change_latents(change)
        for parameter, lr in _others(net, optimizer):
            grad = grads.get(id(parameter), parameter.grad)
            if grad is not None:
                self._multiply(parameter, grad, lr)

    def _multiply(self, x: Tensor, grad: Tensor, lr: float | Tensor) -> None:
        exponent = torch.mul(x.sign(), grad).mul_(-self.ham_alpha).sub_(self.ham_beta)
        x.mul_(exponent.mul_(lr).clamp_(-MAX_EXPONENT, MAX_EXPONENT).exp_())


def _others(net: SparseModel, optimizer: Optimizer) -> Iterator[tuple[Tensor, float | Tensor]]:
    """Yield the parameters of at least two dimensions that stay dense, and their learning rate."""
    prunable = {id(layer.weight) for layer in net}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in prunable and parameter.ndim >= 2:
                yield parameter, group["lr"]
