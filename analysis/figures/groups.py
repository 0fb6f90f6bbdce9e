"""Selection and grouping of the runs of a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.folder import LAYERS
from analysis.frame import finished_runs, load_rows
from analysis.names import method_of
from analysis.statistics import check_alike
from baselines.errors import UserError, unknown

Group = tuple[str, str]  # label and rule
SAME = ["label", "rule", "seed"]  # runs that are equal in these are shown once


def by_method(table: pd.DataFrame) -> Iterator[tuple[Group, pd.DataFrame]]:
    """Yield the rows of each method, plain and with Sign-In or HAM."""
    for (label, rule), group in table.groupby(["label", "rule"]):
        yield (str(label), str(rule)), group


def select_methods(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the runs of methods and those that train their masks; all, if none is named.

    Args:
        names: methods or labels, such as `random` and `random (uniform)`.

    Raises:
        UserError: there are no runs of one of them.
    """
    if not names:
        return runs
    found = [{label, method_of(label)} for label in runs["label"]]
    for name in names:
        if not any(name in own for own in found):
            raise unknown("method", name, sorted(set().union(*found)))
    return runs[[not own.isdisjoint(names) for own in found]]


def of_one_network(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs. They may differ only in method, Sign-In or HAM, and seed.

    Dense runs are compared with each other; with the others, only in the recipe and the model.

    Raises:
        UserError: there are no finished runs, or they differ in another field.
    """
    done = finished_runs(runs)
    for part in (done[done["sparsity"] > 0], done[done["sparsity"] == 0]):
        check_alike(part, ["label", "rule"])
    for field in ("recipe", "settings.model"):
        values = sorted(map(str, done[field].unique()))
        if len(values) > 1:
            name = field.rpartition(".")[2]
            raise UserError(
                f"the runs are of several {name}s ({', '.join(values)}): choose with "
                f"--where {name}={values[0]}."
            )
    return done


def per_run(runs: pd.DataFrame, measure: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Apply a function to the layers.csv of each run. Add the columns label, rule and seed.

    Raises:
        UserError: no run has finished, or they are of different networks.
    """
    parts: dict[tuple[Any, ...], pd.DataFrame] = {}
    for run in of_one_network(runs).to_dict("records"):
        about = {name: run[name] for name in SAME}
        key = tuple(about.values())
        if key in parts:
            continue
        layers = load_rows(run["folder"], LAYERS)
        if "final_flips_init" in layers:
            parts[key] = measure(layers).assign(**about)
    if not parts:
        raise UserError("no run has sign flips over its final mask.")
    return pd.concat(list(parts.values()), ignore_index=True)


def lowest_typical(values: pd.Series[float]) -> float:
    """Return the lowest value, without those far below the others.

    Far means more than three interquartile ranges below the lower quartile.
    """
    low, high = values.quantile(0.25), values.quantile(0.75)
    return float(values[values >= low - 3 * (high - low)].min())
