"""Find the constants with which STR reaches a sparsity, by bisection on trained networks."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from analysis.folder import SNAPSHOTS
from baselines.errors import UserError, check_positive
from baselines.methods.str_ import Str, StrOptions
from baselines.target import largest_difference
from launch.config.machine import Machine
from launch.config.run import Run
from launch.config.str_constants import FILE, Constants, calibration_folder
from launch.data import load_data
from launch.executors.local import Outcome, run_all
from launch.ranks import Share
from launch.runs.atomic import make_folder, write_json
from launch.runs.provenance import find_provenance
from launch.training.build import lr_integral

S_INIT = -20.0  # σ(−20) = 2e-9 prunes nothing; nearer to 0, sparsity changes less with the decay
PRUNING = -8.0  # σ(−8) = 3e-4 is where pruning begins
AFTER = 6.0  # E from there on that leads to about 80 % (the published constants have 5.8 for 90 %)


@dataclass(frozen=True)
class Search:
    """Settings of the search for constants."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each trial; the mean of their sparsities is compared with the requested one."""
    within: float = 0.003
    """Largest difference between the two."""
    trials: int = 16
    """Largest number of trials, each of one run per seed."""

    def __post_init__(self) -> None:
        check_positive(within=self.within, trials=self.trials)
        if not self.seeds:
            raise UserError("seeds: give at least one.")


class Trial(NamedTuple):
    """A weight decay of s, and the sparsity of each seed with it."""

    threshold_decay: float
    sparsities: tuple[float, ...]

    @property
    def sparsity(self) -> float:
        return sum(self.sparsities) / len(self.sparsities)

    def seeds_beyond(self, seeds: Sequence[int], wanted: float, allowed: float) -> list[int]:
        """Return the seeds whose sparsity differs from the wanted one by more than allowed."""
        pairs = zip(sorted(seeds), self.sparsities, strict=True)
        return [seed for seed, sparsity in pairs if abs(sparsity - wanted) > allowed]


def calibrate(
    run: Run,
    search: Search,
    machine: Machine,
    slots: int = 0,
    slots_per_gpu: int = 1,
    report: Callable[[str], None] = print,
) -> Path:
    """Find the weight decay of s with which STR reaches the run's sparsity.

    Trials are runs in the calibration's folder: a search that is started again resumes.

    Args:
        run: of STR; its s_init and threshold_decay, if given, are where the search starts.
        slots, slots_per_gpu: as of `run_all`.

    Returns:
        The calibration's file, in the folder of the runs.

    Raises:
        UserError: no weight decay reaches the sparsity, or a run has failed.
    """
    given = run.options
    assert isinstance(given, StrOptions)
    s_init = given.s_init or S_INIT
    folder = calibration_folder(machine.runs, run.conditions)
    make_folder(folder)
    there = replace(machine, runs=folder)
    trials = []

    def measure(decay: float) -> float:
        options = replace(given, s_init=s_init, threshold_decay=decay, calibrated=())
        runs = [replace(run, seed=s, keep_epochs=(), options=options) for s in search.seeds]
        outcomes = run_all(runs, there, slots, slots_per_gpu)
        trials.append(Trial(decay, tuple(_sparsities(outcomes, folder))))
        each = ", ".join(f"{sparsity:.4f}" for sparsity in trials[-1].sparsities)
        report(f"threshold_decay {decay:g}: sparsity {trials[-1].sparsity:.4f} ({each})")
        return trials[-1].sparsity

    start = given.threshold_decay or first_guess(run, s_init, machine)
    decay = bisect(measure, run.sparsity, start, search.within, search.trials)
    allowed = largest_difference(run.sparsity, Str.tolerance, math.inf)
    if missed := trials[-1].seeds_beyond(search.seeds, run.sparsity, allowed):
        report(
            f"note: seeds {', '.join(map(str, missed))} are off by more than {allowed:g}, so that "
            "tables mark their rows with ‡, and give them no gain and no rank."
        )
    _write(folder / FILE, run, Constants(s_init, decay), search, trials)
    return folder / FILE


def bisect(
    measure: Callable[[float], float], wanted: float, start: float, within: float, most: int
) -> float:
    """Return a positive number whose measure is the wanted one, by bisection of its logarithm.

    Args:
        measure: an increasing function.
        start: the first number; doubled or halved until the wanted measure is between two.
        within: largest difference of the measures.
        most: largest number of calls.

    Raises:
        UserError: no number was found.
    """
    low = high = None
    x = start
    below = above = float("nan")
    hint = f"Give more than {most} --trials; those that have finished are not trained again."
    for _ in range(most):
        found = measure(x)
        if abs(found - wanted) <= within:
            return x
        if found < wanted:
            low, below = x, found
        else:
            high, above = x, found
        last, x = x, _between(low, high)
        if x == last or x in (low, high):
            hint = "Try an --s-init nearer to 0, or a larger --within."
            break
    raise UserError(
        f"no threshold_decay was found for sparsity {wanted:g}: {low} gives {below:.4f}, {high} "
        f"gives {above:.4f}. {hint}"
    )


def _between(low: float | None, high: float | None) -> float:
    """Return the next number, to four digits."""
    if low is None or high is None:
        return 2 * low if low is not None else (high or 0) / 2
    return float(f"{math.sqrt(low * high):.4g}")


def first_guess(run: Run, s_init: float, machine: Machine) -> float:
    """Return a weight decay of s that leads to some sparsity, from the learning rates."""
    recipe = run.settings
    data = load_data(
        recipe, machine.data_dir, torch.device("cpu"), run.seed, Share(), machine.workers
    )
    reach = lr_integral(recipe, recipe.epochs * len(data.train))
    return float(f"{(math.log(max(1.0, s_init / PRUNING)) + AFTER) / reach:.4g}")


def _sparsities(outcomes: list[Outcome], folder: Path) -> Iterator[float]:
    """Yield the sparsities that the runs of a trial reach; remove their snapshots."""
    for outcome in sorted(outcomes, key=lambda o: o.run.seed):
        collapsed = outcome.result is None and outcome.error.startswith("Collapsed")
        if outcome.result is None and not collapsed:
            raise UserError(f"calibrate: {outcome.run.title} failed: {outcome.error}")
        yield outcome.result["sparsity"] if outcome.result else 1.0  # all is pruned
        shutil.rmtree(folder / outcome.run.name / SNAPSHOTS, ignore_errors=True)


def _write(path: Path, run: Run, found: Constants, search: Search, trials: list[Trial]) -> None:
    about = {"conditions": run.conditions, "recipe": run.recipe, "requested": run.sparsity}
    about |= {**found._asdict(), "sparsity": trials[-1].sparsity, "within": search.within}
    about |= {"seeds": search.seeds, "trials": [trial._asdict() for trial in trials]}
    write_json(path, {**about, **find_provenance()})
