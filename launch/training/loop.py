"""The training loop on one rank: steps, epochs and evaluation. Knows no method by name, no files.

What happens at a step:

    method.before_step     may change masks, as the later ones may
    forward, backward      on the plain model
    method.after_backward  sees dense gradients; may replace the update
    optimizer.step         on the storage's latents, by SparseModel's hooks
    method.after_step
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from tqdm import tqdm

from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Plain, Storage
from baselines.method import Method, Options, Plan
from baselines.registry import find_method
from baselines.tools.schedules import triangular
from launch.config.run import Recipe, Run
from launch.data.loading import Data, mix
from launch.models import build_model
from launch.ranks import Ranks
from launch.runs.sources import read_source
from signin.product import Product, is_rescale_epoch

CHECK_LOSS_EVERY = 50  # steps between looks at the loss on a GPU: each look waits for it


class Diverged(RuntimeError):
    """The loss or a weight is no longer a finite number."""


class Meter:
    """Loss and accuracy of one epoch, gathered on the device without waiting for it."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.seen = 0

    def add(self, i: int, loss: Tensor, output: Tensor, y: Tensor) -> None:
        self.losses[i] = loss.detach()
        self.correct += (output.detach().argmax(1) == y).sum()
        self.seen += len(y)

    def totals(self, r: Ranks) -> tuple[float, float]:
        """Mean loss and accuracy over all ranks."""
        sums = r.sum(torch.stack([self.losses.double().mean(), self.correct.double()]))
        loss, correct = sums.tolist()
        return loss / r.world, correct / (self.seen * r.world)


