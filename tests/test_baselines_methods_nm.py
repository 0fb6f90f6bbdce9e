"""SR-STE compared with autograd, and RigL's N:M masks."""

from __future__ import annotations

import math

import pytest
import torch
from literal import batches, loss_of, optimizer_maker, parts_of, tiny_net
from torch import nn
from torch.func import functional_call

from baselines import sparsify
from baselines.errors import UserError
from baselines.sign_rule import Factors
from baselines.tools.nm import nm_mask

REFINE = 0.01


class Estimator(torch.autograd.Function):
    """The paper's straight-through estimator, Equations 4 and 9."""

    @staticmethod
    def forward(ctx, x, n, m):
        ctx.save_for_backward(x, mask := nm_mask(x.abs(), n, m))
        return x * mask

    @staticmethod
    def backward(ctx, grad):
        x, mask = ctx.saved_tensors
        return grad + REFINE * ~mask * x, None, None


@pytest.mark.parametrize("beta", [None, 0.5])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_srste_is_an_estimator_in_the_forward_pass(name, beta):
    """x is one parameter, or with Sign-In the product of two."""
    make = optimizer_maker(name)
    model, literal = tiny_net().double(), tiny_net().double()
    optimizer = make(model.parameters())
    decays = {"frobenius_decay": 0.0, "sign_in_weight_decay": 1e-3}
    rule = Factors(beta=beta, **decays) if beta else None
    sparsify(
        model, optimizer, "srste", sparsity=0.75, steps=20, refine=REFINE, sign_in=rule
    )  # fmt: skip
    parts = parts_of(literal, beta)
    other = make([part for pair in parts.values() for part in pair])
    for x, y in batches(20, torch.float64):
        products = {key: math.prod(pair) for key, pair in parts.items()}
        theta = {k: Estimator.apply(v, 1, 4) if v.ndim > 1 else v for k, v in products.items()}
        optimizer.zero_grad()
        other.zero_grad()
        loss_of(model(x), y).backward()
        loss_of(functional_call(literal, theta, (x,)), y).backward()
        optimizer.step()
        other.step()
    for key, parameter in model.named_parameters():
        x = math.prod(parts[key])
        final = x * nm_mask(x.abs(), 1, 4) if x.ndim > 1 else x
        assert torch.allclose(parameter, final, rtol=0, atol=1e-7), key  # measured: 1e-9


def test_sign_in_rescales_without_a_change_of_pruned_weights():
    model = tiny_net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sparsify(model, optimizer, "srste", sparsity=0.5, steps=10, sign_in=True)
    net = sparsifier.net
    before = {layer.name: layer.latents["m"] * layer.latents["w"] for layer in net}
    net.rescale()
    for layer in net:
        after = layer.latents["m"] * layer.latents["w"]
        assert torch.allclose(after, before[layer.name], rtol=0, atol=1e-15)
        assert int((layer.weight == 0).sum()) >= layer.weight.numel() // 2


@pytest.mark.parametrize("sign_in", [False, True])
@pytest.mark.parametrize("name", ["srste", "topkast"])
@pytest.mark.parametrize(
    "written, x, theta",
    [
        ([0, 0.5, 0.4, 0], [0, 0.5, 0.4, 0], [0, 0.5, 0.4, 0]),  # not 0.5 and the 0.7 of before
        ([0.95, 0.85, 0, 0], [0.95, 0.85, 0.8, 0.7], [0.95, 0.85, 0, 0]),
        ([0.95, 0.85, 0.9, 0], [0.95, 0.85, 0.9, 0], [0.95, 0, 0.9, 0]),
    ],
)
def test_weights_that_are_written_are_computed_with(name, sign_in, written, x, theta):
    layer = nn.Linear(4, 1, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, 0.9, 0.8, 0.7]], dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    sparsifier = sparsify(layer, optimizer, name, sparsity=0.5, steps=9, sign_in=sign_in)
    net = sparsifier.net
    assert layer.weight[0].tolist() == pytest.approx([1, 0.9, 0, 0])
    net.set_weights({"weight": torch.tensor([written], dtype=torch.float64)})
    assert layer.weight[0].tolist() == pytest.approx(theta)
    latents = net.layers["weight"].latents.values()
    (found,) = net.storage.inner.merge(tuple([latent] for latent in latents))
    assert found[0].tolist() == pytest.approx(x)


