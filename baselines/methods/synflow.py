"""SynFlow: keep the weights that carry the flow of an all-ones input.

Tanaka et al. 2020 (arXiv 2006.05467). All parameters are replaced by their absolute values, the
input is all ones, R is the sum of the outputs, and the score is |θ · ∂R/∂θ|. 100 iterations with
exponentially falling density, one threshold over all layers. Needs no data.

Scores are computed in float64 and eval mode: R of a ResNet50 at initialisation overflows float32,
and with the batch statistics of train mode the scores of every layer add up to zero. The one-shot
variant of some published codes (`iterations=1`) prunes whole layers.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.forward import call, logits_of, mapped, one_example
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks, zero_scales
from baselines.tools.density import keep_count
from baselines.tools.masks import top_k_mask
from baselines.tools.scores import Scores, gradients, scoring


@dataclass(frozen=True)
class SynFlowOptions(Options):
    iterations: int = 100
    """Number of prunings from dense to the requested density."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"iterations must be positive, not {self.iterations}.")


@register
class SynFlow(Method[SynFlowOptions]):
    """Iterative synaptic flow at initialisation."""

    name = "synflow"
    family = "pruning at initialisation"
    paper = "Tanaka et al. 2020"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        x, _ = next(iter(samples(1)))
        density = keep_count(net.numel, self.plan.sparsity) / net.numel
        ones = mapped(_ones_like, one_example(x))
        masks = synflow_masks(net, ones, density, self.options.iterations)
        set_initial_masks(self.name, net, masks, samples)


def _ones_like(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise UserError(
            f"synflow replaces the input by ones, which an input of type {x.dtype} does not allow "
            "(the index of an embedding, say): use snip or grasp."
        )
    return torch.ones_like(x)


def synflow_masks(
    net: SparseModel, ones: Any, density: float, iterations: int
) -> dict[str, Tensor]:
    """Return the masks after some iterations, each of which scores what the previous one left.

    Args:
        ones: an input of ones, for images (1, C, H, W).
        density: final fraction of weights kept, in (0, 1].

    Raises:
        UserError: scores overflow float64, or fewer weights than are kept have a score above 0.
    """
    flow = _Flow(net, ones)
    with scoring(flow.model, train=False):
        for i in range(1, iterations + 1):
            k = round(density ** (i / iterations) * net.numel)
            flow.prune(k)
    _check(flow.scores, k, net)
    return flow.masks


class _Flow:
    """A copy of a network with non-negative parameters in float64, which is pruned by its flow.

    Weights and scores are stored one after the other, so that each step is one pass over them.
    """

    def __init__(self, net: SparseModel, ones: Any) -> None:
        self.model = copy.deepcopy(net.model).double()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.abs_()
        self.ones = mapped(Tensor.double, ones)
        self.weights = {name: self.model.get_parameter(name) for name in net.layers}
        self._shapes = net.shapes
        self._theta = torch.cat([weight.detach().flatten() for weight in self.weights.values()])
        for name, part in self._by_layer(self._theta).items():
            self.weights[name].data = part
        self._scores = torch.empty_like(self._theta)
        self._active = torch.ones_like(self._theta, dtype=torch.bool)
        self._left = net.numel

    @property
    def masks(self) -> dict[str, Tensor]:
        return self._by_layer(self._active)

    @property
    def scores(self) -> Scores:
        """The scores that the last pruning was decided by."""
        return self._by_layer(self._scores)

    def prune(self, k: int) -> None:
        """Keep the k weights with the largest scores."""
        _write_scores(self.scores, self.model, self.weights, self.ones)
        gone = self._active ^ top_k_mask(self._scores, k)
        if int(gone.count_nonzero()) != self._left - k:  # scores of 0: active weights come first
            scores = self._scores.masked_fill(~self._active, -1.0)
            gone = self._active ^ top_k_mask(scores, k)
        self._theta.masked_fill_(gone, 0.0)
        self._active ^= gone
        self._left = k

    def _by_layer(self, flat: Tensor) -> dict[str, Tensor]:
        parts = torch.split(flat, [math.prod(shape) for shape in self._shapes.values()])
        return {
            name: part.view(shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }


def _check(scores: Scores, k: int, net: SparseModel) -> None:
    """Check the last scores, of which k are kept."""
    if not all(bool(score.isfinite().all()) for score in scores.values()):
        raise UserError("synflow: the flow of this network overflows float64.")
    flowing = sum(int((score > 0).sum()) for score in scores.values())
    if flowing < k < net.numel:
        cause = " ".join(zero_scales(net.model)) or (
            "Activations that saturate, such as ReLU6, stop the flow of large inputs."
        )
        raise UserError(
            f"synflow: only {flowing} of the {k} weights to keep have a score above 0; the "
            f"position of the others would choose them. {cause}"
        )


def synflow_scores(
    model: nn.Module, weights: Scores | dict[str, nn.Parameter], ones: Any
) -> Scores:
    """Return |θ · ∂R/∂θ| by layer, for a model whose parameters are not negative."""
    scores = {name: torch.empty_like(weight) for name, weight in weights.items()}
    with scoring(model, train=False):
        _write_scores(scores, model, weights, ones)
    return scores


def _write_scores(
    out: Scores, model: nn.Module, weights: Scores | dict[str, nn.Parameter], ones: Any
) -> None:
    grads = gradients(logits_of(call(model, ones)).sum(), weights)
    for (name, weight), grad in zip(weights.items(), grads, strict=True):
        torch.mul(weight.detach(), grad, out=out[name]).abs_()
