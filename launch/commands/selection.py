"""Choose what a command shows: its name, the runs, and where its text goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd


def split_known(args: list[str], known: Iterable[str], command: str) -> tuple[str, list[str]]:
    """Return the first argument, which names what to show, and the others.

    Raises:
        UserError: there is none, or it is not among the known names.
    """
    names = list(known)
    if args and args[0] in ("-h", "--help"):
        return "NAME", args
    if not args or args[0].startswith("-"):
        raise UserError(f"signbench {command} NAME: give one of {', '.join(names)}.")
    if args[0] not in names:
        raise unknown(command, args[0], names)
    return args[0], args[1:]


def chosen_runs(root: Path, where: tuple[str, ...], may_be_empty: bool = False) -> pd.DataFrame:
    """Return the runs in a folder that meet the conditions.

    Raises:
        UserError: there are none, unless `may_be_empty`.
    """
    from analysis.frame import choose, find_runs, load_runs

    runs = load_runs(find_runs(root) if root.is_dir() or not may_be_empty else [])
    chosen = choose(runs, where) if len(runs) else runs
    if not len(chosen) and not may_be_empty:
        raise UserError(f"there are no such runs in {root}.")
    return chosen


def print_or_write(text: str, output: Path | None) -> None:
    """Write text to a file, or print it if no file is given."""
    if output is None:
        print(text.rstrip("\n"))
        return
    from launch.runs.record import write_text

    write_text(output, text.rstrip("\n") + "\n")
    print(f"written: {output}")
