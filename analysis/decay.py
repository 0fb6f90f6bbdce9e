"""Unequal weight decays of plain runs and those with Sign-In: a difference other than Sign-In."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.contents import Config

_WHAT = {"decays.theta": "θ", "decays.others": "normalisation and biases"}


def decays_of(config: Config) -> dict[str, float]:
    """Return the weight decay of θ near zero, and that of normalisation and biases.

    Runs of earlier versions do not have them: what their settings say. Empty if they say nothing,
    NaN where they have no number.
    """
    if "decays" in config:
        return config["decays"]
    settings = config["run"]["settings"]
    if "weight_decay" not in settings:
        return {}
    theta = others = _number(settings, "weight_decay", 0.0)
    if config["run"]["sign_in"]:
        own = settings.get("sign_in", {})
        factors = _number(own, "sign_in_weight_decay", 0.0)
        theta = _number(own, "frobenius_decay", 1e-4) + 2 * factors
        scope = own.get("sign_in_decay_scope", "all") if isinstance(own, dict) else "all"
        others = factors if scope == "all" else others
    return {"theta": theta, "others": others if settings.get("decay_norm_and_bias", True) else 0.0}


def _number(settings: Any, name: str, default: float) -> float:
    value = settings.get(name, default) if isinstance(settings, dict) else math.nan
    return value if type(value) in (int, float) else math.nan


def decay_notes(runs: pd.DataFrame) -> list[str]:
    """Return a line for each recipe whose plain and Sign-In runs decay differently.

    Args:
        runs: from `analysis.frame.load_runs`.
    """
    notes = []
    for recipe, group in runs.groupby("recipe"):
        with_sign_in = group["sign_in"].eq(True)
        parts = []
        for column, what in _WHAT.items():
            plain, ours = (
                sorted(group.loc[rows, column].dropna().unique()) if column in group else []
                for rows in (~with_sign_in, with_sign_in)
            )
            if plain and ours and plain != ours:
                parts.append(f"of {what} {_listed(plain)} plain, {_listed(ours)} with Sign-In")
        if parts:
            notes.append(f"unequal weight decays on {recipe}: {'; '.join(parts)} (see grid decay)")
    return notes


def _listed(values: list[float]) -> str:
    return " or ".join(f"{value:g}" for value in values)
