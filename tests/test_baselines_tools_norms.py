"""Normalisation with interpolated parameters, compared with the formula and in a training."""

from __future__ import annotations

import pytest
import torch
from literal import batches, loss_of, tiny_net
from torch import nn
from torch.nn import functional as F

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.iterative import LevelOptions
from baselines.methods.lrr_wr_imp import Lrr
from baselines.tools.norms import InterpolatedNorms


def filled(layer):
    """Return a layer with scales 2, 4, 6, … and shifts −1, −2, −3, …"""
    with torch.no_grad():
        layer.weight.copy_(2 * torch.arange(1, 1 + len(layer.weight)))
        layer.bias.copy_(-torch.arange(1, 1 + len(layer.bias)))
    return layer.double()


X = torch.randn(6, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LAYERS = [
    (nn.BatchNorm2d(4), X, lambda x, w, b: F.batch_norm(x, None, None, w, b, True)),
    (nn.InstanceNorm2d(4, affine=True), X, lambda x, w, b: F.instance_norm(x, None, None, w, b)),
    (nn.GroupNorm(2, 4), X, lambda x, w, b: F.group_norm(x, 2, w, b)),
    (nn.LayerNorm(3), X, lambda x, w, b: F.layer_norm(x, (3,), w, b)),
]


@pytest.mark.parametrize(("layer", "x", "formula"), LAYERS, ids=lambda v: type(v).__name__)
def test_a_quarter_of_the_way_to_one_and_zero(layer, x, formula):
    layer = filled(layer)
    norms = InterpolatedNorms(nn.Sequential(layer))
    plain = formula(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), plain)
    norms.share = 0.25
    steps = torch.arange(1, 1 + len(layer.weight), dtype=torch.float64)
    w, b = (0.25 + 1.5 * steps).requires_grad_(), (-0.75 * steps).requires_grad_()
    out, expected = layer(x), formula(x, w, b)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, 0.75 * w.grad)  # of γ, not of 0.25 + 0.75γ
    torch.testing.assert_close(layer.bias.grad, 0.75 * b.grad)
    assert {*dict(layer.named_parameters())} == {"weight", "bias"}
    assert layer.weight.tolist() == (2 * steps).tolist()


def test_evaluation_and_what_was_removed_are_plain():
    layer = filled(nn.BatchNorm1d(2))
    norms, x = InterpolatedNorms(layer), torch.randn(5, 2).double()
    norms.share = 0.5
    expected = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)
    assert torch.equal(layer.eval()(x), expected)
    before = layer.train()(x)
    norms.remove()
    after = layer(x)
    assert not torch.allclose(before, after)
    assert torch.equal(after, F.batch_norm(x, None, None, layer.weight, layer.bias, True))


def test_a_forward_pass_that_fails_leaves_the_parameters():
    layer = filled(nn.BatchNorm1d(2))
    InterpolatedNorms(layer).share = 0.5
    with pytest.raises(ValueError, match="2D or 3D"):
        layer(torch.zeros(1, 2, 3, 4).double())
    assert isinstance(layer.weight, nn.Parameter) and isinstance(layer.bias, nn.Parameter)


class Interrupted(nn.BatchNorm1d):
    """Ends a forward pass in training as Ctrl-C does."""

    def forward(self, x):
        if self.training:
            raise KeyboardInterrupt
        return super().forward(x)


@pytest.mark.parametrize("removed", [False, True])
def test_a_forward_pass_that_is_interrupted_leaves_the_parameters(removed):
    layer, x = filled(Interrupted(2)), torch.randn(5, 2).double()
    norms = InterpolatedNorms(layer)
    norms.share = 0.5
    with pytest.raises(KeyboardInterrupt):
        layer(x)
    if removed:
        norms.remove()
    else:
        expected = F.batch_norm(x, layer.running_mean, layer.running_var, *layer.parameters())
        assert torch.equal(layer.eval()(x), expected)
    assert isinstance(layer.weight, nn.Parameter) and isinstance(layer.bias, nn.Parameter)


def trained(method, model, steps, state=None, until=None, **options):
    """Train a network with a method, from a state if there is one. Return the sparsifier."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    sparsifier = sparsify(
        model, optimizer, method, sparsity=0.5, steps=steps, steps_per_epoch=1, keep=0.5,
        resume=state is not None, **options,
    )  # fmt: skip
    if state is not None:
        for part, saved in zip((model, optimizer, sparsifier), state, strict=True):
            part.load_state_dict(saved)
    data = batches(4, torch.float64)
    while sparsifier.step < (until or sparsifier.total_steps):
        x, y = data[sparsifier.step % 4]
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return sparsifier, optimizer


@pytest.mark.parametrize("method", ["lrr", "wr", "imp"])
def test_a_training_resumes_bit_identically_and_ends_plain(method):
    models = [tiny_net().double() for _ in range(3)]
    trained(method, models[0], 6, interpolate_norms=True)
    sparsifier, optimizer = trained(method, models[1], 6, until=3, interpolate_norms=True)
    state = [part.state_dict() for part in (models[1], optimizer, sparsifier)]
    trained(method, models[2], 6, state, interpolate_norms=True)
    plain = tiny_net().double()
    trained(method, plain, 6)
    for key, value in models[0].state_dict().items():
        assert torch.equal(value, models[2].state_dict()[key]), key
    assert not torch.equal(models[0][0].weight, plain[0].weight)
    assert not models[0][1]._forward_pre_hooks and not models[0][1]._forward_hooks


def shares(seed):
    """Return the number that each of 200 steps draws."""
    method = Lrr(Plan(0.2, 200, 200, seed), LevelOptions(interpolate_norms=True))
    method.setup(net := SparseModel(tiny_net()))
    found = []
    for step in range(200):
        method.before_step(net, step)
        found.append(method.norms.share)
    return found


def test_each_step_draws_a_number_of_its_own():
    found = shares(seed=0)
    assert found == shares(seed=0) != shares(seed=1) and len({*found}) == 200
    assert 0 <= min(found) < 0.05 and 0.95 < max(found) < 1
    assert sum(found) / 200 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("saved", [False, True])
def test_a_state_of_other_normalisation_is_refused(saved):
    model = tiny_net().double()
    options = {"steps": 6, "until": 1}
    sparsifier, optimizer = trained("lrr", model, interpolate_norms=saved, **options)
    state = [part.state_dict() for part in (model, optimizer, sparsifier)]
    message = f"with interpolate_norms={saved}, not interpolate_norms={not saved}"
    with pytest.raises(UserError, match=message):
        trained("lrr", tiny_net().double(), state=state, interpolate_norms=not saved, **options)


def test_a_training_that_ends_early_leaves_a_plain_model():
    model = tiny_net().double()
    sparsifier, _ = trained("lrr", model, 6, until=3, interpolate_norms=True)
    assert model[1]._forward_pre_hooks and model[1]._forward_hooks
    sparsifier.finalize()
    assert not model[1]._forward_pre_hooks and not model[1]._forward_hooks


def test_a_network_without_normalisation_is_refused():
    with pytest.raises(UserError, match="interpolate_norms: the network has no normalisation"):
        trained("lrr", nn.Sequential(nn.Linear(3, 3)), 2, interpolate_norms=True)
    with pytest.raises(UserError, match="no normalisation with scales"):
        InterpolatedNorms(nn.Sequential(nn.BatchNorm1d(3, affine=False)))
