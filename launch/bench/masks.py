"""Cost of work on masks and of what a run writes, compared with an epoch of training.

Each piece of work is done on a model with random masks, Sign-In's factors and momentum, as it is in
the midst of a run. An epoch is taken to be the data set's images at the speed of the bare loop's
steps, measured here too: its share is computed from both.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from baselines.checkpoint import Checkpoint
from baselines.engine.product import Product
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, unknown
from baselines.method import Plan
from baselines.methods.set_rigl import RigL, RigLOptions
from baselines.methods.synflow import synflow_masks
from baselines.tools.density import keep_count, layer_counts
from baselines.tools.masks import global_top_k_masks, random_masks
from launch.bench.bare import BareLoop
from launch.bench.pictures import data_set
from launch.bench.timing import timed
from launch.bench.variants import MODELS
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.measures.flips import FlipTracker
from launch.ranks import ranks
from launch.runs.folder import RunFolder

REPEATS = 5


@dataclass(frozen=True)
class MasksBench:
    """Time the work on masks and what a run writes, compared with an epoch."""

    model: str = "resnet50"
    """resnet20, resnet18, resnet50, resnet50-128 or deit-small."""
    sparsity: float = 0.9
    """Sparsity of the masks."""
    iterations: int = 100
    """Iterations of SynFlow."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads; 0: as many as torch takes."""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise unknown("model", self.model, MODELS)
        if not 0 < self.sparsity < 1:
            raise UserError(f"sparsity must be in (0, 1), not {self.sparsity}.")


@dataclass(frozen=True)
class Work:
    """Something to time. `an_epoch` is the number of times per epoch; 0 for once per run."""

    name: str
    do: Callable[[], object]
    an_epoch: float = 0.0
    repeats: int = REPEATS


def bench_masks(options: MasksBench) -> int:
    """Print one line per piece of work."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with ranks(options.device) as r, tempfile.TemporaryDirectory() as folder:
        case = MODELS[options.model]
        batch = case.batch(r.device)
        bare = BareLoop(case.recipe(batch), case.classes, r.device)
        bare.step()
        step = statistics.median(timed(bare.step, r.device) for _ in range(3))
        images, _ = data_set(case.image_size)
        epoch = step / batch * images
        steps = images // RECIPES[case.name].batch_size
        print(f"{options.model}: an epoch of {images:,} images takes {epoch:,.0f} s here, computed")
        for work in _works(options, bare, steps, Path(folder)):
            found = [timed(work.do, r.device) for _ in range(work.repeats)]
            seconds = statistics.median(found)
            share = f"{seconds * work.an_epoch / epoch:8.4%} of an epoch"
            print(f"{work.name:42} {seconds:9.4f} s  {share if work.an_epoch else 'once a run'}")
    return 0


def _works(options: MasksBench, bare: BareLoop, steps: int, folder: Path) -> list[Work]:
    bare.restart()  # fused SGD takes no group of which some have momentum already
    net = SparseModel(bare.model, Product())
    net.set_masks(random_masks("erk", net.shapes, options.sparsity, seed=0))
    net.attach(bare.optimizer)
    bare.step()  # for the optimizer's state
    for parameter in bare.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    k = keep_count(net.numel, options.sparsity)
    rigl = RigL(Plan(options.sparsity, steps, steps), RigLOptions())
    every = rigl.options.update_every
    masks, full = net.masks, dict.fromkeys(net.layers)
    record = RunFolder(Run.make(MODELS[options.model].name, "dense"), folder)
    record.path.mkdir(parents=True)
    flips = FlipTracker(net, 1, record)
    flips.begin()

    def there_and_back() -> None:
        net.set_masks(full)
        net.clear_state()
        net.set_masks(global_top_k_masks(net.magnitudes(), k))

    def snapshot() -> None:
        record.save_snapshot(1, Checkpoint(bare.model.state_dict(), net.masks))

    def state() -> None:
        held = {"model": bare.model.state_dict(), "optimizer": bare.optimizer.state_dict()}
        record.save_state({**held, "net": net.state_dict()})

    shape = bare.x[:1].shape
    ones = torch.ones(shape, device=bare.device, dtype=torch.float64)
    density = 1 - options.sparsity
    return [
        Work(
            "ERK: densities of all layers",
            lambda: layer_counts("erk", net.shapes, options.sparsity),
        ),
        Work("random masks (ERK)", lambda: random_masks("erk", net.shapes, options.sparsity, 0)),
        Work(
            f"global top-k of {net.numel:,}", lambda: global_top_k_masks(net.magnitudes(), k), 1.0
        ),
        Work("one change of all masks", lambda: net.set_masks(masks), 1.0),
        Work(f"RiGL update, every {every} steps", lambda: rigl.update(net, 0), steps / every),
        Work("AC/DC: to dense and back, in 10 epochs", there_and_back, 0.1),
        Work("Sign-In: rescaling", net.rescale, 1.0),
        Work("sign flips of an epoch", lambda: flips.count(1), 1.0),
        Work(
            "snapshot",
            lambda: record.save_snapshot(1, Checkpoint(bare.model.state_dict(), net.masks)),
            0.1,
        ),
        Work("state to go on from", state, 1.0),
        Work(
            f"SynFlow, {options.iterations} iterations in float64",
            lambda: synflow_masks(net, ones, density, options.iterations),
            repeats=1,
        ),
    ]
