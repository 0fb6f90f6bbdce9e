"""`--set FIELD=VALUE` of a grid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from baselines.errors import UserError
from launch.cli import main
from launch.config import grid_file
from launch.config.assignments import OPTIONS_KEY, assignment, combinations, parse_assignments
from launch.config.grids import find_grid
from launch.config.recipe import Recipe


def grid_with(name, texts, **choices):
    return find_grid(name, parse_assignments(texts), **choices)


@pytest.mark.parametrize(
    "texts, choices",
    [
        ([], [{}]),
        (["lr=0.1"], [{"lr": 0.1}]),
        (["lr=1e-2"], [{"lr": "1e-2"}]),  # YAML's; the run makes it a number
        (["lr=0.1, 0.2", "flip=true"], [{"lr": 0.1, "flip": True}, {"lr": 0.2, "flip": True}]),
        (["batch-size=64"], [{"batch_size": 64}]),
        (["seed=1,2", "method=rigl,snip"], [{"seeds": (1, 2), "methods": ("rigl", "snip")}]),
        (["exclude=fc,conv1"], [{"exclude": ("fc", "conv1")}]),
        (["keep_epochs=1,2", "exclude="], [{"keep_epochs": (1, 2), "exclude": ()}]),
        (["data=10", "model=a,b"], [{"data": "10", "model": "a"}, {"data": "10", "model": "b"}]),
        (["alpha=1", "lr=2"], [{"lr": 2, OPTIONS_KEY: {"alpha": 1}}]),
    ],
)
def test_texts_become_choices(texts, choices):
    assert list(combinations(parse_assignments(texts))) == choices


@pytest.mark.parametrize(
    "key, value", [("exclude", ("fc", "8.weight")), ("flip", True), ("lr", 1e-05), ("data", "10")]
)
def test_a_field_is_read_as_it_is_written(key, value):
    (choices,) = combinations(parse_assignments([assignment(key, value)]))
    found = choices[key]
    assert (float(found) if key == "lr" else found) == value


def test_any_field_of_a_named_grid_can_be_set():
    sets = ["lr=1e-2,0.2", "exclude=8.weight", "beta=2", "drop_fraction=0.1", "model=resnet20"]
    runs = grid_with("table10", sets, recipe="digits", epochs=3, seeds=(0,), methods=("rigl",))
    usual = find_grid("table10", recipe="digits", epochs=3, seeds=(0,), methods=("rigl",))
    assert len(runs) == 2 * len(usual)
    assert {run.settings.lr for run in runs} == {0.01, 0.2}
    assert {run.settings.sign_in.beta for run in runs} == {2.0}
    assert {(run.exclude, run.settings.model) for run in runs} == {(("8.weight",), "resnet20")}
    assert {run.options.drop_fraction for run in runs if run.method == "rigl"} == {0.1}
    names = {run.name for run in runs}
    assert all(need in names for run in runs for need in run.needs)


def test_what_is_set_holds_for_the_runs_that_train_learned_masks():
    chosen = {"recipe": "digits", "epochs": 20, "seeds": (0,), "methods": ("acdc",)}
    usual = find_grid("table1", **chosen)
    layer = grid_with("table1", ["magnitude_kind=layer"], **chosen)
    fixed = [run for run in layer if run.method == "fixed"]
    assert {run.options.magnitude_kind for run in fixed} == {"layer"}
    assert [replace(r.options, magnitude_kind="each") for r in fixed] == [
        run.options for run in usual if run.method == "fixed"
    ]
    assert {r.keep_epochs for r in grid_with("table1", ["keep_epochs=5"], **chosen)} == {(5,)}
    five = grid_with("figure5", ["keep_epochs=5"], **chosen)
    assert {run.keep_epochs for run in five} == {(0, 2, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20)}


@pytest.mark.parametrize(
    "name, text", [("signs", "flip_signs=0.2"), ("signs", "flip_signs=0"), ("table1", "mask=x")]
)
def test_options_that_a_grid_gives_itself_are_refused(name, text):
    with pytest.raises(UserError, match=f"the grid decides {text.partition('=')[0]} itself"):
        grid_with(name, [text], recipe="digits", epochs=20, seeds=(0,), methods=("acdc",))


def test_options_of_all_methods_of_a_grid_can_be_set():
    chosen = {"recipe": "digits", "seeds": (0,), "methods": ("fixed",)}
    runs = grid_with("decay", ["mask=x-12345678"], **chosen)
    assert {run.options.mask for run in runs} == {"x-12345678@final"}


def test_options_that_replace_values_of_a_grid_are_told():
    with pytest.warns(UserWarning, match="with initial_sparsity, denser has 6 runs rather than 10"):
        runs = grid_with("denser", ["initial_sparsity=0.5"], recipe="digits", seeds=(0,))
    assert {r.options.initial_sparsity for r in runs if r.method == "gmp"} == {0.5}


def test_a_yaml_grid_can_be_set_too(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("recipe: digits\nmethod: [random, dense]\nlr: 0.3\nseed: [0, 1]")
    runs = grid_with(str(file), ["lr=0.1,0.2", "sign_in=true", "seed=5"])
    assert {(r.method, r.settings.lr, r.sign_in, r.seed) for r in runs} == {
        (method, lr, True, 5) for method in ("random", "dense") for lr in (0.1, 0.2)
    }


def test_the_limit_of_runs_holds_for_all_combinations_together(tmp_path, monkeypatch):
    file = tmp_path / "grid.yaml"
    file.write_text("recipe: digits\nmethod: [random, dense]\nseed: [0, 1]")
    monkeypatch.setattr(grid_file, "MOST_RUNS", 11)
    for name in (str(file), "table3"):
        usual = len(grid_with(name, ["lr=0.1"], recipe="digits", seeds=(0,)))
        values = ",".join(f"0.{i}" for i in range(1, 11 // usual + 1))
        assert len(grid_with(name, [f"lr={values}"], recipe="digits", seeds=(0,))) <= 11
        with pytest.raises(UserError, match=r"a grid has at most 11 runs, not 1\d"):
            grid_with(name, [f"lr={values},1"], recipe="digits", seeds=(0,))


@pytest.mark.parametrize(
    "sets, message",
    [
        (["lr"], "--set takes FIELD=VALUE"),
        (["lr=1", "lr=2"], "two values of lr: separate alternatives by commas"),
        (["lr=x"], "lr must be of type float, not 'x'"),
        (["weight_deca=1"], "unknown field 'weight_deca', did you mean weight_decay"),
        (["drop_fraction=1"], "unknown field 'drop_fraction'"),  # no method of the grid has it
        (["sign_in=true"], "table3 decides sign_in itself"),
        (["method=rigl"], "the methods of table3 are fixed"),
        (["epochs=1"], "epochs is given twice"),
    ],
)
def test_mistakes_are_named(sets, message):
    with pytest.raises(UserError, match=message):
        grid_with("table3", sets, epochs=1)


def test_an_unknown_flag_that_is_a_field_says_how_to_set_it(capsys):
    for flags, expected in (
        (["--batch-size", "8"], "no --batch-size: a grid takes it as --set batch_size=VALUE."),
        (["--lr=8"], "no --lr: a grid takes it as --set lr=VALUE."),
        (["--seed", "1"], "--seeds"),
    ):
        assert main(["grid", "quick", *flags]) == 2
        assert expected in capsys.readouterr().err
    assert Recipe().lr == 0.05
