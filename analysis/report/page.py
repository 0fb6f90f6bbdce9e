"""One page about all runs in a folder, self-contained: nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.drawn import FIGURES
from analysis.figures.style import save
from analysis.tables.comparison import comparison
from analysis.tables.numbered import LAYOUTS, cells, numbered
from analysis.tables.sheets import Sheet, to_html
from baselines.errors import UserError

TEMPLATE = Path(__file__).parent / "report.html"


@dataclass
class Section:
    """Of one recipe.

    Attributes:
        tables: as HTML.
        figures: title, and the picture as a data URL.
        notes: what could not be shown, and why.
    """

    title: str
    about: str
    tables: list[str] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def page(runs: pd.DataFrame) -> str:
    """The report as HTML.

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
    """What was run, on what, and for how long."""

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
        "training time": f"{seconds / 3600:.2f} hours in all",
        "devices": distinct("result.device"),
        "hosts": distinct("host"),
        "revision": distinct("git") + (" (some with uncommitted changes)" if dirty else ""),
        "versions": "; ".join(f"{str(c).rpartition('.')[2]} {distinct(str(c))}" for c in versions),
    }


def _section(recipe: str, runs: pd.DataFrame) -> Section:
    section = Section(recipe, _settings(runs))
    for sheets in _tables(runs, section.notes):
        section.tables += [to_html(sheet) for sheet in sheets]
    for name, draw in FIGURES.items():
        title = f"Figure {name}" if name.isdigit() else name.capitalize()
        for suffix, part in [("", runs)] if name == "compare" else _by_sparsity(runs):
            try:
                url = _as_url(draw, part)
                section.figures.append((f"{title}: {_first_line(draw)}{suffix}", url))
            except UserError as error:
                section.notes.append(f"{title}{suffix}: {error}")
    return section


def _by_sparsity(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """What to add to titles, and the runs of each sparsity with the dense ones."""
    dense = runs["sparsity"] == 0
    values = sorted(set(runs[~dense]["sparsity"]))
    if len(values) < 2:
        return [("", runs)]
    return [(f", sparsity {s:g}", runs[dense | (runs["sparsity"] == s)]) for s in values]


def _tables(runs: pd.DataFrame, notes: list[str]) -> Iterator[list[Sheet]]:
    """The comparison, and the paper's tables that some run is part of."""
    try:
        yield comparison(runs)
    except UserError as error:
        notes.append(f"Comparison: {error}")
    for number, layout in LAYOUTS.items():
        for suffix, part in [("", runs)] if layout.column == "sparsity" else _by_sparsity(runs):
            try:
                if cells(part, number)["runs"].any():
                    yield [replace(s, title=s.title + suffix) for s in numbered(part, number)]
            except UserError as error:
                notes.append(f"Table {number}{suffix}: {error}")


def _settings(runs: pd.DataFrame) -> str:
    """Model, data and length, as far as they agree."""
    names = ("model", "data", "epochs", "batch_size", "optimizer", "lr", "weight_decay")
    parts = []
    for name in names:
        values = sorted(map(str, runs[f"settings.{name}"].dropna().unique()))
        parts.append(f"{name.replace('_', ' ')} {' or '.join(values)}")
    return ", ".join(parts)


def _all_runs(runs: pd.DataFrame) -> Sheet:
    """A row a run, failed ones first."""
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


def _as_url(draw: Callable[[pd.DataFrame], Any], runs: pd.DataFrame) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        save(draw(runs), path)
        return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").split("\n")[0].rstrip(".")
