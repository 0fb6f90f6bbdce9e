"""Paths, PHEW and NPB compared with the network's flow, counted walks, and an integer solver."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import batches, flow_scores, tiny_net
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.npb import Npb, NpbOptions, balanced_masks, choose_kernels, place
from baselines.samples import Samples
from baselines.tools.density import keep_count, layer_counts
from baselines.tools.masks import random_masks, seeded
from baselines.tools.paths import Op, Paths, fill_live, trace
from baselines.tools.walks import WALKS, Walker, walked_masks
from launch.models import build_model


class Branches(nn.Module):
    """A residual sum, a concatenation, a gate, and a flatten of several positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.left, self.right = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.gate = nn.Conv2d(6, 6, 1)
        self.last = nn.Linear(10 * 4, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        gate = torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = torch.cat([self.left(x) * gate + x, self.right(x)], 1)
        return self.last(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(5, 9), nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x):
        return self.last(torch.relu(self.shared(torch.relu(self.shared(self.first(x))))))


NETS = {
    "twice": (Twice, (1, 5)),
    "tiny": (tiny_net, (1, 3, 6, 6)),
    "branches": (Branches, (1, 3, 8, 8)),
    "resnet20": (lambda: build_model("resnet20", 10, 3, 32), (1, 3, 32, 32)),
    "densenet": (lambda: build_model("densenet121", 10, 3, 32), (1, 3, 32, 32)),
}


def make(name):
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = SparseModel(build())
    sizes = {layer.name: layer.weight.detach().abs() for layer in net}
    return net, trace(net, torch.zeros(shape)), sizes


def count(masks):
    return sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize("name", ["tiny", "resnet20"])
@pytest.mark.parametrize("sparsity", [0.5, 0.97])
def test_what_is_live_carries_flow_in_the_real_network(name, sparsity):
    net, paths, _ = make(name)
    masks = random_masks("uniform", net.shapes, sparsity, 1)
    model = copy.deepcopy(net.model).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
        for key, mask in masks.items():
            model.get_parameter(key).copy_(mask)
        for key, parameter in model.named_parameters():
            if "bias" in key:
                parameter.zero_()
    scores = flow_scores(model, masks, torch.ones(NETS[name][1], dtype=torch.float64))
    live = paths.live(masks)
    for key, mask in masks.items():
        assert torch.equal(live[key] & mask, scores[key] > 0), key


@pytest.mark.parametrize("name", ["tiny", "branches", "twice", "resnet20"])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_every_kept_weight_is_on_a_path_and_the_count_is_exact(name, sparsity):
    net, paths, sizes = make(name)
    k = keep_count(net.numel, sparsity)
    walked = walked_masks(paths, sizes, k, seeded(0))
    counts = layer_counts("erk", net.shapes, sparsity)
    placed = fill_live(paths, balanced_masks(paths, sizes, counts, NpbOptions()), sizes, k)
    for masks in (walked, placed):
        assert count(masks) == k
        live = paths.live(masks)
        assert not any((mask & ~live[key]).any() for key, mask in masks.items())


def test_no_kernel_is_filled_beyond_its_limit():
    net, paths, sizes = make("resnet20")
    options, k = NpbOptions(max_kernel=2), keep_count(net.numel, 0.9)
    counts = layer_counts("erk", net.shapes, 0.9)
    masks = fill_live(paths, balanced_masks(paths, sizes, counts, options), sizes, k, 2)
    assert count(masks) == k
    assert max(mask[..., None].flatten(2).sum(2).max() for mask in masks.values()) <= 2
    with pytest.raises(UserError, match="on a path, with at most 2 in a kernel"):
        fill_live(paths, masks, sizes, net.numel // 2, 2)


def test_npb_fills_no_kernel_beyond_its_limit():
    net = SparseModel(tiny_net())
    samples = Samples(lambda n: batches(1))
    Npb(Plan(0.7, 10, 10), NpbOptions(max_kernel=3)).prepare(net, samples)
    assert net.nnz == net.numel - round(0.7 * net.numel)
    assert max(mask[..., None].flatten(2).sum(2).max() for mask in net.masks.values()) == 3


@pytest.mark.parametrize("name", ["tiny", "branches", "twice", "densenet"])
@pytest.mark.parametrize("direction", ["from_input", "from_output"])
def test_each_walk_is_a_path_of_its_own(name, direction):
    _, paths, sizes = make(name)
    walker = Walker(paths, sizes, seeded(1))
    ends = paths.ops[0 if direction == "from_input" else -1].units
    walks = getattr(walker, direction)(torch.arange(WALKS) % ends)
    for walk in range(0, WALKS, 16):
        masks = {key: torch.zeros_like(size, dtype=torch.bool) for key, size in sizes.items()}
        for i, edges in walks.items():
            if edges[walk] >= 0:
                masks[paths.ops[i].layer].view(-1)[edges[walk]] = True
        assert count(masks) > 0
        live = paths.live(masks)
        assert not any((mask & ~live[key]).any() for key, mask in masks.items())


def test_walks_follow_magnitudes():
    size = torch.tensor([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
    paths = Paths((Op("input", 2), Op("layer", 3, (0,), "w")), {})
    walker = Walker(paths, {"w": size}, seeded(0))
    forward, backward = torch.zeros(6), torch.zeros(6)
    for _ in range(40):
        forward += walker.from_input(torch.arange(WALKS) % 2)[1].bincount(minlength=6)
        backward += walker.from_output(torch.arange(WALKS) % 3)[1].bincount(minlength=6)
    by_column, by_row = size / size.sum(0), size / size.sum(1, keepdim=True)
    torch.testing.assert_close(forward.view(3, 2) / 40 / WALKS * 2, by_column, atol=0.03, rtol=0)
    torch.testing.assert_close(backward.view(3, 2) / 40 / WALKS * 3, by_row, atol=0.03, rtol=0)


def test_walks_start_from_both_ends():
    """From the input they lead to the first output; the others are reached from the output only."""
    size = torch.tensor([[1.0], [1e-9], [1e-12]]).expand(3, WALKS)
    paths = Paths((Op("input", WALKS), Op("layer", 3, (0,), "w")), {})
    mask = walked_masks(paths, {"w": size}, WALKS + 20, seeded(0))["w"]
    first, second, third = mask.sum(1).tolist()
    assert first == WALKS and second + third == 20 and abs(second - third) <= 2


def test_excluded_layers_are_walked_through():
    net = SparseModel(tiny_net(), exclude=["0.weight"])
    paths = trace(net, torch.zeros(1, 3, 6, 6))
    sizes = {layer.name: layer.weight.detach().abs() for layer in net}
    masks = walked_masks(paths, sizes, 200, seeded(0))
    assert "0.weight" not in masks and count(masks) == 200


def solve(reached, outs, n, most, options):
    """Solve NPB's objective with scipy: variables are weights, used kernels, and used units."""
    ins = len(reached)
    live = max(1, sum(r > 0 for r in reached))
    node = options.node_weight / (outs + live)
    kernel = options.kernel_weight / max(1, min(n, outs * live))
    path = (1 - options.node_weight) * np.array(reached) / (max(reached) * n)
    kk = outs * ins
    gains = np.concatenate([np.tile(path, outs), np.full(kk, kernel), np.full(outs + ins, node)])
    rows, low, high = [], [], []

    def constrain(terms, lower, upper):
        row = np.zeros(2 * kk + outs + ins)
        for i, value in terms:
            row[i] += value
        rows.append(row), low.append(lower), high.append(upper)

    for e in range(kk):
        constrain([(kk + e, 1), (e, -1)], -np.inf, 0)  # in use only with a weight
    for o in range(outs):
        constrain([(2 * kk + o, 1), *((o * ins + u, -1) for u in range(ins))], -np.inf, 0)
    for u in range(ins):
        constrain([(2 * kk + outs + u, 1), *((o * ins + u, -1) for o in range(outs))], -np.inf, 0)
    constrain([(e, 1) for e in range(kk)], 0, n)
    top = np.concatenate(
        [np.tile([most * (r > 0) for r in reached], outs), np.ones(kk + outs + ins)]
    )
    found = milp(
        -gains,
        integrality=np.ones_like(gains),
        bounds=Bounds(0, top),
        constraints=LinearConstraint(np.array(rows), low, high),
    )
    return -found.fun


@settings(max_examples=60)
@given(st.data())
def test_npb_finds_what_the_integer_program_finds(data):
    outs, ins = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    reached = data.draw(st.lists(st.integers(0, 5), min_size=ins, max_size=ins).filter(any))
    most = data.draw(st.integers(1, 3))
    live = sum(r > 0 for r in reached)
    n = data.draw(st.integers(1, outs * live * most))
    options = NpbOptions(
        node_weight=data.draw(st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0])),
        kernel_weight=data.draw(st.sampled_from([0.0, 0.1, 1.0])),
    )
    torch.manual_seed(0)
    chosen, extras = choose_kernels(
        torch.rand(outs, ins), torch.tensor(reached, dtype=torch.float64), n, most, options
    )
    weights = chosen.sum(0) + torch.tensor(extras)
    assert int(weights.sum()) == n
    assert all(
        0 <= e <= c * (most - 1) for e, c in zip(extras, chosen.sum(0).tolist(), strict=True)
    )
    got = (
        options.node_weight / (outs + live) * int(chosen.any(0).sum() + chosen.any(1).sum())
        + options.kernel_weight / min(n, outs * live) * int(chosen.sum())
        + (1 - options.node_weight)
        * float((weights * torch.tensor(reached)).sum())
        / max(reached)
        / n
    )
    assert got == pytest.approx(solve(reached, outs, n, most, options), abs=1e-6)


def test_npb_places_a_layer_that_is_called_twice_once():
    torch.manual_seed(0)
    size, options = torch.rand(5, 5, 1), NpbOptions()
    ops = (Op("input", 5), Op("layer", 5, (0,), "w"), Op("layer", 5, (1,), "w"))
    found = balanced_masks(Paths(ops, {}), {"w": size[..., 0]}, {"w": 7}, options)
    assert torch.equal(found["w"], place(size, torch.ones(5), 7, options)[..., 0])


def test_weights_are_placed_as_chosen():
    torch.manual_seed(0)
    size = torch.rand(4, 3, 9)
    mask = place(size, torch.tensor([2.0, 0.0, 1.0]), 30, NpbOptions(max_kernel=5))
    assert mask.sum() == 30 and not mask[:, 1].any() and mask.sum(2).max() <= 5
    for kernel, kept in zip(size.flatten(0, 1), mask.flatten(0, 1), strict=True):
        if kept.any():  # the largest of each kernel
            assert kernel[kept].min() >= kernel[~kept].max()


def test_what_cannot_be_followed_is_named():
    vit = build_model("vit_tiny_patch16_224", 10, 3, 32)
    with pytest.raises(UserError, match="cannot be followed through"):
        trace(SparseModel(vit), torch.zeros(1, 3, 32, 32))
    net, paths, sizes = make("tiny")
    with pytest.raises(UserError, match="can be on a path"):
        fill_live(
            paths, {k: torch.zeros_like(s, dtype=torch.bool) for k, s in sizes.items()}, sizes, 9
        )
    assert net.nnz == net.numel
