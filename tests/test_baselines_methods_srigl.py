"""SRigL compared with a slow implementation and with an update worked out by hand."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from literal import batches, loss_of, tiny_net
from torch import nn

from baselines.engine.sparse_model import SparseModel
from baselines.method import Plan
from baselines.methods.srigl import SRigL, SRigLOptions, fan_ins


def counts_of(mask):
    """Return the number of weights of each neuron."""
    return mask.flatten(1).sum(1).tolist()


def trained(sparsity=0.9, steps=40, **options):
    """Train a tiny network. Return it, the method, and the masks after each step."""
    model = tiny_net()
    net = SparseModel(model)
    method = SRigL(Plan(sparsity, steps, steps), SRigLOptions(update_every=2, **options))
    method.prepare(net, lambda n: [])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    net.attach(optimizer)
    history = []
    for step, (x, y) in enumerate(batches(steps)):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        if not method.after_backward(net, step):
            optimizer.step()
        history.append(net.masks)
    return net, method, history


def slow_update(weight, mask, grad, fraction, gamma, k):
    """Return the mask of a layer after one update, with lists and loops."""
    neurons, size = weight.shape
    at = [(i, j) for i in range(neurons) for j in range(size)]
    active = [p for p in at if mask[p]]
    drop = int(len(active) * fraction)
    kept = sorted(active, key=lambda p: -abs(weight[p]))[: len(active) - drop]
    candidates = sorted((p for p in at if p not in kept), key=lambda p: -abs(grad[p]))
    salient = kept + candidates[:drop]
    number = [sum(p[0] == i for p in salient) for i in range(neurons)]
    alive = [i for i in range(neurons) if number[i] >= max(1, int(gamma * k))]
    for i in sorted(range(neurons), key=lambda i: -number[i]):
        if len(alive) * size < k * neurons and i not in alive:
            alive.append(i)
    new_k = round(k * neurons / len(alive))
    new = torch.zeros_like(mask)
    for i in alive:
        row = [p for p in kept if p[0] == i][:new_k]
        row += [p for p in candidates if p[0] == i][: new_k - len(row)]
        for p in row:
            new[p] = True
    return new


@given(seed=st.integers(0, 10_000), gamma=st.floats(0, 1), fraction=st.floats(0, 0.9))
def test_updates_equal_those_of_a_slow_implementation(seed, gamma, fraction):
    torch.manual_seed(seed)
    neurons, size = 7, 9
    model = nn.Sequential(nn.Linear(size, neurons, bias=False), nn.Linear(neurons, 2, bias=False))
    net = SparseModel(model.double())
    options = SRigLOptions(min_salient=gamma, drop_fraction=fraction, density="uniform")
    method = SRigL(Plan(0.6, 100, 100), options)
    method.prepare(net, lambda n: [])
    for _ in range(3):  # with neurons that were ablated before
        net.set_weights({name: torch.randn(w.shape).double() for name, w in net.weights.items()})
        for weight in net.weights.values():
            weight.grad = torch.randn_like(weight)
            weight.grad[: len(weight) // 2] *= 0.1  # neurons with little to grow
        before, k = net.masks["0.weight"], method.fan_ins["0.weight"]
        weight = net.weights["0.weight"].detach().clone()
        method.update(net, 0)
        expected = slow_update(weight, before, net.weights["0.weight"].grad, fraction, gamma, k)
        assert torch.equal(net.masks["0.weight"], expected)


def test_an_update_with_ablation_by_hand():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    net = SparseModel(model)
    method = SRigL(Plan(0.5, 100, 100), SRigLOptions(min_salient=0.5, drop_fraction=0.5))
    weight = torch.tensor([[0.9, 0.8, 0, 0], [0.7, 0.1, 0, 0], [0.05, 0.02, 0, 0]]).double()
    grad = torch.tensor([[0, 0, 0.3, 0.1], [0, 0, -0.9, 0.2], [0, 0, 0.01, -0.02]]).double()
    net.set_masks({"0.weight": weight != 0})
    net.set_weights({"0.weight": weight})
    method.fan_ins = {"0.weight": 2, "2.weight": 1, "1.weight": 1}
    net.weights["0.weight"].grad = grad
    net.weights["1.weight"].grad = torch.zeros(2, 3).double()
    # of 6 weights, .9 .8 .7 are kept; .9 .3 .2 are the largest gradients: 3, 3 and 0 are salient
    # γk = 1 ablates the last neuron; the two others share its 2 weights: the new fan-in is 3
    method.update(net, 0)
    assert net.masks["0.weight"].int().tolist() == [[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    # large gradients in the ablated neuron bring it back: 2 of 3 gradients that grow are its own
    grad[2, 1:3] = 5.0
    net.set_weights({"0.weight": weight})
    net.weights["0.weight"].grad = grad
    method.update(net, 0)
    assert net.masks["0.weight"].int().tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]]


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_each_layer_keeps_a_constant_fan_in_and_its_own_budget(sparsity):
    net, method, history = trained(sparsity, min_salient=0.9)
    budgets = {name: k * len(net.weights[name]) for name, k in method.fan_ins.items()}
    wanted = net.numel - round(sparsity * net.numel)
    assert abs(sum(budgets.values()) - wanted) <= 3  # half of the 5 classes
    ablated = 0
    for masks in history:
        for name, mask in masks.items():
            alive = [count for count in counts_of(mask) if count]
            assert len(set(alive)) == 1
            assert abs(sum(alive) - budgets[name]) <= len(alive) / 2
            ablated += len(mask) - len(alive)
        assert all(counts_of(masks["7.weight"]))  # classes are never ablated
    assert ablated > 0


def test_ablation_in_one_layer_does_not_change_another():
    found = []
    for scale in (1.0, 1e-6):
        net, method, _ = trained(steps=2)
        torch.manual_seed(0)
        for weight in net.weights.values():
            weight.grad = torch.randn_like(weight)
        net.weights["0.weight"].grad[0] *= scale
        net.weights["0.weight"].data[0] *= scale
        method.update(net, 0)
        found.append(net.masks)
    whole, ablated = found
    assert counts_of(whole["0.weight"])[0] > 0 and counts_of(ablated["0.weight"])[0] == 0
    assert all(torch.equal(whole[name], ablated[name]) for name in list(whole)[1:])


def test_without_ablation_all_neurons_keep_their_fan_in():
    _, method, history = trained(ablation=False)
    assert not torch.equal(history[-1]["0.weight"], history[0]["0.weight"])
    for name, k in method.fan_ins.items():
        assert {count for masks in history for count in counts_of(masks[name])} == {k}


def test_a_layer_keeps_the_neurons_that_its_weights_need():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    net = SparseModel(model)
    method = SRigL(Plan(0.25, 100, 100), SRigLOptions(min_salient=1.0, drop_fraction=0.0))
    method.fan_ins = {"0.weight": 3, "1.weight": 3}
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    net.set_masks({"0.weight": mask})
    for weight in net.weights.values():
        weight.grad = torch.zeros_like(weight)
    method.update(net, 0)  # 12 weights need 3 neurons of 4
    assert torch.equal(net.masks["0.weight"], mask)
    net.weights["0.weight"].data[2] *= 1e-3
    method.options = SRigLOptions(min_salient=1.0, drop_fraction=0.4)
    net.weights["0.weight"].grad[3] = 1.0
    method.update(net, 0)  # the third neuron loses all 4 to the last one
    assert counts_of(net.masks["0.weight"]) == [4, 4, 0, 4]


@pytest.mark.parametrize("sparse_init", [True, False])
def test_initial_weights_have_the_variance_of_their_fan_in(sparse_init):
    model = tiny_net()
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    net = SparseModel(model)
    method = SRigL(Plan(0.8, 100, 100), SRigLOptions(sparse_init=sparse_init))
    method.prepare(net, lambda n: [])
    for name, weight in net.weights.items():
        factor = (weight[0].numel() / method.fan_ins[name]) ** 0.5 if sparse_init else 1.0
        assert factor == 1 or factor > 1.1
        torch.testing.assert_close(weight.detach(), dense[name] * net.masks[name] * factor)


def test_more_weights_than_wanted_are_warned_of():
    model = nn.Sequential(nn.Linear(10, 8, bias=False), nn.Linear(8, 4, bias=False))
    with pytest.warns(UserWarning, match="srigl: 12 weights instead of 6: each neuron has at"):
        SRigL(Plan(0.95, 1000, 10)).prepare(SparseModel(model), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SRigL(Plan(0.8, 1000, 10)).prepare(SparseModel(model), None)


def test_what_rounding_adds_is_taken_from_the_next_layer():
    shapes = {"a": (10, 9), "b": (7, 9), "c": (3, 9)}
    found = fan_ins({"a": 44, "b": 25, "c": 12}, shapes)
    assert found == {"a": 4, "b": 4, "c": 4}  # 40; 28 of 29; 12 of 13
