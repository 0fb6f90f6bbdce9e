"""AC/DC compresses by one global threshold, and decompresses to zeros."""

from __future__ import annotations

import pytest
import torch
from literal import batches, loss_of, tiny_net
from method_cases import STORAGES

from baselines.engine.sparse_model import SparseModel
from baselines.method import Plan
from baselines.methods.acdc import AcDc
from baselines.tools.schedules import acdc_phases


@pytest.mark.parametrize(
    ("epochs", "early", "expected"),
    [
        (100, (10, 30), (10, 30)),
        (150, (15, 45), (10, 40)),  # dense: 0 to 9, 35 to 39
        (25, (2, 8), (2, 7)),  # dense: 0 to 2.5, 6.25 to 7.5
        (3, (1, 1), (1, 1)),  # it ends sparse, and there is none before
    ],
)
def test_early_epochs_end_dense(epochs, early, expected):
    method = AcDc(Plan(0.8, 1000 * epochs, 1000))
    assert tuple(map(method.early_epoch, early)) == expected


@pytest.mark.parametrize("storage", STORAGES)
def test_acdc_compresses_by_one_threshold_and_returns_at_zero_without_momentum(storage):
    steps = 200
    phases = acdc_phases(5, steps)
    method = AcDc(Plan(0.8, 200, 40))
    model = tiny_net().double()
    net = SparseModel(model, storage)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    net.attach(optimizer)
    data = batches(4, torch.float64)
    for step in range(steps):
        before = torch.cat([w.detach().abs().flatten() for w in net.weights.values()])
        zeros = {n: w.detach() == 0 for n, w in net.weights.items()}
        method.before_step(net, step)
        if phases.get(step) == "sparse":
            kept = torch.cat([m.flatten() for m in net.masks.values()])
            assert int(kept.sum()) == net.numel - round(0.8 * net.numel)
            assert before[kept].min() >= before[~kept].max()
        if phases.get(step) == "dense":
            assert net.nnz == net.numel
            assert all(bool((net.weights[n][z] == 0).all()) for n, z in zeros.items())
            assert not any(
                bool(t.any())
                for state in optimizer.state.values()
                for t in state.values()
                if isinstance(t, torch.Tensor)
            )
        x, y = data[step % 4]
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert net.nnz == net.numel - round(0.8 * net.numel)
