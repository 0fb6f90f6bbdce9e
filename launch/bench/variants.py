"""The variants whose steps are measured: models at suitable sizes, and loops that train them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from baselines.engine.product import Product
from baselines.engine.prunable import prunable_weights
from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_inside_unit, check_not_negative, check_positive, unknown
from baselines.registry import find_method, methods
from baselines.tools.masks import random_masks
from launch.bench.bare import BareLoop
from launch.bench.generated_images import CIFAR
from launch.config.recipe import Precision, Recipe
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.data.augment import Normalise
from launch.data.batches import Data
from launch.data.resident import Resident
from launch.inputs import Inputs
from launch.ranks import Ranks, find_device
from launch.training.build import build_loop
from launch.training.loop import Loop
from launch.training.meter import Meter


@dataclass(frozen=True)
class Step:
    """One variant: `take` takes a training step, `held` returns the bytes that training holds."""

    take: Callable[[], None]
    held: Callable[[], int]


@dataclass(frozen=True)
class Case:
    """A model to measure: its recipe, image size, and batch sizes that fit."""

    name: str
    classes: int
    image_size: int = 32
    cpu_batch: int = 128
    gpu_batch: int = 512

    def batch(self, device: torch.device) -> int:
        """Return the batch size for a device."""
        return self.cpu_batch if device.type == "cpu" else self.gpu_batch

    def recipe(self, batch_size: int, **changes: Any) -> Recipe:
        """Return the recipe at that image size and batch size, with further changes."""
        changes |= {"image_size": self.image_size, "batch_size": batch_size}
        return replace(RECIPES[self.name], **changes)


MEASURED_MODELS = {
    "resnet20": Case("cifar10-resnet20", 10),
    "resnet18": Case("cifar100-resnet18", 100),
    "resnet50-128": Case("imagenet-resnet50", 1000, 128, 8, 256),
    "resnet50": Case("imagenet-resnet50", 1000, 224, 16, 256),
    "deit-small": Case("imagenet-deit-small", 1000, 224, 8, 256),
}


# Options of methods that cannot run without; times do not depend on them.
NEEDED: dict[str, dict[str, Any]] = {"str": {"s_init": -20.0, "threshold_decay": 0.05}}


@dataclass(frozen=True)
class StepsBench:
    """Compare the cost of a training step with a bare PyTorch loop."""

    models: tuple[str, ...] = ("resnet20", "resnet18")
    """resnet20, resnet18 (CIFAR), resnet50, deit-small (ImageNet), resnet50-128 (128 pixels)."""
    sparsity: float = 0.9
    """Sparsity of the sparse variants."""
    batch_size: int = 0
    """Batch size; 0: 128 for CIFAR, 8 (resnet50-128, deit-small) or 16 for ImageNet; on a GPU 512
    and 256."""
    steps: int = 30
    """Measured steps of each variant, after two that are not measured."""
    memory: bool = True
    """Also measure peak memory, each variant in separate processes."""
    precision: Precision = "bfloat16"
    """bfloat16: autocast."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads; 0: torch's default."""
    methods: tuple[str, ...] = ()
    """Methods to measure over their whole schedule; all: every method that needs no file."""
    epochs: int = 15
    """Length of that schedule. Events with a fixed number per training count ten times as much as
    in the recipes' 150 epochs; events with a fixed number per epoch count the same."""
    images: int = CIFAR[0]
    """Images per epoch of that schedule."""
    output: Path = Path("bench.csv")
    """File for the table."""

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in MEASURED_MODELS:
                raise unknown("model", name, MEASURED_MODELS)
        check_positive(steps=self.steps, epochs=self.epochs, images=self.images)
        check_not_negative(batch_size=self.batch_size, threads=self.threads)
        check_inside_unit(sparsity=self.sparsity)
        for name in self.methods:
            if name != "all":
                find_method(name)

    def batch_of(self, model: str) -> int:
        return self.batch_size or MEASURED_MODELS[model].batch(find_device(self.device))

    @property
    def chosen_methods(self) -> list[str]:
        if "all" in self.methods:
            return [name for name, method in methods().items() if method.variants]
        return list(self.methods)

    @property
    def method_variants(self) -> dict[str, dict[str, Any]]:
        """Choices of runs with these methods, plain and with Sign-In, by variant."""
        found: dict[str, dict[str, Any]] = {}
        for name in self.chosen_methods:
            choices = {"method": name, "sparsity": self.sparsity * find_method(name).is_sparse}
            found |= {name: choices, f"{name} + Sign-In": {**choices, "sign_in": True}}
        return found


