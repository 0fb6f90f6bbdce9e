"""The time of experiment trackers: to begin, after each epoch, and to end.

The rows have the prunable layers of a real model, and random numbers. Nothing is trained, no
figures are drawn, and everything is written to a temporary folder. The start includes the import of
the library.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch  # restores the environment

from analysis.contents import EpochRow, LayerRow
from baselines.engine.prunable import prunable_weights
from baselines.errors import UserError, check_positive, unknown
from launch.bench.variants import MEASURED_MODELS
from launch.config.machine import Machine
from launch.config.run import Run
from launch.models import build_model
from launch.trackers import open_tracking
from launch.trackers.tracking import ADAPTERS, SCALARS

Times = tuple[float, float]  # seconds, and seconds of this process on a CPU


@dataclass(frozen=True)
class TrackersBench:
    """Measure the time of experiment trackers at the start, after each epoch and at the end."""

    trackers: tuple[str, ...] = tuple(ADAPTERS)
    """tensorboard, wandb, trackio, mlflow; those that are not installed are left out."""
    model: str = "resnet50"
    """resnet20, resnet18, resnet50, resnet50-128 or deit-small."""
    epochs: int = 20
    """Epochs that are tracked."""

    def __post_init__(self) -> None:
        check_positive(epochs=self.epochs)
        if self.model not in MEASURED_MODELS:
            raise unknown("model", self.model, MEASURED_MODELS)
        for name in self.trackers:
            if name not in ADAPTERS:
                raise unknown("tracker", name, ADAPTERS)


def bench_trackers(options: TrackersBench) -> int:
    """Print one line per tracker. Return the exit code."""
    layers = _layers(options.model)
    lines = [_line(name, layers, options) for name in options.trackers]  # libraries print, too
    print(f"{options.model}: {len(layers)} layers, {options.epochs} epochs; seconds (of CPU)")
    print(f"{'tracker':12} {'start':>16} {'epoch, median':>16} {'longest':>16} {'end':>16}")
    print("\n".join(lines))
    return 0


def _line(name: str, layers: dict[str, int], options: TrackersBench) -> str:
    try:
        start, epochs, end = _measure(name, layers, options)
    except UserError as error:
        return f"{name:12} {error}"
    median = statistics.median(t[0] for t in epochs), statistics.median(t[1] for t in epochs)
    shown = (f"{wall:.3f} ({cpu:.3f})" for wall, cpu in (start, median, max(epochs), end))
    return f"{name:12} {' '.join(f'{text:>16}' for text in shown)}"


def _layers(model: str) -> dict[str, int]:
    """Return the number of weights of each prunable layer."""
    case = MEASURED_MODELS[model]
    net = build_model(case.recipe(1).model, case.classes, 3, case.image_size)
    return {name: weight.numel() for name, weight in prunable_weights(net).items()}


def _measure(
    name: str, layers: dict[str, int], options: TrackersBench
) -> tuple[Times, list[Times], Times]:
    """Return the times of the start, of each epoch and of the end."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, {"WANDB_MODE": "offline", "TRACKIO_DIR": folder}),
    ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        machine = Machine(runs=Path(folder), tracker=cast(Any, name))
        run = Run.make(MEASURED_MODELS[options.model].name, "random", sparsity=0.9, sign_in=True)
        path = machine.runs / run.name
        path.mkdir()
        tracking, start = _time(partial(open_tracking, run, machine, path, 0))
        rows: list[EpochRow] = []
        of_layers: list[LayerRow] = []
        times = []
        for epoch in range(options.epochs):
            rows.append(_epoch_row(epoch))
            of_layers += [_layer_row(epoch, *layer) for layer in layers.items()]
            times.append(_time(partial(tracking.update, rows, of_layers))[1])
        if tracking.tracker is None:
            raise UserError("failed; the warning says why.")
        tracking.result = {"accuracy": 0.9}
        end = _time(partial(tracking.__exit__, None, None, None))[1]
    return start, times, end


def _time(work: Callable[[], Any]) -> tuple[Any, Times]:
    began, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - began, time.process_time() - cpu)


def _epoch_row(epoch: int) -> EpochRow:
    values: dict[str, Any] = {key: random.random() for key in SCALARS}
    return cast(EpochRow, {**values, "epoch": epoch})


def _layer_row(epoch: int, layer: str, weights: int) -> LayerRow:
    nonzero = random.randrange(weights)
    numbers = {"nonzero": nonzero, "flips_init": weights // 20, "compared_init": weights}
    return cast(LayerRow, {"epoch": epoch, "layer": layer, "weights": weights, **numbers})
