"""What commands that show runs share: choosing what to show, choosing runs, printing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.errors import UserError, unknown
from baselines.fields import KEEP_COMMAS

if TYPE_CHECKING:
    import pandas as pd


def split_known(
    args: list[str], known: Iterable[str], command: str, elsewhere: Mapping[str, str] | None = None
) -> tuple[str, list[str]]:
    """Return the first argument, which names what to show, and the others.

    Args:
        elsewhere: by names that are not known here, the command that shows them.

    Raises:
        UserError: it is missing or not among the known names.
    """
    names = list(known)
    if args and args[0] in ("-h", "--help"):
        return "NAME", args
    if not args or args[0].startswith("-"):
        raise UserError(f"signbench {command} NAME: give one of {', '.join(names)}.")
    if elsewhere and args[0] in elsewhere:
        raise UserError(f"{command} {args[0]} is made by: {elsewhere[args[0]]}")
    if args[0] not in names:
        raise unknown(command, args[0], names)
    return args[0], args[1:]


@dataclass(frozen=True)
class Selection:
    """The runs that a command shows."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    where: tuple[str, ...] = field(default=(), metadata=KEEP_COMMAS)
    """Use only runs that meet all conditions on any fields: "method=rigl,snip", "method!=dense",
    "recipe=cifar*", "epochs>=20" (in quotes because of the shell)."""

    def load(self, may_be_empty: bool = False) -> pd.DataFrame:
        """Return the runs as `analysis.frame.load_runs` does.

        Raises:
            UserError: a condition is not valid, or there are no such runs.
        """
        from analysis.conditions import select_runs
        from analysis.folder import list_runs
        from analysis.frame import load_runs

        runs = load_runs(list_runs(self.runs) if self.runs.is_dir() or not may_be_empty else [])
        chosen = select_runs(runs, self.where) if len(runs) else runs
        if not len(chosen) and not may_be_empty:
            raise UserError(f"there are no such runs in {self.runs}.")
        return chosen


def terminal_width() -> int:
    """Return the width of the terminal that shows the output; 0 if none does."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def print_or_write(text: str, output: Path | None) -> None:
    """Print a text, or write it to a file. Raises UserError."""
    if output is None:
        print(text.rstrip("\n"))
        return
    from launch.runs.atomic import write_text

    write_text(output, text.rstrip("\n") + "\n")
    print(f"written: {output}")
