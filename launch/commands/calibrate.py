"""`signbench calibrate`: find constants of a method for a recipe and a sparsity."""

from __future__ import annotations

from dataclasses import dataclass, field

from baselines.errors import UserError
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.slots import check_slots
from launch.executors.str_search import Search, calibrate
from launch.flags import parse, split_name, values
from launch.plugins import import_plugins


@dataclass(frozen=True)
class CalibrateCommand:
    """Find the s_init and threshold_decay with which STR reaches a sparsity under a recipe, by
    bisection on the sparsity of trained networks. NAME is str. `run` and `grid` use what was found
    for the same recipe, settings, sparsity and sign rule in the same folder of runs. --s-init and
    --threshold-decay are where the search starts."""

    run: Run
    search: Search = field(default_factory=Search)
    slots: int = 0
    """Runs at the same time; 0: one per CPU core, or --slots-per-gpu on each GPU."""
    slots_per_gpu: int = 1
    """Runs at the same time on each GPU; small networks leave room for several."""
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        check_slots(self.slots, self.slots_per_gpu)
        if self.run.method != "str":
            raise UserError(f"only str has constants to find, not {self.run.method}.")


def command(args: list[str]) -> int:
    """Find constants, and write them to the folder of the runs. Return the exit code."""
    name, rest = split_name(args, "str")
    import_plugins(values(rest, "import"))
    recipe = ["digits", *values(rest, "recipe")][-1]
    if name != "str":
        raise UserError(f"signbench calibrate str …: only str has constants to find, not {name}.")
    default = CalibrateCommand(Run.defaults(recipe, name))
    given = parse(CalibrateCommand, rest, "signbench calibrate NAME", default)
    path = calibrate(given.run, given.search, given.machine, given.slots, given.slots_per_gpu)
    print(f"written: {path}")
    return 0
