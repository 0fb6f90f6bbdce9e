"""How figures look: a method has the same colour and marker everywhere, legible in two columns."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.8  # widths in inches of a column and of a page of two
_MARKERS = "osD^vP*Xh<>"
# in this order they take the palette's colours, then again with other markers
_ORDER = (
    *("random", "acdc", "rigl", "str", "snip", "synflow", "dense", "lrr", "gmp", "set"),
    *("grasp", "mw", "spred", "pilot", "woodfisher", "cap", "srigl", "phew", "npb", "imp", "wr"),
)
_SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # TrueType: text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "signbench",  # the same picture is the same file
}


def subplots(n: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Any]]:
    """Panels side by side, in inches."""
    import matplotlib
    import seaborn
    from matplotlib import pyplot

    matplotlib.use("agg")
    seaborn.set_theme(context="paper", style="whitegrid", palette="colorblind", rc=_SETTINGS)
    drawn, axes = pyplot.subplots(
        1, n, figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    return drawn, list(axes[0])


def look(label: str, sign_in: bool = False) -> dict[str, Any]:
    """Colour, marker and line of a method, by its label.

    Hollow markers with Sign-In; dashed for that, dotted for another method's mask from scratch.
    """
    import seaborn

    palette = seaborn.color_palette("colorblind")
    is_mask = label.startswith("fixed (")  # of another run, trained from scratch
    base = label.removeprefix("fixed (").split("@")[0].split(" ")[0]
    known = _ORDER.index(base) if base in _ORDER else len(_ORDER) + zlib.crc32(base.encode()) % 97
    style: dict[str, Any] = {
        "color": palette[known % len(palette)],
        "marker": _MARKERS[(known // len(palette) + known) % len(_MARKERS)],
        "linestyle": ":" if is_mask else "--" if sign_in else "-",
    }
    if sign_in:
        style["markerfacecolor"] = "white"
    return style


def save(drawn: Figure, path: Path) -> None:
    """As .pdf, .svg or .png.

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    from matplotlib import pyplot

    if path.suffix not in (".pdf", ".svg", ".png"):
        raise UserError(f"--output must end in .pdf, .svg or .png, not {path}.")
    try:
        # without the date of its making, the same picture is the same file
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix)
        drawn.savefig(path, dpi=300, metadata=metadata)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None
    finally:
        pyplot.close(drawn)
