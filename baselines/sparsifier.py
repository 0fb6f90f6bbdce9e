"""Sparsifier: the one object between a training loop and everything sparse.

The hooks of `optimizer.step()` drive all that a method and Sign-In do in training:

    pre-hook    method.after_backward, which may replace the update (no parameter is updated then)
    the step    on the storage's latents (see baselines.engine)
    post-hook   method.after_step; then what comes before the next step (`begin_step`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from baselines.engine.broadcast import equal_on_ranks, has_ranks
from baselines.engine.decoupled_decay import warn_of_added_decay
from baselines.engine.optimizer_state import clear_gradients
from baselines.engine.random_state import kept_random_state
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.planned_steps import PlannedSteps
from baselines.registry import MethodClass, make_method
from baselines.samples import Samples, Source, as_samples
from baselines.sign_rule import SignRule, check_rule, find_rule, set_weight_decays, weight_decays
from baselines.training_state import check_training, training_of


def _nothing() -> None:
    """Do nothing."""


class Sparsifier(PlannedSteps):
    """Makes a network sparse while an optimizer trains it. Made by `sparsify`.

    Attributes:
        net: the model's prunable weights and masks.
        method: the method, with its options and plan.
        step: number of optimizer steps taken.

    Args:
        rule: what makes signs flip; None for nothing.
        manual_begin: the loop calls `begin_step` before each forward pass; else the step does.
    """

    def __init__(
        self,
        net: SparseModel,
        method: Method[Options],
        rule: SignRule | None = None,
        manual_begin: bool = False,
    ) -> None:
        check_rule(rule, method)
        super().__init__(method)
        self.net, self.rule = net, rule or SignRule()
        self.manual_begin, self._masks_seen = manual_begin, 0
        self._begun = self._looked = self._replaced = self._lacks_state = False
        self._before_update: Any = None
        self.restore_decays: Callable[[], None] = _nothing
        self._training = training_of(method, self.rule)
        net.storage = self.rule.storage(list(net.layers))
        method.setup(net)

    # ---- start and end

    def start(self, optimizer: Optimizer, samples: Samples, share: bool) -> None:
        """Let the method choose its first masks, and attach the optimizer. Random states are kept.

        Args:
            share: give the masks and the model of rank 0 to all ranks of the process group.

        Raises:
            UserError: the method or the optimizer does not support the model.
        """
        device = next(self.net.model.parameters()).device
        with kept_random_state(device), equal_on_ranks(self.net, share):
            self.method.prepare(self.net, samples)
        for name in self.net.storage.added_decays:
            warn_of_added_decay(name, optimizer)
        self.attach(optimizer)
        self._lacks_state = False
        if not self.manual_begin:
            self.begin_step()

    def attach(self, optimizer: Optimizer) -> None:
        """Attach the optimizer only: for a state that is loaded before the next step."""
        self.net.attach(optimizer, self._before_step, self._after_step)
        self._masks_seen, self._lacks_state = self.net.changes, True

    def finalize(self) -> nn.Module:
        """Remove all hooks and latents, and return the plain model with its sparse weights."""
        self.warn_at_end()
        return self.detach()

    def warn_at_end(self) -> None:
        """Warn if the training ends early, or its network is not as sparse as planned."""
        self.warn_of_end(self.net.masked if self.is_done else self.sparsity(), self.net.numel)
        self.net.warn_if_denser()
        self.net.warn_of_unfrozen(self.net.stepped_parameters)

    def detach(self) -> nn.Module:
        """Remove all hooks and latents without warnings. Restore the weight decays."""
        self.method.finalize(self.net)
        self.restore_decays()
        self.restore_decays = _nothing  # once: the user may change them
        return self.net.detach()

    # ---- what the loop may ask

    @property
    def masks(self) -> dict[str, Tensor]:
        """Boolean masks by parameter name, True where active."""
        return self.net.masks

    def sparsity(self) -> float:
        """Return the fraction of the prunable weights that are exactly zero."""
        return self.net.sparsity()

    # ---- what happens at a step

    @torch.no_grad()
    def begin_step(self) -> None:
        """Do what comes before a step's forward pass: change masks, rewind weights, rescale.

        Runs at the end of `optimizer.step()`. With `manual_begin` the loop calls it before each
        forward pass, so that evaluation sees what the last step left. A second call does nothing.

        Raises:
            UserError: the training is to be resumed, and no state was loaded.
        """
        if self._lacks_state:
            raise UserError("load a state with load_state_dict() first, or drop resume=True.")
        if self._begun or self.is_done:
            return
        self.net.follow()
        if self.step % self.method.plan.steps_per_epoch == 0:
            self.net.warn_of_unfrozen(self.net.stepped_parameters)
            self.rule.begin_epoch(self.net, *self.method.epoch_of(self.step))
        self.method.before_step(self.net, self.step)
        self._follow_masks()
        self._begun = True

    @torch.no_grad()
    def look_at_gradients(self) -> None:
        """Show this step's gradients to the method. A second call does nothing."""
        if not self._looked and not self.is_done:
            self.net.follow()  # once per step: between two passes, SAM's weights are moved ones
            self._replaced = self.method.after_backward(self.net, self.step)
            self._looked = True

    def mask_gradients(self) -> None:
        """Set unused gradients to zero. Call it before clipping gradients by their norm.

        Unused gradients are those at masked positions and, with STR and Top-KAST, those that reach
        no weight.

        The method sees the dense gradients first, if they are finite (a GradScaler skips the step
        otherwise). It takes them for those of the next step: call this only before
        `optimizer.step()`.
        """
        if not self.method.reads_gradients(self.step) or self.net.has_finite_gradients():
            self.look_at_gradients()
        self.net.mask_gradients()

    @torch.no_grad()
    def end_step(self) -> None:
        """Do what comes after a step's update; called at the end of `optimizer.step()`."""
        self.method.after_step(self.net, self.step)
        self._follow_masks()
        self.step += 1
        self._begun = self._looked = self._replaced = False
        if self.step == 1:
            self.warn_of_levels()

    def _before_step(self, optimizer: Optimizer) -> None:
        if self.is_done:
            self.warn_of_more()
            return
        if not self._begun and self.manual_begin:
            raise UserError("call begin_step() before each forward pass, or drop manual_begin.")
        self.begin_step()  # nothing more, unless an exception ended the step before this one
        self.look_at_gradients()
        if self._replaced:
            clear_gradients([p for group in optimizer.param_groups for p in group["params"]])
        else:
            self._before_update = self.rule.before_update(self.net, optimizer)

    def _after_step(self, optimizer: Optimizer) -> None:
        if self.is_done:
            return
        if not self._replaced:
            self.rule.after_update(self.net, optimizer, self._before_update)
            self._before_update = None
        self.end_step()
        if not self.manual_begin:
            self.begin_step()

    def _follow_masks(self) -> None:
        if self.net.changes != self._masks_seen:
            self.rule.after_mask_change(self.net, *self.method.epoch_of(self.step))
            self._masks_seen = self.net.changes

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Return what training resumes from, besides the model's and the optimizer's states."""
        return {
            "step": self.step,
            "begun": self._begun,
            "net": self.net.state_dict(),
            "method": self.method.state_dict(),
            "rule": self.rule.state_dict(),
            **self._training,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state. The model's and the optimizer's may be loaded before or after.

        Raises:
            UserError: it is of another method, sparsity, steps or seed, of other options or
                settings of sign_in (for its decays, a warning), or of other layers.
        """
        check_training(state, self._training)
        self.method.load_state_dict(state["method"])  # latents can depend on it
        self.net.load_state_dict(state["net"])
        self.rule.load_state_dict(state["rule"])
        self.step, self._begun = state["step"], state["begun"]
        self._looked = self._replaced = self._lacks_state = False
        self._masks_seen = self.net.changes


