"""`signbench grid`: run a grid and print its table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.folder import JOB, RESULT, is_finished
from analysis.protocol import Protocol
from baselines.errors import UserError
from baselines.fields import KEEP_COMMAS
from launch.commands.missing import missing_command
from launch.commands.selection import terminal_width
from launch.commands.submission import print_scripts, resubmit_runs, submit_runs
from launch.config.assignments import GRID_LISTS, is_field, parse_assignments
from launch.config.cluster import Cluster, Executor
from launch.config.dependencies import require_constants
from launch.config.grids import find_grid
from launch.config.machine import Machine
from launch.config.run import Run, warn_of_short
from launch.config.str_constants import add_calibrations
from launch.executors.slots import check_slots
from launch.flags import parse, split_name
from launch.plugins import import_plugins

if TYPE_CHECKING:
    import pandas as pd

    from launch.executors.local import Outcome


@dataclass(frozen=True)
class GridCommand:
    """Run a grid, print its table and write it as CSV and LaTeX. NAME is a named grid (signbench
    grid without a name lists them) or a YAML file: lists of values for any fields of a run
    (recipe, method, sparsity, sign_in, seed, …)."""

    recipe: str | None = None
    """Recipe of all runs; replaces the grid's."""
    seeds: tuple[int, ...] | None = None
    """Seeds, with one run each; replace the grid's."""
    methods: tuple[str, ...] | None = None
    """Methods; replace the grid's (for table1, table10 and figures: those that learn masks)."""
    epochs: int | None = None
    """Epochs; replace the recipe's."""
    validation: float | None = None
    """Fraction of the training examples to hold out, to choose hyper-parameters by."""
    sparsity: float | None = None
    """Sparsity; replaces the grid's."""
    model: str | None = None
    """Model; replaces the recipes'."""
    data: str | None = None
    """Data; replaces the recipes'."""
    set: tuple[str, ...] = field(default=(), metadata=KEEP_COMMAS)
    """Values of any fields, as FIELD=VALUE: sparsity=0.8,0.9 batch_size=128. The grid is repeated
    for each of several values."""
    protocol: Protocol = "suite"
    """Random masks and SynFlow of table3, table9, table10 and table11: the suite's, or those of
    code of the paper's group: one-shot SynFlow, and balanced masks sparser than requested."""
    dry_run: bool = False
    """Only print the runs, their folders, which have finished, and the cost in epochs; with
    --executor slurm also the scripts for sbatch, of all runs that have not finished."""
    slots: int = 0
    """Runs at the same time; 0: one per CPU core, or --slots-per-gpu on each GPU."""
    slots_per_gpu: int = 1
    """Runs at the same time on each GPU; small networks leave room for several."""
    machine: Machine = field(default_factory=Machine)
    executor: Executor = "local"
    """Run them here, or submit them to Slurm with one job per run."""
    cluster: Cluster = field(default_factory=Cluster)
    resubmit: bool = False
    """Submit again the runs that are neither finished nor queued, as they were submitted before."""

    def __post_init__(self) -> None:
        check_slots(self.slots, self.slots_per_gpu)

    @property
    def choices(self) -> dict[str, Any]:
        """The values that replace the grid's."""
        keys = ("recipe", "seeds", "methods", "epochs", "validation", "sparsity", "model", "data")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


def command(args: list[str]) -> int:
    """Run a grid, submit it, or show what it would run. Return the exit code."""
    from launch.executors.local import run_all
    from launch.training.check import check_runs

    name, rest = split_name(args)
    given = _parse(rest)
    import_plugins(given.machine.imports)
    add_calibrations(given.machine.runs)
    runs = find_grid(name, parse_assignments(given.set), given.protocol, **given.choices)
    require_constants(runs, given.machine)
    warn_of_short(runs, given.machine.runs)
    if given.dry_run and given.executor == "slurm":
        print_scripts(runs, given.machine, given.cluster)
    if given.dry_run:
        return preview(runs, given.machine)
    if given.resubmit:
        return _resubmit(runs, given.machine.runs)
    check_runs(runs, given.machine, given.cluster if given.executor == "slurm" else None)
    if given.executor == "slurm":
        return submit_runs(runs, given.machine, given.cluster)
    outcomes = run_all(runs, given.machine, given.slots, given.slots_per_gpu)
    return show(name, outcomes, given.machine, given.protocol)


