"""Tables 2 and 8: how often one neuron learns another, by method and initial signs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from signin.theory.experiment import CASES, Rates, Setting

#: What has been measured, by setting.
Results = Mapping[Any, Any]

#: The rows of Table 8. Theorem 5.2 needs β₁ > β₂ for one input; for five, β₁ = β₂ is enough.
TABLE8 = {
    "Sparse": Setting(width=1),
    "Overparam": Setting(),
    "Sign-In": Setting(width=1, betas=(2.0, 1.0)),
    "Overparam + Sign-In": Setting(betas=(1.0, 1.0)),
}
PAPER = {
    "Sparse": (1, 0, 0, 0),
    "Overparam": (1, 0, 1, 0),
    "Sign-In": (1, 1, 0, 0),
    "Overparam + Sign-In": (1, 1, 1, 1),
}
#: Changes to the settings of Table 8. Each applies to the rows that it changes, at a tenth of the
#: steps, which is enough to see the difference.
CHANGES: dict[str, dict[str, Any]] = {
    "T = 200": {},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    "seed 3": {"seed": 3},
    "n = 20": {"samples": 20},
    "n = 100": {"samples": 100},
    "n = ∞": {"samples": 0},
    "scale 0.4": {"scale": 0.4},
    "β₁ = β₂": {"betas": (1.0, 1.0)},
    "β₁ < β₂": {"betas": (1.0, 2.0)},
    "β₁ > β₂": {"betas": (2.0, 1.0)},
}
SIGNS = ("a > 0, w > 0", "a < 0, w > 0", "a > 0, w < 0", "a < 0, w < 0")


def table8_settings(runs: int = 100, steps: int = 200_000) -> dict[tuple[str, str], Setting]:
    """Return settings by name and method. The first four are the table itself."""
    found = {("table", k): replace(v, runs=runs, steps=steps) for k, v in TABLE8.items()}
    short = {k: replace(v, runs=runs, steps=max(1, steps // 10)) for k, v in TABLE8.items()}
    for name, change in CHANGES.items():
        for method, setting in short.items():
            changed = replace(setting, **change) if _applies(change, setting) else setting
            if changed != setting or not change:
                found[name, method] = changed
    return found


def _applies(change: Mapping[str, Any], setting: Setting) -> bool:
    """Return whether a change has an effect.

    Scalings have none on plain runs, and n has none for one input, apart from the unit of time.
    """
    plain, single = setting.betas is None, setting.width == 1
    return not (plain and "betas" in change) and not (single and "samples" in change)


def table8(results: Results, settings: Mapping[tuple[str, str], Setting]) -> pd.DataFrame:
    """Return one row per cell: setting, method, signs, the paper's success and ours."""
    rows = []
    for (name, method), setting in settings.items():
        rates: list[Rates] = results[setting]
        for (a, w), paper, rate in zip(CASES, PAPER[method], rates, strict=True):
            rows.append(
                {"setting": name, "method": method, "a": a, "w": w, "paper": paper}
                | {"success": rate.learned, "a_positive": rate.positive}
                | setting.columns()
            )
    return pd.DataFrame(rows)


def table8_text(table: pd.DataFrame) -> str:
    """Return the table as text, with its settings, followed by the results of other settings."""
    shown = table.assign(signs=sign_names(table["a"], table["w"]))
    shown["cell"] = shown["success"].map("{:.2f}".format)
    own = shown[shown["setting"] == "table"].copy()
    own["cell"] += own["paper"].map(" ({})".format)
    lines = ["Table 8: fraction of runs that learn the teacher (the paper's)", _wide(own)]
    first = own.iloc[0]
    lines.append(
        f"{first['runs']} runs per cell, n = {first['n']:g}, w ~ {first['scale']:g} · N(0, I), "
        f"|a| = ‖w‖, rate {first['rate']:g}, {first['steps']} steps.\n"
        f"{describe_differences(own)}\n"
    )
    others = shown[shown["setting"] != "table"]
    if len(others):
        steps = others["steps"].iloc[0]
        lines += [f"With other settings, {steps} steps:", _wide(others, setting=True)]
    return "\n".join(lines)


def describe_differences(table: pd.DataFrame) -> str:
    """Return a sentence with the number of cells that differ from the paper's."""
    own = table[table["setting"] == "table"]
    count = int((own["success"] != own["paper"]).sum())
    return f"{count} of its {len(own)} cells differ from the paper's."


def sign_names(a: Iterable[float], w: Iterable[float]) -> list[str]:
    """Return the sign cases as texts."""
    return [SIGNS[2 * (y < 0) + (x < 0)] for x, y in zip(a, w, strict=True)]


def _wide(shown: pd.DataFrame, setting: bool = False) -> str:
    """Return the cells as text with one column per sign case."""
    shown = shown.assign(
        d=shown["d"].map(str),
        betas=[_betas(a, w) for a, w in zip(shown["beta_a"], shown["beta_w"], strict=True)],
    )
    keys = [*(["setting"] if setting else []), "method", "d", "betas"]
    wide = shown.pivot_table("cell", keys, "signs", aggfunc="first", sort=False).reset_index()
    wide = wide[[*keys, *SIGNS]].rename(columns={"betas": "β₁, β₂"})
    for key in wide.columns[: len(keys)]:
        wide[key] = wide[key].str.ljust(wide[key].str.len().max())
    return wide.to_string(index=False, justify="left")


def _betas(outer: float, inner: float) -> str:
    return "" if pd.isna(outer) else f"{outer:g}, {inner:g}"


def table2_settings(
    runs: int = 100, rates: tuple[float, ...] = (0.001, 0.01)
) -> dict[tuple[float, str], Setting]:
    """Return settings by rate and method: T = 200, a < 0, and w₁ of random sign."""
    methods = {"GF": None, "Sign-In GF": (1.0, 1.0)}
    return {
        (rate, method): Setting(
            betas=betas, rate=rate, steps=round(200 / rate), runs=runs, cases=((-1, 0),)
        )
        for rate in rates
        for method, betas in methods.items()
    }


def table2(results: Results, settings: Mapping[tuple[float, str], Setting]) -> pd.DataFrame:
    """Return one row per cell: the paper's sign recoveries, ours, and learned runs, in percent."""
    rows = []
    for (rate, method), setting in settings.items():
        (rates,) = results[setting]
        rows.append(
            {"eta": rate, "method": method, "paper": 0.0 if method == "GF" else 100.0}
            | {"recovered": 100 * rates.positive, "learned": 100 * rates.learned}
            | setting.columns()
        )
    return pd.DataFrame(rows)


def table2_text(table: pd.DataFrame) -> str:
    shown = table[["eta", "method", "paper", "recovered", "learned"]].copy()
    shown["method"] = shown["method"].str.ljust(shown["method"].str.len().max())
    first = table.iloc[0]
    return (
        "Table 2: runs with a < 0 that end with a > 0, and with a final loss below 0.001, in %\n"
        f"{shown.to_string(index=False, justify='left')}\n"
        f"{first['runs']} runs per cell, d = {first['d']}, n = {first['n']:g}, "
        f"w ~ {first['scale']:g} · N(0, I), |a| = ‖w‖, β = 1, T = 200."
    )
