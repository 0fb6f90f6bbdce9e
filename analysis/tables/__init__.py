"""Tables: the paper's, and comparisons of any runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from analysis.alike import comparison_fields
from analysis.frame import find_column
from analysis.mean_ranks import rank_summary
from analysis.protocol import Protocol, check_protocol, of_protocol
from analysis.selection import Choice, choose_by_validation, describe_choice
from analysis.statistics import aggregate
from analysis.tables.comparison import comparison_sheets
from analysis.tables.flips import flip_sheets, flip_statistics
from analysis.tables.latex import preamble, to_latex
from analysis.tables.paper import LAYOUTS, Command, fits_layout, paper_cells, paper_sheets
from analysis.tables.ranks import ranks_sheet
from analysis.tables.sheet import Sheet, leave_out_constants, to_html, to_markdown, to_text
from baselines.errors import require, unknown

__all__ = [
    "COMPARISON",
    "FLIPS",
    "OF_ANY_RUNS",
    "RANKS",
    "TABLES",
    "Command",
    "Sheet",
    "Table",
    "is_of_one_sparsity",
    "make_table",
    "render",
    "swept_fields",
    "table_of_grid",
]

COMPARISON, RANKS, FLIPS = "compare", "ranks", "flips"
OF_ANY_RUNS = (COMPARISON, RANKS, FLIPS)
TABLES = (*LAYOUTS, *OF_ANY_RUNS)


def render(sheet: Sheet, form: str, terminal: int = 0) -> str:
    """Return the sheet as text, markdown, latex or html.

    Args:
        terminal: width of the terminal that shows the text; 0 if none does.
    """
    if form == "text":
        return to_text(sheet, bool(terminal), terminal)
    return {"markdown": to_markdown, "latex": to_latex, "html": to_html}[form](sheet)


@dataclass(frozen=True)
class Table:
    """A table as numbers and as sheets of texts.

    Attributes:
        numbers: one row per cell of the table, with the column `runs`, the number of runs.
    """

    numbers: pd.DataFrame
    sheets: list[Sheet]

    def render(self, form: str, terminal: int = 0) -> str:
        """Return the sheets as text, markdown, latex or html, or the numbers as csv.

        Args:
            terminal: width of the terminal that shows the text; 0 if none does.
        """
        if form == "csv":
            return self.numbers.to_csv(index=False, float_format="%.6g")
        text = "\n\n".join(render(sheet, form, terminal) for sheet in self.sheets)
        return preamble(text) + text if form == "latex" else text

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write the numbers as NAME.csv and the sheets as NAME.tex. Return the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        csv, tex = folder / f"{name}.csv", folder / f"{name}.tex"
        csv.write_text(self.render("csv"))
        tex.write_text(self.render("latex"))
        return [csv, tex]


def make_table(
    name: str,
    runs: pd.DataFrame,
    rows: Sequence[str] = ("method",),
    columns: Sequence[str] = ("sparsity",),
    paper: bool = True,
    select: Sequence[str] = (),
    protocol: Protocol = "suite",
    command: Command | None = None,
) -> Table:
    """Make a table of runs.

    Args:
        name: one of `TABLES`: a number of the paper's, "compare", "ranks", or "flips".
        runs: from `analysis.frame.load_runs`.
        rows, columns: fields of tables of any runs. Other fields in which runs of a recipe
            differ are added, see `analysis.alike.comparison_fields`.
        paper: whether the paper's tables show its own values.
        select: fields whose values are chosen for each row by validation accuracy.
        protocol: whose runs of random masks and SynFlow the paper's tables show: the suite's, or
            that of code of the paper's group (see `analysis.protocol`).
        command: returns the command line that trains what is missing in the paper's tables.

    Raises:
        UserError: there is no such table, it has no runs of the protocol, or the runs cannot be
            compared.
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    check_protocol(protocol, name)
    choice = choose_by_validation(of_protocol(runs, protocol), select)
    runs = choice.runs
    if name in OF_ANY_RUNS:
        require("seed" not in (*rows, *columns), "seed is no row or column: means are over seeds.")
        rows = [field for field in rows if field != "rule"]  # it is part of the rows anyway
        rows, columns = comparison_fields(runs, rows, columns, choice.columns)
        if name == FLIPS:
            return _flips(choice, ("recipe", *rows, *columns))
        numbers = aggregate(runs, rows, columns, choice.columns)
        if name == RANKS:
            return _ranks(numbers, choice, rows, columns)
        sheets = comparison_sheets(numbers, choice, rows, columns)
        return Table(numbers, list(map(leave_out_constants, sheets)))
    cells = paper_cells(runs, name, choice.columns)
    sheets = paper_sheets(cells, runs, name, paper, protocol, command)
    return Table(cells, [_with_choice(sheet, choice) for sheet in sheets])


def _with_choice(sheet: Sheet, choice: Choice) -> Sheet:
    """Return a sheet with notes on what was chosen, for tables without columns of it."""
    return replace(sheet, notes=[*sheet.notes, *choice.notes, *describe_choice(choice)])


def _ranks(
    numbers: pd.DataFrame, choice: Choice, rows: Sequence[str], columns: Sequence[str]
) -> Table:
    down, across = ([find_column(choice.runs, name) for name in names] for names in (rows, columns))
    ranks = rank_summary(numbers[~numbers["misses"]], down, across)
    return Table(ranks.table, [_with_choice(ranks_sheet(ranks, down), choice)])


def _flips(choice: Choice, fields: Sequence[str]) -> Table:
    runs = choice.runs
    by = list(dict.fromkeys(find_column(runs, name) for name in fields if name != "rule"))
    numbers = flip_statistics(runs, by)
    *others, last = (leave_out_constants(s, numbers=False) for s in flip_sheets(numbers, by))
    return Table(numbers, [*others, _with_choice(last, choice)])


def is_of_one_sparsity(name: str) -> bool:
    """Return whether a table shows one sparsity only; runs of several need several tables."""
    return name in LAYOUTS and LAYOUTS[name].column != "sparsity"


def table_of_grid(grid: str, runs: pd.DataFrame, protocol: Protocol = "suite") -> str:
    """Return the name of the table that shows the runs of a grid.

    "9" for table9, unless the runs differ in more than that table shows. For others "compare".
    """
    number = grid.removeprefix("table")
    fits = number in LAYOUTS and fits_layout(of_protocol(runs, protocol), number)
    return number if fits else COMPARISON


def swept_fields(runs: pd.DataFrame) -> list[str]:
    """Return the settings in which finished or failed runs of a recipe differ, methods apart."""
    rows, _ = comparison_fields(runs, ("method",), ("sparsity",))
    return [column for column in rows if column.startswith("settings.")]
