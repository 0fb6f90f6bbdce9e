"""The cost of scores at initialisation, compared with their forward and backward passes alone.

Each round measures a method's whole preparation (sample, scores, masks, and the search for dead
layers) and then only the passes that it needs:

    snip     a forward and a backward pass over the sample
    grasp    the same, a forward and a backward pass that are recorded, and one through both; the
             first are not needed for a sample of one batch
    synflow  a forward and a backward pass of one image in float64 per iteration
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import check_not_negative, check_positive, unknown
from baselines.forward import call, mean_loss
from baselines.methods.snip import SampleOptions
from baselines.samples import Batch, Samples
from baselines.tools.scores import gradients, scoring
from launch.bench.variants import MEASURED_MODELS, StepsBench, suite_loop
from launch.measures.timing import threads_set, timed
from launch.ranks import join_ranks
from launch.training.loop import Loop

METHODS = ("snip", "grasp", "synflow")


@dataclass(frozen=True)
class ScoresBench:
    """Compare the time of scores at initialisation with that of their passes alone."""

    models: tuple[str, ...] = ("resnet20", "resnet18")
    """resnet20, resnet18 (CIFAR), resnet50, deit-small (ImageNet), resnet50-128 (128 pixels)."""
    methods: tuple[str, ...] = METHODS
    """snip, grasp, synflow."""
    iterations: int = 100
    """Iterations of SynFlow."""
    rounds: int = 3
    """Number of measurements of each, in turn."""
    samples_per_class: int = 10
    """Number of images of each class in the sample of SNIP and GraSP."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads; 0: torch's default."""

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("model", self.models, MEASURED_MODELS),
            ("method", self.methods, dict.fromkeys(METHODS)),
        ):
            for name in names:
                if name not in known:
                    raise unknown(kind, name, known)
        check_positive(iterations=self.iterations, rounds=self.rounds)
        check_positive(samples_per_class=self.samples_per_class)
        check_not_negative(threads=self.threads)


def bench_scores(options: ScoresBench) -> int:
    """Print one line per model and method. Return the exit code."""
    with threads_set(options.threads), join_ranks(options.device) as r:
        for model in options.models:
            for method in options.methods:
                found = [_round(options, model, method, r.device) for _ in range(options.rounds)]
                whole, passes = (statistics.median(times) for times in zip(*found, strict=True))
                ratio = statistics.median(a / b for a, b in found)
                print(f"{model:13} {method:8} {whole:9.3f} s  passes {passes:9.3f} s  {ratio:6.3f}")
    return 0


def _round(
    options: ScoresBench, model: str, method: str, device: torch.device
) -> tuple[float, float]:
    """Return the seconds of the preparation, and of the passes alone."""
    own: dict[str, Any] = {"samples_per_class": options.samples_per_class}
    if method == "synflow":
        own = {"iterations": options.iterations}
    choices = {"method": method, "sparsity": 0.9, **own}
    case = MEASURED_MODELS[model]
    batches = -(-2 * options.samples_per_class * case.classes // case.batch(device))
    loop = suite_loop(StepsBench(), model, choices, device, batches)
    passes = _passes(options, method, loop)
    passes()  # selects kernels
    alone = timed(passes, device)
    return timed(loop.start, device), alone


def _passes(options: ScoresBench, method: str, loop: Loop) -> Callable[[], None]:
    model, net = copy.deepcopy(loop.plain_model), loop.sparsifier.net
    weights = {name: model.get_parameter(name) for name in net.layers}
    if method == "synflow":
        return _flow_passes(options.iterations, model, weights, loop)
    sample = SampleOptions(options.samples_per_class).batches(Samples(loop.data.train.sample))

    def passes() -> None:
        with scoring(model):
            for batch in sample if method == "snip" or len(sample) > 1 else ():
                _gradients(model, batch, weights)
            for batch in sample if method == "grasp" else ():
                first = _gradients(model, batch, weights, create_graph=True)
                torch.autograd.grad(first, list(weights.values()), first)

    return passes


def _gradients(
    model: nn.Module, batch: Batch, weights: dict[str, nn.Parameter], create_graph: bool = False
) -> list[Tensor]:
    x, y = batch
    return gradients(mean_loss(call(model, x), y), weights, create_graph)


def _flow_passes(
    iterations: int, model: nn.Module, weights: dict[str, nn.Parameter], loop: Loop
) -> Callable[[], None]:
    model.to(dtype=torch.float64, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    ones = torch.ones_like(loop.data.inputs.zeros(1, like=next(iter(weights.values()))))

    def passes() -> None:
        with scoring(model, train=False):
            for _ in range(iterations):
                gradients(call(model, ones).sum(), weights)

    return passes
