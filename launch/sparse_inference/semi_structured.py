"""Linear layers on a GPU whose weight has at most 2 of 4 nonzeros, by core torch's kernels.

Torch calls this 2:4 format semi-structured, and has kernels of CUTLASS and of cuSPARSELt for it.
They take weights of two bytes, whose sides are multiples of numbers that differ between the two.
Only a call shows which of them a GPU and a build of torch have.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.sparse import (
    SparseSemiStructuredTensor,
    SparseSemiStructuredTensorCUSPARSELT,
    SparseSemiStructuredTensorCUTLASS,
)

from baselines.tools.nm import has_nm
from launch.sparse_inference.formats import no_beta_warnings

N, M = 2, 4
NO_ZEROS = "its weight has no zeros"
TYPES = (torch.float16, torch.bfloat16)  # in float32, the format has 1 of 2
KERNELS: dict[str, type[SparseSemiStructuredTensor]] = {
    "2:4 cusparselt": SparseSemiStructuredTensorCUSPARSELT,
    "2:4 cutlass": SparseSemiStructuredTensorCUTLASS,
}


class SemiStructuredLinear(nn.Module):
    """A linear layer with a weight in torch's 2:4 format.

    Args:
        layer: the dense layer, for which `why_no_kernel` has no reason.
        kind: a value of `KERNELS`.

    Raises:
        RuntimeError: this build of torch or this GPU lacks the kernels.
    """

    packed: Tensor
    meta: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, kind: type[SparseSemiStructuredTensor]) -> None:
        super().__init__()
        with no_beta_warnings():
            weight = kind.from_dense(layer.weight.detach().contiguous())
        self.register_buffer("packed", weight.packed)
        self.register_buffer("meta", weight.meta)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        self.weight = weight  # holds `packed` and `meta`; in the state dict are these two

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, of shape (…, outputs), for inputs of shape (…, inputs)."""
        rows = x.reshape(-1, x.shape[-1])  # torch has the product for matrices only
        found = F.linear(rows, self.weight, self.bias)
        return found.reshape(*x.shape[:-1], len(self.weight))


def kernels_for(weight: Tensor) -> list[str]:
    """Return the names of the kernels that take a matrix of this type and shape."""
    return [name for name, kind in KERNELS.items() if _takes(kind, weight)]


def _takes(kind: type[SparseSemiStructuredTensor], weight: Tensor) -> bool:
    if weight.dtype not in TYPES:
        return False
    sides = kind._DTYPE_SHAPE_CONSTRAINTS[weight.dtype]
    rows, columns = weight.shape
    return not (rows % sides.sparse_min_rows or columns % sides.sparse_min_cols)


def why_no_kernel(layer: nn.Module) -> str:
    """Return why no kernel takes a layer's weight; an empty text if one may."""
    if not isinstance(layer, nn.Linear):
        return f"there is no 2:4 {type(layer).__name__}"
    weight = layer.weight
    if bool((weight != 0).all()):
        return NO_ZEROS
    if weight.dtype not in TYPES:
        return f"there is no 2:4 format of type {str(weight.dtype).removeprefix('torch.')}"
    if not has_nm(weight, N, M):
        return "more than 2 of 4 consecutive inputs have a weight"
    return "" if kernels_for(weight) else "no 2:4 kernel takes a weight of its shape"


def is_semi_structured(weights: Iterable[Tensor]) -> bool:
    """Return whether the weights that have zeros are 2:4, and there are such weights."""
    sparse = [weight for weight in weights if bool((weight == 0).any())]
    return bool(sparse) and all(w.ndim > 1 and has_nm(w, N, M) for w in sparse)
