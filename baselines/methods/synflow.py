"""SynFlow: keep the weights that carry the flow of an all-ones input.

Tanaka et al. 2020 (arXiv 2006.05467). All parameters are replaced by their absolute values, the
input is all ones, R is the sum of the outputs, and the score is |θ · ∂R/∂θ|. 100 iterations with
exponentially falling density, one threshold over all layers. Needs no data.

Scores are computed in float64 and eval mode: R of a ResNet50 at initialisation overflows float32,
and with the batch statistics of train mode the scores of every layer add up to zero. The one-shot
variant of some published codes (`iterations=1`) prunes whole layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, check_positive
from baselines.finite import all_finite
from baselines.forward import mapped
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks, zero_scales
from baselines.tools.density import keep_count
from baselines.tools.scores import Scores, scoring
from baselines.tools.synaptic_flow import Flow


@dataclass(frozen=True)
class SynFlowOptions(Options):
    iterations: int = 100
    """Number of prunings from dense to the requested density."""

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations)


@register
class SynFlow(Method[SynFlowOptions]):
    """Iterative synaptic flow at initialisation."""

    name = "synflow"
    family = "pruning at initialisation"
    paper = "Tanaka et al. 2020"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        density = keep_count(net.numel, self.plan.sparsity) / net.numel
        ones = mapped(_ones_like, samples.one_example())
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
    flow = Flow(net, ones)
    with scoring(flow.model, train=False):
        for i in range(1, iterations + 1):
            k = round(density ** (i / iterations) * net.numel)
            flow.prune(k)
    _check(flow.scores, k, net)
    return flow.masks


def _check(scores: Scores, k: int, net: SparseModel) -> None:
    """Check the last scores, of which k are kept."""
    if not all_finite(scores.values()):
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
