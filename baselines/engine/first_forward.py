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

    Two hooks of the model do it. That pass removes them. A compiled model is not watched.

    Args:
        weights: by name.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self.model, self.weights = model, weights
        self._watch: WeightWatch | None = None
        self._handles = [
            model.register_forward_pre_hook(self._enter),
            model.register_forward_hook(self._leave, always_call=True),
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
            return
        if module is self.model and not any(map(_is_compiled, module.modules())):
            self._watch = WeightWatch(self.weights.items())
            self._watch.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        watch, self._watch = self._watch, None
        if watch is None:
            return
        watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is None:  # the pass failed: hooks must not be removed then
            return
        self.remove()
        for name in watch.transformed:
            others = len(watch.transformed) - 1
            warnings.warn(
                f"{name}{f' (and {others} others)' if others else ''} is transformed before it is "
                "used, so that masked weights have an effect: exclude it.",
                stacklevel=2,
            )
            break


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
