"""`signbench figure`: a figure of the paper, curves, or accuracy against sparsity."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.commands.selection import Selection, split_known
from launch.flags import parse

# figures of the paper that are not made of runs
ELSEWHERE = {number: f"signbench theory figure{number}" for number in "23467"}


@dataclass(frozen=True)
class FigureCommand:
    """Draw a figure. NAME is one of the paper's (1, 5, 8, 9), `curves` (loss and accuracy by
    epoch), `compare` (accuracy against sparsity), `gains` (of Sign-In, for each pair of runs), or
    `ranks` (averages over recipes and sparsities)."""

    selection: Selection = field(default_factory=Selection)
    output: Path | None = None
    """File to write to: .pdf, .svg or .png; if not given, figure-NAME.pdf."""


def command(args: list[str]) -> int:
    """Draw a figure."""
    from analysis.figures import FIGURES, save

    name, rest = split_known(args, FIGURES, "figure", ELSEWHERE)
    given = parse(FigureCommand, rest, f"signbench figure {name}")
    output = given.output or Path(f"figure-{name}.pdf")
    drawn = FIGURES[name].draw(given.selection.load())
    save(drawn, output)
    print(f"written: {output}")
    return 0
