"""SNIP: keep the weights whose removal would change the loss most.

Lee et al. 2019 (arXiv 1810.02340). Score |θ · ∂L/∂θ|, one shot, one threshold over all layers,
on some images of each class.

Differs from the published codes: the sample is class-balanced and not augmented, its batches do not
depend on how the data are loaded, gradients are averaged over the whole sample before the absolute
value is taken (some take it batch by batch), scoring uses the initial weights (some re-initialise)
and training mode (the official one: evaluation mode), and leaves batch statistics unchanged. Biases
are not pruned (by the official one they are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_not_negative, check_positive
from baselines.fields import changed
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Batch, Loss, Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.masks import global_masks
from baselines.tools.scores import Scores, mean_gradients, scoring, shuffled_batches


@dataclass(frozen=True)
class SampleOptions(Options):
    samples_per_class: int = 10
    """Number of training examples of each class in the sample."""
    sample_batch_size: int = changed(128, before=0)
    """Most images of the shuffled sample at a time; scores depend on it through batch statistics.
    0: the data's own batches, sorted by class, which depend on batch size and number of ranks."""

    def __post_init__(self) -> None:
        check_positive(samples_per_class=self.samples_per_class)
        check_not_negative(sample_batch_size=self.sample_batch_size)

    def batches(self, samples: Samples) -> list[Batch]:
        """Return the sample."""
        return shuffled_batches(samples, self.samples_per_class, self.sample_batch_size)


@register
class Snip(Method[SampleOptions]):
    """Connection sensitivity at initialisation."""

    name = "snip"
    family = "pruning at initialisation"
    paper = "Lee et al. 2019"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        scores = snip_scores(net, self.options.batches(samples), samples.loss)
        masks = global_masks(scores, self.plan.sparsity)
        set_initial_masks(self.name, net, masks, samples, scores)


def snip_scores(net: SparseModel, batches: Sequence[Batch], loss: Loss) -> Scores:
    """Return |θ · ∂L/∂θ| by layer."""
    with scoring(net.model):
        grads = mean_gradients(net.model, net.weights, batches, loss)
    return {
        name: (weight.detach() * grad).abs()
        for (name, weight), grad in zip(net.weights.items(), grads, strict=True)
    }
