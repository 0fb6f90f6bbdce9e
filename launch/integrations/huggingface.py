"""Sparse training in a Hugging Face Trainer.

trainer = SparseTrainer(model, args, callbacks=[Sparsify("rigl", sparsity=0.9, sign_in=True)])
trainer.train()
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from baselines.errors import UserError
from baselines.sparsifier import Sparsifier
from launch.integrations.callback import SparsifyCallback

STATE_FILE = "sparsifier.pt"

if not hasattr(Trainer, "_clip_grad_norm"):  # an older one clips where SparseTrainer cannot see
    raise UserError("transformers is too old: install transformers >= 5.6.")


class Sparsify(SparsifyCallback, TrainerCallback):
    """Makes the training of a `SparseTrainer` sparse.

    Other trainers work as long as they do not clip gradients or resume from a checkpoint.
    """

    is_ready = False  # a SparseTrainer has attached the optimizer for the training that begins

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Attach the optimizer, unless a SparseTrainer has.

        Raises:
            UserError: the training is not supported.
        """
        if not self.is_ready:
            if args.max_grad_norm:
                raise UserError(
                    "only a SparseTrainer clips by the norm of the active weights' gradients: "
                    "use it, or set max_grad_norm=0."
                )
            if state.global_step:
                raise UserError("only a SparseTrainer can resume: use it.")
            loader, epoch = kwargs["train_dataloader"], 0
            if has_length(loader):
                epoch = -(-len(loader) // args.gradient_accumulation_steps)
            self.attach(kwargs["model"], kwargs["optimizer"], state.max_steps, epoch)
            self.check_steps(state.max_steps)
        self.is_ready = False

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Do what comes before a step."""
        self.begin_step()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Unscale gradients, unless clipping has done so."""
        optimizer = kwargs["optimizer"]
        if not args.max_grad_norm and (scaler := getattr(optimizer, "scaler", None)) is not None:
            self.unscale(scaler, optimizer.optimizer)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Store the signs, unless the epoch is resumed in its middle."""
        if float(state.epoch or 0).is_integer():
            self.begin_epoch()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count sign flips."""
        self.end_epoch()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn if the network is not as sparse as planned."""
        self.end()


class SparseTrainer(Trainer):
    """Trainer whose clipping, checkpoints and logs take the callback `Sparsify` into account.

    Clips by the norm of the active weights' gradients, saves and loads the sparsifier's state in
    checkpoints (sparsifier.pt), and logs "sparsity" and "sign_flips". For another trainer class,
    inherit from both: `class Mine(SparseTrainer, Seq2SeqTrainer)`.
    """

    _steps_per_epoch = 0

    @property
    def sparsifier(self) -> Sparsifier:
        """The sparsifier of the training, also after its end.

        Raises:
            UserError: there is no callback `Sparsify`, or the training has not begun.
        """
        if self._sparsify is None:
            raise UserError("the trainer has no callback Sparsify.")
        return self._sparsify.sparsifier

    @property
    def _sparsify(self) -> Sparsify | None:
        callbacks = self.callback_handler.callbacks
        return next((found for found in callbacks if isinstance(found, Sparsify)), None)

    def set_initial_training_values(self, args: TrainingArguments, dataloader: Any) -> Any:
        """Remember the number of steps in an epoch; 0 if it is not known."""
        values = super().set_initial_training_values(args, dataloader)
        self._steps_per_epoch = values[1] if has_length(dataloader) else 0
        return values

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        """Attach the optimizer before.

        Raises:
            UserError: the training is not supported.
        """
        if callback := self._sparsify:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise UserError("FSDP and DeepSpeed shard the weights: use DDP or one device.")
            held = self.optimizer if optimizer is None else optimizer
            assert self.model is not None and held is not None
            resume = self.state.global_step > 0
            callback.attach(self.model, held, num_training_steps, self._steps_per_epoch, resume)
            callback.check_steps(num_training_steps)
            callback.is_ready = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self._sparsify is None:
            return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        self.accelerator.unscale_gradients(self.optimizer)  # which a scaler allows only once
        self.sparsifier.mask_gradients()
        return nn.utils.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._sparsify is not None and self.args.should_save:
            torch.save(self._sparsify.saved_state(), os.path.join(output_dir, STATE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._sparsify is not None and checkpoint is not None and self.state.global_step:
            path = os.path.join(checkpoint, STATE_FILE)
            if not os.path.isfile(path):
                raise UserError(f"{checkpoint} was saved without Sparsify: it has no {STATE_FILE}.")
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._sparsify.load_saved_state(state)
        super()._load_optimizer_and_scheduler(checkpoint)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add sparsity and sign flips."""
        if self._sparsify is not None:
            logs = {**logs, **self._sparsify.metrics()}
        super().log(logs, *args, **kwargs)
