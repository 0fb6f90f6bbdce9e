"""Figures show the values in the files of the runs."""

from __future__ import annotations

import pandas as pd
import pytest
from PIL import Image
from synthetic_runs import write_runs
from test_analysis_tables import write_run
from test_launch_train import train

from analysis.figures import FIGURES, save
from analysis.figures.groups import of_one_network
from analysis.flips import PHASES
from analysis.folder import list_runs
from analysis.frame import load_runs, rows_kept
from analysis.names import name_of
from baselines.errors import UserError
from launch.cli import main
from launch.config.machine import Machine
from launch.config.run import Run

pytestmark = pytest.mark.xdist_group("figures")  # which share their runs
ELSEWHERE = {"ranks", "signs"}  # need runs of several sparsities, or of reversed signs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Train short runs: learned masks, the same from scratch, random masks; two seeds each."""
    root = tmp_path_factory.mktemp("figures")
    machine = Machine(runs=root, data_dir=root, device="cpu", workers=0, threads=1)
    for seed in (0, 1):
        base = Run.make("digits", "gmp", epochs=4, seed=seed)
        fixed = {"mask": f"{base.name}@final", "epochs": 4, "seed": 1000 + seed}
        others = [
            Run.make("digits", "random", epochs=4, seed=seed, sign_in=sign_in)
            for sign_in in (False, True)
        ]
        for run in (base, Run.make("digits", "fixed", **fixed), *others):
            train(run, machine)
    return root


@pytest.fixture(scope="module")
def runs(root):
    with rows_kept():  # all figures read the same files
        yield load_runs(list_runs(root))


def lines(figure, panel=0):
    return {line.get_label(): line for line in figure.axes[panel].get_lines()}


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - ELSEWHERE))
def test_every_figure_is_drawn(runs, tmp_path, name):
    figure = FIGURES[name].draw(runs)
    for ending in ("pdf", "svg", "png"):
        path = tmp_path / f"figure.{ending}"
        save(figure, path)
        assert path.stat().st_size > 5000
    pixels = Image.open(path).convert("L")
    assert pixels.width >= 900 and len(set(pixels.resize((200, 100)).tobytes())) > 20


def test_the_command_draws_a_figure(root, runs, tmp_path):
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    assert main(["figure", "curves", "--runs", str(root), "-o", str(one)]) == 0
    save(FIGURES["curves"].draw(runs), other)
    assert one.read_bytes() == other.read_bytes()


def layers_of(runs, label, sign_in=False):
    chosen = runs[(runs["label"] == label) & (runs["sign_in"] == sign_in)]
    return [pd.read_csv(folder / "layers.csv") for folder in chosen["folder"]]


def test_flips_by_phase_are_those_of_the_files(runs):
    figure = FIGURES["1"].draw(runs)
    drawn = {c.get_label(): c.lines[0].get_xdata()[0] for c in figure.axes[0].containers}
    tables = layers_of(runs, "gmp")
    expected = []
    # the warm-up, a tenth, ends after epoch 0; the run after epoch 3
    for since, epoch in (("init", 0), ("warmup", 3), ("init", 3)):
        shares = []
        for table in tables:
            rows = table[table["epoch"] == epoch]
            flips, compared = rows[f"final_flips_{since}"], rows[f"final_compared_{since}"]
            shares.append(100 * flips.sum() / compared.sum())
        expected.append(sum(shares) / 2)
    assert [drawn[phase] for phase in PHASES] == pytest.approx(expected)
    names = [tick.get_text() for tick in figure.axes[1].get_yticklabels()]
    assert sorted(names) == ["GMP mask", "Random"]


def test_lines_are_means_over_seeds(runs):
    accuracy = lines(FIGURES["curves"].draw(runs), panel=1)["GMP"]
    tables = [pd.read_csv(f / "epochs.csv") for f in runs[runs["label"] == "gmp"]["folder"]]
    mean = 100 * sum(table["test_accuracy"] for table in tables) / 2
    assert accuracy.get_ydata() == pytest.approx(mean.to_numpy())
    assert list(accuracy.get_xdata()) == [1, 2, 3, 4]
    sparsity = lines(FIGURES["9"].draw(runs))["Random + Sign-In"]
    tables = [t[t["epoch"] == 3] for t in layers_of(runs, "random", sign_in=True)]
    mean = 100 * (1 - sum(t["density"].to_numpy() for t in tables) / 2)
    assert sparsity.get_ydata() == pytest.approx(mean)
    flips = lines(FIGURES["8"].draw(runs), list(PHASES).index("init → final"))["GMP"]
    shares = [
        100 * (t["final_flips_init"] / t["final_compared_init"])[t["epoch"] == 3]
        for t in layers_of(runs, "gmp")
    ]
    assert flips.get_ydata() == pytest.approx(sum(s.to_numpy() for s in shares) / 2)


def test_equal_runs_that_kept_other_epochs_are_one_run(tmp_path):
    first = write_runs(tmp_path / "a", ("rigl",), seeds=(0,), rules=("",))
    second = write_runs(tmp_path / "b", ("rigl",), seeds=(0,), rules=("",), sharpness=True)
    both, (folder,) = pd.concat([first, second], ignore_index=True), first["folder"]
    rows = pd.read_csv(second["folder"][0] / "sharpness.csv")
    expected = rows["sharpness"].tolist()

    def sharpness():
        (line,) = FIGURES["5"].draw(both).axes[1].get_lines()
        return line.get_ydata().tolist()

    assert len(expected) > 2 and sharpness() == pytest.approx(expected)
    rows.iloc[[0, -1]].to_csv(folder / "sharpness.csv", index=False)  # measured at fewer epochs
    assert sharpness() == pytest.approx(expected)
    drawn = lines(FIGURES["8"].draw(second))["RigL"].get_ydata()
    (folder / "layers.csv").unlink()
    assert lines(FIGURES["8"].draw(both))["RigL"].get_ydata() == pytest.approx(drawn)


