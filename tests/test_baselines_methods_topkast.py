"""Top-KAST compared with numbers worked out by hand and with autograd."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from literal import batches, loss_of, optimizer_maker, parts_of, tiny_net
from torch import nn
from torch.func import functional_call

from baselines import sparsify
from baselines.engine import device
from baselines.errors import UserError
from baselines.methods.topkast import magnitude_mask
from baselines.sign_rule import Factors
from baselines.tools.density import keep_count

EXPLORATION = 0.01


def line(weights, **options):
    """Return a linear map of ten inputs with the given weights, made sparse, and its optimizer."""
    layer = nn.Linear(10, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights], dtype=torch.float64))
    momentum = {key: options.pop(key) for key in ("momentum", "weight_decay") if key in options}
    optimizer = torch.optim.SGD(layer.parameters(), 0.5, **momentum)
    sparsifier = sparsify(layer, optimizer, "topkast", sparsity=0.8, steps=3, **options)
    return layer, optimizer, sparsifier


def x_of(sparsifier):
    (layer,) = sparsifier.net
    return sparsifier.method.storage.values(layer)[0].clone()


def test_two_of_ten_compute_four_learn_and_six_rest():
    given = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9, -1.0]
    # B without A decays by 0.5·0.08·(1/0.2 − 1) = 0.16, the loss's gradient is 0.2
    layer, optimizer, sparsifier = line(given, exploration=0.08)
    assert layer.weight[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0.9, -1.0]
    layer(torch.full((1, 10), 0.2, dtype=torch.float64)).sum().backward()
    optimizer.step()
    expected = [*given[:6], 0.84 * 0.7 - 0.1, 0.84 * -0.8 - 0.1, 0.9 - 0.1, -1.0 - 0.1]
    assert x_of(sparsifier).tolist() == pytest.approx(expected)
    # 0.488, −0.772, 0.8 and −1.1: A is the same; B has −0.6 in the place of 0.7
    assert layer.weight[0].tolist() == pytest.approx([0] * 8 + [0.8, -1.1])
    optimizer.zero_grad()
    layer(torch.zeros(1, 10, dtype=torch.float64)).sum().backward()
    optimizer.step()
    expected[5], expected[7] = 0.84 * -0.6, 0.84 * expected[7]
    assert x_of(sparsifier).tolist() == pytest.approx(expected)


def test_neither_momentum_nor_weight_decay_moves_what_rests():
    given = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.61, 0.62, 3.0, 4.0]
    layer, optimizer, sparsifier = line(given, momentum=0.9, weight_decay=0.1, exploration=0.0)
    for _ in range(2):  # 0.62 and 0.61 go below 0.6 and 0.5, which are in B then
        optimizer.zero_grad()
        layer(torch.ones(1, 10, dtype=torch.float64)).sum().backward()
        before = x_of(sparsifier)
        optimizer.step()
        moved = (x_of(sparsifier) != before).nonzero().flatten().tolist()
        assert moved == ([6, 7, 8, 9] if before[7] == 0.62 else [4, 5, 8, 9])


class TopK(torch.autograd.Function):
    """The paper's forward and backward sets, with the exploration loss's gradient."""

    @staticmethod
    def forward(ctx, x):
        kept = x.numel() - round(0.8 * x.numel())
        order = x.abs().flatten().argsort(descending=True)
        a, b = (torch.zeros(x.numel(), dtype=torch.bool) for _ in range(2))
        a[order[:kept]] = b[order[: 2 * kept]] = True
        ctx.save_for_backward(x, a := a.view(x.shape), b.view(x.shape))
        return x * a

    @staticmethod
    def backward(ctx, grad):
        x, a, b = ctx.saved_tensors
        return (grad + EXPLORATION * (1 / 0.2 - 1) * x * ~a) * b


def backward_set(x):
    kept = 2 * (x.numel() - round(0.8 * x.numel()))
    return x.abs() >= x.abs().flatten().sort(descending=True).values[kept - 1]


@pytest.mark.parametrize("beta", [None, 0.5])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_it_is_a_function_in_the_forward_pass(name, beta):
    """x is one parameter, or with Sign-In the product of two."""
    make = optimizer_maker(name)
    model, literal = tiny_net().double(), tiny_net().double()
    optimizer = make(model.parameters())
    decays = {"frobenius_decay": 0.0, "sign_in_weight_decay": 1e-3}
    rule = Factors(beta=beta, **decays) if beta else None
    options = {"exploration": EXPLORATION, "sign_in": rule}
    sparsifier = sparsify(model, optimizer, "topkast", sparsity=0.8, steps=30, **options)
    parts = parts_of(literal, beta)
    other = make([part for pair in parts.values() for part in pair])
    for x, y in batches(20, torch.float64):
        products = {key: math.prod(pair) for key, pair in parts.items()}
        theta = {k: TopK.apply(v) if v.ndim > 1 else v for k, v in products.items()}
        optimizer.zero_grad()
        other.zero_grad()
        loss_of(model(x), y).backward()
        loss_of(functional_call(literal, theta, (x,)), y).backward()
        before = {key: [part.detach().clone() for part in pair] for key, pair in parts.items()}
        optimizer.step()
        other.step()
        with torch.no_grad():
            for key, pair in parts.items():
                for part, old in zip(pair, before[key], strict=True):
                    if part.ndim > 1:
                        part.copy_(torch.where(backward_set(products[key]), part, old))
    for layer in sparsifier.net:
        x = math.prod(parts[layer.name])
        found = sparsifier.method.storage.values(layer)
        assert torch.allclose(found, x, rtol=0, atol=1e-9), layer.name  # measured: 4e-16


@pytest.mark.parametrize("sign_in", [False, True])
@pytest.mark.parametrize("dense_latents", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.8, 0.97])
def test_every_layer_has_its_density_at_every_step(sparsity, dense_latents, sign_in):
    model = tiny_net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    options = {"sign_in": sign_in, "dense_latents": dense_latents}
    sparsifier = sparsify(model, optimizer, "topkast", sparsity=sparsity, steps=40, **options)
    net, first = sparsifier.net, {name: w != 0 for name, w in sparsifier.net.weights.items()}
    for x, y in batches(40, torch.float64):
        for weight in net.weights.values():
            assert int(weight.count_nonzero()) == keep_count(weight.numel(), sparsity)
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert net.nnz == keep_count(net.numel, sparsity)
    assert sparsifier.sparsity() == 1 - net.nnz / net.numel
    changed = [bool((net.masks[name] != mask).any()) for name, mask in first.items()]
    assert any(changed) == (sparsity > 0)

    state = copy.deepcopy((sparsifier.state_dict(), model.state_dict()))
    again = tiny_net().double()
    resumed = sparsify(
        again, torch.optim.SGD(again.parameters(), 0.05, 0.9), "topkast",
        sparsity=sparsity, steps=40, resume=True, **options,
    )  # fmt: skip
    again.load_state_dict(state[1])
    resumed.load_state_dict(state[0])
    assert all(torch.equal(w, net.weights[name]) for name, w in resumed.net.weights.items())


def test_the_largest_are_the_same_on_a_gpu(monkeypatch):
    x = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    expected = magnitude_mask(x, 11)
    assert int(expected.sum()) == 11 and x[expected].abs().min() > x[~expected].abs().max()
    monkeypatch.setattr(device, "on_cpu", lambda tensor: False)
    assert torch.equal(magnitude_mask(x, 11), expected)


def test_options_are_checked():
    with pytest.raises(UserError, match="superset must be at least 1, not 0.5"):
        line([1.0] * 10, superset=0.5)
    with pytest.raises(UserError, match="superset must be finite, not inf"):
        line([1.0] * 10, superset=float("inf"))
    with pytest.raises(UserError, match="exploration must not be negative, not -1"):
        line([1.0] * 10, exploration=-1.0)
