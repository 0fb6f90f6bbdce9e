"""Costs and compensation of pruning by a block-diagonal Fisher matrix.

A layer's active weights are cut into blocks. θ is (blocks, size). The Fisher matrix of a block is
F = AᵀA with the factor A, (blocks, rows, size).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 512  # blocks at a time: intermediate results of blocks of 32 weights take 2 MiB


def inverse_fisher(factors: Tensor) -> Tensor:
    """Return F⁻¹, (blocks, size, size). In float64: F can be very ill-conditioned."""
    a = factors.double()
    fisher = torch.bmm(a.transpose(1, 2), a)
    return torch.cholesky_inverse(torch.linalg.cholesky(fisher)).to(factors.dtype)


def removal_costs(theta: Tensor, factors: Tensor) -> Tensor:
    """Return the rise of the loss without each weight, θ_q²/(2·[F⁻¹]_qq), (blocks, size).

    Singh & Alistarh 2020 (WoodFisher).
    """
    diagonal = inverse_fisher(factors).diagonal(dim1=1, dim2=2)
    return theta.square() / (2 * diagonal)


def summed_compensation(theta: Tensor, factors: Tensor, keep: Tensor) -> Tensor:
    """Return the weights after removing those not in `keep`, (blocks, size).

    Each removed weight q moves all others by −θ_q·F⁻¹e_q/[F⁻¹]_qq; the moves add up
    (Singh & Alistarh 2020).
    """
    inverse = inverse_fisher(factors)
    pulls = (theta / inverse.diagonal(dim1=1, dim2=2)).masked_fill(keep, 0.0)
    return (theta - torch.bmm(inverse, pulls.unsqueeze(2)).squeeze(2)).masked_fill(~keep, 0.0)


def joint_compensation(theta: Tensor, factors: Tensor, keep: Tensor) -> Tensor:
    """Return the weights after removing those not in `keep`, (blocks, size).

    The kept weights K minimise the quadratic loss without the removed ones Q:
    θ_K + F_KK⁻¹ F_KQ θ_Q (Kuznedelev et al. 2023).
    """
    factors, dtype, theta = factors.double(), theta.dtype, theta.double()
    fisher = torch.bmm(factors.transpose(1, 2), factors)
    gone = torch.bmm(fisher, theta.masked_fill(keep, 0.0).unsqueeze(2))
    pairs = keep.unsqueeze(1) & keep.unsqueeze(2)
    inside = torch.where(pairs, fisher, torch.eye(keep.shape[1]).to(fisher))
    move: Tensor = torch.linalg.solve(inside, gone.masked_fill(~keep.unsqueeze(2), 0.0))
    return (theta + move.squeeze(2)).masked_fill(~keep, 0.0).to(dtype)


def elimination_costs(theta: Tensor, inverse: Tensor) -> Tensor:
    """Return the cost at which each weight is removed one by one, the cheapest first.

    Each removal moves the other weights and updates the inverse. A weight costs at least as much
    as those removed before it (Kuznedelev et al. 2023).

    Args:
        theta: weights, (blocks, size).
        inverse: F⁻¹, (blocks, size, size).
    """
    theta, inverse = theta.clone(), inverse.clone()
    costs = torch.full_like(theta, torch.inf)
    rows, reached = torch.arange(len(theta), device=theta.device), torch.zeros_like(theta[:, 0])
    for _ in range(theta.shape[1]):
        diagonal = inverse.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
        now = (theta.square() / (2 * diagonal)).masked_fill(costs.isfinite(), torch.inf)
        cost, q = now.min(1)
        reached = torch.maximum(reached, cost)
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
