"""The report as an HTML page. It is self-contained: a browser loads nothing from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from analysis.frame import LEFT_OUT, ended_runs, rows_kept
from analysis.protocol import Protocol, protocols
from analysis.report.pictures import Picture, draw_picture
from analysis.report.results import results_sheet
from analysis.tables import Command, Sheet, is_of_one_sparsity, make_table
from analysis.tables.paper import LAYOUTS, paper_values
from analysis.tables.sheet import to_html
from baselines.errors import UserError

TEMPLATE = Path(__file__).parent / "report.html"
Missing = Callable[[Protocol], Command]
_OF_ONE_SPARSITY = ("curves", "1", "5", "8", "9")  # names of figures


@dataclass
class Part:
    """The content below one heading.

    Attributes:
        blocks: pictures, and tables as HTML texts.
        notes: what is not shown in a figure, or was not measured.
        refused: titles of what cannot be shown, by reason.
    """

    title: str
    blocks: list[Picture | str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def remarks(self) -> list[str]:
        """The notes, and one line for each reason why something cannot be shown."""
        return self.notes + [f"{', '.join(what)}: {why}" for why, what in self.refused.items()]

    def refuse(self, title: str, reason: UserError) -> None:
        """Add a note why something cannot be shown."""
        self.refused.setdefault(str(reason), []).append(title)

    def draw(self, name: str, runs: pd.DataFrame) -> None:
        """Add a figure, or a note why it cannot be drawn."""
        try:
            picture, notes = draw_picture(name, runs)
            self.blocks.append(picture)
            self.notes += notes
        except UserError as error:
            title = f"Figure {name}" if name.isdigit() else name.capitalize()
            self.refuse(title, error)


@dataclass
class Section:
    """The runs of one recipe, and the settings that they share."""

    title: str
    about: str
    parts: list[Part]


def render_page(runs: pd.DataFrame, missing: Missing | None = None) -> str:
    """Return the report as HTML.

    Args:
        runs: from `analysis.frame.load_runs`.
        missing: returns, for a protocol, the `command` of `make_table`.
    """
    from jinja2 import Environment

    done = runs["state"].eq("finished")
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text())
    with rows_kept():
        sections = [
            _section(str(recipe), part, missing)
            for recipe, part in runs.groupby("recipe")
            if part["state"].eq("finished").any()
        ]
    return template.render(
        summary=_summary(runs),
        sections=sections,
        unfinished=to_html(_unfinished_runs(runs[~done])) if (~done).any() else "",
        facts=_facts(runs),
        runs=to_html(_finished_runs(runs[done])),
    )


def _summary(runs: pd.DataFrame) -> str:
    states = runs["state"].value_counts()
    return ", ".join(f"{n} {state}" for state, n in states.items())


def _facts(runs: pd.DataFrame) -> dict[str, str]:
    """Return what was run, where, and the total time."""

    def distinct(column: str) -> str:
        found = set(runs[column].dropna().astype(str)) if column in runs else set[str]()
        return ", ".join(sorted(found)) or "unknown"

    seconds = runs["result.seconds"].sum() if "result.seconds" in runs else 0.0
    dirty = runs["git_dirty"].eq(True).any()
    versions = [c for c in runs if str(c).startswith("versions.")]
    left_out = runs.attrs.get(LEFT_OUT, [])
    return {
        **({"left out": "; ".join(left_out)} if left_out else {}),
        "recipes": distinct("recipe"),
        "methods": distinct("method"),
        "seeds": distinct("seed"),
        "training time": f"{seconds / 3600:.2f} hours in total",
        "devices": distinct("result.device"),
        "hosts": distinct("host"),
        "revision": distinct("git") + (" (some with uncommitted changes)" if dirty else ""),
        "versions": "; ".join(f"{str(c).rpartition('.')[2]} {distinct(str(c))}" for c in versions),
    }


def _section(recipe: str, runs: pd.DataFrame, missing: Missing | None) -> Section:
    parts = [_results(runs), _paper_tables(recipe, runs, missing)]
    for suffix, own in _by_sparsity(runs):
        part = Part(f"Training and masks{suffix}")
        for name in _OF_ONE_SPARSITY:
            part.draw(name, own)
        parts.append(part)
    return Section(recipe, _shared_settings(runs), [p for p in parts if p.blocks or p.remarks])


def _results(runs: pd.DataFrame) -> Part:
    part = Part("Results")
    part.draw("ranking", runs)
    try:
        part.blocks.append(to_html(results_sheet(runs)))
    except UserError as error:
        part.refuse("Table", error)
    if runs["rule"].nunique() > 1:
        part.draw("gains", runs)
    if len(_by_sparsity(runs)) > 1:
        part.draw("compare", runs)
        part.draw("ranks", runs)
    return part


def _paper_tables(recipe: str, runs: pd.DataFrame, missing: Missing | None) -> Part:
    """Return the paper's tables that have this recipe or are complete."""
    part = Part("Tables of the paper")
    for name in (n for n, layout in LAYOUTS.items() if layout.rule in set(runs["rule"])):
        parts = _by_sparsity(runs) if is_of_one_sparsity(name) else [("", runs)]
        for (suffix, own), protocol in itertools.product(parts, protocols(runs, name)):
            command = missing(protocol) if missing else None
            try:
                table = make_table(name, own, protocol=protocol, command=command)
            except UserError as error:
                part.refuse(f"Table {name}{suffix}", error)
                continue
            of_paper = recipe in set(paper_values(name)["recipe"])
            if table.numbers["runs"].all() or (of_paper and table.numbers["runs"].any()):
                sheets = (replace(s, title=s.title + suffix) for s in table.sheets)
                part.blocks += map(to_html, sheets)
    return part


