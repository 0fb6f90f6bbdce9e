"""GraSP: keep the weights that preserve the gradient flow.

Wang et al. 2020 (arXiv 2002.07376). Score −θ ⊙ Hg, with g the gradient and H the Hessian of the
loss at temperature 200. The weights with the *largest* scores of all layers are pruned.

Differs from the official code: g and Hg use the same sample (theirs splits it in halves, to fit a
GPU's memory), linear layers are not re-initialised, and scores are not normalised, which changes no
mask.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.method import Method
from baselines.methods.snip import SampleOptions
from baselines.registry import register
from baselines.samples import Batch, Loss, Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.masks import global_masks
from baselines.tools.scores import Scores, mean_gradients, scoring

TEMPERATURE = 200.0


@register
class Grasp(Method[SampleOptions]):
    """Gradient signal preservation at initialisation."""

    name = "grasp"
    family = "pruning at initialisation"
    paper = "Wang et al. 2020"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        scores = grasp_scores(net, self.options.batches(samples), samples.loss)
        kept_first = {name: -score for name, score in scores.items()}
        masks = global_masks(kept_first, self.plan.sparsity)
        set_initial_masks(self.name, net, masks, samples, kept_first)


def grasp_scores(net: SparseModel, batches: Sequence[Batch], loss: Loss) -> Scores:
    """Return −θ ⊙ Hg by layer."""
    weights = net.weights
    with scoring(net.model):
        g: list[Tensor] = []
        if len(batches) > 1:  # else those that are differentiated are g
            g = mean_gradients(net.model, weights, batches, loss, TEMPERATURE)

        def along_g(grads: list[Tensor], share: float) -> Tensor:
            held = g or [grad.detach() for grad in grads]
            products = [(grad * fixed).sum() for grad, fixed in zip(grads, held, strict=True)]
            return sum(products[1:], products[0])

        hg = mean_gradients(net.model, weights, batches, loss, TEMPERATURE, along_g)
    return {
        name: -weight.detach() * part
        for (name, weight), part in zip(weights.items(), hg, strict=True)
    }
