"""All measurements of a GPU in one call: those of the other modules, and runs that share the GPU.

steps   steps of the variants, at the recipes' batch size for CIFAR and a quarter of it for ImageNet
masks   work on masks and scores, compared with an epoch
run     epochs of a real run, compared with the bare loop
shared  epochs, evaluation included, of several runs on the GPU at the same time, and of one run
        with torch.compile. The time of the CIFAR-10 part of Tables 3, 9 and 11 is computed from
        the fastest of them
2:4     inference of DeiT-S with core torch's 2:4 kernels, at the batch size of the steps and the
        recipe's; on a GPU only
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from analysis.folder import read_epochs
from baselines.errors import check_positive
from launch.bench.generated_images import CIFAR, write_pictures
from launch.bench.masks import MasksBench, bench_masks
from launch.bench.scaling import run_quietly
from launch.bench.sparse import SparseBench, bench_sparse
from launch.bench.sparse_networks import NM, RANDOM, SparseSource
from launch.bench.steps import bench_steps
from launch.bench.variants import MEASURED_MODELS, StepsBench
from launch.bench.whole_run import RunBench, bench_run
from launch.config.grids import find_grid
from launch.config.machine import Machine
from launch.config.recipe import Precision
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.ranks import find_device

RECIPE = "cifar10-resnet20"
LINEAR = "deit-small"  # whose prunable layers are linear, but for the first
TIMED_TABLES = ("table3", "table9", "table11")


@dataclass(frozen=True)
class GpuBench:
    """Measure steps, work on masks, and one and several runs, at the sizes of a GPU."""

    models: tuple[str, ...] = ("resnet20", "resnet18", "resnet50", "deit-small")
    """Models whose steps are measured."""
    steps: int = 20
    """Measured steps of each variant."""
    batch_size: int = 0
    """Batch size of the steps and the runs; 0: 512 for CIFAR, 256 for ImageNet."""
    mask_model: str = "resnet50"
    """Model for the work on masks."""
    iterations: int = 100
    """Iterations of SynFlow."""
    precision: Precision = "bfloat16"
    """Precision of steps and runs; that of the 2:4 kernels is bfloat16."""
    images: int = CIFAR[0]
    """Number of training images of the runs."""
    epochs: int = 3
    """Epochs of each run."""
    at_once: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of runs that share the GPU."""
    compile: bool = True
    """Also measure one run with torch.compile."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    output: Path = Path("bench-gpu.csv")
    """File for the table of steps; that of the 2:4 kernels has a name with -nm."""

    def __post_init__(self) -> None:
        check_positive(images=self.images, epochs=self.epochs)
        check_positive(at_once=min(self.at_once, default=1))


def bench_gpu(options: GpuBench) -> int:
    """Print all tables. Return the exit code."""
    device = str(find_device(options.device))
    steps = StepsBench(
        models=options.models,
        steps=options.steps,
        batch_size=options.batch_size,
        memory=False,
        precision=options.precision,
        device=device,
        output=options.output,
    )
    masks = MasksBench(
        options.mask_model,
        iterations=options.iterations,
        precision=options.precision,
        device=device,
    )
    runs = RunBench(
        RECIPE,
        batch_size=options.batch_size,
        images=options.images,
        precision=options.precision,
        rounds=options.epochs,
        device=device,
    )
    bench_steps(steps)
    bench_masks(masks)
    bench_run(runs)
    _share(options, device)
    if device == "cpu":
        print("2:4 kernels need a GPU: not measured")
    else:
        bench_sparse(kernel_bench(options, device))
    return 0


def kernel_bench(options: GpuBench, device: str) -> SparseBench:
    """Return the measurement of 2:4 kernels on the linear layers of DeiT-S with random masks."""
    case = MEASURED_MODELS[LINEAR]
    recipe = RECIPES[case.name]
    source = SparseSource(RANDOM, recipe.model, case.classes, sparsity=(0.5,), density=NM)
    sizes = (options.batch_size,) if options.batch_size else (case.gpu_batch, recipe.batch_size)
    return SparseBench(
        source,
        batch=sizes,
        precision="bfloat16",
        device=device,
        layers=True,
        output=options.output.with_stem(f"{options.output.stem}-nm"),
    )


def _share(options: GpuBench, device: str) -> None:
    """Measure runs that share the GPU. Compute the time of the tables from the fastest of them."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images"
        write_pictures(data, options.images, options.images // 5, 32, 32)
        per_run = []
        for count in options.at_once:
            machine = Machine(runs=Path(folder) / f"{count}", device=device)
            per_run.append(_epoch(options, data, machine, count) / count)
            print(f"{count:3} runs at once: {per_run[-1]:8.3f} s for each epoch of a run")
        if options.compile:
            machine = Machine(runs=Path(folder) / "compiled", device=device, compile=True)
            print(f"1 run, compiled: {_epoch(options, data, machine, 1):8.3f} s per epoch")
    runs = {
        run.name: run for table in TIMED_TABLES for run in find_grid(table) if run.recipe == RECIPE
    }
    epochs = sum(run.epochs for run in runs.values())
    seconds = epochs * min(per_run) * CIFAR[0] / options.images
    took = f"{epochs:,} epochs, {seconds / 60:,.0f} min, computed"
    print(f"{len(runs)} runs of {', '.join(TIMED_TABLES)}: {took}")


def _epoch(options: GpuBench, data: Path, machine: Machine, count: int) -> float:
    """Return the median seconds of an epoch of runs that are trained at the same time."""
    sizes = {"batch_size": options.batch_size} if options.batch_size else {}
    choices = {"data": str(data), "epochs": options.epochs + 1, "sign_in": True, **sizes}
    choices["precision"] = options.precision
    runs = [Run.make(RECIPE, "random", seed=seed, **choices) for seed in range(count)]
    run_quietly(runs, machine, count)
    rows = [
        row
        for run in runs
        for row in read_epochs(machine.runs / run.name)
        if row["epoch"] > 0  # the first epoch compiles and selects kernels
    ]
    return statistics.median(row["seconds"] + row["test_seconds"] for row in rows)
