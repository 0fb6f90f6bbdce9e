"""How models are called on batches, and what is read from their outputs.

A model takes a tensor, several positional arguments (a tuple or list), or keyword arguments (a
mapping, as Hugging Face's do). It returns a tensor, or a mapping, dataclass or named tuple with
`logits` and maybe `loss`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.errors import UserError


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments of a model's call."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model on inputs.

    Raises:
        UserError: it has no forward pass.
    """
    positional, keywords = arguments(inputs)
    try:
        return model(*positional, **keywords)
    except NotImplementedError as error:
        if 'missing the required "forward"' in str(error):
            name = type(model).__name__
            raise UserError(f"{name} has no forward pass: give it a method forward.") from error
        raise


def mapped(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """Return the inputs with a function applied to every tensor among them."""
    if isinstance(inputs, Mapping):
        return {name: mapped(function, value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(mapped(function, value) for value in inputs)
    return function(inputs) if isinstance(inputs, Tensor) else inputs


def first_examples(inputs: Any, most: int) -> Any:
    """Return the first examples of a batch of inputs, without labels."""
    if isinstance(inputs, Mapping):
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
    return mapped(lambda tensor: tensor[:most], inputs)


def joined(batches: Sequence[Any]) -> Any:
    """Return one batch with the examples of several; None if they are not tensors of one shape.

    Args:
        batches: tensors, or mappings, tuples or lists of such.
    """
    leaves = [_leaves(batch) for batch in batches]
    if len(set(map(len, leaves))) != 1:
        return None
    columns = list(zip(*leaves, strict=True))
    if not all(isinstance(leaf, Tensor) and leaf.ndim for column in columns for leaf in column):
        return None
    if any(len({leaf.shape[1:] for leaf in column}) > 1 for column in columns):
        return None
    wholes = map(torch.cat, columns)
    return mapped(lambda _: next(wholes), batches[0])


def _leaves(inputs: Any) -> list[Any]:
    if isinstance(inputs, Mapping | tuple | list):
        parts = inputs.values() if isinstance(inputs, Mapping) else inputs
        return [leaf for part in parts for leaf in _leaves(part)]
    return [inputs]


def logits_of(outputs: Any) -> Tensor:
    """Return a model's outputs if they are a tensor, else their `logits`.

    Raises:
        UserError: there are none.
    """
    found = outputs if isinstance(outputs, Tensor) else _field(outputs, "logits")
    if not isinstance(found, Tensor):
        kind = type(outputs).__name__
        raise UserError(f"the model returns a {kind}, not a tensor or something with logits.")
    return found


def mean_loss(outputs: Any, targets: Any) -> Tensor:
    """Return the loss that the model has computed, else the cross-entropy of its logits.

    Raises:
        UserError: there is no loss, and the logits are not those of classes.
    """
    computed = _field(outputs, "loss")
    if isinstance(computed, Tensor):
        return computed.mean()
    logits = logits_of(outputs)
    shape = tuple(targets.shape) if isinstance(targets, Tensor) else None
    has_classes = logits.ndim >= 2 and logits.shape[1] > 1
    if not has_classes or shape not in (logits.shape, logits[:, 0].shape):
        raise UserError(
            f"logits of shape {tuple(logits.shape)} and targets of shape {shape} have no "
            "cross-entropy: give samples=Samples(batches, loss)."
        )
    return F.cross_entropy(logits, targets)


def at_temperature(outputs: Any, temperature: float) -> Any:
    """Return outputs whose logits are divided by a temperature, without a computed loss.

    Raises:
        UserError: there are no logits.
    """
    logits = logits_of(outputs) / temperature
    if isinstance(outputs, Tensor):
        return logits
    changes = {"logits": logits, **({} if _field(outputs, "loss") is None else {"loss": None})}
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return dataclasses.replace(outputs, **changes)
    if isinstance(outputs, Mapping):
        return {**outputs, **changes}
    return outputs._replace(**changes)  # a named tuple


def _field(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return getattr(outputs, name, None)
