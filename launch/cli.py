"""The command line: `signbench COMMAND …`, or `python -m launch COMMAND …`.

Flags come from the dataclasses in `launch.config.run`. What a command needs is imported when
it is run, so that `signbench --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.flags import parse, split_name, value

if TYPE_CHECKING:
    from launch.config.run import Cluster, Machine, Run, RunCommand
    from launch.executors.local import Outcome

USAGE = """usage: signbench COMMAND [OPTIONS]

Sparse training in PyTorch: baselines and Sign-In under one recipe.

commands:
  run       train one network:  signbench run --recipe digits --method random --sign-in
  grid      run a grid and print its table:  signbench grid quick
  status    what has become of the runs
  cancel    take the runs that have not finished out of Slurm's queue
  transplant   write a checkpoint with the mask, signs and magnitudes of different ones
  table     a table of the paper, or any comparison: signbench table 9 --format latex
  figure    a figure of the paper, curves, or accuracy against sparsity: signbench figure 9
  sharpness   the largest Hessian eigenvalue of a run's snapshots
  report    all of it as one page:  signbench report -o report.html
  export    a run's network for use elsewhere
  theory    run the paper's student-teacher experiments:  signbench theory table8
  methods   list the methods
  recipes   list the recipes
  bench     measure what it costs: steps, run, masks, scaling, loader

