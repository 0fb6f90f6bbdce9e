"""What is tracked of a run, and when. Adapters define how.

    config      all settings of the run
    scalars     loss, accuracy, learning rate, sparsity and flips, after each epoch
    histograms  sparsity and flips of the layers, after each epoch
    figures     curves, and sparsity and flips by layer, at the end

A tracked run has the name of the run's folder, in which tracker.json says what was tracked. A run
that resumes continues the same tracked run. A tracker that fails never stops the training, and is
closed in any case: a library may have one run at a time only, into which the next one would log.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from analysis.checked import FileError
from analysis.contents import EpochRow, LayerRow
from analysis.folder import TRACKER, read_epochs, read_json, read_layers
from analysis.nested import flatten
from baselines.errors import UserError, describe
from launch.config.machine import Machine
from launch.config.run import Run
from launch.runs.atomic import write_json

# module and class of each adapter, and what to install for it
ADAPTERS = {
    "tensorboard": ("launch.trackers.tensorboard", "TensorBoard", "tensorboard"),
    "wandb": ("launch.trackers.wandb_like", "Wandb", "wandb"),
    "trackio": ("launch.trackers.wandb_like", "Trackio", "trackio"),
    "mlflow": ("launch.trackers.mlflow", "MLflow", "mlflow"),
}
SCALARS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
    "lr": "lr",
    "sparsity": "sparsity",
    "flips": "flips",
    "seconds": "seconds",
}
Numbers = Mapping[str, float]
DRAWN = ("curves", "8", "9")  # of analysis.figures.FIGURES


class Tracker(Protocol):
    """A run in a tracker. Epochs count from 1.

    Attributes:
        id: finds the same run again, to resume it.
    """

    id: str

    def log(self, epoch: int, scalars: Numbers, histograms: Mapping[str, Numbers]) -> None:
        """Add the numbers of an epoch.

        Args:
            histograms: values by layer.
        """
        ...

    def add_picture(self, name: str, path: Path) -> None:
        """Add a PNG file."""
        ...

    def close(self, result: Mapping[str, float] | None) -> None:
        """End with a result, or as failed if there is none."""
        ...


def check_tracker(name: str) -> None:
    """Raise UserError if the library of a tracker is not installed."""
    if name != "none":
        _adapter(name)


def open_tracking(run: Run, machine: Machine, folder: Path, epoch: int) -> Tracking:
    """Return the tracking of a run, begun or resumed.

    Args:
        folder: the run's folder.
        epoch: number of epochs that were trained before.

    Raises:
        UserError: the library is not installed, or cannot begin.
    """
    if machine.tracker == "none":
        return Tracking(folder)
    adapter = _adapter(machine.tracker)
    noted = read_json(folder / TRACKER) or {}
    known = noted if noted.get("tracker") == machine.tracker else {}
    try:
        tracker = adapter(run, machine, known.get("id", ""), epoch)
    except Exception as error:  # libraries raise exceptions of many types
        raise UserError(f"{machine.tracker} cannot begin: {describe(error)}") from error
    logged = known.get("epochs", 0) if tracker.id == known.get("id") else 0
    return Tracking(folder, machine.tracker, tracker, min(epoch, logged))


def is_tracked(folder: Path, name: str) -> bool:
    """Return whether all of a finished run has been tracked, according to tracker.json."""
    if name == "none":
        return True
    try:
        noted = read_json(folder / TRACKER) or {}
    except FileError:
        return True
    return noted.get("tracker") != name or noted.get("closed") is not False


def complete_tracking(run: Run, machine: Machine, folder: Path, result: Mapping[str, Any]) -> None:
    """Track what is missing of a run that has finished. Warn if that fails."""
    try:
        epochs, layers = read_epochs(folder), read_layers(folder)
        with open_tracking(run, machine, folder, len(epochs)) as tracking:
            tracking.update(epochs, layers)
            tracking.finish(result)
    except UserError as error:
        warnings.warn(f"{folder.name} is not tracked to its end: {error}", stacklevel=2)


class Tracking:
    """The tracking of one run. Without a tracker, it does nothing.

    Args:
        logged: number of epochs that were tracked before.

    Attributes:
        has_failed: whether an epoch could not be tracked; further ones are not tried.
    """

    def __init__(
        self, folder: Path, name: str = "none", tracker: Tracker | None = None, logged: int = 0
    ) -> None:
        self.folder, self.name, self.tracker, self.logged = folder, name, tracker, logged
        self.result: Mapping[str, Any] | None = None
        self.has_failed = False

    def update(self, epochs: Sequence[EpochRow], layers: Sequence[LayerRow]) -> None:
        """Track the epochs that were not.

        Args:
            epochs, layers: the rows of all epochs so far.
        """
        for row in [row for row in epochs if row["epoch"] >= self.logged]:
            if self.tracker is not None and not self.has_failed:
                own = [layer for layer in layers if layer["epoch"] == row["epoch"]]
                self.has_failed = not self._try("tracks no more", self._log, row, own)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Track the result, which is in the folder, and figures of the run."""
        self.result = result
        if self.tracker is not None and not self.has_failed:
            for name in DRAWN:
                self._try(f"lacks the figure {name}", self._draw, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.tracker is None:
            return
        closed = self._try("may lack the result", self.tracker.close, _numbers(self.result))
        if closed and self.result is not None and not self.has_failed:
            self._try("may be completed again", self._note, True)

    def _log(self, row: EpochRow, layers: Sequence[LayerRow]) -> None:
        assert self.tracker is not None
        values: Mapping[str, Any] = row
        scalars = {name: float(values[key]) for key, name in SCALARS.items() if key in values}
        # also of methods that have no mask until the last epoch
        sparsity = {n["layer"]: 1 - n["nonzero"] / n["weights"] for n in layers}
        flips = {n["layer"]: f for n in layers if (f := _flips(n)) is not None}
        histograms = {"layers/sparsity": sparsity, "layers/flips": flips}
        filled = {name: found for name, found in histograms.items() if found}
        self.tracker.log(row["epoch"] + 1, scalars, filled)
        self.logged = row["epoch"] + 1
        self._note(closed=False)

    def _note(self, closed: bool) -> None:
        """Record what is tracked; `closed`: nothing is missing."""
        assert self.tracker is not None
        noted = {"tracker": self.name, "id": self.tracker.id, "epochs": self.logged}
        write_json(self.folder / TRACKER, {**noted, "closed": closed})

    def _draw(self, name: str) -> None:
        from analysis.figures import FIGURES, save
        from analysis.frame import load_runs

        assert self.tracker is not None
        try:
            figure = FIGURES[name].draw(load_runs([self.folder]))
        except UserError:  # the run has not what this figure shows
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"figure-{name}.png"
            save(figure, path)
            self.tracker.add_picture(f"figure {name}" if name.isdigit() else name, path)

    def _try(self, consequence: str, action: Callable[..., None], *arguments: Any) -> bool:
        """Call an action. Return whether it succeeds.

        Warn if it does not, except after a failure that ended the tracking.
        """
        try:
            action(*arguments)
            return True
        except Exception as error:  # libraries raise exceptions of many types
            if not self.has_failed:
                warnings.warn(f"{self.name} failed and {consequence}: {error!r}", stacklevel=3)
            return False


def settings_of(run: Run) -> dict[str, Any]:
    """Return all fields of a run by dotted names."""
    flat = flatten(asdict(run))
    return {key: list(entry) if isinstance(entry, tuple) else entry for key, entry in flat.items()}


def _adapter(name: str) -> Callable[[Run, Machine, str, int], Tracker]:
    module, kind, package = ADAPTERS[name]
    try:
        adapter: Callable[[Run, Machine, str, int], Tracker]
        adapter = getattr(importlib.import_module(module), kind)
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"--tracker {name} needs: pip install {package} ({error}).") from None
    return adapter


def _flips(layer: Mapping[str, Any]) -> float | None:
    """Return the fraction of a layer's signs that have flipped since initialisation."""
    compared = layer.get("compared_init", 0)
    return layer["flips_init"] / compared if compared else None


def _numbers(result: Mapping[str, Any] | None) -> dict[str, float] | None:
    if result is None:
        return None
    return {k: float(v) for k, v in result.items() if isinstance(v, int | float)}
