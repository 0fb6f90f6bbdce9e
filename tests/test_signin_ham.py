"""HAM against its formula, written down entry by entry, and in all its surroundings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from baselines import Options, Plan, SparseModel, Sparsifier, sparsify
from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.storage import Plain
from baselines.errors import UserError
from baselines.methods.dense import Dense
from baselines.samples import as_samples
from signin import HAM


def net(seed=0):
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 10),
    )
    return nn.Sequential(*layers).double()


def batches(n):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(n, 8, 1, 8, 8, dtype=torch.float64, generator=generator)
    return zip(images, torch.randint(10, (n, 8), generator=generator), strict=True)


def hyperbolic_step(value, grad, lr, alpha, beta):
    """Return one weight after HAM's step."""
    sign = (value > 0) - (value < 0)
    exponent = lr * (-alpha * sign * grad - beta)
    return value * math.exp(max(-5.0, min(5.0, exponent)))


def by_hand(model, optimizer, masks, alpha, beta, steps):
    """Train with zeros multiplied in, and HAM written as a loop over weights."""
    prunable = dict(model.named_parameters())
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for x, y in batches(steps):
        with torch.no_grad():
            for name, mask in masks.items():
                prunable[name] *= mask
        nn.functional.cross_entropy(model(x), y).backward()
        for name, mask in masks.items():
            prunable[name].grad *= mask
        gradients = [parameter.grad.flatten().tolist() for parameter in model.parameters()]
        optimizer.step()
        for parameter, found in zip(model.parameters(), gradients, strict=True):
            if parameter.ndim >= 2:
                flat, lr = parameter.data.view(-1), rates[id(parameter)]
                for i, grad in enumerate(found):
                    flat[i] = hyperbolic_step(flat[i].item(), grad, lr, alpha, beta)
        optimizer.zero_grad()


def optimizer_of(kind, model):
    """Return an optimizer with another learning rate for the last layer than for the others."""
    last = {"params": model[4].parameters(), "lr": 0.004}
    groups = [{"params": model[:4].parameters()}, last]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-3)
    if kind == "fused":  # as in the suite's runs
        return torch.optim.SGD(groups, 0.05, 0.9, nesterov=True, fused=True)
    if kind == "nesterov":  # with foreach, the momentum is added to the gradients in place
        return torch.optim.SGD(groups, 0.05, 0.9, nesterov=True, foreach=True)
    return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "nesterov", "fused"])
@pytest.mark.parametrize(("exclude", "sparsity"), [((), 0.7), (("4.*",), 0.5), ((), 0.0)])
def test_a_step_is_its_formula_entry_by_entry(kind, exclude, sparsity):
    model, other = net(), net()
    optimizer, plain = optimizer_of(kind, model), optimizer_of(kind, other)
    rule = HAM(ham_alpha=20.0, ham_beta=0.5)
    method = "random" if sparsity else "dense"
    sparsifier = sparsify(
        model, optimizer, method, sparsity=sparsity, steps=4, sign_in=rule, exclude=exclude
    )
    for x, y in batches(4):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    by_hand(other, plain, sparsifier.masks, 20.0, 0.5, steps=4)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14, msg=name)
    assert sparsifier.sparsity() == pytest.approx(sparsity, abs=1e-3)


def test_the_exponent_is_bounded():
    model = nn.Linear(3, 1, bias=False).double()
    model.weight = nn.Parameter(torch.tensor([[2.0, -2.0, 0.0]], dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    sparsify(model, optimizer, "dense", sparsity=0.0, steps=2, sign_in=HAM(ham_alpha=1e15))
    model.weight.grad = torch.full((1, 3), 1e9, dtype=torch.float64)
    optimizer.step()
    stepped = torch.tensor([[2.0 - 1e-3, -2.0 - 1e-3, -1e-3]], dtype=torch.float64)
    factor = torch.tensor([[math.exp(-5), math.exp(5), math.exp(5)]], dtype=torch.float64)
    torch.testing.assert_close(model.weight.detach(), stepped * factor)


def soft(x, s):
    """Return STR's effective weight by its definition."""
    return x.sign() * nn.functional.relu(x.abs() - s.sigmoid())


def test_under_a_soft_threshold_it_steps_the_weights_before_the_threshold():
    images = torch.randn(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model, rule = nn.Linear(6, 3, bias=False).double(), HAM(ham_alpha=2.0, ham_beta=0.5)
    x = model.weight.detach().clone().requires_grad_()
    s = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    plain = torch.optim.SGD([x, s], lr=0.02)
    sparsifier = Sparsifier(SparseModel(model), Dense(Plan(0.0, 4, 4), Options()), rule)
    sparsifier.net.storage = SoftThreshold(Plain(), "sigmoid", -2.0)
    sparsifier.start(optimizer, as_samples(None, model), share=False)
    for image in images:
        (nn.functional.linear(image, soft(x, s)) ** 2).sum().backward()
        plain.step()
        with torch.no_grad():
            for i, grad in enumerate(x.grad.view(-1).tolist()):
                x.view(-1)[i] = hyperbolic_step(x.view(-1)[i].item(), grad, 0.02, 2.0, 0.5)
        plain.zero_grad()
        (model(image) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert 0.1 < sparsifier.sparsity() < 0.9
    torch.testing.assert_close(model.weight.detach(), soft(x, s).detach(), rtol=1e-12, atol=1e-14)


def test_under_a_mask_and_a_soft_threshold_latents_of_full_size_take_the_same_step():
    def stepped(dense_latents):
        torch.manual_seed(0)
        model, x = nn.Linear(6, 3, bias=False).double(), torch.ones(5, 6, dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), 0.02)
        net = SparseModel(model, dense_latents=dense_latents)
        sparsifier = Sparsifier(net, Dense(Plan(0.0, 4, 4), Options()), HAM(ham_alpha=2.0))
        net.storage = SoftThreshold(Plain(), "sigmoid", -3.0)
        sparsifier.start(optimizer, as_samples(None, model), share=False)
        net.set_masks({"weight": torch.tensor([[True, False, True] * 2] * 3)})
        (model(x) ** 2).sum().backward()
        optimizer.step()
        return model.weight.detach()

    torch.testing.assert_close(stepped(True), stepped(False), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_gradients_theta_decays_as_by_the_weight_decay_that_it_says(momentum):
    steps = 300

    def left(weight_decay, rule):
        model = nn.Linear(1, 1, bias=False).double()
        before = float(model.weight.detach())
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum, weight_decay=weight_decay)
        sparsify(model, optimizer, "dense", sparsity=0.0, steps=steps, sign_in=rule)
        for _ in range(steps):
            model.weight.grad = torch.zeros_like(model.weight)
            optimizer.step()
        return math.log(float(model.weight.detach()) / before)

    rule = HAM(ham_beta=0.1)
    assert rule.theta_decay(0.03, momentum) == pytest.approx({0.0: 0.13, 0.9: 0.04}[momentum])
    equal = left(rule.theta_decay(0.03, momentum), None)
    assert left(0.03, rule) == pytest.approx(equal, rel=0.02)


@pytest.mark.parametrize("method", ["spred", "pilot", "mw"])
def test_methods_that_train_factors_refuse_it(method):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(UserError, match="by definition: combine it with Sign-In"):
        sparsify(model, optimizer, method, sparsity=0.5, steps=9, sign_in=HAM())


@pytest.mark.parametrize("name", ["ham_alpha", "ham_beta"])
def test_negative_settings_are_refused(name):
    with pytest.raises(UserError, match=f"{name} must not be negative"):
        HAM(**{name: -1.0})
