"""GMP's masks are nested and end at the requested sparsity."""

from __future__ import annotations

import itertools

import pytest
from method_cases import STORAGES, trained
from torch import nn

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.gmp import Gmp, GmpOptions


@pytest.mark.parametrize("initial", [0.0, 0.5])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("storage", STORAGES)
def test_gmp_masks_are_nested_and_end_exactly(storage, scope, initial):
    history = []

    def after(net, _optimizer, _step):
        history.append({name: mask.clone() for name, mask in net.masks.items()})

    method = Gmp(Plan(0.9, 40, 10), GmpOptions(scope=scope, events=7, initial_sparsity=initial))
    net = trained(method, storage, after=after)
    for earlier, later in itertools.pairwise(history):
        assert all(not (later[k] & ~earlier[k]).any() for k in later)
    assert net.nnz == net.numel - round(0.9 * net.numel)
    counts = [sum(int(m.sum()) for m in masks.values()) for masks in history]
    assert counts[0] == net.numel - round(initial * net.numel) and len(set(counts)) == 8


@pytest.mark.parametrize(
    "initial, kept", [(0.0, [640, 307, 136, 73, 64]), (0.5, [320, 172, 96, 68, 64])]
)
def test_the_weights_left_after_each_event(initial, kept):
    """640·(0.1 + (0.9 − initial)·(1 − i/4)³): the cubes are 1, 27/64, 1/8, 1/64 and 0."""
    net = SparseModel(nn.Linear(64, 10))
    method = Gmp(Plan(0.9, 10, 5), GmpOptions(events=4, initial_sparsity=initial))
    method.prepare(net, None)
    found = []
    for step in range(10):
        method.before_step(net, step)
        found.append(net.nnz)
    assert found == [kept[(step // 2) if step < 8 else 4] for step in range(10)]


def test_an_initial_sparsity_above_the_final_one_is_refused():
    with pytest.raises(UserError, match=r"initial_sparsity 0.95 is above the sparsity 0.9"):
        Gmp(Plan(0.9, 40, 10), GmpOptions(initial_sparsity=0.95))
    with pytest.raises(UserError, match=r"must be in \[0, 1\), not 1"):
        GmpOptions(initial_sparsity=1.0)
