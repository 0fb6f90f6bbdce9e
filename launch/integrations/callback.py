"""What the callbacks of Lightning and of Hugging Face share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from baselines.errors import UserError
from baselines.registry import MethodClass, find_method
from baselines.sign_rule import SignRule
from baselines.sparsifier import Sparsifier, sparsify
from signin.signs import count_flips, signs, total

FROM_TRAINER = ("model", "optimizer", "manual_begin", "resume")  # arguments of sparsify


class SparsifyCallback:
    """Calls `sparsify` when a trainer knows its model, optimizer and number of steps.

    Args:
        method: name ("rigl"), "package.module:Class", or Method class.
        sparsity: fraction of the prunable weights that end at zero, in [0, 1).
        sign_in: True, `SignIn(...)` or another SignRule.
        steps: optimizer steps of the method's schedules; default: all that the trainer takes. For
            methods that train in levels (LRR, WR, IMP), those of one level.
        steps_per_epoch: unit of Sign-In's rescaling and of levels; default: the trainer's.
        options: other arguments of `sparsify` (seed, samples, exclude) and the method's own.

    Raises:
        UserError: the method or one of its options is not known, or an argument comes from the
            trainer.
    """

    manual_begin = True

    def __init__(
        self,
        method: str | MethodClass,
        sparsity: float,
        *,
        sign_in: SignRule | bool | None = None,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        **options: Any,
    ) -> None:
        for name in options.keys() & FROM_TRAINER:
            raise UserError(f"{name} comes from the trainer: leave it out.")
        self.method, self.sparsity, self.sign_in = method, sparsity, sign_in
        self.steps, self.steps_per_epoch, self.options = steps, steps_per_epoch, options
        taken = signature(sparsify).parameters.values()
        others = {p.name for p in taken if p.kind is p.KEYWORD_ONLY}
        own = {name: value for name, value in options.items() if name not in others}
        find_method(method).options_class.make(**own)
        self._sparsifier: Sparsifier | None = None
        self._signs: dict[str, Tensor] | None = None
        self._flips = math.nan

    @property
    def sparsifier(self) -> Sparsifier:
        """The sparsifier of the training, also after its end.

        `sparsifier.finalize()` then removes its hooks and latents.

        Raises:
            UserError: the training has not begun.
        """
        if self._sparsifier is None:
            raise UserError("there is no sparsifier before the training begins.")
        return self._sparsifier

    def attach(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        steps: float,
        steps_per_epoch: float,
        resume: bool = False,
    ) -> None:
        """Make the training sparse.

        Args:
            steps: optimizer steps that the trainer takes; not positive or infinite if not known.
            steps_per_epoch: the same of one epoch.
            resume: a state is loaded next.

        Raises:
            UserError: the number of steps is not known, or the training is not supported.
        """
        if self._sparsifier is not None:
            self._sparsifier.detach()  # weights that were loaded since stay as they are
            self._sparsifier = None
        epoch = self.steps_per_epoch
        if epoch is None and 0 < steps_per_epoch < math.inf:
            epoch = int(steps_per_epoch)
        planned = steps if self.steps is None else self.steps
        if not 0 < planned < math.inf:
            raise UserError("the trainer's number of steps is not known: give Sparsify(steps=…).")
        self._sparsifier = sparsify(
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
        self._sparsifier.may_go_on = self.steps is not None
        self._signs, self._flips = None, math.nan

    def check_steps(self, steps: float) -> None:
        """Check that the trainer takes as many steps as the method needs.

        Warns if it takes more, and the method trains in levels.

        Raises:
            UserError: it takes fewer.
        """
        method, needed = self.sparsifier.method, self.sparsifier.total_steps
        _, length = method.schedule(0)
        in_levels = needed != method.plan.steps
        levels = f" ({needed / length:g} trainings of {length})" if in_levels else ""
        takes = f"{method.name} takes {needed} steps{levels} to reach its sparsity, the trainer "
        if 0 < steps < needed:
            raise UserError(
                f"{takes}{int(steps)}: train longer or give a smaller Sparsify(steps=…)."
            )
        if in_levels and needed < steps < math.inf:
            warnings.warn(
                f"{takes}{int(steps)}: let it take {needed}, and restart the learning "
                f"rate every {length} steps.",
                stacklevel=2,
            )
            self.sparsifier.may_go_on = True  # it has been warned of

    # ---- state

    def saved_state(self) -> dict[str, Any]:
        """Return the sparsifier's state, and the steps of its plan."""
        plan = self.sparsifier.method.plan
        steps = {"steps": plan.steps, "steps_per_epoch": plan.steps_per_epoch}
        return {"plan": steps, "sparsifier": self.sparsifier.state_dict()}

    def load_saved_state(self, state: Mapping[str, Any]) -> None:
        """Load a state into the attached sparsifier.

        Raises:
            UserError: as `Sparsifier.load_state_dict`.
        """
        self.sparsifier.load_state_dict(state["sparsifier"])

    # ---- while it trains

    def begin_step(self) -> None:
        """Call `Sparsifier.begin_step`, if `manual_begin`."""
        if self.manual_begin:
            self.sparsifier.begin_step()

    @staticmethod
    def unscale(scaler: GradScaler, optimizer: Optimizer) -> None:
        """Unscale the gradients of a fused optimizer before its step, instead of in it."""
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            with suppress(RuntimeError):  # the user's loop has unscaled them
                scaler.unscale_(optimizer)

    def begin_epoch(self) -> None:
        """Store the signs to which this epoch's flips are relative."""
        self._signs = signs(self.sparsifier.net.weights)

    def end_epoch(self) -> None:
        """Count the flips of this epoch."""
        if self._signs is not None:
            net = self.sparsifier.net
            self._flips = total(count_flips(self._signs, net.weights, net.masks).values()).share

    def metrics(self) -> dict[str, float]:
        """Return what is logged; nothing before the training begins.

        Returns:
            "sparsity", and "sign_flips": fraction of the weights that have a sign before and after
            the last epoch whose sign is the opposite. The latter is omitted if no epoch was
            complete.
        """
        if self._sparsifier is None:
            return {}
        found = {"sparsity": self._sparsifier.sparsity()}
        return found if math.isnan(self._flips) else {**found, "sign_flips": self._flips}

    def end(self) -> None:
        """Warn if the final network is not as sparse as planned."""
        self.sparsifier.warn_at_end()
