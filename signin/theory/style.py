"""The style of the theory's figures, legible at the width of a two-column paper."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

#: Widths in inches of one column, and of both.
COLUMN, PAGE = 3.35, 6.9


def colours() -> list[Any]:
    """Return seaborn's colour-blind palette."""
    import seaborn as sns

    return list(sns.color_palette("colorblind"))


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw with small fonts and thin lines. Global settings do not change."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import seaborn as sns
        from matplotlib import rc_context

        small: dict[str, float] = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8}
        small |= {"legend.fontsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7}
        small |= {"xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.linewidth": 0.6}
        small |= {"xtick.major.width": 0.6, "ytick.major.width": 0.6}
        look: dict[Any, Any] = {**sns.axes_style("ticks"), **small}
        with rc_context(look):
            return draw(*args, **kwargs)

    return drawn


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of a size in inches and its axes, row by row. It is not shown in a window."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, list(drawn.subplots(rows, columns, squeeze=False).flatten())


def save(drawn: Figure, folder: Path, name: str, suffix: str) -> Path:
    """Write FOLDER/NAME.SUFFIX, without a date, so that equal figures give equal files."""
    from matplotlib import rc_context

    path = folder / f"{name}.{suffix}"
    dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix, {})
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "signbench"}):
        drawn.savefig(path, dpi=300, metadata=dated)
    return path
