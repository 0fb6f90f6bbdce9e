"""Sizes, colours and fonts of figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.names import HAM, PLAIN, SIGN_IN, is_fixed, mask_of, method_of
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = {"column": 3.25, "text": 6.75}  # of ICML's pages, in inches
PAGE = 9.0  # height of the text of a page in inches
SMALL, MEDIUM = 7, 8  # sizes of text in points
LINE, CHARACTER = 0.135, 0.06  # height of a line, and width of a character, of small text
HANDLE = 0.45  # width in inches of a line or dot in a legend, with the space around it
COLOURS = (  # distinct for all kinds of colour vision; in grey, markers tell
    *("#0173b2", "#de8f05", "#029e73", "#d55e00"),
    *("#cc78bc", "#8c5a2b", "#56b4e9", "#404040"),
)
MARKERS = "osD^vPX*"
ENDINGS = (".pdf", ".svg", ".png")  # of figures that are written
Look = dict[str, Any]  # keyword arguments of a line: its colour, marker and dashes
MOST = len(COLOURS)  # methods in one panel
# methods in the order in which they are assigned colours
_ORDER = (
    *("random", "acdc", "rigl", "str", "snip", "synflow", "lrr", "dense"),
    *("set", "gmp", "srigl", "woodfisher", "grasp", "phew", "imp", "mw"),
    *("npb", "cap", "wr", "spred", "pilot", "str-target"),
)
RULE_LOOKS: dict[str, Look] = {
    PLAIN: {"linestyle": "-"},
    SIGN_IN: {"linestyle": (0, (4, 1.5)), "markerfacecolor": "white"},
    HAM: {"linestyle": (0, (4, 1, 1, 1)), "markerfacecolor": "#c0c0c0"},
}
RULE_COLOURS: dict[str, Look] = {  # where colours do not distinguish methods
    PLAIN: {"color": COLOURS[0], "marker": "o"},
    SIGN_IN: {"color": COLOURS[3], "marker": "D"},
    HAM: {"color": COLOURS[2], "marker": "s"},
}
DARK, GREY = COLOURS[7], "#606060"  # of marks that belong to no method
MISSES = "not the requested sparsity"
CROSS: Look = {"marker": "x", "markersize": 6, "linestyle": "", "zorder": 3}  # of such a result
_RC: Any = {
    "font.family": "DejaVu Sans",  # matplotlib's own: equal on all machines
    "font.size": MEDIUM,
    "axes.titlesize": MEDIUM,
    "axes.labelsize": MEDIUM,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#808080",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e0e0e0",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "lines.markeredgewidth": 0.8,
    "legend.frameon": False,
    "legend.borderaxespad": 0.0,
    "legend.borderpad": 0.0,
    "legend.handlelength": 2.2,
    "legend.labelspacing": 0.25,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "pdf.fonttype": 42,  # TrueType: text can be selected
    "svg.fonttype": "none",
    "svg.hashsalt": "signbench",  # equal figures give equal files
}


@dataclass(frozen=True)
class Size:
    """Size of a figure in inches. Without a height, it follows from the contents."""

    width: float = WIDTHS["text"]
    height: float | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether legends have no room beside the panels."""
        return self.width < 5


def in_style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn and saved in this style."""
    import matplotlib

    return matplotlib.rc_context(_RC)


def new_figure(size: Size, height: float) -> Figure:
    """Return an empty figure, of the given height unless the size has its own."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.02, hspace=0.02)
    return Figure(figsize=(size.width, size.height or height), layout=layout)


def fitting_columns(entries: Sequence[str], size: Size) -> int:
    """Return how many columns of a legend with these entries fit below a figure."""
    widths = [HANDLE + CHARACTER * len(entry) for entry in entries]
    return len(widths) if sum(widths) <= size.width else max(1, int(size.width / max(widths)))


def choose_looks(labels: Iterable[str]) -> dict[str, Look]:
    """Return a colour and a marker for each of at most `MOST` labels, all different.

    A method has the same look in all figures, unless another one in the panel has taken it.
    Another method's mask has that method's look.
    """
    base = {label: mask_of(label) for label in labels}
    place: dict[str, int] = {}
    for name in sorted(set(base.values()), key=_preference):
        wanted = range(_preference(name)[0], _preference(name)[0] + MOST)
        place[name] = next((i % MOST for i in wanted if i % MOST not in place.values()), 0)
    return {
        label: {"color": COLOURS[place[name]], "marker": MARKERS[place[name]]}
        for label, name in base.items()
    }


def _preference(label: str) -> tuple[int, str]:
    method = method_of(label)
    return (_ORDER.index(method) if method in _ORDER else len(_ORDER)), label


def line_style(label: str, rule: str) -> Look:
    """Return the dashes and the face of markers of a rule; dots for another method's mask."""
    return RULE_LOOKS[rule] | ({"linestyle": (0, (1, 1))} if is_fixed(label) else {})


def rule_name(rule: str) -> str:
    """Return the name of one of `analysis.names.RULES` in a legend."""
    return f"with {rule}" if rule else "plain"


def save(drawn: Figure, path: Path) -> None:
    """Write a figure as .pdf, .svg or .png.

    Raises:
        UserError: the path has another ending, or the file cannot be written.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"--output must end in .pdf, .svg or .png, not {path}.")
    try:
        # without a date, so that equal figures give equal files
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix)
        with in_style():
            drawn.savefig(path, dpi=300, metadata=metadata)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None
