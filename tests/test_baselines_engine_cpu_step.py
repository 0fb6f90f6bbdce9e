"""A step in pieces equals the step of the optimizer."""

import pytest
import torch
from literal import batches, loss_of, tiny_net

from baselines.engine import attached, cpu_step, latents
from baselines.engine.product import Product
from baselines.engine.soft_threshold import SoftThreshold
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import DecayedLatents, Plain

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, weight_decay=1e-3),
    "sgd-plain": lambda ps: torch.optim.SGD(ps, 0.1),
    "sgd-nesterov": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, fused=True),
    "sgd-dampening": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, dampening=0.5),
    "adamw": lambda ps: torch.optim.AdamW(ps, 1e-2, weight_decay=0.1),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, 1e-2, fused=True),
}


STORAGES = {
    "product": Product(frobenius=1e-3),
    "decayed product": DecayedLatents(Product(frobenius=1e-3), decay=1e-3),
    "threshold": SoftThreshold(Plain(), "exp", -3.0, decay=0.02),
    "threshold of product": SoftThreshold(Product(frobenius=1e-3), "sigmoid", -3.0),
}


def train(storage, make_optimizer, channels_last=False):
    """Return weights, latents and optimizer state after a few steps on latents of full size."""
    model = tiny_net(channels_last).double()
    net = SparseModel(model, storage)
    optimizer = make_optimizer(model.parameters())
    net.attach(optimizer)
    for x, y in batches(5, torch.float64):
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = [latent for layer in net for latent in layer.latents.values()]
    state = [v for latent in found for v in optimizer.state.get(latent, {}).values()]
    return [*model.state_dict().values(), *found, *state]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pieces_change_nothing(name, storage, channels_last, monkeypatch):
    setting = STORAGES[storage], OPTIMIZERS[name], channels_last
    taken = []

    def step(*args):
        taken.append(cpu_step.step_in_pieces(*args))
        return taken[-1]

    monkeypatch.setattr(cpu_step, "PIECE", 64)  # most layers have several, the last one smaller
    monkeypatch.setattr(attached, "step_in_pieces", step)
    found = train(*setting)
    done = sum(grads is not None for grads in taken)
    assert done >= 4 * 3  # all layers of a piece, from the second step on at the latest
    monkeypatch.setattr(attached, "step_in_pieces", lambda *args: None)
    monkeypatch.setattr(latents, "merge_in_pieces", lambda *args: False)
    for ours, theirs in zip(found, train(*setting), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_latents_stepped_in_pieces_need_no_gradients(monkeypatch):
    monkeypatch.setattr(cpu_step, "PIECE", 64)
    model = tiny_net()
    net = SparseModel(model, Product())
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    net.attach(optimizer)
    for x, y in batches(2):
        loss_of(model(x), y).backward()
        optimizer.step()
    assert all(latent.grad is None for layer in net for latent in layer.latents.values())


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda ps: torch.optim.AdamW(ps, 1e-2, amsgrad=True),
        lambda ps: torch.optim.RMSprop(ps, 1e-2),
    ],
)
def test_other_optimizers_step_themselves(make_optimizer, monkeypatch):
    monkeypatch.setattr(cpu_step, "PIECE", 64)
    model = tiny_net()
    net = SparseModel(model, Product())
    optimizer = make_optimizer(model.parameters())
    net.attach(optimizer)
    for x, y in batches(2):
        loss_of(model(x), y).backward()
        optimizer.step()
    assert all(latent.grad is not None for layer in net for latent in layer.latents.values())
