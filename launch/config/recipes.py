"""Recipes by name, from the paper's Tables 6 and 7.

T₂ is a fraction of the epochs (75 of 150 on CIFAR, 75 of 100 and 225 of 300 on ImageNet), so that
`--epochs 5` scales everything. A module of a user's own adds a recipe with `RECIPES[name] = …`.
"""

from __future__ import annotations

from dataclasses import replace

from baselines.errors import unknown
from launch.config.recipe import Recipe
from signin import HAM, SignIn

_CIFAR = Recipe(
    data="cifar10",
    model="resnet20",
    image_size=32,
    crop_padding=4,
    flip=True,
    epochs=150,
    batch_size=512,
    lr=0.2,
    weight_decay=1e-4,
    precision="bfloat16",
    channels_last=True,
    sign_in=SignIn(rescale_until=0.5, frobenius_decay=1e-4, sign_in_weight_decay=0.0),
)

_IMAGENET = Recipe(
    data="imagenet",
    model="resnet50",
    image_size=224,
    flip=True,
    epochs=100,
    batch_size=1024,
    lr=0.25,
    weight_decay=5e-5,
    label_smoothing=0.1,
    precision="bfloat16",
    channels_last=True,
    sign_in=SignIn(rescale_until=0.75, frobenius_decay=0.0, sign_in_weight_decay=5e-5),
)

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(ham=HAM(ham_alpha=20.0)),  # with 50 and more some trainings diverge
    "cifar10-resnet20": _CIFAR,
    "cifar100-resnet18": replace(_CIFAR, data="cifar100", model="resnet18-cifar"),
    "imagenet-resnet50": _IMAGENET,
    "imagenet-deit-small": replace(
        _IMAGENET,
        model="deit_small_patch16_224",
        epochs=300,
        optimizer="adamw",
        lr=0.001,
        weight_decay=0.1,
        decay_norm_and_bias=False,
        channels_last=False,
        sign_in=SignIn(rescale_until=0.75, frobenius_decay=0.0, sign_in_weight_decay=0.1),
    ),
    "imagefolder": replace(
        _IMAGENET,
        data="imagefolder",
        epochs=100,
        batch_size=256,
        lr=0.1,
        weight_decay=1e-4,
        sign_in=SignIn(rescale_until=0.75, frobenius_decay=0.0, sign_in_weight_decay=1e-4),
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UserError: there is none; the message lists the known and the nearest names.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def describe(recipe: Recipe) -> str:
    """Return one line about a recipe, for the listing."""
    return (
        f"{recipe.model} on {recipe.data}: {recipe.epochs} epochs of batch {recipe.batch_size}, "
        f"{recipe.optimizer} lr {recipe.lr:g} wd {recipe.weight_decay:g}"
    )
