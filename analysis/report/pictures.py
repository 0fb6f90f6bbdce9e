"""Figures as parts of a page: each is drawn for wide and for narrow screens."""

from __future__ import annotations

import base64
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.figures import FIGURES, WIDTHS, Size, save


@dataclass(frozen=True)
class Picture:
    """A figure with its caption, as data URLs for wide and narrow screens."""

    caption: str
    wide: str
    narrow: str


def draw_picture(name: str, runs: pd.DataFrame) -> tuple[Picture, list[str]]:
    """Return a figure, and notes about what it does not show.

    Raises:
        UserError: the runs cannot be compared.
    """
    kind = FIGURES[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        wide, narrow = (_as_url(name, runs, Size(WIDTHS[width])) for width in ("text", "column"))
    caption = f"Figure {name}: {kind.caption}" if name.isdigit() else kind.caption
    return Picture(caption, wide, narrow), sorted({str(warning.message) for warning in caught})


def _as_url(name: str, runs: pd.DataFrame, size: Size) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        save(FIGURES[name].draw(runs, size), path)
        return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
