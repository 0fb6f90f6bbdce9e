"""Comparison tables, as text for a terminal, CSV and LaTeX."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

_GROUP = ["recipe", "sparsity", "label", "sign_in"]
_BOLD, _PLAIN = "\033[1m", "\033[0m"


def compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by recipe, requested sparsity, method and Sign-In.

    Args:
        runs: from `analysis.runs.load_runs`.

    Returns:
        A row a combination: mean and sample standard deviation of the accuracy over seeds (in
        percent), number of runs, mean realised sparsity over the prunable and over all Conv and
        Linear weights, what Sign-In gains over the plain runs of the same seeds (mean and sample
        standard deviation of the differences), and whether it is the best of its recipe and
        sparsity.
    """
    table = (
        runs.groupby(_GROUP, sort=True)
        .agg(
            accuracy=("result.accuracy", "mean"),
            std=("result.accuracy", "std"),
            runs=("result.accuracy", "size"),
            realised=("result.sparsity", "mean"),
            realised_all=("result.sparsity_all", "mean"),
            seconds=("result.seconds", "mean"),
        )
        .reset_index()
    )
    table[["accuracy", "std"]] *= 100
    table = table.merge(_gains(runs), how="left", on=_GROUP)
    best = table.groupby(["recipe", "sparsity"])["accuracy"].transform("max")
    table["best"] = table["accuracy"] == best
    return table


def _gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation, over seeds, of accuracy with Sign-In minus without, in points.

    Seeds give both runs the same initialisation, mask and data, so that what differs between
    seeds does not hide the difference between the runs.
    """
    pairs = runs.pivot_table("result.accuracy", [*_GROUP[:3], "seed"], "sign_in")
    if not {True, False} <= set(pairs.columns):
        return pd.DataFrame(columns=[*_GROUP, "gain", "gain_std"]).astype(runs[_GROUP].dtypes)
    difference = 100 * (pairs[True] - pairs[False])
    by_method = difference.dropna().groupby(level=_GROUP[:3])
    gains = by_method.agg(gain="mean", gain_std="std").reset_index()
    return gains.assign(sign_in=True)


def to_text(table: pd.DataFrame, colour: bool) -> str:
    """For a terminal: the best in bold where it knows colours, starred where not."""
    shown = _shown(table)
    for column in ("recipe", "method", ""):
        shown[column] = shown[column].str.ljust(shown[column].str.len().max())
    lines = shown.to_string(index=False, justify="left").split("\n")
    for i, best in enumerate(table["best"], start=1):
        if best:
            lines[i] = f"{_BOLD}{lines[i]}{_PLAIN}" if colour else f"{lines[i]} *"
    return "\n".join(lines)


def to_latex(table: pd.DataFrame) -> str:
    """A booktabs table, the best in bold."""
    shown = _shown(table)
    style = shown.style.hide(axis="index").format(escape="latex")

    def bold(_: pd.Series[str]) -> list[str]:
        return ["font-weight: bold" if best else "" for best in table["best"]]

    style = style.apply(bold, subset=["accuracy"])
    text: str = style.to_latex(hrules=True, convert_css=True, column_format="lllrrrr")
    return text.replace("±", r"$\pm$")


def write(table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Writes NAME.csv and NAME.tex. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    csv, tex = folder / f"{name}.csv", folder / f"{name}.tex"
    table.to_csv(csv, index=False, float_format="%.6g")
    tex.write_text(to_latex(table))
    return [csv, tex]


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it, every cell a text."""
    std, gain_std = (
        table[column].map(lambda s: "" if pd.isna(s) else f" ± {s:.2f}")
        for column in ("std", "gain_std")
    )
    gain = table["gain"].map(lambda g: "" if pd.isna(g) else f"{g:+.2f}")
    return pd.DataFrame(
        {
            "recipe": table["recipe"],
            "method": table["label"],
            "": table["sign_in"].map({True: "Sign-In", False: ""}),
            "accuracy": table["accuracy"].map("{:.2f}".format) + std,
            "gain": gain + gain_std,
            "sparsity": table["realised"].map("{:.4f}".format),
            "runs": table["runs"].map(str),
        }
    )
