"""Commands that read finished runs: tables, figures, the report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from baselines.errors import UserError, unknown
from launch.flags import parse

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TableCommand:
    """Print a table. NUMBER is one of the paper's (1, 3, 4, 5, 9, 10, 11), or `compare` for all
    runs by any fields."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    where: tuple[str, ...] = ()
    """Only runs with FIELD=VALUE, for any fields: recipe=digits epochs=20."""
    rows: tuple[str, ...] = ("method",)
    """Of compare: fields that make the rows (of each recipe; plain and Sign-In in pairs)."""
    columns: tuple[str, ...] = ("sparsity",)
    """Of compare: fields that make the columns."""
    paper: bool = True
    """The paper's own values beside ours; --no-paper leaves them out."""
    format: Literal["text", "markdown", "latex", "csv"] = "text"
    output: Path | None = None
    """File to write, in place of printing."""


@dataclass(frozen=True)
class FigureCommand:
    """Draw a figure. NAME is one of the paper's (1, 5, 8, 9), `curves` (loss and accuracy by
    epoch), or `compare` (accuracy against sparsity)."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    where: tuple[str, ...] = ()
    """Only runs with FIELD=VALUE, for any fields: recipe=digits epochs=20."""
    output: Path | None = None
    """File to write: .pdf, .svg or .png; figure-NAME.pdf if not given."""


@dataclass(frozen=True)
class ReportCommand:
    """Write one page with everything about the runs in a folder."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    where: tuple[str, ...] = ()
    """Only runs with FIELD=VALUE, for any fields: recipe=digits epochs=20."""
    output: Path = Path("report.html")
    """File to write."""


def table(args: list[str]) -> int:
    """`signbench table`."""
    from analysis.statistics import compare
    from analysis.tables.comparison import comparison
    from analysis.tables.numbered import LAYOUTS, cells, numbered
    from analysis.tables.sheets import render

    name, rest = _name(args, [*LAYOUTS, "compare"], "table")
    given = parse(TableCommand, rest, f"signbench table {name}")
    runs = _chosen(given.runs, given.where, may_be_empty=name != "compare")
    if given.format == "csv":
        found = compare(runs, given.rows, given.columns) if name == "compare" else cells(runs, name)
        _write(found.to_csv(index=False, float_format="%.6g"), given.output)
        return 0
    sheets = (
        comparison(runs, given.rows, given.columns)
        if name == "compare"
        else numbered(runs, name, given.paper)
    )
    colour = given.output is None and sys.stdout.isatty()
    _write("\n\n".join(render(sheet, given.format, colour) for sheet in sheets), given.output)
    return 0


def figure(args: list[str]) -> int:
    """`signbench figure`."""
    from analysis.figures.drawn import FIGURES, save

    name, rest = _name(args, FIGURES, "figure")
    given = parse(FigureCommand, rest, f"signbench figure {name}")
    output = given.output or Path(f"figure-{name}.pdf")
    drawn = FIGURES[name](_chosen(given.runs, given.where))
    save(drawn, output)
    print(f"written: {output}")
    return 0


def report(args: list[str]) -> int:
    """`signbench report`."""
    from analysis.report.page import page
    from launch.runs.record import write_text

    given = parse(ReportCommand, args, "signbench report")
    runs = _chosen(given.runs, given.where)
    write_text(given.output, page(runs))
    print(f"written: {given.output}, of {len(runs)} runs")
    return 0


def _name(args: list[str], known: object, command: str) -> tuple[str, list[str]]:
    """The first argument, which names what to show, and the others."""
    names = list(known)  # type: ignore[call-overload]
    if args and args[0] in ("-h", "--help"):
        return "NAME", args
    if not args or args[0].startswith("-"):
        raise UserError(f"signbench {command} NAME: give one of {', '.join(names)}.")
    if args[0] not in names:
        raise unknown(command, args[0], names)
    return args[0], args[1:]


def _chosen(root: Path, where: tuple[str, ...], may_be_empty: bool = False) -> pd.DataFrame:
    """The runs in a folder that meet the conditions."""
    from analysis.frame import choose, find_runs, load_runs

    runs = load_runs(find_runs(root) if root.is_dir() or not may_be_empty else [])
    chosen = choose(runs, where) if len(runs) else runs
    if not len(chosen) and not may_be_empty:
        raise UserError(f"there are no such runs in {root}.")
    return chosen


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text.rstrip("\n"))
        return
    from launch.runs.record import write_text

    write_text(output, text.rstrip("\n") + "\n")
    print(f"written: {output}")
