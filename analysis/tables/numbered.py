"""The paper's tables from anybody's runs, with its own values beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.statistics import check_alike, summarise
from analysis.tables.comparison import TIED, mean_text
from analysis.tables.sheets import Sheet
from baselines.errors import unknown

PAPER = Path(__file__).parent / "paper"
LEARNERS = {"acdc": "AC/DC", "rigl": "RiGL", "str": "STR"}
NAMES = {
    **LEARNERS,
    "snip": "SNIP",
    "synflow": "SynFlow",
    "random": "Random",
    "mw": "Random + m ⊙ w",
}
EARLY = (0.1, 0.3)  # the paper's epochs 10 and 30 of 100
MISSING = "missing"
_PLACE = ("row", "column")

Run = dict[str, Any]
Place = tuple[str, str] | None  # row and column; None for a run that is no part of the table


def _by_sparsity(*methods: str) -> Callable[[Run], Place]:
    def place(run: Run) -> Place:
        if run["label"] not in methods:
            return None
        suffix = " + Sign-In" if run["sign_in"] else ""
        return NAMES[run["label"]] + suffix, f"s = {run['sparsity']:g}"

    return place


def _signs(run: Run) -> Place:
    """Table 1: learned masks with what else was learned."""
    if run["sign_in"]:
        return None
    if run["learner"]:
        return "Baseline", name_of(run["label"])
    if not _takes_mask(run):
        return None
    signs, sizes, column = run["signs.at"], run["magnitudes.at"], name_of(run["mask.label"])
    if signs == sizes == "random":
        return "Random init + learned mask", column
    if "random" not in (signs, sizes):
        return None
    at, word = (sizes, "mag") if signs == "random" else (signs, "sign")
    stages = {_epoch(run, part): f"Epoch {100 * part:.0f}" for part in EARLY[::-1]}
    stage = {**stages, "final": "Final"}.get(at)
    return (f"{stage} {word} + learned mask", column) if stage else None


def _masks(run: Run) -> Place:
    """Table 10: masks of all kinds, initialised at random."""
    column = "Random + Sign-In" if run["sign_in"] else "Random"
    if run["label"] in ("snip", "synflow", "random"):
        return NAMES[run["label"]], column
    if _takes_mask(run) and run["signs.at"] == run["magnitudes.at"] == "random":
        return name_of(run["mask.label"]), column
    return None


def _takes_mask(run: Run) -> bool:
    """Whether it trains another run's final mask, and nothing out of the ordinary."""
    return (
        run["method"] == "fixed"
        and bool(run["mask.label"])
        and run["mask.at"] == "final"
        and not run["options.others"]
        and not run["options.flip_signs"]
        and run["options.magnitude_kind"] == "each"
    )


def _epoch(run: Run, part: float) -> str:
    return str(max(1, round(part * run["settings.epochs"])))


def name_of(label: str) -> str:
    """A method as the paper writes it."""
    return NAMES.get(label, label)


@dataclass(frozen=True)
class Layout:
    """One of the paper's tables.

    Attributes:
        place: for a run, its row and column.
        column: the field that may differ besides, for rows or columns tell it.
    """

    title: str
    place: Callable[[Run], Place]
    column: str = "sparsity"


LAYOUTS = {
    "1": Layout("learned masks with learned signs or magnitudes", _signs, "label"),
    "3": Layout("random masks with Sign-In", _by_sparsity("random")),
    "4": Layout("DeiT Small, half sparse", _by_sparsity("random")),
    "5": Layout("AC/DC with Sign-In", _by_sparsity("acdc")),
    "9": Layout(
        "pruning at initialisation with Sign-In", _by_sparsity("random", "snip", "synflow")
    ),
    "10": Layout("masks of all kinds, initialised at random", _masks, "label"),
    "11": Layout("what rescaling is worth", _by_sparsity("random", "mw")),
}


def paper_values(number: str) -> pd.DataFrame:
    """The paper's own: recipe, row, column, accuracy, std, runs (1 where it says so).

    As printed. The plain rows of Table 3 differ from those of Tables 9 and 11 (88.25 and 88.41 on
    CIFAR10 at 0.8), and Table 5 prints 74.74 in bold, which is less than 74.75.

    Raises:
        UserError: no such table.
    """
    if number not in LAYOUTS:
        raise unknown("table", number, [*LAYOUTS, "compare"])
    return pd.read_csv(PAPER / f"table{number}.csv")


