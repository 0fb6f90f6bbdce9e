"""PHEW: paths with higher edge weights, found by random walks at initialisation.

Patil & Dovrolis 2021 (arXiv 2010.11354). Walks go from the input to the output and from the output
to the input in turn, starting from every unit in turn. The next weight is drawn with probability
proportional to its magnitude. Weights on walks are kept, up to the requested number. Needs no data.

Differs from the official code: walks follow the true graph of any convolutional network (theirs
guesses residual branches from the order of parameters), branches are chosen with equal probability,
walks are made by the hundred, and the number of weights is exact: a walk that would exceed it is
left out, and single weights between units on walked paths, the largest first, fill the rest. They
also do so once nine of ten steps use known weights, which happens at densities above about 0.45.
"""

from __future__ import annotations

from baselines.engine.sparse_model import SparseModel
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.density import keep_count
from baselines.tools.masks import seeded
from baselines.tools.paths import trace
from baselines.tools.walks import walked_masks


@register
class Phew(Method[Options]):
    """Random walks over large weights."""

    name = "phew"
    family = "pruning at initialisation"
    paper = "Patil & Dovrolis 2021"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        paths = trace(net, samples.one_example())
        sizes = {layer.name: layer.weight.detach().abs().cpu() for layer in net}
        k = keep_count(net.numel, self.plan.sparsity)
        masks = walked_masks(paths, sizes, k, seeded(self.plan.seed, "phew"))
        set_initial_masks(self.name, net, masks, samples)
