"""The figure of reversed signs shows the runs of its grid."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
from PIL import Image
from synthetic_runs import write_runs
from test_launch_train import train

from analysis.figures import FIGURES, WIDTHS, Size
from analysis.figures.style import PAGE
from analysis.folder import list_runs
from analysis.frame import load_runs
from baselines.errors import UserError
from launch.cli import main
from launch.config.grids import REVERSED, find_grid
from launch.config.machine import Machine
from launch.config.run import Run

pytestmark = pytest.mark.xdist_group("figures of signs")  # the tests share their runs


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Train two masks from GMP with some of their signs reversed, and what is not of the grid."""
    root = tmp_path_factory.mktemp("signs")
    machine = Machine(runs=root, data_dir=root, device="cpu", workers=0, threads=1)
    runs = find_grid("signs", recipe="digits", epochs=1, methods=("gmp",), seeds=(0, 1))
    few = [r for r in runs if not r.needs or r.options.flip_signs in (0.0, 0.2)]
    (mask,) = {run.options.mask for run in few if run.needs and run.seed == 1000}
    other = {"sparsity": 0.9, "epochs": 1, "seed": 1000, "mask": mask}
    for run in (*few, Run.make("digits", "fixed", **other)):
        train(run, machine)
    return root


def test_lines_are_means_of_the_runs(root):
    runs = load_runs(list_runs(root))
    assert len(runs) == 2 * (1 + 2 * 2) + 1
    drawn = lines(FIGURES["signs"].draw(runs))
    assert set(drawn) == {"GMP", "GMP mask", "GMP mask + Sign-In"}
    learned = runs["signs.at"] == "final"
    for name, sign_in in (("GMP mask", False), ("GMP mask + Sign-In", True)):
        assert drawn[name].get_xdata() == pytest.approx([0, 20])
        own = runs[learned & (runs["sign_in"] == sign_in)]
        means = 100 * own.groupby("options.flip_signs")["result.accuracy"].mean()
        assert drawn[name].get_ydata() == pytest.approx(means.to_numpy())
    source = 100 * runs[runs["method"] == "gmp"]["result.accuracy"].mean()
    assert drawn["GMP"].get_ydata() == pytest.approx([source, source])


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_it_is_written(root, tmp_path, ending):
    path = tmp_path / f"figure.{ending}"
    assert main(["figure", "signs", "--runs", str(root), "-o", str(path)]) == 0
    assert path.stat().st_size > 5000
    if ending == "png":
        pixels = Image.open(path).convert("L")
        assert pixels.width >= 900 and len(set(pixels.resize((200, 100)).tobytes())) > 20


def reversing(runs, **changes):
    """Return the runs with others that train their masks, at each share of reversed signs."""
    parts = [runs.assign(**{"mask.run": "", "signs.run": "", "magnitudes.at": "random"})]
    for fraction in REVERSED:
        names = [folder.name for folder in runs["folder"]]
        own = {"method": "fixed", "options.flip_signs": fraction, "mask.label": runs["label"]}
        own |= {"mask.run": names, "mask.at": "final", "signs.run": names, "signs.at": "final"}
        own |= {"magnitudes.at": "random", "options.magnitude_kind": "each", "options.others": ""}
        own |= {"options.init": ""}
        own |= {"label": [f"fixed ({name}@final, {fraction})" for name in runs["label"]]}
        own |= {"seed": runs["seed"] + 1000, "folder": [f / str(fraction) for f in runs["folder"]]}
        parts.append(runs.assign(**{**own, **changes}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 3, 12])
def test_many_masks_are_drawn_in_groups(tmp_path, width, count):
    labels = ("acdc", "rigl", "str", *[f"mine{i}" for i in range(9)])[:count]
    runs = reversing(write_runs(tmp_path, labels, seeds=(0, 1), rules=("",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES["signs"].draw(runs, Size(WIDTHS[width]))
        figure.savefig(tmp_path / "figure.png")
    assert PAGE >= figure.get_figheight() > 1.5
    drawn = {line.get_label() for ax in figure.axes for line in ax.get_lines()}
    assert {"AC/DC", "AC/DC mask"} <= drawn and len(drawn) == 2 * count


def test_other_runs_are_refused(tmp_path):
    plain = write_runs(tmp_path, ("acdc",), rules=("",))
    for runs in (
        plain,
        reversing(plain, **{"magnitudes.at": "final"}),
        reversing(plain, **{"signs.at": "3"}),
        reversing(plain, **{"options.magnitude_kind": "layer"}),
        reversing(plain, **{"options.flip_signs": 0.1}),
        reversing(plain, **{"options.init": "acdc@final"}),  # biases are learned, too
    ):
        with pytest.raises(UserError, match="signbench grid signs trains some"):
            FIGURES["signs"].draw(runs)
    two = pd.concat([reversing(plain), reversing(plain, sparsity=0.5)], ignore_index=True)
    with pytest.raises(UserError, match="differ in sparsity"):
        FIGURES["signs"].draw(two)
