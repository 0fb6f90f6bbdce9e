"""The order of runs that depend on other runs."""

from __future__ import annotations

import pytest

from baselines.errors import UserError
from launch.config.dependencies import in_order, stages, with_constants
from launch.config.run import Run


def digits(seed=0):
    return Run.make("digits", "random", sparsity=0.8, seed=seed, epochs=2)


def test_runs_come_after_what_they_need():
    first = digits()
    second = Run.make("digits", "fixed", mask=f"{first.name}@final")
    third = Run.make("digits", "fixed", mask=f"{second.name}@final")
    assert stages([third, second, digits(1), first]) == [[digits(1), first], [second], [third]]
    assert stages([third]) == [[third]]  # what it needs may have finished


def test_a_run_that_needs_none_is_alone():
    run = Run.make("digits", "random")
    assert in_order([run]) == [run]


def test_runs_that_need_each_other_are_refused():
    one, two = (Run.make("digits", "fixed", mask=f"{other}@final") for other in ("two", "one"))
    vars(one)["name"], vars(two)["name"] = "one", "two"
    with pytest.raises(UserError, match="these runs need each other: one, two"):
        stages([one, two])


def test_str_without_constants_is_left_out_with_one_warning():
    rules = ({}, {"sign_in": True}, {"ham": True})
    runs = [Run.make("digits", "str", epochs=7, **rule) for rule in rules]
    with pytest.warns(UserWarning, match="left out: .* So is STR at 2 other settings") as caught:
        assert with_constants([*runs, digits()]) == [digits()]
    assert len(caught) == 1 and "(with the same --runs)" in str(caught[0].message)
