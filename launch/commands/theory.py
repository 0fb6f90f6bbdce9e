"""`signbench theory`: the paper's student-teacher experiments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from baselines.errors import check_not_negative
from launch.flags import parse, split_name


@dataclass(frozen=True)
class TheoryCommand:
    """Run the paper's student-teacher experiments. NAME is table2, table8, figure2, figure3,
    figure4, figure6, figure7 or all. Prints the tables; writes CSV files and figures."""

    output: Path = Path("theory")
    """Folder to write to; also -o."""
    format: Literal["pdf", "png", "svg"] = "pdf"
    """Format of the figures."""
    slots: int = 0
    """Measurements at the same time; 0: one per CPU core. Results do not depend on it."""

    def __post_init__(self) -> None:
        check_not_negative(slots=self.slots)


def command(args: list[str]) -> int:
    """Make a table or figure, or all of them. Return the exit code."""
    name, rest = split_name(args)
    given = parse(TheoryCommand, rest, "signbench theory NAME")
    from signin.theory.artefacts import make

    make(name, given.output, given.format, given.slots)
    return 0
