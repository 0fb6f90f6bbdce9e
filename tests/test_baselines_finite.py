"""Tensors of any kind are checked for entries that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from needs import on_gpu
from torch import nn

from baselines import SparseModel
from baselines.finite import all_finite


@pytest.mark.parametrize("device", ["cpu", on_gpu("cuda")])
def test_kinds_and_devices_may_differ(device):
    finite = torch.tensor([1.0, 2.0], device=device)
    kinds = [finite.double(), finite.bfloat16(), finite.to(torch.complex64).conj()]
    kinds += [finite.to_sparse(), torch.zeros(3, device=device).to_sparse(), finite.int()]
    assert all_finite([torch.ones(2), *kinds, None])
    for bad in (complex(0, math.inf), complex(math.nan, 0)):
        assert not all_finite([torch.ones(2), torch.tensor([0j, bad], device=device)])
    bad = torch.tensor([0.0, math.inf], device=device)
    assert not all_finite([torch.ones(2), bad.to_sparse()])


class Spectral(nn.Module):
    """Has a complex parameter, and one of sparse gradients."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4, sparse=True)
        self.filter = nn.Parameter(torch.randn(3, dtype=torch.complex64))
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(torch.fft.irfft(torch.fft.rfft(self.embed(x)) * self.filter, 4))


def test_gradients_of_any_kind_are_checked():
    model = Spectral()
    net = SparseModel(model).attach(torch.optim.SGD(model.parameters(), 0.1))
    model(torch.tensor([1, 3])).sum().backward()
    assert net.has_finite_gradients()
    model.filter.grad[1] = complex(math.inf, 0)
    assert not net.has_finite_gradients()