def run_choices(options: StepsBench) -> dict[str, dict[str, Any]]:
    """Return the choices of the suite's runs by variant; bare loops have none."""
    sparse = {"method": "random", "sparsity": options.sparsity}
    s = f"s={options.sparsity:g}"
    return {
        "bare": {},
        "dense": {"method": "dense", "sparsity": 0.0},
        "dense + Sign-In": {"method": "dense", "sparsity": 0.0, "sign_in": True},
        f"random {s}": sparse,
        f"random {s} + Sign-In": {**sparse, "sign_in": True},
        f"in-forward {s}": {},
        **options.method_variants,
    }


def make_step(options: StepsBench, model: str, variant: str, device: torch.device) -> Step:
    """Build a variant's model, data and optimizer. Return its step."""
    choices = run_choices(options)[variant]
    if choices:
        return _suite_step(suite_loop(options, model, choices, device))
    return _bare_step(options, model, device, in_forward=variant != "bare")


def suite_loop(
    options: StepsBench,
    model: str,
    choices: dict[str, Any],
    device: torch.device,
    batches: int = 40,
) -> Loop:
    case = MEASURED_MODELS[model]
    given: dict[str, Any] = {"batch_size": options.batch_of(model)}
    given |= {"image_size": case.image_size, "precision": options.precision}
    given |= {**NEEDED.get(choices["method"], {}), **choices}
    run = Run.make(case.name, **given)
    data = random_data(run.settings, case.classes, device, batches)
    return build_loop(run, data, Ranks(0, 1, device), bar=False)


def _suite_step(loop: Loop) -> Step:
    loop.start()
    device, net = loop.ranks.device, loop.sparsifier.net

    def forever() -> Iterator[None]:
        for epoch in range(loop.epochs):
            meter = Meter(loop.steps, device)
            loop.model.train()
            for x, y in loop.data.train.epoch(epoch):
                loop.step(x, y, meter)
                yield

    steps = forever()
    return Step(lambda: next(steps), lambda: held(net.model, loop.optimizer, net))


def _bare_step(options: StepsBench, name: str, device: torch.device, in_forward: bool) -> Step:
    case = MEASURED_MODELS[name]
    recipe = case.recipe(options.batch_of(name), precision=options.precision)
    bare = BareLoop(recipe, case.classes, device)
    if in_forward:
        _parametrize(bare.model, options.sparsity)
        bare.restart()
    return Step(bare.step, lambda: held(bare.model, bare.optimizer))


class _Factors(nn.Module):
    """θ = S ⊙ m ⊙ w for torch's parametrize."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask.float())

    def forward(self, m: Tensor, w: Tensor) -> Tensor:
        return self.mask * m * w

    def right_inverse(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        (m,), (w,) = Product().split([theta])
        return m, w


def _parametrize(model: nn.Module, sparsity: float) -> None:
    weights = prunable_weights(model)
    shapes = {name: weight.shape for name, weight in weights.items()}
    for name, mask in random_masks("balanced", shapes, sparsity, seed=0).items():
        module = model.get_submodule(name.rpartition(".")[0])
        factors = _Factors(mask.to(weights[name].device))
        parametrize.register_parametrization(module, "weight", factors)


def random_data(recipe: Recipe, classes: int, device: torch.device, batches: int) -> Data:
    rng = np.random.default_rng(0)
    n = batches * recipe.batch_size
    size = recipe.image_size
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, n)
    half = torch.full((3,), 0.5, device=device)
    normalise, batch = Normalise(half, half / 2, size), recipe.batch_size
    make = partial(Resident, normalise=normalise, device=device, batch_size=batch)
    train = make(images, labels, padding=recipe.crop_padding, flip=recipe.flip, shuffle=True)
    return Data(train, make(images[:1], labels[:1]), classes, Inputs.image(3, size))


def held(model: nn.Module, optimizer: torch.optim.Optimizer, net: SparseModel | None = None) -> int:
    """Return the bytes that training holds besides activations, at their maximum in a step."""
    parameters = list(model.parameters())
    state = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    tensors = [*parameters, *parameters, *model.buffers(), *state]  # twice, for their gradients
    for layer in net or ():
        tensors += [] if layer.index is None else [layer.index]
        if not layer.is_in_place:
            latents = layer.latents.values()
            grads = (latent.grad for latent in latents)
            tensors += [*latents, *(grad for grad in grads if grad is not None)]
    return sum(t.numel() * t.element_size() for t in tensors)
