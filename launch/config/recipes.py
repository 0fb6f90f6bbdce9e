"""Recipes by name, from the paper's Tables 6 and 7.

T₂ is a fraction of the epochs (75 of 150 on CIFAR, 75 of 100 and 225 of 300 on ImageNet), so that
`--epochs 10` scales everything. Sign-In's decays in Table 7 are Table 6's weight decay, of θ on
CIFAR and of the factors on ImageNet; so they follow `--weight-decay`. A module of a user's own adds
a recipe with `RECIPES[name] = …`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from baselines.errors import UserError, unknown
from launch.config.recipe import Recipe, replace_settings, setting_names
from launch.config.yaml_file import ENDINGS, read_mapping
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
    sign_in=SignIn(rescale_until=0.5),  # with SGD, its decay is of θ
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
    sign_in=SignIn(rescale_until=0.75, sign_in_decays="factors"),
)

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(ham=HAM(ham_alpha=10.0)),  # with 20 and more some trainings diverge
    "fashion": Recipe(
        data="fashion-mnist",
        model="fashion-cnn",
        image_size=28,
        epochs=10,
        batch_size=128,
        lr=0.4,
        weight_decay=5e-4,
        channels_last=True,
    ),
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
    ),
    "imagefolder": replace(
        _IMAGENET,
        data="imagefolder",
        epochs=100,
        batch_size=256,
        lr=0.1,
        weight_decay=1e-4,
    ),
}


_FILES: dict[str, Path] = {}  # of the recipes that were read, by their names


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name, or the one in a YAML file.

    Raises:
        UserError: there is none; the message lists the known and the nearest names. Or the file
            cannot be read.
    """
    if name.endswith(ENDINGS):
        return read_recipe(Path(name))
    if name not in RECIPES:
        raise unknown("recipe", name, [*RECIPES, "FILE.yaml"])
    return RECIPES[name]


def known_recipe(name: str) -> Recipe | None:
    """Return the recipe of a run's name; None if it was in a file that was not read here."""
    return RECIPES.get(name)


def recipe_name(name: str) -> str:
    """Return the name of a recipe as runs have it: that of a file without folder and ending."""
    return Path(name).stem if name.endswith(ENDINGS) else name


def recipe_argument(name: str) -> str:
    """Return what to write after --recipe for a run's recipe: its name, or its file."""
    if name in _FILES:
        return str(_FILES[name])
    return name if name in RECIPES else f"{name}{ENDINGS[0]}"


def read_recipe(path: Path, inner: tuple[Path, ...] = ()) -> Recipe:
    """Return the recipe in a YAML file, and make it known by the name of the file.

        base: cifar10-resnet20
        data: my_data.npz
        lr: 0.1
        rescale_until: 0.25

    Keys are `base`, a recipe or another file relative to this one (digits if not given), and
    fields of recipes, Sign-In and HAM, which replace those of the base.

    Args:
        inner: files that have this one as their base.

    Raises:
        UserError: there is no such file, it is not of this form, has an unknown key or value, is
            its own base, or has the name of another recipe.
    """
    found = read_mapping(path)
    base = str(found.pop("base", "digits"))
    if base.endswith(ENDINGS):
        if path.resolve() in inner:
            raise UserError(f"{path} is its own base.")
        recipe = read_recipe(path.parent / base, (*inner, path.resolve()))
    else:
        recipe = find_recipe(base)
    recipe = replace_settings(recipe, found)
    for key in found:
        raise unknown(f"key of {path}", str(key), {*setting_names(recipe), "base"})
    if inner:  # no run has its name
        return recipe
    name = recipe_name(path.name)
    if name in RECIPES and name not in _FILES:
        raise UserError(f"{path} has the name of another recipe, {name}: rename the file.")
    other = _FILES.get(name, path)
    if other.resolve() != path.resolve() and RECIPES.get(name, recipe) != recipe:
        raise UserError(f"{path} has the name of another recipe, that in {other}: rename one file.")
    _FILES[name] = path
    RECIPES[name] = recipe
    return recipe


def describe(recipe: Recipe) -> str:
    """Return one line about a recipe, for the listing."""
    return (
        f"{recipe.model} on {recipe.data}: {recipe.epochs} epochs of batch {recipe.batch_size}, "
        f"{recipe.optimizer} lr {recipe.lr:g} wd {recipe.weight_decay:g}"
    )
