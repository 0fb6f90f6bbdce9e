"""`signbench report`: all tables and figures of a folder of runs as one page."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from launch.commands.selection import Selection
from launch.flags import parse


@dataclass(frozen=True)
class ReportCommand:
    """Write one page with all tables and figures of the runs in a folder."""

    selection: Selection = field(default_factory=Selection)
    output: Path = Path("report.html")
    """File to write to."""


def command(args: list[str]) -> int:
    """Write the report."""
    from analysis.report import render_page
    from launch.commands.missing import missing_command
    from launch.runs.atomic import write_text

    given = parse(ReportCommand, args, "signbench report")
    runs = given.selection.load()
    write_text(given.output, render_page(runs, partial(missing_command, given.selection.runs)))
    print(f"written: {given.output}, of {len(runs)} runs")
    return 0
