"""Random pruning at initialisation: a mask drawn at random, kept for the whole training.

Liu et al. 2022 (arXiv 2202.02643), Gadhikar et al. 2023 (arXiv 2210.02412). The paper's "Random"
row has balanced densities, so they are the default here.

Differs from the published codes: each layer keeps an exact number of weights (they draw each
weight independently), and the densities are solved exactly, so that the network has the requested
sparsity to the weight. `legacy-balanced` and `legacy-erk` are as published, for matching the
paper's rows: they come out sparser than asked for (see `baselines.tools.density`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from baselines.engine.sparse_model import SparseModel
from baselines.method import Method, Options, Samples
from baselines.tools.density import random_masks


@dataclass(frozen=True)
class RandomOptions(Options):
    density: Literal["balanced", "erk", "uniform", "erk-plus", "legacy-balanced", "legacy-erk"] = (
        "balanced"
    )
    """How many weights each layer keeps. The legacy ones come out sparser than asked for."""


class Random(Method):
    """A fixed random mask."""

    name = "random"
    family = "pruning at initialisation"
    paper = "Liu et al. 2022; Gadhikar et al. 2023"
    options = RandomOptions
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"density": "balanced"},
        {"density": "erk"},
        {"density": "uniform"},
    )

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        net.set_masks(
            random_masks(self.opt.density, net.shapes, self.plan.sparsity, self.plan.seed)
        )
