"""How all figures of the theory look: made to be read at the width of a two-column paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches: one column, and both.
COLUMN, PAGE = 3.35, 6.9


def colours() -> list[Any]:
    """Seaborn's colour-blind palette."""
    import seaborn as sns

    return list(sns.color_palette("colorblind"))


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row. It belongs to no window and to no global state."""
    import seaborn as sns
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    small: dict[str, float] = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8}
    small |= {"legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7}
    small |= {"xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.linewidth": 0.6}
    look: dict[Any, Any] = {**sns.axes_style("ticks"), **small}
    with rc_context(look):
        drawn = Figure(figsize=(width, height), layout="constrained")
        axes = drawn.subplots(rows, columns, squeeze=False)
    return drawn, list(axes.flatten())


def save(drawn: Figure, folder: Path, name: str, suffix: str) -> Path:
    """Writes FOLDER/NAME.SUFFIX; without a date, so that the same figure is the same file."""
    from matplotlib import rc_context

    path = folder / f"{name}.{suffix}"
    dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix, {})
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "signbench"}):
        drawn.savefig(path, dpi=300, metadata=dated)
    return path
