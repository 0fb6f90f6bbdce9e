"""STR: soft threshold re-parameterisation, a learned threshold a layer.

Kusupati et al. 2020 (arXiv 2002.03231). θ = sign(x)·max(|x| − σ(s), 0) with one trained s a layer;
where |x| ≤ σ(s) no gradient reaches x (autograd's own, no straight-through), and
∂L/∂s = −σ'(s)·Σ ∂L/∂θ·sign(θ).

The published method (`mode="published"`) has no sparsity to ask for: s starts far below zero and
weight decay alone carries it up, to s₀·exp(−E), E = decay·Σ lr/(1 − momentum). At another batch
size, length or learning rate the published constants end at another sparsity; those for ResNet50
at 90 % end at 0 % under this suite's ImageNet recipe. That they would prune nothing is an error
here, which says what decay would.

The default (`mode="target"`) reaches what is asked for under any recipe. The layers' s are trained
as published and decide how sparsity is shared out; at `events` points in time all s are moved by
the same amount, such that the whole network has the sparsity of GMP's cubic at that time. From
`end` on the sparsity stays, at the last step it is met to the weight, and what is zero then is the
mask. The threshold is exp(s) there, one that moves by a common factor then, at any size of the
weights; for thresholds as small as those of a ResNet50 it is the same as σ(s). Every move shrinks
the weights that remain: networks without normalisation feel that.

With Sign-In, x = m ⊙ w. Differs from the official code: s has a decay of its own in either mode,
which is 0 in the default one, where it would only undo what the layers have learned to differ in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.memory import in_memory_order, lie_alike
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Storage, Tensors
from baselines.errors import UserError
from baselines.method import Method, Options, Samples
from baselines.tools.density import global_top_k_masks, keep_count
from baselines.tools.schedules import cubic_sparsity, events

TOO_LOW = -20.0  # σ of it is 2e-9, below any weight that matters


@dataclass(frozen=True)
class StrOptions(Options):
    mode: Literal["target", "published"] = "target"
    """Meet the requested sparsity, or let weight decay find one."""
    begin: float = 0.1
    """target: the first move of the thresholds, as a fraction of the steps."""
    end: float = 0.7
    """target: when the requested sparsity is reached, likewise."""
    events: int = 100
    """target: number of moves over the whole training."""
    s_init: float = -100.0
    """published: s before training (theirs: −3200 and −12800 on ImageNet, about −100 on CIFAR)."""
    threshold_decay: float = 5e-4
    """published: decay of s (theirs: the weight decay; 2.25e-5 for 90 % on ImageNet)."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise UserError(f"need 0 <= begin < end <= 1, not {self.begin} and {self.end}.")
        if self.events < 1:
            raise UserError(f"events must be positive, not {self.events}.")
        if not self.s_init < 0 or self.threshold_decay < 0:
            raise UserError("s_init must be negative, and threshold_decay not.")


class Str(Method):
    """Soft threshold re-parameterisation."""

    name = "str"
    family = "dense to sparse"
    paper = "Kusupati et al. 2020"
    options = StrOptions

    def setup(self, net: SparseModel) -> None:
        published = self.opt.mode == "published"
        self.storage = (
            SoftThreshold(net.storage, "sigmoid", self.opt.s_init, self.opt.threshold_decay)
            if published
            else SoftThreshold(net.storage, "exp", TOO_LOW)
        )
        net.storage = self.storage

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        """Raises UserError where the published constants would prune nothing."""
        reach, start = self.plan.lr_integral, self.opt.s_init
        ends = predicted_s(start, self.opt.threshold_decay, reach)
        if self.opt.mode == "published" and reach and ends < TOO_LOW:
            needed = math.log(start / TOO_LOW) / reach
            raise UserError(
                f"str: s would go from {start:g} to {ends:.3g} only, and prune nothing: "
                f"threshold_decay must be above {needed:.2g} for this training."
            )

    def before_step(self, net: SparseModel, step: int) -> None:
        last = self.plan.steps - 1
        at = events(self.opt.begin, last / self.plan.steps, self.opt.events, self.plan.steps)
        if self.opt.mode == "target" and step in at:
            self._move_thresholds(net, self.sparsity(step))

    def after_step(self, net: SparseModel, step: int) -> None:
        if step == self.plan.steps - 1:
            self._end(net)

    def sparsity(self, step: int) -> float:
        """Wanted before a step: along a cubic from `begin` to `end`."""
        part = (step / self.plan.steps - self.opt.begin) / (self.opt.end - self.opt.begin)
        return cubic_sparsity(round(1e6 * min(1.0, max(0.0, part))), 10**6, self.plan.sparsity)

    def _move_thresholds(self, net: SparseModel, sparsity: float) -> dict[str, Tensor]:
        """Moves all s by one amount, such that the network has that sparsity. Returns the mask."""
        scores = {layer.name: self.storage.margin(layer) for layer in net}
        masks = global_top_k_masks(scores, keep_count(net.numel, sparsity))
        kept = torch.cat([scores[name][mask] for name, mask in masks.items()])
        # rounding must not take the weakest of those that stay
        top = max(score.max() for score in scores.values())
        shift = kept.min() - 1e-3 if len(kept) else top + 1
        net.change_latents(lambda layer: layer.latents["s"].add_(shift))  # type: ignore[arg-type]
        return masks

    def _end(self, net: SparseModel) -> None:
        if self.opt.mode == "target":
            masks = self._move_thresholds(net, self.plan.sparsity)
        else:
            masks = {layer.name: layer.weight != 0 for layer in net}
        net.set_masks(masks)

    def columns(self, net: SparseModel) -> dict[str, dict[str, float]]:
        """s and the threshold that it stands for."""
        s = {layer.name: layer.latents["s"].detach() for layer in net}
        return {
            "s": {name: value.item() for name, value in s.items()},
            "threshold": {name: self.storage.threshold(v).item() for name, v in s.items()},
        }


