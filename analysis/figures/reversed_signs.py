"""Accuracy of learned masks that are trained from learned signs, some of them reversed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.groups import SAME, of_one_network
from analysis.figures.lines import draw_panels
from analysis.figures.panels import Panel
from analysis.figures.style import Size
from analysis.frame import finished_runs
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARE = "options.flip_signs"


def draw_reversed_signs(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw accuracy against the share of reversed signs, one line per mask and rule.

    Draws runs that start from the final mask and signs of a run and from their own magnitudes.
    The runs that learned the masks are horizontal lines.

    Raises:
        UserError: there are no such runs, or they cannot be compared.
    """
    done = finished_runs(runs)
    chosen = of_one_network(_with_learned_signs(done))
    chosen = chosen.drop_duplicates(SAME)
    masks = chosen.assign(label="fixed (" + chosen["mask.label"] + "@final)")
    masks = masks.assign(x=100 * chosen[_SHARE].astype(float))
    learners = done[[folder.name in set(chosen["mask.run"]) for folder in done["folder"]]]
    ends = [learners.assign(x=x) for x in (masks["x"].min(), masks["x"].max())]
    values = pd.concat([masks, *ends], ignore_index=True)
    values = values.assign(value=100 * values["result.accuracy"])
    ticks = {float(x): f"{x:g}" for x in sorted(set(values["x"]))}
    panel = Panel(values, "", "reversed signs (%)", "accuracy (%)", ticks, zoom=1.0)
    return draw_panels([panel], size)


def _with_learned_signs(done: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the method `fixed` with mask and signs from the end of one run only.

    Raises:
        UserError: they do not differ in the share of reversed signs.
    """
    if _SHARE in done:
        wanted = {"mask.at": "final", "signs.at": "final", "magnitudes.at": "random"}
        wanted |= {"method": "fixed", "options.magnitude_kind": "each", "options.others": ""}
        wanted |= {"options.init": ""}  # would be the source of the others
        same = (done["mask.run"] == done["signs.run"]) & (done["mask.label"] != "")
        chosen = done[same & (done[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        if chosen[_SHARE].nunique() > 1:
            return chosen
    raise UserError(
        "no runs with learned signs differ in the share of reversed ones: signbench grid signs "
        "trains some."
    )
