"""From the description of a run to its model, optimizer and sparsifier. A function of the seed."""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from analysis.folder import snapshot_epoch
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options, Plan
from baselines.registry import find_method
from baselines.sign_rule import SignRule
from baselines.sparsifier import Sparsifier
from baselines.tools.schedules import triangular
from launch.config.recipe import Recipe
from launch.config.recipes import known_recipe
from launch.config.run import Run
from launch.data.batches import Data
from launch.data.normalisation import warn_of_constants
from launch.data.order import mix
from launch.data.sources import are_files, takes_image_size
from launch.inputs import Inputs
from launch.models import make_model
from launch.ranks import Ranks, is_first
from launch.runs.folder import RunFolder
from launch.runs.reading import read_run
from launch.runs.snapshots import find_source, read_source, run_folder_of
from launch.sparse_training.products import SparseProducts, check_products
from launch.training.loop import Loop, memory_format

TINY = 16  # pixels; the recipe of smaller images is for its own data


def build_loop(
    run: Run,
    data: Data,
    ranks: Ranks,
    compile: bool = False,
    bar: bool | None = None,
    runs: Path = Path("runs"),
    sparse_kernels: str = "none",
) -> Loop:
    """Return the run's training loop; nothing has started.

    Args:
        compile: torch.compile the model.
        bar: a progress bar over the steps of each epoch; by default if stderr is a terminal.
        runs: folder of the runs that this one may need.
        sparse_kernels: "auto" to train with sparse products where they are faster.

    Raises:
        UserError: the run cannot be trained.
    """
    if sparse_kernels != "none":
        check_products(run.settings.precision, ranks.device)
    check_image_size(run, data.inputs, runs)
    for source in run.options.sources:
        check_held_out(run, source, runs)
        _warn_of_constants(run, source, data, runs)
    method = build_method(run, len(data.train), runs)
    rule = run.sign_rule
    net = build_network(run, data, ranks.device)
    optimizer = build_optimizer(net, run.settings, rule)
    sparsifier = Sparsifier(net, method, rule, manual_begin=True)
    model = called_model(net.model, ranks, compile)
    products = None if sparse_kernels == "none" else SparseProducts(sparsifier, ranks)
    return Loop(model, optimizer, sparsifier, data, run.settings, run.seed, ranks, bar, products)


def check_image_size(run: Run, inputs: Inputs, runs: Path) -> None:
    """Refuse an image size other than the recipe's for data of another size that are not resized.

    Earlier versions did not: runs that have begun may finish.

    Raises:
        UserError: it would have no effect.
    """
    data, size = run.settings.data, run.settings.image_size
    recipe = known_recipe(run.recipe)  # None in a worker, if it was in a file: checked before
    if recipe is not None and inputs.is_image:
        _warn_of_tiny_images(run, recipe)
    fits = inputs.is_image and inputs.shape[1:] == (size, size)
    if recipe is None or size == recipe.image_size or fits or takes_image_size(data):
        return
    if not RunFolder(run, runs).is_tidy:  # it has states
        return
    what = f"{data} has no images"
    if inputs.is_image:
        height, width = inputs.shape[1:]
        what = f"the images of {data} have {height}×{width} pixels and are not resized"
    raise UserError(f"image_size {size}: {what}; leave it out.")


def _warn_of_tiny_images(run: Run, recipe: Recipe) -> None:
    """Warn if images of files are resized to the size of a recipe for other, tiny ones."""
    data, size = run.settings.data, run.settings.image_size
    is_recipes = size == recipe.image_size and data != recipe.data
    if is_recipes and size < TINY and are_files(data) and is_first():
        warnings.warn(
            f"the images of {data} are resized to {size}×{size} pixels, the size of recipe "
            f"{run.recipe}: give --image-size, or another recipe such as imagefolder.",
            stacklevel=2,
        )


