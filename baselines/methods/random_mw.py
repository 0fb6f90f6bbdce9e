"""Random pruning at initialisation: a random mask, kept for the whole training; and m ⊙ w on it.

`random`: Liu et al. 2022 (arXiv 2202.02643), Gadhikar et al. 2023 (arXiv 2210.02412). The "Random"
rows of "Sign-In to the Lottery" have balanced densities, so they are the default. Differs from the
published codes: each layer keeps an exact number of weights (they draw each weight independently),
and densities are solved exactly, so that the network has exactly the requested sparsity.
`legacy-balanced` and `legacy-erk` are as published, to match the paper's rows: they give a higher
sparsity than requested (see `baselines.tools.density`).

`mw`: "Sign-In to the Lottery" (arXiv 2504.12801), Table 11: trains θ = m ⊙ w without Sign-In's
rescaling, which shows what the factors alone are worth. With Sign-In it equals `random` with
Sign-In.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from baselines.engine.sparse_model import SparseModel
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.masks import random_masks


@dataclass(frozen=True)
class RandomOptions(Options):
    density: Literal[
        "balanced",
        "erk",
        "uniform",
        "erk-plus",
        "uniform-dense-first",
        "legacy-balanced",
        "legacy-erk",
    ] = "balanced"
    """How many weights each layer keeps. The legacy ones give a higher sparsity than requested."""


@register
class Random(Method[RandomOptions]):
    """A fixed random mask."""

    name = "random"
    family = "pruning at initialisation"
    paper = "Liu et al. 2022; Gadhikar et al. 2023"
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"density": "balanced"},
        {"density": "erk"},
        {"density": "uniform"},
    )

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        plan = self.plan
        masks = random_masks(self.options.density, net.shapes, plan.sparsity, plan.seed)
        set_initial_masks(self.name, net, masks, samples)


@register
class Mw(Random):
    """A fixed random mask, trained as θ = m ⊙ w."""

    name = "mw"
    paper = "Gadhikar et al. 2025, Table 11"
    variants = ({},)
    factorised = True
