"""STR: soft threshold re-parameterisation, a learned threshold per layer.

Kusupati et al. 2020 (arXiv 2002.03231). θ = sign(x)·max(|x| − σ(s), 0) with one trained s per
layer. Where |x| ≤ σ(s), x receives no gradient (autograd's own, no straight-through estimator), and
∂L/∂s = −σ'(s)·Σ ∂L/∂θ·sign(θ).

`mode="published"` is the published method. It has no target sparsity: s starts far below zero and
weight decay alone moves it up, to s₀·exp(−E) with E = decay·Σ lr/(1 − momentum). At another batch
size, length or learning rate the published constants give another sparsity; those for ResNet50 at
90 % give 0 % under this suite's ImageNet recipe. Constants that would prune nothing are refused,
with the decay that would prune.

`mode="target"`, the default, reaches the requested sparsity under any recipe. Each layer's s is
trained as published and determines how sparsity is distributed over layers. At `events` points in
time, all s move by the same amount, such that the whole network has the sparsity of GMP's cubic at
that time. From `end` on the sparsity is constant; after the last step it is exact, and the zeros
become the mask. The threshold is exp(s), so that a move multiplies all thresholds by one factor,
whatever the scale of the weights; for thresholds as small as those of a ResNet50, exp(s) ≈ σ(s).
Every move shrinks the remaining weights, which affects networks without normalisation.

With Sign-In, x = m ⊙ w. Differs from the official code: s has a weight decay of its own in both
modes. It is 0 in the default mode, where it would only undo the learned differences between layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.masks import global_masks
from baselines.tools.schedules import cubic_sparsity, events

TOO_LOW = -20.0  # σ(−20) = 2e-9 prunes nothing


@dataclass(frozen=True)
class StrOptions(Options):
    mode: Literal["target", "published"] = "target"
    """Reach the requested sparsity, or the one that weight decay leads to."""
    begin: float = 0.1
    """target: first move of the thresholds, as a fraction of the steps."""
    end: float = 0.7
    """target: when the requested sparsity is reached, as a fraction of the steps."""
    events: int = 100
    """target: number of moves over the whole training."""
    s_init: float = -100.0
    """published: initial s (theirs: −3200 and −12800 on ImageNet, about −100 on CIFAR)."""
    threshold_decay: float = 5e-4
    """published: weight decay of s (theirs: that of the weights; 2.25e-5 for 90 % on ImageNet)."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise UserError(f"need 0 <= begin < end <= 1, not {self.begin} and {self.end}.")
        if self.events < 1:
            raise UserError(f"events must be positive, not {self.events}.")
        if not self.s_init < 0 or self.threshold_decay < 0:
            raise UserError("s_init must be negative, and threshold_decay must not be.")


@register
class Str(Method[StrOptions]):
    """Soft threshold re-parameterisation."""

    name = "str"
    family = "dense to sparse"
    paper = "Kusupati et al. 2020"

    def setup(self, net: SparseModel) -> None:
        published = self.options.mode == "published"
        self.storage = (
            SoftThreshold(net.storage, "sigmoid", self.options.s_init, self.options.threshold_decay)
            if published
            else SoftThreshold(net.storage, "exp", TOO_LOW)
        )
        net.storage = self.storage

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        """Raise UserError if the published constants would prune nothing."""
        reach, start = self.plan.lr_integral, self.options.s_init
        final = predicted_s(start, self.options.threshold_decay, reach)
        if self.options.mode == "published" and reach and final < TOO_LOW:
            needed = math.log(start / TOO_LOW) / reach
            raise UserError(
                f"str: s would move from {start:g} to {final:.3g} only and prune nothing: "
                f"threshold_decay must be above {needed:.2g} for this training."
            )

    def before_step(self, net: SparseModel, step: int) -> None:
        last = self.plan.steps - 1
        end = last / self.plan.steps
        at = events(self.options.begin, end, self.options.events, self.plan.steps)
        if self.options.mode == "target" and step in at:
            self._move_thresholds(net, self.sparsity(step))

    def after_step(self, net: SparseModel, step: int) -> None:
        if step == self.plan.steps - 1:
            if self.options.mode == "target":
                masks = self._move_thresholds(net, self.plan.sparsity)
            else:
                masks = {layer.name: layer.weight != 0 for layer in net}
            net.set_masks(masks)

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


def predicted_s(s_init: float, decay: float, lr_integral: float) -> float:
    """Return the final s if decay alone moves it: s₀·exp(−decay·Σ lr/(1 − momentum))."""
    return s_init * math.exp(-decay * lr_integral)
