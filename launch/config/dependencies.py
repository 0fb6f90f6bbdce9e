"""What runs need before they can start: results of other runs, and constants of STR."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable

from baselines.errors import UserError
from baselines.methods.str_ import StrOptions
from launch.config.machine import Machine
from launch.config.run import Run
from launch.config.shell import machine_flags, run_flags


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Return the runs, each after those that it needs."""
    return [run for stage in stages(runs) for run in stage]


def stages(runs: Iterable[Run]) -> list[list[Run]]:
    """Return the runs in groups such that each run needs runs of earlier groups only.

    Runs that are needed but not among `runs` are assumed to be finished.

    Raises:
        UserError: runs need each other.
    """
    waiting, found = {run.name: run for run in runs}, list[list[Run]]()
    while waiting:
        ready = [r for r in waiting.values() if not any(n in waiting for n in r.needs)]
        if not ready:
            raise UserError(f"these runs need each other: {', '.join(waiting)}.")
        found.append(ready)
        for run in ready:
            del waiting[run.name]
    return found


def require_constants(runs: Iterable[Run], machine: Machine | None = None) -> None:
    """Check that the constants of all runs of STR are known.

    Args:
        machine: where the runs are trained, and their constants would be found.

    Raises:
        UserError: they are not known; the message says how to find them.
    """
    for run in runs:
        options = run.options
        if not isinstance(options, StrOptions) or options.mode == "target" or options.constants:
            continue
        if options.s_init or options.threshold_decay:
            raise UserError("str: give both --s-init and --threshold-decay.")
        flags = run_flags(run, leave_out=("method", "sparsity", "seed", "keep_epochs"))
        flags += ["--sparsity", f"{run.sparsity:g}", *(machine_flags(machine) if machine else ())]
        command = shlex.join(["signbench", "calibrate", "str", *flags])
        where = "" if machine else " (with the same --runs)"
        raise UserError(
            f"str has no constants for these settings of {run.recipe}: find them with `{command}`"
            f"{where}, or give --s-init and --threshold-decay, or use str-target."
        )


def with_constants(runs: Iterable[Run]) -> list[Run]:
    """Return the runs without those of STR whose constants are not known, with one warning."""
    found, missing = list[Run](), dict[str, None]()
    for run in runs:
        try:
            require_constants([run])
            found.append(run)
        except UserError as error:
            missing[str(error)] = None
    if missing:
        first, *others = missing
        also = f" So is STR at {len(others)} other settings, as with Sign-In." if others else ""
        warnings.warn(f"left out: {first}{also}", stacklevel=3)
    return found