def sparsify(
    model: nn.Module,
    optimizer: Optimizer,
    method: str | MethodClass | Method[Options],
    *,
    sparsity: float,
    steps: int,
    steps_per_epoch: int | None = None,
    sign_in: SignRule | bool | None = None,
    seed: int | None = None,
    samples: Source | Samples | None = None,
    exclude: Iterable[str] = (),
    include: Iterable[str] = (),
    dense_latents: bool = False,
    manual_begin: bool = False,
    resume: bool = False,
    **options: Any,
) -> Sparsifier:
    """Make a training sparse: from here on, every `optimizer.step()` does all that the method does.

    Args:
        model: on its final device, in its final memory format; DDP or torch.compile may wrap it.
        optimizer: holds the model's prunable weights; a torch optimizer or a wrapper of one.
        method: name ("rigl"), "package.module:Class", Method class, or instance of this plan.
        sparsity: fraction of the prunable weights that end at zero, in [0, 1).
        steps: optimizer steps of the training; the method's schedules are fractions of it.
        steps_per_epoch: unit of Sign-In's rescaling and of levels; default: steps / 100.
        sign_in: True, `SignIn(...)` or another SignRule, for any method. It replaces the weight
            decay of the optimizer's groups by values that follow from it.
        seed: for masks that are drawn at random; default: 0.
        samples: data for methods that need them, such as SNIP: a DataLoader of (inputs, class
            labels), a function n → batches, or `Samples` with a loss function.
        exclude: glob patterns over names of parameters that stay dense.
        include: patterns of further parameters to prune, such as embeddings.
        dense_latents: for optimizers that treat weights by the shape of their tensor (Muon,
            Adafactor, …); takes the memory of a dense training.
        manual_begin: see `Sparsifier.begin_step`.
        resume: choose no masks: `load_state_dict` is called next. STR, SR-STE and Top-KAST prune
            the weights of the model at once; the states restore them.
        options: the method's own.

    Returns:
        The sparsifier. Save its state_dict in checkpoints.

    Raises:
        UserError: the model, the optimizer, the method or an option is not supported.
    """
    chosen = make_method(method, options, sparsity, steps, steps_per_epoch, seed)
    net = SparseModel(model, None, exclude, dense_latents, include, not chosen.is_sparse)
    rule = find_rule(sign_in, chosen, net, net.served_optimizer(optimizer))
    sparsifier = Sparsifier(net, chosen, rule, manual_begin)
    try:
        served = net.served_optimizer(optimizer)  # again: the storage may have changed it
        decays = weight_decays(sparsifier.rule, net, served)
        if resume:
            sparsifier.attach(served)
        else:
            sparsifier.start(served, as_samples(samples, net.model), share=has_ranks())
    except BaseException:  # also Ctrl-C: the user has no sparsifier to finalize
        sparsifier.detach()
        raise
    sparsifier.restore_decays = set_weight_decays(served, decays)
    sparsifier.rule.warn_if_short(chosen.epoch_of(0)[1], chosen.keeps_masks())
    return sparsifier
