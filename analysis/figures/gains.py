"""What Sign-In gains: accuracies of each pair of runs, and the mean gains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.alike import without_unused
from analysis.figures.style import PAGE, subplots
from analysis.frame import finished_runs
from analysis.gains import paired_gains, summarise_gains
from analysis.names import name_of
from analysis.statistics import check_alike
from analysis.target import misses_target
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BY = ["recipe", "label", "sparsity", "sign_in"]
_UP, _DOWN = "#0173b2", "#d55e00"  # of a gain, and of a loss
_FAR = 3  # interquartile ranges below the lower quartile: not drawn, but named


def draw_gains(runs: pd.DataFrame) -> Figure:
    """Draw (a) plain → Sign-In for each seed and method, (b) the mean gain and its 95 % interval.

    Raises:
        UserError: the runs cannot be compared, or no two of them are a pair.
    """
    done = without_unused(finished_runs(runs))
    done = done[~misses_target(done)]
    check_alike(done, _BY)
    done = done.drop_duplicates([*_BY, "seed"])
    gains = paired_gains(done, _BY)
    if not len(gains):
        raise UserError("there are no two runs of one seed, plain and with Sign-In.")
    means = summarise_gains(gains).sort_values("gain")
    drawn, (pairs, effects) = subplots(
        2, PAGE, 0.9 + 0.24 * len(means), sharey=True, width_ratios=[3, 2]
    )
    accuracy = 100 * done.set_index([*_BY, "seed"])["result.accuracy"].sort_index()
    _draw_pairs(pairs, gains.loc[means.index], accuracy)
    _draw_means(effects, means)
    pairs.set_yticks(range(len(means)), _titles(means))
    return drawn


def _titles(means: pd.DataFrame) -> list[str]:
    """Return the methods' names, with recipe and sparsity if there are several."""
    several = [means.index.get_level_values(name).nunique() > 1 for name in ("recipe", "sparsity")]
    titles = []
    for recipe, label, sparsity, _ in means.index:
        parts = [name_of(label), recipe * several[0], f"s = {sparsity:g}" * several[1]]
        titles.append(", ".join(filter(None, parts)))
    return titles


def _draw_pairs(ax: Any, gains: pd.DataFrame, accuracy: pd.Series) -> None:
    """Draw one arrow per seed, from the plain run to that with Sign-In."""
    shown = [accuracy[(*key[:-1], side)] for key in gains.index for side in (False, True)]
    values = np.concatenate([found.to_numpy() for found in shown])
    low, high = np.quantile(values, [0.25, 0.75])
    left = max(values.min(), low - _FAR * max(high - low, 0.5))
    for y, key in enumerate(gains.index):
        seeds = gains.iloc[y].dropna().index
        offsets = np.linspace(0.25, -0.25, len(seeds)) if len(seeds) > 1 else [0.0]
        ends = [
            (accuracy[(*key[:-1], False, seed)], accuracy[(*key[:-1], True, seed)])
            for seed in seeds
        ]
        for (plain, ours), offset in zip(ends, offsets, strict=True):
            colour = _UP if ours >= plain else _DOWN
            ax.plot([plain, ours], [y + offset] * 2, color=colour, linewidth=1, zorder=2)
            ax.plot(plain, y + offset, "o", color=colour, markersize=3)
            ax.plot(ours, y + offset, "o", color=colour, markersize=3, markerfacecolor="white")
        if max(map(max, ends)) < left:
            mean = np.mean(ends, axis=0)
            ax.text(left, y, f"◂ {mean[0]:.1f} → {mean[1]:.1f}", va="center", fontsize=6)
    margin = 0.03 * (values.max() - left or 1.0)
    ax.set_xlim(left - margin, values.max() + margin)
    ax.set(xlabel="accuracy (%)", title="(a) plain ● → Sign-In ○, one line per seed")


def _draw_means(ax: Any, means: pd.DataFrame) -> None:
    places = np.arange(len(means))
    ends = means[["gain", "gain_low", "gain_high"]].abs().max(axis=1)
    limit = 1.1 * ends[ends <= _FAR * ends.median()].max() or 1.0
    for y in places[ends > limit]:
        low, gain, high = means.iloc[y][["gain_low", "gain", "gain_high"]]
        text = f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]"
        ax.text(0.98 * limit, y + 0.1, text, ha="right", va="bottom", fontsize=6)
    ax.set_xlim(-limit, limit)
    ax.axvline(0, color="#808080", linewidth=0.8)
    half = (means["gain_high"] - means["gain"]).fillna(0)
    ax.errorbar(means["gain"], places, xerr=half, fmt="s", color="#404040", capsize=2, markersize=3)
    ax.set(xlabel="gain (percentage points)", title="(b) mean gain, 95 % interval")
