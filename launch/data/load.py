"""Loading a recipe's data, held on the device or streamed from files."""

from __future__ import annotations

from pathlib import Path

import torch

from baselines.errors import UserError
from launch.config.recipe import Recipe
from launch.data.batches import Contents, Data
from launch.data.images import class_names, find_folder, test_folder
from launch.data.resident import load_resident
from launch.data.sources import SOURCES, load_arrays
from launch.data.streamed import load_streamed
from launch.ranks import Share

RESIDENT_MAX_SIZE = 64


def load_data(
    recipe: Recipe, root: Path, device: torch.device, seed: int, share: Share, workers: int
) -> Data:
    """Return both splits of the recipe's data.

    Args:
        root: folder of data sets; downloads go there too.
        seed: of order and augmentation.
        share: which part of every batch to return.
        workers: processes (streamed) or threads (resident, while loading) that decode images.

    Raises:
        UserError: missing or empty folders, classes without images, unreadable images, or a
            training set smaller than one batch.
    """
    if recipe.batch_size % share.world:
        raise UserError(f"batch_size {recipe.batch_size} does not divide over {share.world} ranks.")
    if recipe.data in SOURCES or recipe.image_size <= RESIDENT_MAX_SIZE:
        return load_resident(recipe, root, device, seed, share, workers)
    return load_streamed(recipe, find_folder(recipe.data, root), device, seed, share, workers)


def describe_data(recipe: Recipe, root: Path, workers: int) -> Contents:
    """Return what a recipe's data are. The files of an image folder are not read.

    Raises:
        UserError: missing folders, or unknown classes.
    """
    if recipe.data in SOURCES:
        (images, labels), _, classes = load_arrays(recipe.data, root, recipe.image_size, workers)
        return Contents(classes, images.shape[3], len(labels))
    folder = find_folder(recipe.data, root)
    names = class_names(folder / "train")
    class_names(test_folder(folder), names)
    return Contents(len(names), channels=3)
