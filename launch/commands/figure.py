"""`signbench figure`: a figure of the paper, curves, or accuracy against sparsity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launch.commands.selection import chosen_runs, split_known
from launch.flags import parse


@dataclass(frozen=True)
class FigureCommand:
    """Draw a figure. NAME is one of the paper's (1, 5, 8, 9), `curves` (loss and accuracy by
    epoch), or `compare` (accuracy against sparsity)."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    where: tuple[str, ...] = ()
    """Use only runs with FIELD=VALUE, for any fields: recipe=digits epochs=20."""
    output: Path | None = None
    """File to write to: .pdf, .svg or .png; if not given, figure-NAME.pdf."""


def command(args: list[str]) -> int:
    """Draw a figure."""
    from analysis.figures import FIGURES, save

    name, rest = split_known(args, FIGURES, "figure")
    given = parse(FigureCommand, rest, f"signbench figure {name}")
    output = given.output or Path(f"figure-{name}.pdf")
    drawn = FIGURES[name].draw(chosen_runs(given.runs, given.where))
    save(drawn, output)
    print(f"written: {output}")
    return 0