def check_held_out(run: Run, source: str, runs: Path, base: Run | None = None) -> None:
    """Refuse a source that was trained on images that the run holds out.

    Args:
        base: the run that the source is of, if it has no folder yet.

    Raises:
        UserError: the accuracy on these images would not be that on unseen ones.
    """
    if not run.settings.validation or source.endswith(("@init", "@0")):
        return
    with suppress(UserError):  # a missing source is an error when it is read
        epoch = snapshot_epoch(find_source(source, runs)[0])
        folder = run_folder_of(source, runs)
        if epoch == 0:
            return
        if folder and base is None:
            base = read_run(folder)
    if base is None or base.settings.data != run.settings.data:
        return
    own, others = run.settings.validation, base.settings.validation
    if others < own:  # a larger fraction holds out the images of a smaller one, too
        raise UserError(
            f"{source} was trained with validation {others:g}, on images that this run holds out: "
            f"train it with --validation {own:g}, or give this run --validation {others:g}."
        )


def _warn_of_constants(run: Run, source: str, data: Data, runs: Path) -> None:
    """Warn if the images of a source were, or probably were, normalised otherwise."""
    own = run.settings.normalise
    with suppress(UserError):  # a missing source is an error when it is read
        folder = run_folder_of(source, runs)
        if folder is None and is_first():
            warn_of_constants(source, run.settings.model, data.normalise)
        elif folder and is_first() and (other := read_run(folder).settings.normalise) != own:
            warnings.warn(f"{source} has --normalise {other}, this run {own}.", stacklevel=2)


def build_method(run: Run, steps_per_epoch: int, runs: Path) -> Method[Options]:
    """Return the run's method with its plan."""
    recipe = run.settings
    steps = recipe.epochs * steps_per_epoch
    integral = lr_integral(recipe, steps)
    read = partial(read_source, root=runs, say=print if is_first() else None)
    plan = Plan(run.sparsity, steps, steps_per_epoch, run.seed, integral, read)
    return find_method(run.method)(plan, run.options)


def lr_integral(recipe: Recipe, steps: int) -> float:
    """Return `Plan.lr_integral` of a training of so many steps."""
    lrs = (triangular(step, steps, recipe.warmup, recipe.lr_start) for step in range(steps))
    return recipe.lr * sum(lrs) / (1 - recipe.inertia)


def build_network(run: Run, data: Data, device: torch.device) -> SparseModel:
    """Return the run's model, initialised from its seed."""
    recipe = run.settings
    torch.manual_seed(mix(run.seed))
    model = make_model(recipe.model, data.classes, data.inputs)
    model = model.to(device=device, memory_format=memory_format(recipe))  # type: ignore[call-overload]
    dense = not find_method(run.method).is_sparse
    return SparseModel(model, exclude=run.exclude, stays_dense=dense)


def called_model(model: nn.Module, ranks: Ranks, compile: bool) -> nn.Module:
    """Return what the loop calls: the model, wrapped by DDP and torch.compile where needed."""
    if ranks.world > 1:
        model = DistributedDataParallel(model, device_ids=device_ids(ranks.device))
    return torch.compile(model) if compile else model  # type: ignore[return-value]


def device_ids(device: torch.device) -> list[int | None] | None:
    """Return DDP's argument of that name: the rank's GPU, None on a CPU."""
    return None if device.type == "cpu" else [device.index]


def build_optimizer(net: SparseModel, recipe: Recipe, rule: SignRule | None) -> Optimizer:
    """Return SGD or AdamW with three groups: prunable weights, what else decays, what does not."""
    decay = rest_decay = recipe.weight_decay
    if rule is not None:
        decay, rest_decay = rule.weight_decays(recipe.weight_decay)
    prunable = {id(weight) for weight in net.weights.values()}
    # timm's models name parameters that do not decay
    spared: set[str] = getattr(net.model, "no_weight_decay", set)()
    groups: dict[float, list[nn.Parameter]] = {rest_decay: [], 0.0: []}
    for name, parameter in net.model.named_parameters():
        if id(parameter) not in prunable and parameter.requires_grad:
            small = parameter.ndim <= 1 or name in spared
            decays = recipe.decay_norm_and_bias or not small
            groups[rest_decay if decays else 0.0].append(parameter)
    params: list[dict[str, Any]] = [
        {"params": list(net.weights.values()), "weight_decay": decay},
        *({"params": ps, "weight_decay": wd} for wd, ps in groups.items() if ps),
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(params, recipe.lr, fused=True)
    return torch.optim.SGD(params, recipe.lr, recipe.momentum, nesterov=recipe.nesterov, fused=True)
