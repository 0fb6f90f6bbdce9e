"""The table of average ranks over recipes and sparsities."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.mean_ranks import LEAST_BLOCKS, LEAST_ROWS, Ranks
from analysis.tables.comparison import FAILED, shortened, shown
from analysis.tables.sheet import Sheet
from analysis.variance import LEVEL


def ranks_sheet(ranks: Ranks, rows: Sequence[str]) -> Sheet:
    """Return the ranks as a sheet, best first.

    Args:
        rows: the fields that define a method.
    """
    table = ranks.table
    cells = pd.DataFrame({shortened(name): shown(table, name) for name in rows})
    cells[""] = table["rule"]
    labels = cells.shape[1]
    marks = table["tied"].map({True: "†", False: ""})
    marks += (table["failed"] > 0).map({True: "*", False: ""})
    cells["average rank"] = table["rank"].map("{:.2f}".format) + marks
    cells["first"] = table["first"].map(str)
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    bold["average rank"] = table["rank"] == table["rank"].min()
    blocks = table["blocks"].iloc[0]
    return Sheet(f"Average ranks over {blocks} comparisons", cells, bold, labels, _notes(ranks))


def _notes(ranks: Ranks) -> list[str]:
    notes = ["first: number of comparisons in which the mean accuracy is the highest"]
    if pd.isna(ranks.p_value):
        notes.append(
            f"no test: it needs {LEAST_BLOCKS} comparisons (recipe and sparsity) of the same "
            f"{LEAST_ROWS} methods"
        )
    else:
        verdict = "are distinguished" if ranks.p_value < LEVEL else "are not distinguished"
        notes.append(
            f"the methods {verdict} by Friedman's test (p = {ranks.p_value:.2g}); † within the "
            f"critical difference of {ranks.critical_difference:.2f} from the best (Nemenyi, 5 %)"
        )
    if ranks.table["failed"].any():
        notes.append(FAILED)
    if ranks.left_out:
        notes.append(f"{ranks.left_out} methods that do not have all comparisons are left out")
    return notes
