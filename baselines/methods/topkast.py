"""Top-KAST: top-K always sparse training.

Jayakumar et al. 2020 (arXiv 2106.03517). The network computes with the D·N largest of a layer's N
weights x (set A), the next ones get gradients as well (set B, with A the `superset`·D·N largest),
and all others (set C) keep their values: θ = A(x) ⊙ x, and x receives B(x) ⊙ ∂L/∂θ. Both sets can
change at every step. The exploration loss pulls weights of B that are not in A to zero more
strongly than those of A, by the factor 1/D, and does not act on C.

The recipe's weight decay acts on A and B. `exploration` is the λ of what B has on top of that:
∂L/∂x receives λ·(1/D − 1)·x there. With SGD, and λ equal to the weight decay, this is the paper's
loss; AdamW decouples only the weight decay.

Layers have one density unless excluded (in the paper: first and last), exact after the last step. C
is restored after each step: neither momentum nor weight decay moves it. There is no official code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.engine import device
from baselines.engine.layer import Layer
from baselines.engine.selected import Selected
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Storage, Tensors
from baselines.errors import check_at_least, check_finite, check_not_negative
from baselines.method import Method, Options
from baselines.registry import register
from baselines.tools.density import keep_count
from baselines.tools.masks import layer_masks, top_k_mask


class Explored(Selected):
    """θ = A(x) ⊙ x, with gradients on B(x), a superset of A(x).

    Attributes:
        is_final: the masks are final, and A has all remaining weights.

    Args:
        inner: storage of x.
        sparsity: fraction of a layer's weights that are not in A.
        superset: size of B as a multiple of that of A.
        decay: λ of the exploration loss.
    """

    def __init__(self, inner: Storage, sparsity: float, superset: float, decay: float) -> None:
        super().__init__(inner)
        self.sparsity, self.superset, self.decay, self.is_final = sparsity, superset, decay, False
        self.added_decays += ("topkast",) if decay else ()

    def mask(self, x: Tensor) -> Tensor:
        """Return A(x)."""
        return self._largest(x, 1.0)

    def updated(self, x: Tensor) -> Tensor:
        """Return B(x)."""
        return self._largest(x, self.superset)

    def _largest(self, x: Tensor, multiple: float) -> Tensor:
        if self.is_final:
            return torch.ones_like(x, dtype=torch.bool)
        count = round(multiple * keep_count(x.numel(), self.sparsity))
        return magnitude_mask(x.detach(), min(x.numel(), count))

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        more = self.decay * (1 / (1 - self.sparsity) - 1)
        explored = [
            (grad + more * x.masked_fill(self.mask(x), 0.0)) * self.updated(x)
            for grad, x in zip(grads, self.inner.merge(latents), strict=True)
        ]
        return self.inner.pull_back(explored, latents)

    def unused(self, latents: tuple[Tensors, ...]) -> Tensors:
        return [~self.updated(x) for x in self.inner.merge(latents)]

    def values(self, layer: Layer) -> Tensor:
        """Return x of a layer."""
        (x,) = self.inner.merge(tuple([latent.detach()] for latent in layer.latents.values()))
        return x


def magnitude_mask(x: Tensor, k: int) -> Tensor:
    """Return a mask of the k largest |x|; on a GPU, without waiting for it."""
    if device.on_cpu(x):
        return top_k_mask(x.abs(), k)
    mask = torch.zeros(x.numel(), dtype=torch.bool, device=x.device)
    return mask.scatter_(0, x.abs().flatten().topk(k, sorted=False).indices, True).view(x.shape)


@dataclass(frozen=True)
class TopKastOptions(Options):
    superset: float = 2.0
    """Number of weights with gradients (set B), as a multiple of those of the network (set A)."""
    exploration: float = 1e-4
    """λ: decay of the weights in B that are not in A, times 1/D − 1, on top of the recipe's."""

    def __post_init__(self) -> None:
        check_at_least(1, superset=self.superset)
        check_finite(superset=self.superset)
        check_not_negative(exploration=self.exploration)


@register
class TopKast(Method[TopKastOptions]):
    """Computes with the K largest weights, and trains some more."""

    name = "topkast"
    family = "dynamic sparse"
    paper = "Jayakumar et al. 2020"

    def setup(self, net: SparseModel) -> None:
        given, plan = self.options, self.plan
        self.storage = Explored(net.storage, plan.sparsity, given.superset, given.exploration)
        net.storage = self.storage

    def needs_dense_gradients(self, step: int) -> bool:
        return False  # the masks are full

    reads_gradients = needs_dense_gradients

    def after_backward(self, net: SparseModel, step: int) -> bool:
        xs = {layer.name: self.storage.values(layer) for layer in net}
        self.updated = {name: self.storage.updated(x) for name, x in xs.items()}
        self.before = {
            layer.name: [latent.detach().clone() for latent in layer.own_latents] for layer in net
        }
        return False

    def after_step(self, net: SparseModel, step: int) -> None:
        net.change_latents(self._restore)
        if step == self.plan.steps - 1:
            scores = {layer.name: self.storage.values(layer).abs() for layer in net}
            self.storage.is_final = True
            net.set_masks(layer_masks(scores, self.plan.sparsity))

    def _restore(self, layer: Layer) -> None:
        """Give the weights outside of B the latents that they had before the step."""
        for latent, before in zip(layer.own_latents, self.before[layer.name], strict=True):
            latent.copy_(torch.where(self.updated[layer.name], latent, before))

    def state_dict(self) -> dict[str, Any]:
        return {"is_final": self.storage.is_final}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.storage.is_final = state["is_final"]
