"""SViTE: its schedule, and updates that do not replace the optimizer's step."""

from __future__ import annotations

import math

import pytest
import torch
from literal import batches, loss_of, tiny_net

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.svite import Svite, SviteOptions
from baselines.samples import Samples, no_samples


def test_the_published_schedule():
    method = Svite(Plan(0.6, 1_500_000, 2500))
    assert method.period == 15_000
    updates = [step for step in range(14_999, 1_500_000, 15_000) if method.is_update(step)]
    assert updates[0] == 14_999 and len(updates) == 79  # steps 15,000 to 1,185,000
    assert method.regrowth(749_999) == pytest.approx((0.5 + 0.005) / 2, abs=1e-12)


def test_an_update_keeps_the_largest_and_grows_by_gradient():
    method = Svite(Plan(0.6, 30, 10), SviteOptions(updates=10))
    model = tiny_net().double()
    net = SparseModel(model)
    method.prepare(net, Samples(no_samples))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    net.attach(optimizer)
    x, y = batches(1, torch.float64)[0]
    loss_of(model(x), y).backward()
    assert not method.after_backward(net, 2)
    optimizer.step()
    before = {layer.name: (layer.weight.abs(), net.masks[layer.name]) for layer in net}
    method.after_step(net, 2)
    rate = 0.005 + 0.495 / 2 * (1 + math.cos(math.pi * 3 / 30))
    for layer in net:
        weights, mask = before[layer.name]
        drop = math.ceil(rate * int(mask.sum()))
        kept = weights[mask].sort().values[drop:]
        found = layer.weight[layer.weight != 0].abs()
        assert layer.nnz == mask.sum()
        assert set(kept.tolist()) <= set(found.tolist())
        grown = net.masks[layer.name] & ~(mask & (weights >= kept.min()))
        others = ~net.masks[layer.name]
        grads = layer.weight.grad.abs()
        assert int(grown.sum()) == drop and grads[grown].min() >= grads[others].max()


def test_options_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="update_until"):
        SviteOptions(update_until=1.5)
