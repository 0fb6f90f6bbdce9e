"""STR (target): learned thresholds, moved such that the network has the requested sparsity.

A variation of STR (see `baselines.methods.str_`) by this suite. The s of each layer is trained as
published and determines how sparsity is distributed over layers. At `events` points in time, all s
move by the same amount, such that the whole network has the sparsity of GMP's cubic at that time.
From `end` on the sparsity is constant; after the last step it is exact, and the zeros become the
mask.

The threshold is exp(s), so that a move multiplies all thresholds by one factor, whatever the scale
of the weights; for thresholds as small as those of a ResNet50, exp(s) ≈ σ(s). s has no weight
decay, which would only undo the learned differences between layers. Every move shrinks the
remaining weights, which affects networks without normalisation. With Sign-In, x = m ⊙ w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, check_positive
from baselines.method import Method, Options
from baselines.registry import register
from baselines.tools.masks import global_masks
from baselines.tools.schedules import cubic_sparsity, events

TOO_LOW = -20.0  # σ(−20) = 2e-9 prunes nothing


@dataclass(frozen=True)
class StrTargetOptions(Options):
    begin: float = 0.1
    """First move of the thresholds, as a fraction of the steps."""
    end: float = 0.7
    """When the requested sparsity is reached, as a fraction of the steps."""
    events: int = 100
    """Number of moves over the whole training."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise UserError(f"need 0 <= begin < end <= 1, not {self.begin} and {self.end}.")
        check_positive(events=self.events)


T = TypeVar("T", bound=StrTargetOptions, covariant=True)


class MovedThresholds(Method[T]):
    """One trained threshold per layer, moved to the requested sparsity."""

    family = "dense to sparse"
    paper = "Kusupati et al. 2020"

    def setup(self, net: SparseModel) -> None:
        net.storage = self.storage = SoftThreshold(net.storage, "exp", TOO_LOW)

    def before_step(self, net: SparseModel, step: int) -> None:
        begin, last = self.options.begin, self.plan.steps - 1
        if step in events(begin, last / self.plan.steps, self.options.events, self.plan.steps):
            self._move_thresholds(net, self.sparsity(step))

    def after_step(self, net: SparseModel, step: int) -> None:
        if step == self.plan.steps - 1:
            net.set_masks(self._move_thresholds(net, self.plan.sparsity))

    def sparsity(self, step: int) -> float:
        """Return the sparsity wanted before a step: a cubic from `begin` to `end`."""
        begin, end = self.options.begin, self.options.end
        part = (step / self.plan.steps - begin) / (end - begin)
        return cubic_sparsity(round(1e6 * min(1.0, max(0.0, part))), 10**6, self.plan.sparsity)

    def _move_thresholds(self, net: SparseModel, sparsity: float) -> dict[str, Tensor]:
        """Move all s by one amount, such that the network has that sparsity. Return the masks."""
        scores = {layer.name: self.storage.margin(layer) for layer in net}
        masks = global_masks(scores, sparsity)
        kept = torch.cat([scores[name][mask] for name, mask in masks.items()])
        # 1e-3 below the weakest kept weight, so that rounding does not prune it
        top = max(score.max() for score in scores.values())
        shift = kept.min() - 1e-3 if len(kept) else top + 1
        net.change_latents(lambda layer: layer.latents["s"].add_(shift))  # type: ignore[arg-type]
        return masks

    def columns(self, net: SparseModel) -> dict[str, dict[str, float]]:
        """Return s and its threshold."""
        s = {layer.name: layer.latents["s"].detach() for layer in net}
        return {
            "s": {name: value.item() for name, value in s.items()},
            "threshold": {name: self.storage.threshold(v).item() for name, v in s.items()},
        }


@register
class StrTarget(MovedThresholds[StrTargetOptions]):
    """Soft thresholds that reach the requested sparsity."""

    name = "str-target"
