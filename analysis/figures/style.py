"""The style of figures. A method has the same colour and marker in all of them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.names import is_fixed
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.8  # widths in inches of a column, and of a page with two columns
_MARKERS = "osD^vP*Xh<>"
# methods in the order in which they take colours; the palette repeats with other markers
_ORDER = (
    *("random", "acdc", "rigl", "str", "snip", "synflow", "dense", "lrr", "gmp", "set"),
    *("grasp", "mw", "spred", "pilot", "woodfisher", "cap", "srigl", "phew", "npb", "imp", "wr"),
    "str-target",
)
_RC = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # TrueType: text can be selected
    "svg.fonttype": "none",
    "svg.hashsalt": "signbench",  # equal figures give equal files
}


def subplots(n: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Any]]:
    """Return a figure of n panels side by side, and its axes. Sizes are in inches."""
    import matplotlib
    import seaborn
    from matplotlib import pyplot

    matplotlib.use("agg")
    seaborn.set_theme(context="paper", style="whitegrid", palette="colorblind", rc=_RC)
    drawn, axes = pyplot.subplots(
        1, n, figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    return drawn, list(axes[0])


def look(label: str, sign_in: bool = False) -> dict[str, Any]:
    """Return colour, marker and line style of a method, given its label.

    Markers are hollow with Sign-In. Lines are dashed with Sign-In, and dotted for another method's
    mask trained from scratch.
    """
    import seaborn

    palette = seaborn.color_palette("colorblind")
    base = label.removeprefix("fixed (").split("@")[0].split(" ")[0]
    known = _ORDER.index(base) if base in _ORDER else len(_ORDER) + zlib.crc32(base.encode()) % 97
    found: dict[str, Any] = {
        "color": palette[known % len(palette)],
        "marker": _MARKERS[(known // len(palette) + known) % len(_MARKERS)],
        "linestyle": ":" if is_fixed(label) else "--" if sign_in else "-",
    }
    if sign_in:
        found["markerfacecolor"] = "white"
    return found


def legend_below(drawn: Figure, axes: list[Any]) -> None:
    """Replace the legends of all panels by one below them."""
    entries: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        if ax.get_legend():
            ax.get_legend().remove()
    wide = drawn.get_figwidth() > COLUMN
    columns = min(len(entries), 5 if wide else 2) or 1
    drawn.legend(
        entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False
    )


def save(drawn: Figure, path: Path) -> None:
    """Write a figure as .pdf, .svg or .png.

    Raises:
        UserError: the path has another ending, or the file cannot be written.
    """
    from matplotlib import pyplot

    if path.suffix not in (".pdf", ".svg", ".png"):
        raise UserError(f"--output must end in .pdf, .svg or .png, not {path}.")
    try:
        # without a date, so that equal figures give equal files
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix)
        drawn.savefig(path, dpi=300, metadata=metadata)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None
    finally:
        pyplot.close(drawn)
