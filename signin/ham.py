"""HAM: after each step of the optimizer, a multiplicative step that speeds up weights near zero.

"Hyperbolic Aware Minimization: Implicit Bias for Sparsity" (arXiv 2506.02630), by the authors of
Sign-In. It keeps the hyperbolic geometry of θ = m ⊙ w without the second factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.fields import check_types
from baselines.sign_rule import SignRule

MAX_EXPONENT = 5.0  # of one step, as in the authors' code


@dataclass(frozen=True)
class HAM(SignRule):
    """Hyperbolic Aware Minimization: θ ← θ·exp(−lr·(α·sign(θ)·∂L/∂θ + β)) after each step.

    Acts on all parameters of at least two dimensions, as the authors' code: prunable weights, and
    those that stay dense. Where a method transforms or selects weights (STR, SR-STE, Top-KAST), it
    acts on those before.
    """

    ham_alpha: float = 200.0
    """Strength α of the multiplicative step."""
    ham_beta: float = 1e-3
    """Decay β: weights shrink by exp(−lr·β) per step."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("ham_alpha", "ham_beta"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, not {getattr(self, name)}.")

    def before_update(self, net: SparseModel, optimizer: Optimizer) -> dict[str, Tensor]:
        """Return the gradients of the latents that a storage transforms, by layer."""
        found: dict[str, Tensor] = {}
        for layer in () if net.storage.is_identity else net:
            if layer.weight.grad is not None:
                latents = tuple([latent] for latent in layer.latents.values())
                pulled = net.storage.pull_back([layer.gather(layer.weight.grad)], latents)
                found[layer.name] = pulled[0][0]
        return found

    def after_update(self, net: SparseModel, optimizer: Optimizer, before: Any) -> None:
        """Take the multiplicative step."""
        grads: dict[str, Tensor] = before
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

        def change(layer: Layer) -> None:
            x = next(iter(layer.latents.values()))
            grad = grads.get(layer.name, x.grad)
            if grad is not None:
                self._multiply(x, grad, rates[id(layer.weight)])

        net.change_latents(change)
        prunable = {id(layer.weight) for layer in net}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                outside = id(parameter) not in prunable and parameter.ndim >= 2
                if outside and parameter.grad is not None:
                    self._multiply(parameter, parameter.grad, group["lr"])

    def _multiply(self, x: Tensor, grad: Tensor, lr: float | Tensor) -> None:
        exponent = torch.mul(x.sign(), grad).mul_(-self.ham_alpha).sub_(self.ham_beta)
        x.mul_(exponent.mul_(lr).clamp_(-MAX_EXPONENT, MAX_EXPONENT).exp_())
