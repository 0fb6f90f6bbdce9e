"""WoodFisher: gradual pruning by second-order information, with compensation.

Singh & Alistarh 2020 (arXiv 2004.14340). The Hessian is approximated by the empirical Fisher matrix
F = λI + 1/n Σ g gᵀ, block-diagonal. Removing weight q costs θ_q²/(2·[F⁻¹]_qq), compared over all
layers, and moves the others of its block by −θ_q·F⁻¹e_q/[F⁻¹]_qq (moves add up if several weights
of a block are removed at once). Sparsity follows GMP's cubic.

Differs from the official code: a run prunes while it trains from scratch (theirs prunes a trained
network: call `sparsify` on one); g are the gradients of its last `gradients` batches before each
event (theirs: separate ones); a block consists of consecutive *active* weights; and F is inverted
by a Cholesky decomposition instead of by Woodbury's recursion.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_positive
from baselines.fields import changed
from baselines.method import Options, Plan
from baselines.methods.gmp import CubicOptions, CubicPruning
from baselines.registry import register
from baselines.tools.masks import global_masks
from baselines.tools.second_order import (
    Fisher,
    in_blocks,
    over_chunks,
    removal_costs,
    summed_compensation,
)


@dataclass(frozen=True)
class FisherOptions(CubicOptions):
    events: int = 10
    """Number of events; at most one per step."""
    gradients: int = changed(1024, before=32)
    """n: number of batch gradients in F, those right before each event and after the last one."""
    block_size: int = 32
    """Number of weights in a block."""
    damping: float = changed(1e-7, before=0.1)
    """λ."""
    relative_damping: bool = changed(False, before=True)
    """Give λ as a multiple of the mean of g² over all active weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(gradients=self.gradients, block_size=self.block_size, damping=self.damping)


F = TypeVar("F", bound=FisherOptions)


class FisherPruning(CubicPruning[F]):
    """Base of methods that prune by a block-diagonal inverse Fisher matrix."""

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.fisher = Fisher(self.options.block_size)

    def needs_dense_gradients(self, step: int) -> bool:
        return False

    reads_gradients = needs_dense_gradients  # Fisher counts those that are not finite as zero

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if any(step < event <= step + self.options.gradients for event in self.events):
            self.fisher.count += 1
            for layer in net:
                if layer.weight.grad is not None:
                    self.fisher.add(layer.name, layer.gather(layer.weight.grad).flatten())
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
        self.fisher = Fisher(self.options.block_size)

    def _blocks(self, net: SparseModel) -> dict[str, tuple[Tensor, Tensor]]:
        """Return weights (blocks, size) and Fisher matrices (blocks, size, size) by layer."""
        unit = self.fisher.mean_square(net.nnz) if self.options.relative_damping else 1.0
        return {
            layer.name: self.fisher.blocks(
                layer.name,
                layer.gather(layer.weight.detach()).flatten(),
                unit * self.options.damping,
            )
            for layer in net
        }

    @abstractmethod
    def costs(self, theta: Tensor, fisher: Tensor) -> Tensor:
        """Return the cost of removing each weight, (blocks, size)."""

    @abstractmethod
    def compensated(self, theta: Tensor, fisher: Tensor, keep: Tensor) -> Tensor:
        """Return the weights after those not in `keep` are removed, (blocks, size)."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.fisher.count, "sums": self.fisher.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sums = {name: total.clone() for name, total in state.get("sums", {}).items()}
        self.fisher = Fisher(self.options.block_size, state.get("count", 0), sums)
        for name, gradients in state.get("gradients", {}).items():  # of version 0.1
            self.fisher.count = len(gradients)
            for gradient in gradients:
                self.fisher.add(name, gradient)


@register
class WoodFisher(FisherPruning[FisherOptions]):
    """Gradual pruning by the cost of removing each weight alone."""

    name = "woodfisher"
    paper = "Singh & Alistarh 2020"

    def costs(self, theta: Tensor, fisher: Tensor) -> Tensor:
        return removal_costs(theta, fisher)

    def compensated(self, theta: Tensor, fisher: Tensor, keep: Tensor) -> Tensor:
        return summed_compensation(theta, fisher, keep)


def _spread(layer: Layer, blocks: Tensor, elsewhere: float) -> Tensor:
    """Return values of the active weights as a tensor of the weight's shape."""
    values = blocks.flatten()[: layer.nnz]
    dense = torch.full_like(layer.weight, elsewhere, dtype=blocks.dtype)
    return layer.scatter(values.view(layer.weight.shape) if layer.index is None else values, dense)
