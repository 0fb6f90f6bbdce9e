"""`signbench bench [WHAT]`: one subcommand a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from baselines.errors import unknown
from launch.flags import parse, split_name


def bench(args: list[str]) -> int:
    """Measures one of the things below; steps, where none is named."""
    what, rest = split_name(args, "steps")
    if what not in MEASURES:
        raise unknown("bench", what, MEASURES)
    options, measure = MEASURES[what]()
    return measure(parse(options, rest, f"signbench bench {what}"))


Measure = tuple[type[Any], Callable[[Any], int]]


def _steps() -> Measure:
    from launch.bench.steps import bench_steps
    from launch.bench.variants import StepsBench

    return StepsBench, bench_steps


def _loader() -> Measure:
    from launch.bench.loader import LoaderBench, bench_loader

    return LoaderBench, bench_loader


def _run() -> Measure:
    from launch.bench.runs import RunBench, bench_run

    return RunBench, bench_run


def _masks() -> Measure:
    from launch.bench.masks import MasksBench, bench_masks

    return MasksBench, bench_masks


def _scaling() -> Measure:
    from launch.bench.scaling import ScalingBench, bench_scaling

    return ScalingBench, bench_scaling


def _gpu() -> Measure:
    from launch.bench.gpu import GpuBench, bench_gpu

    return GpuBench, bench_gpu


# each imports what it needs when it is asked for
MEASURES: dict[str, Callable[[], Measure]] = {
    "steps": _steps,
    "run": _run,
    "masks": _masks,
    "scaling": _scaling,
    "loader": _loader,
    "gpu": _gpu,
}
