"""Grids: the paper's, and a user's own."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections import Counter

import pandas as pd
import pytest

from analysis.protocol import LABELS, NUMBERS, OPTIONS
from baselines.errors import UserError
from launch.cli import main
from launch.config.grids import GRIDS, find_grid

# runs at the paper's recipes, worked out from its tables
SIZES = {
    "table1": 3 * 7,  # three methods, seven rows
    "table3": 3 * 3 * 2 * 3,  # sets, sparsities, with and without, seeds
    "table4": 2 * 3,
    "table5": 3 * 2 * 3,
    "table9": 2 * 3 * 3 * 2 * 3,  # sets, methods, sparsities, with and without, seeds
    "table10": (3 * 3 + 3 * 2) * 3,  # learned masks need their source; the others do not
    "table11": 3 * 3 * 3 * 3,
    "ham": 3 * 3 * 3 * 3,  # methods, sparsities, rules, seeds
    "signs": 3 * 3 * (1 + 6 * 2),  # methods, seeds, the mask and shares with and without
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


def test_a_method_without_variants_has_its_defaults_in_the_fashion_grid():
    runs = find_grid("fashion", methods=("oneshot", "lrr"), seeds=(0,))
    assert [run.label for run in runs[::2]] == ["oneshot", "lrr (level_length=0.25)"]


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


def test_early_signs_of_acdc_are_those_of_dense_epochs():
    runs = find_grid("table1", recipe="cifar10-resnet20", methods=("acdc", "rigl"))
    signs = {run.options.signs.rpartition("@")[2] for run in runs if run.method == "fixed"}
    assert signs == {"10", "40", "15", "45", "final", "random"}
    assert [run.early_epochs for run in runs if run.method != "fixed"] == [(10, 40), (15, 45)]


def test_signs_are_reversed_in_the_masks_own():
    runs = find_grid("signs", recipe="digits", epochs=20, seeds=(3,), methods=("rigl",))
    base, *others = runs
    shares = sorted((run.options.flip_signs, run.sign_in) for run in others)
    assert shares == sorted(
        (share, rule) for share in (0, 0.05, 0.1, 0.2, 0.35, 0.5) for rule in (False, True)
    )
    final = f"{base.name}@final"
    assert {(run.options.mask, run.options.signs) for run in others} == {(final, final)}
    assert {(run.options.magnitudes, run.seed) for run in others} == {("random", 1003)}
    table1 = find_grid("table1", recipe="digits", epochs=20, seeds=(3,), methods=("rigl",))
    assert others[0].name in {run.name for run in table1}  # none is reversed


@pytest.mark.parametrize("number", NUMBERS)
def test_the_papers_protocol_changes_random_masks_and_synflow_only(number):
    name = f"table{number}"
    runs, published = find_grid(name), find_grid(name, protocol="paper")
    assert len(published) == SIZES[name] == len({run.name for run in published})
    for ours, theirs in zip(runs, published, strict=True):
        assert dataclasses.replace(theirs, options=ours.options) == ours
        same = ours.method not in OPTIONS
        assert (theirs == ours) == same
        assert same or LABELS[theirs.label] == ours.label
    assert {run.label for run in published} >= {"random (legacy-balanced)"}
    synflow = {run.options.iterations for run in published if run.method == "synflow"}
    assert synflow == ({1} if number in ("9", "10") else set())


@pytest.mark.parametrize("name", ["quick", "table1", "table4", "figure1"])
def test_grids_that_are_the_same_in_all_protocols_refuse_one(name):
    with pytest.raises(UserError, match="protocol paper is for tables 3, 9, 10, 11, not"):
        find_grid(name, protocol="paper")


def test_decay_separates_sign_in_from_its_decays():
    """Each plain run has a partner with Sign-In whose decays of θ and of the others are equal."""
    for recipe, lam in (("digits", 1e-4), ("imagenet-resnet50", 5e-5)):
        runs = find_grid("decay", recipe=recipe, epochs=5, seeds=(0,))
        found = {run.sign_in: set() for run in runs}
        for run in runs:
            found[run.sign_in].add(
                (round(run.decays["theta"] / lam, 6), run.decays["others"] / lam)
            )
        assert found[False] == {(1, 1), (2, 2), (1, 0)}
        assert (1, 1) in found[True]
    assert {(1, 1), (1, 0), (2, 0)} <= decays_of_digits()
    assert len(find_grid("decay", recipe="digits", weight_decay=0.0, seeds=(0,))) == 5
    # settings of the grid decide what decays: with AdamW the factors, with SGD θ
    for recipe, optimizer in (("cifar10-resnet20", "adamw"), ("imagenet-deit-small", "sgd")):
        runs = find_grid("decay", recipe=recipe, optimizer=optimizer, seeds=(0,))
        ours = [run for run in runs if run.sign_in]
        assert len({decays_with_factors(run) for run in ours}) == len(ours)


def decays_with_factors(run):
    """Return the decays of θ, of the factors, of other weights, and of normalisation and biases."""
    rule, recipe = run.settings.sign_in_decayed, run.settings
    own, rest = rule.weight_decays(recipe.weight_decay)
    return rule.frobenius_decay, own, rest, rest if recipe.decay_norm_and_bias else 0.0


def decays_of_digits():
    runs = find_grid("decay", recipe="digits", epochs=5, seeds=(0,))
    return {
        (round(run.decays["theta"] / 1e-4, 6), run.decays["others"] / 1e-4)
        for run in runs
        if run.sign_in
    }


def test_grids_of_sign_in_vary_one_thing_and_share_the_runs_in_the_middle():
    """Sign-In at its defaults and the plain run are in both grids of settings, and in table3."""
    at = {"recipe": "digits", "seeds": (0,), "sparsity": 0.9}
    grids = {name: find_grid(name, **at) for name in ("rescaling", "beta", "table3")}
    names = {name: {run.name for run in runs} for name, runs in grids.items()}
    assert names["rescaling"] & names["beta"] == names["table3"] and len(names["table3"]) == 2
    rescaled = {
        (run.settings.sign_in.rescale_period, run.settings.sign_in.rescale_until)
        for run in grids["rescaling"]
    }
    tried = set(itertools.product((1, 2, 5), (0.25, 0.5, 1.0)))
    assert rescaled == {(0, 0.5), *tried} - {(5, 0.25)}  # of 20 epochs: T₂ is 5, and i = 5 is not
    short = find_grid("rescaling", **at, epochs=10)
    kept = {(r.settings.sign_in.rescale_period, r.settings.sign_in.rescale_until) for r in short}
    # i = 1, before the first step, changes nothing
    assert kept == {(0, 0.5), *tried} - {(1, 0.25), (2, 0.25), (5, 0.25), (5, 0.5)}
    betas = [
        (run.settings.sign_in.beta, run.settings.sign_in.beta_last)
        for run in grids["beta"]
        if run.sign_in
    ]
    assert len(betas) == 7 and {(0.5, 2.0), (2.0, 0.5), (1.0, 0.0)} <= set(betas)
    assert all(first * last == 1 for first, last in betas if last)


def test_denser_masks_are_multiples_of_the_density():
    runs = find_grid("denser", recipe="digits", seeds=(0,), sparsity=0.95)
    found = [(run.label, run.sign_in) for run in runs]
    pruned = ("gmp (initial_sparsity=0.9)", "gmp (initial_sparsity=0.8)", "gmp")
    labels = ("random", "random (uniform)", *pruned)
    assert found == list(itertools.product(labels, (False, True)))
    dense = find_grid("denser", recipe="digits", seeds=(0,), sparsity=0.5)
    assert {run.label for run in dense} == {"random", "random (uniform)", "gmp"}


def test_tables_share_runs():
    """Runs of one table are not trained again for another."""
    known = {run.name for run in find_grid("table3")}
    assert {run.name for run in find_grid("table11") if run.method == "random"} == known
    learned = {run.name for run in find_grid("table10") if run.method == "acdc"}
    assert learned <= {run.name for run in find_grid("table5")}


def test_every_grid_runs_on_digits(forked_workers, tmp_path, capsys):
    flags = ["--recipe", "digits", "--epochs", "1", "--seeds", "0", "--runs", str(tmp_path)]
    flags += ["--slots", "2", "--threads", "1"]
    methods = ["--methods", "acdc,rigl,str-target"]
    for name, more in (("table1", methods), ("table11", []), ("figure8", [])):
        assert main(["grid", name, *flags, *more]) == 0, capsys.readouterr().err
    assert "AC/DC mask" in capsys.readouterr().out


def test_dry_run_says_what_is_done_and_what_it_costs(tmp_path, capsys):
    flags = ["--recipe", "digits", "--epochs", "1", "--seeds", "0", "--runs", str(tmp_path)]
    assert main(["run", "--method", "random", "--epochs", "1", "--runs", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["grid", "table3", *flags, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("finished") for line in lines) == 1
    assert lines[-1] == "6 runs, 5 epochs to train."
    assert len(list(tmp_path.glob("*/config.json"))) == 1


def test_a_sweep_ends_with_what_was_chosen_by_what(forked_workers, tmp_path, capsys):
    grid = tmp_path / "sweep.yaml"
    grid.write_text("method: random\nlr: [0.001, 0.2]\nseed: [0, 1, 2]\nepochs: 2\n")
    flags = ["--runs", str(tmp_path / "runs"), "--slots", "2", "--threads", "1"]
    assert main(["grid", str(grid), *flags]) == 0
    assert "no choice of lr: --validation 0.1" in capsys.readouterr().out
    assert main(["grid", str(grid), "--validation", "0.2", *flags]) == 0
    out = capsys.readouterr().out
    assert "lr was chosen for each row among 0.001, 0.2, by the mean validation accuracy" in out
    assert "(20% of the training examples)" in out
    chosen = pd.read_csv(tmp_path / "runs" / "tables" / "sweep-chosen.csv")
    assert chosen["settings.lr"].tolist() == [0.2] and chosen["runs"].tolist() == [3]
    show = ["table", "compare", "--where", "validation=0.2", "--select", "lr", "--format", "csv"]
    assert main([*show, "--runs", str(tmp_path / "runs")]) == 0
    assert pd.read_csv(io.StringIO(capsys.readouterr().out)).equals(chosen)
