"""Stand-ins on a CPU for what core torch's 2:4 kernels do on a GPU.

Torch's own code compresses the weight, finds the kernel and pads its inputs. Only the products
with a compressed weight are replaced, by products with the weight that torch decompresses.
"""

from __future__ import annotations

import torch
from torch.sparse import SparseSemiStructuredTensor
from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass

import baselines.engine.device
from baselines.tools.nm import nm_mask


def as_on_gpu(monkeypatch):
    """Treat tensors as a GPU's that has the kernels of CUTLASS, and those of cuSPARSELt not."""
    monkeypatch.setattr(baselines.engine.device, "on_cpu", lambda tensor: False)
    check = "_validate_device_dim_dtype_shape"
    monkeypatch.setattr(SparseSemiStructuredTensor, check, classmethod(lambda *_: None))
    monkeypatch.setattr(torch, "_sparse_semi_structured_mm", _product)
    monkeypatch.setattr(torch, "_sparse_semi_structured_addmm", _product_plus)


def _product(packed, meta, table):
    return sparse_semi_structured_to_dense_cutlass(packed, meta) @ table


def _product_plus(bias, packed, meta, table):
    return bias[:, None] + _product(packed, meta, table)


@torch.no_grad()
def pruned(layer, n=2, m=4):
    """Return a layer in eval mode whose weight has an N:M pattern."""
    layer.weight.mul_(nm_mask(layer.weight.abs(), n, m))
    return layer.eval()
