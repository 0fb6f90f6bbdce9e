"""The training loop: one run, from its description to its result.

Knows no method by name. What happens at a step:

    forward, backward      on the plain model
    method.after_backward  sees dense gradients; may replace the update
    optimizer.step         on the storage's latents, by SparseModel's hooks
    method.after_step
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from tqdm import tqdm

from baselines.method import Method, Plan, find_method
from baselines.schedule import triangular
from baselines.sparse_model import SparseModel
from launch.config import Machine, Recipe, Run
from launch.data import Batches, Data, load_data, mix
from launch.models import build_model
from launch.ranks import Ranks, ranks
from launch.record import Row, RunFolder, State
from signin.product import Product, is_rescale_epoch
from signin.signs import count_flips, signs

WARMUP_SNAPSHOT = 0.1  # the paper's "warm-up" is the end of epoch 10 of 100
CHECK_LOSS_EVERY = 50  # steps between looks at the loss on a GPU: each look waits for it


class Diverged(RuntimeError):
    """The loss or a weight is no longer a finite number."""


def run_training(
    run: Run, machine: Machine, report: Callable[[str], None] = print, bar: bool | None = None
) -> Row:
    """Trains, or goes on with, or only looks up a run.

    Args:
        report: takes a line an epoch.
        bar: a progress bar over the steps; by default where stderr is a terminal.

    Returns:
        The contents of result.json.

    Raises:
        UserError: input that cannot be used.
        Diverged: NaN or infinity; the state of the epoch before is kept.
    """
    folder = RunFolder(run, machine.runs)
    if folder.result is not None:
        report(f"{run.name}: finished before, accuracy {folder.result['accuracy']:.2%}")
        return folder.result
    if machine.threads:
        torch.set_num_threads(machine.threads)
    with ranks(machine.device) as r, folder.opened() if r.is_first else nullcontext():
        training = Training(run, machine, r, folder, report, bar)
        try:
            return training.finish()
        except BaseException as error:
            if r.is_first:
                folder.fail(f"{type(error).__name__}: {error}")
            raise


class Training:
    """One run on one rank."""

    def __init__(
        self,
        run: Run,
        machine: Machine,
        r: Ranks,
        folder: RunFolder,
        report: Callable[[str], None],
        bar: bool | None,
    ) -> None:
        recipe = run.settings
        self.run, self.recipe, self.ranks, self.folder = run, recipe, r, folder
        self.report = report if r.is_first else _silent
        self.bar = r.is_first and (sys.stderr.isatty() if bar is None else bar)
        self.data = load_data(
            recipe, machine.data_dir, r.device, run.seed, r.share, machine.workers
        )
        self.steps = len(self.data.train)
        self.net, self.optimizer = build(run, self.data, r.device)
        plan = Plan(run.sparsity, recipe.epochs, self.steps, run.seed)
        self.method: Method = find_method(run.method)(plan, run.options)
        self.model: nn.Module = self.net.model  # what training calls
        if r.world > 1:
            ids = [r.device.index] if r.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=ids)
        if machine.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        self.initial_signs: dict[str, Tensor] = {}
        self.epochs: list[Row] = []
        self.layers: list[Row] = []

    # ---- a run

    def finish(self) -> Row:
        """Trains from where the folder stands to the end."""
        start = self._resume()
        for epoch in range(start, self.recipe.epochs):
            began = time.perf_counter()
            torch.manual_seed(mix(self.run.seed, epoch, self.ranks.rank))  # dropout and the like
            if self.run.sign_in and self._rescales(epoch):
                self.net.rescale(self.recipe.sign_in.rescale_resets_state)
            self.method.before_epoch(self.net, epoch)
            loss, accuracy = self._train_epoch(epoch)
            trained = time.perf_counter() - began
            row = self._row(epoch, loss, accuracy, trained)
            self._keep(epoch, row)
        return self._result()

    def _rescales(self, epoch: int) -> bool:
        settings = self.recipe.sign_in
        until = round(settings.rescale_until * self.recipe.epochs)
        return is_rescale_epoch(epoch, settings.rescale_period, until)

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        self.model.train()
        losses = torch.zeros(self.steps, device=self.ranks.device)
        correct = torch.zeros((), device=self.ranks.device)
        seen = 0
        batches = self._progress(self.data.train, epoch)
        for i, (x, y) in enumerate(batches):
            step = epoch * self.steps + i
            set_lr(self.optimizer, learning_rate(self.recipe, step, self.steps))
            output, loss = forward(self.model, x, y, self.recipe)
            loss.backward()  # type: ignore[no-untyped-call]
            losses[i] = loss.detach()
            correct += (output.detach().argmax(1) == y).sum()
            seen += len(y)
            self._check_losses(losses, epoch, i)
            self._update(step)
        self._check_losses(losses, epoch, self.steps - 1, always=True)
        totals = torch.stack([losses.double().sum(), correct.double()])
        counts = torch.tensor([self.steps * self.ranks.world, seen * self.ranks.world])
        loss_sum, correct_sum = self.ranks.sum(totals).tolist()
        return loss_sum / int(counts[0]), correct_sum / int(counts[1])

    def _update(self, step: int) -> None:
        if not self.method.after_backward(self.net, step):
            if self.recipe.clip_norm:
                self.net.mask_gradients()
                nn.utils.clip_grad_norm_(self.net.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
        self.method.after_step(self.net, step)
        self.optimizer.zero_grad()

    def _check_losses(self, losses: Tensor, epoch: int, i: int, always: bool = False) -> None:
        if always or self.ranks.device.type == "cpu" or i % CHECK_LOSS_EVERY == 0:
            bad = (~losses[: i + 1].isfinite()).nonzero()
            if len(bad):
                first = int(bad[0])
                lr = learning_rate(self.recipe, epoch * self.steps + first, self.steps)
                raise Diverged(
                    f"loss is {losses[first].item()} at epoch {epoch}, step {first}, lr {lr:.4g}"
                )

    def _progress(self, batches: Batches, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        title = f"epoch {epoch + 1}/{self.recipe.epochs}"
        return iter(
            tqdm(
                batches.epoch(epoch), title, len(batches), leave=False, disable=not self.bar
            )
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

    # ---- what is kept of it

    def _resume(self) -> int:
        """Loads the newest state, or prepares a fresh run. Returns the first epoch to train."""
        found = self.folder.newest_state() if self.ranks.is_first else None
        state = self.ranks.from_first(found)
        if state is None:
            self.method.prepare(self.net, lambda: self.data.train.epoch(0))
            self._snapshot(0)
            self.initial_signs = signs(self.net.weights)
            return 0
        self.net.model.load_state_dict(state["model"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.initial_signs = {
            name: sign.to(self.ranks.device) for name, sign in state["initial_signs"].items()
        }
        first = int(state["epoch"]) + 1
        self.epochs = self.folder.read_rows("epochs.csv", before=first)
        self.layers = self.folder.read_rows("layers.csv", before=first)
        self.report(f"{self.run.name}: goes on after epoch {first}")
        return first

    def _state(self, epoch: int) -> State:
        return {
            "epoch": epoch,
            "model": self.net.model.state_dict(),
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "initial_signs": self.initial_signs,
        }

    def _row(self, epoch: int, loss: float, accuracy: float, seconds: float) -> Row:
        test_loss, test_accuracy = self.evaluate()
        flips = count_flips(self.initial_signs, self.net.weights, self.net.masks)
        for layer in self.net:
            self.layers.append(
                {
                    "epoch": epoch,
                    "layer": layer.name,
                    "weights": layer.weight.numel(),
                    "active": layer.nnz,
                    "density": layer.nnz / layer.weight.numel(),
                    "flips": flips[layer.name],
                }
            )
        last = epoch * self.steps + self.steps - 1
        return {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "lr": learning_rate(self.recipe, last, self.steps),
            "sparsity": self.net.sparsity(),
            "sparsity_all": self.net.sparsity_all(),
            "flips": sum(flips.values()) / max(1, self.net.nnz),
            "seconds": seconds,
        }

    def _keep(self, epoch: int, row: Row) -> None:
        """Rows first, the state last: rows beyond the state are dropped by whoever goes on."""
        if not all(bool(p.isfinite().all()) for p in self.net.model.parameters()):
            raise Diverged(f"a weight is not finite after epoch {epoch}")
        self.epochs.append(row)
        done, total = epoch + 1, self.recipe.epochs
        self.report(
            f"epoch {done:3}/{total}  loss {row['train_loss']:.4f}  "
            f"test {row['test_accuracy']:.2%}  sparsity {row['sparsity']:.4f}  "
            f"flips {row['flips']:.1%}  {row['seconds']:.1f} s"
        )
        if not self.ranks.is_first:
            return
        kept = {max(1, round(WARMUP_SNAPSHOT * total)), total, *self.run.keep_epochs}
        if done in kept:
            self._snapshot(done)
        self.folder.write_rows("epochs.csv", self.epochs)
        self.folder.write_rows("layers.csv", self.layers)
        self.folder.save_state(self._state(epoch))

    def _snapshot(self, epoch: int) -> None:
        if self.ranks.is_first:
            self.folder.snapshot(epoch, self.net.model.state_dict(), self.net.masks)

    def _result(self) -> Row:
        last = {key: float(value) for key, value in self.epochs[-1].items()}
        seconds = [float(row["seconds"]) for row in self.epochs]
        result = {
            "accuracy": last["test_accuracy"],
            "loss": last["test_loss"],
            "train_accuracy": last["train_accuracy"],
            "sparsity": last["sparsity"],
            "sparsity_all": last["sparsity_all"],
            "active": self.net.nnz,
            "prunable": self.net.numel,
            "parameters": sum(p.numel() for p in self.net.model.parameters()),
            "flips": last["flips"],
            "mask_hash": mask_hash(self.net.masks),
            "epochs": self.recipe.epochs,
            "ranks": self.ranks.world,
            "device": device_name(self.ranks.device),
            "seconds": sum(seconds),
            "seconds_per_epoch": statistics.median(seconds),
        }
        if self.ranks.is_first:
            self.folder.finish(result)
        self.report(f"{self.run.name}: accuracy {result['accuracy']:.2%}")
        return result


# ---- the parts of a step, also for benchmarks


def build(run: Run, data: Data, device: torch.device) -> tuple[SparseModel, Optimizer]:
    """The model with its storage, attached to the recipe's optimizer. A function of the seed."""
    recipe = run.settings
    torch.manual_seed(mix(run.seed))
    model = build_model(recipe.model, data.classes, data.channels, recipe.image_size)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    settings = recipe.sign_in
    storage = Product(settings.beta, settings.frobenius_decay) if run.sign_in else None
    net = SparseModel(model, storage, run.exclude)
    optimizer = make_optimizer(net, recipe, run.sign_in)
    return net.attach(optimizer), optimizer


def make_optimizer(net: SparseModel, recipe: Recipe, sign_in: bool) -> Optimizer:
    """SGD or AdamW with three groups: prunable weights, what else decays, what does not."""
    decay = rest_decay = recipe.weight_decay
    if sign_in:
        decay = recipe.sign_in.sign_in_weight_decay
        if recipe.sign_in.sign_in_decay_scope == "all":
            rest_decay = decay
    prunable = {id(weight) for weight in net.weights.values()}
    spared = getattr(net.model, "no_weight_decay", set)()  # timm's models name theirs
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
    return torch.optim.SGD(
        params, recipe.lr, recipe.momentum, nesterov=recipe.nesterov, fused=True
    )


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    total = recipe.epochs * steps_per_epoch
    return recipe.lr * triangular(step, total, recipe.warmup, recipe.lr_start)


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


def mask_hash(masks: dict[str, Tensor]) -> str:
    """Equal for equal masks only: to compare ranks, runs and machines."""
    digest = hashlib.sha256()
    for name, mask in sorted(masks.items()):
        digest.update(name.encode() + mask.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def _silent(_: str) -> None:
    pass
