"""Grids from YAML files."""

from __future__ import annotations

from collections import Counter

import pytest

from baselines.errors import UserError
from launch.cli import main
from launch.config.grid_file import read_grid
from launch.config.grids import find_grid


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


def test_leave_out_takes_lists_and_options_of_methods(tmp_path):
    methods = "[random, {name: rigl, drop_fraction: 0.2}, {name: rigl, drop_fraction: 0.1}]"
    text = f"method: {methods}\nsparsity: [0.5, 0.8, 0.9]\nlr: [1e-3, 0.1]\nleave_out: "
    out = "{method: random, sparsity: [0.5, 0.8]}, {method: {name: rigl, drop_fraction: 0.2}}"
    runs = find_grid(str(write(tmp_path, text + f"[{out}, {{method: rigl, lr: 0.001}}]")))
    assert Counter((run.method, run.settings.lr) for run in runs) == {
        ("random", 0.001): 1, ("random", 0.1): 1, ("rigl", 0.1): 3,
    }  # fmt: skip
    with pytest.warns(UserWarning, match="no combination has .*'sparsity': 0.7"):
        assert len(find_grid(str(write(tmp_path, text + "[{sparsity: 0.7}]")))) == 18


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
        ("method: random\noptions: 3", "options must be a mapping, not 3"),
        ("method: random\nleave_out: [{metod: random}]", "unknown key of leave_out 'metod'"),
        ("method: random\nseed: x", "seed must be of type int, not 'x'"),
        ("method: random\nsign_in: 1", "sign_in must be of type bool, not 1"),
        ("method: {name: random, density: erc}", "unknown density 'erc', did you mean erk?"),
        ("method: random\nseed: 1\nseed: 2", "seed is given twice"),
        ("add:\n- {method: random, lr: 1, lr: 2}", "lr is given twice"),
        ("method: random\nseed: []", "the grid has no runs"),
        ("method: random\nleave_out: [{method: random}]", "the grid has no runs"),
        ("method: random\nexclude: head", "exclude must be a list, not 'head'"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, capsys, text, message):
    assert main(["grid", str(write(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"cannot read nowhere\.yaml"):
        find_grid("nowhere.yaml")
