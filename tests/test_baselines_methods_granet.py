"""GraNet: updates compared with a slow implementation, schedules with hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from literal import batches, loss_of, tiny_net
from method_cases import STORAGES, trained

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.granet import GraNet, GraNetOptions
from baselines.samples import Samples, no_samples


def test_schedules():
    method = GraNet(Plan(0.9, 62_560, 391))
    assert method.period == 1009 and method.prunings == 31
    assert method.sparsity(31) == 0.9
    assert method.sparsity(1) == pytest.approx(0.5 + 0.4 * (1 - (30 / 31) ** 3), abs=1e-12)
    assert method.regrowth(-1) == 0.5
    assert method.regrowth(62_560 // 2 - 1) == pytest.approx((0.5 + 0.005) / 2, abs=1e-12)
    short = GraNet(Plan(0.9, 360, 18), GraNetOptions(initial_sparsity=0.95))
    assert short.period == 25 and short.prunings == 7
    assert {short.sparsity(i) for i in range(1, 8)} == {0.9}  # a lower one cannot be regrown
    updates = [step for step in range(360) if short.is_update(step)]
    assert updates == [25 * i - 1 for i in range(1, 15)]
    assert not GraNet(Plan(0.9, 100, 10)).is_update(99)
    early = GraNet(Plan(0.9, 1000, 10), GraNetOptions(updates=40, prune_until=0.2))
    assert early.period == 25 and early.prunings == 8  # the last one after 200 steps
    assert early.sparsity(4) == pytest.approx(0.5 + 0.4 * 7 / 8)


def expected(weights, masks, grads, sparsity, fraction):
    """Prune globally, then drop and regrow in each layer, entry by entry."""
    size = sum(len(w) for w in weights.values())
    every = sorted(((n, i) for n in weights for i in range(len(weights[n])) if masks[n][i]),
                   key=lambda at: -abs(weights[at[0]][at[1]]))  # fmt: skip
    kept = set(every[: size - round(sparsity * size)])
    found = {}
    for name, w in weights.items():
        mine = sorted((i for n, i in kept if n == name), key=lambda i: abs(w[i]))
        drop = math.ceil(fraction * len(mine))
        left = set(mine[drop:])
        others = sorted(set(range(len(w))) - left, key=lambda i: -abs(grads[name][i]))
        found[name] = [i in left | set(others[:drop]) for i in range(len(w))]
    return found


@pytest.mark.parametrize("initial_sparsity", [0.0, 0.5])
def test_updates_are_those_of_a_slow_implementation(initial_sparsity):
    options = GraNetOptions(initial_sparsity=initial_sparsity, updates=10)
    method = GraNet(Plan(0.8, 20, 5), options)
    model = tiny_net().double()
    net = SparseModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    method.prepare(net, Samples(no_samples))
    net.attach(optimizer)
    assert net.sparsity() == pytest.approx(initial_sparsity, abs=1e-3)
    for step in range(20):
        x, y = batches(1, torch.float64)[0]
        loss_of(model(x), y).backward()
        assert not method.after_backward(net, step)
        optimizer.step()
        flat = {n: w.detach().flatten().tolist() for n, w in net.weights.items()}
        ones = {n: m.flatten().tolist() for n, m in net.masks.items()}
        grads = {n: w.grad.flatten().tolist() for n, w in net.weights.items()}
        method.after_step(net, step)
        if step % 2 and step < 19:
            i, first = (step + 1) // 2, initial_sparsity
            part = 1 - (1 - min(i, 5) / 5) ** 3
            rate = 0.005 + 0.495 / 2 * (1 + math.cos(math.pi * (step + 1) / 20))
            ones = expected(flat, ones, grads, first + (0.8 - first) * part, rate)
        assert {n: m.flatten().tolist() for n, m in net.masks.items()} == ones
        optimizer.zero_grad()


@pytest.mark.parametrize("steps, sparsity", [(1, 0.9), (2, 0.5)])
def test_without_a_step_for_an_update_the_first_mask_has_the_requested_sparsity(steps, sparsity):
    net = SparseModel(tiny_net())
    GraNet(Plan(0.9, steps, steps)).prepare(net, Samples(no_samples))
    assert net.sparsity() == pytest.approx(sparsity, abs=1e-3)


@pytest.mark.parametrize("storage", STORAGES)
def test_new_weights_start_at_zero_without_momentum(storage):
    before = {}

    def after(net, optimizer, step):
        for layer in net:
            mask = net.masks[layer.name]
            if step in (4, 9) and layer.index is not None:
                new = layer.gather(mask & ~before[layer.name])
                assert new.any() and not layer.gather(layer.weight)[new].any()
                for latent in layer.latents.values():
                    assert not optimizer.state[latent]["momentum_buffer"][new].any()
            before[layer.name] = mask.clone()

    trained(GraNet(Plan(0.8, 50, 10)), storage, steps=12, after=after)


@pytest.mark.parametrize(
    "options", [{"initial_sparsity": 1.0}, {"updates": 1}, {"prune_until": 1.0}, {"regrowth": 0.0}]
)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        GraNetOptions(**options)
