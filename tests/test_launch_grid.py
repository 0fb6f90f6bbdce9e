"""Grids: the paper's, and a user's own."""

from __future__ import annotations

from collections import Counter

import pytest

from baselines.errors import UserError
from launch.cli import main
from launch.config.dependencies import in_order
from launch.config.grid_file import read_grid
from launch.config.grids import GRIDS, find_grid
from launch.config.run import Run

# runs at the paper's recipes, worked out from its tables
SIZES = {
    "table1": 3 * 7,  # three methods, seven rows
    "table3": 3 * 3 * 2 * 3,  # sets, sparsities, with and without, seeds
    "table4": 2 * 3,
    "table5": 3 * 2 * 3,
    "table9": 2 * 3 * 3 * 2 * 3,  # sets, methods, sparsities, with and without, seeds
    "table10": (3 * 3 + 3 * 2) * 3,  # learned masks need their source; the others do not
    "table11": 3 * 3 * 3 * 3,
    "figure1": 1 + 3 * 2,
    "figure5": 3 + 2,
    "figure8": 3,
    "figure9": 6,
}


@pytest.mark.parametrize("name", SIZES)
def test_each_table_and_figure_has_its_runs(name):
    runs = find_grid(name)
    assert len(runs) == SIZES[name] == len({run.name for run in runs})
    digits = find_grid(name, recipe="digits", epochs=5, seeds=(0,))
    assert {run.recipe for run in digits} == {"digits"}
    assert {run.settings.epochs for run in digits} == {5}


@pytest.mark.parametrize("name", GRIDS)
def test_runs_come_after_those_that_they_need(name):
    done: set[str] = set()
    for run in find_grid(name, recipe="digits", epochs=10):
        assert set(run.needs) <= done
        done.add(run.name)


def test_table_one_transplants_what_its_rows_say():
    runs = find_grid("table1", recipe="digits", epochs=20, seeds=(3,))
    base = next(run for run in runs if run.method == "acdc")
    rows = Counter(
        (run.options.signs.removeprefix(base.name), run.options.magnitudes.removeprefix(base.name))
        for run in runs
        if base.name in run.needs
    )
    assert rows == Counter(
        [(signs, "random") for signs in ("@2", "@6", "@final")]
        + [("random", sizes) for sizes in ("@2", "@final", "random")]
    )
    seeds = {run.seed for run in runs if run.needs}
    assert seeds == {1003}  # not the initialisation that the mask was learned from


def test_tables_share_runs():
    """What one table has trained, no other trains again."""
    known = {run.name for run in find_grid("table3")}
    assert {run.name for run in find_grid("table11") if run.method == "random"} == known
    learned = {run.name for run in find_grid("table10") if run.method == "acdc"}
    assert learned <= {run.name for run in find_grid("table5")}


def test_every_grid_runs_on_digits(tmp_path, capsys):
    flags = ["--recipe", "digits", "--epochs", "1", "--seeds", "0", "--runs", str(tmp_path)]
    for name in ("table1", "table11", "figure8"):
        assert main(["grid", name, *flags, "--slots", "2"]) == 0, capsys.readouterr().err
    assert "fixed" in capsys.readouterr().out


def test_dry_run_says_what_is_done_and_what_it_costs(tmp_path, capsys):
    flags = ["--recipe", "digits", "--epochs", "1", "--seeds", "0", "--runs", str(tmp_path)]
    assert main(["run", "--method", "random", "--epochs", "1", "--runs", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["grid", "table3", *flags, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("finished") for line in lines) == 1
    assert lines[-1] == "6 runs, 5 epochs to train."
    assert len(list(tmp_path.glob("*/config.json"))) == 1


def write(tmp_path, text):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    return file


def test_a_file_is_the_product_of_its_lists(tmp_path):
    file = write(
        tmp_path,
        """
        recipe: digits
        method: [random, dense, {name: rigl, drop_fraction: 0.2}]
        sparsity: [0.5, 0.9]
        sign_in: [false, true]
        seed: [1, 2]
        epochs: 3
        leave_out: [{method: rigl, sign_in: true}, {sparsity: 0.5, seed: 2}]
        add: [{method: gmp, sparsity: 0.7, sign_in: false, seed: 5, lr: 1, exclude: ["8"]}]
        """,
    )
    runs = find_grid(str(file))
    found = Counter((run.method, run.sparsity) for run in runs)
    assert found == {
        ("random", 0.5): 2, ("random", 0.9): 4, ("dense", 0.0): 4,
        ("rigl", 0.5): 1, ("rigl", 0.9): 2, ("gmp", 0.7): 1,
    }  # fmt: skip
    assert {run.options.drop_fraction for run in runs if run.method == "rigl"} == {0.2}
    assert {run.settings.epochs for run in runs} == {3}
    (gmp,) = (run for run in runs if run.method == "gmp")
    assert repr(gmp.settings.lr) == "1.0" and gmp.exclude == ("8",)
    assert {run.seed for run in read_grid(file, seeds=(7,))} == {7}


@pytest.mark.parametrize(
    "text, message",
    [
        ("method: [random", "is not YAML"),
        ("- random", "is not a mapping"),
        ("method: randm", "unknown method 'randm'"),
        ("method: random\nsparcity: 0.9", "unknown field 'sparcity'"),
        ("method: random\nsparsity: 1.5", "sparsity must be in"),
        ("method: {drop_fraction: 0.2}", "needs its name"),
        ("method: random\nadd: {seed: 1}", "add must be a list of mappings"),
        ("method: random\nleave_out: [{metod: random}]", "unknown key of leave_out 'metod'"),
        ("method: random\nseed: x", "seed must be of type int, not 'x'"),
        ("method: random\nsign_in: 1", "sign_in must be of type bool, not 1"),
        ("method: {name: random, density: erc}", "unknown density 'erc', did you mean erk?"),
        ("method: random\nexclude: head", "exclude must be a list, not 'head'"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, capsys, text, message):
    assert main(["grid", str(write(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_file_and_a_circle_are_named():
    with pytest.raises(UserError, match=r"cannot read nowhere\.yaml"):
        find_grid("nowhere.yaml")
    run = Run.make("digits", "random")
    object.__setattr__(run.options, "density", "erk")
    circle = Run.make("digits", "fixed", mask="x@final")
    object.__setattr__(circle.options, "mask", f"{circle.name}@final")
    assert in_order([run]) == [run]
