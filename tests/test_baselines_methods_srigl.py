"""SRigL: constant fan-in at all times, ablation, and the budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from literal import batches, loss_of, tiny_net

from baselines.engine.sparse_model import SparseModel
from baselines.method import Plan
from baselines.methods.srigl import SRigL, SRigLOptions, constant_fan_in_masks, ranking, surviving


def fan_ins(mask):
    """Return the distinct fan-ins of all neurons that have weights."""
    return set(mask.flatten(1).sum(1).tolist()) - {0}


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_the_fan_in_is_constant_at_all_times_and_the_budget_is_kept(sparsity):
    model = tiny_net()
    net = SparseModel(model)
    options = SRigLOptions(update_every=2, min_salient=0.9)
    method = SRigL(Plan(sparsity, 40, 40), options)
    method.prepare(net, lambda n: [])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    net.attach(optimizer)
    alive, wanted = [], net.numel - round(sparsity * net.numel)
    for step, (x, y) in enumerate(batches(40)):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        if not method.after_backward(net, step):
            optimizer.step()
        assert all(len(fan_ins(mask)) == 1 for mask in net.masks.values())
        alive.append(sum(int(m.flatten(1).any(1).sum()) for m in net.masks.values()))
        assert abs(net.nnz - wanted) <= 3  # half of the 5 classes
    assert alive == sorted(alive, reverse=True) and alive[-1] < alive[0]  # no neuron returns
    assert net.masks["7.weight"].any(1).all()  # classes are never ablated


def test_one_update_by_hand():
    weight = torch.tensor([[0.9, 0.8, 0.0, 0.0], [0.7, 0.1, 0.0, 0.0], [0.05, 0.02, 0.0, 0.0]])
    mask = weight > 0
    growth = torch.tensor([[0, 0, 0.3, 0.1], [0, 0, 0.9, 0.2], [0, 0, 0.01, 0.02]])
    ranks = ranking(weight, mask, growth, fraction=0.5)  # keeps .9 .8 .7; grows .9 .3 .2
    assert ((ranks > 1) == (weight > 0.5)).all()
    alive = surviving(ranks, mask, share=0.5)  # salient: 3, 3 and 0
    assert alive.tolist() == [True, True, False]
    masks = constant_fan_in_masks({"l": ranks}, {"l": alive}, {"l": 6})
    assert masks["l"].int().tolist() == [[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]]


@given(st.integers(0, 500), st.floats(0, 1))
def test_a_neuron_always_survives_and_the_dead_stay_dead(seed, share):
    torch.manual_seed(seed)
    weight = torch.randn(6, 5)
    mask = torch.rand(6, 5) < 0.5
    mask[0] = False
    mask[1, 0] = True
    ranks = ranking(weight, mask, torch.rand(6, 5), 0.3)
    alive = surviving(ranks, mask, share)
    assert alive.any() and not (alive & ~mask.any(1)).any()


def test_what_rounding_takes_is_asked_of_the_next_layer():
    shapes = {"a": (10, 9), "b": (7, 9), "c": (3, 9)}
    ranks = {name: torch.rand(shape) for name, shape in shapes.items()}
    alive = {name: torch.ones(shape[0], dtype=torch.bool) for name, shape in shapes.items()}
    masks = constant_fan_in_masks(ranks, alive, {"a": 44, "b": 25, "c": 12})
    assert [int(m.sum()) for m in masks.values()] == [40, 28, 12]  # 4·10, 4·7 of 29, 4·3 of 13
