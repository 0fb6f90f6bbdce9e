"""A given mask, with initial signs and magnitudes from sources of their own.

"Sign-In to the Lottery" (arXiv 2504.12801), Tables 1 and 10: what does a mask need to be trained
from scratch? A source is a run (`RUN`: its last snapshot, `RUN@10`, `RUN@init`), a checkpoint file
(.safetensors, or a .pt/.pth/.ckpt file, of which no code is executed), or `random`: the
initialisation of this run itself. `--init SOURCE` is the source of all parts that are not given.

Biases, normalisation, batch statistics and all else that is not pruned start as this run
initialises them, unless `others` or `init` is given. Where the source of the signs has a zero, a
sign is drawn at random; where that of the magnitudes has one, the weight starts at zero. layers.csv
has their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from baselines.checkpoint import Checkpoint, with_epoch
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, check_in_unit
from baselines.method import Method, Options, Plan
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.density import keep_count
from signin.transplant import (
    PARTS,
    RANDOM,
    MagnitudeKind,
    kept_zeros,
    load_others,
    masks_of,
    seeded_transplant,
    weights_of,
)


@dataclass(frozen=True)
class FixedOptions(Options):
    init: str = ""
    """Source of all of the following that are not given."""
    mask: str = ""
    """Source of the masks: those it has, or else where its weights are not zero."""
    signs: str = ""
    """Source of the initial signs."""
    magnitudes: str = ""
    """Source of the initial magnitudes."""
    others: str = ""
    """Source of all other parameters and of buffers."""
    key: str = ""
    """Which network of files that have several, such as model_ema."""
    magnitude_kind: MagnitudeKind = "each"
    """The magnitude of each weight, or their mean over the layer's kept weights."""
    flip_signs: float = 0.0
    """Fraction of the signs to reverse at random."""
    mask_within: float = 0.0
    """Largest difference between the sparsity of the masks and the requested one. Named grids take
    the tolerance of the method that learned the masks."""

    def __post_init__(self) -> None:
        check_in_unit(flip_signs=self.flip_signs, mask_within=self.mask_within)
        for name in ("init", *PARTS):  # RUN and RUN@final are the same run
            if (source := getattr(self, name)) != RANDOM:
                object.__setattr__(self, name, with_epoch(source))

    def source(self, part: str) -> str:
        """Return the source of a part."""
        return getattr(self, part) or self.init or RANDOM

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple({self.source(part): None for part in PARTS if self.source(part) != RANDOM})

    @property
    def unlabelled(self) -> tuple[str, ...]:
        return ("mask_within",)


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
        self.zeros: dict[str, int] = {}  # kept weights of magnitude zero
        self.tolerance = self.options.mask_within
        if plan.read is not None:  # without, a method is described and not trained
            self._check_mask()

    def _check_mask(self) -> None:
        if self.plan.sparsity and self.options.source("mask") == RANDOM:
            raise UserError(
                "fixed trains a given mask: name its source (a run or a checkpoint file) with "
                "--mask or --init; the method random draws a mask."
            )

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        self._check_mask()
        texts = dict.fromkeys(self.options.source(part) for part in PARTS)
        read = {text: self._read(text, net) for text in texts}
        sources = {part: read[self.options.source(part)] for part in PARTS}
        own = {name: weight.detach().clone() for name, weight in net.weights.items()}
        masks = net.masks if sources["mask"] is None else masks_of(sources["mask"], own)
        self._check_sparsity(masks, net.numel)
        signs, magnitudes = (weights_of(sources[part], own) for part in ("signs", "magnitudes"))
        options = self.options
        weights, self.drawn = seeded_transplant(
            masks, signs, magnitudes, self.plan.seed, options.magnitude_kind, options.flip_signs
        )
        self.zeros = kept_zeros(masks, weights)
        if sources["others"] is not None:
            load_others(sources["others"], net)
        net.set_masks(masks)
        net.set_weights(weights)

    def _check_sparsity(self, masks: Mapping[str, Tensor], numel: int) -> None:
        kept = sum(int(mask.sum()) for mask in masks.values())
        missed = abs(kept - keep_count(numel, self.plan.sparsity))
        if missed > self.options.mask_within * numel:
            raise UserError(
                f"fixed: {self.options.source('mask')} has sparsity {1 - kept / numel}, "
                f"not {self.plan.sparsity:g}: give its sparsity with --sparsity."
            )

    def _read(self, text: str, net: SparseModel) -> Checkpoint | None:
        """Return the checkpoint of a source; None for this run's own initialisation."""
        if text == RANDOM:
            return None
        if self.plan.read is None:
            raise UserError(f"fixed: there is nothing to read {text} with; Plan.read is None.")
        return self.plan.read(text, key=self.options.key, like=net.model.state_dict())

    def columns(self, net: SparseModel) -> dict[str, dict[str, float]]:
        columns = {"drawn_signs": self.drawn, "zero_magnitudes": self.zeros}
        return {
            column: {name: counts[name] for name in net.layers}
            for column, counts in columns.items()
            if counts  # unknown in runs that an earlier version has started
        }

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "zeros": self.zeros}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]
        self.zeros = state.get("zeros", {})
