"""Choose a format for each layer of a network by measurement: sparse only where it is faster.

This is the policy of SparseProp (Nikdan et al. 2023), here for inference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from baselines.engine.kinds import slots
from baselines.errors import UserError, one_line
from launch.measures.timing import Measure, Times, measure
from launch.sparse_inference.candidates import candidates, why_dense
from launch.sparse_inference.formats import held_bytes

DENSE = "dense"
FASTER = 0.95  # largest ratio to the dense layer's time at which a layer is replaced
# of outputs, relative to the largest one of the dense network
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class LayerFormat:
    """The format of one layer.

    Attributes:
        name: of the module in the network.
        density: fraction of its weights that are not zero.
        format: the chosen format, or `DENSE`.
        reason: why it was not measured; empty if it was.
        failed: why formats were not measured, by format.
        times: by format, the dense layer's first.
        sizes: bytes of parameters, values and indices by format.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    density: float
    format: str = DENSE
    reason: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, Times] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_sparse(self) -> bool:
        return self.format != DENSE


@torch.no_grad()
def choose_formats(
    model: nn.Module,
    x: Tensor,
    rounds: int,
    exported: bool = False,
    timer: Measure = measure,
) -> list[LayerFormat]:
    """Return a choice for each module with the weight of a linear map, on inputs like x.

    Args:
        model: in eval mode.
        x: inputs on the model's device, which decides on the formats.
        rounds: of the measurement of each layer.
        exported: use only formats that torch.export can record.
        timer: measures alternatives.
    """
    layers = _layers(model)
    with _recorded_inputs([module for _, module, _ in layers]) as inputs:
        model(x)
    return [
        _choice(path, module, weight, inputs.get(module), rounds, exported, timer)
        for path, module, weight in layers
    ]


def _choice(
    path: str,
    layer: nn.Module,
    weight: Tensor,
    x: Tensor | None,
    rounds: int,
    exported: bool,
    timer: Measure,
) -> LayerFormat:
    density = float((weight != 0).double().mean())
    kept = LayerFormat(path, type(layer).__name__, tuple(weight.shape), density)
    reason = why_dense(layer, is_called=x is not None)
    if reason or x is None:
        return replace(kept, reason=reason)
    modules, failed = _modules(layer, x, exported)
    works = {name: lambda module=module: module(x) for name, module in modules.items()}
    times = timer(works, rounds, x.device)
    best = min(times, key=lambda name: times[name].ratio)
    return replace(
        kept,
        format=best if times[best].ratio <= FASTER else DENSE,
        failed=failed,
        times=times,
        sizes={name: held_bytes(module) for name, module in modules.items()},
    )


def _modules(
    layer: nn.Module, x: Tensor, exported: bool
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the layer and what can replace it, by format, and why other formats cannot.

    A build of torch or a GPU may lack the kernels of a format, which shows when they are called.
    """
    modules, failed = {DENSE: layer}, {}
    for name, make in candidates(layer, exported).items():
        try:
            module = make().eval()
            check_outputs(layer, module, x)
        except (UserError, RuntimeError) as error:
            failed[name] = one_line(error, 120)  # errors of torch can be long
        else:
            modules[name] = module
    return modules, failed


@torch.no_grad()
def with_formats(
    model: nn.Module, choices: Sequence[LayerFormat], exported: bool = False
) -> nn.Module:
    """Return a copy of a model with the chosen layers in their sparse formats.

    Parameters that are not replaced are shared with the model.
    """
    memo = {id(t): t for t in (*model.parameters(), *model.buffers())}
    swapped = copy.deepcopy(model, memo)
    formats = {choice.name: choice.format for choice in choices if choice.is_sparse}
    made: dict[int, nn.Module] = {}
    for path, layer in list(swapped.named_modules(remove_duplicate=False)):
        if path in formats and id(layer) not in made:
            made[id(layer)] = candidates(layer, exported)[formats[path]]().eval()
    for path, layer in list(swapped.named_modules(remove_duplicate=False)):
        if id(layer) in made:
            if not path:
                return made[id(layer)]
            swapped.set_submodule(path, made[id(layer)])
    return swapped


@torch.no_grad()
def check_outputs(dense: nn.Module, sparse: nn.Module, x: Tensor) -> float:
    """Return the largest difference of outputs, relative to the largest dense output.

    Raises:
        UserError: it is larger than that of their type in `TOLERANCES`, or an output is not finite,
            or the sparse network fails, as where other modules read the weight of a layer that was
            replaced.
    """
    expected = dense(x)
    allowed = TOLERANCES.get(expected.dtype, TOLERANCES[torch.bfloat16])
    try:
        found = sparse(x)
    except Exception as error:  # models raise exceptions of many types
        raise UserError(f"sparse weights do not run: {error}") from error
    worst = relative_difference(found, expected)
    if not worst <= allowed:
        raise UserError(
            f"sparse and dense outputs differ by {worst:.2g} of the largest one; {allowed:g} is "
            "allowed."
        )
    return worst


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value.

    It is the difference itself if all expected values are zero.
    """
    scale = float(expected.abs().max())
    return float((found - expected).abs().max()) / (scale or 1.0)


def _layers(model: nn.Module) -> list[tuple[str, nn.Module, Tensor]]:
    """Return the modules with the weight of a linear map, each once, and the first such weight."""
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[int, tuple[str, nn.Module, Tensor]] = {}
    for slot in slots(model):
        if slot.is_known:
            key = id(slot.module)
            found.setdefault(key, (paths[key], slot.module, slot.weight.detach()))
    return list(found.values())


@contextmanager
def _recorded_inputs(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the first input of each of the modules that is called with one tensor."""
    inputs: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, args: tuple[object, ...]) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor):
            inputs.setdefault(module, args[0])

    hooks = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
