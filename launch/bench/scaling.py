"""The growth of cost with the number of runs of a grid and of ranks, and that of ImageNet's grids.

grid      runs of one epoch of digits on this machine; they share the start-up
ranks     gloo processes on this machine: the time of a training step, and the bytes of gradients
          that each process sends in it, as recorded by the profiler
ImageNet  the time of the grids of Tables 3 and 5, computed from the measured speed of the bare
          loop, as if all devices were as fast and none waited for another
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch.profiler import ProfilerActivity, profile

from baselines.errors import UserError, check_not_negative, check_positive
from launch.bench.bare import BareLoop
from launch.bench.generated_images import IMAGENET
from launch.config.grids import find_grid
from launch.config.machine import Machine
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.data import load_data
from launch.executors.local import run_all
from launch.measures.timing import timed
from launch.ranks import join_ranks
from launch.training.build import build_loop
from launch.training.loop import Loop
from launch.training.meter import Meter

VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {"method": "dense"},
    "random": {"method": "random"},
    "random + Sign-In": {"method": "random", "sign_in": True},
}


@dataclass(frozen=True)
class ScalingBench:
    """Measure how cost grows with runs and ranks, and compute the cost of ImageNet's grids."""

    sizes: tuple[int, ...] = (1, 10, 50, 200)
    """Numbers of runs."""
    ranks: tuple[int, ...] = (2, 4, 8)
    """Numbers of processes."""
    steps: int = 10
    """Measured steps of each, after two that are not measured."""
    image_batch: int = 16
    """Batch size of the steps from which ImageNet's cost is computed; 0 omits it."""
    device: str = "auto"
    """Device of these steps: auto, cpu, cuda or cuda:N. The other measurements use the CPU."""

    def __post_init__(self) -> None:
        check_positive(sizes=min(self.sizes, default=1), ranks=min(self.ranks, default=1))
        check_positive(steps=self.steps)
        check_not_negative(image_batch=self.image_batch)


def bench_scaling(options: ScalingBench) -> int:
    """Print the three tables. Return the exit code."""
    for count in options.sizes:
        seconds = _grid(count)
        print(f"{count:4} runs of one epoch: {seconds:7.1f} s, {seconds / count:6.2f} s per run")
    for world in options.ranks:
        for name in VARIANTS:
            ms, sent = _on_ranks(world, name, options.steps)
            print(f"{world:4} ranks, {name:17} {ms:7.1f} ms per step, {sent:,} bytes of gradients")
    if options.image_batch:
        with join_ranks(options.device) as r:
            _imagenet(options.image_batch, r.device)
    return 0


def _grid(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        runs = [Run.make("digits", "random", epochs=1, seed=seed) for seed in range(count)]
        began = time.perf_counter()
        run_quietly(runs, Machine(runs=Path(folder), device="cpu"))
        return time.perf_counter() - began


def run_quietly(runs: list[Run], machine: Machine, slots: int = 0) -> None:
    """Train runs without output.

    Raises:
        UserError: a run failed.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        outcomes = run_all(runs, machine, slots)
    failed = [outcome.error for outcome in outcomes if outcome.result is None]
    if failed:
        raise UserError(f"{len(failed)} runs failed: {failed[0]}")


# ---- ranks


def _on_ranks(world: int, name: str, steps: int) -> tuple[float, int]:
    """Return the milliseconds and the bytes sent per step of rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found"
        spawn: Callable[..., Any] = mp.spawn  # type: ignore[attr-defined]
        spawn(_rank, (world, _free_port(), VARIANTS[name], steps, file), nprocs=world)
        ms, sent = file.read_text().split()
    return float(ms), int(sent)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _rank(
    rank: int, world: int, port: int, choices: dict[str, Any], steps: int, file: Path
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ["KINETO_LOG_LEVEL"] = "99"  # silences the profiler
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with join_ranks("cpu") as r:
        run = Run.make("digits", **choices, epochs=steps + 2)
        data = load_data(run.settings, Path("data"), r.device, 0, r.share, 0)
        loop = build_loop(run, data, r, bar=False)
        loop.start()
        seconds = []
        batches = _batches(loop, steps + 3)

        def step() -> None:
            x, y = batches.pop()
            loop.step(x, y, Meter(1, r.device))

        for _ in range(steps + 2):
            seconds.append(timed(step, r.device))
        sent = _sent(step)
        if rank == 0:
            file.write_text(f"{1e3 * statistics.median(seconds[2:])} {sent}")


def _batches(loop: Loop, n: int) -> list[Any]:
    loop.model.train()
    found: list[Any] = []
    while len(found) < n:
        found += list(loop.data.train.epoch(len(found)))
    return found[:n]


def _sent(step: Callable[[], None]) -> int:
    """Return the bytes of float32 that this rank passes to gloo in one step."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        step()
    calls = [event.input_shapes for event in found.events() if event.name == "gloo:all_reduce"]
    return sum(4 * math.prod(shape) for shapes in calls for shape in shapes)


# ---- ImageNet


def _imagenet(batch: int, device: torch.device) -> None:
    recipe = replace(RECIPES["imagenet-resnet50"], batch_size=batch)
    bare = BareLoop(recipe, 1000, device)
    bare.step()
    rate = batch / statistics.median(timed(bare.step, device) for _ in range(3))
    print(f"ResNet50 at {recipe.image_size} px, batch {batch}: {rate:.1f} images/s on one device")
    for table in ("table3", "table5"):
        runs = [run for run in find_grid(table) if run.recipe == "imagenet-resnet50"]
        epochs = sum(run.epochs for run in runs)
        days = epochs * IMAGENET[0] / rate / 86400
        shares = ", ".join(f"{days / n:,.2f} on {n}" for n in (8, 64))
        print(f"{table}, ImageNet: {len(runs)} runs, {epochs:,} epochs, computed: {shares} (days)")
