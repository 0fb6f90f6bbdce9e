"""The order of runs that need the results of others."""

from __future__ import annotations

from collections.abc import Iterable

from baselines.errors import UserError
from launch.config.run import Run


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Return the runs, each after those that it needs."""
    return [run for stage in stages(runs) for run in stage]


def stages(runs: Iterable[Run]) -> list[list[Run]]:
    """Return the runs in groups such that each run needs runs of earlier groups only.

    Runs that are needed but not among `runs` are taken to be finished.

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
