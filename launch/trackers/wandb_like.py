"""Weights & Biases, and Trackio, which has the same functions.

Their own environment variables hold: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, TRACKIO_DIR,
TRACKIO_SPACE_ID, …
"""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.config.machine import Machine
from launch.config.run import Run
from launch.trackers.tracking import Numbers, settings_of

PROJECT = "signbench"


class _WandbLike:
    """A run of a library with the functions of wandb."""

    def __init__(self, library: str) -> None:
        self._library: Any = importlib.import_module(library)

    def log(self, epoch: int, scalars: Numbers, histograms: Mapping[str, Numbers]) -> None:
        shown = {n: self._library.Histogram(list(v.values())) for n, v in histograms.items()}
        self._log({**scalars, **shown}, epoch)
        self._last = epoch

    def add_picture(self, name: str, path: Path) -> None:
        self._log({f"figures/{name}": self._library.Image(str(path))}, self._last)

    def _log(self, values: Mapping[str, Any], epoch: int) -> None:
        raise NotImplementedError


class Wandb(_WandbLike):
    """A run in Weights & Biases, with the epoch as its axis."""

    def __init__(self, run: Run, machine: Machine, known: str, epoch: int) -> None:
        super().__init__("wandb")
        self.id, self._last = known or f"{run.name}-{secrets.token_hex(4)}", epoch
        machine.runs.mkdir(parents=True, exist_ok=True)
        self._run = self._library.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=run.name,
            group=f"{run.recipe} {run.label}",
            config=settings_of(run),
            dir=str(machine.runs),
            resume="allow",
            reinit="finish_previous",  # by default, an open run of this process would be returned
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def _log(self, values: Mapping[str, Any], epoch: int) -> None:
        self._run.log({**values, "epoch": epoch})

    def close(self, result: Mapping[str, float] | None) -> None:
        try:
            for name, value in (result or {}).items():
                self._run.summary[f"result/{name}"] = value
        finally:
            self._run.finish(exit_code=0 if result else 1)


class Trackio(_WandbLike):
    """A run in Trackio, with the epoch as its step."""

    def __init__(self, run: Run, machine: Machine, known: str, epoch: int) -> None:
        super().__init__("trackio")
        self.id, self._last = known or f"{run.name}-{secrets.token_hex(4)}", epoch
        self._run = self._library.init(
            project=PROJECT,
            name=self.id,
            group=f"{run.recipe} {run.label}",
            config=settings_of(run),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def _log(self, values: Mapping[str, Any], epoch: int) -> None:
        self._run.log(dict(values), step=epoch)

    def close(self, result: Mapping[str, float] | None) -> None:
        try:
            if result:
                self._log({f"result/{name}": value for name, value in result.items()}, self._last)
        finally:
            self._run.finish()
