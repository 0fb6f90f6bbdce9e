"""Models by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from baselines.errors import UserError
from launch.config.recipes import RECIPES
from launch.inputs import Inputs
from launch.models import MODELS, build_model, find_model, make_model, shape_of_model


@pytest.mark.parametrize(
    "name, channels, size",
    [
        *((name, 3, 32) for name in MODELS),
        ("mlp", 1, 8),
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


def test_models_of_the_suite_are_by_default_those_of_their_recipes():
    none = dict.fromkeys(("classes", "channels", "image_size"))
    classes = {"digits": 10, "fashion-mnist": 10, "cifar10": 10, "cifar100": 100}
    for recipe in RECIPES.values():
        found = shape_of_model(recipe.model, **none)
        assert found[2] == recipe.image_size and found[0] == classes.get(recipe.data, 1000)
    assert shape_of_model("resnet20", **{**none, "image_size": 64}) == (10, 3, 64)
    assert shape_of_model("", **none) == shape_of_model("resnet18", **none) == (1000, 3, 224)


def test_an_unknown_model_is_named():
    with pytest.raises(UserError, match="unknown model 'resnet-20', did you mean .*resnet20"):
        build_model("resnet-20", 10, 3, 32)


MODULE = """
import torch
from torch import nn


def by_name(num_classes, in_chans, img_size, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))


def by_position(n, c, s):
    return by_name(n, c, s)


def of_features(features, classes):
    return nn.Sequential(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, classes))


def of_shape(shape, classes, **more):
    assert not more
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def of_inputs(inputs, classes):
    return of_shape(inputs.shape, classes)


class OfTokens(nn.Module):
    def __init__(self, classes, vocabulary, length):
        super().__init__()
        self.embed, self.out = nn.Embedding(vocabulary, 4), nn.Linear(4 * length, classes)

    def forward(self, x):
        return self.out(self.embed(x).flatten(1))


def needy(classes, depth):
    pass


def no_module(classes):
    return "text"


def other_output(classes, features):
    return nn.Linear(features, classes + 1)


def failing(classes):
    raise ZeroDivisionError("by zero")


network = by_name(2, 1, 4)
"""
IMAGE = Inputs.image(3, 6)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    "name, inputs",
    [
        ("by_name", IMAGE),
        ("by_position", IMAGE),
        ("of_features", Inputs((5,))),
        ("of_shape", IMAGE),
        ("of_inputs", IMAGE),
        ("OfTokens", Inputs((7,), "int64", 50)),
    ],
)
def test_a_factory_gets_what_it_has_parameters_for(module, name, inputs):
    model = make_model(f"package_of_mine.models:{name}", 4, inputs)
    assert isinstance(model, nn.Module) and model.training
    x = inputs.random(2, torch.Generator().manual_seed(0))
    assert model(x).shape == (2, 4)


@pytest.mark.parametrize(
    "name, message",
    [
        ("needy", "needs depth; its parameters can be classes, num_classes, inputs, .*img_size"),
        ("no_module", "is a str, not a torch.nn.Module"),
        ("other_output", r"must return logits of shape \(N, 4\), not .*5"),
        ("failing", "cannot take images of 3 × 6 × 6: by zero"),
        ("OfTokens", "needs vocabulary, length.* The inputs are images of 3 × 6 × 6"),
        ("network", "network is a network; name a function or class"),
        ("nothing", "module package_of_mine.models has no nothing"),
    ],
)
def test_a_factory_that_does_not_work_is_named(module, name, message):
    inputs = Inputs((6,)) if name == "other_output" else IMAGE
    with pytest.raises(UserError, match=message):
        make_model(f"package_of_mine.models:{name}", 4, inputs)


def test_what_is_no_image_is_refused_by_models_of_images():
    for name in ("resnet18", "resnet20", "digits-cnn"):
        with pytest.raises(UserError, match="features of shape 20|needs channels"):
            make_model(name, 3, Inputs((20,)))
    with pytest.raises(UserError, match="cannot import no_such_module"):
        find_model("no_such_module:x")
