"""`signbench figure`: a figure of the paper, curves, or accuracy against sparsity."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from launch.commands.selection import Selection, split_known
from launch.config.fields import check_positive
from launch.flags import parse

# figures of the paper that are not made of runs
ELSEWHERE = {number: f"signbench theory figure{number}" for number in "23467"}


@dataclass(frozen=True)
class FigureCommand:
    """Draw a figure. NAME is one of the paper's (1, 5, 8, 9), `ranking` (methods by accuracy),
    `compare` (accuracy against sparsity), `curves` (loss and accuracy by epoch), `gains` (of
    Sign-In, for each pair of runs), `ranks` (averages over recipes and sparsities), or `signs`
    (accuracy against the share of reversed signs)."""

    selection: Selection = field(default_factory=Selection)
    methods: tuple[str, ...] = ()
    """Draw only these methods, and runs that train their masks."""
    width: Literal["column", "text"] = "text"
    """Width of a column (3.25 inches) or of the text (6.75 inches) of a paper with two columns."""
    size: tuple[float, float] | None = None
    """Width and height in inches; replaces --width."""
    output: Path | None = None
    """File to write to: .pdf, .svg or .png; if not given, figure-NAME.pdf."""


def command(args: list[str]) -> int:
    """Draw a figure."""
    from analysis.figures import FIGURES, WIDTHS, Size, save, select_methods

    name, rest = split_known(args, FIGURES, "figure", ELSEWHERE)
    given = parse(FigureCommand, rest, f"signbench figure {name}")
    check_positive(**dict(zip(("width", "height"), given.size or (), strict=False)))
    output = given.output or Path(f"figure-{name}.pdf")
    runs = select_methods(given.selection.load(), given.methods)
    drawn = FIGURES[name].draw(runs, Size(*given.size) if given.size else Size(WIDTHS[given.width]))
    save(drawn, output)
    print(f"written: {output}")
    return 0
