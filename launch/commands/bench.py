"""`signbench bench [WHAT]`: measure costs, with one module of `launch.bench` per measurement."""

from __future__ import annotations

import importlib

from baselines.errors import unknown
from launch.flags import parse, split_name

# module, its dataclass of flags, and its function
MEASURES = {
    "steps": ("steps", "StepsBench", "bench_steps"),
    "run": ("whole_run", "RunBench", "bench_run"),
    "masks": ("masks", "MasksBench", "bench_masks"),
    "scores": ("scores", "ScoresBench", "bench_scores"),
    "scaling": ("scaling", "ScalingBench", "bench_scaling"),
    "loader": ("loader", "LoaderBench", "bench_loader"),
    "trackers": ("trackers", "TrackersBench", "bench_trackers"),
    "gpu": ("gpu", "GpuBench", "bench_gpu"),
    "sparse": ("sparse", "SparseBench", "bench_sparse"),
    "sparse-step": ("sparse_step", "SparseStepBench", "bench_sparse_step"),
}
WITH_SOURCE = ("sparse",)  # measures that take a network before the flags


def command(args: list[str]) -> int:
    """Run one measurement, `steps` if none is named. Return the exit code."""
    what, rest = split_name(args, "steps")
    if what not in MEASURES:
        raise unknown("bench", what, MEASURES)
    if what in WITH_SOURCE:
        source, rest = split_name(rest)
        rest = ["--source", source, *rest] if source else rest
    name, flags, function = MEASURES[what]
    module = importlib.import_module(f"launch.bench.{name}")
    given = parse(getattr(module, flags), rest, f"signbench bench {what}")
    code: int = getattr(module, function)(given)
    return code
