"""Run folders' names: stable when fields are added, different when anything differs."""

from __future__ import annotations

import dataclasses

import pytest

from baselines import Method, Options
from baselines.errors import UserError
from baselines.fields import changed
from launch.config.recipe import Recipe
from launch.config.run import Run, warn_of_short
from launch.config.shell import run_command


def test_a_command_line_leaves_out_settings_without_effect():
    """A grid has plain runs with settings of Sign-In; `signbench run` refuses those."""
    plain = Run.make("digits", "random", beta=2.0, ham_alpha=3.0)
    assert run_command(plain) == "signbench run --recipe digits --method random"
    assert plain.name == Run.make("digits", "random").name
    for rule, flag in (("sign_in", "--beta 2.0"), ("ham", "--ham-alpha 3.0")):
        assert flag in run_command(dataclasses.replace(plain, **{rule: True}))


@pytest.mark.parametrize(
    "recipe, method, choices, name",
    [
        ("digits", "dense", {}, "digits-dense-seed0-4f3d62ff"),
        (
            "digits",
            "random",
            {"sparsity": 0.95, "sign_in": True, "seed": 2, "beta": 2.0},
            "digits-random-signin-s0.95-seed2-eb5a51de",
        ),
        (
            "cifar10-resnet20",
            "random",
            {"density": "erk", "epochs": 5},
            "cifar10-resnet20-random-s0.9-seed0-a2242e2d",
        ),
        (
            "digits",
            "acdc",
            {"sparsity": 0.8, "sign_in": True, "rescale_period": 0, "rescale_masks_late": True},
            "digits-acdc-signin-s0.8-seed0-8aaa69fa",
        ),
        (
            "digits",
            "rigl",
            {"drop_fraction": 0.2, "seed": 1, "update_every": 100},
            "digits-rigl-s0.9-seed1-a0f578e0",
        ),
        (
            "digits",
            "acdc",
            {"sparsity": 0.8, "sign_in": True, "rescale_period": 0},
            "digits-acdc-signin-s0.8-seed0-920b8c3c",
        ),
        (
            "digits",
            "str",
            {"sparsity": 0.5, "keep_epochs": (3, 7), "mode": "target"},
            "digits-str-s0.5-seed0-1e3df91d",
        ),
        ("digits", "mw", {"beta": 2.0, "frobenius_decay": 0}, "digits-mw-s0.9-seed0-0c4071e9"),
        ("digits", "lrr", {"level_length": 0.25}, "digits-lrr-s0.9-seed0-f7c7036f"),
        (
            "digits",
            "fixed",
            {"mask": "a@final", "signs": "random", "flip_signs": 0.2, "sign_in": True},
            "digits-fixed-signin-s0.9-seed0-a576b4f1",
        ),
        (
            "cifar100-resnet18",
            "synflow",
            {"sparsity": 0.95, "exclude": ("fc*",), "precision": "float32"},
            "cifar100-resnet18-synflow-s0.95-seed0-3616619b",
        ),
        (
            "imagenet-resnet50",
            "snip",
            {"batch_size": 256, "lr": 0.1, "sign_in": True, "sample_batch_size": 0},
            "imagenet-resnet50-snip-signin-s0.9-seed0-39adc1a4",
        ),
        (
            "imagenet-resnet50",
            "snip",
            {"batch_size": 256, "lr": 0.1, "sign_in": True},
            "imagenet-resnet50-snip-signin-s0.9-seed0-088f9163",
        ),
        (
            "imagenet-deit-small",
            "random",
            {"sparsity": 0.5, "sign_in": True, "sign_in_decay_scope": "factors"},
            "imagenet-deit-small-random-signin-s0.5-seed0-35e9e343",
        ),
        (
            "imagefolder",
            "gmp",
            {"data": "my-images", "model": "resnet18", "bad_images": "skip", "scope": "global"},
            "imagefolder-gmp-s0.9-seed0-c930ad65",
        ),
    ],
)
def test_names_never_change(recipe, method, choices, name):
    # A changed name orphans everybody's runs of that kind. Do not change the names here.
    assert Run.make(recipe, method, **choices).name == name


@dataclasses.dataclass(frozen=True)
class ClashingOptions(Options):
    momentum: float = 0.5


class Clashing(Method[ClashingOptions]):
    name = "clashing"


def test_an_option_named_like_a_field_of_all_runs_is_refused():
    with pytest.raises(UserError, match="rename its option momentum, which is a field of every"):
        Run.make("digits", f"{__name__}:Clashing", lr=0.1)


def test_a_new_field_with_a_neutral_default_keeps_all_names():
    @dataclasses.dataclass(frozen=True)
    class Later(Recipe):
        new_field: int = 0

    run = Run.make("digits", "random", lr=0.3)
    later = dataclasses.replace(run, settings=Later(lr=0.3))
    assert later.name == run.name
    assert dataclasses.replace(run, settings=Later(lr=0.3, new_field=1)).name != run.name


def test_a_changed_default_gives_new_names_and_keeps_those_of_the_values_of_before():
    @dataclasses.dataclass(frozen=True)
    class Later(Recipe):
        lr: float = changed(0.3, before=0.05)
        new_field: int = changed(1, before=0)

    def name(settings):
        return dataclasses.replace(Run.make("digits", "random"), settings=settings).name

    assert name(Later(lr=0.05, new_field=0)) == Run.make("digits", "random").name
    assert name(Later(new_field=0)) == Run.make("digits", "random", lr=0.3).name
    assert name(Later(lr=0.05)) != Run.make("digits", "random").name


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


