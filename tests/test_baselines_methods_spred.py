"""spred prunes along the cubic, and PILoT once; both decay factors until then."""

from __future__ import annotations

import itertools

import pytest
import torch
from literal import batches, loss_of, parts_of, tiny_net
from torch.func import functional_call

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import DecayedLatents
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.pilot import Pilot, PilotOptions
from baselines.methods.spred import Spred, SpredOptions
from signin import Product, SignIn


def history_of(name, sparsity=0.8, **options):
    """Train a tiny network. Return the method, and masks and decay of the factors at each step."""
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    options |= {"sparsity": sparsity, "steps": 40, "steps_per_epoch": 4, "manual_begin": True}
    sparsifier = sparsify(model, optimizer, name, **options)
    masks, decays = [], []
    for x, y in batches(40):
        sparsifier.begin_step()
        masks.append(sparsifier.masks)
        decays.append(sparsifier.method.storage.decay)
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return sparsifier.method, masks, decays


def test_weights_are_pruned_once_per_epoch_in_every_layer_alike():
    method, masks, decays = history_of("spred")
    assert method.events == (8, 12, 16, 20, 24, 28)  # 0.2 to 0.7 of the steps, every 4
    assert decays == 28 * [1e-3] + 12 * [0.0]
    for step, (earlier, later) in enumerate(itertools.pairwise(masks), start=1):
        assert all(not (later[k] & ~earlier[k]).any() for k in later)
        if step in method.events:
            i = method.events.index(step) + 1
            expected = 0.8 * (1 - (1 - i / 6) ** 3)
            for mask in later.values():
                assert 1 - mask.double().mean() == pytest.approx(expected, abs=1 / mask.numel())
        else:
            assert all((later[k] == earlier[k]).all() for k in later)


@pytest.mark.parametrize(
    "name, options", [("spred", {"pruning": "once", "scope": "global"}), ("pilot", {})]
)
def test_one_pruning_has_one_threshold(name, options):
    method, masks, decays = history_of(name, **options)
    assert method.events == (28,)
    assert all(d > 0 for d in decays[:28]) and decays[28:] == 12 * [0.0]
    assert all(mask.all() for mask in masks[27].values())
    total = sum(mask.numel() for mask in masks[28].values())
    assert sum(int(m.sum()) for m in masks[28].values()) == total - round(0.8 * total)
    assert len({round(float(m.double().mean()), 2) for m in masks[28].values()}) > 1


def test_pruning_starts_at_the_latest_when_it_is_complete():
    assert Spred(Plan(0.8, 40, 4), SpredOptions(prune_at=0.1)).events == (4,)
    with pytest.raises(UserError, match="prune_from must be in"):
        SpredOptions(prune_from=1.0)


def test_the_decay_of_factors_is_the_gradient_of_half_their_squares():
    model, decay = tiny_net().double(), 0.3
    parts = parts_of(model, beta=0.5)
    slow = torch.optim.SGD([p for ps in parts.values() for p in ps], 0.05, 0.9)
    net = SparseModel(model, DecayedLatents(Product(0.5), decay))
    fast = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    net.attach(fast)
    other = tiny_net().double()
    for x, y in batches(3, torch.float64):
        factors = [p for name in net.layers for p in parts[name]]
        loss = loss_of(functional_call(other, {k: ps[0] * ps[-1] if len(ps) > 1 else ps[0]
                                               for k, ps in parts.items()}, (x,)), y)  # fmt: skip
        (loss + decay / 2 * sum(factor.square().sum() for factor in factors)).backward()
        loss_of(model(x), y).backward()
        for optimizer in (slow, fast):
            optimizer.step()
            optimizer.zero_grad()
        for name, weight in net.weights.items():
            m, w = parts[name]
            torch.testing.assert_close(weight.detach(), (m * w).detach())


@pytest.mark.parametrize(
    "name, options, beta",
    [
        ("spred", {"balance": 0.25}, 0.25),
        ("spred", {"sign_in": SignIn(beta=2.0)}, 2.0),
        ("pilot", {}, 1.0),
    ],
)
def test_factors_start_with_the_balance_of_the_method(name, options, beta):
    model = tiny_net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    sparsifier = sparsify(model, optimizer, name, sparsity=0.8, steps=40, **options)
    for layer in sparsifier.net:
        m, w = layer.latents["m"], layer.latents["w"]
        torch.testing.assert_close(m**2 - w**2, torch.full_like(m, beta))


def test_the_decay_of_pilot_rises_to_the_middle_of_the_training_and_falls():
    method = Pilot(Plan(0.8, 200, 4), PilotOptions(factor_decay=2.0, growth=1.01))
    found = [method.factor_decay(step) for step in (0, 1, 2, 100, 138)]  # 0, 0, 1, 50, 69 %
    assert found == pytest.approx([2, 2, 2.02, 2 * 1.644632, 2 * 1.361327], rel=1e-6)
