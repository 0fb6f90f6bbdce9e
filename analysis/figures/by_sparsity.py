"""Accuracy: methods ranked at each sparsity, and lines over sparsities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.dots import DotPanel, draw_dots, padded_limits, rule_series
from analysis.figures.groups import lowest_typical
from analysis.figures.lines import draw_panels
from analysis.figures.panels import Panel, place_of_sparsity
from analysis.figures.style import Size, rule_name
from analysis.frame import finished_runs, one_per_seed
from analysis.names import PLAIN
from analysis.statistics import check_alike
from analysis.target import in_missing_rows
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BY = ["recipe", "label", "rule", "sparsity"]


def draw_ranking(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw the accuracy of each method, best first, in one panel per sparsity.

    Dense runs are a line, unless there are no others. Results at another sparsity than the
    requested one have a cross and do not count for the order.

    Raises:
        UserError: the runs cannot be compared.
    """
    done = _accuracies(runs)
    sparse = done[done["sparsity"] > 0] if (done["sparsity"] > 0).any() else done
    groups = sparse.assign(series=sparse["rule"].map(rule_name)).groupby(
        ["sparsity", "label", "series"]
    )
    table = groups["accuracy"].agg(["mean", "std"]).fillna({"std": 0.0})
    table = table.assign(marked=groups["misses"].any()).reset_index()
    dense = done[(done["label"] == "dense") & (done["rule"] == PLAIN)]["accuracy"].mean()
    reference = {"Dense": dense} if len(sparse) < len(done) and pd.notna(dense) else {}
    order, panels = _order(table), []
    for sparsity, part in table.groupby("sparsity"):
        typical = part[part["mean"] >= lowest_typical(part["mean"])]
        lines = pd.DataFrame({"mean": list(reference.values()), "std": 0.0})
        limits, title = padded_limits(pd.concat([typical, lines])), f"sparsity {sparsity:g}"
        panels.append(DotPanel(part, order, title, "accuracy (%)", limits, reference))
    return draw_dots(panels, rule_series(sparse["rule"]), size)


def _order(table: pd.DataFrame) -> list[str]:
    """Return the labels, best first: by the best mean at each sparsity, averaged.

    Means are taken relative to those of the sparsity: a method that was not run at high sparsities
    has no advantage from that.
    """
    competing = table.assign(mean=table["mean"].where(~table["marked"]))
    best = competing.groupby(["sparsity", "label"])["mean"].max()
    relative = best - best.groupby("sparsity").transform("mean")
    order = relative.groupby("label").mean().sort_values(ascending=False, na_position="last")
    return list(order.index)


def draw_accuracy(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw accuracy against sparsity, one line per method; the ranking if there is one sparsity.

    The sparsity axis is logarithmic in the density. Methods that have runs at sparsity 0 only are a
    horizontal line; for other methods, these runs are omitted. Results at another sparsity than the
    requested one are drawn at the realised one, with a cross.

    Raises:
        UserError: the runs cannot be compared.
    """
    done = _accuracies(runs)
    sparsities = sorted({s for s in done["sparsity"] if s > 0})
    if len(sparsities) < 2:
        return draw_ranking(runs, size)
    sparse = done[done["sparsity"] > 0].assign(value=lambda table: table["accuracy"])
    sparse = sparse.assign(x=place_of_sparsity(_drawn_sparsity(sparse)), marked=sparse["misses"])
    ends = sparse["x"].min(), sparse["x"].max()
    dense = done[~done["label"].isin(sparse["label"])]
    lines = [dense.assign(x=x, value=dense["accuracy"], marked=False) for x in ends]
    values = pd.concat([sparse, *lines], ignore_index=True)
    ticks = {float(place_of_sparsity(s)): f"{s:g}" for s in sparsities}
    return draw_panels([Panel(values, "", "sparsity", "accuracy (%)", ticks, zoom=1.0)], size)


def _drawn_sparsity(sparse: pd.DataFrame) -> pd.Series:
    """Return the requested sparsity; the mean realised one where a result misses it."""
    if "result.sparsity" not in sparse:
        return sparse["sparsity"]
    realised = sparse.groupby(_BY)["result.sparsity"].transform("mean")
    return sparse["sparsity"].where(~sparse["misses"], realised)


def _accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs of one recipe, with accuracies in percent and `misses`.

    Raises:
        UserError: there are none, or they differ in more than method, sparsity, Sign-In and HAM.
    """
    done = finished_runs(runs)
    recipes = sorted(set(done["recipe"]))
    if len(recipes) > 1:
        raise UserError(
            f"the runs are of several recipes ({', '.join(recipes)}): choose with "
            f"--where recipe={recipes[0]}."
        )
    check_alike(done, _BY)
    done = one_per_seed(done, _BY)
    # a configuration whose seeds miss in part is drawn as a whole
    misses = in_missing_rows(done, _BY)
    return done.assign(accuracy=100 * done["result.accuracy"], misses=misses)
