"""The paper's recipes, and the values that recipes allow."""

from __future__ import annotations

import pytest

from baselines.errors import UserError
from launch.config.recipe import Recipe, SignIn
from launch.config.recipes import RECIPES


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
