"""Names of runs in labels: replaced by the methods of these runs, so that seeds are averaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from analysis.names import with_rule

PARTS = ("mask", "signs", "magnitudes")  # parts that a run may take from other runs
_REFERENCE = re.compile(r"([^/@(),= ]+)@(\w+)")  # RUN@EPOCH
# options of the method `fixed`, and those of their values that no label has
_TRANSPLANT = (
    "mask",
    "init",
    "signs",
    "magnitudes",
    "others",
    "key",
    "magnitude_kind",
    "flip_signs",
)
_DEFAULTS = (None, "", "each", 0.0)
SOURCE = "source."  # begins the columns of options that name runs
SOURCES = "sources"  # column of the settings of these runs
_SETTINGS = ("sparsity", "settings.model", "settings.epochs", "settings.lr", "settings.batch_size")

Row = dict[str, Any]


def name_references(rows: Iterable[Row], read: Callable[[str], Row | None]) -> None:
    """Replace the names of runs in the labels of rows, and add what `fixed` runs take from runs.

    Args:
        rows: of runs, as `analysis.frame.load_runs` describes them.
        read: returns the row of a run that is not among them, given its name; None if there is
            none.
    """
    rows = list(rows)
    sources = _Sources(rows, read)
    labels = [sources.named(row) for row in rows]
    transplants = [_parts(row, sources) if row["method"] == "fixed" else {} for row in rows]
    named = [sources.columns(row) for row in rows]
    for row, label, parts, columns in zip(rows, labels, transplants, named, strict=True):
        row |= {"label": label, **parts, **columns}


class _Sources:
    """The runs that labels may name."""

    def __init__(self, rows: Iterable[Row], read: Callable[[str], Row | None]) -> None:
        self._rows: dict[str, Row | None] = {row["folder"].name: row for row in rows}
        self._labels: dict[str, str] = {}
        self._read = read

    def find(self, name: str) -> Row | None:
        """Return the row of a run."""
        if name not in self._rows:
            self._rows[name] = self._read(name) if name else None
        return self._rows[name]

    def label(self, name: str) -> str:
        """Return the label of a run with its rule; the name itself if there is no such run."""
        if name not in self._labels:
            self._labels[name] = name  # of damaged runs that name each other
            if row := self.find(name):
                self._labels[name] = with_rule(self.named(row), row["rule"])
        return self._labels[name]

    def named(self, row: Row) -> str:
        """Return the label of a row with the methods of runs instead of their names."""
        label = str(row["label"])
        if row["method"] == "fixed":
            label = _transplant_label(label, self.options(row))
        else:
            for _, value in _options(row):
                if (source := self.with_run(value)) != value:
                    label = label.replace(value, source)
        return self.with_labels(label)

    def with_labels(self, text: str) -> str:
        """Return a text with the labels of runs instead of their names, at each `RUN@EPOCH`."""
        return _REFERENCE.sub(lambda found: f"{self.label(found[1])}@{found[2]}", text)

    def columns(self, row: Row) -> Row:
        """Return the options that name runs with the labels of these runs, and their settings."""
        found, settings = Row(), set[str]()
        for key, value in _options(row):
            source = self.with_run(value)
            if run := self.find(source.rpartition("@")[0]):
                found[SOURCE + key] = self.with_labels(source)
                settings.add(", ".join(f"{k.rpartition('.')[2]} {run.get(k)}" for k in _SETTINGS))
        return found | {SOURCES: "; ".join(sorted(settings))}

    def options(self, row: Row) -> dict[str, Any]:
        """Return the options of a run of the method `fixed`, with runs as `RUN@EPOCH`."""
        return {name: self.with_run(row.get(f"options.{name}")) for name in _TRANSPLANT}

    def with_run(self, value: Any) -> Any:
        """Return an option as `RUN@EPOCH` if it is the path of a run, with or without an epoch."""
        if not isinstance(value, str):
            return value
        head, at, epoch = value.rpartition("@")
        run = Path(head if at else value).name
        return f"{run}@{epoch if at else 'final'}" if self.find(run) else value


def _options(row: Row) -> list[tuple[str, str]]:
    """Return the options of a run that are texts, by their columns."""
    return [(k, v) for k, v in row.items() if k.startswith("options.") and isinstance(v, str)]


def _parts(row: Row, sources: _Sources) -> Row:
    """Return the columns of a run of the method `fixed` that say what is of which run."""
    named, found = sources.options(row), Row()
    for part in PARTS:
        run, _, at = (named[part] or named["init"] or "random").rpartition("@")
        found |= {f"{part}.at": at, f"{part}.run": run}
        found[f"{part}.label"] = sources.label(run) if sources.find(run) else ""
    source = sources.find(found["mask.run"]) or row
    found["mask.epochs"] = source.get("result.epochs") or source.get("settings.epochs")
    return found | {"mask.early": source["early_epochs"]}


def _transplant_label(label: str, options: Mapping[str, Any]) -> str:
    """Return the label of a run of the method `fixed`: the mask's source, then the other sources.

    The label in config.json does not tell which part comes from which source.
    """
    mask = options["mask"] or options["init"]
    if not mask:
        return label
    rest = {name: value for name, value in options.items() if name != "mask"}
    others = [f"{name}={value}" for name, value in rest.items() if value not in _DEFAULTS]
    return f"fixed ({', '.join([mask, *others])})"
