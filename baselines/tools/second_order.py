"""Costs and compensation of pruning by a block-diagonal Fisher matrix.

A layer's active weights are cut into blocks: θ is (blocks, size), the Fisher matrix F of all blocks
(blocks, size, size). F can be very ill-conditioned: it is accumulated and inverted in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

ROUNDING = 1e-12  # least λ as a fraction of the largest entry of F, for the decomposition
CHUNK = 512  # blocks at a time: intermediate results of blocks of 32 weights take 4 MiB


@dataclass
class Fisher:
    """Sums over gradients g of the active weights, by layer: Σ g gᵀ of each block.

    Attributes:
        size: number of weights in a block.
        count: number of gradients.
    """

    size: int
    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, gradient: Tensor) -> None:
        """Add the gradient of a layer's active weights, a vector.

        One that is not finite counts as zero: a GradScaler skips its step.
        """
        finite = torch.where(gradient.isfinite().all(), gradient, 0.0)
        g = in_blocks(finite.double(), self.size)
        if name not in self.sums:
            self.sums[name] = g.new_zeros(len(g), self.size, self.size)
        self.sums[name] = self.sums[name].to(g.device)  # states are loaded on the CPU
        self.sums[name].baddbmm_(g.unsqueeze(2), g.unsqueeze(1))

    def mean_square(self, weights: int) -> float:
        """Return the mean of g² over all gradients of a number of weights; 1 if all are zero."""
        squares = sum(float(s.diagonal(dim1=1, dim2=2).sum()) for s in self.sums.values())
        return squares / (self.count * weights) if squares else 1.0

    def blocks(self, name: str, theta: Tensor, damping: float) -> tuple[Tensor, Tensor]:
        """Return a layer's weights, and λI + 1/n Σ g gᵀ, in blocks and float64.

        Args:
            theta: the layer's active weights, a vector.
            damping: λ; raised to what rounding allows to invert if gradients are huge.
        """
        weights = in_blocks(theta.double(), self.size)
        fisher = weights.new_zeros(len(weights), self.size, self.size)
        if name in self.sums:
            fisher += self.sums[name].to(fisher.device) / self.count
        diagonal = fisher.diagonal(dim1=1, dim2=2)
        diagonal += (ROUNDING * diagonal.amax(1, keepdim=True)).clamp_min(damping)
        return weights, fisher


def inverse_fisher(fisher: Tensor) -> Tensor:
    """Return F⁻¹."""
    return torch.cholesky_inverse(torch.linalg.cholesky(fisher))


def removal_costs(theta: Tensor, fisher: Tensor) -> Tensor:
    """Return the rise of the loss without each weight, θ_q²/(2·[F⁻¹]_qq), (blocks, size).

    Singh & Alistarh 2020 (WoodFisher).
    """
    diagonal = inverse_fisher(fisher).diagonal(dim1=1, dim2=2)
    return theta.square() / (2 * diagonal)


def summed_compensation(theta: Tensor, fisher: Tensor, keep: Tensor) -> Tensor:
    """Return the weights after removing those not in `keep`, (blocks, size).

    Each removed weight q moves all others by −θ_q·F⁻¹e_q/[F⁻¹]_qq; the moves add up
    (Singh & Alistarh 2020).
    """
    inverse = inverse_fisher(fisher)
    pulls = (theta / inverse.diagonal(dim1=1, dim2=2)).masked_fill(keep, 0.0)
    return (theta - torch.bmm(inverse, pulls.unsqueeze(2)).squeeze(2)).masked_fill(~keep, 0.0)


def joint_compensation(theta: Tensor, fisher: Tensor, keep: Tensor) -> Tensor:
    """Return the weights after removing those not in `keep`, (blocks, size).

    The kept weights K minimise the quadratic loss without the removed ones Q:
    θ_K + F_KK⁻¹ F_KQ θ_Q (Kuznedelev et al. 2023).
    """
    gone = torch.bmm(fisher, theta.masked_fill(keep, 0.0).unsqueeze(2))
    pairs = keep.unsqueeze(1) & keep.unsqueeze(2)
    inside = torch.where(pairs, fisher, torch.eye(keep.shape[1], device=fisher.device).to(fisher))
    move: Tensor = torch.linalg.solve(inside, gone.masked_fill(~keep.unsqueeze(2), 0.0))
    return (theta + move.squeeze(2)).masked_fill(~keep, 0.0)


def elimination_costs(theta: Tensor, inverse: Tensor, summed: bool = True) -> Tensor:
    """Return the costs of removing weights one by one, the cheapest first, (blocks, size).

    Each removal moves the other weights and updates the inverse (Kuznedelev et al. 2023).

    Args:
        theta: weights, (blocks, size).
        inverse: F⁻¹.
        summed: give each weight the cost of all removals up to its own, which is the rise of the
            block's loss; otherwise the highest cost of one of them.
    """
    theta, inverse = theta.clone(), inverse.clone()
    costs = torch.full_like(theta, torch.inf)
    rows, reached = torch.arange(len(theta), device=theta.device), torch.zeros_like(theta[:, 0])
    for _ in range(theta.shape[1]):
        diagonal = inverse.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
        now = (theta.square() / (2 * diagonal)).masked_fill(costs.isfinite(), torch.inf)
        cost, q = now.min(1)
        reached = reached + cost if summed else torch.maximum(reached, cost)
        costs[rows, q] = reached
        column = inverse[rows, :, q]
        pivot = column[rows, q].clamp_min(1e-30)
        theta -= (theta[rows, q] / pivot).unsqueeze(1) * column
        inverse -= column.unsqueeze(2) * (column / pivot.unsqueeze(1)).unsqueeze(1)
    return costs


def in_blocks(values: Tensor, size: int) -> Tensor:
    """Return a vector as rows of `size`, the last one padded with zeros (or False)."""
    blocks = -(-values.numel() // size)
    padded = values.new_zeros(blocks * size)
    padded[: values.numel()] = values
    return padded.view(blocks, size)


def over_chunks(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Apply a function of blocks to a few blocks at a time, which bounds its memory."""
    parts = [torch.split(argument, CHUNK) for argument in arguments]
    return torch.cat([function(*part) for part in zip(*parts, strict=True)])
