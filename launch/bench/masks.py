"""The cost of work on masks, and of what a run writes, compared with an epoch of training.

Each task is done on a model with random masks, Sign-In's factors and momentum, as in the middle of
a run. The time of an epoch is computed from the size of the data set and the measured step of the
bare loop.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baselines.checkpoint import Checkpoint
from baselines.engine.product import Product
from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_inside_unit, check_not_negative, unknown
from baselines.finite import is_finite
from baselines.method import Plan
from baselines.methods.set_rigl import RigL, RigLOptions
from baselines.methods.synflow import synflow_masks
from baselines.tools.density import keep_count, layer_counts
from baselines.tools.masks import global_top_k_masks, random_masks
from launch.bench.bare import BareLoop
from launch.bench.generated_images import data_set
from launch.bench.variants import MEASURED_MODELS
from launch.config.recipe import Precision
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.measures.flips import FlipTracker
from launch.measures.timing import threads_set, timed
from launch.ranks import join_ranks
from launch.runs.folder import RunFolder

REPEATS = 5


@dataclass(frozen=True)
class MasksBench:
    """Compare the time of work on masks, and of what a run writes, with an epoch."""

    model: str = "resnet50"
    """resnet20, resnet18, resnet50, resnet50-128 or deit-small."""
    sparsity: float = 0.9
    """Sparsity of the masks."""
    iterations: int = 100
    """Iterations of SynFlow."""
    precision: Precision = "bfloat16"
    """Precision of the training; bfloat16: autocast."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads; 0: torch's default."""

    def __post_init__(self) -> None:
        if self.model not in MEASURED_MODELS:
            raise unknown("model", self.model, MEASURED_MODELS)
        check_inside_unit(sparsity=self.sparsity)
        check_not_negative(threads=self.threads)


@dataclass(frozen=True)
class TimedTask:
    """A task to time. `per_epoch`: how often a run does it per epoch; 0 for once per run."""

    name: str
    do: Callable[[], object]
    per_epoch: float = 0.0
    repeats: int = REPEATS


def bench_masks(options: MasksBench) -> int:
    """Print one line per task. Return the exit code."""
    with (
        threads_set(options.threads),
        join_ranks(options.device) as r,
        tempfile.TemporaryDirectory() as folder,
    ):
        case = MEASURED_MODELS[options.model]
        batch = case.batch(r.device)
        bare = BareLoop(case.recipe(batch, precision=options.precision), case.classes, r.device)
        bare.step()
        step = statistics.median(timed(bare.step, r.device) for _ in range(3))
        images, _ = data_set(case.image_size)
        epoch = step / batch * images
        print(f"{options.model}: an epoch of {images:,} images takes {epoch:,.0f} s here, computed")
        for task in _tasks(options, bare, RECIPES[case.name].epochs, Path(folder)):
            found = [timed(task.do, r.device) for _ in range(task.repeats)]
            seconds = statistics.median(found)
            share = f"{seconds * task.per_epoch / epoch:8.4%} of an epoch"
            print(f"{task.name:42} {seconds:9.4f} s  {share if task.per_epoch else 'once per run'}")
    return 0


def _tasks(options: MasksBench, bare: BareLoop, epochs: int, folder: Path) -> list[TimedTask]:
    bare.restart()  # fused SGD refuses a group in which only some have momentum
    untrained = SparseModel(copy.deepcopy(bare.model))  # SynFlow refuses weights that are zero
    net = _in_training(options, bare)
    return [
        *_tasks_of_masks(options, net),
        *_tasks_of_methods(net, epochs, keep_count(net.numel, options.sparsity)),
        *_tasks_of_epochs(net, bare, _record(options, folder), folder),
        _synflow(options, bare, untrained),
    ]


def _in_training(options: MasksBench, bare: BareLoop) -> SparseModel:
    """Return the network with random masks, factors, momentum and gradients."""
    net = SparseModel(bare.model, Product())
    net.set_masks(random_masks("erk", net.shapes, options.sparsity, seed=0))
    net.attach(bare.optimizer)
    bare.step()  # makes the optimizer's state
    for parameter in bare.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return net


def _record(options: MasksBench, folder: Path) -> RunFolder:
    record = RunFolder(Run.make(MEASURED_MODELS[options.model].name, "dense"), folder)
    record.path.mkdir(parents=True)
    return record


def _tasks_of_masks(options: MasksBench, net: SparseModel) -> list[TimedTask]:
    s, masks, k = options.sparsity, net.masks, keep_count(net.numel, options.sparsity)
    top_k = f"global top-k of {net.numel:,}"
    return [
        TimedTask("ERK: densities of all layers", lambda: layer_counts("erk", net.shapes, s)),
        TimedTask("random masks (ERK)", lambda: random_masks("erk", net.shapes, s, 0)),
        TimedTask(top_k, lambda: global_top_k_masks(net.magnitudes(), k), 1.0),
        TimedTask("one change of all masks", lambda: net.set_masks(masks), 1.0),
    ]


def _tasks_of_methods(net: SparseModel, epochs: int, k: int) -> list[TimedTask]:
    rigl = RigL(Plan(1 - k / net.numel, epochs, 1), RigLOptions())
    updates, full = rigl.options.updates, dict.fromkeys(net.layers)

    def to_dense_and_back() -> None:
        net.set_masks(full)
        net.clear_state()
        net.set_masks(global_top_k_masks(net.magnitudes(), k))

    name = f"RigL update, {updates} in {epochs} epochs"
    return [
        TimedTask(name, lambda: rigl.update(net, 0), updates / epochs),
        TimedTask("AC/DC: to dense and back, every 10 epochs", to_dense_and_back, 0.1),
        TimedTask("Sign-In: rescaling", net.rescale, 1.0),
    ]


def _tasks_of_epochs(
    net: SparseModel, bare: BareLoop, record: RunFolder, folder: Path
) -> list[TimedTask]:
    """Return what a run counts, checks and writes."""
    flips = FlipTracker(net, 1, record)
    flips.begin()

    def snapshot() -> None:
        record.save_snapshot(1, Checkpoint(bare.model.state_dict(), net.masks))

    def held() -> dict[str, Any]:
        states = {"model": bare.model.state_dict(), "optimizer": bare.optimizer.state_dict()}
        return {**states, "net": net.state_dict()}

    def plain() -> None:
        torch.save(held(), folder / "plain.pt")

    def finite() -> bool:
        return all(map(is_finite, bare.model.parameters()))

    return [
        TimedTask("sign flips of an epoch", lambda: flips.count(1), 1.0),
        TimedTask("snapshot", snapshot, 0.1),
        TimedTask("state to resume from", lambda: record.save_state(held()), 1.0),
        TimedTask("state by torch.save alone", plain, 1.0),
        TimedTask("check that all weights are finite", finite, 1.0),
    ]


def _synflow(options: MasksBench, bare: BareLoop, net: SparseModel) -> TimedTask:
    ones = torch.ones(bare.x[:1].shape, device=bare.device, dtype=torch.float64)
    density, iterations = 1 - options.sparsity, options.iterations

    def prune() -> None:
        synflow_masks(net, ones, density, iterations)

    return TimedTask(f"SynFlow, {iterations} iterations in float64", prune, repeats=1)