def cells(runs: pd.DataFrame, number: str) -> pd.DataFrame:
    """One of the paper's tables, a row a cell.

    Args:
        runs: from `analysis.frame.load_runs`.

    Returns:
        recipe, row, column; accuracy, std, runs, best, tied as `analysis.statistics.compare` has
        them, NaN in accuracy where no run has finished; failed, runs that did not; paper,
        paper_std, paper_runs; paper_recipe, whose values these are. Recipes of the paper that
        no run is of are left out, unless there is no run at all; those that it does not have are
        beside its first one.

    Raises:
        UserError: no such table, or runs of one recipe that cannot be compared.
    """
    values = paper_values(number)
    own = list(dict.fromkeys(values["recipe"]))
    placed = _placed(runs, LAYOUTS[number])
    recipes = sorted(set(placed["recipe"])) if len(placed) else own
    parts = []
    for recipe in sorted(recipes, key=lambda r: own.index(r) if r in own else len(own)):
        paper_recipe = recipe if recipe in own else own[0]
        theirs = values[values["recipe"] == paper_recipe].set_index(["row", "column"])
        theirs = theirs.drop(columns="recipe").rename(
            columns={"accuracy": "paper", "std": "paper_std", "runs": "paper_runs"}
        )
        part = _ours(placed[placed["recipe"] == recipe]).join(theirs, how="outer")
        order = [*theirs.index, *(key for key in part.index if key not in theirs.index)]
        part = part.reindex(order).reset_index(names=["row", "column"])
        parts.append(part.assign(recipe=recipe, paper_recipe=paper_recipe))
    table = pd.concat(parts, ignore_index=True)
    table[["best", "tied"]] = table[["best", "tied"]].fillna(False).astype(bool)
    table[["runs", "failed"]] = table[["runs", "failed"]].fillna(0).astype(int)
    return table[["recipe", *_PLACE, *[c for c in table if c not in ("recipe", *_PLACE)]]]


def _placed(runs: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The runs that belong to a table, with columns row and column."""
    masks_of = set(runs["mask.label"].dropna()) if "mask.label" in runs else set()
    learners = {*LEARNERS, *masks_of} - {""}
    found = []
    run: Run
    for run in runs.to_dict("records"):  # type: ignore[assignment]
        place = layout.place({**run, "learner": run["label"] in learners})
        if place is not None:
            found.append({**run, "row": place[0], "column": place[1]})
    placed = pd.DataFrame(found, columns=None if found else [*runs.columns, *_PLACE])
    if len(placed):
        check_alike(placed, ["label", "sign_in", layout.column])
    return placed


def _ours(placed: pd.DataFrame) -> pd.DataFrame:
    """Cells by row and column."""
    by, columns = ["row", "column"], ["accuracy", "std", "runs", "failed", "best", "tied"]
    if not len(placed):
        return pd.DataFrame(columns=columns, index=pd.MultiIndex.from_arrays([[], []], names=by))
    placed = placed.sort_values("folder").drop_duplicates([*by, "seed", "state", "label"])
    done = placed[placed["state"] == "finished"]
    table = pd.DataFrame({"failed": placed[placed["state"] == "failed"].groupby(by).size()})
    if len(done):
        table = table.join(summarise(done, by, within=["column"]), how="outer")
    return table.reindex(columns=columns)


def numbered(runs: pd.DataFrame, number: str, paper: bool = True) -> list[Sheet]:
    """One of the paper's tables, a sheet a recipe. Arguments and errors as of `cells`.

    Args:
        paper: with the paper's own values in brackets.
    """
    table = cells(runs, number)
    return [
        _sheet(part, runs, str(recipe), number, paper)
        for recipe, part in table.groupby("recipe", sort=False)
    ]


def _sheet(part: pd.DataFrame, runs: pd.DataFrame, recipe: str, number: str, paper: bool) -> Sheet:
    records = part.to_dict("records")
    texts = [_cell(cell, paper) for cell in records]
    order = {by: list(dict.fromkeys(part[by])) for by in ("row", "column")}

    def wide(values: list[Any], fill: Any) -> pd.DataFrame:
        long = part[["row", "column"]].assign(value=values)
        found = long.pivot(index="row", columns="column", values="value")
        return found.reindex(index=order["row"], columns=order["column"]).fillna(fill)

    shown, bold = wide(texts, ""), wide(list(part["best"]), False).astype(bool)
    shown.insert(0, recipe, shown.index)
    bold.insert(0, recipe, False)
    notes = [TIED] * bool(part["tied"].any())
    if part["failed"].any():
        notes.append("* some seeds failed, and are not in the mean")
    if paper:
        notes.append(f"in brackets: the paper's, of {part['paper_recipe'].iloc[0]}")
    if part["accuracy"].isna().any():
        notes.append(
            f"{MISSING}: signbench grid table{number} --recipe {recipe}{_epochs(runs, recipe)}"
        )
    title = f"Table {number}: {LAYOUTS[number].title}"
    return Sheet(title, shown.reset_index(drop=True), bold.reset_index(drop=True), 1, notes)


def _cell(cell: dict[Any, Any], paper: bool) -> str:
    ours = MISSING if pd.isna(cell["accuracy"]) else mean_text(cell)
    star = "*" if cell["failed"] else ""
    if not paper or pd.isna(cell["paper"]):
        return ours + star
    spread = "" if pd.isna(cell["paper_std"]) else f" ± {cell['paper_std']:.2f}"
    single = "*" if cell["paper_runs"] == 1 else ""
    return f"{ours}{star} [{cell['paper']:.2f}{spread}{single}]"


def _epochs(runs: pd.DataFrame, recipe: str) -> str:
    """The flag that makes further runs like those that there are."""
    own = set(runs[runs["recipe"] == recipe]["settings.epochs"]) if len(runs) else set[int]()
    return f" --epochs {own.pop()}" if len(own) == 1 else ""
