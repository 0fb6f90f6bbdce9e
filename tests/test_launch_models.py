"""Models by name."""

from __future__ import annotations

import pytest
import torch

from baselines.errors import UserError
from launch.models import MODELS, build_model


@pytest.mark.parametrize(
    "name, channels, size",
    [
        *((name, 3, 32) for name in MODELS),
        ("digits-cnn", 1, 8),
        ("resnet50", 1, 32),
        ("test_vit", 3, 64),
        ("test_efficientnet", 1, 64),
    ],
)
def test_models_take_what_the_data_has(name, channels, size):
    model = build_model(name, 7, channels, size)
    assert model(torch.randn(2, channels, size, size)).shape == (2, 7)


def test_initialisation_is_a_function_of_the_global_seed():
    torch.manual_seed(1)
    one = build_model("resnet20", 10, 3, 32).state_dict()
    torch.manual_seed(1)
    two = build_model("resnet20", 10, 3, 32).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_model_that_cannot_take_the_images_is_named():
    with pytest.raises(UserError, match="vit_tiny_patch16_224 cannot take images of 1 × 8 × 8"):
        build_model("vit_tiny_patch16_224", 10, 1, 8)


def test_an_unknown_model_is_named():
    with pytest.raises(UserError, match="unknown model 'resnet-20', did you mean .*resnet20"):
        build_model("resnet-20", 10, 3, 32)