class SoftThreshold(Storage):
    """Keeps θ as the soft threshold of x, x by another storage, and a number s a layer.

    Args:
        inner: keeps x.
        kind: of the threshold, σ(s) or exp(s).
        s_init: of every layer.
        decay: weight decay of s.
    """

    keeps_values = False

    def __init__(
        self, inner: Storage, kind: Literal["sigmoid", "exp"], s_init: float, decay: float = 0.0
    ) -> None:
        self.inner, self.kind, self.s_init, self.shared_decay = inner, kind, s_init, decay
        self.names = (*inner.names, "s")

    def threshold(self, s: Tensor) -> Tensor:
        return s.sigmoid() if self.kind == "sigmoid" else s.exp()

    def slope(self, threshold: Tensor) -> Tensor:
        """Derivative of the threshold by s."""
        return threshold * (1 - threshold) if self.kind == "sigmoid" else threshold

    def split(self, thetas: Tensors) -> tuple[Tensors, ...]:
        """The given values become x, and s begins anew: for the start of training."""
        return (*self.inner.split(thetas), [x.new_tensor(self.s_init) for x in thetas])

    def split_again(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        """s stays. x stays where it makes θ already, else it is θ moved out by the threshold."""
        *inner, s = latents
        xs = self.inner.merge(tuple(inner))
        moved = [
            torch.where(soft_threshold(x, t) == theta, x, theta + theta.sign() * t)
            for x, t, theta in zip(xs, map(self.threshold, s), thetas, strict=True)
        ]
        return (*self.inner.split_again(moved, tuple(inner)), s)

    def merge(self, latents: tuple[Tensors, ...]) -> Tensors:
        *inner, s = latents
        xs = self.inner.merge(tuple(inner))
        return [soft_threshold(x, t) for x, t in zip(xs, map(self.threshold, s), strict=True)]

    def merge_into(self, thetas: Tensors, latents: tuple[Tensors, ...]) -> None:
        *inner, s = latents
        xs = self.inner.merge(tuple(inner))
        for theta, x, t in zip(thetas, xs, map(self.threshold, s), strict=True):
            soft_threshold(x, t, out=theta)

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        *inner, s = latents
        xs = self.inner.merge(tuple(inner))
        thresholds = [self.threshold(si) for si in s]
        pulled = [
            soft_threshold_backward(*each) for each in zip(grads, xs, thresholds, strict=True)
        ]
        inner_grads = self.inner.pull_back([dx for dx, _ in pulled], tuple(inner))
        return (
            *inner_grads,
            [dt * self.slope(t) for (_, dt), t in zip(pulled, thresholds, strict=True)],
        )

    def margin(self, layer: Layer) -> Tensor:
        """How far s could rise before each weight becomes zero: log|x| − s, for exp(s)."""
        *inner, s = layer.latents.values()
        (x,) = self.inner.merge(tuple([latent] for latent in inner))
        return x.detach().abs().clamp_min(1e-30).log() - s.detach()


def soft_threshold(x: Tensor, threshold: Tensor, out: Tensor | None = None) -> Tensor:
    """sign(x)·max(|x| − threshold, 0)."""
    if x.device.type == "cpu":  # in one pass; on a GPU it would wait for the number
        return torch.nn.functional.softshrink(  # type: ignore[call-arg]  # its stub has no out
            x, float(threshold), out=out
        )
    return torch.sub(x, x.clamp(-threshold, threshold), out=out)


def soft_threshold_backward(grad: Tensor, x: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """∂L/∂x and ∂L/∂threshold, from ∂L/∂θ."""
    if x.device.type == "cpu":
        dx = torch.ops.aten.softshrink_backward(grad, x, float(threshold))
    else:
        dx = grad.masked_fill(x.abs() <= threshold, 0.0)
    return dx, -_dot(dx, x.sign())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ ab, in one pass where both lie in memory in the same order."""
    if lie_alike(a, b):
        return torch.dot(in_memory_order(a), in_memory_order(b))
    return (a * b).sum()


def predicted_s(s_init: float, decay: float, lr_integral: float) -> float:
    """s at the end if decay alone moves it: s₀·exp(−decay·Σ lr/(1 − momentum))."""
    return s_init * math.exp(-decay * lr_integral)
