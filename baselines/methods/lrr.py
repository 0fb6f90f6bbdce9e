"""LRR, WR and IMP: iterative magnitude pruning, a training a level.

Train, prune the smallest weights of the whole network, train again, until the requested sparsity is
reached. What happens to the weights between two trainings tells the three apart:

- `lrr`, learning-rate rewinding (Renda et al. 2020, arXiv 2003.02389): they stay as they are.
- `wr`, weight rewinding (Frankle et al. 2020, arXiv 1912.05671): they go back to an early epoch.
- `imp`, the lottery ticket (Frankle & Carbin 2019, arXiv 1803.03635): they go back to the start.

Each level keeps 0.8 of the weights; the last one is clamped, so that the requested sparsity is met
to the weight (the published codes end at 83.2, 91.4 or 95.6 % where 80, 90 or 95 % is asked for).
At 90 % that makes 12 trainings.

Published codes differ in what else is rewound, so that each choice is an option. By default the
learning rate starts anew and the optimizer forgets, at every level; WR and IMP take batch
statistics back as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options, Plan
from baselines.tools.density import global_top_k_masks, keep_count


@dataclass(frozen=True)
class LevelOptions(Options):
    keep: float = 0.8
    """Fraction of the weights that each level keeps."""
    level_length: float = 1.0
    """Epochs of each level, as a fraction of the recipe's."""
    reset_optimizer: bool = True
    """Forget momentum at every level."""

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise UserError(f"keep must be in (0, 1), not {self.keep}.")
        if not self.level_length > 0:
            raise UserError(f"level_length must be positive, not {self.level_length}.")


@dataclass(frozen=True)
class RewindOptions(LevelOptions):
    rewind_statistics: bool = True
    """Take running statistics of batch normalisation back, too."""


@dataclass(frozen=True)
class WrOptions(RewindOptions):
    rewind_to: float = 1 / 15
    """Epoch to go back to, as a fraction of a level (epoch 10 of 150)."""
    rewind_lr: bool = False
    """Go on with the learning rate of that epoch, for the rest of a level only (Renda et al.).
    Otherwise it starts anew, for a whole level."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rewind_to < 1:
            raise UserError(f"rewind_to must be in [0, 1), not {self.rewind_to}.")


class Lrr(Method):
    """Iterative magnitude pruning with learning-rate rewinding."""

    name = "lrr"
    family = "iterative"
    paper = "Renda et al. 2020"
    options = LevelOptions
    variants = ({"level_length": 0.25},)

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.level_epochs: int = max(1, round(self.opt.level_length * plan.epochs))
        self.level_steps = self.level_epochs * plan.steps_per_epoch
        self.densities = level_densities(1 - plan.sparsity, self.opt.keep)
        self.rewind_epoch = 0  # what a level after the first one leaves out

    @property
    def epochs(self) -> int:
        later = len(self.densities) - 1  # levels after the first one
        return self.level_epochs + later * (self.level_epochs - self.rewind_epoch)

    def schedule(self, step: int) -> tuple[int, int]:
        _, within = self._place(step)
        return within, self.level_steps

    def before_step(self, net: SparseModel, step: int) -> None:
        level, _ = self._place(step)
        if level and self._place(step - 1)[0] != level:
            last = level == len(self.densities) - 1
            sparsity = self.plan.sparsity if last else 1 - self.densities[level]
            masks = global_top_k_masks(net.magnitudes(), keep_count(net.numel, sparsity))
            self.rewind(net)
            net.set_masks(masks)
            if self.opt.reset_optimizer:
                net.clear_state()

    def rewind(self, net: SparseModel) -> None:
        """Takes the weights back, if the method does."""

    def _place(self, step: int) -> tuple[int, int]:
        """Level, and step of a level's schedule."""
        if step < self.level_steps:
            return 0, step
        skipped = self.rewind_epoch * self.plan.steps_per_epoch
        level, within = divmod(step - self.level_steps, self.level_steps - skipped)
        return level + 1, within + skipped


class Imp(Lrr):
    """Iterative magnitude pruning with rewinding to initialisation."""

    name = "imp"
    paper = "Frankle & Carbin 2019"
    options = RewindOptions
    variants = ({"level_length": 0.25},)

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.saved: dict[str, Tensor] = {}

    def save_at(self) -> int:
        """The step of the first level that later ones go back to."""
        return 0

    def before_step(self, net: SparseModel, step: int) -> None:
        if step == self.save_at():
            self.saved = {k: v.detach().clone() for k, v in net.model.state_dict().items()}
        super().before_step(net, step)

    def rewind(self, net: SparseModel) -> None:
        parameters = dict(net.model.named_parameters())
        everything = self.opt.rewind_statistics
        state = {k: v for k, v in self.saved.items() if everything or k in parameters}
        net.model.load_state_dict({**net.model.state_dict(), **state})

    def state_dict(self) -> dict[str, Any]:
        return {"saved": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saved = state["saved"]


class Wr(Imp):
    """Iterative magnitude pruning with rewinding to an early epoch."""

    name = "wr"
    paper = "Frankle et al. 2020; Renda et al. 2020"
    options = WrOptions
    variants = ({"level_length": 0.25, "rewind_to": 0.2},)

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        wanted: int = round(self.opt.rewind_to * self.level_epochs)
        self.saved_epoch = min(wanted, self.level_epochs - 1)
        self.rewind_epoch = self.saved_epoch if self.opt.rewind_lr else 0

    def save_at(self) -> int:
        return self.saved_epoch * self.plan.steps_per_epoch


def level_densities(target: float, keep: float) -> list[float]:
    """1, keep, keep², … and at last the target itself."""
    levels = math.ceil(math.log(target) / math.log(keep) - 1e-9) if target < 1 else 0
    return [*(keep**i for i in range(levels)), target]
