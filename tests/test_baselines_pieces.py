"""A step in pieces is the step that the optimizer would have taken."""

import pytest
import torch
from literal import batches, loss_of, tiny_net

from baselines import pieces, sparse_model
from baselines.sparse_model import SparseModel
from signin.product import Product

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, weight_decay=1e-3),
    "sgd-plain": lambda ps: torch.optim.SGD(ps, 0.1),
    "sgd-nesterov": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, fused=True),
    "sgd-dampening": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, dampening=0.5),
    "adamw": lambda ps: torch.optim.AdamW(ps, 1e-2, weight_decay=0.1),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, 1e-2, fused=True),
}


def train(make_optimizer, channels_last=False):
    """Weights, latents and optimizer state after a few steps on factors of full size."""
    model = tiny_net(channels_last)
    net = SparseModel(model, Product(frobenius=1e-3))
    optimizer = make_optimizer(model.parameters())
    net.attach(optimizer)
    net.decay = 1e-3
    for x, y in batches(5):
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    latents = [latent for layer in net for latent in layer.latents]
    state = [v for latent in latents for v in optimizer.state.get(latent, {}).values()]
    return [*model.state_dict().values(), *latents, *state]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pieces_change_nothing(name, channels_last, monkeypatch):
    taken = []

    def step(*args):
        taken.append(pieces.step_in_pieces(*args))
        return taken[-1]

    monkeypatch.setattr(pieces, "PIECE", 64)  # most layers have several, the last one smaller
    monkeypatch.setattr(sparse_model, "step_in_pieces", step)
    found = train(OPTIMIZERS[name], channels_last)
    assert sum(taken) >= 4 * 4  # all layers, from the second step on at the latest
    monkeypatch.setattr(sparse_model, "step_in_pieces", lambda *args: False)
    for ours, theirs in zip(found, train(OPTIMIZERS[name], channels_last), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_latents_stepped_in_pieces_need_no_gradients(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 64)
    model = tiny_net()
    net = SparseModel(model, Product())
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    net.attach(optimizer)
    for x, y in batches(2):
        loss_of(model(x), y).backward()
        optimizer.step()
    assert all(latent.grad is None for layer in net for latent in layer.latents)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda ps: torch.optim.AdamW(ps, 1e-2, amsgrad=True),
        lambda ps: torch.optim.RMSprop(ps, 1e-2),
    ],
)
def test_other_optimizers_step_themselves(make_optimizer):
    model = tiny_net()
    net = SparseModel(model, Product())
    net.attach(make_optimizer(model.parameters()))
    optimizer = net._optimizer
    for x, y in batches(2):
        loss_of(model(x), y).backward()
        optimizer.step()
    assert all(latent.grad is not None for layer in net for latent in layer.latents)
