"""CHTs: Cannistraci-Hebb training with soft removal.

Zhang et al. 2025 (arXiv 2501.19107). A layer is a bipartite network of outputs and inputs. At an
update it keeps links drawn without replacement, with probabilities ∝ |θ|^T, where T rises from
`start_power` to `end_power` over the updates, and grows as many elsewhere, where most paths of
three links suggest one (CH2-L3; no gradient is needed). The replaced fraction anneals along a
cosine, and the update replaces the optimizer's step. The first mask is a bipartite receptive field:
links are more probable between units that are close, with units on a ring.

The published settings are 75 updates (every 100 of 10,000 steps, until 0.75 of them), a fraction
of 0.1, T from 1 to 9, and r = 0.3. The paper draws new links as well; the official code takes those
with the largest scores, and so does this one.

Differs from the official code: convolutions are pruned too, with inputs · kernel positions as the
inputs of the network (theirs are linear layers of transformers); layer-wise densities are ERK by
default (theirs: uniform); masks have exact numbers of ones; ties are broken at random (theirs can
choose links that exist already, and so have less).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_finite, check_in_unit, check_not_negative
from baselines.method import Method, Options
from baselines.methods.dynamic import warn_of_replaced_steps
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.density import layer_counts
from baselines.tools.link_prediction import ch2_l3, local_links, sample_links
from baselines.tools.masks import random_mask, seeded, top_k_mask
from baselines.tools.schedules import cosine_fraction, is_update


@dataclass(frozen=True)
class ChtsOptions(Options):
    density: Literal["erk", "balanced", "uniform"] = "erk"
    """How many weights each layer keeps."""
    start: Literal["receptive-field", "random"] = "receptive-field"
    """The first mask."""
    locality: float = 0.3
    """r of the receptive field: from 0, the nearest units only, to 1, any."""
    drop_fraction: float = 0.1
    """Fraction of a layer's weights that updates replace at first."""
    updates: int = 75
    """Number of updates; fewer if they would be less than 25 steps apart."""
    update_until: float = 0.75
    """Fraction of the steps after which masks are constant."""
    start_power: float = 1.0
    """T at the start: 0 removes at random, and the larger, the more the smallest weights."""
    end_power: float = 9.0
    """T at the end of the updates."""

    def __post_init__(self) -> None:
        check_in_unit(
            locality=self.locality,
            drop_fraction=self.drop_fraction,
            update_until=self.update_until,
        )
        powers = {"start_power": self.start_power, "end_power": self.end_power}
        check_not_negative(updates=self.updates, **powers)
        check_finite(**powers)


@register
class Chts(Method[ChtsOptions]):
    """Dynamic sparse training with growth by the network of links alone."""

    name = "chts"
    family = "dynamic sparse"
    paper = "Zhang et al. 2025"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        advice = "train for more steps, or use fewer updates."
        warn_of_replaced_steps(self.name, self.plan.steps, self.is_update, advice)
        net.require_ordinary("chts")
        counts = layer_counts(self.options.density, net.shapes, self.plan.sparsity)
        masks = {name: self.first(name, net.shapes[name], k) for name, k in counts.items()}
        set_initial_masks(self.name, net, masks, samples)

    def first(self, name: str, shape: tuple[int, ...], count: int) -> Tensor:
        """Return the first mask of a layer."""
        if self.options.start == "random":
            return random_mask(tuple(shape), count, self.plan.seed, name)
        flat = torch.empty(shape).flatten(1).shape
        generator = seeded(self.plan.seed, name)
        return local_links((flat[0], flat[1]), count, self.options.locality, generator).view(shape)

    @property
    def end(self) -> float:
        """Step from which masks are constant."""
        return self.options.update_until * self.plan.steps

    def is_update(self, step: int) -> bool:
        """Return whether the mask is updated at a step."""
        return is_update(step, self.end, self.options.updates)

    def needs_dense_gradients(self, step: int) -> bool:
        return False

    reads_gradients = needs_dense_gradients

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if not self.is_update(step):
            return False
        net.set_masks(
            {
                layer.name: self.updated(layer.weight.detach(), mask, layer.name, step)
                for layer in net
                if (mask := layer.mask) is not None
            }
        )
        return True

    def updated(self, weight: Tensor, mask: Tensor, name: str, step: int) -> Tensor:
        """Return the mask of a layer after an update, with as many ones."""
        given, generator = self.options, seeded(self.plan.seed, step, name)
        links = int(mask.sum())
        dropped = int(links * cosine_fraction(step, self.end, given.drop_fraction))
        power = given.start_power + step / self.end * (given.end_power - given.start_power)
        kept = sample_links(weight, mask, links - dropped, power, generator)
        scores = ch2_l3(kept.flatten(1)).flatten().masked_fill(kept.flatten(), -1.0)
        order = torch.randperm(len(scores), generator=generator, device="cpu").to(scores.device)
        grown = torch.zeros_like(kept).flatten()
        grown[order] = top_k_mask(scores[order], dropped)
        return kept | grown.view(mask.shape)
