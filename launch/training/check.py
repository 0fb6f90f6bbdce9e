"""Checks of runs before the first one is trained, so that a typo costs and leaves nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch

from analysis.folder import is_finished
from baselines.engine.prunable import prunable_weights
from baselines.errors import UserError
from launch.config.machine import Machine
from launch.config.recipe import Recipe
from launch.config.run import Run
from launch.data import Contents, describe_data
from launch.data.batches import check_batch_size
from launch.models import find_model, make_model
from launch.ranks import choose_device
from launch.sparse_training.products import check_products
from launch.trackers import check_tracker
from launch.training.build import build_method, build_sign_rule, check_image_size

F = TypeVar("F", bound=Callable[..., Any])


def check_runs(runs: Sequence[Run], machine: Machine, elsewhere: bool = False) -> None:
    """Check all that can be checked of runs that have not finished. Make the folder for them.

    Args:
        elsewhere: whether they are trained on another machine. Its devices are not checked, and
            data that are not here are not an error.

    Raises:
        UserError: at least one run cannot be trained; the message has every reason.
    """
    todo = [run for run in runs if not is_finished(machine.runs / run.name)]
    if not todo:
        return
    check_tracker(machine.tracker)
    device = None if elsewhere else choose_device(machine.device, torch.cuda.device_count())
    check = _checker(machine, {run.name for run in runs}, elsewhere)
    problems: dict[str, int] = {}
    for run in todo:
        try:
            if machine.sparse_kernels != "none":
                check_products(run.settings.precision, device)
            check(run)
        except UserError as error:
            problems[str(error)] = problems.get(str(error), 0) + 1
    if problems:
        reasons = [f"{reason} ({n} of {len(runs)} runs)" for reason, n in problems.items()]
        raise UserError(f"{' '.join(reasons)} Nothing was started.")
    _make_folder(machine.runs)


def _checker(machine: Machine, names: set[str], elsewhere: bool) -> Callable[[Run], None]:
    """Return a function that checks a run, and looks at equal data and models once."""

    @_once
    def contents(data: Recipe) -> Contents | None:
        try:
            return describe_data(data, machine.data_dir, machine.workers)
        except UserError:
            if elsewhere:
                return None
            raise

    @_once
    def model(name: str, found: Contents, exclude: tuple[str, ...]) -> None:
        prunable_weights(_abstract_model(name, found), exclude)

    def check(run: Run) -> None:
        recipe = run.settings
        find_model(recipe.model)
        found = contents(_data_of(recipe))
        if found is not None:
            check_image_size(run, found.inputs)
            model(recipe.model, found, run.exclude)
            if found.examples is not None:
                check_batch_size(recipe.batch_size, found.examples)
        examples = (found.examples if found else None) or recipe.batch_size
        build_sign_rule(run, build_method(run, examples // recipe.batch_size, machine.runs))
        for name in run.needs:
            is_there = (machine.runs / name).is_dir() or Path(name).is_file()
            if name not in names and not is_there:
                raise UserError(f"there is no run {name} in {machine.runs}, which is needed.")

    return check


def _once(function: F) -> F:
    """Return a function that is called once for equal arguments, also if it raises UserError."""
    known: dict[Any, tuple[Any, UserError | None]] = {}

    @wraps(function)
    def call(*arguments: Any) -> Any:
        if arguments not in known:
            try:
                known[arguments] = function(*arguments), None
            except UserError as error:
                known[arguments] = None, error
        result, problem = known[arguments]
        if problem is not None:
            raise problem
        return result

    return call  # type: ignore[return-value]


def _data_of(recipe: Recipe) -> Recipe:
    """Return a recipe that differs from others only if its data do."""
    return Recipe(data=recipe.data, image_size=recipe.image_size)


def _abstract_model(name: str, found: Contents) -> torch.nn.Module:
    """Return a model without values if it can be built so, which takes no time, else with."""
    try:
        with torch.device("meta"):
            return make_model(name, found.classes, found.inputs)
    except Exception:  # some models compute with values; the error of a real one is the user's
        return make_model(name, found.classes, found.inputs)


def _make_folder(folder: Path) -> None:
    """Make the folder of the run folders. Raises UserError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}.") from None
