"""`signbench table`: a table of the paper, or a comparison of any runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from analysis.protocol import Protocol
from launch.commands.missing import missing_command
from launch.commands.selection import Selection, print_or_write, split_known, terminal_width
from launch.flags import parse

# tables of the paper that are not made of runs
ELSEWHERE = {
    "2": "signbench theory table2",
    "8": "signbench theory table8",
    "6": "signbench recipes",
    "7": "signbench recipes",
}


@dataclass(frozen=True)
class TableCommand:
    """Print a table. NAME is one of the paper's (1, 3, 4, 5, 9, 10, 11), `ham` for plain runs,
    Sign-In and HAM with published values, `compare` for all runs by any fields, `ranks` for average
    ranks over recipes and sparsities, or `flips` for sign flips by layer and phase of the
    training."""

    selection: Selection = field(default_factory=Selection)
    rows: tuple[str, ...] = ("method",)
    """Fields that make the rows of compare, ranks and flips (plain and Sign-In in pairs)."""
    columns: tuple[str, ...] = ("sparsity",)
    """Fields that make the columns of compare, and what ranks are averaged over. In flips, rows."""
    select: tuple[str, ...] = ()
    """Choose the values of these fields by validation accuracy, for each row: lr weight_decay."""
    paper: bool = True
    """Show the paper's own values, in brackets."""
    protocol: Protocol = "suite"
    """Random masks and SynFlow of tables 3, 9, 10, 11: the suite's, or as in code of the paper's
    group."""
    format: Literal["text", "markdown", "latex", "csv"] = "text"
    """Texts in one of three forms, or the numbers as CSV."""
    output: Path | None = None
    """File to write instead of printing."""


def command(args: list[str]) -> int:
    """Print or write a table."""
    from analysis.tables import OF_ANY_RUNS, TABLES, make_table

    name, rest = split_known(args, TABLES, "table", ELSEWHERE)
    given = parse(TableCommand, rest, f"signbench table {name}")
    runs = given.selection.load(may_be_empty=name not in OF_ANY_RUNS)
    missing = missing_command(given.selection.runs, given.protocol)
    table = make_table(
        name, runs, given.rows, given.columns, given.paper, given.select, given.protocol, missing
    )
    width = 0 if given.output else terminal_width()
    print_or_write(table.render(given.format, width), given.output)
    return 0
