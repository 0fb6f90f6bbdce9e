"""Beyond Table 2: what the recovery of a negative a depends on, and where it fails (Appendix E)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from signin.theory.experiment import Rates, Setting
from signin.theory.tables import Results

#: What is varied, with the values; everything else as in Table 2 at η = 0.01.
SWEEPS: dict[str, tuple[Any, ...]] = {
    "samples": (20, 50, 100, 200, 1000, 0),
    "scale": (0.1, 0.2, 0.4, 0.7, 1.0, 1.5),
    "beta": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0),
    "width": (2, 3, 5, 10, 20),
}
WIDTHS = (2, 3, 5, 10, 20)
#: Data sets of each setting, which share its runs: with few samples they matter.
SEEDS = (0, 1)
METHODS = ("plain", "Sign-In")

Key = tuple[str, Any, str, int]


def sweep_settings(runs: int = 100, steps: int = 20_000) -> dict[Key, Setting]:
    """By what is varied, its value, method and seed."""
    base = Setting(runs=-(-runs // len(SEEDS)), steps=steps, cases=((-1, 0),))
    keys = [
        (varied, value, method, seed)
        for varied, values in SWEEPS.items()
        for value in values
        for method in METHODS
        for seed in SEEDS
    ]
    return {key: _changed(base, *key) for key in keys}


def failure_settings(runs: int = 100, steps: int = 20_000) -> dict[Key, Setting]:
    """A random teacher of two inputs, and students of more and more."""
    base = Setting(runs=-(-runs // len(SEEDS)), steps=steps, cases=((-1, 0),), random_teacher=True)
    keys = [("width", d, method, seed) for d in WIDTHS for method in METHODS for seed in SEEDS]
    return {key: _changed(base, *key) for key in keys}


def _changed(base: Setting, varied: str, value: Any, method: str, seed: int) -> Setting:
    beta = value if varied == "beta" else 1.0
    base = replace(base, seed=seed, betas=None if method == "plain" else (beta, beta))
    return base if varied == "beta" else replace(base, **{varied: value})


def sweep(results: Results, settings: dict[Key, Setting]) -> pd.DataFrame:
    """A row a value and method: fractions over all seeds that learn, and that end with a > 0."""
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
