"""The report as an HTML page. It is self-contained: a browser loads nothing from elsewhere."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from analysis.figures import FIGURES, FigureKind, save
from analysis.tables import COMPARISON, RANKS, TABLES, Sheet, is_of_one_sparsity, make_table
from analysis.tables.sheet import to_html
from baselines.errors import UserError

TEMPLATE = Path(__file__).parent / "report.html"


@dataclass
class Section:
    """The runs of one recipe.

    Attributes:
        about: settings that they share.
        tables: HTML texts.
        figures: titles, and pictures as data URLs.
        notes: one sentence for each table or figure that cannot be shown.
    """

    title: str
    about: str
    tables: list[str] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def render_page(runs: pd.DataFrame) -> str:
    """Return the report as HTML.

    Args:
        runs: from `analysis.frame.load_runs`.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(TEMPLATE.read_text())
    return template.render(
        facts=_facts(runs),
        sections=[_section(str(recipe), part) for recipe, part in runs.groupby("recipe")],
        runs=to_html(_all_runs(runs)),
    )


def _facts(runs: pd.DataFrame) -> dict[str, str]:
    """Return what was run, where, and the total time."""

    def distinct(column: str) -> str:
        found = set(runs[column].dropna().astype(str)) if column in runs else set[str]()
        return ", ".join(sorted(found)) or "unknown"

    states = runs["state"].value_counts()
    seconds = runs["result.seconds"].sum() if "result.seconds" in runs else 0.0
    dirty = runs["git_dirty"].eq(True).any()
    versions = [c for c in runs if str(c).startswith("versions.")]
    return {
        "runs": ", ".join(f"{n} {state}" for state, n in states.items()),
        "recipes": distinct("recipe"),
        "methods": distinct("method"),
        "seeds": distinct("seed"),
        "training time": f"{seconds / 3600:.2f} hours in total",
        "devices": distinct("result.device"),
        "hosts": distinct("host"),
        "revision": distinct("git") + (" (some with uncommitted changes)" if dirty else ""),
        "versions": "; ".join(f"{str(c).rpartition('.')[2]} {distinct(str(c))}" for c in versions),
    }


def _section(recipe: str, runs: pd.DataFrame) -> Section:
    section = Section(recipe, _shared_settings(runs))
    for sheet in _sheets(runs, section.notes):
        section.tables.append(to_html(sheet))
    for name, kind in FIGURES.items():
        title = f"Figure {name}" if name.isdigit() else name.capitalize()
        for suffix, part in [("", runs)] if name in ("compare", "ranks") else _by_sparsity(runs):
            try:
                url = _as_url(kind, part)
                section.figures.append((f"{title}: {kind.caption}{suffix}", url))
            except UserError as error:
                section.notes.append(f"{title}{suffix}: {error}")
    return section


def _sheets(runs: pd.DataFrame, notes: list[str]) -> Iterator[Sheet]:
    """Yield the comparison and the paper's tables that contain a run."""
    names = [name for name in TABLES if name != RANKS or runs["sparsity"].nunique() > 1]
    for name in sorted(names, key=lambda name: name != COMPARISON):
        title = "Comparison" if name == COMPARISON else f"Table {name}"
        for suffix, part in _by_sparsity(runs) if is_of_one_sparsity(name) else [("", runs)]:
            try:
                table = make_table(name, part)
                if table.numbers["runs"].any():
                    yield from (replace(s, title=s.title + suffix) for s in table.sheets)
            except UserError as error:
                notes.append(f"{title}{suffix}: {error}")


def _by_sparsity(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return pairs of a suffix for titles and the runs of one sparsity, dense runs included."""
    dense = runs["sparsity"] == 0
    values = sorted(set(runs[~dense]["sparsity"]))
    if len(values) < 2:
        return [("", runs)]
    return [(f", sparsity {s:g}", runs[dense | (runs["sparsity"] == s)]) for s in values]


def _shared_settings(runs: pd.DataFrame) -> str:
    """Return the main settings in one line."""
    names = ("model", "data", "epochs", "batch_size", "optimizer", "lr", "weight_decay")
    parts = []
    for name in names:
        values = sorted(map(str, runs[f"settings.{name}"].dropna().unique()))
        parts.append(f"{name.replace('_', ' ')} {' or '.join(values)}")
    return ", ".join(parts)


def _all_runs(runs: pd.DataFrame) -> Sheet:
    """Return one row per run, unfinished ones first."""
    ordered = runs.assign(
        done=runs["state"].eq("finished"), name=[Path(f).name for f in runs["folder"]]
    ).sort_values(["done", "name"])

    def shown(column: str, form: Callable[[float], str]) -> list[str]:
        values = ordered[column] if column in ordered else [None] * len(ordered)
        return ["" if pd.isna(value) else form(value) for value in values]

    texts = pd.DataFrame(
        {
            "run": ordered["name"],
            "state": ordered["state"],
            "reason": ordered["reason"],
            "accuracy": shown("result.accuracy", lambda v: f"{100 * v:.2f}"),
            "sparsity": shown("result.sparsity", "{:.4f}".format),
            "seconds": shown("result.seconds", "{:.1f}".format),
        }
    ).reset_index(drop=True)
    plain = pd.DataFrame(False, index=texts.index, columns=texts.columns)
    return Sheet(f"All {len(texts)} runs", texts, plain, labels=3)


def _as_url(kind: FigureKind, runs: pd.DataFrame) -> str:
    """Draw a figure. Return it as a data URL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        save(kind.draw(runs), path)
        return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
