"""WoodFisher: gradual pruning by second-order information, with compensation.

Singh & Alistarh 2020 (arXiv 2004.14340). The Hessian is taken to be the empirical Fisher matrix
F = λI + 1/n Σ g gᵀ, block-diagonal. Removing weight q costs ρ_q = θ_q²/(2·[F⁻¹]_qq), over all
layers together, and the others of its block are moved by −θ_q·F⁻¹e_q/[F⁻¹]_qq (moves add up where
several weights of a block go at once). Sparsity follows GMP's cubic.

Differs from the official code: g are the gradients of the training's own last `gradients` batches
before each event (they run separate ones, of batches too in the large experiments); a block is
made of consecutive *active* weights, so that what is pruned already takes no room in it; λ is
relative to the mean of the squared gradients, because batch gradients shrink during training; and
the inverse is computed by Cholesky's method, which is exact, in place of Woodbury's recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Options, Plan
from baselines.methods.gmp import CubicOptions, Gmp
from baselines.tools.density import global_top_k_masks, keep_count

CHUNK = 512  # blocks worked on at a time: those of 32 weights then take 2 MiB


@dataclass(frozen=True)
class FisherOptions(CubicOptions):
    events: int = 10
    """Number of events; a short training has as many as it has steps."""
    gradients: int = 32
    """n: gradients of batches that F is made of, those right before each event."""
    block_size: int = 32
    """Weights in a block."""
    damping: float = 0.1
    """λ, as a multiple of the mean of g² over all active weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradients < 1 or self.block_size < 1:
            raise UserError("gradients and block_size must be positive.")
        if not self.damping > 0:
            raise UserError(f"damping must be positive, not {self.damping}.")


class WoodFisher(Gmp):
    """Gradual pruning by a block-diagonal inverse Fisher matrix."""

    name = "woodfisher"
    paper = "Singh & Alistarh 2020"
    options = FisherOptions

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.gradients: dict[str, list[Tensor]] = {}  # of the active weights, by layer

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if any(step < event <= step + self.opt.gradients for event in self.events):
            for layer in net:
                if layer.weight.grad is not None:
                    grad = layer.gather(layer.weight.grad).flatten().clone()
                    self.gradients.setdefault(layer.name, []).append(grad)
        return False

    def prune(self, net: SparseModel, sparsity: float) -> None:
        blocks = self._blocks(net)
        costs = {
            name: _spread(net.layers[name], _over_chunks(self.costs, *parts), -1.0)
            for name, parts in blocks.items()
        }
        masks = global_top_k_masks(costs, keep_count(net.numel, sparsity))
        weights = {}
        for name, parts in blocks.items():
            keep = net.layers[name].gather(masks[name]).flatten()
            moved = _over_chunks(self.moved, *parts, _in_blocks(keep, self.opt.block_size))
            weights[name] = _spread(net.layers[name], moved, 0.0)
        net.set_masks(masks)
        net.set_weights(weights)
        self.gradients = {}

    def _blocks(self, net: SparseModel) -> dict[str, tuple[Tensor, Tensor]]:
        """Weights (blocks, size) and Fisher factors (blocks, n + size, size), by layer."""
        squares = sum(float(g.square().sum()) for gs in self.gradients.values() for g in gs)
        count = sum(g.numel() for gs in self.gradients.values() for g in gs)
        damping = self.opt.damping * (squares / count if squares else 1.0)
        size, blocks = self.opt.block_size, {}
        for layer in net:
            theta = layer.gather(layer.weight.detach()).flatten()
            grads = [g.to(theta) for g in self.gradients.get(layer.name, [torch.zeros_like(theta)])]
            rows = torch.stack([_in_blocks(g, size) for g in grads], 1) / len(grads) ** 0.5
            root = torch.eye(size).to(theta) * damping**0.5
            blocks[layer.name] = (
                _in_blocks(theta, size),
                torch.cat([rows, root.expand(len(rows), size, size)], 1),
            )
        return blocks

    def costs(self, theta: Tensor, factors: Tensor) -> Tensor:
        """What the loss would rise by without each weight, (blocks, size)."""
        diagonal = inverse_fisher(factors).diagonal(dim1=1, dim2=2)
        return theta.square() / (2 * diagonal)

    def moved(self, theta: Tensor, factors: Tensor, keep: Tensor) -> Tensor:
        """The weights after those that go have gone."""
        inverse = inverse_fisher(factors)
        pulls = (theta / inverse.diagonal(dim1=1, dim2=2)).masked_fill(keep, 0.0)
        return (theta - torch.bmm(inverse, pulls.unsqueeze(2)).squeeze(2)).masked_fill(~keep, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"gradients": self.gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradients = state["gradients"]


def inverse_fisher(factors: Tensor) -> Tensor:
    """F⁻¹ of F = AᵀA, for A of (blocks, rows, size). In float64: F can be very ill-conditioned."""
    a = factors.double()
    fisher = torch.bmm(a.transpose(1, 2), a)
    return torch.cholesky_inverse(torch.linalg.cholesky(fisher)).to(factors.dtype)


def _in_blocks(values: Tensor, size: int) -> Tensor:
    """A vector as rows of `size`, the last one filled with zeros (or False)."""
    blocks = -(-values.numel() // size)
    padded = values.new_zeros(blocks * size)
    padded[: values.numel()] = values
    return padded.view(blocks, size)


def _over_chunks(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """A function of blocks, some at a time: what is computed in between stays small."""
    parts = [torch.split(argument, CHUNK) for argument in arguments]
    return torch.cat([function(*part) for part in zip(*parts, strict=True)])


def _spread(layer: Layer, blocks: Tensor, elsewhere: float) -> Tensor:
    """Values of the active weights as a tensor of the weight's shape."""
    values = blocks.flatten()[: layer.nnz]
    dense = torch.full_like(layer.weight, elsewhere)
    return layer.scatter(values.view(layer.weight.shape) if layer.index is None else values, dense)
