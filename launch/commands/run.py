"""`signbench run`: train one network."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field, replace

from analysis.folder import is_finished
from baselines.errors import UserError
from launch.commands.submission import print_scripts, submit_runs
from launch.config.cluster import Cluster, Executor
from launch.config.dependencies import require_constants
from launch.config.machine import Machine
from launch.config.recipes import find_recipe
from launch.config.run import Run, warn_of_short
from launch.config.str_constants import add_calibrations
from launch.flags import parse, values
from launch.plugins import import_plugins
from launch.ranks import is_first


@dataclass(frozen=True)
class RunCommand:
    """Train one network. --recipe and --method set the defaults of the other options."""

    run: Run
    machine: Machine = field(default_factory=Machine)
    executor: Executor = "local"
    """Run it here, or submit it to Slurm."""
    dry_run: bool = False
    """Only print the folder, and with --executor slurm the script for sbatch."""
    cluster: Cluster = field(default_factory=Cluster)


def command(args: list[str]) -> int:
    """Train a run, or submit it. Return the exit code."""
    given = parse_run(args)
    if given.dry_run:
        print(f"folder: {given.machine.runs / given.run.name}, {_work(given.run, given.machine)}")
        if given.executor == "slurm":
            print_scripts([given.run], given.machine, given.cluster)
        return 0
    if given.executor == "slurm":
        from launch.training.check import check_runs

        check_runs([given.run], given.machine, given.cluster)
        return submit_runs([given.run], given.machine, given.cluster)
    return train(given.run, given.machine)


def _work(run: Run, machine: Machine) -> str:
    """Return what is to be trained."""
    done = is_finished(machine.runs / run.name)
    return "has finished: nothing to train" if done else f"{run.epochs} epochs"


def parse_run(args: list[str]) -> RunCommand:
    """Return the run that the flags describe."""
    import_plugins(values(args, "import"))
    recipe, method = ["digits", *values(args, "recipe")], ["dense", *values(args, "method")]
    default = RunCommand(Run.defaults(recipe[-1], method[-1]))
    given = parse(RunCommand, args, "signbench run", default)
    add_calibrations(given.machine.runs)
    _check_used(given.run)
    run = given.run.calibrated()
    if not (given.machine.runs / run.name).exists():  # earlier versions trained it
        _check_optimizer(run)
    require_constants([run], given.machine)
    if is_first():
        warn_of_short([run], given.machine.runs)
    return replace(given, run=run)


def _check_used(run: Run) -> None:
    """Refuse settings of sign rules that have no effect. Grids may have them, for other runs.

    Warn if they are part of the run's name, so that the commands of such runs can be repeated.

    Raises:
        UserError: a setting that the run does not use is not the recipe's.
    """
    recipe = find_recipe(run.recipe)
    for name, rule in run.unused_settings.items():
        given, usual = (getattr(getattr(s, rule), name) for s in (run.settings, recipe))
        if given != usual:
            flag = f"--{rule.replace('_', '-')}"
            message = f"{name} has no effect without {flag}: add it, or leave {name} out."
            if rule not in run.used_rules:
                raise UserError(message)
            warnings.warn(message, stacklevel=2)


def _check_optimizer(run: Run) -> None:
    """Refuse settings of SGD that are not the recipe's for other optimizers. Grids may have them.

    Raises:
        UserError: they would have no effect.
    """
    own, recipe = run.settings, find_recipe(run.recipe)
    for name in ("momentum", "nesterov") if own.optimizer != "sgd" else ():
        if getattr(own, name) != getattr(recipe, name):
            raise UserError(f"{name} has no effect with {own.optimizer}: leave it out.")


def train(run: Run, machine: Machine) -> int:
    from launch.training.check import warn_of_slow_precision
    from launch.training.constant_output import Collapsed
    from launch.training.loop import Diverged
    from launch.training.run import run_training

    if is_first():
        warn_of_slow_precision([run], machine)
    try:
        run_training(run, machine, patience=1.0)  # `status` may hold the lock briefly
    except (Diverged, Collapsed) as error:
        print(f"signbench: stopped: {error}", file=sys.stderr)
        return 1
    if is_first():
        print(f"results in {machine.runs / run.name}")
    return 0
