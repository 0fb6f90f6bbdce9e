"""StepHooks: functions that are called around each step of an optimizer, also if it fails."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType, MethodType
from typing import Any

import torch
from torch.optim import Optimizer

from baselines.engine.closure import evaluate_closure, has_closure
from baselines.errors import UserError


class StepHooks:
    """Calls one function before each step, one after it, and one after a step that failed.

    A closure is evaluated first. A subclass whose `step` calls the `step` of its base class runs
    the hooks of both: only the outer ones count.

    PyTorch runs no hook if a step raises an exception. `optimizer.step` is therefore wrapped, and a
    step that was called past the wrapper and failed is noticed at the next one.

    Args:
        failed: restores what `before` changed; may be called more than once.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        before: Callable[[], None],
        after: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self.optimizer, self.before, self.after, self.failed = optimizer, before, after, failed
        self._outer: FrameType | None = None  # the frame that runs the step's hooks
        self._depth = 0  # number of nested steps inside it
        self._handles: list[Any] = [
            optimizer.register_step_pre_hook(self._on_enter),
            optimizer.register_step_post_hook(self._on_leave),
        ]
        post_hooks: Any = optimizer._optimizer_step_post_hooks
        post_hooks.move_to_end(self._handles[1].id, last=False)  # the user's see the new weights
        self._wrapped = vars(optimizer).get("step")
        self._wrapper = self._wrap(optimizer.step)
        vars(optimizer)["step"] = self._wrapper

    def remove(self) -> None:
        """Remove the hooks, and the wrapper unless something else was wrapped around it."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if vars(self.optimizer).get("step") is self._wrapper:
            del vars(self.optimizer)["step"]
            if self._wrapped is not None:
                vars(self.optimizer)["step"] = self._wrapped

    def _wrap(self, step: Callable[..., Any]) -> MethodType:
        """Return a method, which learning rate schedulers can wrap in turn."""

        @functools.wraps(getattr(step, "__func__", step))
        def wrapper(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            try:
                return step(*args, **kwargs)
            except BaseException:
                if self._handles:
                    self._recover()
                raise

        return MethodType(wrapper, self.optimizer)

    def _recover(self) -> None:
        self._outer, self._depth = None, 0
        with torch.no_grad():
            self.failed()

    def _on_enter(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._outer is not None and _is_running(self._outer):
            if has_closure(args, kwargs):
                raise UserError(
                    f"{type(optimizer).__name__}.step gives a closure to another step: give none."
                )
            self._depth += 1
            return None
        if self._outer is not None:
            self._recover()
        changed = evaluate_closure(args, kwargs)
        self._outer = sys._getframe(1)
        with torch.no_grad():
            self.before()
        return changed

    def _on_leave(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._depth:
            self._depth -= 1
            return
        self._outer = None
        with torch.no_grad():
            self.after()


def _is_running(frame: FrameType) -> bool:
    """Whether a frame is among the callers of this function."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is frame
