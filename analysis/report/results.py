"""The table of results: one row per method, plain, with Sign-In and with HAM, best first."""

from __future__ import annotations

import pandas as pd

from analysis.alike import comparison_fields
from analysis.decay import decay_notes
from analysis.frame import find_column, finished_runs
from analysis.names import PLAIN, RULES
from analysis.statistics import aggregate
from analysis.tables.comparison import (
    cost_text,
    gain_notes,
    gain_text,
    mark_notes,
    mean_text,
    ratio_text,
    shortened,
    shown,
)
from analysis.tables.sheet import Sheet, leave_out_constants


def results_sheet(runs: pd.DataFrame) -> Sheet:
    """Return accuracies, gains of Sign-In and HAM, and costs of the runs of one recipe.

    Configurations without a finished run are left out.

    Raises:
        UserError: no run has finished.
    """
    rows, columns = comparison_fields(runs, ("method",), ("sparsity",))
    numbers = aggregate(runs, rows, columns)
    down, across = ([find_column(runs, name) for name in names] for names in (rows, columns))
    in_group = numbers.groupby([*across, *down], dropna=False)["runs"].transform("sum")
    numbers = numbers[in_group > 0]  # a failure beside other results is shown
    best = numbers.groupby([*across, *down], dropna=False)["accuracy"].transform("max")
    numbers = numbers.assign(best_of_row=best, dense=numbers["sparsity"] == 0)
    by = ["dense", *across, "best_of_row", *down]
    ascending = [False, *(True for _ in across), False, *(True for _ in down)]
    numbers = numbers.sort_values(by, ascending=ascending, kind="stable")
    groups = [group for _, group in numbers.groupby([*across, *down], dropna=False, sort=False)]
    first = pd.concat([group[group["runs"] > 0][:1] for group in groups])
    cells = pd.DataFrame({shortened(name): shown(first, name) for name in [*down, *across]})
    cells = cells.reset_index(drop=True)
    labels = cells.shape[1]
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    gains = dict[str, list[str]]()
    rules = [rule for rule in RULES if rule in set(numbers["rule"])]
    for rule in rules:
        parts = [group[group["rule"] == rule].to_dict("records") for group in groups]
        cells[rule or "plain"] = [mean_text(part[0]) if part else "" for part in parts]
        bold[rule or "plain"] = [bool(part and part[0]["best"]) for part in parts]
        gain = "gain" if len(rules) == 2 else f"gain of {rule}"
        if rule != PLAIN:
            gains[gain] = [gain_text(part[0]) if part else "" for part in parts]
    cells = cells.assign(**gains)
    records = first.to_dict("records")
    cells["seeds"] = [_seeds(group, rules) for group in groups]
    cells["dense epochs"] = [cost_text(record) for record in records]
    cells["inference"] = [ratio_text(record["flops"], record["dense_flops"]) for record in records]
    bold = bold.reindex(columns=cells.columns, fill_value=False)
    several = [_SEEDS.format(" / ".join(r or "plain" for r in rules))]
    several *= bool(cells["seeds"].str.contains("/").any())
    notes = [*mark_notes(numbers), *gain_notes(numbers), *decay_notes(finished_runs(runs))]
    notes += [*several, _COSTS]
    return leave_out_constants(Sheet(_TITLE, cells, bold, labels, notes))


def _seeds(group: pd.DataFrame, rules: list[str]) -> str:
    """Return the number of seeds, or that of each rule if they differ."""
    numbers = dict(zip(group["rule"], group["runs"], strict=True))
    if len(set(numbers.values())) == 1:
        return str(group["runs"].iloc[0])
    return " / ".join(str(numbers.get(rule, "–")) for rule in rules)


_TITLE = "Accuracy in percent, mean ± standard deviation over seeds"
_SEEDS = "seeds: where their numbers differ, {}"
_COSTS = (
    "costs are those of plain runs, if there are any; dense epochs: with the same number of "
    "operations, of the epochs trained; inference: floating-point operations of one image "
    "(fraction of dense)"
)
