"""The training loop on one rank: an ordinary PyTorch loop around a Sparsifier."""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # no stub
from torch.optim import Optimizer
from tqdm import tqdm

from baselines.errors import one_line
from baselines.finite import all_finite
from baselines.samples import Samples
from baselines.sparsifier import Sparsifier
from baselines.tools.schedules import triangular
from launch.config.recipe import Recipe
from launch.data.batches import Batches, Data
from launch.data.order import mix
from launch.measures.evaluation import evaluation_sums
from launch.ranks import Ranks
from launch.sparse_training.products import SparseProducts
from launch.training.meter import Meter


class Diverged(RuntimeError):
    """The loss or a weight is no longer a finite number."""


class Loop:
    """Trains and evaluates one model.

    Args:
        model: what the loop calls: the model itself or a wrapper of it.
        sparsifier: of the model, with `manual_begin`; not started.
        seed: of dropout and other random parts of the model.
        bar: a progress bar over the steps of each epoch; by default if stderr is a terminal.
        products: sparse products for the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        sparsifier: Sparsifier,
        data: Data,
        recipe: Recipe,
        seed: int,
        ranks: Ranks,
        bar: bool | None = None,
        products: SparseProducts | None = None,
    ) -> None:
        self.model, self.optimizer, self.sparsifier = model, optimizer, sparsifier
        self.products = products
        self.data, self.recipe, self.seed, self.ranks = data, recipe, seed, ranks
        self.bar = ranks.is_first and (sys.stderr.isatty() if bar is None else bar)
        self.steps = len(data.train)  # per epoch
        self.epochs = sparsifier.total_steps // self.steps

    @property
    def plain_model(self) -> nn.Module:
        """The model without wrappers."""
        return self.sparsifier.net.model

    def start(self) -> None:
        """Prepare a fresh run: the method chooses its first masks."""
        samples = Samples(self.data.train.sample)
        self.sparsifier.start(self.optimizer, samples, share=self.ranks.world > 1)

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Train one epoch, counted from 0.

        Returns:
            Mean loss and accuracy on the training batches.

        Raises:
            Diverged: a loss is not finite; names epoch, step and learning rate.
        """
        torch.manual_seed(mix(self.seed, epoch, self.ranks.rank))
        self.model.train()
        meter = Meter(self.steps, self.ranks.device)
        title = f"epoch {epoch + 1}/{self.epochs}"
        batches = self.data.train.epoch(epoch)
        for x, y in tqdm(batches, title, self.steps, leave=False, disable=not self.bar):
            try:
                self.step(x, y, meter)
            except Exception as error:  # what is not finite makes methods fail in many ways
                self._check(meter, epoch)
                when = f"in epoch {epoch}, step {meter.steps - 1}"
                self.check_weights(when, error)
                if isinstance(error, LinAlgError):  # values too large for the method
                    raise Diverged(f"{one_line(error)} {when}") from error
                raise
        self._check(meter, epoch)
        return meter.totals(self.ranks)

    def step(self, x: Tensor, y: Tensor, meter: Meter) -> None:
        """Take one step on this rank's share of a batch."""
        self.sparsifier.begin_step()
        set_lr(self.optimizer, self.learning_rate(self.sparsifier.step))
        with self.products.forward_pass() if self.products else nullcontext():
            output, loss = forward(self.model, x, y, self.recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        meter.add(loss, output, y)
        if meter.is_due:
            self._check(meter, self.sparsifier.step // self.steps)
        if self.recipe.clip_norm:
            self.sparsifier.mask_gradients()
            nn.utils.clip_grad_norm_(self.plain_model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.products and (self.sparsifier.step == 1 or self.sparsifier.step % self.steps == 0):
            self.products.choose()

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step of the run."""
        shape = partial(triangular, warmup=self.recipe.warmup, start=self.recipe.lr_start)
        return self.recipe.lr * self.sparsifier.lr_factor(step, shape)

    def _check(self, meter: Meter, epoch: int) -> None:
        bad = meter.first_bad()
        if bad is not None:
            lr = self.learning_rate(epoch * self.steps + bad)
            loss = meter.losses[bad].item()
            raise Diverged(f"loss is {loss} at epoch {epoch}, step {bad}, lr {lr:.4g}")

    def check_weights(self, when: str, cause: Exception | None = None) -> None:
        """Raise Diverged if a parameter of the model or of the method is not finite."""
        latents = self.sparsifier.net.state_dict()["latents"].values()
        tensors = [
            *self.plain_model.parameters(),
            *(t for parts in latents for t in parts.values()),
        ]
        if not all_finite(tensors):
            raise Diverged(f"a weight is not finite {when}") from cause

    def evaluate(self, batches: Batches | None = None) -> tuple[float, float]:
        """Return loss (without label smoothing) and accuracy on a split; by default, test."""
        if self.ranks.world > 1:  # running statistics differ by rank: rank 0's are the run's
            for buffer in self.plain_model.buffers():
                dist.broadcast(buffer, 0)
        # DDP's own forward would wait for ranks that have fewer batches
        model = self.plain_model if self.ranks.world > 1 else self.model
        model.eval()
        totals = evaluation_sums(
            lambda x: model(laid_out(x, self.recipe)),
            batches or self.data.test,
            self.ranks.device,
            partial(autocast, self.recipe, self.ranks.device),
        )
        loss_sum, hits, n = self.ranks.sum(totals).tolist()
        return loss_sum / n, hits / n

    def state_dict(self) -> dict[str, Any]:
        """Return all that training resumes from at the end of an epoch."""
        state = {
            "model": self.plain_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
        }
        return state | ({"products": self.products.state_dict()} if self.products else {})

    def attach(self) -> None:
        """Attach to the optimizer, in place of `start`, before a state is loaded."""
        self.sparsifier.attach(self.optimizer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state, after `attach`."""
        self.plain_model.load_state_dict(state["model"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.products:
            self.products.load_state_dict(state.get("products", {}))
        elif state.get("products") and self.ranks.is_first:
            warnings.warn(
                "the training was begun with --sparse-kernels auto and goes on with dense "
                "products, which differ by rounding.",
                stacklevel=2,
            )


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the recipe's context of the forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")


def memory_format(recipe: Recipe) -> torch.memory_format:
    """Return the recipe's memory format of model and images."""
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def laid_out(x: Tensor, recipe: Recipe) -> Tensor:
    """Return inputs; images in the recipe's memory format."""
    return x.contiguous(memory_format=memory_format(recipe)) if x.ndim == 4 else x


def forward(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return logits and the mean loss of a training batch."""
    with autocast(recipe, x.device):
        output = model(laid_out(x, recipe))
        return output, F.cross_entropy(output, y, label_smoothing=recipe.label_smoothing)
