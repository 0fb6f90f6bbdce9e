"""Kinds of modules, and which of their parameters are the weights of linear maps.

A weight is *ordinary* if its first dimension counts the outputs and its second one the inputs (of
a group), as in nn.Conv2d and nn.Linear. Others are transposed (transposed convolutions, Conv1D of
Hugging Face), batched (experts of a mixture) or of another form (nn.Bilinear).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

_ORDINARY = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_OTHER = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_EXPERTS = ("expert", "moe")  # in the name of a class
_COMPUTED = object()


class BatchShape(tuple[int, ...]):
    """The shape of a tensor that holds several linear maps of the same shape.

    Attributes:
        one: the shape of one of them.
    """

    one: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...], one: tuple[int, ...]) -> BatchShape:
        self = super().__new__(cls, shape)
        self.one = one
        return self


@dataclass(frozen=True)
class Slot:
    """A place of a weight in a model.

    Attributes:
        name: of the parameter in the model.
        is_known: the module computes a linear map with it.
        is_ordinary: its form is (outputs, inputs of a group, *kernel).
        one: shape of one linear map, if the weight holds several.
    """

    name: str
    module: nn.Module
    attribute: str
    is_known: bool = False
    is_ordinary: bool = False
    one: tuple[int, ...] | None = None

    @property
    def weight(self) -> Tensor:
        """The module's tensor: a parameter, or computed at each access (see `is_computed`)."""
        weight: Tensor = getattr(self.module, self.attribute)
        return weight

    @property
    def key(self) -> object:
        """A key that is equal for all places of one weight."""
        return (id(self.module), self.attribute) if self.is_computed else id(self.weight)

    @property
    def parameter(self) -> nn.Parameter:
        """The weight, if it is a parameter."""
        assert isinstance(self.weight, nn.Parameter)
        return self.weight

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight; a `BatchShape` if it holds several linear maps."""
        return self.weight.shape if self.one is None else BatchShape(self.weight.shape, self.one)

    @property
    def is_computed(self) -> bool:
        """Whether the weight is computed from other parameters before each forward pass."""
        held = (self.module._parameters, self.module._buffers)
        return all(self.attribute not in names for names in held)

    @property
    def is_trained(self) -> bool:
        """Whether gradients reach the weight; assumed if it is computed."""
        return self.is_computed or self.weight.requires_grad


def slots(model: nn.Module) -> Iterator[Slot]:
    """Yield the places of weights of linear maps and of other parameters of two or more dimensions.

    A parameter that modules share has several places; one from which a weight is computed has none.
    """
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        known = [
            Slot(prefix + attribute, module, attribute, True, is_ordinary, one)
            for attribute, is_ordinary, one in _weights(module)
            if module._parameters.get(attribute, _COMPUTED) is not None
        ]
        yield from known
        if isinstance(module, ParametrizationList) or any(slot.is_computed for slot in known):
            continue
        attributes = {slot.attribute for slot in known}
        for attribute, parameter in module._parameters.items():
            if attribute not in attributes and _is_matrix(parameter):
                yield Slot(prefix + attribute, module, attribute)


def _is_matrix(parameter: nn.Parameter | None) -> bool:
    if parameter is None or isinstance(parameter, UninitializedParameter):
        return False
    return parameter.ndim >= 2


def is_transposed_linear(module: nn.Module) -> bool:
    """Return whether a module is Hugging Face's Conv1D: a linear layer, inputs × outputs."""
    return hasattr(module, "nf") and any(c.__name__ == "Conv1D" for c in type(module).__mro__)


def _weights(module: nn.Module) -> Iterator[tuple[str, bool, tuple[int, ...] | None]]:
    """Yield the attributes of a module's weights; whether they are ordinary; one map's shape."""
    names = {cls.__name__ for cls in type(module).__mro__}
    if isinstance(module, _ORDINARY):
        yield "weight", True, None
    elif isinstance(module, nn.MultiheadAttention):
        yield from ((attribute, True, None) for attribute in _ATTENTION)
    elif isinstance(module, _OTHER) or is_transposed_linear(module):
        yield "weight", False, None
    elif isinstance(module, nn.RNNBase):
        weights = (name for name in module._flat_weights_names if name.startswith("weight"))
        yield from ((attribute, False, None) for attribute in weights)
    elif isinstance(module, nn.RNNCellBase):
        yield from ((attribute, False, None) for attribute in ("weight_ih", "weight_hh"))
    elif "CondConv2d" in names and hasattr(module, "weight_shape"):
        shape: tuple[int, ...] = module.weight_shape  # type: ignore[assignment]
        yield "weight", False, tuple(shape)
    elif any(part in type(module).__name__.lower() for part in _EXPERTS):
        for attribute, parameter in module._parameters.items():
            if parameter is not None and parameter.ndim == 3:
                yield attribute, False, tuple(parameter.shape[1:])
