"""TensorBoard: event files in RUNS/tensorboard, for `tensorboard --logdir RUNS/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from launch.config.machine import Machine
from launch.config.run import Run
from launch.trackers.tracking import Numbers, settings_of


class TensorBoard:
    """A run as event files.

    What earlier files have of later epochs than the resumed one is hidden: of all epochs if the run
    begins, as one of the same name may have been removed.
    """

    def __init__(self, run: Run, machine: Machine, known: str, epoch: int) -> None:
        self.id = known or run.name
        folder = machine.runs / "tensorboard" / self.id
        self._writer = SummaryWriter(str(folder), purge_step=epoch + 1 if epoch else 0)
        rows = "\n".join(f"| {key} | {value} |" for key, value in settings_of(run).items())
        self._writer.add_text("config", f"| field | value |\n|---|---|\n{rows}", 0)
        self._last = epoch

    def log(self, epoch: int, scalars: Numbers, histograms: Mapping[str, Numbers]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        for name, values in histograms.items():
            self._writer.add_histogram(name, np.array(list(values.values())), epoch)
        self._writer.flush()
        self._last = epoch

    def add_picture(self, name: str, path: Path) -> None:
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name.replace(" ", "_"), pixels, self._last, dataformats="HWC")

    def close(self, result: Mapping[str, float] | None) -> None:
        for name, value in (result or {}).items():
            self._writer.add_scalar(f"result/{name}", value, self._last)
        self._writer.close()
