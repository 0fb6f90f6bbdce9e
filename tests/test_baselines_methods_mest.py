"""MEST: updates compared with numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from literal import tiny_net
from method_cases import STORAGES, trained
from torch import nn

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.mest import Mest, MestOptions
from baselines.samples import Samples, no_samples
from baselines.tools.density import layer_counts


def test_the_mutation_falls_in_stairs():
    method = Mest(Plan(0.9, 1600, 10))
    assert [method.mutation(s) for s in (0, 899, 900, 1199, 1200, 1599)] == [
        *(0.2, 0.2, 0.1, 0.1, 0.0, 0.0)
    ]
    updates = [step for step in range(1600) if method.is_update(step)]
    assert updates == [50 * i for i in range(1, 25)]  # every 5 of 160 epochs, until 120


@pytest.mark.parametrize(("gradient_weight", "kept"), [(0.0, [0, 4, 6]), (0.5, [0, 1, 4])])
def test_weights_with_the_largest_scores_stay(gradient_weight, kept):
    layer = nn.Linear(10, 1, bias=False).double()
    net = SparseModel(layer)
    mask = torch.zeros(1, 10, dtype=torch.bool)
    mask[0, [0, 1, 4, 6]] = True
    net.set_masks({"weight": mask})
    w = torch.tensor([[0.9, 0.1, 0, 0, -0.3, 0, 0.5, 0, 0, 0]]).double()
    net.set_weights({"weight": w})
    options = MestOptions(mutation=0.25, gradient_weight=gradient_weight, updates=1000)
    method = Mest(Plan(0.6, 100, 10), options)
    layer.weight.grad = torch.tensor([[0, -1.0, 9, 9, 0.5, 9, 0, 9, 9, 9]]).double()
    step = next(step for step in range(100) if method.is_update(step))
    assert not method.after_backward(net, step)
    method.after_step(net, step)
    active = net.masks["weight"][0].nonzero().flatten().tolist()
    assert len(active) == 4 and set(kept) < set(active)
    expected = torch.zeros(1, 10).double()
    expected[0, kept] = w[0, kept]
    assert torch.equal(layer.weight, expected)  # a weight that is regrown starts at zero, too


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("soft_bound", [False, True])
def test_a_dense_layer_keeps_its_weights_and_momentum(storage, soft_bound):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 4)).double()  # ERK fills the second
    net = SparseModel(model, storage)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    method = Mest(Plan(0.8, 40, 10), MestOptions(soft_bound=soft_bound, mutation=0.2))
    method.prepare(net, Samples(no_samples))
    net.attach(optimizer)
    step = next(step for step in range(40) if method.is_update(step))
    model(torch.randn(16, 64).double()).square().sum().backward()
    optimizer.step()

    def held(name):
        layer = net.layers[name]
        buffers = [optimizer.state[x]["momentum_buffer"] for x in layer.latents.values()]
        return [x.clone() for x in (layer.weight, *buffers)]

    before, masks = held("1.weight"), net.masks
    assert masks["1.weight"].all() and all(x.all() for x in before)
    method.after_step(net, step)
    assert all(map(torch.equal, held("1.weight"), before))
    assert not torch.equal(net.masks["0.weight"], masks["0.weight"])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("soft_bound", [False, True])
def test_counts(storage, soft_bound):
    counts = []

    def after(net, _optimizer, _step):
        counts.append([layer.nnz for layer in net])

    options = MestOptions(soft_bound=soft_bound, mutation=0.2)
    net = trained(Mest(Plan(0.8, 40, 10), options), storage, after=after)
    fewest = [*layer_counts("erk", net.shapes, 0.8).values()]
    sizes = [layer.weight.numel() for layer in net]
    most = [min(k + int(0.2 * k), n) for k, n in zip(fewest, sizes, strict=True)]
    assert counts[0] == counts[20] == (most if soft_bound else fewest)
    assert counts[30:] == [fewest] * 10 and sum(fewest) == net.numel - round(0.8 * net.numel)


def test_a_softly_bound_training_starts_with_more_weights():
    first, soft = (SparseModel(tiny_net().double()) for _ in range(2))
    Mest(Plan(0.9, 40, 10)).prepare(first, Samples(no_samples))
    Mest(Plan(0.9, 40, 10), MestOptions(soft_bound=True, mutation=0.5)).prepare(
        soft, Samples(no_samples)
    )
    for name, mask in first.masks.items():
        k, found = int(mask.sum()), soft.masks[name]
        assert int(found.sum()) == min(k + int(0.5 * k), mask.numel())
        assert found[mask].all()
        assert torch.equal(soft.weights[name], first.weights[name])  # those that grow are zero


def test_masks_change_between_updates_only():
    masks = []

    def after(net, _optimizer, _step):
        masks.append(net.masks)

    trained(Mest(Plan(0.8, 40, 10)), after=after)
    changes = [
        step for step in range(1, 40)
        if any(not torch.equal(masks[step][k], masks[step - 1][k]) for k in masks[step])
    ]  # fmt: skip
    assert changes == list(range(3, 30, 3))  # nine updates of ten periods


def test_options_that_cannot_work_are_refused():
    for options in ({"mutation": 1.5}, {"updates": 0}, {"gradient_weight": -1.0}):
        with pytest.raises(UserError, match=next(iter(options))):
            MestOptions(**options)