def _by_sparsity(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return pairs of a suffix for titles and the runs of one sparsity, dense runs included."""
    dense = runs["sparsity"] == 0
    values = sorted(set(runs[~dense]["sparsity"]))
    if len(values) < 2:
        return [("", runs)]
    return [(f", sparsity {s:g}", runs[dense | (runs["sparsity"] == s)]) for s in values]


def _shared_settings(runs: pd.DataFrame) -> str:
    """Return the main settings of the runs that have ended in one line."""
    runs = ended_runs(runs)
    names = ("model", "data", "epochs", "batch_size", "optimizer", "lr", "weight_decay")
    parts = []
    for name in names:
        values = sorted(runs[f"settings.{name}"].dropna().unique())
        texts = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        parts.append(f"{name.replace('_', ' ')} {' or '.join(texts)}")
    return ", ".join(parts)


def _unfinished_runs(runs: pd.DataFrame) -> Sheet:
    """Return one row per run that has no result, with the reason."""
    names = [Path(folder).name for folder in runs["folder"]]
    cells = {"run": names, "state": list(runs["state"]), "reason": list(runs["reason"])}
    title = f"{len(runs)} runs without a result"
    return _plain_sheet(title, pd.DataFrame(cells).sort_values(["state", "run"]), 3)


def _finished_runs(runs: pd.DataFrame) -> Sheet:
    """Return one row per finished run."""

    def shown(column: str, form: Callable[[float], str]) -> list[str]:
        values = runs[column] if column in runs else [None] * len(runs)
        return ["" if pd.isna(value) else form(value) for value in values]

    cells = {
        "run": [Path(folder).name for folder in runs["folder"]],
        "accuracy": shown("result.accuracy", lambda v: f"{100 * v:.2f}"),
        "sparsity": shown("result.sparsity", "{:.4f}".format),
        "seconds": shown("result.seconds", "{:.1f}".format),
    }
    return _plain_sheet(f"All {len(runs)} finished runs", pd.DataFrame(cells), 1)


def _plain_sheet(title: str, cells: pd.DataFrame, labels: int) -> Sheet:
    cells = cells.reset_index(drop=True)
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Sheet(title, cells, bold, labels)
