"""WoodFisher and CAP compared with dense matrices and elimination of one weight at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines.engine.sparse_model import SparseModel
from baselines.method import Plan
from baselines.methods.cap import Cap
from baselines.methods.woodfisher import FisherOptions, WoodFisher
from baselines.tools.second_order import elimination_costs, inverse_fisher
from signin import Product


def tiny(storage=None, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    net = SparseModel(model, storage)
    net.attach(torch.optim.SGD(model.parameters(), 0.1))
    return net


def gradients(net, steps, seed=0):
    """Yield after setting weight.grad to a new batch gradient, once per step."""
    torch.manual_seed(seed)
    for _ in range(steps):
        net.model.zero_grad()
        x, y = torch.randn(8, 5, dtype=torch.float64), torch.randint(3, (8,))
        nn.functional.cross_entropy(net.model(x), y).backward()
        yield {layer.name: layer.weight.grad.clone() for layer in net}


def collected(cls, net, steps=6, **options):
    """Return a method with one block per layer after some steps, and the gradients as vectors."""
    given = {"begin": 0.6, "end": 0.6, "events": 1, "block_size": 32, "gradients": steps}
    method = cls(Plan(0.5, 10, 10), FisherOptions(**{**given, **options}))
    seen = {layer.name: [] for layer in net}
    for step, grads in enumerate(gradients(net, steps)):
        assert not method.after_backward(net, step)
        for layer in net:
            seen[layer.name].append(grads[layer.name][net.masks[layer.name]])
    return method, {name: torch.stack(gs) for name, gs in seen.items()}


def dense_fishers(method, seen):
    squares = torch.cat([g.square().flatten() for g in seen.values()])
    damping = method.options.damping * squares.mean()
    return {
        name: g.T @ g / len(g) + damping * torch.eye(g.shape[1], dtype=g.dtype)
        for name, g in seen.items()
    }


def active(net, name):
    return net.weights[name].detach()[net.masks[name]]


@pytest.mark.parametrize("storage", [None, Product()])
@pytest.mark.parametrize("masked", [False, True])
def test_woodfisher_prunes_and_moves_as_the_dense_inverse_says(masked, storage):
    net = tiny(storage)
    if masked:
        net.set_masks({"0.weight": torch.rand(4, 5) < 0.8, "2.weight": torch.rand(3, 4) < 0.8})
    method, seen = collected(WoodFisher, net)
    theta = {name: active(net, name).clone() for name in net.layers}
    inverses = {name: f.inverse() for name, f in dense_fishers(method, seen).items()}
    costs = {n: theta[n] ** 2 / (2 * inverses[n].diagonal()) for n in theta}
    before = net.masks
    method.prune(net, 0.5)
    assert net.nnz == 16
    bound = torch.cat(list(costs.values())).sort(descending=True).values[15]
    for name in net.layers:
        keep = net.masks[name][before[name]]
        assert torch.equal(keep, costs[name] >= bound)
        expected = theta[name].clone()
        for q in (~keep).nonzero().flatten():
            column = inverses[name][:, q]
            expected -= theta[name][q] / inverses[name][q, q] * column
        torch.testing.assert_close(net.weights[name].detach()[net.masks[name]], expected[keep])


def test_cap_moves_to_the_minimum_of_the_quadratic_model():
    net = tiny()
    method, seen = collected(Cap, net)
    theta = {name: active(net, name).clone() for name in net.layers}
    fishers = dense_fishers(method, seen)
    method.prune(net, 0.5)
    for name in net.layers:
        keep = net.masks[name].flatten()
        moved = net.weights[name].detach().flatten() - theta[name]
        # at the minimum no weight that stays feels a force
        force = fishers[name] @ moved
        torch.testing.assert_close(force[keep], torch.zeros_like(force[keep]), atol=1e-10, rtol=0)


@given(st.integers(0, 1000))
def test_elimination_costs_equal_the_rise_of_the_loss_one_by_one(seed):
    torch.manual_seed(seed)
    a = torch.randn(1, 9, 6, dtype=torch.float64)
    theta = torch.randn(1, 6, dtype=torch.float64)
    fisher = (a[0].T @ a[0]) + 0.1 * torch.eye(6, dtype=torch.float64)
    got = elimination_costs(theta, fisher.inverse().unsqueeze(0))[0]

    gone: list[int] = []
    at, reached = theta[0].clone(), 0.0
    expected = torch.zeros(6, dtype=torch.float64)
    for _ in range(6):
        kept = [i for i in range(6) if i not in gone]
        inverse = fisher[kept][:, kept].inverse()
        rises = at[kept] ** 2 / (2 * inverse.diagonal())
        j = int(rises.argmin())
        reached = max(reached, float(rises[j]))
        expected[kept[j]] = reached
        moves = -at[kept[j]] / inverse[j, j] * inverse[:, j]
        for i, move in zip(kept, moves, strict=True):
            at[i] += move
        gone.append(kept[j])
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-10)


def test_blocks_do_not_know_of_each_other():
    torch.manual_seed(0)
    factors = torch.randn(3, 7, 4, dtype=torch.float64)
    together = inverse_fisher(factors)
    for one, whole in zip(factors, together, strict=True):
        torch.testing.assert_close(whole, (one.T @ one).inverse())


@pytest.mark.parametrize("cls", [WoodFisher, Cap])
def test_small_blocks_and_rests_are_handled(cls):
    net = tiny()
    method, _ = collected(cls, net, block_size=3)  # 20 and 12 weights
    method.prune(net, 0.7)
    assert net.nnz == 32 - round(0.7 * 32) and net.sparsity() == 1 - net.nnz / 32
    assert method.gradients == {}


def test_gradients_are_collected_right_before_events_only():
    net = tiny()
    method = WoodFisher(Plan(0.5, 10, 10), FisherOptions(begin=0.5, end=0.9, events=2, gradients=2))
    assert method.events == (5, 9)
    counts = []
    for step, _ in enumerate(gradients(net, 10)):
        method.before_step(net, step)
        method.after_backward(net, step)
        counts.append(len(method.gradients.get("0.weight", [])))
    assert counts == [0, 0, 0, 1, 2, 0, 0, 1, 2, 0]


def test_an_empty_layer_and_a_badly_conditioned_block_are_no_obstacle():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    for cls in (WoodFisher, Cap):
        net = SparseModel(model)
        net.set_masks({"0.weight": torch.zeros(8, 8, dtype=torch.bool)})
        method = cls(Plan(0.9, 10, 10))
        method.prune(net, 0.8)
        assert net.nnz == 96 - round(0.8 * 96)
    g = torch.randn(1, 1, 16).repeat(1, 32, 1) * 3e2
    factors = torch.cat([g, torch.eye(16).unsqueeze(0) * 0.3], 1)
    a = factors[0].double()
    torch.testing.assert_close(
        inverse_fisher(factors)[0].double(), (a.T @ a).inverse(), rtol=1e-3, atol=1e-3
    )
