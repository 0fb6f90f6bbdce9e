"""The sparse modules that can replace a layer, and the layers that nothing can replace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from baselines.engine import device
from launch.sparse_inference.formats import FORMATS, formats_of
from launch.sparse_inference.layers import Im2colConv, RowsConv, SparseLinear, conv_matrix
from launch.sparse_inference.semi_structured import (
    KERNELS,
    NO_ZEROS,
    SemiStructuredLinear,
    kernels_for,
    why_no_kernel,
)

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
PRECISIONS = (torch.float32, torch.float64, torch.bfloat16)
PLAIN = ("gather", "rows")  # made of dense tensors: these have all types, and can be exported
LARGEST = 2**26  # numbers in the matrix of a convolution over all its groups
Candidates = dict[str, Callable[[], nn.Module]]


def why_dense(module: nn.Module, is_called: bool = True) -> str:
    """Return why a module with a weight must stay dense; an empty text if it need not.

    Args:
        is_called: the model calls the module, rather than reading its weight.
    """
    kind = next((kind for kind in LAYERS if isinstance(module, kind)), None)
    if kind is None or type(module).forward is not kind.forward:
        return f"there is no sparse {type(module).__name__}"
    if "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    weight = module.weight
    assert isinstance(weight, Tensor)
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks"
    if not is_called:
        return "the model does not call it"
    if not device.on_cpu(weight):
        return why_no_kernel(module)
    if weight.dtype not in PRECISIONS:
        return f"its weight is of type {str(weight.dtype).removeprefix('torch.')}"
    if weight.numel() * int(getattr(module, "groups", 1)) > LARGEST:
        return "its matrix over all groups is too large"
    return "" if bool((weight == 0).any()) else NO_ZEROS


def candidates(layer: nn.Module, exported: bool = False) -> Candidates:
    """Return functions that make the sparse modules for a layer, by the names of the formats.

    Args:
        layer: one for which `why_dense` has no reason.
        exported: only those that torch.export can record.
    """
    if isinstance(layer, nn.Linear) and not device.on_cpu(layer.weight):
        return _on_gpu(layer)
    found = _of_linear(layer) if isinstance(layer, nn.Linear) else _of_conv(layer)
    if exported or layer.weight.dtype == torch.bfloat16:  # MKL has no sparse products of it
        return {name: make for name, make in found.items() if name in PLAIN}
    return found


def _on_gpu(layer: nn.Linear) -> Candidates:
    names = kernels_for(layer.weight)
    return {name: partial(SemiStructuredLinear, layer, KERNELS[name]) for name in names}


def _of_linear(layer: nn.Linear) -> Candidates:
    matrix = layer.weight.detach()
    return {name: partial(_linear, layer, name) for name in formats_of(matrix)}


def _linear(layer: nn.Linear, name: str) -> nn.Module:
    return SparseLinear(layer, FORMATS[name](layer.weight.detach()))


def _of_conv(layer: nn.Module) -> Candidates:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    found: Candidates = {
        name: partial(_im2col, layer, name) for name in formats_of(conv_matrix(layer))
    }
    if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1:
        found["rows"] = partial(RowsConv, layer)
    return found


def _im2col(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, name: str) -> nn.Module:
    return Im2colConv(layer, FORMATS[name](conv_matrix(layer)))
