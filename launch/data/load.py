"""Loading a recipe's data, held on the device or read while training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from baselines.errors import UserError
from launch.config.recipe import Recipe
from launch.data.arrays import digest_of_arrays, is_images
from launch.data.batches import Contents, Data, check_batch_size, check_ranks
from launch.data.hub import Images
from launch.data.images import class_names, find_folder, test_folder
from launch.data.items import Items, check_labels, read_labels, without_augmentation
from launch.data.normalisation import chosen_constants
from launch.data.order import Order
from launch.data.own import Split
from launch.data.resident import load_resident
from launch.data.sources import RESIDENT_MAX_SIZE, Splits, are_files, is_folder, read_splits
from launch.data.streamed import load_streamed
from launch.inputs import Inputs
from launch.ranks import Share


def load_data(
    recipe: Recipe,
    root: Path,
    device: torch.device,
    seed: int,
    share: Share,
    workers: int,
) -> Data:
    """Return the splits of the recipe's data.

    Args:
        root: folder of data sets; downloads go there too.
        seed: of order, augmentation and samples.
        share: which part of every batch to return.
        workers: processes (read while training) or threads (while loading) that decode images.

    Raises:
        UserError: missing or empty folders, classes without images, unreadable images, or a
            training set smaller than one batch.
    """
    check_ranks(recipe.batch_size, share.world)
    _check_padding(recipe)
    if is_folder(recipe.data) and recipe.image_size > RESIDENT_MAX_SIZE:
        folder = find_folder(recipe.data, root)
        return load_streamed(recipe, folder, device, seed, share, workers)
    splits = read_splits(recipe.data, root, recipe.image_size, workers, recipe.flip)
    _check_images(recipe, splits.train)
    splits = _normalised(splits, recipe)
    if recipe.validation:
        splits = splits.holding_out(recipe.validation)
    if isinstance(splits.train, Dataset):
        return _load_items(recipe, splits, device, seed, share, workers)
    return load_resident(recipe, splits, device, seed, share)


def describe_data(recipe: Recipe, root: Path, workers: int) -> Contents:
    """Return what a recipe's data are. The files of an image folder are not read.

    Raises:
        UserError: missing folders or files, unknown classes, or augmentation of what are no images.
    """
    _check_padding(recipe)
    if is_folder(recipe.data):
        folder = find_folder(recipe.data, root)
        names = class_names(folder / "train")
        class_names(test_folder(folder), names)
        return Contents(len(names), Inputs.image(3, recipe.image_size))
    splits = read_splits(recipe.data, root, recipe.image_size, workers, recipe.flip)
    train: Any = splits.train
    _check_images(recipe, train)
    if isinstance(train, Dataset):
        return Contents(splits.classes, splits.inputs, len(train))  # type: ignore[arg-type]
    return Contents(splits.classes, splits.inputs, len(train[1]))


def _load_items(
    recipe: Recipe, splits: Splits, device: torch.device, seed: int, share: Share, workers: int
) -> Data:
    """Return splits of a Dataset."""

    def split(dataset: Any, shuffle: bool) -> Items:
        labels = read_labels(dataset)
        check_labels(labels, splits.classes, f"data {recipe.data}")
        order = Order(len(labels), recipe.batch_size, shuffle, seed, share)
        plain = without_augmentation(dataset)
        return Items(dataset, plain, labels, order, device, workers)

    check_batch_size(recipe.batch_size, len(splits.train))  # type: ignore[arg-type]
    train, test = split(splits.train, True), split(splits.test, False)
    held_out = split(splits.validation, False) if splits.validation else None
    labels = [s.labels.numpy() for s in (train, test, held_out) if s is not None]
    digest = digest_of_arrays(*labels)
    data = Data(train, test, splits.classes, splits.inputs, held_out, digest)
    images = splits.test
    if not isinstance(images, Images):
        return data
    return replace(data, normalise=images.normalise, resize=str(images.transform))


def _check_padding(recipe: Recipe) -> None:
    """Raise UserError if images are cropped at random sizes, and padding would have no effect."""
    if recipe.crop_padding and are_files(recipe.data) and recipe.image_size > RESIDENT_MAX_SIZE:
        raise UserError(
            f"with an image_size above {RESIDENT_MAX_SIZE}, images are cropped at random sizes and "
            "positions, without padding: use --crop-padding 0."
        )


def _check_images(recipe: Recipe, train: Split) -> None:
    """Raise UserError if a recipe augments or normalises what it cannot."""
    augments = recipe.crop_padding > 0 or recipe.flip
    if not augments and recipe.normalise == "data":
        return
    if isinstance(train, Dataset):
        possible, why = isinstance(train, Images), "of a Dataset, which augments by itself"
    else:
        possible, why = is_images(train[0]), "no uint8 images"
    if possible:
        return
    if augments:
        raise UserError(
            f"data {recipe.data} are {why}: crop_padding and flip cannot augment them; use "
            "--crop-padding 0 --no-flip."
        )
    raise UserError(
        f"normalise model: data {recipe.data} are not normalised; use --normalise data."
    )


def _normalised(splits: Splits, recipe: Recipe) -> Splits:
    """Return the splits with the constants that a recipe asks for, if Datasets have them."""
    if not isinstance(splits.train, Images):
        return splits
    assert isinstance(splits.test, Images)
    constants = chosen_constants(recipe)
    train, test = (split.normalised(constants) for split in (splits.train, splits.test))
    return splits._replace(train=train, test=test)
