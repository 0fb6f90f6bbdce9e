"""The paper's recipes, and the values that recipes allow."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

import launch.config.recipes
from analysis.folder import read_result
from baselines.errors import UserError
from launch.commands.calibrate import CalibrateCommand
from launch.commands.run import parse_run
from launch.config.grids import find_grid
from launch.config.recipe import Recipe, SignIn
from launch.config.recipes import RECIPES, find_recipe
from launch.config.run import Run
from launch.config.shell import run_command
from launch.flags import parse
from launch.runs.reading import read_run
from launch.training.run import run_training


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
        s = r.sign_in_decayed
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


@pytest.mark.parametrize(
    "make, message",
    [
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


# ---- recipes in files


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.config.recipes, "RECIPES", dict(RECIPES))
    monkeypatch.setattr(launch.config.recipes, "_FILES", {})

    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    return write


def test_a_file_inherits_from_its_base(write):
    write("mine.yaml", "base: cifar10-resnet20\nlr: 1e-2\nrescale_until: 0.25\nham_beta: 0\n")
    write("sub/longer.yml", "base: ../mine.yaml\nepochs: 300")
    cifar, mine, longer = map(find_recipe, ("cifar10-resnet20", "mine.yaml", "sub/longer.yml"))
    rules = {"sign_in": replace(cifar.sign_in, rescale_until=0.25)}
    rules["ham"] = replace(cifar.ham, ham_beta=0.0)
    assert mine == replace(cifar, lr=0.01, **rules)
    assert longer == replace(mine, epochs=300)
    write("digits2.yaml", "lr: 0.2")
    assert find_recipe("digits2.yaml") == replace(RECIPES["digits"], lr=0.2)


def test_runs_have_the_name_of_the_file(write, tmp_path):
    write("recipes/mine.yaml", "lr: 0.2\nepochs: 3")
    made = Run.make("recipes/mine.yaml", "random", sign_in=True)
    given = parse_run(["--recipe", "recipes/mine.yaml", "--method", "random", "--sign-in"]).run
    assert made == given and made.recipe == "mine" and made.name.startswith("mine-random-signin")
    default = CalibrateCommand(Run.defaults("recipes/mine.yaml", "str"))
    flags = ["--recipe", "recipes/mine.yaml", "--sparsity", "0.8"]
    calibrated = parse(CalibrateCommand, flags, "calibrate", default).run
    assert calibrated.conditions == Run.make("recipes/mine.yaml", "str", sparsity=0.8).conditions
    write("grid.yaml", "recipe: [recipes/mine.yaml, digits]\nmethod: random\nlr: 0.1")
    assert {run.recipe for run in find_grid("grid.yaml")} == {"mine", "digits"}
    quick = find_grid("quick", recipe="recipes/mine.yaml", methods=["random"], seeds=(0,))
    assert {(run.recipe, run.settings.epochs) for run in quick} == {("mine", 3)}
    command = run_command(replace(made, seed=2))
    assert "--recipe recipes/mine.yaml --method random --sign-in --seed 2" in command
    assert parse_run(shlex.split(command)[2:]).run == replace(made, seed=2)


def test_a_run_is_read_back_without_its_file(write, machine, monkeypatch):
    write("mine.yaml", "lr: 0.2\nepochs: 1\nrescale_until: 0.25")
    run = Run.make("mine.yaml", "random", sign_in=True)
    run_training(run, machine, report=lambda _: None, bar=False)
    monkeypatch.setattr(launch.config.recipes, "RECIPES", dict(RECIPES))
    monkeypatch.setattr(launch.config.recipes, "_FILES", {})
    again = read_run(machine.runs / run.name)
    assert again == run and again.name == run.name and again.title == run.name
    assert "--recipe mine.yaml" in run_command(again)
    others = replace(machine, runs=machine.runs / "others")  # as in a worker or a job
    result = run_training(again, others, report=lambda _: None, bar=False)
    assert result["accuracy"] == read_result(machine.runs / run.name)["accuracy"]
    assert parse_run(shlex.split(run_command(again))[2:]).run == run  # the file is there again


def test_the_command_without_the_file_has_every_setting(write, monkeypatch):
    write("mine.yaml", "lr: 0.1\nflip: true\nfrobenius_decay: 0.01")
    run = Run.make("mine.yaml", "rigl", lr=0.05, flip=False, sign_in=True, frobenius_decay=None)
    monkeypatch.setattr(launch.config.recipes, "RECIPES", dict(RECIPES))
    monkeypatch.setattr(launch.config.recipes, "_FILES", {})  # as in a new process
    words = shlex.split(run_command(run))[2:]
    assert "--sparsity" not in words and "--ham-alpha" not in words
    assert parse_run(words).run == run


def test_two_files_of_one_name_must_be_equal(write):
    write("a/mine.yaml", "lr: 0.1")
    write("b/mine.yaml", "lr: 0.1")
    write("c/mine.yaml", "base: ../a/mine.yaml\nlr: 0.2")
    find_recipe("a/mine.yaml")
    find_recipe("b/mine.yaml")
    with pytest.raises(UserError, match="c/mine.yaml has the name of another.* b/mine.yaml"):
        find_recipe("c/mine.yaml")
    write("b/mine.yaml", "lr: 0.3")  # it was edited
    assert find_recipe("b/mine.yaml").lr == 0.3


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("mine.yaml", "lr: [1]", "lr must be of type float"),
        ("mine.yaml", "learning_rate: 1", "unknown key of mine.yaml 'learning_rate'.*lr"),
        ("mine.yaml", "epochs: -1", "epochs must be positive"),
        ("mine.yaml", "base: cifar\nlr: 1", "unknown recipe 'cifar'. Known: .*cifar10-resnet20"),
        ("mine.yaml", "base: mine.yaml", "mine.yaml is its own base"),
        ("mine.yaml", "base: nowhere.yaml", "cannot read nowhere.yaml"),
        ("mine.yaml", "- a", "is not a mapping"),
        ("digits.yaml", "lr: 1", "has the name of another recipe, digits: rename the file"),
    ],
)
def test_mistakes_in_a_file_are_named(write, name, text, message):
    write(name, text)
    with pytest.raises(UserError, match=message):
        find_recipe(name)
