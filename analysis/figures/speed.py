"""Speed of sparse inference against sparsity, from the files of `signbench bench sparse`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.figures.panels import place_of_sparsity
from analysis.figures.style import (
    COLOURS,
    GREY,
    LINE,
    MARKERS,
    MOST,
    Size,
    fitting_columns,
    in_style,
    new_figure,
)
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPARSE = "sparse"  # format of the network with sparse layers; the others are dense
_LOW = "dense, bfloat16"  # of another precision than the others
_BY = ["network", "precision", "batch", "threads", "sparsity"]
_LINE_BY = ["precision", "batch", "threads"]
_COLUMNS = {*_BY, "layer", "format", "ratio"}
_PANEL, _NARROWEST = 1.9, 1.9  # height and least width of a panel in inches
_MOST_PANELS = 6
Series = tuple[str, int, int]  # precision, batch size, threads


def read_speeds(paths: Sequence[Path]) -> pd.DataFrame:
    """Return the speed of each network relative to its fastest dense form.

    Its columns are network, precision, batch, threads, sparsity and speed. Where no layer was
    replaced, the speed is 1. Dense and sparse networks have the same precision.

    Raises:
        UserError: a file cannot be read, or is of another kind, or they are from several devices.
    """
    tables = []
    for path in paths:
        try:
            table = pd.read_csv(path, dtype={"layer": str}, keep_default_na=False)
        except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError):
            raise UserError(f"cannot read {path}.") from None
        if not set(table.columns) >= _COLUMNS:
            raise UserError(f"{path} is not a table of signbench bench sparse.")
        tables.append(table[(table["layer"] == "") & (table["format"] != _LOW)])
    whole = pd.concat(tables, ignore_index=True)
    devices = sorted(set(whole["device"].fillna("cpu"))) if "device" in whole else []
    if len(devices) > 1:
        raise UserError(f"draw each device in a figure of its own: {', '.join(devices)}.")
    numbers = pd.to_numeric(whole["ratio"], errors="coerce")
    if not len(whole) or not bool((numbers > 0).all()):
        raise UserError(f"{paths[0]} has a ratio that is not a positive number, or no networks.")
    # medians over repetitions, in columns by format
    ratios = whole.assign(ratio=numbers).groupby([*_BY, "format"])["ratio"].median().unstack()
    dense = ratios.drop(columns=_SPARSE, errors="ignore").min(axis=1).dropna()
    sparse = ratios.get(_SPARSE, dense).reindex(dense.index)
    return (dense / sparse).fillna(1.0).rename("speed").reset_index()


def draw_speeds(speeds: pd.DataFrame, size: Size) -> Figure:
    """Draw speed against sparsity, a panel per network, a line per precision, batch and threads.

    The sparsity axis is logarithmic in the density.

    Args:
        speeds: from `read_speeds`.

    Raises:
        UserError: there are more networks or lines than can be distinguished.
    """
    networks = list(dict.fromkeys(speeds["network"]))
    series = _series(speeds)
    if len(networks) > _MOST_PANELS or len(series) > MOST:
        raise UserError(
            f"{len(networks)} networks and {len(series)} combinations of precision, batch size and "
            f"threads are too many for one figure: at most {_MOST_PANELS} and {MOST}."
        )
    names = [_series_name(one, series) for one in series]
    columns = min(len(networks), max(1, int(size.width / _NARROWEST)))
    rows = -(-len(networks) // columns)
    legend = LINE * -(-len(names) // fitting_columns(names, size))
    with in_style():
        drawn = new_figure(size, _PANEL * rows + legend)
        panels = list(drawn.subplots(rows, columns, sharey=True, squeeze=False).flatten())
        for axes, network in zip(panels, networks, strict=False):
            _draw_panel(axes, speeds[speeds["network"] == network], series, names)
        _name_axes(panels, networks, columns)
        _draw_legend(drawn, panels[0], names, size)
    return drawn


def _series(speeds: pd.DataFrame) -> list[Series]:
    """Return the series that are drawn as lines, those of float32 first."""
    found = set(speeds[_LINE_BY].itertuples(index=False, name=None))
    return sorted(found, key=lambda one: (one[0] != "float32", *one))


def _name_axes(panels: Sequence[Any], networks: Sequence[str], columns: int) -> None:
    """Write titles, names of outer axes only, and nothing in panels without a network."""
    for i, (axes, network) in enumerate(zip(panels, networks, strict=False)):
        last = i + columns >= len(networks)
        axes.set(title=network, xlabel="sparsity" if last else "")
        axes.set_ylabel("speed, dense = 1" if i % columns == 0 else "")
    for axes in panels[len(networks) :]:
        axes.set_axis_off()


def _draw_legend(drawn: Figure, axes: Any, names: Sequence[str], size: Size) -> None:
    drawn.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        borderaxespad=0.3,
        ncols=fitting_columns(names, size),
    )


def _series_name(one: Series, series: Sequence[Series]) -> str:
    """Return what distinguishes one line from the others, with the batch size."""
    precision, batch, threads = one
    precisions, _, numbers = (set(values) for values in zip(*series, strict=True))
    parts = [f"batch {batch}"]
    parts += [f"{threads} thread{'s' * (threads > 1)}"] if len(numbers) > 1 else []
    parts += [precision] if len(precisions) > 1 else []
    return ", ".join(parts)


def _draw_panel(
    axes: Any, speeds: pd.DataFrame, series: Sequence[Series], names: Sequence[str]
) -> None:
    axes.axhline(1.0, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)))
    for i, one in enumerate(series):
        part = speeds[(speeds[_LINE_BY] == list(one)).all(axis=1)].sort_values("sparsity")
        at = place_of_sparsity(part["sparsity"])
        axes.plot(at, part["speed"], color=COLOURS[i], marker=MARKERS[i], label=names[i])
    sparsities = sorted(set(speeds["sparsity"]))
    axes.set_xticks(place_of_sparsity(pd.Series(sparsities)), [f"{s:g}" for s in sparsities])
    axes.set_ylim(bottom=0.0)