def test_the_ranking_has_the_means_of_the_results(runs):
    (ax,) = FIGURES["ranking"].draw(runs).axes
    order = [tick.get_text() for tick in ax.get_yticklabels()]
    found = runs.groupby(["label", "sign_in"])["result.accuracy"].mean() * 100
    best = found.groupby("label").max().sort_values(ascending=False)
    assert order == [name_of(label) for label in best.index]
    dots = {container.get_label(): container.lines[0] for container in ax.containers}
    places = dots["plain"].get_ydata().astype(float).round()
    plain = dict(zip(places, dots["plain"].get_xdata(), strict=True))
    assert plain[order.index("GMP")] == pytest.approx(found["gmp", False])
    assert dots["with Sign-In"].get_xdata() == pytest.approx([found["random", True]])


def test_a_method_looks_the_same_everywhere(runs):
    colours = {
        lines(FIGURES[name].draw(part))["Random"].get_color()
        for name in ("5", "8", "9", "curves")
        for part in (runs, runs[runs["seed"].isin([0, 1])])
    }
    assert len(colours) == 1


def test_figures_of_different_networks_are_refused(root, runs, capsys):
    assert main(["figure", "1", "--runs", str(root), "-o", "figure.gif"]) == 2
    assert ".pdf, .svg or .png" in capsys.readouterr().err
    assert main(["figure", "1", "--runs", str(root), "--where", "method=none"]) == 2
    assert "there are no such runs" in capsys.readouterr().err


def test_a_method_that_was_not_run_at_high_sparsities_is_not_first_for_it(tmp_path):
    for label, values in {"random": (0.9, 0.6), "snip": (0.8, 0.5), "gmp": (0.85, None)}.items():
        for sparsity, value in zip((0.8, 0.99), values, strict=True):
            if value is not None:
                write_run(tmp_path, label, value, sparsity=sparsity)
    figure = FIGURES["ranking"].draw(load_runs(list_runs(tmp_path)))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["Random", "GMP", "SNIP"]


def test_dense_runs_are_not_mixed(tmp_path):
    for seed, lr in enumerate((0.1, 0.2)):
        write_run(tmp_path, "dense", 0.9, seed, sparsity=0.0, lr=lr)
    write_run(tmp_path, "random", 0.8, lr=0.3)
    found = load_runs(list_runs(tmp_path))
    with pytest.raises(UserError, match=r"differ in lr \(0.1, 0.2\)"):
        FIGURES["curves"].draw(found)
    assert len(of_one_network(found[found["settings.lr"] > 0.1])) == 2


def test_sparsities_are_not_mixed(runs):
    other = runs.assign(**{"sparsity": 0.5, "result.sparsity": 0.5, "seed": 7})
    mixed = pd.concat([runs, other], ignore_index=True)
    for name in ("1", "5", "8", "9", "curves"):
        with pytest.raises(UserError, match=r"differ in sparsity \(0.5, 0.9\)"):
            FIGURES[name].draw(mixed)
    drawn = set(lines(FIGURES["compare"].draw(mixed)))
    assert drawn == {"GMP", "GMP mask", "Random", "Random + Sign-In"}


@pytest.fixture
def with_dense(tmp_path):
    """Write a method at sparsities from 0 on, another one, and dense runs."""
    for sparsity, value in ((0.0, 0.99), (0.8, 0.95), (0.9, 0.92), (0.95, 0.8)):
        write_run(tmp_path, "random", value, sparsity=sparsity)
        write_run(tmp_path, "rigl", value - 0.02, sparsity=sparsity or 0.5)
    write_run(tmp_path, "dense", 0.97, sparsity=0.0)
    return load_runs(list_runs(tmp_path))


def test_only_methods_without_sparsity_are_a_horizontal_line(with_dense):
    drawn = lines(FIGURES["compare"].draw(with_dense))
    assert drawn["Random"].get_ydata() == pytest.approx([95, 92, 80])
    assert drawn["Dense"].get_ydata() == pytest.approx([97, 97])
    ends = [f(drawn["RigL"].get_xdata()) for f in (min, max)]
    assert drawn["Dense"].get_xdata() == pytest.approx(ends)


def test_the_dense_line_of_the_ranking_is_that_of_the_method_dense(with_dense):
    for ax in FIGURES["ranking"].draw(with_dense).axes:
        places = [list(line.get_xdata()) for line in ax.get_lines()]
        (vertical,) = (x for x in places if len(x) == 2 and x[0] == x[1])
        assert vertical == pytest.approx([97, 97])


def test_sharpness_on_different_numbers_of_images_is_not_averaged(tmp_path):
    def panels(name, *numbers):
        runs = write_runs(tmp_path / name, ("rigl",), seeds=(0, 1), rules=("",), sharpness=True)
        for folder, own in zip(runs["folder"], numbers, strict=True):
            rows = pd.read_csv(folder / "sharpness.csv")
            rows.assign(**own).to_csv(folder / "sharpness.csv", index=False)
        return len(FIGURES["5"].draw(runs).axes)

    assert panels("equal", {"images": 500}, {"images": 500}) == 2
    with pytest.warns(UserWarning, match=r"numbers of images \(500, 1000\) and is not drawn"):
        assert panels("other", {"images": 500}, {"images": 1000}) == 1
    asked = {"per_class": 100}
    smaller = {"images": 999, **asked}  # of a class with less images
    assert panels("asked", smaller, {"images": 1000, **asked}) == 2
