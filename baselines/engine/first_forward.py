"""FirstForward: a check of how a model uses its weights, made in its first forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from baselines.engine.weight_use import WeightWatch


class FirstForward:
    """Watches a model's first forward pass in training, and warns of transformed weights.

    Two hooks of the model do it. A trainer that calls other functions of the model than its
    `forward` calls `begin` and `end` around them. That pass removes the hooks. A compiled model is
    not watched.

    Args:
        weights: by name.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.model, self.weights = model, weights
        self._watch: WeightWatch | None = None
        self._by_trainer = False
        self._handles = [
            model.register_forward_pre_hook(self._enter),
            model.register_forward_hook(self._leave, always_call=True),
        ]

    def begin(self, by_trainer: bool = False) -> None:
        """Start watching, unless a complete pass has been watched.

        Args:
            by_trainer: watch until the trainer calls `end`, also after passes of the model.
        """
        self.abandon()
        self._by_trainer = by_trainer
        trains = self.model.training and torch.is_grad_enabled()
        if self._handles and trains and not any(map(_is_compiled, self.model.modules())):
            self._watch = WeightWatch(self.weights.items())
            self._watch.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """End a pass that `begin` began. Remove the hooks and warn of what was found."""
        watch = self.abandon()
        if watch is None:
            return
        self.remove()
        for name in watch.transformed:
            others = len(watch.transformed) - 1
            warnings.warn(
                f"{name}{f' (and {others} others)' if others else ''} is transformed before it is "
                "used, so that masked weights have an effect: exclude it.",
                stacklevel=3,
            )
            break

    def remove(self) -> None:
        """Remove the hooks, and end a pass that has failed."""
        self.abandon()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def abandon(self) -> WeightWatch | None:
        """Stop watching a pass that has failed: after Ctrl-C in it, PyTorch calls no hook."""
        watch, self._watch, self._by_trainer = self._watch, None, False
        if watch is not None:
            watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return watch

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        compiles = torch.compiler.is_compiling()
        if module is self.model and not compiles and not self._by_trainer:
            self.begin()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._by_trainer:
            return
        if output is None:  # the pass failed: hooks must not be removed then
            self.abandon()
        else:
            self.end()

    def __getstate__(self) -> dict[str, Any]:
        """A copy watches nothing yet."""
        return {**self.__dict__, "_watch": None, "_by_trainer": False}


def _is_compiled(module: nn.Module) -> bool:
    return (
        hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or getattr(module, "_compiler_ctx", None) is not None  # of a LightningModule
    )
