"""SoftThreshold: a storage of θ as the soft threshold of x, with one trained s per layer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from baselines.engine import device
from baselines.engine.layer import Layer
from baselines.engine.memory_layout import in_memory_order, lie_alike
from baselines.engine.storage import Names, Storage, Tensors


class SoftThreshold(Storage):
    """θ = sign(x)·max(|x| − threshold(s), 0), with x kept by another storage.

    Args:
        inner: storage of x.
        kind: threshold(s) is the sigmoid σ(s) or exp(s).
        s_init: initial s of all layers.
        decay: weight decay of s.
    """

    keeps_values = False
    has_shared = True

    def __init__(
        self, inner: Storage, kind: Literal["sigmoid", "exp"], s_init: float, decay: float = 0.0
    ) -> None:
        self.inner, self.kind, self.s_init, self.shared_decay = inner, kind, s_init, decay
        self.names, self.added_decays = (*inner.names, "s"), inner.added_decays

    def threshold(self, s: Tensor) -> Tensor:
        """Return the threshold of s."""
        if self.kind == "sigmoid":
            return s.sigmoid()
        return s.exp().clamp(max=torch.finfo(s.dtype).max)  # softshrink refuses infinity

    def slope(self, threshold: Tensor) -> Tensor:
        """Return the derivative of the threshold with respect to s."""
        return threshold * (1 - threshold) if self.kind == "sigmoid" else threshold

    def split(self, thetas: Tensors, names: Names = ()) -> tuple[Tensors, ...]:
        """Return latents with x equal to the given values and a new s, to start a training."""
        return (*self.inner.split(thetas, names), [x.new_tensor(self.s_init) for x in thetas])

    def split_again(
        self, thetas: Tensors, latents: tuple[Tensors, ...], names: Names = (), keep: bool = False
    ) -> tuple[Tensors, ...]:
        """Return latents of θ with the same s.

        x is kept where it already yields θ; elsewhere it becomes θ + sign(θ)·threshold.
        """
        *inner, s = latents
        xs = self.inner.merge(tuple(inner))
        moved = [
            torch.where(soft_threshold(x, t) == theta, x, theta + theta.sign() * t)
            for x, t, theta in zip(xs, map(self.threshold, s), thetas, strict=True)
        ]
        return (*self.inner.split_again(moved, tuple(inner), names, keep), s)

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

    def unused(self, latents: tuple[Tensors, ...]) -> Tensors:
        return [theta == 0 for theta in self.merge(latents)]

    def margin(self, layer: Layer) -> Tensor:
        """Return how far s can rise before each weight becomes zero: log|x| − s, for exp(s)."""
        *inner, s = layer.latents.values()
        (x,) = self.inner.merge(tuple([latent] for latent in inner))
        return x.detach().abs().clamp_min(1e-30).log() - s.detach()


def soft_threshold(x: Tensor, threshold: Tensor, out: Tensor | None = None) -> Tensor:
    """Return sign(x)·max(|x| − threshold, 0), for a threshold of no dimension."""
    if device.on_cpu(x):  # one pass; on a GPU, float() would synchronise
        return torch.nn.functional.softshrink(  # type: ignore[call-arg]  # its stub has no out
            x, float(threshold), out=out
        )
    return torch.sub(x, x.clamp(-threshold, threshold), out=out)


def soft_threshold_backward(grad: Tensor, x: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∂L/∂x and ∂L/∂threshold from ∂L/∂θ."""
    if device.on_cpu(x):
        dx = torch.ops.aten.softshrink_backward(grad, x, float(threshold))
    else:
        dx = grad.masked_fill(x.abs() <= threshold, 0.0)
    return dx, -_dot(dx, x.sign())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return Σ ab, in one pass if both have the same memory layout."""
    if lie_alike(a, b):
        return torch.dot(in_memory_order(a), in_memory_order(b))
    return (a * b).sum()
