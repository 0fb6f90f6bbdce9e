"""Constants with which STR reaches a sparsity: shipped ones, and those of `signbench calibrate`.

They depend on everything that a run depends on except its seed: `Run.conditions` is a name of that.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from analysis.folder import read_json
from baselines.errors import UserError

SHIPPED = Path(__file__).with_name("calibrations")  # files named after their conditions
FOLDER, FILE = "calibrations", "calibration.json"  # in the folder of the runs; in each calibration


class Constants(NamedTuple):
    """Initial s of STR and its weight decay."""

    s_init: float
    threshold_decay: float


_ADDED: dict[str, Constants] = {}


def find_constants(conditions: str) -> Constants | None:
    """Return the constants for a run's conditions; None if they are not known."""
    return _ADDED.get(conditions) or _read_shipped().get(conditions)


def calibration_folder(runs: Path, conditions: str) -> Path:
    """Return the folder of a calibration in a folder of runs."""
    return runs / FOLDER / conditions


def add_calibrations(runs: Path) -> None:
    """Use the calibrations that were made in a folder of runs, in place of those of another folder.

    Raises:
        UserError: one cannot be read.
    """
    found = {path.parent.name: _read(path) for path in (runs / FOLDER).glob(f"*/{FILE}")}
    _ADDED.clear()
    _ADDED.update(found)


@cache
def _read_shipped() -> dict[str, Constants]:
    return {path.stem: _read(path) for path in SHIPPED.glob("*.json")}


def _read(path: Path) -> Constants:
    found = read_json(path) or {}
    try:
        return Constants(float(found["s_init"]), float(found["threshold_decay"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a calibration; calibrate again.") from None
