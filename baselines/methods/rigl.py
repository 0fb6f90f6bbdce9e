"""RigL: a dynamic mask that grows where the dense gradient is largest.

Evci et al. 2020 (arXiv 1911.11134). Like SET, but growth follows |∂L/∂θ| at all positions, masked
or not, and the update replaces the step of the optimizer.

ΔT = 100 of the paper counts batches of 4,096 images. New weights start at zero with cleared
momentum; a weight that is dropped and grown in one update keeps both, as in the official code.

Differs from the official code: the first update is at step ΔT, as in the paper (theirs is at step
0), the drop fraction anneals from there over the updates' span, and no noise breaks ties. Growth
ranks the absolute value of the gradient's mean over ranks; both PyTorch ports rank the mean of the
absolute values, which is another thing with noisy gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.method import Method
from baselines.methods.set_ import DynamicOptions, Set


@dataclass(frozen=True)
class RigLOptions(DynamicOptions):
    keep_step: bool = False
    """Step the optimizer at updates too, as SET does."""


class RigL(Set):
    """Dynamic sparse training with growth by gradient."""

    name = "rigl"
    paper = "Evci et al. 2020"
    options = RigLOptions

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if not self.is_update(step):
            return False
        self.update(net, step)
        return not self.opt.keep_step

    def after_step(self, net: SparseModel, step: int) -> None:
        Method.after_step(self, net, step)

    def growth(self, layer: Layer, step: int) -> Tensor:
        """|∂L/∂θ|, averaged over ranks with its sign by DDP before."""
        grad = layer.weight.grad
        assert grad is not None
        return grad.abs()
