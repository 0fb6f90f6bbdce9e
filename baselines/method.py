"""Method: how a training becomes sparse. One file a method, found by being in this folder.

A method knows the network only as a `SparseModel` and the run only as a `Plan`. Each hook does
nothing by default, and a method that does nothing is dense training.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from baselines.checkpoint import Checkpoint
from baselines.engine.sparse_model import SparseModel
from baselines.errors import unknown

PACKAGES = ("baselines.methods", "signin")  # where methods are looked for
Samples = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Plan:
    """What a method may know of the run it is part of.

    Attributes:
        sparsity: requested, over the prunable weights, in [0, 1).
        seed: for whatever the method draws at random; equal on all ranks.
        lr_integral: the sum of the steps' learning rates, over 1 − momentum for SGD: what a
            decay λ multiplies a parameter by over the run is exp(−λ·lr_integral). 0 if not known.
        read: reads the checkpoint that a text names, a run's snapshot or a file; None if
            nothing can.
    """

    sparsity: float
    epochs: int
    steps_per_epoch: int
    seed: int
    lr_integral: float = 0.0
    read: Callable[[str], Checkpoint] | None = None

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Options:
    """A method's knobs. Each method that has any defines its own subclass."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of runs that must have finished before."""
        return ()


class Method:
    """Base class. Subclasses set `name`, `family`, `paper` and override hooks.

    `options` is the class of its knobs, `variants` the settings of them that overview grids show,
    and `is_sparse` is False for a method that keeps every weight. A `factorised` one trains
    θ = m ⊙ w by nature, with the recipe's β unless it sets `inner_scaling`. `tolerance` is how far
    from the requested sparsity it may end: not at all, but where its structure allows no other.

    Hooks are called in the order in which they stand here. Masks must come out equal on all
    ranks: decide them from `plan.seed`, or from what is equal on all ranks (weights, and
    gradients once DDP has averaged them).
    """

    name: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[str]
    options: ClassVar[type[Options]] = Options
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    is_sparse: ClassVar[bool] = True
    factorised: ClassVar[bool] = False
    tolerance: ClassVar[float] = 0.0

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        self.plan = plan
        self.opt: Any = self.options() if options is None else options

    @property
    def epochs(self) -> int:
        """Epochs of the whole run; more than the recipe's where a method trains repeatedly."""
        return self.plan.epochs

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        plan = self.plan
        return plan.steps if self.epochs == plan.epochs else self.epochs * plan.steps_per_epoch

    @property
    def inner_scaling(self) -> float | None:
        """β of the factors of a `factorised` method; None: the recipe's."""
        return None

    def schedule(self, step: int) -> tuple[int, int]:
        """Where a step stands in the learning rate's schedule: its number, and of how many."""
        return step, self.plan.steps

    def setup(self, net: SparseModel) -> None:
        """Before all else, on fresh and resumed runs alike: may wrap or replace net.storage."""

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        """Once, before the first step of a fresh run (not of a resumed one).

        No optimizer is attached yet: masks set here cost no more than themselves.

        Args:
            samples: takes a number n and gives batches (inputs, labels), on the device and not
                augmented, with n training images of each class; the same on all ranks.
        """

    def before_step(self, net: SparseModel, step: int) -> None:
        """Before each forward pass. Steps are counted from 0 over the whole run."""

    def after_backward(self, net: SparseModel, step: int) -> bool:
        """Sees dense gradients. Returning True replaces this step's update."""
        return False

    def after_step(self, net: SparseModel, step: int) -> None:
        """After each update."""

    def columns(self, net: SparseModel) -> dict[str, dict[str, float]]:
        """What layers.csv shows of the method after each epoch: by column, a value a layer."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides masks: tensors, numbers, strings, lists, dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse."""


def methods() -> dict[str, type[Method]]:
    """All methods by name, in alphabetical order."""
    _import_all()
    found = {cls.name: cls for cls in _subclasses(Method) if "name" in vars(cls)}
    return dict(sorted(found.items()))


def find_method(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        UserError: there is none; the text lists the known ones and the nearest.
    """
    known = methods()
    if name not in known:
        raise unknown("method", name, known)
    return known[name]


@cache
def _import_all() -> None:
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


def _subclasses(cls: type[Method]) -> Iterable[type[Method]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def make_method(method: str | type[Method], plan: Plan, options: Mapping[str, Any]) -> Method:
    cls = find_method(method) if isinstance(method, str) else method
    return cls(plan, cls.options(**options))
