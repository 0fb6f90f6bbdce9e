"""WoodFisher and CAP compared with dense matrices and elimination of one weight at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines.engine.sparse_model import SparseModel
from baselines.method import Plan
from baselines.methods.cap import Cap, CapOptions
from baselines.methods.woodfisher import FisherOptions, WoodFisher
from baselines.tools.second_order import Fisher, elimination_costs, inverse_fisher
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
    method = cls(Plan(0.5, 10, 10), cls.options_class(**{**given, **options}))
    seen = {layer.name: [] for layer in net}
    for step, grads in enumerate(gradients(net, steps)):
        assert not method.after_backward(net, step)
        for layer in net:
            seen[layer.name].append(grads[layer.name][net.masks[layer.name]])
    return method, {name: torch.stack(gs) for name, gs in seen.items()}


def dense_fishers(method, seen):
    squares = torch.cat([g.square().flatten() for g in seen.values()])
    damping = method.options.damping * (squares.mean() if method.options.relative_damping else 1.0)
    return {
        name: g.T @ g / len(g) + damping * torch.eye(g.shape[1], dtype=g.dtype)
        for name, g in seen.items()
    }


def active(net, name):
    return net.weights[name].detach()[net.masks[name]]


@pytest.mark.parametrize("storage", [None, Product()])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_woodfisher_prunes_and_moves_as_the_dense_inverse_says(relative, masked, storage):
    net = tiny(storage)
    if masked:
        net.set_masks({"0.weight": torch.rand(4, 5) < 0.8, "2.weight": torch.rand(3, 4) < 0.8})
    method, seen = collected(WoodFisher, net, damping=0.01, relative_damping=relative)
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


def test_elimination_costs_by_hand():
    fisher = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)
    theta = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    # F⁻¹ is [[2, −1], [−1, 2]] / 3: the first weight costs 1 / (2·2/3) = 3/4, and its removal moves
    # the second one to 2.5, which then costs 2.5² / (2·1/2). Both together cost ½ θᵀFθ = 7.
    summed = elimination_costs(theta, inverse_fisher(fisher))
    torch.testing.assert_close(summed, torch.tensor([[0.75, 7.0]], dtype=torch.float64))
    highest = elimination_costs(theta, inverse_fisher(fisher), summed=False)
    torch.testing.assert_close(highest, torch.tensor([[0.75, 6.25]], dtype=torch.float64))


def test_cap_removes_blocks_by_the_rise_of_their_loss():
    # two blocks of two weights that are not correlated: costs 0.5 1, and 0.9 0.9
    theta = torch.tensor([[1.0, 2**0.5], [1.8**0.5, 1.8**0.5]], dtype=torch.float64)
    fisher = torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)
    found = {}
    for ranking in ("sum", "highest"):
        method = Cap(Plan(0.5, 10, 10), CapOptions(ranking=ranking))
        found[ranking] = method.costs(theta, fisher)
    double = torch.float64
    expected = torch.tensor([[0.5, 1.5], [0.9, 1.8]], dtype=double)  # 0.5 + 1 and 0.9 + 0.9
    torch.testing.assert_close(found["sum"], expected)
    expected = torch.tensor([[0.5, 1.0], [0.9, 0.9]], dtype=double)
    torch.testing.assert_close(found["highest"], expected)


@given(st.integers(0, 1000), st.booleans())
def test_elimination_costs_equal_the_rise_of_the_loss_one_by_one(seed, summed):
    torch.manual_seed(seed)
    a = torch.randn(1, 9, 6, dtype=torch.float64)
    theta = torch.randn(1, 6, dtype=torch.float64)
    fisher = (a[0].T @ a[0]) + 0.1 * torch.eye(6, dtype=torch.float64)
    got = elimination_costs(theta, fisher.inverse().unsqueeze(0), summed)[0]

    gone: list[int] = []
    at, reached = theta[0].clone(), 0.0
    expected = torch.zeros(6, dtype=torch.float64)
    for _ in range(6):
        kept = [i for i in range(6) if i not in gone]
        inverse = fisher[kept][:, kept].inverse()
        rises = at[kept] ** 2 / (2 * inverse.diagonal())
        j = int(rises.argmin())
        reached = reached + float(rises[j]) if summed else max(reached, float(rises[j]))
        expected[kept[j]] = reached
        moves = -at[kept[j]] / inverse[j, j] * inverse[:, j]
        for i, move in zip(kept, moves, strict=True):
            at[i] += move
        gone.append(kept[j])
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("size", [3, 7])
def test_the_fisher_matrix_is_the_mean_of_outer_products_in_blocks(size):
    torch.manual_seed(0)
    gradients, theta = torch.randn(5, 7), torch.randn(7)
    fisher = Fisher(size)
    for g in gradients:
        fisher.count += 1
        fisher.add("a", g)
    g = gradients.double()
    assert fisher.mean_square(7) == pytest.approx(float(g.square().mean()))
    weights, found = fisher.blocks("a", theta, damping=0.1)
    assert torch.equal(weights.flatten()[:7], theta.double())
    dense = g.T @ g / 5
    for i, block in enumerate(found):
        own = dense[i * size : (i + 1) * size, i * size : (i + 1) * size]
        expected = torch.zeros(size, size, dtype=torch.float64)
        expected[: len(own), : len(own)] = own
        torch.testing.assert_close(block, expected + 0.1 * torch.eye(size))
    inverse = inverse_fisher(found)
    torch.testing.assert_close(inverse @ found, torch.eye(size).double().expand_as(found))
    _, none = fisher.blocks("b", theta, damping=0.1)  # a layer without gradients
    torch.testing.assert_close(none, 0.1 * torch.eye(size).double().expand_as(none))
    assert Fisher(3).mean_square(7) == 1


@pytest.mark.parametrize("cls", [WoodFisher, Cap])
def test_small_blocks_and_rests_are_handled(cls):
    net = tiny()
    method, _ = collected(cls, net, block_size=3)  # 20 and 12 weights
    method.prune(net, 0.7)
    assert net.nnz == 32 - round(0.7 * 32) and net.sparsity() == 1 - net.nnz / 32
    assert not method.fisher.sums


def test_gradients_are_collected_right_before_events_only():
    net = tiny()
    method = WoodFisher(Plan(0.5, 10, 10), FisherOptions(begin=0.5, end=0.9, events=2, gradients=2))
    assert method.events == (5, 9)
    counts = []
    for step, _ in enumerate(gradients(net, 10)):
        method.before_step(net, step)
        method.after_backward(net, step)
        counts.append(method.fisher.count)
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
    for scale, damping in ((1.0, 1e-7), (3e4, 1e-7)):
        fisher = Fisher(16, 1)
        fisher.add("a", torch.randn(16) * scale)  # of rank 1
        _, matrix = fisher.blocks("a", torch.randn(16), damping)
        largest = float(fisher.sums["a"].max())
        square, least = fisher.sums["a"][0].trace(), max(damping, 1e-12 * largest)
        # exactly: (I − ggᵀ/(λ + g²)) / λ
        expected = torch.eye(16).double() - fisher.sums["a"][0] / (least + square)
        found = inverse_fisher(matrix)[0] * least
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


def test_states_of_version_0_1_have_the_gradients():
    torch.manual_seed(0)
    one, other = (WoodFisher(Plan(0.5, 10, 10)) for _ in range(2))
    gradients = [torch.randn(40) for _ in range(3)]
    for g in gradients:
        one.fisher.count += 1
        one.fisher.add("a", g)
    other.load_state_dict({"gradients": {"a": gradients}})
    assert other.fisher.count == 3 and torch.equal(other.fisher.sums["a"], one.fisher.sums["a"])
    other.load_state_dict(one.state_dict())
    assert other.fisher.count == 3 and torch.equal(other.fisher.sums["a"], one.fisher.sums["a"])


def test_a_state_is_loaded_twice():
    """Training on from it does not change it."""
    state, found = {"count": 1, "sums": {"a": torch.ones(2, 32, 32).double()}}, []
    for _ in range(2):
        method = WoodFisher(Plan(0.5, 10, 10))
        method.load_state_dict(state)
        method.fisher.count += 1
        method.fisher.add("a", torch.arange(40.0))
        found.append(method.fisher.sums["a"])
    assert torch.equal(found[0], found[1]) and bool((state["sums"]["a"] == 1).all())