signbench COMMAND --help shows a command's options.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0 done, 1 a run failed, 2 bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    _check_packages()
    from baselines.errors import UserError, unknown

    try:
        if args[0] not in COMMANDS:
            raise unknown("command", args[0], COMMANDS)
        return COMMANDS[args[0]](args[1:])
    except UserError as error:
        print(f"signbench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("signbench: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def run_command(args: list[str]) -> int:
    """Trains one network."""
    given = parse_run(args)
    run, machine = given.run, given.machine
    if given.executor == "slurm":
        return submit_runs([run], machine, given.cluster)
    from launch.training.loop import Diverged
    from launch.training.run import run_training

    try:
        result = run_training(run, machine, patience=1.0)  # somebody may only be looking at it
    except Diverged as error:
        print(f"signbench: stopped: {error}", file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":
        print(f"results in {machine.runs / run.name}: accuracy {result['accuracy']:.2%}")
    return 0


def grid_command(args: list[str]) -> int:
    """Runs a grid and prints its table."""
    from launch.config.grids import find_grid
    from launch.config.run import GridCommand
    from launch.executors.local import run_all

    name, rest = split_name(args)
    given = parse(GridCommand, rest, "signbench grid NAME")
    runs = find_grid(name, **given.choices)
    if given.dry_run:
        return preview(runs, given.machine)
    if given.executor == "slurm":
        return submit_runs(runs, given.machine, given.cluster)
    outcomes = run_all(runs, given.machine, given.slots, given.slots_per_gpu)
    return show(Path(name).stem, outcomes, given.machine)


def submit_runs(runs: list[Run], machine: Machine, cluster: Cluster) -> int:
    """Submits runs to Slurm."""
    from launch.executors.slurm import submit

    submitted = submit(runs, machine, cluster)
    for run, job in submitted:
        print(f"job {job}: {run.name}")
    left = len(runs) - len(submitted)
    print(f"submitted {len(submitted)} of {len(runs)} runs; {left} are queued or finished.")
    where = "" if machine.runs == Path("runs") else f" --runs {machine.runs}"
    print(f"follow them with: signbench status{where}")
    return 0


def status_command(args: list[str]) -> int:
    """Shows what has become of the runs."""
    from launch.config.run import StatusCommand
    from launch.executors.status import statuses, to_text

    print(to_text(statuses(parse(StatusCommand, args, "signbench status").runs)))
    return 0


def cancel_command(args: list[str]) -> int:
    """Cancels the jobs of runs that have not finished."""
    from launch.config.run import CancelCommand
    from launch.executors.slurm import cancel
    from launch.executors.status import statuses

    found = statuses(parse(CancelCommand, args, "signbench cancel").runs)
    jobs = [status.job for status in found if status.active]
    cancel(jobs)
    print(f"cancelled {len(jobs)} jobs; the runs go on from where they are when submitted again.")
    return 0


def preview(runs: list[Run], machine: Machine) -> int:
    """Prints what a grid would run, and what it would cost."""
    from launch.runs.record import RunFolder

    epochs = 0
    for run in runs:
        done = RunFolder(run, machine.runs).result is not None
        epochs += 0 if done else run.epochs
        print(
            f"{'finished' if done else 'to do':9} {run.epochs:5} epochs  {machine.runs / run.name}"
        )
    print(f"{len(runs)} runs, {epochs} epochs to train.")
    return 0


def show(name: str, outcomes: list[Outcome], machine: Machine) -> int:
    """Prints and writes a grid's table, then what failed and why."""
    from analysis.frame import load_runs
    from analysis.statistics import compare
    from analysis.tables.comparison import comparison
    from analysis.tables.numbered import LAYOUTS, cells, numbered
    from analysis.tables.sheets import render, write

    done = [machine.runs / o.run.name for o in outcomes if o.result is not None]
    if done:
        runs = load_runs(done)
        number = name.removeprefix("table")
        known = number in LAYOUTS
        sheets = numbered(runs, number) if known else comparison(runs)
        shown = sheets if known else sheets[-1:]  # the details say it all
        print(*(render(s, "text", sys.stdout.isatty()) for s in shown), sep="\n\n")
        table = cells(runs, number) if known else compare(runs)
        print("written:", *write(table, sheets, machine.runs / "tables", name))
    failed = [o for o in outcomes if o.result is None]
    for outcome in failed:
        print(f"failed: {outcome.run.name}: {outcome.error}", file=sys.stderr)
    return 1 if failed else 0


def methods_command(args: list[str]) -> int:
    """Lists the methods, a line each, with what they cost at a recipe."""
    from baselines.method import Plan
    from baselines.registry import methods
    from launch.config.recipes import find_recipe
    from launch.config.run import MethodsCommand

    given = parse(MethodsCommand, args, "signbench methods")
    plan = Plan(given.sparsity, find_recipe(given.recipe).epochs, steps_per_epoch=1)
    print(f"epochs of {given.recipe} at sparsity {given.sparsity:g}:")
    for name, method in methods().items():
        print(f"{name:10} {method(plan).epochs:5}  {method.family:26} {method.paper}")
    return 0


def recipes_command(args: list[str]) -> int:
    """Lists the recipes, a line each."""
    from launch.config.recipes import RECIPES, describe

    for name, recipe in RECIPES.items():
        print(f"{name:20} {describe(recipe)}")
    return 0


def transplant_command(args: list[str]) -> int:
    """Puts a checkpoint together."""
    from launch.commands.transplant import Transplant, transplant_files

    transplant_files(parse(Transplant, args, "signbench transplant"))
    return 0


def table_command(args: list[str]) -> int:
    """Prints or writes a table."""
    from launch.commands.results import table

    return table(args)


def figure_command(args: list[str]) -> int:
    """Draws a figure."""
    from launch.commands.results import figure

    return figure(args)


def sharpness_command(args: list[str]) -> int:
    """Measures sharpness."""
    from launch.commands.sharpness import sharpness

    return sharpness(args)


def report_command(args: list[str]) -> int:
    """Writes a report."""
    from launch.commands.results import report

    return report(args)


def export_command(args: list[str]) -> int:
    """Exports a run's network."""
    from launch.commands.export import export

    return export(args)


def theory_command(args: list[str]) -> int:
    """Makes a table or figure of the theory."""
    from launch.config.run import TheoryCommand

    name, rest = split_name(args)
    given = parse(TheoryCommand, rest, "signbench theory NAME")
    from signin.theory.artefacts import make

    make(name, given.output, given.format, given.slots)
    return 0


def bench_command(args: list[str]) -> int:
    """Measures what it costs."""
    from launch.commands.bench import bench

    return bench(args)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run_command,
    "grid": grid_command,
    "status": status_command,
    "cancel": cancel_command,
    "methods": methods_command,
    "recipes": recipes_command,
    "transplant": transplant_command,
    "table": table_command,
    "figure": figure_command,
    "sharpness": sharpness_command,
    "report": report_command,
    "export": export_command,
    "theory": theory_command,
    "bench": bench_command,
}


def parse_run(args: list[str]) -> RunCommand:
    """The run that the flags describe. Recipe and method give the defaults of all the others."""
    from launch.config.run import Run, RunCommand

    default = Run.make(value(args, "recipe", "digits"), value(args, "method", "dense"))
    return parse(RunCommand, args, "signbench run", RunCommand(default))


def _check_packages() -> None:
    """The names of our packages are common: refuse to run with somebody else's."""
    import importlib.util

    home = Path(__file__).resolve().parent.parent
    for name in ("analysis", "baselines", "signin"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != home:
            sys.exit(
                f"signbench: error: package {name!r} comes from {origin}, not from {home}; "
                "install signbench in a virtual environment of its own."
            )


if __name__ == "__main__":
    sys.exit(main())
