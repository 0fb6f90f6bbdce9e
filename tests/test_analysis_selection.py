"""Hyper-parameters are chosen by validation accuracy, whatever the test accuracy is."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from synthetic_runs import write_runs
from test_analysis_tables import write_run

from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.selection import VALIDATION, choose_by_validation
from analysis.tables import make_table, swept_fields
from analysis.tables.sheet import to_text
from baselines.errors import UserError


def write_sweep(root, by_lr, sign_in=False, label="random", test=None, own=None, **fields):
    """Write runs of several lr: `by_lr` has the validation accuracies of the seeds.

    Args:
        own: settings of Sign-In.
    """
    for lr, values in by_lr.items():
        for seed, value in enumerate(values):
            accuracy = None if value is None else (test or by_lr)[lr][seed]
            settings = {"lr": lr, "validation": 0.1, "sign_in": own or {}, **fields}
            folder = root / f"{lr}{label}{sign_in}"
            folder = write_run(folder, label, accuracy, seed, sign_in, settings=settings)
            if value is not None:
                path = folder / "result.json"
                result = json.loads(path.read_text()) | {"validation_accuracy": value}
                path.write_text(json.dumps(result))


def load(root):
    return load_runs([folder for part in sorted(root.iterdir()) for folder in list_runs(part)])


PLAIN = {0.05: [0.80, 0.82, 0.81], 0.1: [0.90, 0.91, 0.92], 0.2: [0.91, 0.89, 0.90]}
SIGN_IN = {0.05: [0.80, 0.82, 0.81], 0.1: [0.90, 0.91, 0.92], 0.2: [0.93, 0.92, 0.91]}
# the test accuracy is best where the validation accuracy is worst
TEST = {0.05: [0.99, 0.98, 0.97], 0.1: [0.85, 0.86, 0.87], 0.2: [0.95, 0.96, 0.97]}


def test_the_choice_is_by_validation_for_each_row(tmp_path):
    write_sweep(tmp_path, PLAIN, test=TEST)
    write_sweep(tmp_path, SIGN_IN, sign_in=True, test=TEST)
    write_sweep(tmp_path, {0.1: [0.7, 0.7, 0.7]}, label="gmp")
    runs = load(tmp_path)
    assert swept_fields(runs) == ["settings.lr"]
    table = make_table("compare", runs, select=["lr"])
    found = table.numbers.set_index(["label", "sign_in"])
    assert found["settings.lr"].to_dict() == {
        ("random", False): 0.1,
        ("random", True): 0.2,
        ("gmp", False): 0.1,  # nothing to choose
    }
    assert found["accuracy"]["random", False] == pytest.approx(86)
    assert found["validation"]["random", True] == pytest.approx(92)
    assert found["gain"]["random", True] == pytest.approx(10)  # of the chosen runs
    text = to_text(table.sheets[-1])
    assert "at the chosen lr" in text and "lr (chosen)" in text
    assert "lr was chosen for each row among 0.05, 0.1, 0.2, by the mean validation" in text
    assert "(10% of the training examples)" in text


def test_fractions_and_accuracies_of_validation_have_columns_of_their_own(tmp_path):
    for fraction, by_lr in ((0.1, PLAIN), (0.2, SIGN_IN)):
        write_sweep(tmp_path / str(fraction), by_lr, validation=fraction)
    runs = load_runs([f for part in sorted(tmp_path.glob("*/*")) for f in list_runs(part)])
    cells = make_table("compare", runs, select=["lr"]).sheets[-1].cells
    assert cells["validation"].tolist() == ["0.1", "0.2"]
    assert cells["validation accuracy"].tolist() == ["91.00", "92.00"]


def test_the_papers_tables_and_ranks_can_have_chosen_values(tmp_path):
    write_sweep(tmp_path, PLAIN, test=TEST)
    write_sweep(tmp_path, SIGN_IN, sign_in=True, test=TEST)
    runs = load(tmp_path)
    with pytest.raises(UserError, match="differ in lr"):
        make_table("3", runs)
    table = make_table("3", runs, select=["lr"])
    cells = table.numbers[table.numbers["column"] == "s = 0.9"].set_index("row")["accuracy"]
    assert cells["Random"] == pytest.approx(86) and cells["Random + Sign-In"] == pytest.approx(96)
    assert "Random + Sign-In at 0.9: lr 0.2" in table.sheets[0].notes


def test_tables_without_columns_of_chosen_values_have_them_in_notes(tmp_path):
    runs = write_runs(tmp_path, ("random", "rigl"), (0.8, 0.9))
    unchosen = {"settings.sign_in.rescale_until": 0.5, VALIDATION: 0.8}
    better = {"settings.lr": 0.1, VALIDATION: 0.9}
    runs = runs.assign(**unchosen)
    runs = pd.concat([runs, runs.assign(**better)], ignore_index=True)
    for name in ("flips", "ranks"):
        notes = make_table(name, runs, select=["lr"]).sheets[-1].notes
        assert any("lr was chosen for each row among 0.1, 0.2" in note for note in notes)
        assert "RigL + Sign-In at 0.9: lr 0.1" in notes
    others = pd.concat([runs, runs.assign(recipe="fashion")], ignore_index=True)
    notes = make_table("ranks", others, select=["lr"]).sheets[-1].notes
    assert "RigL + Sign-In at 0.9 on fashion: lr 0.1" in notes


def test_values_with_fewer_seeds_are_not_chosen(tmp_path):
    write_sweep(tmp_path, {0.1: [0.90, 0.91, 0.92], 0.2: [0.99, None, None]})
    choice = choose_by_validation(load(tmp_path), ["lr"])
    assert set(choice.runs["settings.lr"]) == {0.1}
    assert "seeds failed or are missing" in choice.notes[-1]


def test_values_at_which_all_seeds_failed_are_not_said_to_be_considered(tmp_path):
    write_sweep(tmp_path, {0.1: [0.90, 0.91], 0.2: [0.80, 0.81]})
    assert len(choose_by_validation(load(tmp_path), ["lr"]).notes) == 1
    write_sweep(tmp_path, {0.4: [None, None]})
    among, note = choose_by_validation(load(tmp_path), ["lr"]).notes
    assert "among 0.1, 0.2, 0.4," in among
    assert note == "values at which seeds failed or are missing were not considered"


def test_several_fields_are_chosen_together(tmp_path):
    better = {0.1: [0.90, 0.91, 0.92], 0.2: [0.95, 0.95, 0.95]}
    write_sweep(tmp_path / "a", better, weight_decay=0.0)
    write_sweep(tmp_path / "b", {0.1: [0.97, 0.97, 0.97], 0.2: [0.9] * 3}, weight_decay=1e-3)
    runs = load_runs([f for part in sorted(tmp_path.glob("*/*")) for f in list_runs(part)])
    chosen = choose_by_validation(runs, ["lr", "weight_decay"]).runs
    assert set(zip(chosen["settings.lr"], chosen["settings.weight_decay"], strict=True)) == {
        (0.1, 1e-3)
    }
    each = choose_by_validation(runs, ["lr"]).runs  # one for each weight decay
    assert set(zip(each["settings.lr"], each["settings.weight_decay"], strict=True)) == {
        (0.2, 0.0),
        (0.1, 1e-3),
    }


def test_decays_of_sign_in_are_chosen_with_the_weight_decay_that_they_follow(tmp_path):
    # the folders of runs have the decays as values: SGD's acts on the product
    for decay, value in ((1e-4, 0.90), (5e-4, 0.92)):
        seeds = {0.1: [value, value + 0.01, value - 0.01]}
        own = {"frobenius_decay": decay, "sign_in_weight_decay": 0.0}
        for sign_in in (False, True):
            root = tmp_path / f"{decay}{sign_in}"
            write_sweep(root, seeds, sign_in, own=own, weight_decay=decay)
    runs = load_runs([f for part in sorted(tmp_path.glob("*/*")) for f in list_runs(part)])
    table = make_table("compare", runs, select=["weight_decay"])
    found = table.numbers.set_index("rule")
    assert found["settings.weight_decay"].to_dict() == {"": 5e-4, "Sign-In": 5e-4}
    assert found["gain"]["Sign-In"] == pytest.approx(0)
    notes = table.sheets[-1].notes
    assert any(n.startswith("frobenius_decay was chosen for each row among 0.0001,") for n in notes)
    assert not any("nan" in note for note in notes)
    notes = make_table("3", runs, select=["lr", "weight_decay"]).sheets[0].notes
    assert "Random at 0.9: lr 0.1, weight_decay 0.0005" in notes
    assert "Random + Sign-In at 0.9: lr 0.1, weight_decay 0.0005, frobenius_decay 0.0005" in notes


def write_validated(root, label, value, *args, **fields):
    """Write runs of three seeds with the validation accuracy `value`."""
    for seed in range(3):
        folder = write_run(root / f"{label}{args}", label, value - 0.1, seed, *args, **fields)
        result = json.loads((folder / "result.json").read_text()) | {"validation_accuracy": value}
        (folder / "result.json").write_text(json.dumps(result))


def test_options_of_methods_can_be_chosen(tmp_path):
    for drop, value in ((0.2, 0.9), (0.3, 0.95)):
        options = {"drop_fraction": drop}
        write_validated(tmp_path, f"rigl (drop_fraction={drop})", value, options=options)
    numbers = make_table("compare", load(tmp_path), select=["drop_fraction"]).numbers
    assert numbers["label"].tolist() == ["rigl"]
    assert numbers["options.drop_fraction"].tolist() == [0.3]


def test_other_options_with_sign_in_than_without_are_still_of_one_method(tmp_path):
    for drop, accuracies in ((0.3, (0.95, 0.9)), (0.1, (0.9, 0.96))):
        for rule, value in enumerate(accuracies):
            for density in ("erk", "uniform"):
                told = ["uniform"] * (density == "uniform")
                told += ["drop_fraction=0.1"] * (drop == 0.1) + ["sizes=[1, 2]"]
                options = {"drop_fraction": drop, "density": density}
                label = f"rigl ({', '.join(told)})"
                write_validated(tmp_path, label, value, bool(rule), options=options)
    table = make_table("compare", load(tmp_path), select=["drop_fraction"]).numbers
    found = table.set_index(["label", "rule"])
    labels = ("rigl (sizes=[1, 2])", "rigl (uniform, sizes=[1, 2])")
    assert found["options.drop_fraction"].to_dict() == {
        (label, rule): drop for label in labels for rule, drop in (("", 0.3), ("Sign-In", 0.1))
    }
    assert found["gain"].dropna().tolist() == pytest.approx([1, 1])


def test_the_value_none_can_be_chosen(tmp_path):
    for depth, value in ((None, 0.95), (2, 0.9)):
        label = f"mine (depth={depth})"
        write_validated(tmp_path, label, value, options={"depth": depth})
    numbers = make_table("compare", load(tmp_path), select=["depth"]).numbers
    assert numbers["label"].tolist() == ["mine"] and numbers["options.depth"].isna().all()
    assert numbers["validation"].tolist() == pytest.approx([95])


def test_nothing_is_chosen_by_test_accuracy(tmp_path):
    for lr in (0.1, 0.2):
        write_run(tmp_path / str(lr), "random", 0.9, settings={"lr": lr})
    with pytest.raises(UserError, match="lr cannot be chosen: .*--validation 0.1"):
        make_table("compare", load(tmp_path), select=["lr"])
    with pytest.raises(UserError, match="unknown field"):
        make_table("compare", load(tmp_path), select=["l"])
