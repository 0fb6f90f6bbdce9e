"""One-shot magnitude pruning of a trained network, then fine-tuning.

The network is that of a checkpoint (`init_from`), or the model as it is. The smallest |θ| are
pruned before the first step, and the training fine-tunes what is left: "essential sparsity",
Jaiswal et al. 2023 (arXiv 2306.03805). No official code was compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeVar

from baselines.checkpoint import entries_of, with_epoch
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.masks import scope_masks


@dataclass(frozen=True)
class PretrainedOptions(Options):
    init_from: str = ""
    """Source of all weights: a run (`RUN`, `RUN@EPOCH`) or a file. Empty: the model as it is."""
    key: str = ""
    """Which network of a file that has several, such as model_ema."""
    finetune: bool = True
    """Train after pruning. Otherwise only batch statistics are updated."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "init_from", with_epoch(self.init_from))

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.init_from,) if self.init_from else ()


@dataclass(frozen=True)
class OneShotOptions(PretrainedOptions):
    scope: Literal["global", "layer"] = "global"
    """One threshold for the network, or the same sparsity in every layer."""


P = TypeVar("P", bound=PretrainedOptions)


class Pretrained(Method[P], ABC):
    """Base of methods that prune a trained network once."""

    family = "one shot"
    variants = ()

    @classmethod
    def keeps_masks(cls) -> bool:
        return True

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        if source := self.options.init_from:
            if self.plan.read is None:
                raise UserError(f"{self.name}: there is nothing to read {source} with.")
            state = net.model.state_dict()
            found = self.plan.read(source, key=self.options.key, like=state)
            for name, value in entries_of(found, state).items():
                state[name].copy_(value)
        self.prune(net, samples)

    @abstractmethod
    def prune(self, net: SparseModel, samples: Samples) -> None:
        """Prune the network to the requested sparsity."""

    def needs_dense_gradients(self, step: int) -> bool:
        return False

    reads_gradients = needs_dense_gradients

    def after_backward(self, net: SparseModel, step: int) -> bool:
        return not self.options.finetune


@register
class OneShot(Pretrained[OneShotOptions]):
    """One-shot pruning by magnitude."""

    name = "oneshot"
    paper = "Jaiswal et al. 2023"

    def prune(self, net: SparseModel, samples: Samples) -> None:
        net.set_masks(scope_masks(net.magnitudes(), self.plan.sparsity, self.options.scope))
