"""What the tests of Lightning's and of Hugging Face's trainers share."""

from __future__ import annotations

import os

import pytest
import torch
from in_process import fork_two_ranks

from signin import SignIn

PER_EPOCH = 5
# method, its options, number of steps that the trainer takes
CASES = {
    "random": ({}, 15),
    "rigl": ({"update_every": 2}, 15),
    "acdc": ({}, 15),
    "str-target": ({}, 15),
    "lrr": ({"keep": 0.5, "steps": 10}, 30),
}
SIGN_IN = [None, SignIn(frobenius_decay=1e-3)]
SPARSITY = 0.75
# a trainer takes the same steps of a loop with factors as without: one method shows it
EACH_METHOD = pytest.mark.parametrize(
    "method, sign_in",
    [*((method, None) for method in CASES), ("rigl", SIGN_IN[1])],
    ids=[*(f"{method}-plain" for method in CASES), "rigl-signin"],
)
# The state of every method is tested without a trainer. Steps: within an epoch, at its end
RESUMED = pytest.mark.parametrize(
    "method, sign_in, stop",
    [("rigl", SIGN_IN[1], 7), ("rigl", SIGN_IN[1], 10), ("lrr", None, 7), ("lrr", None, 10)],
    ids=["rigl-signin-7", "rigl-signin-10", "lrr-plain-7", "lrr-plain-10"],
)
OF_TWO_METHODS = pytest.mark.parametrize(
    "method, sign_in", [("rigl", SIGN_IN[1]), ("acdc", None)], ids=["rigl-signin", "acdc-plain"]
)


def assert_equal(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def level_of(method):
    """Return the number of steps after which the learning rate's schedule begins again."""
    options, total = CASES[method]
    return options.get("steps", total)


def check_two_ranks(train, folder):
    """Train in a trainer on two ranks. Check that both hold what a hand-written DDP loop gives.

    Args:
        train: takes a folder; returns the weights of both trainings, "trained" and "by hand", the
            first "batch", and the "sparsity".
    """

    def call():
        torch.manual_seed(0)
        torch.save(train(folder), folder / f"{os.environ['RANK']}.pt")
        torch.distributed.barrier()  # a rank that leaves early breaks the other's connections
        torch.distributed.destroy_process_group()

    fork_two_ranks(call, folder)
    one, other = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    assert len(one["trained"]) > 8 and abs(one["sparsity"] - SPARSITY) < 2e-3
    assert not torch.equal(one["batch"], other["batch"])
    for name, value in one["trained"].items():
        assert torch.equal(value, one["by hand"][name]), name
        if "running_" not in name:  # statistics of a rank's own batches
            assert torch.equal(value, other["trained"][name]), name
