"""`signbench table`: a table of the paper, or a comparison of any runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch.commands.selection import chosen_runs, print_or_write, split_known
from launch.flags import parse


@dataclass(frozen=True)
class TableCommand:
    """Print a table. NUMBER is one of the paper's (1, 3, 4, 5, 9, 10, 11), or `compare` for all
    runs by any fields."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    where: tuple[str, ...] = ()
    """Use only runs with FIELD=VALUE, for any fields: recipe=digits epochs=20."""
    rows: tuple[str, ...] = ("method",)
    """Fields that make the rows of compare (per recipe; plain and Sign-In in pairs)."""
    columns: tuple[str, ...] = ("sparsity",)
    """Fields that make the columns of compare."""
    paper: bool = True
    """Show the paper's own values next to ours; --no-paper leaves them out."""
    format: Literal["text", "markdown", "latex", "csv"] = "text"
    """Format of the table."""
    output: Path | None = None
    """File to write to; if not given, the table is printed."""


def command(args: list[str]) -> int:
    """Print or write a table."""
    from analysis.statistics import compare
    from analysis.tables.comparison import comparison
    from analysis.tables.numbered import LAYOUTS, cells, numbered
    from analysis.tables.sheets import render

    name, rest = split_known(args, [*LAYOUTS, "compare"], "table")
    given = parse(TableCommand, rest, f"signbench table {name}")
    runs = chosen_runs(given.runs, given.where, may_be_empty=name != "compare")
    if given.format == "csv":
        found = compare(runs, given.rows, given.columns) if name == "compare" else cells(runs, name)
        print_or_write(found.to_csv(index=False, float_format="%.6g"), given.output)
        return 0
    sheets = (
        comparison(runs, given.rows, given.columns)
        if name == "compare"
        else numbered(runs, name, given.paper)
    )
    colour = given.output is None and sys.stdout.isatty()
    text = "\n\n".join(render(sheet, given.format, colour) for sheet in sheets)
    print_or_write(text, given.output)
    return 0
