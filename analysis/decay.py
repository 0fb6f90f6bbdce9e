"""Unequal weight decays of plain runs and others: a difference other than the sign rule."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.contents import Config
from analysis.names import FACTORISED, HAM

_WHAT = {"decays.theta": "θ", "decays.others": "normalisation and biases"}
_WITH_HAM = "with HAM"
_CAUSES = {_WITH_HAM: "ham_beta"}


def is_factorised(config: Config) -> bool:
    """Return whether a run trains factors m ⊙ w: with Sign-In, and with some methods always.

    In runs of earlier versions, which do not record it, methods outside the suite do not.
    """
    run = config["run"]
    return config.get("factorised", run["sign_in"] or run["method"] in FACTORISED)


def decays_of(config: Config) -> dict[str, float]:
    """Return the weight decay of θ near zero, and that of normalisation and biases.

    Runs of version 0.1 do not have them: what their settings say. Empty if they say nothing, NaN
    where they have no number.
    """
    if "decays" in config:
        return config["decays"]
    settings = config["run"]["settings"]
    if "weight_decay" not in settings:
        return {}
    theta = others = _number(settings, "weight_decay", 0.0)
    if is_factorised(config):
        own = settings.get("sign_in", {})
        factors = _number(own, "sign_in_weight_decay", 0.0)
        theta = _beta(config) * _number(own, "frobenius_decay", 1e-4) + 2 * factors
        scope = own.get("sign_in_decay_scope", "all") if isinstance(own, dict) else "all"
        others = factors if scope == "all" else others
    return {"theta": theta, "others": others if settings.get("decay_norm_and_bias", True) else 0.0}


def _beta(config: Config) -> float:
    """Return the inner scaling β of a run of an earlier version: Sign-In's, or spred's own."""
    run = config["run"]
    if not run["sign_in"] and run["method"] == "spred":
        return _number(run["options"], "balance", 0.01)
    return _number(run["settings"].get("sign_in", {}), "beta", 1.0)


def _number(settings: Any, name: str, default: float) -> float:
    value = settings.get(name, default) if isinstance(settings, dict) else math.nan
    return value if type(value) in (int, float) else math.nan


def decay_notes(runs: pd.DataFrame) -> list[str]:
    """Return a line for each recipe whose runs with HAM or factors decay unlike plain ones.

    Args:
        runs: from `analysis.frame.load_runs`.
    """
    notes = []
    for recipe, group in runs.groupby("recipe"):
        kinds = _kinds(group)
        parts, causes = [], dict[str, None]()
        for column, what in _WHAT.items():
            plain, *others = ((name, _values(rows, column)) for name, rows in kinds.items())
            unequal = [kind for kind in others if plain[1] and kind[1] and kind[1] != plain[1]]
            if unequal:
                told = (f"{_listed(values)} {name}" for name, values in (plain, *unequal))
                parts.append(f"of {what} {', '.join(told)}")
                causes |= {_CAUSES.get(name, "grid decay"): None for name, _ in unequal}
        if parts:
            see = " and ".join(causes)
            notes.append(f"unequal weight decays on {recipe}: {'; '.join(parts)} (see {see})")
    return notes


def _kinds(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return plain runs, then those with HAM and those with factors, by what notes call them."""
    factorised, with_ham = runs["factorised"].eq(True), runs["rule"] == HAM
    are_sign_in = runs.loc[factorised, "sign_in"].eq(True).all()
    return {
        "plain": runs[~factorised & ~with_ham],
        _WITH_HAM: runs[with_ham],
        "with Sign-In" if are_sign_in else "with factors m ⊙ w": runs[factorised],
    }


def _values(runs: pd.DataFrame, column: str) -> list[float]:
    return sorted(runs[column].dropna().unique()) if column in runs else []


def _listed(values: list[float]) -> str:
    return " or ".join(f"{value:g}" for value in values)
