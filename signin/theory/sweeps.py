"""Sweeps beyond Table 2: recovery of a negative a by setting, and its failure (Appendix E)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pandas as pd

from signin.theory.experiment import Rates, Setting
from signin.theory.tables import Results

#: The values of each varied setting; all other settings are those of Table 2 at η = 0.01.
SWEEPS: dict[str, tuple[Any, ...]] = {
    "samples": (20, 50, 100, 200, 1000, 0),
    "scale": (0.1, 0.2, 0.4, 0.7, 1.0, 1.5),
    "beta": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0),
    "width": (2, 3, 5, 10, 20),
}
#: Seeds of the data sets over which the runs of a setting are split; by default one.
SEEDS = {"samples": (0, 1, 2, 3)}
METHODS = ("plain", "Sign-In")

Key = tuple[str, Any, str, int]


def sweep_settings(runs: int = 100, steps: int = 20_000) -> dict[Key, Setting]:
    """Return the settings by varied field, value, method and seed."""
    base = Setting(runs=runs, steps=steps, cases=((-1, 0),))
    return _settings(base, SWEEPS)


def failure_settings(runs: int = 100, steps: int = 20_000) -> dict[Key, Setting]:
    """Return settings with a random teacher of two inputs and students of 2 to 20 inputs."""
    base = Setting(runs=runs, steps=steps, cases=((-1, 0),), random_teacher=True)
    return _settings(base, {"width": SWEEPS["width"]})


def _settings(base: Setting, sweeps: dict[str, tuple[Any, ...]]) -> dict[Key, Setting]:
    found = {}
    for varied, values in sweeps.items():
        seeds = SEEDS.get(varied, (0,))
        shared = replace(base, runs=-(-base.runs // len(seeds)))
        for key in itertools.product([varied], values, METHODS, seeds):
            found[key] = _change(shared, *key)
    return found


def _change(base: Setting, varied: str, value: Any, method: str, seed: int) -> Setting:
    beta = value if varied == "beta" else 1.0
    base = replace(base, seed=seed, betas=None if method == "plain" else (beta, beta))
    return base if varied == "beta" else replace(base, **{varied: value})


def sweep(results: Results, settings: dict[Key, Setting]) -> pd.DataFrame:
    """Return one row per value and method: fractions of runs that learn, and with final a > 0."""
    rows = []
    for (varied, value, method, _), setting in settings.items():
        rates: Rates = results[setting][0]
        rows.append(
            {"varied": varied, "value": value, "method": method}
            | {"success": rates.learned, "a_positive": rates.positive, "runs": setting.runs}
        )
    by = pd.DataFrame(rows).groupby(["varied", "value", "method"], sort=False)
    table = by.agg(
        success=("success", "mean"), a_positive=("a_positive", "mean"), runs=("runs", "sum")
    ).reset_index()
    unlimited = (table["varied"] == "samples") & (table["value"] == 0)
    table["value"] = table["value"].astype(float).mask(unlimited, float("inf"))
    return table
