"""A given mask, with initial signs and magnitudes that come each from a source of its own.

"Sign-In to the Lottery" (arXiv 2504.12801), Tables 1 and 10: what does a mask need to be trained
from scratch? A source is a run and an epoch (`RUN@10`, `RUN@init`, `RUN@final`), a checkpoint file
(.safetensors, or a .pt/.pth/.ckpt state dict, of which no code is executed), or `random`, this
run's own initialisation. `--init SOURCE` stands for all of them at once.

Biases, normalisation and whatever else is not pruned begin afresh unless `others` says otherwise,
and so do batch statistics. A sign that the source does not have (its weight is zero) is drawn at
random; layers.csv tells how many were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options, Plan, Samples
from baselines.registry import register
from baselines.tools.density import keep_count
from baselines.tools.masks import seeded
from signin.signs import transplant

RANDOM = "random"
MASK = "mask:"  # of entries that are masks


@dataclass(frozen=True)
class FixedOptions(Options):
    init: str = ""
    """Source of all of the following that are not given."""
    mask: str = ""
    """Source of the masks: its own, or else its nonzero weights."""
    signs: str = ""
    """Source of the initial signs."""
    magnitudes: str = ""
    """Source of the initial magnitudes."""
    others: str = ""
    """Source of all other parameters and of buffers."""
    magnitude_kind: Literal["each", "layer"] = "each"
    """Each weight's own magnitude, or their mean over the layer's kept weights for all of them."""
    flip_signs: float = 0.0
    """Fraction of the signs to reverse at random."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip_signs <= 1:
            raise UserError(f"flip_signs must be in [0, 1], not {self.flip_signs}.")

    def source(self, of: str) -> str:
        return getattr(self, of) or self.init or RANDOM

    @property
    def needs(self) -> tuple[str, ...]:
        given = (self.source(of) for of in ("mask", "signs", "magnitudes", "others"))
        runs = (run for run, at, _ in (text.rpartition("@") for text in given) if at)
        return tuple(dict.fromkeys(run for run in runs if "/" not in run))


@register
class Fixed(Method[FixedOptions]):
    """Masks, signs and magnitudes from runs or files."""

    name = "fixed"
    family = "from a file"
    paper = "Gadhikar et al. 2025, Tables 1, 10"
    variants = ()

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.drawn: dict[str, int] = {}

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        sources = {of: self._read(of) for of in ("mask", "signs", "magnitudes", "others")}
        own = {name: weight.detach().clone() for name, weight in net.weights.items()}
        masks = net.masks if sources["mask"] is None else masks_of(sources["mask"], own)
        kept = sum(int(mask.sum()) for mask in masks.values())
        if kept != keep_count(net.numel, self.plan.sparsity):
            raise UserError(
                f"fixed: {self.options.source('mask')} has sparsity {1 - kept / net.numel}, "
                f"not {self.plan.sparsity:g}: say so with --sparsity."
            )
        signs, sizes = (weights_of(sources[of], own) for of in ("signs", "magnitudes"))
        if self.options.magnitude_kind == "layer":
            sizes = layer_means(sizes, masks)
        generator = seeded(self.plan.seed, "transplant")
        weights, self.drawn = transplant(masks, signs, sizes, generator, self.options.flip_signs)
        load_others(sources["others"], net)
        net.set_masks(masks)
        net.set_weights(weights)

    def _read(self, of: str) -> Mapping[str, Tensor] | None:
        """Named tensors; None for this run's own initialisation."""
        text = self.options.source(of)
        if text == RANDOM:
            return None
        if self.plan.read is None:
            raise UserError(f"fixed: nothing here can read {text}.")
        return self.plan.read(text)

    def columns(self, net: SparseModel) -> dict[str, dict[str, float]]:
        return {"drawn_signs": {name: self.drawn.get(name, 0) for name in net.layers}}

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def masks_of(source: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source's masks of all prunable layers, or where its weights are not zero.

    Args:
        like: the prunable weights, or others of their shapes.

    Raises:
        UserError: a layer is missing or of another shape, or a mask is not made of 0 and 1.
    """
    found = {}
    for name, weight in like.items():
        mask = source.get(MASK + name)
        mask = _entry(source, name, weight) != 0 if mask is None else mask
        if mask.shape != weight.shape:
            raise UserError(
                f"{MASK}{name} has shape {tuple(mask.shape)}, not {tuple(weight.shape)}."
            )
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise UserError(f"{MASK}{name} is not made of 0 and 1.")
        found[name] = mask.bool()
    return found


def weights_of(source: Mapping[str, Tensor] | None, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source's weights of all prunable layers; a network's own where there is no source.

    Raises:
        UserError: one is missing, of another shape, or not finite.
    """
    return dict(own) if source is None else entries_of(source, own)


def layer_means(sizes: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean magnitude of each layer's kept weights, for all of them."""
    return {k: size.abs()[masks[k]].mean().expand_as(size) for k, size in sizes.items()}


@torch.no_grad()
def load_others(source: Mapping[str, Tensor] | None, net: SparseModel) -> None:
    """All parameters and buffers that are not prunable weights. Nothing is loaded on an error."""
    if source is None:
        return
    state = {k: v for k, v in net.model.state_dict().items() if k not in net.layers}
    for name, value in entries_of(source, state).items():
        state[name].copy_(value)


def entries_of(source: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source's tensors of the given names and shapes.

    Raises:
        UserError: one is missing, of another shape, or not finite.
    """
    return {name: _entry(source, name, tensor) for name, tensor in like.items()}


def _entry(source: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    if name not in source:
        raise UserError(f"the source has no {name}.")
    value = source[name]
    if value.shape != like.shape:
        raise UserError(f"{name} has shape {tuple(value.shape)}, not {tuple(like.shape)}.")
    if value.is_floating_point() and not all(end.isfinite() for end in value.aminmax()):
        raise UserError(f"{name} has values that are not finite.")
    return value
