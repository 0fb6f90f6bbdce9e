"""What a training step costs, beside a bare PyTorch loop on the same model and batch.

Every variant takes its steps in turn with all the others in one process, so that whatever else
the machine does hits all alike; their order changes from round to round. Memory is measured in
processes of its own for each variant, as the peak above what the imports take, and it is counted:
parameters, gradients, optimizer state, factors and their gradients, indices and buffers.

    bare         model, loss, backward, fused SGD; batches that lie ready in the model's format
    dense        the suite's loop: data, augmentation, learning rate, accuracy, checks, the method
    random       the same with a random mask
    … + Sign-In  the same with factors around the step
    in-forward   the bare loop with S ⊙ m ⊙ w in every forward pass, by torch's parametrize

With `--methods`, what each method adds over a whole training: its own step is measured as above,
and all its hooks (mask updates, say) are called for every step of a schedule of `--epochs`, without
the forward and backward passes in between, and shared out over the steps.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm import tqdm

from baselines.density import random_masks
from baselines.errors import UserError, unknown
from baselines.method import find_method, methods
from baselines.prunable import prunable_weights
from baselines.sparse_model import SparseModel
from launch.config import Recipe, Run
from launch.data import Data, Resident
from launch.loop import Loop, Meter, autocast
from launch.models import build_model
from launch.ranks import Ranks, ranks
from launch.recipes import RECIPES
from signin.product import Product


@dataclass(frozen=True)
class Step:
    """One variant, ready to go: `take` takes a training step, `held` counts bytes."""

    take: Callable[[], None]
    held: Callable[[], int]


MEMORY_PROCESSES = 5
CIFAR_IMAGES = 50_000


@dataclass(frozen=True)
class Case:
    """A model as it is measured: by a recipe, at an image size and a batch that a CPU affords."""

    recipe: str
    classes: int
    image_size: int = 32
    batch_size: int = 128


MODELS = {
    "resnet20": Case("cifar10-resnet20", 10),
    "resnet18": Case("cifar100-resnet18", 100),
    "resnet50-128": Case("imagenet-resnet50", 1000, 128, 8),
    "resnet50": Case("imagenet-resnet50", 1000, 224, 16),
    "deit-small": Case("imagenet-deit-small", 1000, 224, 8),
}


@dataclass(frozen=True)
class Bench:
    """Measure what a training step costs, against a bare PyTorch loop."""

    models: tuple[str, ...] = ("resnet20", "resnet18")
    """resnet20 and resnet18 (CIFAR), resnet50 and deit-small (ImageNet), resnet50-128 (128 px)."""
    sparsity: float = 0.9
    """Of the sparse variants."""
    batch_size: int = 0
    """Images a step; 0: 128 of CIFAR's, 8 (resnet50-128, deit-small) or 16 of ImageNet's."""
    steps: int = 30
    """Measured steps of each variant, after two that are not."""
    memory: bool = True
    """Measure peak memory too, each variant in its own process."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """bfloat16: autocast."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads; 0: as many as torch takes."""
    methods: tuple[str, ...] = ()
    """Methods to measure over their whole schedule; all: every one that needs no file."""
    epochs: int = 15
    """Length of that schedule. Events of which there is a fixed number weigh ten times as much as
    in the recipes' 150 epochs; those that come every so many steps weigh the same."""
    output: Path = Path("bench.csv")
    """Where the table is written."""

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in MODELS:
                raise unknown("model", name, MODELS)
        if self.steps < 1 or self.epochs < 1:
            raise UserError("steps and epochs must be positive.")
        if self.batch_size < 0:
            raise UserError(f"batch_size must not be negative, not {self.batch_size}.")
        if not 0 < self.sparsity < 1:
            raise UserError(f"sparsity must be in (0, 1), not {self.sparsity}.")
        for name in self.methods:
            if name != "all":
                find_method(name)

    def batch_of(self, model: str) -> int:
        return self.batch_size or MODELS[model].batch_size

    @property
    def chosen_methods(self) -> list[str]:
        if "all" in self.methods:
            return [name for name, method in methods().items() if method.variants]
        return list(self.methods)


