"""LRR, WR and IMP: train, prune the smallest weights of the network, train again, level by level.

- `lrr`, learning-rate rewinding (Renda et al. 2020, arXiv 2003.02389): the weights stay.
- `wr`, weight rewinding (Frankle et al. 2020, arXiv 1912.05671): they return to an early epoch.
- `imp`, the lottery ticket (Frankle & Carbin 2019, arXiv 1803.03635): they return to the start.

Each level keeps 0.8 of the weights and lasts whole epochs; the last one is exact (published codes
end at 83.2, 91.4, 95.6 %). They differ in what else is rewound: each choice is an option.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_fraction
from baselines.fields import changed
from baselines.method import Options, Plan
from baselines.methods.iterative import IterativePruning, LevelOptions
from baselines.registry import register
from baselines.tools.levels import rewind_epoch


@dataclass(frozen=True)
class RewindOptions(LevelOptions):
    rewind_statistics: bool = True
    """Rewind the running statistics of batch normalisation, too."""


@dataclass(frozen=True)
class WrOptions(RewindOptions):
    rewind_to: float = 1 / 15
    """Epoch to rewind to, as a fraction of a cycle (epoch 10 of 150)."""
    rewind_lr: bool = changed(True, before=None)  # in version 0.1, short levels equalled IMP's
    """Rewind the learning rate, too, which makes later levels shorter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(rewind_to=self.rewind_to)


R = TypeVar("R", bound=RewindOptions)


class Rewinding(IterativePruning[R]):
    """Base of methods that rewind the weights to a step of the first level."""

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.rewind_step = 0
        self.saved: dict[str, Tensor] = {}

    def before_step(self, net: SparseModel, step: int) -> None:
        if step == self.rewind_step:
            self.saved = {k: v.detach().clone() for k, v in net.model.state_dict().items()}
        super().before_step(net, step)

    def rewind(self, net: SparseModel) -> None:
        names = set(self.saved) - names_of_others(net)
        if not self.options.rewind_statistics:
            names &= dict(net.model.named_parameters()).keys()
        (state := net.model.state_dict()).update({k: self.saved[k] for k in names})
        net.model.load_state_dict(state)  # with the versions of modules that it carries

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "saved": self.saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.saved = state["saved"]


def names_of_others(net: SparseModel) -> set[str]:
    """Return what other optimizers train: parameters that the attached one does not hold, and
    buffers of modules that have no others.

    A model may hold several networks, such as those of a GAN. A module without parameters belongs
    to the one around it.
    """
    held = {id(parameter) for parameter in net.stepped_parameters}
    parameters = dict(net.model.named_parameters(remove_duplicate=False))
    others = {name for name, parameter in parameters.items() if id(parameter) not in held}

    def is_of_others(buffer: str) -> bool:
        inside: list[str] = []
        while buffer and not inside:
            buffer = buffer.rpartition(".")[0]
            inside = [name for name in parameters if name.startswith(buffer and f"{buffer}.")]
        return others.issuperset(inside)

    if not others or not held:
        return set()
    buffers = net.model.state_dict().keys() - parameters.keys()
    return others | set(filter(is_of_others, buffers))


@register
class Lrr(IterativePruning[LevelOptions]):
    """Iterative magnitude pruning with learning-rate rewinding."""

    name = "lrr"
    paper = "Renda et al. 2020"


@register
class Imp(Rewinding[RewindOptions]):
    """Iterative magnitude pruning with rewinding to initialisation."""

    name = "imp"
    paper = "Frankle & Carbin 2019"


@register
class Wr(Rewinding[WrOptions]):
    """Iterative magnitude pruning with rewinding to an early epoch."""

    name = "wr"
    paper = "Frankle et al. 2020; Renda et al. 2020"
    variants = ({"level_length": 0.25, "rewind_to": 0.2},)
    least_epochs = 2

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        epoch = rewind_epoch(self.options.rewind_to, self.cycle_epochs)
        self.rewind_step = epoch * plan.steps_per_epoch
        if self.options.rewind_lr:
            self.levels = replace(self.levels, skipped=self.rewind_step)
