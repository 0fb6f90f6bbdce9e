"""Command lines for the cells of a table that have no runs yet, or fewer seeds than others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.protocol import Protocol
from baselines.errors import UserError

if TYPE_CHECKING:
    from analysis.tables import Command
    from launch.config.run import Run


def missing_command(root: Path, protocol: Protocol = "suite") -> Command:
    """Return a function that gives the command of missing cells, for runs in a folder."""
    return partial(_command, root, protocol)


def _command(
    root: Path, protocol: Protocol, number: str, recipe: str, folders: Sequence[Path]
) -> str:
    """Return the command that trains the runs of a table with the settings of existing ones.

    Returns:
        The command line; empty if the folders are of recipes or methods that are not known here.
    """
    from analysis.names import LEARNERS, PAI
    from analysis.tables import is_of_one_sparsity
    from analysis.tables.paper import LAYOUTS
    from launch.config.grid_parts import OTHER_SEED
    from launch.config.shell import grid_command
    from launch.runs.reading import read_run

    try:
        runs = [read_run(folder) for folder in folders if folder.is_dir()]
        runs.sort(key=lambda run: not run.sign_in)  # Sign-In's settings count where it is used
        seeds = {run.seed - OTHER_SEED * (run.method == "fixed") for run in runs}
        flags: dict[str, tuple[Any, ...]] = {
            "seeds": tuple(sorted(seed for seed in seeds if seed >= 0))
        }
        if is_of_one_sparsity(number):
            flags["sparsity"] = tuple(sorted({run.sparsity for run in runs if run.sparsity}))
            masks = {read_run(folder).method for folder in _sources_of_masks(runs, root)}
            own = ({run.method for run in runs} - {*PAI, "fixed"} | masks) - {*LEARNERS}
            flags["methods"] = (*LEARNERS, *sorted(own)) if own else ()
        flags["protocol"] = () if protocol == "suite" else (protocol,)
        flags["runs"] = () if root == Path("runs") else (root,)
        return grid_command(LAYOUTS[number].grid, recipe, runs, **flags)
    except UserError:
        return ""


def _sources_of_masks(runs: Sequence[Run], root: Path) -> list[Path]:
    """Return the folders of the runs whose masks runs of the method `fixed` train."""
    from signin.fixed import FixedOptions

    masks = {run.options.source("mask") for run in runs if isinstance(run.options, FixedOptions)}
    folders = {root / Path(mask.rpartition("@")[0] or mask).name for mask in masks}
    return [folder for folder in folders if folder.is_dir()]
