"""Product storage θ = m ⊙ w: the re-parameterisation that Sign-In and three baselines train.

"Sign-In to the Lottery" (arXiv 2504.12801), §4, Algorithm 1 and Appendix B. One step of gradient
descent on the factors, with g = ∂L/∂θ and rate η, moves θ by −η(m² + w²)g + η²θg², where
m² + w² = √(4θ² + β²), and takes the inner scaling β = m² − w² to β(1 − η²g²). (Eq. 1 of the paper
writes the metric as √(θ² + β); the exact one is above. At θ = 0 and β = 1 it is 1: the learning
rate need not be changed.) Gradient noise and weight decay shrink β, and with it the chance
to flip a sign; splitting again resets it without changing θ.

Differences from the paper's listing: factors exist only where the mask is one, the numerically
stable form is used throughout, and nothing is done in the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from baselines.engine.storage import Names, Storage, Tensors
from baselines.errors import check_not_negative, check_positive


@dataclass(frozen=True)
class Product(Storage):
    """Keeps θ as m ⊙ w, split with m² − w² = β.

    Args:
        beta: the inner scaling β > 0 that a split sets.
        frobenius: λ of the decay on θ itself. λθ is added to the gradient, as SGD's
            `weight_decay` does; for the penalty λ‖θ‖² of gradient 2λθ, give twice as much.
        betas: β of layers by name that have another one.

    Raises:
        UserError: a β is not positive, or frobenius is negative.
    """

    names = ("m", "w")

    beta: float = 1.0
    frobenius: float = 0.0
    betas: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for beta in (self.beta, *self.betas.values()):
            check_positive(beta=beta)
        check_not_negative(frobenius=self.frobenius)
        added = ("the product m ⊙ w (frobenius_decay)",) if self.frobenius else ()
        object.__setattr__(self, "added_decays", added)

    def split(self, thetas: Tensors, names: Names = ()) -> tuple[Tensors, ...]:
        """Return m = √(α + √(θ² + α²)) > 0 and w = θ/m, with α = β/2 (Appendix B)."""
        betas = [self.betas.get(name, self.beta) for name in names] or [self.beta] * len(thetas)
        halves = [(x, beta / 2) for x, beta in zip(thetas, betas, strict=True)]
        m = [(x.hypot(x.new_tensor(alpha)) + alpha).sqrt() for x, alpha in halves]
        return m, torch._foreach_div(list(thetas), m)

    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        m, w = latents
        return torch._foreach_mul(list(m), list(w))

    def merge_into(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> None:
        """Write the products in one pass, without a temporary tensor."""
        for theta, m, w in zip(thetas, *latents, strict=True):
            torch.mul(m, w, out=theta)

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        """Return ∂m = (g + λθ) ⊙ w and ∂w = (g + λθ) ⊙ m."""
        g, (m, w) = list(grads), latents
        if self.frobenius:
            g = list(torch._foreach_addcmul(g, list(m), list(w), value=self.frobenius))
        return torch._foreach_mul(g, list(w)), torch._foreach_mul(g, list(m))
