"""AC/DC: alternating compressed and decompressed training.

Peste et al. 2021 (arXiv 2106.12379). Dense warm-up, then sparse and dense phases in turn, then a
longer dense and a longer sparse phase. Each compression takes one global magnitude threshold,
at the full sparsity at once; each decompression brings all weights back at zero and clears all
momentum.

Phases at 100 epochs, as in the official configuration: dense 0-9, then 5 sparse and 5 dense in
turn, dense 75-84, sparse 85-99; the official lists for 150 and 200 epochs too. Any other budget
has the phases of 100 epochs, scaled, to the step.

Differs from the official code: the mask has exactly the requested number of ones (theirs has one
less, and rounds in floating point), and the momentum is really cleared (theirs is not, on any torch
since 2.0, because zero_grad leaves no gradient behind that the reset looks for).
"""

from __future__ import annotations

from baselines.engine.sparse_model import SparseModel
from baselines.method import Method
from baselines.tools.density import global_top_k_masks, keep_count
from baselines.tools.schedules import acdc_phases


class AcDc(Method):
    """Alternating compressed and decompressed training."""

    name = "acdc"
    family = "dense to sparse"
    paper = "Peste et al. 2021"

    def before_step(self, net: SparseModel, step: int) -> None:
        phases = acdc_phases(self.plan.epochs, self.plan.steps)
        if phases.get(step) == "sparse":
            k = keep_count(net.numel, self.plan.sparsity)
            net.set_masks(global_top_k_masks(net.magnitudes(), k))
        elif phases.get(step) == "dense":
            net.set_masks(dict.fromkeys(net.layers))
            net.clear_state()
