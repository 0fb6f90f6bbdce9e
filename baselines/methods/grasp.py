"""GraSP: keep the weights that the gradient flow needs.

Wang et al. 2020 (arXiv 2002.07376). Score −θ ⊙ Hg, with g the gradient and H the Hessian of the
loss at temperature 200; the weights with the *largest* scores go, over all layers together.

Differs from the official code: g and Hg are those of one and the same sample (theirs splits it in
halves, to fit a GPU's memory), the classifier is not initialised anew, and the scores are not
normalised, which changes no mask.
"""

from __future__ import annotations

from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.method import Method, Samples
from baselines.methods.snip import SampleOptions
from baselines.tools.scores import Scores, keep_best, mean_gradients, scoring

TEMPERATURE = 200.0


class Grasp(Method):
    """Gradient signal preservation at initialisation."""

    name = "grasp"
    family = "pruning at initialisation"
    paper = "Wang et al. 2020"
    options = SampleOptions

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        scores = grasp_scores(net, samples, self.opt.samples_per_class)
        keep_best(net, {name: -score for name, score in scores.items()}, self.plan.sparsity)


def grasp_scores(net: SparseModel, samples: Samples, per_class: int) -> Scores:
    """−θ ⊙ Hg by layer."""
    weights = net.weights
    with scoring(net.model):
        g = mean_gradients(net.model, weights, samples, per_class, TEMPERATURE)

        def along_g(grads: list[Tensor], share: float) -> Tensor:
            products = [(grad * held).sum() for grad, held in zip(grads, g, strict=True)]
            return sum(products[1:], products[0])

        hg = mean_gradients(net.model, weights, samples, per_class, TEMPERATURE, along_g)
    return {
        name: -weight.detach() * part
        for (name, weight), part in zip(weights.items(), hg, strict=True)
    }
