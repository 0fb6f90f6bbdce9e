"""Checks of runs before the first one is trained, so that a typo is found at once."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch

from analysis.folder import is_finished
from baselines.checkpoint import run_of
from baselines.engine.prunable import prunable_weights
from baselines.errors import UserError
from baselines.sign_rule import check_rule
from launch.config.cluster import Cluster
from launch.config.dependencies import in_order
from launch.config.machine import Machine
from launch.config.recipe import Recipe
from launch.config.run import Run
from launch.data import describe_data
from launch.data.batches import Contents, check_batch_size, check_ranks
from launch.data.normalisation import chosen_constants
from launch.data.order import holds_out_none
from launch.models import find_model, make_model
from launch.ranks import choose_device
from launch.runs.snapshots import find_source
from launch.sparse_training.products import check_products
from launch.trackers import check_tracker
from launch.training.build import build_method, check_held_out, check_image_size

MOST_GPUS = 1024  # of a machine that is not known
F = TypeVar("F", bound=Callable[..., Any])


def check_runs(runs: Sequence[Run], machine: Machine, cluster: Cluster | None = None) -> None:
    """Check all that can be checked of runs that have not finished. Make the folder for them.

    Args:
        cluster: what the runs request from Slurm; None if they are trained here. The cluster's
            devices are not known, and data that are not here are not an error.

    Raises:
        UserError: at least one run cannot be trained; the message has every reason.
    """
    todo = [run for run in runs if not is_finished(machine.runs / run.name)]
    if not todo:
        return
    check_tracker(machine.tracker)
    ranks = cluster.nodes * cluster.tasks if cluster else 1
    gpus = MOST_GPUS if cluster else torch.cuda.device_count()
    device = choose_device(machine.device, gpus, world=ranks)
    check = _checker(machine, {run.name: run for run in runs}, cluster is not None)
    problems: dict[str, int] = {}
    for run in todo:
        try:
            if machine.sparse_kernels != "none":
                check_products(run.settings.precision, None if cluster else device)
            check_ranks(run.settings.batch_size, ranks)
            check(run)
        except UserError as error:
            problems[str(error)] = problems.get(str(error), 0) + 1
    if problems:
        reasons = [f"{reason} ({n} of {len(runs)} runs)" for reason, n in problems.items()]
        raise UserError(f"{' '.join(reasons)} Nothing was started.")
    _make_folder(machine.runs)
    if cluster is None:
        warn_of_slow_precision(todo, machine)


def warn_of_slow_precision(runs: Sequence[Run], machine: Machine) -> None:
    """Warn if runs that have not finished train in bfloat16 on a CPU that cannot compute in it."""
    slow = [
        run
        for run in runs
        if run.settings.precision == "bfloat16" and not is_finished(machine.runs / run.name)
    ]
    if not slow or choose_device(machine.device, torch.cuda.device_count()).type != "cpu":
        return
    if not _cpu_has_bfloat16():
        share = f" ({len(slow)} of {len(runs)} runs)" if len(runs) > 1 else ""
        warnings.warn(
            "this CPU has no instructions for bfloat16, so training takes many times as long as in "
            f"float32{share}: set precision to float32.",
            stacklevel=3,
        )


def _cpu_has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _checker(machine: Machine, runs: Mapping[str, Run], elsewhere: bool) -> Callable[[Run], None]:
    """Return a function that checks one of the runs. Equal data and models are checked once."""

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
        chosen_constants(recipe, found.inputs if found else None)
        if found is not None:
            check_image_size(run, found.inputs, machine.runs)
            model(recipe.model, found, run.exclude)
        examples = (found.examples if found else None) or 0
        held_out = round(recipe.validation * examples)
        if examples and recipe.validation and not held_out:
            raise holds_out_none(recipe.validation, examples)
        examples -= held_out
        if examples:
            check_batch_size(recipe.batch_size, examples)
        examples = max(examples, recipe.batch_size)
        method = build_method(run, examples // recipe.batch_size, machine.runs)
        check_rule(run.sign_rule, method)
        check_sources(run, runs, machine.runs, elsewhere)

    return check


def check_sources(run: Run, others: Mapping[str, Run], root: Path, elsewhere: bool) -> None:
    """Check that what a run starts from is there, or is made by runs that are trained before it.

    Args:
        others: those runs by name.
        root: the folder of the run folders.
        elsewhere: whether it is trained on a cluster, where runs that it needs may be in the queue.

    Raises:
        UserError: a run, snapshot or file is missing, or was trained on what the run holds out.
    """
    for source in run.options.sources:
        base = others.get(run_of(source))
        if base is None or is_finished(root / base.name):
            _check_source(source, root, elsewhere)
        else:
            _check_kept(base, source)
        check_held_out(run, source, root, base)


def missing_sources(runs: Sequence[Run], queued: Collection[str], root: Path) -> dict[str, str]:
    """Return the runs that would fail since a source will not be there, by name, and why.

    Args:
        runs: the runs to submit.
        queued: names of runs that wait or run on the cluster.
        root: the folder of the run folders.
    """
    coming, missing = set(queued), dict[str, str]()
    for run in in_order(runs):
        try:
            for source in run.options.sources:
                if run_of(source) not in coming:
                    _check_source(source, root, elsewhere=False)
        except UserError as error:
            missing[run.name] = f"{error} It is not in the queue." if run_of(source) else str(error)
        else:
            coming.add(run.name)
    return missing


def _check_kept(base: Run, source: str) -> None:
    """Raise UserError if a run that is trained first will not keep the snapshot of a source."""
    epoch = source.rpartition("@")[2]
    if epoch.isdecimal() and int(epoch) not in base.kept_epochs:
        raise UserError(f"{base.name} keeps no snapshot of epoch {epoch}: add keep_epochs.")


def _check_source(source: str, runs: Path, elsewhere: bool) -> None:
    """Raise UserError if a run, snapshot or file that a run starts from is not there."""
    name = run_of(source)
    if name and not (runs / name).is_dir() and not Path(name).is_file():
        raise UserError(f"there is no run {name} in {runs}, which is needed.")
    if name and elsewhere and not is_finished(runs / name):
        return  # it may be in the queue
    path, _ = find_source(source, runs)
    if not path.is_file():
        raise UserError(f"there is no file {path}, which is needed.")


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
    return Recipe(
        data=recipe.data,
        image_size=recipe.image_size,
        crop_padding=recipe.crop_padding,
        flip=recipe.flip,
        normalise=recipe.normalise,
    )


def _abstract_model(name: str, found: Contents) -> torch.nn.Module:
    """Return a model without values, which takes no time, or with values if that fails."""
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
