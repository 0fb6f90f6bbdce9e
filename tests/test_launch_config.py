"""Run folders' names: stable when fields are added, different when anything differs."""

from __future__ import annotations

import dataclasses

import pytest

from baselines.errors import UserError
from launch.config.recipe import Recipe, SignIn
from launch.config.recipes import RECIPES
from launch.config.run import Run


@pytest.mark.parametrize(
    "run, name",
    [
        (Run.make("digits", "dense"), "digits-dense-seed0-4f3d62ff"),
        (
            Run.make("digits", "random", sparsity=0.95, sign_in=True, seed=2, beta=2.0),
            "digits-random-signin-s0.95-seed2-eb5a51de",
        ),
        (
            Run.make("cifar10-resnet20", "random", density="erk", epochs=5),
            "cifar10-resnet20-random-s0.9-seed0-a2242e2d",
        ),
    ],
)
def test_names_never_change(run, name):
    # A changed name orphans the runs of everybody who has some. Do not mend this test.
    assert run.name == name


def test_a_new_field_with_a_neutral_default_keeps_all_names():
    @dataclasses.dataclass(frozen=True)
    class Later(Recipe):
        new_field: int = 0

    run = Run.make("digits", "random", lr=0.3)
    later = dataclasses.replace(run, settings=Later(lr=0.3))
    assert later.name == run.name
    assert dataclasses.replace(run, settings=Later(lr=0.3, new_field=1)).name != run.name


def test_every_choice_makes_another_run():
    base = {"sparsity": 0.9, "sign_in": True}
    names = [
        Run.make("digits", "random", **{**base, **change}).name
        for change in (
            {},
            {"seed": 1},
            {"sparsity": 0.8},
            {"sign_in": False},
            {"lr": 0.3},
            {"beta": 2.0},
            {"density": "erk"},
            {"exclude": ("fc",)},
            {"keep_epochs": (3,)},
        )
    ]
    assert len(set(names)) == len(names)


def test_settings_of_sign_in_do_not_matter_without_it():
    assert Run.make("digits", "random", beta=2.0).name == Run.make("digits", "random").name


def test_recipes_are_those_of_tables_6_and_7():
    rows = {
        "cifar10-resnet20": ("resnet20", 0.2, 1e-4, 150, 512, "sgd", 0.0, 1e-4, 0.0, 75),
        "cifar100-resnet18": ("resnet18-cifar", 0.2, 1e-4, 150, 512, "sgd", 0.0, 1e-4, 0.0, 75),
        "imagenet-resnet50": ("resnet50", 0.25, 5e-5, 100, 1024, "sgd", 0.1, 0.0, 5e-5, 75),
        "imagenet-deit-small": (
            "deit_small_patch16_224", 0.001, 0.1, 300, 1024, "adamw", 0.1, 0.0, 0.1, 225,
        ),
    }  # fmt: skip
    for name, row in rows.items():
        r = RECIPES[name]
        s = r.sign_in
        assert row == (
            r.model,
            r.lr,
            r.weight_decay,
            r.epochs,
            r.batch_size,
            r.optimizer,
            r.label_smoothing,
            s.frobenius_decay,
            s.sign_in_weight_decay,
            s.rescale_until * r.epochs,
        )
        assert (s.beta, r.momentum, r.warmup, r.lr_start) == (1.0, 0.9, 0.2, 0.2)


def test_labels_name_the_options_that_differ():
    assert Run.make("digits", "random").label == "random"
    assert Run.make("digits", "random", density="erk").label == "random (erk)"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Run.make("digit", "dense"), "unknown recipe 'digit', did you mean digits"),
        (lambda: Run.make("digits", "dens"), "unknown method 'dens', did you mean dense"),
        (lambda: Run.make("digits", "random", epoch=5), "unknown field 'epoch', did you mean epo"),
        (lambda: Run.make("digits", "dense", density="erk"), "unknown field 'density'"),
        (lambda: Run.make("digits", "random", sparsity=1.0), r"sparsity must be in \[0, 1\)"),
        (lambda: Run.make("digits", "random", sparsity=float("nan")), "sparsity must be"),
        (lambda: Run.make("digits", "dense", sparsity=0.5), "keeps every weight"),
        (lambda: Run.make("digits", "dense", seed=-1), "seed must not be negative"),
        (lambda: Run.make("digits", "dense", epochs=0), "epochs must be positive"),
        (lambda: Run.make("digits", "dense", keep_epochs=(31,)), "31 is not in 0 to 20"),
        (lambda: Recipe(lr=float("nan")), "lr must be positive"),
        (lambda: Recipe(warmup=1.5), r"warmup must be in \[0, 1\]"),
        (lambda: Recipe(nesterov=True, momentum=0.0), "nesterov needs a momentum"),
        (lambda: SignIn(beta=-1.0), "beta must be positive"),
        (lambda: SignIn(rescale_period=-1), "rescale_period must not be negative"),
    ],
)
def test_values_that_are_not_allowed_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
