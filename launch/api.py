"""The suite in Python: train runs and grids, and read the results as DataFrames.

    from launch import Run, grid, results, run

Nothing needs a guard `if __name__ == "__main__"`: see `launch.executors.main_module`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.conditions import select_runs
from analysis.folder import list_runs
from analysis.frame import load_runs
from baselines.errors import UserError
from launch.config.assignments import GRID_LISTS
from launch.config.dependencies import in_order, require_constants
from launch.config.grid_file import alternatives, runs_of
from launch.config.grids import find_grid
from launch.config.machine import Machine
from launch.config.run import Run, warn_of_short
from launch.config.str_constants import add_calibrations
from launch.executors.main_module import stop_in_worker
from launch.plugins import import_plugins

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "grid", "results", "run"]

_FIELDS = {several: one for one, several in GRID_LISTS.items()}  # by the names of named grids


def run(
    recipe: str | Run = "digits", method: str = "dense", progress: bool = True, **choices: Any
) -> pd.Series:
    """Train one network in this process. A finished run is not trained again.

    Args:
        recipe: name of a recipe, a YAML file, or a whole `Run`.
        method: name of a method, or `package.module:Class`.
        progress: print one line per epoch.
        choices: fields of runs, recipes, Sign-In and methods (sparsity=0.9, sign_in=True, lr=0.1),
            and of `launch.config.machine.Machine` (runs="runs", data_dir, device, threads,
            imports=("my_plugins",), …).

    Returns:
        The run's row of `results`.

    Raises:
        UserError: a name, field or value is not valid, or the run cannot be trained.
        Diverged: a loss or weight is not finite.
        Collapsed: the output of the final network is constant, and its sparsity is not the
            requested one.
    """
    from launch.training.check import warn_of_slow_precision
    from launch.training.run import run_training, silent

    stop_in_worker()
    machine = _machine(choices)
    if isinstance(recipe, Run):
        _refuse_choices(choices if method == "dense" else {"method": method, **choices})
        one = recipe.calibrated()
    else:
        one = Run.make(recipe, method, **choices)
    warn_of_short([one], machine.runs)
    warn_of_slow_precision([one], machine)
    run_training(one, machine, report=print if progress else silent, bar=False)
    return load_runs([machine.runs / one.name], machine.runs).iloc[0]


def grid(
    name: str | Sequence[Run] = "", slots: int = 0, progress: bool = True, **choices: Any
) -> pd.DataFrame:
    """Train a grid on this machine, with several runs at the same time.

    Args:
        name: a named grid ("table9"), a YAML file, or runs. If empty, the grid is the product of
            the lists among `choices`.
        slots: runs at the same time; 0: one per CPU core, or one on each GPU.
        progress: show progress.
        choices: as of `run`. Lists of values are alternatives: method=["random", "rigl"],
            sign_in=[False, True], seed=[0, 1, 2].

    Returns:
        One row per run, as `results` does. Runs that failed are among them, with the columns state
        and reason, and are named in a warning.

    Raises:
        UserError: a name, field or value is not valid, or a run cannot be trained. Nothing has
            been started then.
    """
    from launch.executors.local import run_all
    from launch.executors.outcomes import load_outcomes
    from launch.training.check import check_runs

    stop_in_worker()
    machine = _machine(choices)
    runs = list(in_order(_runs(name, choices)))
    require_constants(runs, machine)
    warn_of_short(runs, machine.runs)
    check_runs(runs, machine)
    ended = {one.run.name: one for one in run_all(runs, machine, slots, progress=progress)}
    outcomes = [ended[one.name] for one in runs]
    failed = [outcome for outcome in outcomes if outcome.result is None]
    if failed:
        reasons = "; ".join(f"{o.run.name}: {o.error}" for o in failed[:5])
        warnings.warn(f"{len(failed)} of {len(runs)} runs failed: {reasons}", stacklevel=2)
    return load_outcomes(outcomes, machine.runs)


def results(runs: str | Path = "runs", where: str | Iterable[str] = ()) -> pd.DataFrame:
    """Return all runs in a folder, one row per run.

    Columns are the fields of runs (recipe, method, sparsity, sign_in, seed, `settings.lr`,
    `options.density`), those of results (`result.accuracy`), label, state, reason and folder.

    Args:
        runs: folder of the run folders.
        where: conditions, as `signbench table --where` takes them: "method=rigl,snip".

    Raises:
        UserError: there is no such folder, or a condition is not valid.
    """
    found = load_runs(list_runs(Path(runs)))
    conditions = [where] if isinstance(where, str) else list(where)
    return select_runs(found, conditions).reset_index(drop=True) if conditions else found


def _runs(name: str | Sequence[Run], choices: dict[str, Any]) -> list[Run]:
    if not isinstance(name, str):
        _refuse_choices(choices)
        return [one.calibrated() for one in name]
    if not name:
        return runs_of(choices)
    rest = dict(choices)
    protocols = alternatives("protocol", rest.pop("protocol", "suite"))
    lists: dict[str, list[Any]] = {}
    for key, value in ((_FIELDS.get(key, key), value) for key, value in rest.items()):
        if key in GRID_LISTS:
            lists[key] = [(value,) if isinstance(value, str | int) else tuple(value)]
        else:
            lists[key] = alternatives(key, value)
    return [one for protocol in protocols for one in find_grid(name, lists, protocol)]


def _refuse_choices(choices: dict[str, Any]) -> None:
    """Raise UserError for choices that are given with whole runs, on which they have no effect."""
    if choices:
        raise UserError(f"give {', '.join(sorted(choices))} to Run.make: a Run has all its fields.")


def _machine(choices: dict[str, Any]) -> Machine:
    """Return the machine, whose fields are taken out of the choices, with its plug-ins imported and
    the calibrations of its runs known."""
    own = {spec.name for spec in fields(Machine)} & choices.keys()
    given = {key: choices.pop(key) for key in own}
    for key in ("runs", "data_dir"):
        if key in given:
            given[key] = Path(given[key]).expanduser()
    machine = Machine(**given)
    import_plugins(machine.imports)
    add_calibrations(machine.runs)
    return machine
