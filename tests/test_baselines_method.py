"""Plans and options are typed, and invalid values are refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from baselines.errors import UserError
from baselines.method import Method, Options, Plan
from baselines.methods.dynamic import DynamicOptions
from baselines.methods.gmp import Gmp, GmpOptions
from baselines.methods.lrr_wr_imp import LevelOptions, Lrr, WrOptions
from baselines.methods.set_rigl import RigL, RigLOptions
from baselines.methods.snip import SampleOptions
from baselines.methods.synflow import SynFlowOptions
from baselines.registry import methods


@pytest.mark.parametrize(
    "steps, per_epoch, epochs", [(100, 10, 10), (104, 10, 10), (106, 10, 11), (3, 10, 1)]
)
def test_an_epoch_need_not_divide_the_steps(steps, per_epoch, epochs):
    plan = Plan(0.9, steps, per_epoch)
    assert plan.epochs == epochs
    method = Method[Options](plan)
    assert (method.total_steps, method.epochs) == (steps, epochs)
    assert method.schedule(steps - 1) == (steps - 1, steps)


def test_a_training_in_levels_lasts_whole_epochs():
    method = Lrr(Plan(0.5, 104, 10), LevelOptions(keep=0.5))
    assert (method.total_steps, method.epochs) == (200, 20)


@pytest.mark.parametrize(
    "values, message",
    [
        ((1.0, 10, 1), r"sparsity must be in \[0, 1\), not 1.0"),
        ((-0.1, 10, 1), r"sparsity must be in \[0, 1\)"),
        ((0.9, 0, 1), "steps must be positive, not 0"),
        ((0.9, 10, 0), "steps_per_epoch must be positive, not 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        Plan(*values)


def test_the_class_of_the_options_is_the_one_in_the_brackets():
    @dataclass(frozen=True)
    class MineOptions(Options):
        knob: int = 1

    class Mine(Method[MineOptions]):
        name = "mine"

    class Child(Mine):
        name = "child"

    for cls in (Mine, Child):
        assert cls.options_class is MineOptions
        assert cls(Plan(0.5, 1, 1)).options == MineOptions(1)
    assert Method.options_class is Options
    assert Gmp.options_class is GmpOptions and RigL.options_class is RigLOptions


def test_methods_that_prune_before_training_keep_their_masks():
    keep = {name for name, method in methods().items() if method.keeps_masks()}
    at_init = {"random", "mw", "snip", "grasp", "synflow", "phew", "npb"}
    assert keep == at_init | {"dense", "fixed"} | {"oneshot", "wanda", "sparsegpt"}


def test_options_made_in_python_are_typed():
    with pytest.raises(UserError, match="unknown scope 'globl', did you mean global"):
        Gmp(Plan(0.5, 1, 1), GmpOptions(scope="globl"))
    with pytest.raises(UserError, match="initial_sparsity must be of type float, not False"):
        Gmp(Plan(0.5, 1, 1), GmpOptions(initial_sparsity=False))
    Gmp(Plan(0.5, 1, 1), GmpOptions(initial_sparsity=0))


def test_options_of_another_method_are_refused():
    with pytest.raises(UserError, match="rigl: options must be RigLOptions, not GmpOptions"):
        RigL(Plan(0.5, 1, 1), GmpOptions())
    with pytest.raises(UserError, match="rigl: options must be RigLOptions, not DynamicOptions"):
        RigL(Plan(0.5, 1, 1), DynamicOptions())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"drop": 0.2}, "unknown field 'drop'"),
        ({"drop_fraction": "much"}, "drop_fraction must be of type float, not 'much'"),
        ({"update_every": 1.5}, "update_every must be of type int, not 1.5"),
        ({"keep_step": 1}, "keep_step must be of type bool, not 1"),
        ({"density": "dense"}, "unknown density 'dense'"),
        ({"drop_fraction": 2}, r"drop_fraction must be in \[0, 1\], not 2"),
    ],
)
def test_options_that_are_unknown_or_of_another_type_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        RigLOptions.make(**values)


def test_options_are_made_from_values():
    made = RigLOptions.make(drop_fraction=1, density="uniform")
    assert made == RigLOptions(density="uniform", drop_fraction=1.0)
    assert isinstance(made.drop_fraction, float)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GmpOptions(begin=0.9, end=0.5), "begin <= end"),
        (lambda: GmpOptions(events=0), "events must be positive"),
        (lambda: LevelOptions(keep=1.0), r"keep must be in \(0, 1\)"),
        (lambda: LevelOptions(level_length=0), "level_length must be positive"),
        (lambda: WrOptions(rewind_to=1.0), r"rewind_to must be in \[0, 1\)"),
        (lambda: DynamicOptions(update_every=-1), "update_every must not be negative"),
        (lambda: RigLOptions(drop_fraction=1.5), r"must be in \[0, 1\]"),
        (lambda: SampleOptions(samples_per_class=0), "samples_per_class must be positive"),
        (lambda: SynFlowOptions(iterations=0), "iterations must be positive"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
