"""Whether modules compute with their weights as they are.

A weight-standardised convolution subtracts the mean of its weight before it uses it, so that masked
weights do not stay zero. Such a module is found without a list of classes: what it computes from
its weights is computed again from *shadows*, random tensors with zeros at half of their entries.
Where a shadow reaches a linear operation without those zeros, masks would have no effect.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from baselines.engine.kinds import Slot
from baselines.engine.random_state import kept_random_state
from baselines.errors import UserError

_LINEAR = {
    *("linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm"),
    *("addmv", "baddbmm", "addbmm", "einsum", "tensordot", "embedding", "embedding_bag"),
    *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward"),
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "_grouped_mm", "grouped_mm"),
}
_SMALLEST = 32  # entries of a tensor whose zeros are counted


@dataclass(frozen=True)
class _Derived:
    """A tensor that is computed from weights; it is kept so that its id is not given again."""

    tensor: Tensor
    shadow: Tensor | None  # None for a weight itself
    names: tuple[str, ...]


class WeightWatch(TorchFunctionMode):
    """Finds, in a forward pass, weights of which a transformed tensor reaches a linear operation.

    Args:
        weights: pairs of a name and a weight.

    Attributes:
        transformed: names of the weights whose zeros do not reach it.
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.transformed: dict[str, None] = {}  # in order
        self._known = {id(w): _Derived(w, None, (name,)) for name, w in weights}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        used = [x for x in map(self._derived, tree_leaves((args, kwargs))) if x is not None]
        if used and getattr(func, "__name__", "") in _LINEAR:
            self._check(used)
        elif used:
            self._follow(func, args, kwargs, result, used)
        return result

    def _derived(self, value: object) -> _Derived | None:
        return self._known.get(id(value)) if isinstance(value, Tensor) else None

    def _check(self, used: list[_Derived]) -> None:
        for derived in used:
            shadow = derived.shadow
            if shadow is not None and shadow.numel() >= _SMALLEST:
                zeros = shadow.numel() - int(shadow.count_nonzero())
                if zeros < shadow.numel() / 4:
                    self.transformed |= dict.fromkeys(derived.names)

    def _follow(
        self, func: Callable[..., Any], args: Any, kwargs: Any, result: Any, used: list[_Derived]
    ) -> None:
        """Apply the operation on the weights to the shadows."""
        outputs = tree_leaves(result)
        if not any(_is_one_of(output, used) for output in outputs):
            return
        try:
            with torch.no_grad(), kept_random_state(used[0].tensor.device):
                args, kwargs = tree_map(self._shadow, (args, kwargs))
                shadows = tree_leaves(func(*args, **kwargs))
        except Exception:  # of any kind: the operation cannot be done twice
            return
        names = tuple(name for derived in used for name in derived.names)
        for output, shadow in zip(outputs, shadows, strict=True):
            if _is_one_of(output, used):
                self._known[id(output)] = _Derived(output, shadow, names)

    def _shadow(self, value: object) -> object:
        derived = self._derived(value)
        if derived is None:
            return value
        if derived.shadow is None:
            generator = torch.Generator().manual_seed(0)
            shape = derived.tensor.shape
            drawn = torch.randn(shape, generator=generator, device="cpu")
            drawn *= torch.rand(shape, generator=generator, device="cpu") < 0.5
            return drawn.to(derived.tensor)
        return derived.shadow


def _is_one_of(output: object, used: list[_Derived]) -> bool:
    """Return whether an output holds as many numbers as the weights, or is a view of one."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    if output.numel() == sum(derived.tensor.numel() for derived in used):
        return True
    place = output.untyped_storage().data_ptr()
    return any(derived.tensor.untyped_storage().data_ptr() == place for derived in used)


def check_use(slots: Iterable[Slot]) -> None:
    """Check that modules with a forward of their own use their weights as they are.

    A copy of each is called once on random inputs. A module that cannot be called is not checked.

    Raises:
        UserError: a module transforms its weight.
    """
    found: dict[str, nn.Module] = {}
    for slot in slots:
        x = None if _is_native(slot.module) else _input(slot)
        if x is None:
            continue
        try:
            module = copy.deepcopy(slot.module)
            own = (slot.weight, getattr(module, slot.attribute))  # a closure may hold the first
            watch = WeightWatch((slot.name, weight) for weight in own)
            with torch.no_grad(), kept_random_state(x.device), watch:
                module.forward(x)
        except Exception:  # of any kind: it needs other arguments
            continue
        found |= dict.fromkeys(watch.transformed, module)
    for name, module in found.items():
        more = f" (and {len(found) - 1} others)" if len(found) > 1 else ""
        raise UserError(
            f"{name}{more}: a {type(module).__name__} transforms its weight before it uses it "
            "(weight standardisation, for example), so that masks have no effect: exclude it."
        )


def _is_native(module: nn.Module) -> bool:
    """Return whether a module's forward pass is PyTorch's own."""
    methods = (getattr(type(module), name, None) for name in ("forward", "_conv_forward"))
    places = [method.__module__ for method in methods if method is not None]
    return "forward" not in vars(module) and all(place.startswith("torch.") for place in places)


def _input(slot: Slot) -> Tensor | None:
    """Return an input for a module; None if its form is not known."""
    module = slot.module
    if isinstance(module, nn.Linear):
        shape: tuple[int, ...] = (2, module.in_features)
    elif isinstance(module, nn.modules.conv._ConvNd):
        sizes = zip(module.kernel_size, module.dilation, strict=True)
        shape = (2, module.in_channels, *(max(8, d * (k - 1) + 1) for k, d in sizes))
    else:
        return None
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator, device="cpu").to(slot.weight)
