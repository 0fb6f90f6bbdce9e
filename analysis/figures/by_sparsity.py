"""Accuracy: methods ranked at each sparsity, and lines over sparsities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.dots import PLAIN_AND_SIGN_IN, DotPanel, draw_dots, padded_limits
from analysis.figures.groups import lowest_typical
from analysis.figures.lines import draw_panels
from analysis.figures.panels import Panel
from analysis.figures.style import Size
from analysis.frame import finished_runs
from analysis.statistics import check_alike
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_ranking(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw the accuracy of each method, best first, in one panel per sparsity.

    Dense runs are a line, unless there are no others.

    Raises:
        UserError: the runs cannot be compared.
    """
    done = _accuracies(runs)
    sparse = done[done["sparsity"] > 0] if (done["sparsity"] > 0).any() else done
    names = sparse["sign_in"].map(lambda sign_in: PLAIN_AND_SIGN_IN[sign_in].name)
    by = ["sparsity", "label", "series"]
    table = sparse.assign(series=names).groupby(by)["accuracy"].agg(["mean", "std"])
    table = table.fillna({"std": 0.0}).reset_index()
    best = table.groupby(["sparsity", "label"])["mean"].max().groupby("label").mean()
    order = list(best.sort_values(ascending=False).index)
    dense = done[(done["sparsity"] == 0) & ~done["sign_in"]]["accuracy"].mean()
    reference = {"Dense": dense} if len(sparse) < len(done) and pd.notna(dense) else {}
    panels = []
    for sparsity, part in table.groupby("sparsity"):
        typical = part[part["mean"] >= lowest_typical(part["mean"])]
        lines = pd.DataFrame({"mean": list(reference.values()), "std": 0.0})
        limits, title = padded_limits(pd.concat([typical, lines])), f"sparsity {sparsity:g}"
        panels.append(DotPanel(part, order, title, "accuracy (%)", limits, reference))
    return draw_dots(panels, PLAIN_AND_SIGN_IN, size)


def draw_accuracy(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw accuracy against sparsity, one line per method; the ranking if there is one sparsity.

    Dense runs are a horizontal line.

    Raises:
        UserError: the runs cannot be compared.
    """
    done = _accuracies(runs)
    sparsities = sorted({s for s in done["sparsity"] if s > 0})
    if len(sparsities) < 2:
        return draw_ranking(runs, size)
    place = {s: i for i, s in enumerate(sparsities)}
    sparse = done.assign(x=done["sparsity"].map(place), value=done["accuracy"])
    dense = [sparse[sparse["sparsity"] == 0].assign(x=x) for x in place.values()]
    values = pd.concat([sparse[sparse["sparsity"] > 0], *dense], ignore_index=True)
    names = [f"{s:g}" for s in sparsities]
    return draw_panels([Panel(values, "", "sparsity", "accuracy (%)", names, zoom=1.0)], size)


def _accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs of one recipe, with accuracies in percent.

    Raises:
        UserError: there are none, or they differ in more than method, sparsity and Sign-In.
    """
    done = finished_runs(runs)
    recipes = sorted(set(done["recipe"]))
    if len(recipes) > 1:
        raise UserError(
            f"the runs are of several recipes ({', '.join(recipes)}): choose with "
            f"--where recipe={recipes[0]}."
        )
    by = ["recipe", "label", "sign_in", "sparsity"]
    check_alike(done, by)
    done = done.drop_duplicates([*by, "seed"])
    return done.assign(accuracy=100 * done["result.accuracy"], sign_in=done["sign_in"].eq(True))