def bench(options: Bench) -> int:
    """Prints the table and writes it as CSV."""
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    with ranks(options.device) as r:
        for model in options.models:
            rows += _bench_model(options, model, r.device)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(_text(rows))
    print("written:", options.output)
    return 0


def _bench_model(options: Bench, model: str, device: torch.device) -> list[dict[str, Any]]:
    names = list(variants(options))
    steps = {name: make_step(options, model, name, device).take for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for i in tqdm(range(options.steps + 2), model, disable=not sys.stderr.isatty()):
        for name in order.sample(names, len(names)):
            seconds = _timed(steps[name], device)
            if i >= 2:  # the first ones compile, choose kernels and fill caches
                times[name].append(seconds)
    del steps
    base = statistics.median(times["bare"])
    rows = []
    for name in names:
        # each round's own ratio: what slows the machine slows both halves of it
        ratios = [t / b for t, b in zip(times[name], times["bare"], strict=True)]
        rows.append(
            {
                "model": model,
                "variant": name,
                "ms min": 1e3 * min(times[name]),
                "ms median": 1e3 * statistics.median(times[name]),
                "ms max": 1e3 * max(times[name]),
                "median / bare": statistics.median(times[name]) / base,
                "paired ratio": statistics.median(ratios),
                **(_memory(options, model, name) if options.memory else {}),
                **_whole_schedule(options, model, name, device, times),
            }
        )
    return rows


def _whole_schedule(
    options: Bench, model: str, variant: str, device: torch.device, times: dict[str, list[float]]
) -> dict[str, float]:
    """Seconds before the first step, and a mean step with the method's hooks, against dense."""
    if variant not in options.chosen_methods:
        return {}
    # how often it updates, a step, depends on them
    batches = CIFAR_IMAGES // options.batch_of(model)
    choices = {**variants(options)[variant], "epochs": options.epochs}
    loop = _suite_loop(options, model, choices, device, batches)
    prepare = _timed(loop.prepare, device)
    for parameter in loop.net.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    steps = loop.epochs * loop.steps

    def hooks() -> None:
        for step in tqdm(range(steps), variant, leave=False, disable=not sys.stderr.isatty()):
            loop.method.before_step(loop.net, step)
            loop.method.after_backward(loop.net, step)
            loop.method.after_step(loop.net, step)

    a_step = _timed(hooks, device) / steps
    mean = statistics.median(times[variant]) + a_step
    print(f"{variant}: prepared in {prepare:.2f} s, hooks {1e3 * a_step:.3f} ms a step", flush=True)
    return {
        "prepare s": prepare,
        "hooks ms": 1e3 * a_step,
        "mean / dense": mean / statistics.median(times["dense"]),
    }


def _timed(step: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- the variants


def variants(options: Bench) -> dict[str, dict[str, Any]]:
    """Choices of the suite's runs by variant; those without any are the bare loops."""
    sparse = {"method": "random", "sparsity": options.sparsity}
    s = f"s={options.sparsity:g}"
    return {
        "bare": {},
        "dense": {"method": "dense", "sparsity": 0.0},
        "dense + Sign-In": {"method": "dense", "sparsity": 0.0, "sign_in": True},
        f"random {s}": sparse,
        f"random {s} + Sign-In": {**sparse, "sign_in": True},
        f"in-forward {s}": {},
        **{
            name: {"method": name, **({} if find_method(name).is_sparse else {"sparsity": 0.0})}
            for name in options.chosen_methods
            if name != "dense"
        },
    }


def make_step(options: Bench, model: str, variant: str, device: torch.device) -> Step:
    """A variant's model, data and optimizer, built."""
    choices = variants(options)[variant]
    if choices:
        return _suite_step(_suite_loop(options, model, choices, device))
    return _bare_step(options, model, device, in_forward=variant != "bare")


def _suite_loop(
    options: Bench, model: str, choices: dict[str, Any], device: torch.device, batches: int = 40
) -> Loop:
    case = MODELS[model]
    given: dict[str, Any] = {"batch_size": options.batch_of(model)}
    given |= {"image_size": case.image_size, "sparsity": options.sparsity}
    given |= {"precision": options.precision, **choices}
    run = Run.make(case.recipe, **given)
    data = _random_data(run.settings, case.classes, device, batches)
    return Loop(run, data, Ranks(0, 1, device), bar=False)


def _suite_step(loop: Loop) -> Step:
    loop.prepare()
    device = loop.ranks.device

    def forever() -> Iterator[None]:
        for epoch in range(loop.epochs):
            loop.begin_epoch(epoch)
            meter = Meter(loop.steps, device)
            for i, (x, y) in enumerate(loop.data.train.epoch(epoch)):
                loop.step(epoch, i, x, y, meter)
                yield

    steps = forever()
    return Step(lambda: next(steps), lambda: _held(loop.net.model, loop.optimizer, loop.net))


def _bare_step(options: Bench, name: str, device: torch.device, in_forward: bool) -> Step:
    case, n = MODELS[name], options.batch_of(name)
    recipe = replace(RECIPES[case.recipe], precision=options.precision)
    torch.manual_seed(0)
    model = build_model(recipe.model, case.classes, 3, case.image_size)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    if in_forward:
        _parametrize(model, options.sparsity)
    optimizer = _bare_optimizer(model, recipe)
    x = torch.randn(n, 3, case.image_size, case.image_size, device=device)
    x = x.contiguous(memory_format=layout)
    y = torch.randint(case.classes, (n,), device=device)
    model.train()

    def step() -> None:
        with autocast(recipe, device):
            loss = F.cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return Step(step, lambda: _held(model, optimizer))


def _bare_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decay = recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=decay, fused=True
    )


class _Factors(nn.Module):
    """θ = S ⊙ m ⊙ w as torch's parametrize wants it."""

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


def _random_data(recipe: Recipe, classes: int, device: torch.device, batches: int) -> Data:
    rng = np.random.default_rng(0)
    n = batches * recipe.batch_size
    size = recipe.image_size
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, n)
    half = torch.full((3,), 0.5)
    make = partial(Resident, mean=half, std=half / 2, device=device, batch_size=recipe.batch_size)
    train = make(images, labels, padding=recipe.crop_padding, flip=recipe.flip, shuffle=True)
    return Data(train, make(images[:1], labels[:1]), classes, 3)


