"""The paper's tables: the cell of each run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.names import HAM, PAI, PLAIN, legend_entry, name_of, with_rule

Budget = tuple[int, tuple[int, ...]]  # epochs of a run, and its early epochs
PAPER_BUDGET: Budget = (100, (10, 30))
STAGES = ("Epoch 10", "Epoch 30")

RunRow = dict[str, Any]
Place = tuple[str, str] | None  # row and column; None: the run does not belong to the table


def _by_sparsity(*methods: str) -> Callable[[RunRow], Place]:
    """Return a placement with one row per method, plain and with Sign-In or HAM."""

    def place(run: RunRow) -> Place:
        if run["label"] not in methods:
            return None
        return legend_entry(run["label"], run["rule"]), f"s = {run['sparsity']:g}"

    return place


def _signs(run: RunRow) -> Place:
    """Place a run in Table 1: learned masks with learned signs or magnitudes."""
    if run["rule"]:
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
    part, word = ("magnitudes", "mag") if signs == "random" else ("signs", "sign")
    if run[f"{part}.run"] != run["mask.run"]:  # those of another network
        return None
    early = zip(map(str, run["mask.early"]), STAGES, strict=True)
    stages = {"final": "Final", **dict([*early][::-1])}  # of few epochs, both are the first
    stage = stages.get(run[f"{part}.at"])
    return (f"{stage} {word} + learned mask", column) if stage else None


def _masks(run: RunRow) -> Place:
    """Place a run in Table 10: masks of all kinds, initialised at random."""
    column = with_rule("Random", run["rule"])
    if run["label"] in PAI:
        return name_of(run["label"]), column
    if _takes_mask(run) and run["signs.at"] == run["magnitudes.at"] == "random":
        mask = run["mask.label"]
        # methods at initialisation have a row of the runs that choose their own mask
        return f"{name_of(mask)} mask" if mask in PAI else name_of(mask), column
    return None


def _takes_mask(run: RunRow) -> bool:
    """Return whether a run trains the final mask of another run, without further options."""
    return (
        run["method"] == "fixed"
        and bool(run["mask.label"])
        and run["mask.at"] == "final"
        and not run["options.init"]  # the source of the others, too
        and not run["options.others"]
        and not run["options.flip_signs"]
        and run["options.magnitude_kind"] == "each"
    )


def at_budget(row: str, budgets: set[Budget]) -> str:
    """Return the name of a row of Table 1 for runs of other numbers of epochs than the paper's.

    "Epoch 10 sign" becomes "Epoch 1 of 10 (10 %) sign", and "10 % of the epochs sign" if the runs
    have several numbers of epochs.
    """
    for i, stage in enumerate(STAGES):
        rest = row.removeprefix(stage + " ")
        if rest != row and budgets - {PAPER_BUDGET}:
            if len(budgets) > 1:
                return f"{PAPER_BUDGET[1][i]} % of the epochs {rest}"
            ((epochs, early),) = budgets
            epoch = early[i]
            return f"Epoch {epoch} of {epochs} ({100 * epoch / epochs:.0f} %) {rest}"
    return row


@dataclass(frozen=True)
class Layout:
    """One of the paper's tables.

    Attributes:
        place: returns the row and column of a run.
        grid: the name of the grid with the table's runs.
        column: the field that runs may differ in besides method, Sign-In and HAM.
        values: the source of the values beside ours.
        rule: what the table is about; a report without such runs does not have it.
    """

    title: str
    place: Callable[[RunRow], Place]
    grid: str
    column: str = "sparsity"
    values: str = "the paper's values"
    rule: str = PLAIN


def _layout(number: str, title: str, place: Callable[[RunRow], Place], *column: str) -> Layout:
    return Layout(f"Table {number}: {title}", place, f"table{number}", *column)


LAYOUTS = {
    "1": _layout("1", "learned masks with learned signs or magnitudes", _signs, "label"),
    "3": _layout("3", "random masks with Sign-In", _by_sparsity("random")),
    "4": _layout("4", "random masks with Sign-In", _by_sparsity("random")),
    "5": _layout("5", "AC/DC with Sign-In", _by_sparsity("acdc")),
    "9": _layout("9", "pruning at initialisation with Sign-In", _by_sparsity(*PAI)),
    "10": _layout("10", "masks of all kinds, initialised at random", _masks, "label"),
    "11": _layout("11", "effect of rescaling", _by_sparsity("random", "mw")),
    "ham": Layout(
        "Sign-In and HAM",
        _by_sparsity("random", "acdc", "rigl"),
        "ham",
        values="the values of arXiv 2506.02630 (HAM) and of the paper's Tables 3 and 5",
        rule=HAM,
    ),
}
