"""WoodFisher: gradual pruning by second-order information, with compensation.

Singh & Alistarh 2020 (arXiv 2004.14340). The Hessian is approximated by the empirical Fisher matrix
F = λI + 1/n Σ g gᵀ, block-diagonal. Removing weight q costs θ_q²/(2·[F⁻¹]_qq), compared over all
layers, and moves the others of its block by −θ_q·F⁻¹e_q/[F⁻¹]_qq (moves add up if several weights
of a block are removed at once). Sparsity follows GMP's cubic.

Differs from the official code: g are the gradients of the training's own last `gradients` batches
before each event (theirs runs separate ones, in the large experiments of batches, too); a block
consists of consecutive *active* weights, so that pruned weights take no room in it; λ is relative
to the mean of the squared gradients, because batch gradients shrink during training; and F is
inverted exactly, by a Cholesky decomposition, instead of by Woodbury's recursion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Options, Plan
from baselines.methods.gmp import CubicOptions, CubicPruning
from baselines.registry import register
from baselines.tools.masks import global_masks
from baselines.tools.second_order import (
    in_blocks,
    over_chunks,
    removal_costs,
    summed_compensation,
)


@dataclass(frozen=True)
class FisherOptions(CubicOptions):
    events: int = 10
    """Number of events; at most one per step."""
    gradients: int = 32
    """n: number of batch gradients in F, those right before each event."""
    block_size: int = 32
    """Number of weights in a block."""
    damping: float = 0.1
    """λ, as a multiple of the mean of g² over all active weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradients < 1 or self.block_size < 1:
            raise UserError("gradients and block_size must be positive.")
        if not self.damping > 0:
            raise UserError(f"damping must be positive, not {self.damping}.")


@register
class WoodFisher(CubicPruning[FisherOptions]):
    """Gradual pruning by a block-diagonal inverse Fisher matrix."""

    name = "woodfisher"
    paper = "Singh & Alistarh 2020"

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.gradients: dict[str, list[Tensor]] = {}  # of the active weights, by layer

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if any(step < event <= step + self.options.gradients for event in self.events):
            for layer in net:
                if layer.weight.grad is not None:
                    grad = layer.gather(layer.weight.grad).flatten().clone()
                    self.gradients.setdefault(layer.name, []).append(grad)
        return False

    def prune(self, net: SparseModel, sparsity: float) -> None:
        blocks = self._blocks(net)
        costs = {
            name: _spread(net.layers[name], over_chunks(self.costs, *parts), -1.0)
            for name, parts in blocks.items()
        }
        masks = global_masks(costs, sparsity)
        weights = {}
        for name, parts in blocks.items():
            keep = net.layers[name].gather(masks[name]).flatten()
            kept_blocks = in_blocks(keep, self.options.block_size)
            moved = over_chunks(self.compensated, *parts, kept_blocks)
            weights[name] = _spread(net.layers[name], moved, 0.0)
        net.set_masks(masks)
        net.set_weights(weights)
        self.gradients = {}

    def _blocks(self, net: SparseModel) -> dict[str, tuple[Tensor, Tensor]]:
        """Return weights (blocks, size) and Fisher factors (blocks, n + size, size) by layer."""
        squares = sum(float(g.square().sum()) for gs in self.gradients.values() for g in gs)
        count = sum(g.numel() for gs in self.gradients.values() for g in gs)
        damping = self.options.damping * (squares / count if squares else 1.0)
        size, blocks = self.options.block_size, {}
        for layer in net:
            theta = layer.gather(layer.weight.detach()).flatten()
            grads = [g.to(theta) for g in self.gradients.get(layer.name, [torch.zeros_like(theta)])]
            rows = torch.stack([in_blocks(g, size) for g in grads], 1) / len(grads) ** 0.5
            root = torch.eye(size).to(theta) * damping**0.5
            blocks[layer.name] = (
                in_blocks(theta, size),
                torch.cat([rows, root.expand(len(rows), size, size)], 1),
            )
        return blocks

    def costs(self, theta: Tensor, factors: Tensor) -> Tensor:
        """Return the cost of removing each weight, (blocks, size)."""
        return removal_costs(theta, factors)

    def compensated(self, theta: Tensor, factors: Tensor, keep: Tensor) -> Tensor:
        """Return the weights after those not in `keep` are removed, (blocks, size)."""
        return summed_compensation(theta, factors, keep)

    def state_dict(self) -> dict[str, Any]:
        return {"gradients": self.gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradients = state["gradients"]


def _spread(layer: Layer, blocks: Tensor, elsewhere: float) -> Tensor:
    """Return values of the active weights as a tensor of the weight's shape."""
    values = blocks.flatten()[: layer.nnz]
    dense = torch.full_like(layer.weight, elsewhere)
    return layer.scatter(values.view(layer.weight.shape) if layer.index is None else values, dense)
