"""One run: from its description to its folder and result."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor

from analysis.contents import EpochRow, LayerRow, Result
from baselines.checkpoint import Checkpoint
from launch.config.machine import Machine
from launch.config.run import Run
from launch.data import load_data
from launch.measures.flips import Columns, FlipTracker
from launch.measures.flops import count_flops
from launch.ranks import Ranks, join_ranks
from launch.runs.folder import RunFolder
from launch.training.build import build_loop
from launch.training.loop import Diverged
from launch.training.state import upgraded


def run_training(
    run: Run,
    machine: Machine,
    report: Callable[[str], None] = print,
    bar: bool | None = None,
    patience: float = 0.0,
) -> Result:
    """Train or resume a run. Do nothing if it has finished.

    Args:
        report: called with one line per epoch.
        bar: whether to show a progress bar over the steps; by default if stderr is a terminal.
        patience: seconds to wait for another process that trains the run.

    Returns:
        The contents of result.json.

    Raises:
        UserError: the input cannot be used.
        Diverged: a loss or weight is NaN or infinite. The state of the last epoch is kept.
    """
    folder = RunFolder(run, machine.runs)
    if folder.result is not None and "RANK" not in os.environ:  # all ranks must agree, see below
        report(f"{run.title}: finished before, accuracy {folder.result['accuracy']:.2%}")
        return folder.result
    if machine.threads:
        torch.set_num_threads(machine.threads)
    with join_ranks(machine.device) as r, folder.opened(patience) if r.is_first else nullcontext():
        try:
            found: Result | None = r.from_first(folder.result)
            if found is not None:  # another process has finished it meanwhile
                return found
            return Training(run, machine, r, folder, report, bar).finish()
        except Exception as error:  # on the first rank that raises one
            folder.fail(f"{type(error).__name__}: {error}")
            raise


class Training:
    """A run on one rank. Rank 0 writes the folder."""

    def __init__(
        self,
        run: Run,
        machine: Machine,
        r: Ranks,
        folder: RunFolder,
        report: Callable[[str], None] = print,
        bar: bool | None = None,
    ) -> None:
        self.run, self.ranks, self.folder = run, r, folder
        self.report = report if r.is_first else _silent
        data = load_data(
            run.settings, machine.data_dir, r.device, run.seed, r.share, machine.workers
        )
        self.loop = build_loop(run, data, r, machine.compile, bar, machine.runs)
        self.net = self.loop.sparsifier.net
        self.flips = FlipTracker(self.net, run.early_epochs[0], folder if r.is_first else None)
        self.epochs: list[EpochRow] = []
        self.layers: list[LayerRow] = []

    def finish(self) -> Result:
        """Train from the last saved state to the end. Return the result."""
        if self.loop.epochs != self.run.settings.epochs:
            self.report(f"{self.run.title}: {self.loop.epochs} epochs in total")
        for epoch in range(self.begin(), self.loop.epochs):
            self.epoch(epoch)
        result = self._result()
        if self.ranks.is_first:
            self.flips.add_final(self.layers)
            self.folder.write_layers(self.layers)
            self.folder.finish(result)
        self.report(f"{self.run.title}: accuracy {result['accuracy']:.2%}")
        return result

    def epoch(self, epoch: int) -> EpochRow:
        """Train one epoch, evaluate, and write both to the folder. Return its row of epochs.csv."""
        began = time.perf_counter()
        loss, accuracy = self.loop.train_epoch(epoch)
        seconds = time.perf_counter() - began
        flips = self.flips.count(epoch + 1)
        row = self._epoch_row(epoch, loss, accuracy, seconds, self.flips.share(flips))
        self.epochs.append(row)
        self.layers += self._layer_rows(epoch, flips)
        self._keep(epoch)
        self._report(row)
        return row

    # ---- writing and reading the folder

    def begin(self) -> int:
        """Load the newest state, or prepare a new run. Return the first epoch to train."""
        found = self.folder.newest_state() if self.ranks.is_first else None
        state = self.ranks.from_first(found)
        if state is None:
            self.loop.start()
            self._snapshot(0)
            self.flips.begin()
            return 0
        first = int(state["epoch"]) + 1
        self.loop.load_state_dict(upgraded(state["loop"], first * self.loop.steps, self.net))
        self.flips.load_state_dict(state["signs"])
        self.epochs = self.folder.read_epochs(before=first)
        self.layers = self.folder.read_layers(before=first)
        self.report(f"{self.run.title}: resumes from epoch {first + 1}")
        return first

    def _keep(self, epoch: int) -> None:
        """Write snapshot, rows and state. The state is last: a resumed run drops later rows.

        Raises:
            Diverged: a weight is not finite. Nothing is written.
        """
        if not all(bool(p.isfinite().all()) for p in self.net.model.parameters()):
            raise Diverged(f"a weight is not finite after epoch {epoch}")
        done, total = epoch + 1, self.loop.epochs
        if done in {*self.run.early_epochs, total, *self.run.keep_epochs}:
            self._snapshot(done)
        if self.ranks.is_first:
            self.folder.write_epochs(self.epochs)
            self.folder.write_layers(self.layers)
            self.folder.save_state(
                {
                    "epoch": epoch,
                    "loop": self.loop.state_dict(),
                    "signs": self.flips.state_dict(),
                }
            )

    def _snapshot(self, epoch: int) -> None:
        if self.ranks.is_first:
            network = Checkpoint(self.net.model.state_dict(), self.net.masks)
            self.folder.save_snapshot(epoch, network)

    # ---- rows, reports and the result

    def _epoch_row(
        self, epoch: int, loss: float, accuracy: float, seconds: float, flips: float
    ) -> EpochRow:
        began = time.perf_counter()
        test_loss, test_accuracy = self.loop.evaluate()
        test_seconds = time.perf_counter() - began
        last_step = (epoch + 1) * self.loop.steps - 1
        return {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "lr": self.loop.learning_rate(last_step),
            "sparsity": self.net.sparsity(),
            "sparsity_all": self.net.sparsity_all(),
            "flips": flips,
            "skipped": self._skipped(),
            "seconds": seconds,
            "test_seconds": test_seconds,
        }

    def _skipped(self) -> int:
        """Return the number of images not read since the last epoch, on all ranks."""
        data = self.loop.data
        found = torch.tensor(data.train.skipped + data.test.skipped, device=self.ranks.device)
        data.train.skipped = data.test.skipped = 0
        return int(self.ranks.sum(found))

    def _layer_rows(self, epoch: int, flips: Columns) -> list[LayerRow]:
        columns = self.loop.sparsifier.method.columns(self.net)
        rows = [
            {
                "epoch": epoch,
                "layer": layer.name,
                "weights": layer.weight.numel(),
                "active": layer.nnz,
                "density": layer.nnz / layer.weight.numel(),
                "nonzero": int(layer.weight.count_nonzero()),
                **flips[layer.name],
                **{column: values[layer.name] for column, values in columns.items()},
            }
            for layer in self.net
        ]
        return cast("list[LayerRow]", rows)

    def _report(self, row: EpochRow) -> None:
        self.report(
            f"epoch {row['epoch'] + 1:3}/{self.loop.epochs}  "
            f"loss {row['train_loss']:.4f}  test {row['test_accuracy']:.2%}  "
            f"sparsity {row['sparsity']:.4f}  flips {row['flips']:.1%}  {row['seconds']:.1f} s"
        )

    def _result(self) -> Result:
        last, seconds = self.epochs[-1], [row["seconds"] for row in self.epochs]
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
            **self._costs(),
            "mask_hash": mask_hash(self.net.masks),
            "epochs": self.loop.epochs,
            "ranks": self.ranks.world,
            "device": device_name(self.ranks.device),
            "seconds": sum(seconds),
            "seconds_per_epoch": statistics.median(seconds),
        }
        return cast("Result", result)

    def _costs(self) -> dict[str, float]:
        """Return the floating-point operations of inference and training.

        The backward pass counts as two forward passes (Evci et al. 2020, appendix H), each layer
        with its density after the epoch. Dense gradients that a method uses are not counted.
        """
        recipe = self.run.settings
        shape = (self.loop.data.channels, recipe.image_size, recipe.image_size)
        flops = count_flops(self.net.model, self.net.layers, shape)
        densities: dict[int, dict[str, float]] = {}
        for row in self.layers:
            densities.setdefault(row["epoch"], {})[row["layer"]] = row["density"]
        forward = [flops.at(epoch) for epoch in densities.values()]
        images = self.loop.steps * recipe.batch_size
        return {
            "dense_flops": flops.total,
            "flops": forward[-1],
            "training_flops": 3 * images * sum(forward),
            "dense_epochs": sum(forward) / flops.total,
        }


def mask_hash(masks: dict[str, Tensor]) -> str:
    """Return a hash of masks, to compare ranks, runs and machines."""
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
