"""What a GPU can do, in one call: the other measures, and runs that share it.

steps   the variants' steps, at the recipes' batch of CIFAR and a quarter of that of ImageNet
masks   work on masks, and scoring, beside an epoch
run     epochs of a real run beside the bare loop
shared  epochs, evaluation included, of runs that are on the GPU at once, and of one alone with
        torch.compile. Computed from the fastest of them: the CIFAR-10 block of Tables 3, 9 and 11
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from analysis.folder import read_epochs
from baselines.errors import UserError
from launch.bench.masks import MasksBench, bench_masks
from launch.bench.pictures import CIFAR, write_pictures
from launch.bench.runs import RunBench, bench_run
from launch.bench.scaling import run_quietly
from launch.bench.steps import bench_steps
from launch.bench.variants import StepsBench
from launch.config.grids import find_grid
from launch.config.machine import Machine
from launch.config.run import Run
from launch.ranks import find_device

RECIPE = "cifar10-resnet20"
BLOCK = ("table3", "table9", "table11")


@dataclass(frozen=True)
class GpuBench:
    """Measure steps, work on masks, and runs alone and side by side, at a GPU's sizes."""

    models: tuple[str, ...] = ("resnet20", "resnet18", "resnet50", "deit-small")
    """Models to step."""
    steps: int = 20
    """Measured steps of each variant."""
    batch_size: int = 0
    """Images per step, also of the runs; 0: 512 of CIFAR's size, 256 of ImageNet's."""
    mask_model: str = "resnet50"
    """Model of the work on masks."""
    iterations: int = 100
    """Iterations of SynFlow."""
    images: int = CIFAR[0]
    """Training images of the runs."""
    epochs: int = 3
    """Epochs of each run."""
    at_once: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of runs that share the GPU."""
    compile: bool = True
    """Also measure a run alone with torch.compile."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    output: Path = Path("bench-gpu.csv")
    """Where the table of steps is written."""

    def __post_init__(self) -> None:
        if min((self.images, self.epochs, *self.at_once)) < 1:
            raise UserError("images, epochs and at_once must be positive.")


def bench_gpu(options: GpuBench) -> int:
    """Print the tables one after the other."""
    device = str(find_device(options.device))
    steps = StepsBench(
        models=options.models,
        steps=options.steps,
        batch_size=options.batch_size,
        memory=False,
        device=device,
        output=options.output,
    )
    masks = MasksBench(options.mask_model, iterations=options.iterations, device=device)
    runs = RunBench(
        RECIPE,
        batch_size=options.batch_size,
        images=options.images,
        rounds=options.epochs,
        device=device,
    )
    bench_steps(steps)
    bench_masks(masks)
    bench_run(runs)
    _share(options, device)
    return 0


def _share(options: GpuBench, device: str) -> None:
    """Measure runs side by side, and compute the time of the CIFAR block at the best rate."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images"
        write_pictures(data, options.images, options.images // 5, 32, 32)
        alone = []
        for count in options.at_once:
            machine = Machine(runs=Path(folder) / f"{count}", device=device)
            alone.append(_epoch(options, data, machine, count) / count)
            print(f"{count:3} runs at once: {alone[-1]:8.3f} s for each epoch of a run")
        if options.compile:
            machine = Machine(runs=Path(folder) / "compiled", device=device, compile=True)
            print(f"alone, compiled: {_epoch(options, data, machine, 1):8.3f} s per epoch")
    runs = {run.name: run for table in BLOCK for run in find_grid(table) if run.recipe == RECIPE}
    epochs = sum(run.epochs for run in runs.values())
    seconds = epochs * min(alone) * CIFAR[0] / options.images
    took = f"{epochs:,} epochs, {seconds / 60:,.0f} min, computed"
    print(f"{len(runs)} runs of {', '.join(BLOCK)}: {took}")


def _epoch(options: GpuBench, data: Path, machine: Machine, count: int) -> float:
    """Return the median seconds per epoch of runs that are trained at the same time."""
    sizes = {"batch_size": options.batch_size} if options.batch_size else {}
    choices = {"data": str(data), "epochs": options.epochs + 1, "sign_in": True, **sizes}
    runs = [Run.make(RECIPE, "random", seed=seed, **choices) for seed in range(count)]
    run_quietly(runs, machine, count)
    rows = [
        row
        for run in runs
        for row in read_epochs(machine.runs / run.name)
        if row["epoch"] > 0  # compiles, and chooses kernels
    ]
    return statistics.median(row["seconds"] + row["test_seconds"] for row in rows)