def _parse(args: list[str]) -> GridCommand:
    """Return the flags. Raise UserError for a field without a flag, which --set takes."""
    own = {spec.name for spec in fields(GridCommand)}
    for flag in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
        name = flag.removeprefix("--").replace("-", "_")
        if is_field(name) and name not in own and name not in GRID_LISTS:
            raise UserError(f"there is no {flag}: a grid takes it as --set {name}=VALUE.")
    return parse(GridCommand, args, "signbench grid NAME")


def _resubmit(runs: list[Run], root: Path) -> int:
    """Submit runs of a grid again. Print how many never were. Return the exit code."""
    new = [run for run in runs if not any((root / run.name / f).exists() for f in (JOB, RESULT))]
    code = resubmit_runs(root, {run.name for run in runs}, cancelled=True)
    if new:
        print(f"{len(new)} runs were never submitted: repeat the command without --resubmit.")
    return code


def preview(runs: list[Run], machine: Machine) -> int:
    """Print what a grid would run, and its cost in epochs."""
    epochs = 0
    for run in runs:
        done = is_finished(machine.runs / run.name)
        epochs += 0 if done else run.epochs
        print(
            f"{'finished' if done else 'to do':9} {run.epochs:5} epochs  {machine.runs / run.title}"
        )
    print(f"{len(runs)} runs, {epochs} epochs to train.")
    return 0


def show_choice(name: str, runs: pd.DataFrame, machine: Machine) -> None:
    """Print and write the table with the settings that the grid varies chosen by validation."""
    from analysis.selection import VALIDATION
    from analysis.tables import COMPARISON, make_table, render, swept_fields

    swept = swept_fields(runs)
    if not swept:
        return
    names = ", ".join(column.rpartition(".")[2] for column in swept)
    if VALIDATION not in runs:
        print(f"no choice of {names}: --validation 0.1 holds out training examples to choose by.")
        return
    table = make_table(COMPARISON, runs, select=swept)
    print("", render(table.sheets[-1], "text", terminal_width()), sep="\n")
    print("written:", *table.write(machine.runs / "tables", f"{name}-chosen"))


def show(name: str, outcomes: list[Outcome], machine: Machine, protocol: Protocol = "suite") -> int:
    """Print and write a grid's table, then print which runs failed and why."""
    failed = [o for o in outcomes if o.result is None]
    try:
        if len(failed) < len(outcomes):
            _show_table(name, outcomes, machine, protocol)
    finally:
        for outcome in failed:
            print(f"failed: {outcome.run.name}: {outcome.error}", file=sys.stderr)
    return 1 if failed else 0


def _show_table(name: str, outcomes: list[Outcome], machine: Machine, protocol: Protocol) -> None:
    """Print and write the table of a grid's runs: the paper's, or else a comparison."""
    from analysis.tables import COMPARISON, make_table, render, table_of_grid
    from launch.executors.outcomes import load_outcomes

    runs = load_outcomes(outcomes, machine.runs)
    kind, stem = table_of_grid(name, runs, protocol), Path(name).stem
    if kind == COMPARISON:
        table = make_table(kind, runs)
        shown = table.sheets[-1:]  # the details have all that is in the matrix
    else:
        missing = missing_command(machine.runs, protocol)
        table = make_table(kind, runs, protocol=protocol, command=missing)
        shown = table.sheets
    print(*(render(s, "text", terminal_width()) for s in shown), sep="\n\n")
    file = stem if protocol == "suite" else f"{stem}-{protocol}"
    print("written:", *table.write(machine.runs / "tables", file))
    if kind == COMPARISON:
        show_choice(stem, runs, machine)