class Loop:
    """Model, storage, optimizer and method of one run on one rank.

    Args:
        bar: a progress bar over the steps of each epoch; by default where stderr is a terminal.
        runs: folder of the runs that this one may need.
    """

    def __init__(
        self,
        run: Run,
        data: Data,
        r: Ranks,
        compile: bool = False,
        bar: bool | None = None,
        runs: Path = Path("runs"),
    ) -> None:
        self.run, self.recipe, self.data, self.ranks = run, run.settings, data, r
        self.bar = r.is_first and (sys.stderr.isatty() if bar is None else bar)
        self.steps = len(data.train)
        self.method = make_method(run, self.steps, runs)
        self.net, self.optimizer = build(run, self.method, data, r.device)
        self.method.setup(self.net)
        self._masks_seen = 0
        self.epochs = self.method.epochs
        self.model: nn.Module = self.net.model  # what training calls
        if r.world > 1:
            ids = [r.device.index] if r.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=ids)
        if compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]

    def prepare(self) -> None:
        """What a fresh run does before its first step."""
        self.method.prepare(self.net, self.data.train.sample)
        if self.ranks.world > 1:  # gradients on GPUs, and what is made of them, can differ by rank
            self.net.set_masks({k: self.ranks.of_first(m) for k, m in self.net.masks.items()})
        self.net.attach(self.optimizer)
        self._masks_seen = self.net.changes

    def train_epoch(self, epoch: int) -> tuple[float, float]:
        """Trains one epoch (from 0). Returns mean loss and accuracy on the training batches.

        Raises:
            Diverged: a loss is not finite; names epoch, step and learning rate.
        """
        self.begin_epoch(epoch)
        meter = Meter(self.steps, self.ranks.device)
        title = f"epoch {epoch + 1}/{self.epochs}"
        batches = self.data.train.epoch(epoch)
        for i, (x, y) in enumerate(
            tqdm(batches, title, self.steps, leave=False, disable=not self.bar)
        ):
            self.step(epoch, i, x, y, meter)
        self._check(meter, epoch, self.steps - 1)
        return meter.totals(self.ranks)

    def begin_epoch(self, epoch: int) -> None:
        """What comes before the first step of an epoch."""
        torch.manual_seed(mix(self.run.seed, epoch, self.ranks.rank))  # dropout and the like
        settings = self.recipe.sign_in
        within, total = (n // self.steps for n in self.method.schedule(epoch * self.steps))
        until = round(settings.rescale_until * total)
        if self.run.sign_in and is_rescale_epoch(within, settings.rescale_period, until):
            self.net.rescale(settings.rescale_resets_state)
        self.model.train()

    def step(self, epoch: int, i: int, x: Tensor, y: Tensor, meter: Meter) -> None:
        """One step, the i-th of its epoch, on this rank's share of the batch."""
        step = epoch * self.steps + i
        self.method.before_step(self.net, step)
        self.rescale_changed()
        set_lr(self.optimizer, self.learning_rate(step))
        output, loss = forward(self.model, x, y, self.recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        meter.add(i, loss, output, y)
        if self.ranks.device.type == "cpu" or i % CHECK_LOSS_EVERY == 0:
            self._check(meter, epoch, i)
        if not self.method.after_backward(self.net, step):
            if self.recipe.clip_norm:
                self.net.mask_gradients()
                nn.utils.clip_grad_norm_(self.net.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
        self.method.after_step(self.net, step)
        self.rescale_changed()
        self.optimizer.zero_grad()

    def rescale_changed(self) -> None:
        """Sign-In starts afresh under a changed mask."""
        changed, self._masks_seen = self.net.changes != self._masks_seen, self.net.changes
        settings = self.recipe.sign_in
        wanted = self.run.sign_in and settings.rescale_after_masks and settings.rescale_period
        if changed and wanted:
            self.net.rescale(settings.rescale_resets_state)

    def learning_rate(self, step: int) -> float:
        """Of a step of the run."""
        at, total = self.method.schedule(step)
        return self.recipe.lr * triangular(at, total, self.recipe.warmup, self.recipe.lr_start)

    def _check(self, meter: Meter, epoch: int, i: int) -> None:
        losses = meter.losses[: i + 1]
        if bool(losses.isfinite().all()):
            return
        first = int((~losses.isfinite()).nonzero()[0])
        lr = self.learning_rate(epoch * self.steps + first)
        raise Diverged(
            f"loss is {losses[first].item()} at epoch {epoch}, step {first}, lr {lr:.4g}"
        )

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Loss (without label smoothing) and accuracy on the whole test set."""
        if self.ranks.world > 1:  # running statistics differ by rank: rank 0's are the run's
            for buffer in self.net.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        # DDP's own forward would wait for ranks that have fewer batches
        model = self.net.model if self.ranks.world > 1 else self.model
        model.eval()
        totals = torch.zeros(3, dtype=torch.float64, device=self.ranks.device)
        for x, y in self.data.test.epoch(0):
            if not len(y):
                continue
            with autocast(self.recipe, x.device):
                output = model(x)
            loss = F.cross_entropy(output.float(), y, reduction="sum")
            correct = (output.argmax(1) == y).sum()
            totals += torch.stack([loss, correct, torch.full_like(correct, len(y))])
        loss_sum, hits, n = self.ranks.sum(totals).tolist()
        return loss_sum / n, hits / n

    def state_dict(self) -> dict[str, Any]:
        """All there is to go on from the end of an epoch."""
        return {
            "model": self.net.model.state_dict(),
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse, in place of `prepare`."""
        self.net.attach(self.optimizer)
        self.net.model.load_state_dict(state["model"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self._masks_seen = self.net.changes


def make_method(run: Run, steps_per_epoch: int, runs: Path) -> Method[Options]:
    """The run's method, with its plan."""
    recipe = run.settings
    steps = recipe.epochs * steps_per_epoch
    lrs = (triangular(step, steps, recipe.warmup, recipe.lr_start) for step in range(steps))
    inertia = recipe.momentum if recipe.optimizer == "sgd" else 0.0
    integral = recipe.lr * sum(lrs) / (1 - inertia)
    read = partial(read_source, runs=runs)
    plan = Plan(run.sparsity, steps, steps_per_epoch, run.seed, integral, read)
    return find_method(run.method)(plan, run.options)


def build(
    run: Run, method: Method[Options], data: Data, device: torch.device
) -> tuple[SparseModel, Optimizer]:
    """The model with its storage, and the recipe's optimizer. A function of the seed."""
    recipe = run.settings
    torch.manual_seed(mix(run.seed))
    model = build_model(recipe.model, data.classes, data.channels, recipe.image_size)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    net = SparseModel(model, make_storage(run, method), run.exclude)
    return net, make_optimizer(net, recipe, run.factorised)


def make_storage(run: Run, method: Method[Options]) -> Storage:
    """Factors for Sign-In, and for methods that train them by nature."""
    if not run.factorised:
        return Plain()
    settings = run.settings.sign_in
    own = None if run.sign_in else method.inner_scaling
    return Product(settings.beta if own is None else own, settings.frobenius_decay)


def make_optimizer(net: SparseModel, recipe: Recipe, factorised: bool) -> Optimizer:
    """SGD or AdamW with three groups: prunable weights, what else decays, what does not."""
    decay = rest_decay = recipe.weight_decay
    if factorised:
        decay = recipe.sign_in.sign_in_weight_decay
        if recipe.sign_in.sign_in_decay_scope == "all":
            rest_decay = decay
    prunable = {id(weight) for weight in net.weights.values()}
    # timm's models name theirs
    spared: set[str] = getattr(net.model, "no_weight_decay", set)()
    groups: dict[float, list[nn.Parameter]] = {rest_decay: [], 0.0: []}
    for name, parameter in net.model.named_parameters():
        if id(parameter) not in prunable and parameter.requires_grad:
            small = parameter.ndim <= 1 or name in spared
            decays = recipe.decay_norm_and_bias or not small
            groups[rest_decay if decays else 0.0].append(parameter)
    params: list[dict[str, Any]] = [
        {"params": list(net.weights.values()), "weight_decay": decay},
        *({"params": ps, "weight_decay": wd} for wd, ps in groups.items() if ps),
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(params, recipe.lr, fused=True)
    return torch.optim.SGD(params, recipe.lr, recipe.momentum, nesterov=recipe.nesterov, fused=True)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")


def forward(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Logits and the mean loss of a training batch."""
    if recipe.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with autocast(recipe, x.device):
        output = model(x)
        return output, F.cross_entropy(output, y, label_smoothing=recipe.label_smoothing)
