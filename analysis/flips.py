"""Sign flips between the moments of a run, and from epoch to epoch, over its final mask."""

from __future__ import annotations

import pandas as pd

PHASES = {
    # suffix of the columns of layers.csv, and whether they are read at the end of the warm-up or
    # of the run
    "init → warm-up": ("init", "warmup"),
    "warm-up → final": ("warmup", "final"),
    "init → final": ("init", "final"),
}


SPANS = ("warm-up", "to T₂", "after T₂", "whole run")
ALL = "all"


def flips_by_phase(layers: pd.DataFrame) -> pd.DataFrame:
    """Return the percentage of flipped signs over all layers, one row per phase.

    Args:
        layers: the rows of a layers.csv.
    """
    rows = []
    for phase, (since, until) in PHASES.items():
        if f"final_flips_{since}" in layers:
            flips, compared = _between(layers, since, until)
            rows.append({"phase": phase, "value": _share(flips, compared)})
    return pd.DataFrame(rows)


def flips_by_layer(layers: pd.DataFrame) -> pd.DataFrame:
    """Return the percentage of flipped signs, one row per layer and one column per phase.

    Args:
        layers: the rows of a layers.csv.
    """
    table = pd.DataFrame()
    for phase, (since, until) in PHASES.items():
        if f"final_flips_{since}" in layers:
            flips, compared = _between(layers, since, until)
            table[phase] = 100 * flips / compared.where(compared > 0)
    return table.rename_axis("layer").reset_index()


def flips_in_spans(layers: pd.DataFrame, until: int) -> pd.DataFrame:
    """Return how often signs flip from one epoch to the next, by layer and span of epochs.

    Args:
        layers: the rows of a layers.csv.
        until: T₂ of Sign-In in epochs.

    Returns:
        The columns layer ("all" for all layers together), span (one of `SPANS`) and value: flips
        per 100 weights of the final mask that have a sign after both epochs, times the number of
        epochs. Epochs whose signs were lost count as the span's mean. Spans without
        epochs are left out.
    """
    if "final_flips_previous" not in layers:
        return pd.DataFrame(columns=["layer", "span", "value"])
    warmup, last = _warmup(layers), int(layers["epoch"].max())
    ends = (-1, warmup), (warmup, max(warmup, until - 1)), (max(warmup, until - 1), last)
    rows = []
    for span, (before, end) in zip(SPANS, (*ends, (-1, last)), strict=True):
        found = layers[(layers["epoch"] > before) & (layers["epoch"] <= end)]
        columns = ["final_flips_previous", "final_compared_previous"]
        sums = found.groupby("layer", sort=False)[columns].sum()
        sums.loc[ALL] = sums.sum()
        share = sums[columns[0]] / sums[columns[1]].where(sums[columns[1]] > 0)
        values = 100 * share * found["epoch"].nunique()
        rows.append(values.rename("value").rename_axis("layer").reset_index().assign(span=span))
    return pd.concat(rows, ignore_index=True).dropna(subset="value")


def _between(
    layers: pd.DataFrame, since: str, until: str
) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return flipped and compared signs by layer, between two moments."""
    last = layers["epoch"].max()
    epoch = last if until == "final" else _warmup(layers)
    rows = layers[layers["epoch"] == epoch].set_index("layer")
    return rows[f"final_flips_{since}"], rows[f"final_compared_{since}"]


def _share(flips: pd.Series[float], compared: pd.Series[float]) -> float:
    """Return the percentage of flips; NaN if the signs of an epoch were lost."""
    return 100 * flips.sum(skipna=False) / max(1, compared.sum(skipna=False))


def _warmup(layers: pd.DataFrame) -> int:
    """Return the last epoch of the warm-up: the one before signs are compared with its end.

    A run that ends with its warm-up compares none and has no such column.
    """
    after = layers.reindex(columns=["epoch", "flips_warmup"]).dropna()["epoch"]
    return int(after.min()) - 1 if len(after) else int(layers["epoch"].max())
