"""Sparse training in a Lightning Trainer.

trainer = Trainer(callbacks=[Sparsify("rigl", sparsity=0.9, sign_in=True)])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer

from baselines.engine.first_forward import FirstForward
from baselines.errors import UserError
from baselines.registry import MethodClass
from launch.integrations.callback import SparsifyCallback


class Sparsify(SparsifyCallback, Callback):
    """Makes `Trainer.fit` sparse. Checkpoints contain its state.

    Masked gradients are set to zero before Lightning clips gradients. "sparsity" and "sign_flips"
    are logged once per epoch.

    Args:
        optimizer: index of the optimizer that holds the prunable weights.
        manual_begin: change masks before the first batch of a step, so that validation sees the
            network of the last step; False: at the end of the last step, which allows several steps
            per batch. Default: True for automatic optimization, False for manual optimization.
        choices: the other arguments of `SparsifyCallback` (sign_in, steps, steps_per_epoch, seed,
            …) and the method's options.
    """

    def __init__(
        self,
        method: str | MethodClass,
        sparsity: float,
        *,
        optimizer: int = 0,
        manual_begin: bool | None = None,
        **choices: Any,
    ) -> None:
        super().__init__(method, sparsity, **choices)
        self.optimizer, self._asked_begin = optimizer, manual_begin
        self._optimizer: Optimizer | None = None
        self._loaded: dict[str, Any] | None = None
        self._final: dict[str, Any] | None = None
        self._is_fitting, self._steps_taken, self._has_backward = False, 0, False

    # ---- state

    @property
    def state_key(self) -> str:
        """The name of the state in checkpoints. A callback for another optimizer has its own."""
        return f"{type(self).__qualname__}{self.optimizer or ''}"

    def metrics(self) -> dict[str, float]:
        """Return what is logged; names end with the optimizer's number unless it is the first."""
        end = f"_{self.optimizer}" if self.optimizer else ""
        return {f"{name}{end}": value for name, value in super().metrics().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a training resumes from."""
        if self._final is not None:
            return self._final
        return {} if self._sparsifier is None else self.saved_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state. Lightning calls this before `on_fit_start`."""
        self._loaded = state_dict
        if self._is_fitting:
            self.load_saved_state(state_dict)

    # ---- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what another call of the trainer has loaded."""
        self._loaded, self._is_fitting, self._steps_taken = None, False, 0
        self._epochs = trainer.max_epochs or -1  # StochasticWeightAveraging adds one later

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the progress of the training; LearningRateFinder loads one that has not begun."""
        self._steps_taken = checkpoint.get("global_step", 0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the optimizer.

        Raises:
            UserError: the training is not supported.
        """
        self._check_trainer(trainer)
        automatic = pl_module.automatic_optimization
        self.manual_begin = automatic if self._asked_begin is None else self._asked_begin
        self._optimizer = trainer.optimizers[self.optimizer]
        state = self._loaded or (self._final if trainer.global_step else None)
        if state:
            plan = state["plan"]
            self._check_length(trainer, plan)
            self.attach(pl_module, self._optimizer, plan["steps"], plan["steps_per_epoch"], True)
            self.load_saved_state(state)
        else:
            self._begin(trainer, pl_module, self._optimizer)
        self._final, self._is_fitting = None, True

    def _check_trainer(self, trainer: Trainer) -> None:
        """Raise UserError if the trainer, or the checkpoint it has loaded, is not supported."""
        if trainer.strategy.restore_checkpoint_after_setup:
            name = type(trainer.strategy).__name__
            raise UserError(f"{name} shards the weights: use DDP or one device.")
        if self._steps_taken and not self._loaded:
            raise UserError(
                "the checkpoint was saved without Sparsify: load its weights only, and fit again."
            )
        if self.optimizer >= len(trainer.optimizers):
            count = len(trainer.optimizers)
            raise UserError(f"optimizer={self.optimizer}: the module has {count} optimizers.")

    def _begin(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Attach the optimizer for a new training. Raises UserError if its length is not known."""
        automatic = module.automatic_optimization
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(c, GradientAccumulationScheduler) for c in callbacks):
            self._require_steps("GradientAccumulationScheduler changes the number of steps")
        if not automatic and trainer.max_steps > 0 and len(trainer.optimizers) > 1:
            self._require_steps("max_steps counts the steps of all optimizers")
        steps, epoch = steps_of(trainer)
        if self._epochs > 0 and trainer.max_epochs:
            steps -= epoch * (trainer.max_epochs - self._epochs)
        self.attach(module, optimizer, steps, epoch)
        if automatic:
            self.check_steps(steps)

    def _require_steps(self, why: str) -> None:
        if self.steps is None:
            raise UserError(f"{why}: give Sparsify(steps=…).")

    def _check_length(self, trainer: Trainer, plan: Mapping[str, Any]) -> None:
        """Raise UserError if a resumed training is known to have another length."""
        if self.steps is not None or self.steps_per_epoch is not None:
            return
        if trainer.max_steps > 0 and self._epochs < 0:
            steps = trainer.max_steps
        elif trainer.max_steps < 0 and self._epochs > 0:
            steps = self._epochs * plan["steps_per_epoch"]
        else:
            return
        if steps != plan["steps"]:
            raise UserError(
                f"the checkpoint is of a training of {plan['steps']} steps, this one has {steps}: "
                "give the trainer the same length, or load the weights only."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the signs."""
        self.begin_epoch()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Do what comes before a step; nothing at the further batches of an accumulated step."""
        self._has_backward = False
        self.begin_step()
        if first := self._first_forward:
            first.begin(by_trainer=True)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """End the check of the first forward pass."""
        self._has_backward = True
        if first := self._first_forward:
            first.end()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Set masked gradients to zero; clipping comes next."""
        if first := self._first_forward:
            first.end()  # there was no `manual_backward`
        if optimizer is not self._optimizer:
            return
        if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is not None:
            if pl_module.automatic_optimization and not self._has_backward:
                return  # Lightning leaves out this step
            self.unscale(scaler, optimizer)
        self.sparsifier.mask_gradients()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keep the state for another call of `fit`, and stop the check of a forward pass."""
        if self._sparsifier is not None and (first := self._first_forward):
            first.abandon()
        if self._is_fitting:
            self._is_fitting = False
            with suppress(Exception):  # it can have the same cause, and must not hide that
                self._final = self.saved_state()

    @property
    def _first_forward(self) -> FirstForward | None:
        """The check of the first forward pass of a module whose `training_step` Lightning calls."""
        return self.sparsifier.net.first_forward

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log sparsity and sign flips."""
        self.end_epoch()
        pl_module.log_dict(self.metrics(), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state for what comes after `fit`, when the weights are on the CPU."""
        self._final, self._is_fitting = self.saved_state(), False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the network is not as sparse as planned. Other callbacks may have changed it."""
        self.end()


def steps_of(trainer: Trainer) -> tuple[float, float]:
    """Return the number of optimizer steps of a training and of one epoch; infinite if not known.

    This loads the training data. Not to be called when a training is resumed: Lightning would not
    restore the state of its data loader then.
    """
    steps = trainer.estimated_stepping_batches
    batches = trainer.num_training_batches
    if math.isinf(batches):
        return steps, batches
    return steps, math.ceil(batches / trainer.accumulate_grad_batches)
