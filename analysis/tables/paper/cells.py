"""The paper's tables made of any runs, with the paper's own values next to ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.alike import differing_fields
from analysis.checked import FileError
from analysis.decay import decay_notes
from analysis.folder import LAYERS
from analysis.frame import ended_runs, load_rows, one_per_seed
from analysis.names import LEARNERS, network_name
from analysis.protocol import Protocol, protocol_note
from analysis.statistics import accuracy_statistics, check_alike
from analysis.tables.comparison import mark_notes, mean_text
from analysis.tables.paper.layouts import LAYOUTS, Layout, RunRow, at_budget
from analysis.tables.sheet import Sheet
from baselines.errors import UserError, unknown

VALUES = Path(__file__).parent  # the folder of table*.csv
MISSING = "missing"
#: Columns of layers.csv that count kept weights for which a source of a transplant has a zero.
LOST = {
    "drawn_signs": "with a sign drawn at random",
    "zero_magnitudes": "of magnitude zero",
}
_PLACE = ["row", "column"]

Command = Callable[[str, str, Sequence[Path]], str]
"""Returns the command line that trains a table's cells, given its number, a recipe, and the folders
of the runs that the table has of it."""


def paper_values(number: str) -> pd.DataFrame:
    """Return the published values: recipe, row, column, accuracy, std, runs (1 if stated).

    The values are as printed. The plain rows of Table 3 differ from those of Tables 9 and 11 (88.25
    and 88.41 on CIFAR10 at 0.8), and Table 5 prints 74.74 in bold, which is less than 74.75.

    Raises:
        UserError: there is no such table.
    """
    if number not in LAYOUTS:
        raise unknown("table", number, LAYOUTS)
    return pd.read_csv(VALUES / f"table{number}.csv")


def paper_cells(runs: pd.DataFrame, number: str, chosen: Sequence[str] = ()) -> pd.DataFrame:
    """Return one of the paper's tables, one row per cell.

    Args:
        runs: from `analysis.frame.load_runs`.
        number: number of the table.
        chosen: columns of fields whose value was chosen for each cell (`analysis.selection`).

    Returns:
        recipe, row, column: the cell
        network: model and data of the runs; empty if there are none
        decays: how weight decays differ with Sign-In; empty if they do not
        accuracy, std, runs, failed, misses, realised, best, tied: as in
            `analysis.statistics.aggregate`; accuracy is NaN if no run has finished
        drawn_signs, zero_magnitudes: of transplants, the share of the kept weights whose sign was
            drawn, and that of those whose magnitude is zero, because their source has a zero
        paper, paper_std, paper_runs: the paper's values
        paper_recipe: the recipe of the paper's values; the first of the table for recipes that
            the paper does not have

        Recipes of the paper without runs are left out, unless there are no runs at all. Runs that
        have neither finished nor failed are not counted.

    Raises:
        UserError: there is no such table, or the runs of no recipe can be compared. If those of
            some can, the others are left out with a warning.
    """
    values = paper_values(number)
    own = list(dict.fromkeys(values["recipe"]))
    alike = [*_alike(LAYOUTS[number]), *chosen]
    placed = _place_runs(runs, LAYOUTS[number])
    ended = placed[placed["state"].isin(("finished", "failed"))]
    shown = _comparable(ended, alike)
    recipes = set(placed["recipe"]) - (set(ended["recipe"]) - set(shown["recipe"]))
    parts = []
    for recipe in sorted(recipes or own, key=lambda r: (own.index(r) if r in own else len(own), r)):
        paper_recipe = recipe if recipe in own else own[0]
        theirs = values[values["recipe"] == paper_recipe].set_index(["row", "column"])
        theirs = theirs.drop(columns="recipe").rename(
            columns={"accuracy": "paper", "std": "paper_std", "runs": "paper_runs"}
        )
        ours = shown[shown["recipe"] == recipe]
        part = _statistics(ours).join(theirs, how="outer")
        order = [*theirs.index, *(key for key in part.index if key not in theirs.index)]
        part = part.reindex(order).reset_index(names=["row", "column"])
        if "mask.epochs" in ours:
            known = ours.dropna(subset=["mask.epochs"])
            budgets = set(zip(known["mask.epochs"].astype(int), known["mask.early"], strict=True))
            part["row"] = [at_budget(row, budgets) for row in part["row"]]
            part = part.drop_duplicates(_PLACE)  # of few epochs, both early ones are the first
        about = {"recipe": recipe, "paper_recipe": paper_recipe, "network": _network(ours)}
        about["decays"] = "".join(decay_notes(ours))
        parts.append(part.assign(**about))
    table = pd.concat(parts, ignore_index=True)
    for mark in ("misses", "best", "tied"):
        table[mark] = table[mark].eq(True)
    table[["runs", "failed"]] = table[["runs", "failed"]].fillna(0).astype(int)
    first = ["recipe", "network", "decays", *_PLACE]
    return table[[*first, *[c for c in table if c not in first]]]


def _network(runs: pd.DataFrame) -> str:
    """Return the model and data of runs: "ResNet20 on CIFAR-10"."""
    parts = [
        " or ".join(sorted(network_name(str(v)) for v in runs[column].dropna().unique()))
        for column in ("settings.model", "settings.data")
        if column in runs and len(runs)
    ]
    return " on ".join(part for part in parts if part)


def fits_layout(runs: pd.DataFrame, number: str) -> bool:
    """Return whether one of the paper's tables can show runs, all that have ended.

    It has a place for each run, apart from those whose masks others train, and the runs differ in
    nothing else.
    """
    layout, ended = LAYOUTS[number], ended_runs(runs)
    placed = _place_runs(ended, layout)
    others = ended[~ended["folder"].isin(placed["folder"])]
    alike = not differing_fields(placed, _alike(layout))
    return len(placed) > 0 and alike and bool(others["label"].isin(_learners(ended)).all())


def _alike(layout: Layout) -> list[str]:
    """Return the columns in which the runs of a table and recipe may differ."""
    return ["label", "rule", layout.column]


def _learners(runs: pd.DataFrame) -> set[str]:
    """Return the labels of methods that learn masks: the paper's, and those that others train."""
    masks_of = set(runs["mask.label"].dropna()) if "mask.label" in runs else set()
    return {*LEARNERS, *masks_of} - {""}