# ---- memory


def _held(
    model: nn.Module, optimizer: torch.optim.Optimizer, net: SparseModel | None = None
) -> int:
    """Bytes that training holds besides activations, at its largest, within the step."""
    parameters = list(model.parameters())
    state = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    tensors = [*parameters, *parameters, *model.buffers(), *state]  # twice: their gradients
    for layer in net or ():
        tensors += [] if layer.index is None else [layer.index]
        tensors += [] if layer.in_place else 2 * layer.latents
    return sum(t.numel() * t.element_size() for t in tensors)


def _memory(options: Bench, model: str, variant: str) -> dict[str, float]:
    """Median over processes that take a few steps of one variant."""
    code = "import sys; from launch.bench import measure_memory; measure_memory(*sys.argv[1:])"
    settings = json.dumps({**vars(options), "output": str(options.output)})
    found = []
    for _ in range(MEMORY_PROCESSES):
        done = subprocess.run(
            [sys.executable, "-c", code, model, variant, settings],
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(f[key] for f in found) for key in found[0]}


def measure_memory(model: str, variant: str, settings: str) -> None:
    """Prints, as JSON, what one variant holds (counted) and takes at its peak, in MiB."""
    options = Bench(**json.loads(settings))
    if options.threads:
        torch.set_num_threads(options.threads)
    with ranks(options.device) as r:
        before = _used_mib(r.device, peak=False)
        step = make_step(options, model, variant, r.device)
        for _ in range(4):
            step.take()
        peak = _used_mib(r.device, peak=True) - before
    print(json.dumps({"counted MiB": step.held() / 2**20, "peak MiB": peak}))


def _used_mib(device: torch.device, peak: bool) -> float:
    if device.type == "cuda":
        read = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
        return read(device) / 2**20
    field = "VmHWM" if peak else "VmRSS"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise UserError("memory can be measured on Linux only: --no-memory leaves it out.")


def _text(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    return pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format, na_rep="")
