"""`signbench figure`: a figure of the paper, curves, or accuracy against sparsity."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from baselines.errors import UserError, check_positive
from launch.commands.selection import Selection, split_known
from launch.flags import leading_names, parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.figures.style import Size

SPEED = "speed"  # of what `signbench bench sparse` has written
# figures of the paper that are not made of runs
ELSEWHERE = {number: f"signbench theory figure{number}" for number in "23467"}


@dataclass(frozen=True)
class Drawing:
    """Size and file of a figure."""

    width: Literal["column", "text"] = "text"
    """Width of a column (3.25 inches) or of the text (6.75 inches) of a paper with two columns."""
    size: tuple[float, float] | None = None
    """Width and height in inches; replaces --width."""
    output: Path | None = None
    """File to write to: .pdf, .svg or .png; if not given, figure-NAME.pdf."""

    def __post_init__(self) -> None:
        check_positive(**dict(zip(("width", "height"), self.size or (), strict=False)))

    @property
    def inches(self) -> Size:
        from analysis.figures.style import WIDTHS, Size

        return Size(*self.size) if self.size else Size(WIDTHS[self.width])

    def save(self, drawn: Figure, name: str) -> None:
        """Write the figure, and say where. Raises UserError."""
        from analysis.figures.style import save

        output = self.output or Path(f"figure-{name}.pdf")
        save(drawn, output)
        print(f"written: {output}")


@dataclass(frozen=True)
class FigureCommand:
    """Draw a figure. NAME is one of the paper's (1, 5, 8, 9), `ranking` (methods by accuracy),
    `compare` (accuracy against sparsity), `curves` (loss and accuracy by epoch), `gains` (of
    Sign-In and HAM, for each pair of runs), `ranks` (averages over recipes and sparsities), or
    `signs` (accuracy against the share of reversed signs). `speed FILE…` draws what `signbench
    bench sparse` has measured."""

    selection: Selection = field(default_factory=Selection)
    methods: tuple[str, ...] = ()
    """Draw only these methods, and runs that train their masks."""
    drawing: Drawing = field(default_factory=Drawing)


@dataclass(frozen=True)
class SpeedCommand:
    """Draw the speed of sparse inference against sparsity. Name the files of `signbench bench
    sparse` before the options."""

    drawing: Drawing = field(default_factory=Drawing)


def command(args: list[str]) -> int:
    """Draw a figure."""
    from analysis.figures import FIGURES, select_methods

    name, rest = split_known(args, (*FIGURES, SPEED), "figure", ELSEWHERE)
    if name == SPEED:
        return _draw_speed(rest)
    given = parse(FigureCommand, rest, f"signbench figure {name}")
    runs = select_methods(given.selection.load(), given.methods)
    given.drawing.save(FIGURES[name].draw(runs, given.drawing.inches), name)
    return 0


def _draw_speed(args: list[str]) -> int:
    from analysis.figures.speed import draw_speeds, read_speeds

    files, flags = leading_names(args)
    given = parse(SpeedCommand, flags, "signbench figure speed FILE…")
    if not files:
        raise UserError("signbench figure speed FILE…: name files of signbench bench sparse.")
    drawn = draw_speeds(read_speeds([Path(file) for file in files]), given.drawing.inches)
    given.drawing.save(drawn, SPEED)
    return 0
