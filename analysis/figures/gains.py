"""What Sign-In and HAM gain: accuracies of each pair of runs, and the mean gains."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.alike import without_unused
from analysis.figures.dots import DotPanel, Series, draw_dots
from analysis.figures.style import COLOURS, DARK, GREY, MARKERS, PAGE, SMALL, Size, new_figure
from analysis.frame import finished_runs, one_per_seed
from analysis.gains import paired_gains, summarise_gains
from analysis.names import PLAIN, RULES, listed_rules, short_names, with_rule
from analysis.statistics import check_alike
from analysis.target import in_missing_rows
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BY = ["recipe", "label", "sparsity", "rule"]
_UP, _DOWN = COLOURS[0], COLOURS[3]  # of a gain, and of a loss
_PITCH, _LEAST_PITCH, _ENDS = 0.24, 0.15, 0.75  # heights in inches: of a row, and of the rest
_XLABEL = "gain (% points)"
_FAR = 3  # interquartile ranges below the lower quartile: not drawn, but named


def draw_gains(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw plain → Sign-In or HAM for each seed and method, and the mean gain with 95 % interval.

    Of several recipes or sparsities, or if there are too many rows, draw the mean gains only.

    Raises:
        UserError: the runs cannot be compared, or no two of them are a pair.
    """
    done = without_unused(finished_runs(runs))
    done = done[~in_missing_rows(done, _BY)]
    check_alike(done, _BY)
    done = one_per_seed(done, _BY)
    gains = paired_gains(done, _BY)
    if not len(gains):
        raise UserError("there are no two runs of one seed, plain and with Sign-In or HAM.")
    means = summarise_gains(gains).sort_values("gain")
    dense = means.index.get_level_values("sparsity") == 0
    stacked = size.is_narrow
    pitch = min(_PITCH, (PAGE / (1 + stacked) - _ENDS) / len(means))
    if len(means[~dense].groupby(["recipe", "sparsity"])) > 1 or pitch < _LEAST_PITCH:
        return _draw_all_means(means[~dense].reset_index(), size)
    drawn = new_figure(size, (_ENDS + pitch * len(means)) * (1 + stacked))
    options: dict[str, Any] = {} if stacked else {"width_ratios": [3, 2]}
    pairs, effects = drawn.subplots(1 + stacked, 2 - stacked, sharey=True, **options)
    accuracy = 100 * done.set_index([*_BY, "seed"])["result.accuracy"].sort_index()
    _draw_pairs(pairs, gains.loc[means.index], accuracy)
    _draw_means(effects, means)
    pairs.set_yticks(range(len(means)), _row_names(means))
    pairs.set_ylim(-0.6, len(means) - 0.4)
    return drawn


def _row_names(means: pd.DataFrame) -> list[str]:
    """Return the names of methods, with the rule if there are several."""
    labels, rules = (means.index.get_level_values(name) for name in ("label", "rule"))
    names = short_names(labels)
    if len(set(rules)) == 1:
        return [names[label] for label in labels]
    return [with_rule(names[label], rule) for label, rule in zip(labels, rules, strict=True)]


def _draw_all_means(means: pd.DataFrame, size: Size) -> Figure:
    """Draw mean gains, one panel per recipe and rule, and one dot per sparsity."""
    sparsities = sorted(means["sparsity"].unique())
    looks = itertools.cycle(zip(COLOURS, MARKERS, strict=True))
    shifts = np.linspace(-0.3, 0.3, len(sparsities)) if len(sparsities) > 1 else [0.0]
    series = [
        Series(f"sparsity {s:g}", *look, shift)
        for s, look, shift in zip(sparsities, looks, shifts, strict=False)
    ]
    table = means.assign(
        series=means["sparsity"].map("sparsity {:g}".format),
        mean=means["gain"],
        std=(means["gain_high"] - means["gain"]).fillna(0.0),
    )
    order = list(table.groupby("label")["mean"].mean().sort_values(ascending=False).index)
    panels = [
        DotPanel(part, order, f"{recipe}, {rule}", _XLABEL, _limits(part), {"no gain": 0.0})
        for recipe, of_recipe in table.groupby("recipe")
        for rule in RULES
        if len(part := of_recipe[of_recipe["rule"] == rule])
    ]
    return draw_dots(panels, series, size)


def _limits(means: pd.DataFrame) -> tuple[float, float]:
    """Return ends of the axis of gains that show the typical intervals, and zero in the middle."""
    ends = means[["gain", "gain_low", "gain_high"]].abs().max(axis=1)
    limit = float(1.1 * ends[ends <= _FAR * ends.median()].max()) or 1.0
    return -limit, limit


def _draw_pairs(ax: Any, gains: pd.DataFrame, accuracy: pd.Series) -> None:
    """Draw one line per seed, from the plain run to that with Sign-In or HAM."""
    shown = [accuracy[(*key[:-1], rule)] for key in gains.index for rule in (PLAIN, key[-1])]
    values = np.concatenate([found.to_numpy() for found in shown])
    low, high = np.quantile(values, [0.25, 0.75])
    left = max(values.min(), low - _FAR * max(high - low, 0.5))
    for y, key in enumerate(gains.index):
        seeds = gains.iloc[y].dropna().index
        offsets = np.linspace(0.25, -0.25, len(seeds)) if len(seeds) > 1 else [0.0]
        ends = [(accuracy[(*key[:-1], PLAIN, seed)], accuracy[(*key, seed)]) for seed in seeds]
        for (plain, ours), offset in zip(ends, offsets, strict=True):
            colour = _UP if ours >= plain else _DOWN
            ax.plot([plain, ours], [y + offset] * 2, color=colour, linewidth=1, zorder=2)
            ax.plot(plain, y + offset, "o", color=colour, markersize=3)
            ax.plot(ours, y + offset, "o", color=colour, markersize=3, markerfacecolor="white")
        if max(map(max, ends)) < left:
            mean = np.mean(ends, axis=0)
            ax.text(left, y, f"◂ {mean[0]:.1f} → {mean[1]:.1f}", va="center", fontsize=SMALL)
    margin = 0.03 * (values.max() - left or 1.0)
    ax.set_xlim(left - margin, values.max() + margin)
    rules = listed_rules(gains.index.get_level_values("rule"))
    ax.set(xlabel="accuracy (%)", title=f"plain ● → {rules} ○")


def _draw_means(ax: Any, means: pd.DataFrame) -> None:
    places = np.arange(len(means))
    low, high = _limits(means)
    far = means[["gain", "gain_low", "gain_high"]].abs().max(axis=1) > high
    for y in places[far]:
        text = _far_text(*means.iloc[y][["gain", "gain_low", "gain_high"]])
        ax.text(0.98 * high, y + 0.1, text, ha="right", va="bottom", fontsize=SMALL)
    ax.set_xlim(low, high)
    ax.axvline(0, color=GREY, linewidth=0.8)
    half = means["gain_high"] - means["gain"]
    known = half.notna().to_numpy()
    look = {"fmt": "s", "color": DARK, "capsize": 2}
    ax.errorbar(means["gain"][known], places[known], xerr=half[known], **look)
    ax.plot(means["gain"][~known], places[~known], "s", color=DARK, markerfacecolor="white")
    ax.locator_params(axis="x", nbins=5)
    title = "mean, 95 % interval" + ("" if known.all() else " (□: none)")
    ax.set(xlabel=_XLABEL, title=title)


def _far_text(gain: float, low: float, high: float) -> str:
    """Return the interval of a gain that is not on the axis, or the gain if it has none."""
    return f"{gain:+.1f}" if np.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
