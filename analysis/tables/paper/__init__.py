"""The numbered tables of the paper. Its own values are in table*.csv."""

from analysis.tables.paper.cells import (
    Command,
    fits_layout,
    paper_cells,
    paper_sheets,
    paper_values,
)
from analysis.tables.paper.layouts import LAYOUTS

__all__ = [
    "LAYOUTS",
    "Command",
    "fits_layout",
    "paper_cells",
    "paper_sheets",
    "paper_values",
]
