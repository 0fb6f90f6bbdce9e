"""The table of sign flips by layer, in the spans before and after the end T₂ of rescaling."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.alike import without_unused
from analysis.flips import ALL, SPANS, flips_in_spans
from analysis.folder import LAYERS
from analysis.frame import finished_runs, load_rows
from analysis.tables.comparison import shortened, shown
from analysis.tables.sheet import Sheet
from baselines.errors import UserError

_UNTIL = "settings.sign_in.rescale_until"
_NOTES = (
    "flips: signs that differ from those of the epoch before, per 100 weights of the final mask "
    "that have a sign after both epochs, times the epochs of a span; mean ± standard deviation "
    "over seeds",
    "warm-up: the first tenth of the epochs (AC/DC: up to the last dense one); T₂: as a fraction "
    "of the epochs, of the run's Sign-In settings, also where it is plain",
)


def flip_statistics(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return flips by the fields `by`, rule, T₂ (`until`), span and layer: flips, std and runs.

    Args:
        runs: from `analysis.frame.load_runs`. Runs without the columns are left out, and so are
            those of methods that train in levels, each of which has a T₂ of its own.
        by: columns.

    Raises:
        UserError: no run has finished, none is left, or runs of one row have several T₂.
    """
    done = finished_runs(runs)
    keys = [*by, "rule"]
    used = without_unused(done)[[*keys, "seed"]]
    parts = [
        _spans(done.loc[i]).assign(**{key: used.loc[i, key] for key in keys})
        for i in used.drop_duplicates().index
    ]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise UserError("no run has sign flips over its final mask from epoch to epoch.")
    table = pd.concat(parts, ignore_index=True)
    _check_spans(table, keys)
    table["layer"] = pd.Categorical(table["layer"], _in_order(table["layer"]))
    table["span"] = pd.Categorical(table["span"], SPANS)
    groups = table.groupby([*keys, "until", "span", "layer"], dropna=False, observed=True)["value"]
    numbers = groups.agg(flips="mean", std="std", runs="size").reset_index()
    return numbers.sort_values([*keys, "span", "layer"], na_position="first", ignore_index=True)


def _spans(run: pd.Series) -> pd.DataFrame:
    epochs, until = run["settings.epochs"], run.get(_UNTIL, float("nan"))
    layers = load_rows(run["folder"], LAYERS)
    if pd.isna(until) or run["result.epochs"] != epochs or not len(layers):
        return pd.DataFrame()
    return flips_in_spans(layers, round(until * epochs)).assign(until=until)


def _check_spans(table: pd.DataFrame, keys: Sequence[str]) -> None:
    """Raise UserError if the spans of the runs of a row end at several T₂.

    The settings of a plain run are those of its first start, since its name contains none of
    Sign-In.
    """
    for _, row in table.groupby(list(keys), dropna=False):
        if row["until"].nunique() > 1:
            found = ", ".join(f"{until:g}" for until in sorted(row["until"].unique()))
            raise UserError(
                f"runs of one row differ in T₂ (rescale_until {found}): choose with "
                f"--where rescale_until={row['until'].mode()[0]:g}."
            )


def _in_order(layers: pd.Series[str]) -> list[str]:
    """Return the names in the order of the network, and `ALL` last."""
    return [*(name for name in dict.fromkeys(layers) if name != ALL), ALL]


def flip_sheets(table: pd.DataFrame, by: Sequence[str]) -> list[Sheet]:
    """Return a sheet for each span, with one column per layer."""
    cells = pd.DataFrame({shortened(name): shown(table, name) for name in by if name != _UNTIL})
    cells["T₂"] = shown(table, "until")
    cells[""] = table["rule"]
    names = list(cells.columns)
    texts = [_text(flips, std) for flips, std in zip(table["flips"], table["std"], strict=True)]
    cells = cells.assign(text=texts, layer=table["layer"], span=table["span"])
    sheets = []
    for span, rows in cells.groupby("span", observed=True):
        index = pd.MultiIndex.from_frame(rows[names].drop_duplicates())
        wide = rows.pivot(index=names, columns="layer", values="text").reindex(index).fillna("")
        wide.columns = [str(layer).removesuffix(".weight") for layer in wide.columns]
        wide = wide.reset_index()
        plain = pd.DataFrame(False, index=wide.index, columns=wide.columns)
        sheets.append(Sheet(f"Sign flips by layer, {span}", wide, plain, len(names)))
    sheets[-1].notes = _NOTES
    return sheets


def _text(flips: float, std: float) -> str:
    return f"{flips:.1f}" if pd.isna(std) else f"{flips:.1f} ± {std:.1f}"
