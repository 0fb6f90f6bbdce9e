"""What the callbacks of Lightning and of Hugging Face share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.registry import MethodClass
from baselines.sign_rule import SignRule
from baselines.sparsifier import Sparsifier, sparsify
from signin.signs import count_flips, signs, total


class SparsifyCallback:
    """Calls `sparsify` when a trainer knows its model, optimizer and number of steps.

    Attributes:
        sparsifier: the sparsifier; None before the training begins. It stays attached after the
            training; `sparsifier.finalize()` removes its hooks and latents.

    Args:
        method: name ("rigl"), "package.module:Class", or Method class.
        sparsity: fraction of the prunable weights that end at zero, in [0, 1).
        sign_in: True, `SignIn(...)` or another SignRule.
        steps: optimizer steps of the method's schedules; default: all that the trainer takes.
            Methods that train in levels (LRR, WR, IMP) take several times as many.
        steps_per_epoch: unit of Sign-In's rescaling and of levels; default: the trainer's.
        options: other arguments of `sparsify` (seed, samples, exclude) and the method's own.
    """

    manual_begin = True

    def __init__(
        self,
        method: str | MethodClass | Method[Options],
        sparsity: float,
        *,
        sign_in: SignRule | bool | None = None,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        **options: Any,
    ) -> None:
        self.method, self.sparsity, self.sign_in = method, sparsity, sign_in
        self.steps, self.steps_per_epoch, self.options = steps, steps_per_epoch, options
        self.sparsifier: Sparsifier | None = None
        self._signs: dict[str, Tensor] | None = None
        self._flips = math.nan

    @property
    def attached(self) -> Sparsifier:
        """The sparsifier.

        Raises:
            UserError: the training has not begun.
        """
        if self.sparsifier is None:
            raise UserError("the network is not sparse before the training begins.")
        return self.sparsifier

    def attach(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        steps: float,
        steps_per_epoch: float,
        resume: bool = False,
    ) -> Sparsifier:
        """Make the training sparse.

        Args:
            steps: optimizer steps that the trainer takes; not positive or infinite if not known.
            steps_per_epoch: the same of one epoch.
            resume: a state is loaded next.

        Raises:
            UserError: the number of steps is not known, or the training cannot be served.
        """
        if self.sparsifier is not None:
            self.sparsifier.finalize()
            self.sparsifier = None
        epoch = self.steps_per_epoch
        if epoch is None and 0 < steps_per_epoch < math.inf:
            epoch = int(steps_per_epoch)
        planned = steps if self.steps is None else self.steps
        if not 0 < planned < math.inf:
            raise UserError("the trainer's number of steps is not known: give Sparsify(steps=…).")
        self.sparsifier = sparsify(
            model,
            optimizer,
            self.method,
            sparsity=self.sparsity,
            steps=int(planned),
            steps_per_epoch=epoch,
            sign_in=self.sign_in,
            manual_begin=self.manual_begin,
            resume=resume,
            **self.options,
        )
        self._signs, self._flips = None, math.nan
        return self.sparsifier

    def check_steps(self, steps: float) -> None:
        """Check that the trainer takes as many steps as the method needs.

        Raises:
            UserError: it takes fewer.
        """
        needed = self.attached.total_steps
        if 0 < steps < needed:
            raise UserError(
                f"the method needs {needed} steps to reach its sparsity, but the trainer takes "
                f"{int(steps)}: train longer or give a smaller Sparsify(steps=…)."
            )

    # ---- state

    def saved_state(self) -> dict[str, Any]:
        """Return the sparsifier's state, and the plan that it belongs to."""
        return {"plan": self._plan(), "sparsifier": self.attached.state_dict()}

    def load_saved_state(self, state: Mapping[str, Any]) -> None:
        """Load a state into the attached sparsifier.

        Raises:
            UserError: the state belongs to another method, sparsity or number of steps.
        """
        saved, own = state["plan"], self._plan()
        for key, value in own.items():
            if saved[key] != value:
                raise UserError(
                    f"the checkpoint was saved with {key}={saved[key]!r}, not {value!r}."
                )
        self.attached.load_state_dict(state["sparsifier"])

    def _plan(self) -> dict[str, Any]:
        method = self.attached.method
        plan = method.plan
        return {
            "method": method.name,
            "sparsity": plan.sparsity,
            "steps": plan.steps,
            "steps_per_epoch": plan.steps_per_epoch,
        }

    # ---- while it trains

    def begin_step(self) -> None:
        """Do what comes before a step, if `manual_begin`."""
        if self.manual_begin:
            self.attached.begin_step()

    def begin_epoch(self) -> None:
        """Remember the signs that this epoch's flips are counted against."""
        self._signs = signs(self.attached.net.weights)

    def end_epoch(self) -> None:
        """Count the flips of this epoch."""
        if self._signs is not None:
            net = self.attached.net
            self._flips = total(count_flips(self._signs, net.weights, net.masks).values()).share

    def metrics(self) -> dict[str, float]:
        """Return what is logged.

        Returns:
            "sparsity", and "sign_flips": fraction of the weights that have a sign before and after
            the last epoch whose sign is the opposite. The latter is left out if no epoch was seen
            from its beginning.
        """
        found = {"sparsity": self.attached.sparsity()}
        return found if math.isnan(self._flips) else {**found, "sign_flips": self._flips}

    def warn_if_not_done(self) -> None:
        """Warn if the training has ended before the method has."""
        if not self.attached.is_done:
            step, planned = self.attached.step, self.attached.total_steps
            warnings.warn(
                f"the training ended after {step} of {planned} planned steps, at sparsity "
                f"{self.attached.sparsity():.3f}.",
                stacklevel=2,
            )
