"""Lines that are equal stay visible, and figures of many methods show the values of the runs."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from synthetic_runs import LAYER_NAMES, SOME, write_runs

from analysis.figures import FIGURES, WIDTHS, Size
from analysis.figures.cells import draw_cells
from analysis.figures.lines import draw_panels
from analysis.figures.panels import Panel, rows_of
from analysis.figures.style import MOST, choose_looks, in_style
from analysis.frame import rows_kept
from analysis.names import legend_entry, name_of

LABELS = ("random", "rigl", "set", "snip", "gmp")  # five methods, plain and with Sign-In


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with rows_kept():
        yield write_runs(tmp_path_factory.mktemp("many"), SOME, seeds=(0, 1))


def table_of(lines, n_points):
    """Return equal values of several methods."""
    rows = [
        {"label": label, "rule": rule, "seed": 0, "x": x, "value": (x - 3.0) ** 2}
        for label, rule in lines
        for x in range(n_points)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("n_points", [3, 12, 160])
@pytest.mark.parametrize("width", WIDTHS)
def test_equal_lines_are_all_visible(n_points, width):
    groups = [(label, "") for label in LABELS]
    values = table_of(groups, n_points)
    with in_style():
        figure = draw_panels([Panel(values, "", "x", "y")], Size(WIDTHS[width]))
    for legend in figure.legends:
        legend.remove()
    figure.set_dpi(300)  # as in files
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    for label, look in choose_looks(LABELS).items():
        near = np.abs(pixels - to_rgb(look["color"])).max(axis=-1) < 0.02
        assert near.sum() > 20, label


def test_many_lines_have_a_cell_for_each_method(runs):
    figure = FIGURES["curves"].draw(runs, Size())
    assert len(SOME) * 2 > MOST and len(figure.axes) == 2 * len(SOME)
    for label in SOME:
        losses, accuracies = (
            ax for ax in figure.axes if ax.get_title() == name_of(label).split(" (")[0]
        )
        for ax, column, factor in ((losses, "train_loss", 1), (accuracies, "test_accuracy", 100)):
            lines = {line.get_label(): line for line in ax.get_lines()}
            for sign_in, rule in ((False, ""), (True, "Sign-In")):
                own = runs[(runs["label"] == label) & (runs["sign_in"] == sign_in)]
                tables = [pd.read_csv(folder / "epochs.csv")[column] for folder in own["folder"]]
                drawn = lines[legend_entry(label, rule)]
                assert drawn.get_ydata() == pytest.approx(factor * (tables[0] + tables[1]) / 2)
    limits = {ax.get_ylim() for ax in figure.axes}
    assert len(limits) == 2  # of the loss, of the accuracy


def test_the_range_behind_cells_is_of_methods_at_the_requested_sparsities():
    values = table_of([(label, "") for label in LABELS], 3).assign(marked=False)
    values["value"] += values["label"].map(LABELS.index)
    missing = values[values["label"] == "gmp"].assign(label="str", marked=True)
    missing = missing.assign(x=missing["x"] + 0.5)
    with in_style():
        panel = Panel(pd.concat([values, missing]), "", "x", "y", zoom=1.0)
        ax = draw_cells([panel], Size()).axes[0]
    (band,) = (c for c in ax.collections if to_rgb(c.get_facecolor()[0]) == to_rgb("#e2e2e2"))
    ends = pd.DataFrame(band.get_paths()[0].vertices).groupby(0)[1].agg(["min", "max"])
    assert ends.to_dict("split")["data"] == [[9, 13], [4, 8], [1, 5]]


def test_a_mask_from_scratch_is_drawn_with_its_method():
    own, other = ("gmp", ""), ("fixed (gmp@final)", "Sign-In")
    elsewhere = ("fixed (gmp@final, random@init)", "")
    assert rows_of([own, other, elsewhere, ("rigl", "")]) == [
        [own, other],
        [elsewhere],
        [("rigl", "")],
    ]


def test_heat_maps_have_the_values_of_the_layers(runs):
    figure = FIGURES["9"].draw(runs, Size())
    ax = figure.axes[0]
    (mesh,) = ax.collections
    values = np.ma.filled(mesh.get_array(), np.nan)
    assert values.shape == (3 * (len(SOME) - 1) - 1, len(LAYER_NAMES))  # with gaps, without dense
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    place = [np.floor(y) for y in ax.get_yticks()]
    assert rows[:4] == ["AC/DC", "+ Sign-In", "GMP", "+ Sign-In"] and place == sorted(place)
    shown = values[~np.isnan(values).all(axis=1)]
    for i, (label, sign_in) in enumerate(itertools.product(("acdc", "gmp"), (False, True))):
        own = runs[(runs["label"] == label) & (runs["sign_in"] == sign_in)]
        tables = [pd.read_csv(folder / "layers.csv") for folder in own["folder"]]
        last = [100 * (1 - t[t["epoch"] == t["epoch"].max()]["density"]) for t in tables]
        assert shown[i] == pytest.approx((last[0] + last[1]).to_numpy() / 2)