def _place_runs(runs: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Return the runs that belong to a table, with columns row and column."""
    learners, found = _learners(runs), []
    run: RunRow
    for run in runs.to_dict("records"):  # type: ignore[assignment]
        place = layout.place({**run, "learner": run["label"] in learners})
        if place is not None:
            found.append({**run, "row": place[0], "column": place[1]})
    return pd.DataFrame(found, columns=None if found else [*runs.columns, *_PLACE])


def _comparable(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the runs of the recipes that can be compared, with a warning for each other recipe.

    Raises:
        UserError: no recipe can be compared.
    """
    if not len(runs):
        return runs
    errors: dict[str, UserError] = {}
    for recipe, group in runs.groupby("recipe"):
        try:
            check_alike(group, by)
        except UserError as error:
            errors[str(recipe)] = error
    if len(errors) == runs["recipe"].nunique():
        raise next(iter(errors.values()))
    for problem in errors.values():
        warnings.warn(f"left out: {problem}", stacklevel=2)
    return runs[~runs["recipe"].isin(errors)]


def _statistics(placed: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that have runs, by row and column."""
    by, columns = ["row", "column"], ["accuracy", "std", "runs", "failed"]
    columns += ["misses", "realised", "best", "tied", *LOST]
    if not len(placed):
        index = pd.MultiIndex.from_arrays([[], []], names=by)
        return pd.DataFrame(columns=columns, index=index, dtype=float)
    placed = one_per_seed(placed, by)  # also of two labels
    done = placed[placed["state"] == "finished"]
    table = pd.DataFrame({"failed": placed[placed["state"] == "failed"].groupby(by).size()})
    if len(done):
        table = table.join(accuracy_statistics(done, by, within=["column"]), how="outer")
        table = table.join(_lost(done).groupby(by).mean())
    return table.reindex(columns=columns)


def _lost(done: pd.DataFrame) -> pd.DataFrame:
    """Return, for each transplant, the shares of its kept weights that a source has no value of."""
    rows = []
    for _, run in done[done["method"] == "fixed"].iterrows():
        try:
            layers = load_rows(run["folder"], LAYERS)
        except FileError as error:
            warnings.warn(f"not counted in the notes on kept weights: {error}", stacklevel=2)
            continue
        shares = {
            part: layers[part].sum() / layers["active"].sum() for part in LOST if part in layers
        }
        rows.append({"row": run["row"], "column": run["column"], **shares})
    return pd.DataFrame(rows, columns=["row", "column", *LOST])


def _lost_notes(part: pd.DataFrame) -> list[str]:
    """Return a line for each part that sources of transplants lack, with the shares by cell."""
    notes = []
    for name, what in LOST.items():
        cells = part[part[name] > 0]
        shares = zip(cells["column"], cells["row"], cells[name], strict=True)
        if found := "; ".join(f"{column}, {row} {share:.1%}" for column, row, share in shares):
            notes.append(f"kept weights {what}, as the source has a zero: {found}")
    return notes


def _few_seeds_notes(part: pd.DataFrame) -> list[str]:
    """Return a line that names the cells of fewer seeds than others; failed seeds count."""
    seeds = part["runs"] + part["failed"]
    few = part[(seeds > 0) & (seeds < seeds.max())]
    cells = zip(few["row"], few["column"], seeds[few.index], strict=True)
    found = "; ".join(f"{row}, {column} ({n})" for row, column, n in cells)
    return [f"fewer seeds than in other cells ({seeds.max()}): {found}"] * bool(found)


def paper_sheets(
    cells: pd.DataFrame,
    runs: pd.DataFrame,
    number: str,
    paper: bool = True,
    protocol: Protocol = "suite",
    command: Command | None = None,
) -> list[Sheet]:
    """Return one of the paper's tables, one sheet per recipe.

    Args:
        cells: from `paper_cells`, of the same runs and number.
        paper: whether to show the paper's own values, in brackets.
        protocol: that of the runs, for the notes.
        command: returns the command line that trains missing cells and seeds.
    """
    placed = _place_runs(runs, LAYOUTS[number])
    sheets = []
    for recipe, part in cells.groupby("recipe", sort=False):
        folders = list(placed[placed["recipe"] == recipe]["folder"]) if len(placed) else []
        line = command(number, str(recipe), folders) if command else ""
        sheets.append(_sheet(part, str(recipe), number, paper, protocol, line))
    return sheets


def _sheet(
    part: pd.DataFrame, recipe: str, number: str, paper: bool, protocol: Protocol, command: str
) -> Sheet:
    records = part.to_dict("records")
    texts = [_cell(cell, paper) for cell in records]
    order = {by: list(dict.fromkeys(part[by])) for by in ("row", "column")}

    def wide(values: list[Any]) -> pd.DataFrame:
        long = part[["row", "column"]].assign(value=values)
        found = long.pivot(index="row", columns="column", values="value")
        return found.reindex(index=order["row"], columns=order["column"])

    shown, bold = wide(texts).fillna(""), wide(list(part["best"])).eq(True)
    shown.insert(0, recipe, shown.index)
    bold.insert(0, recipe, False)
    notes = [*mark_notes(part), *filter(None, set(part["decays"])), *_lost_notes(part)]
    if paper:
        whose = LAYOUTS[number].values
        single = "; * of one run" if (part["paper_runs"] == 1).any() else ""
        notes.append(f"in brackets: {whose} for {part['paper_recipe'].iloc[0]}{single}")
    if protocol == "paper" or paper:
        notes += filter(None, [protocol_note(protocol, number)])
    few = _few_seeds_notes(part)
    notes += few
    if few or not (part["runs"] + part["failed"]).all():
        notes.append(f"{MISSING}: {command or f'signbench table {number} shows how to train them'}")
    network = part["network"].iloc[0]
    title = f"{LAYOUTS[number].title}{network and ', '}{network}"
    title += "" if protocol == "suite" else ", protocol of code of the paper's group"
    return Sheet(title, shown.reset_index(drop=True), bold.reset_index(drop=True), 1, notes)


def _cell(cell: dict[Any, Any], paper: bool) -> str:
    ours = mean_text(cell) or MISSING
    if not paper or pd.isna(cell["paper"]):
        return ours
    spread = "" if pd.isna(cell["paper_std"]) else f" ± {cell['paper_std']:.2f}"
    single = "*" if cell["paper_runs"] == 1 else ""
    return f"{ours} [{cell['paper']:.2f}{spread}{single}]"
