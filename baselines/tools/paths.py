"""The paths of a network: which units (channels) each weight connects, from input to output.

Path-based pruning at initialisation needs them, and a plain `nn.Module` does not provide them.
torch.export gives the graph of the model's operations. Of each operation only its effect on units
is kept: a layer connects them by its weights; an activation, a normalisation or a pooling passes
them on; a flatten multiplies them; an addition or a product joins units of the same number; a
concatenation puts them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, first_line
from baselines.forward import arguments, logits_of
from baselines.tools.masks import count_ones, global_top_k_masks
from baselines.tools.scores import scoring


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        kind: effect on units.
        units: number of output units.
        sources: indices of the operations that provide the input units.
        layer: name of the weight, for a "layer".
        groups: number of groups of a convolution.
        entries: names of the parameters and buffers that it takes.
    """

    kind: Literal["input", "layer", "pass", "join", "concat"]
    units: int
    sources: tuple[int, ...] = ()
    layer: str = ""
    groups: int = 1
    entries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paths:
    """The operations of a network.

    Attributes:
        ops: operations in the order of computation; the last one is the output.
        fixed: absolute values of weights that are not pruned, by layer.
    """

    ops: tuple[Op, ...]
    fixed: Mapping[str, Tensor]

    def counts(self, kernels: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the number of paths from the input to each unit of each operation, in float64.

        Args:
            kernels: by layer, the number of weights from unit to unit, (out, in of its group).
        """
        counts: list[Tensor] = []
        for op in self.ops:
            found = [counts[source] for source in op.sources]
            if op.kind == "input":
                counts.append(torch.ones(op.units, dtype=torch.float64, device="cpu"))
            elif op.kind == "layer":
                kernel = (
                    kernels[op.layer] if op.layer in kernels else connections(self.fixed[op.layer])
                )
                groups = kernel.view(op.groups, -1, kernel.shape[1])
                counts.append((groups @ found[0].view(op.groups, -1, 1)).flatten())
            elif op.kind == "pass":
                counts.append(found[0].repeat_interleave(op.units // len(found[0])))
            elif op.kind == "join":
                counts.append(
                    sum(f.expand(op.units) for f in found[1:]) + found[0].expand(op.units)
                )
            else:
                counts.append(torch.cat(found))
        return counts

    def live(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the positions whose weight is on a path, or would be if it were kept.

        A path leads from the input to the output over weights in the masks.

        Raises:
            UserError: the number of paths overflows float64.
        """
        kernels = {name: connections(mask).requires_grad_() for name, mask in masks.items()}
        total = self.counts(kernels)[-1].sum()
        if not bool(total.isfinite()):
            raise UserError("the network has more paths than can be counted.")
        grads = torch.autograd.grad(total, list(kernels.values()), allow_unused=True)
        live = {}
        for (name, mask), grad in zip(masks.items(), grads, strict=True):
            through = mask.new_zeros(mask.shape[:2]) if grad is None else grad > 0
            live[name] = through.view(*mask.shape[:2], *[1] * (mask.ndim - 2)).expand(mask.shape)
        return live


def connections(weights: Tensor) -> Tensor:
    """Return the number of nonzero weights from unit to unit, (out, in), of a mask or a weight."""
    return (
        (weights != 0).flatten(2).sum(2).double() if weights.ndim > 2 else (weights != 0).double()
    )


def by_group(weights: Tensor, groups: int) -> Tensor:
    """Return a layer's weights as (groups, out, in, positions of the kernel)."""
    return weights.reshape(groups, -1, weights.shape[1], weights[0, 0].numel())


def fill_live(
    paths: Paths,
    masks: dict[str, Tensor],
    sizes: dict[str, Tensor],
    k: int,
    most: int | None = None,
) -> dict[str, Tensor]:
    """Remove weights that are on no path, then add the largest ones that are, up to k in total.

    Args:
        masks: masks by layer, with at most k ones.
        sizes: |θ| by layer.
        k: number of weights to keep.
        most: largest number of weights in a kernel; any if None.

    Raises:
        UserError: fewer than k weights can be on a path.
    """
    live = paths.live(masks)
    masks = {name: mask & live[name] for name, mask in masks.items()}
    while (missing := k - count_ones(masks)) > 0:
        live = paths.live(masks)
        open_ = {name: live[name] & ~mask for name, mask in masks.items()}
        if most is not None:
            open_ = {n: largest_open(sizes[n], masks[n], open_[n], most) for n in masks}
        if not count_ones(open_):
            limit = "" if most is None else f", with at most {most} in a kernel"
            raise UserError(f"only {count_ones(masks)} of {k} weights can be on a path{limit}.")
        scores = {name: sizes[name].masked_fill(~open_[name], -1.0) for name in masks}
        more = global_top_k_masks(scores, min(missing, count_ones(open_)))
        masks = {name: mask | more[name] for name, mask in masks.items()}
    return masks


def largest_open(size: Tensor, mask: Tensor, open_: Tensor, most: int) -> Tensor:
    """Return the largest open positions, of each kernel as many as it has less than `most` ones.

    Args:
        size, mask, open_: |θ|, mask, and the positions to choose from; (out, in, *positions).
    """
    size, mask, choice = (x.reshape(*x.shape[:2], -1) for x in (size, mask, open_))
    rank = size.masked_fill(~choice, -1.0).argsort(dim=2, descending=True).argsort(dim=2)
    free = most - mask.sum(dim=2, keepdim=True)
    return (choice & (rank < free)).view(open_.shape)


class _Logits(nn.Module):
    """Returns only the logits of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *positional: Any, **keywords: Any) -> Tensor:
        return logits_of(self.model(*positional, **keywords))


def trace(net: SparseModel, x: Any) -> Paths:
    """Return the paths of a model.

    Args:
        net: the model; its prunable weights are referred to by layer name.
        x: one example of the model's inputs; an image has shape (1, C, H, W).

    Raises:
        UserError: torch.export fails, or an operation has an unknown effect on units (attention).
    """
    try:
        with scoring(net.model, train=False):
            program = torch.export.export(_Logits(net.model), *arguments(x), strict=False)
    except Exception as error:  # torch.export raises errors of many types
        reason = first_line(error)
        raise UserError(f"the paths of this model cannot be followed: {reason}") from None
    signature = program.graph_signature
    inputs = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    weights = {node: path.removeprefix("model.") for node, path in inputs.items()}
    names = {id(parameter): name for name, parameter in net.weights.items()}
    ops: list[Op] = []
    at: dict[Any, int] = {}  # index of the operation of each graph node that carries units
    fixed: dict[str, Tensor] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in signature.user_inputs:
            at[node] = len(ops)
            ops.append(Op("input", node.meta["val"].shape[1]))
        elif node.op == "call_function":
            sources = [at[n] for n in node.all_input_nodes if n in at]
            if not sources:
                continue
            parameters = [n for n in node.all_input_nodes if n.name in weights]
            at[node] = len(ops)
            op = _op(node, ops, sources, parameters)
            if op.kind == "layer":
                path = weights[node.args[1].name]
                parameter = net.model.get_parameter(path)
                name = names.get(id(parameter), path)
                if id(parameter) not in names:
                    fixed[name] = parameter.detach().abs().cpu()
                op = replace(op, layer=name)
            ops.append(replace(op, entries=tuple(weights[n.name] for n in parameters)))
        elif node.op == "output":
            (last,) = node.args[0]
            ops = ops[: at[last] + 1]
    return Paths(tuple(ops), fixed)


def _op(node: Any, ops: list[Op], sources: list[int], parameters: list[Any]) -> Op:
    """Return the effect of an operation on units; raise UserError if it is unknown."""
    kind = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
    before, value = [ops[source].units for source in sources], node.meta["val"]
    inputs = [n.meta["val"].shape for n in node.all_input_nodes if n not in parameters]
    several = not isinstance(value, Tensor)  # chunk, say
    shape: tuple[int, ...] = () if several else tuple(value.shape)
    if len(shape) in (2, 4) and len(inputs[0]) in (2, 4):
        units, found = int(shape[1]), tuple(sources)
        if kind in ("conv2d", "linear"):
            if node.args[1] not in parameters:
                raise UserError(
                    f"the paths of this model cannot be followed through {kind} ({node.name}): its "
                    "weight is computed."
                )
            groups = node.args[6] if kind == "conv2d" and len(node.args) > 6 else 1
            return Op("layer", units, found, groups=groups)
        if kind in ("add", "mul") and all(b in (1, units) for b in before):
            return Op("join" if len(found) > 1 else "pass", units, found)
        if kind == "cat" and sum(before) == units:
            return Op("concat", units, found)
        kept = units == before[0] or (len(shape) == 2 and units == math.prod(inputs[0][1:]))
        if len(found) == 1 and kept and kind not in ("permute", "transpose"):
            return Op("pass", units, found)
    raise UserError(f"the paths of this model cannot be followed through {kind} ({node.name}).")
