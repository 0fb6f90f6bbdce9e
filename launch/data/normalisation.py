"""Mean and standard deviation of a model's training images, where a recipe asks for them."""

from __future__ import annotations

import warnings
from contextlib import suppress

import torch
from torch import Tensor

from baselines.errors import UserError
from launch.config.recipe import Recipe
from launch.data.augment import Normalise
from launch.inputs import Inputs
from launch.models import MODELS

Constants = tuple[Tensor, Tensor]  # mean and standard deviation of each channel


def constants_of_model(model: str) -> Constants | None:
    """Return those of timm's pretrained configuration of a model; None if it has none."""
    if model in MODELS or ":" in model:
        return None
    import timm

    with suppress(RuntimeError):  # there is no such tag
        found = timm.models.get_pretrained_cfg(model)
        if found is not None and found.has_weights:
            return torch.tensor(found.mean), torch.tensor(found.std)
    return None


def chosen_constants(recipe: Recipe, inputs: Inputs | None = None) -> Constants | None:
    """Return the constants of the model if a recipe asks for them, else None.

    Args:
        inputs: images, whose channels must be those of the constants. None: they are RGB.

    Raises:
        UserError: the model has none, or for other channels.
    """
    if recipe.normalise == "data":
        return None
    found = constants_of_model(recipe.model)
    if found is None:
        raise UserError(
            f"normalise model: timm has no pretrained configuration of {recipe.model}; use "
            "--normalise data."
        )
    if inputs is not None and len(found[0]) != inputs.shape[0]:
        raise UserError(
            f"normalise model: {recipe.model} has constants of {len(found[0])} channels, and the "
            f"images have {inputs.shape[0]}; use --normalise data."
        )
    return found


def warn_of_constants(source: str, model: str, used: Normalise | None) -> None:
    """Warn if a checkpoint is read for a model of timm whose images are normalised otherwise.

    Args:
        source: the checkpoint, for the message.
        used: what normalises the images; None if they are given as they are.
    """
    expected = constants_of_model(model)
    if used is None or expected is None or len(expected[0]) != len(used.mean):
        return
    pairs = zip((used.mean, used.std), expected, strict=True)
    if any(not torch.allclose(own.cpu(), other, rtol=0, atol=1e-3) for own, other in pairs):
        warnings.warn(
            f"{source}: images are normalised by {_text(used.mean, used.std)}, and timm's "
            f"pretrained {model} by {_text(*expected)}. Give --normalise model if the checkpoint "
            "was trained so.",
            stacklevel=2,
        )


def _text(mean: Tensor, std: Tensor) -> str:
    mean_text, std_text = (", ".join(f"{x:.3g}" for x in part.tolist()) for part in (mean, std))
    return f"mean {mean_text} and std {std_text}"