@pytest.mark.parametrize("sign_in", [False, True])
@pytest.mark.parametrize(
    "name, x, factor, cleared",
    [
        ("topkast", [1 - i / 100 for i in range(40)], 0.95, [20, 21, 22, 23]),  # 0.77 to 0.8
        ("srste", [1.0, 0.9, 0.8, 0.1, 0.5, 0.4, 0.3, 0.2], 0.85, [2]),  # 0.8, not 0.3
    ],
)
def test_values_that_do_not_displace_written_weights_stay(name, x, factor, cleared, sign_in):
    layer = nn.Linear(len(x), 1, bias=False).double()
    layer.weight.data = torch.tensor([x], dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    sparsifier = sparsify(layer, optimizer, name, sparsity=0.5, steps=9, sign_in=sign_in)
    net = sparsifier.net
    written = layer.weight.detach() * factor
    net.set_weights({"weight": written})
    torch.testing.assert_close(layer.weight.detach(), written)
    latents = net.layers["weight"].latents.values()
    (found,) = net.storage.inner.merge(tuple([latent] for latent in latents))
    hidden = [0.0 if i in cleared else v for i, v in enumerate(x)]
    expected = torch.where(written == 0, torch.tensor([hidden], dtype=torch.float64), written)
    torch.testing.assert_close(found.detach(), expected)


@pytest.mark.parametrize("sign_in", [False, True])
@pytest.mark.parametrize("name", ["srste", "rigl_nm"])
def test_every_group_has_n_weights(name, sign_in):
    model = tiny_net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    sparsifier = sparsify(model, optimizer, name, sparsity=0.75, steps=40, sign_in=sign_in)
    for x, y in batches(40, torch.float64):
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        for layer in sparsifier.net:
            kept = (layer.weight != 0).movedim(1, -1).flatten().view(-1, 4).sum(1)
            assert (kept <= 1).all()
            if layer.index is not None:
                kept = layer.mask.movedim(1, -1).flatten().view(-1, 4).sum(1)
                assert (kept == 1).all()
    assert sparsifier.net.nnz == sparsifier.net.numel // 4


def test_rigl_nm_drops_the_smallest_of_the_layer_and_grows_in_their_groups():
    layer = nn.Linear(8, 1, bias=False).double()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    sparsifier = sparsify(layer, optimizer, "rigl_nm", sparsity=0.5, steps=100, drop_fraction=0.5)
    net, method = sparsifier.net, sparsifier.method
    net.set_masks({"weight": torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0]]).bool()})
    w = torch.tensor([[0.1, 0.2, 0, 0, 0.9, 0, 0.8, 0]], dtype=torch.float64)
    net.set_weights({"weight": w})
    layer.weight.grad = torch.tensor([[1.0, 9, 5, 2, 7, 7, 7, 7]], dtype=torch.float64)
    method.update(net, 0)  # drops 0.1 and 0.2: their group grows 9, the dropped one, and 5
    assert net.masks["weight"].tolist() == [[False, True, True, False, True, False, True, False]]
    layer.weight.grad = torch.zeros_like(layer.weight)
    method.update(net, 0)  # without gradients all stay
    assert net.masks["weight"].tolist() == [[False, True, True, False, True, False, True, False]]


@pytest.mark.parametrize("name", ["rigl_nm", "srigl"])
def test_a_gradient_that_is_not_a_number_is_refused(name):
    layer = nn.Linear(8, 2, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    sparsifier = sparsify(layer, optimizer, name, sparsity=0.5, steps=1000)
    masks = sparsifier.masks
    layer.weight.grad = torch.ones_like(layer.weight)
    layer.weight.grad[0, 0] = torch.nan
    with pytest.raises(UserError, match="a score is NaN"):
        sparsifier.method.update(sparsifier.net, 0)
    assert torch.equal(sparsifier.masks["weight"], masks["weight"])


@pytest.mark.parametrize("name", ["srste", "rigl_nm"])
def test_what_has_no_groups_is_refused(name):
    with pytest.raises(UserError, match=r"sparsity 0.9 is not 1 - N/M for M = 4"):
        model = nn.Linear(8, 8)
        sparsify(model, torch.optim.SGD(model.parameters()), name, sparsity=0.9, steps=10, m=4)
    with pytest.raises(UserError, match="needs weights of convolutions and Linear layers"):
        model = nn.LSTM(8, 8)
        sparsify(model, torch.optim.SGD(model.parameters()), name, sparsity=0.5, steps=10)
