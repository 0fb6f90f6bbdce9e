"""Figures of 3, 9 and 22 methods fit: no text is cut, small, or on top of another."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_runs import FEW, MANY, SOME, write_runs

from analysis.figures import FIGURES, WIDTHS, Size, select_methods
from analysis.figures.lines import draw_panels
from analysis.figures.panels import Panel, share_y
from analysis.figures.style import COLOURS, MARKERS, MOST, PAGE, choose_looks, line_style
from analysis.frame import rows_kept
from analysis.names import RULES
from baselines.errors import UserError

pytestmark = pytest.mark.xdist_group("figure layout")  # the cases share their runs
SMALLEST = 7  # points
SEVERAL = ("ranking", "compare", "ranks")  # figures of several sparsities
SIZES = (("few", "column"), ("some", "text"), ("many", "column"), ("many", "text"))
CASES = [
    (name, *size)
    for name, size in itertools.product(FIGURES, SIZES)
    if name != "signs"  # it is of other runs
    and (name, size[0]) != ("ranks", "few")  # at one sparsity there are no ranks
]


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """Return the runs of three grids: of one sparsity, of two and all rules, and of four."""
    root, seeds = tmp_path_factory.mktemp("grids"), (0, 1)
    runs = {
        "few": write_runs(root / "few", FEW, (0.9,), seeds, sharpness=True),
        "some": write_runs(root / "some", SOME, (0.9, 0.95), seeds, RULES, missed={"str": -0.02}),
        "many": write_runs(root / "many", MANY, (0.8, 0.9, 0.95, 0.98), seeds),
    }
    with rows_kept():  # all figures read the same files
        yield runs


def draw(name, runs, size):
    one = runs[runs["sparsity"].isin([0, 0.9])]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="sharpness was not measured")
        return FIGURES[name].draw(runs if name in SEVERAL else one, size)


def shown_texts(figure):
    """Yield all texts that are drawn."""
    for ax in figure.axes:
        if ax.axison:
            yield from (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
                yield from (tick.label1 for tick in ticks if low <= tick.get_loc() <= high)
    yield from figure.texts
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    for legend in (*figure.legends, *legends):
        yield from (*legend.get_texts(), legend.get_title())


@pytest.mark.parametrize(("name", "grid", "width"), CASES)
def test_texts_fit(grids, name, grid, width):
    figure = draw(name, grids[grid], Size(WIDTHS[width]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [t for t in shown_texts(figure) if t.get_visible() and t.get_text().strip()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) > 8
    assert min(text.get_fontsize() for text in texts) >= SMALLEST
    right, top = canvas.get_width_height()
    for text, box in zip(texts, boxes, strict=True):
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= right and box.y1 <= top
        assert inside, f"{text.get_text()!r} is cut"
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        across, along = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, along) <= 0.5, f"{one.get_text()!r} is on {other.get_text()!r}"
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all((edge == 255).all() for edge in edges), "something is cut at the edge"
    assert figure.get_figheight() <= PAGE
    panels = [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]
    heights = [ax.get_window_extent().height / figure.dpi for ax in panels]
    least = 0.39 if len(panels) > 4 else 0.6  # a cell for each method
    assert min(heights) > (0.2 if name in ("1", "ranking", "compare") else least)
    assert all(ax.has_data() for ax in panels), "a panel is blank"
    if grid == "many":
        lines = (text.get_text().replace("\n", " ") for text in texts)  # of names in two lines
        named = {line.removesuffix(" + Sign-In") for line in lines}
        assert named >= {"AC/DC", "RigL", "WoodFisher", "spred", "PILoT"}
        assert "Random (uniform)" in named or any("↓" in name for name in named)


def test_methods_in_one_panel_have_looks_of_their_own():
    for labels in (FEW, MANY[:MOST], MANY[-MOST:], [f"mine{i}" for i in range(MOST)]):
        looks = choose_looks(labels).values()
        # markers differ, too: in grey, colours are not enough
        for key in ("color", "marker"):
            assert len({look[key] for look in looks}) == len(labels)
    assert len(set(COLOURS)) == len(set(MARKERS)) == MOST


def test_looks_are_kept_where_they_can_be():
    assert choose_looks(["rigl", "snip"])["rigl"] == choose_looks(["rigl", "acdc", "str"])["rigl"]
    both = choose_looks(["gmp", "fixed (gmp@final)"])
    assert both["gmp"] == both["fixed (gmp@final)"]
    assert line_style("gmp", "") != line_style("fixed (gmp@final)", "")
    assert line_style("gmp", "Sign-In")["markerfacecolor"] == "white"
    styles = [line_style(label, rule) for label in both for rule in RULES]
    assert all(one != other for one, other in itertools.combinations(styles, 2))


def test_bands_on_a_logarithmic_axis_are_above_zero():
    values = [[1.0, 1.0, 1.0], [1.0, 1.0, 97.0]]  # the mean of the second is below its deviation
    rows = [("rigl", "", seed, x, v) for x, row in enumerate(values) for seed, v in enumerate(row)]
    panel = Panel(pd.DataFrame(rows, columns=["label", "rule", "seed", "x", "value"]), "", "", "")
    low, high = panel.band(panel.lines["rigl", ""])
    assert panel.is_logarithmic is False
    assert low.tolist() == [1.0, pytest.approx(33 - 32 * 3**0.5)]
    rows[:3] = [("rigl", "", seed, 0, 0.1) for seed in range(3)]
    panel = Panel(pd.DataFrame(rows, columns=["label", "rule", "seed", "x", "value"]), "", "", "")
    low, high = panel.band(panel.lines["rigl", ""])
    assert panel.is_logarithmic
    assert low.tolist() == pytest.approx([0.1, 33**2 / (33 + 32 * 3**0.5)])
    assert high.tolist() == pytest.approx([0.1, 33 + 32 * 3**0.5])


@pytest.mark.parametrize("first", [2.0, 0.5])  # of the first panel, which spans decades or not
def test_panels_with_a_shared_axis_have_one_scale(first):
    panels = []
    for means in ((first, 45.0, 50.0), (0.2, 5.0, 20.0), (0.5, 44.0, 50.0)):
        rows = [("rigl", "", 0, x, value) for x, value in enumerate(means)]
        values = pd.DataFrame(rows, columns=["label", "rule", "seed", "x", "value"])
        panels.append(Panel(values, "", "", ""))
    axes = [ax for ax in draw_panels(share_y(panels), Size()).axes if ax.lines]
    assert [ax.get_yscale() for ax in axes] == ["linear" if first == 2 else "log"] * 3
    low, high = axes[0].get_ylim()
    assert {ax.get_ylim() for ax in axes} == {(low, high)}
    drawn = [y for ax in axes for y in ax.lines[0].get_ydata()]
    assert len(drawn) == 9 and low < min(drawn) and max(drawn) < high


def test_axes_adapt_to_the_values(grids):
    values = grids["few"].assign(x=[i % 3 for i in range(len(grids["few"]))])
    spread = [10.0 ** (i % 4) for i in range(len(values))]
    assert Panel(values.assign(value=spread), "", "", "").is_logarithmic
    level = Panel(values.assign(value=50.0), "", "", "")
    assert not level.is_logarithmic and level.limits[0] < 50 < level.limits[1]
    values = grids["many"].assign(x=0)
    place = values["label"].map({label: 90 + i / 10 for i, label in enumerate(MANY)})
    far = values.assign(value=place.where(values["label"] != "random (uniform)", 40.0))
    zoomed = Panel(far, "", "", "", zoom=1.0)
    assert zoomed.below == {"random (uniform)"} and 89 < zoomed.limits[0] < 90
    assert Panel(far, "", "", "").below == set()
    figure = draw("ranking", grids["many"], Size())
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert len(texts) == 4 and all(text.startswith("◂ ") and " / " in text for text in texts)


def test_methods_and_sizes_are_chosen(grids):
    runs = grids["many"]
    assert set(select_methods(runs, ["rigl", "random (uniform)"])["label"]) == {
        "rigl",
        "random (uniform)",
    }
    assert set(select_methods(runs, ["random"])["label"]) == {"random", "random (uniform)"}
    assert len(select_methods(runs, [])) == len(runs)
    with pytest.raises(UserError, match=r"unknown method 'rigel'.*rigl"):
        select_methods(runs, ["rigel"])
    figure = draw("curves", grids["few"], Size(4.0, 2.5))
    assert tuple(figure.get_size_inches()) == (4.0, 2.5)
    figure = draw("curves", runs, Size(6.0, 8.0))
    assert figure.get_size_inches() == pytest.approx((6.0, 8.0))
    with pytest.raises(UserError, match=r"22 methods needs a height of \d"):
        draw("curves", runs, Size(6.0, 2.0))


def test_what_was_not_measured_has_no_panel(grids):
    with pytest.warns(UserWarning, match="signbench sharpness"):
        figure = FIGURES["5"].draw(grids["some"][grids["some"]["sparsity"] != 0.95])
    assert len(figure.axes) == len(SOME)  # sign flips only
    assert sum(ax.axison for ax in draw("5", grids["few"], Size()).axes) == 2  # and sharpness


def test_results_at_another_sparsity_are_drawn_where_they_are(grids):
    figure = draw("compare", grids["some"], Size())
    lines = [line for ax in figure.axes for line in ax.get_lines()]
    (own,) = (line for line in lines if line.get_label() == "STR + HAM")
    assert own.get_xdata() == pytest.approx(-np.log10([0.12, 0.07]))
    crosses = [line for line in lines if line.get_marker() == "x"]
    assert len(crosses) == len(RULES)  # plain, with Sign-In, with HAM
    assert any(line.get_ydata() == pytest.approx(own.get_ydata()) for line in crosses)
    ticks = [t.get_text() for t in figure.axes[-1].get_xticklabels()]
    assert ticks == ["0.9", "0.95"]
    ranking = draw("ranking", grids["some"], Size())
    order = [tick.get_text() for tick in ranking.axes[0].get_yticklabels()]
    assert order[-1] == "STR"  # does not compete
    assert "not the requested sparsity" in [t.get_text() for t in ranking.legends[0].get_texts()]


def test_means_at_the_edge_are_in_the_order_of_the_legend(tmp_path):
    runs = write_runs(tmp_path, (*SOME, "random (uniform)"), seeds=(0,), rules=RULES)
    figure = FIGURES["ranking"].draw(runs, Size())
    (text,) = figure.axes[0].texts
    accuracy = runs[runs["label"] == "random (uniform)"].set_index("rule")["result.accuracy"]
    assert text.get_text() == "◂ " + " / ".join(f"{100 * accuracy[rule]:.1f}" for rule in RULES)