def test_decays_of_sign_in_follow_the_weight_decay():
    """A run whose decays of Sign-In change with this has a new name; any other keeps its name."""

    def named(recipe, method, **choices):
        return Run.make(recipe, method, **choices).name.rpartition("-")[2]

    more = {"weight_decay": 5e-4, "sign_in": True}
    before = named("digits", "random", **more, frobenius_decay=1e-4)
    assert before == "b4501b77" != named("digits", "random", **more)
    assert named("digits", "mw", weight_decay=5e-4, frobenius_decay=1e-4) == "a7e1d885"
    more = {"weight_decay": 1e-4, "sign_in": True}
    before = named("imagenet-resnet50", "random", **more, sign_in_weight_decay=5e-5)
    assert before == "fc79c57c" != named("imagenet-resnet50", "random", **more)
    assert named("digits", "random", sign_in=True) == named(
        "digits", "random", sign_in=True, frobenius_decay=1e-4, sign_in_decays="product"
    )
    adam = {"optimizer": "adamw", "sign_in": True}  # which decays the factors
    assert named("digits", "random", **adam) == named(
        "digits", "random", **adam, frobenius_decay=0, sign_in_weight_decay=1e-4
    )


@pytest.mark.parametrize(
    ("recipe", "choices", "theta", "others"),
    [
        ("digits", {}, 1e-4, 1e-4),
        ("digits", {"sign_in": True}, 1e-4, 0.0),
        ("digits", {"sign_in": True, "weight_decay": 5e-4}, 5e-4, 0.0),
        ("digits", {"sign_in": True, "beta": 4.0}, 4e-4, 0.0),
        ("digits", {"sign_in": True, "beta": 1.0, "beta_last": 4.0}, 2e-4, 0.0),
        ("digits", {"sign_in": True, "sign_in_decay_scope": "factors"}, 1e-4, 1e-4),
        ("digits", {"decay_norm_and_bias": False}, 1e-4, 0.0),
        ("digits", {"ham": True}, 2e-4, 1e-4),  # HAM's 1e-3, which no momentum multiplies by 10
        ("digits", {"ham": True, "ham_beta": 0.0}, 1e-4, 1e-4),
        ("digits", {"ham": True, "optimizer": "adamw"}, 1.1e-3, 1e-4),
        ("imagenet-resnet50", {"sign_in": True}, 1e-4, 5e-5),  # both factors decay with 5e-5
        ("imagenet-deit-small", {"sign_in": True}, 0.2, 0.0),
    ],
)
def test_decays_of_theta_and_of_the_others(recipe, choices, theta, others):
    found = Run.make(recipe, "random", **choices).decays
    assert found == pytest.approx({"theta": theta, "others": others})


def test_theta_decays_with_the_beta_of_the_method():
    def theta(method, **choices):
        return Run.make("digits", method, **choices).decays["theta"]

    assert theta("mw", beta=4.0) == pytest.approx(4e-4)
    assert theta("spred", beta=4.0, balance=0.01) == pytest.approx(1e-6)
    assert theta("spred", beta=4.0, balance=0.01, sign_in=True) == pytest.approx(4e-4)


def test_runs_that_are_too_short_for_sign_in_are_warned_of_once_for_each_length(tmp_path):
    def runs(method, epochs, **more):
        return [Run.make("digits", method, epochs=epochs, seed=s, **more) for s in (0, 1)]

    few = [*runs("random", 5, sign_in=True), *runs("snip", 5, sign_in=True), *runs("random", 5)]
    enough = [*runs("random", 6, sign_in=True), *runs("mw", 5), *runs("random", 5, ham=True)]
    enough += runs("random", 5, sign_in=True, rescale_period=0)
    # levels of a quarter of 20 epochs have 5
    levels = runs("lrr", 20, sign_in=True, level_length=0.25)
    with pytest.warns(UserWarning) as caught:
        warn_of_short([*few, *enough], tmp_path)
        warn_of_short(levels, tmp_path)
        warn_of_short(levels[:1], tmp_path)
        warn_of_short(runs("random", 3, sign_in=True, rescale_until=0.6), tmp_path)
    texts = [str(warning.message) for warning in caught]
    start = "Sign-In does not rescale after the first epoch: too few epochs (5) for rescale_period "
    end = "1 and rescale_until 0.5. Give more epochs, a larger rescale_until, or rescale_period=0 "
    whole = f"{start}{end}for plain m ⊙ w."
    assert texts[0] == f"{whole} (4 of 14 runs: random, snip)"
    assert texts[1:3] == [f"{whole} (2 of 2 runs: lrr)", whole]
    assert len(texts) == 4 and "epochs (3)" in texts[3] and "rescale_until 0.6" in texts[3]


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
    ],
)
def test_values_that_are_not_allowed_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    "method, choices, told",
    [
        ("random", {"sign_in": True, "sparsity": 0.5}, ""),
        ("random", {"density": "uniform", "model": "mine"}, " (density=uniform, model=mine)"),
        ("fixed", {"mask": "a@final", "signs": "random"}, " (mask=a@final, signs=random)"),
        ("rigl", {"lr": 0.5, "exclude": ("a*", "b")}, " (lr=0.5, exclude=a* b)"),
        ("rigl", {"beta": 2.0, "sign_in": True}, " (beta=2.0)"),
        ("rigl", {"ham_alpha": 5.0, "ham": True}, " (ham_alpha=5.0)"),
        ("rigl", {"ham_alpha": 5.0}, ""),
        ("rigl", {"beta": 2.0}, ""),  # has no effect, and the name does not depend on it
    ],
)
def test_titles_say_what_names_do_not(method, choices, told):
    run = Run.make("digits", method, **choices)
    assert run.title == run.name + told
