"""AC/DC: alternating compressed and decompressed training.

Peste et al. 2021 (arXiv 2106.12379). A dense warm-up is followed by alternating sparse and dense
phases, then by a longer dense and a longer sparse phase. Each compression applies one global
magnitude threshold, at the full sparsity at once; each decompression restores all weights at zero
and clears all momentum.

Phases at 100 epochs, as in the official configuration: dense 0-9, then 5 sparse and 5 dense epochs
in turn, dense 75-84, sparse 85-99. The official ImageNet lists for 150 and 200 epochs are used as
well. Any other length has the phases of 100 epochs, scaled and rounded to steps.

Differs from the official code: the mask has exactly the requested number of ones (theirs has one
less and rounds in floating point), momentum is cleared (theirs is not on torch ≥ 2.0, because the
reset looks for gradients that zero_grad has set to None), and phases on CIFAR are those of ImageNet
(theirs: 20 epochs in 200).
"""

from __future__ import annotations

from typing import Literal

from baselines.engine.sparse_model import SparseModel
from baselines.method import Method, Options
from baselines.registry import register
from baselines.tools.masks import global_masks
from baselines.tools.schedules import acdc_phases


@register
class AcDc(Method[Options]):
    """Alternating compressed and decompressed training."""

    name = "acdc"
    family = "dense to sparse"
    paper = "Peste et al. 2021"

    def early_epoch(self, epoch: int) -> int:
        """Return the last epoch up to `epoch` that ends dense; `epoch` itself if none does."""

        def is_dense(epoch: int) -> bool:
            begun = [at for at in self.phases if at < epoch * self.plan.steps_per_epoch]
            return not begun or self.phases[max(begun)] == "dense"

        return next(filter(is_dense, range(epoch, 0, -1)), epoch)

    @property
    def phases(self) -> dict[int, Literal["sparse", "dense"]]:
        """First step of each phase after the dense warm-up, and its kind."""
        return acdc_phases(self.plan.epochs, self.plan.steps)

    def before_step(self, net: SparseModel, step: int) -> None:
        phase = self.phases.get(step)
        if phase == "sparse":
            net.set_masks(global_masks(net.magnitudes(), self.plan.sparsity))
        elif phase == "dense":
            net.set_masks(dict.fromkeys(net.layers))
            net.clear_state()
