"""A short training of a tiny network with a method, plain and with factors."""

from __future__ import annotations

import torch
from literal import batches, loss_of, tiny_net

from baselines.engine.sparse_model import SparseModel
from baselines.samples import Samples, no_samples
from signin import Product

STORAGES = [None, Product()]


def trained(method, storage=None, steps=40, sparsity=0.8, after=None):
    """Train a tiny network with a method, as the training loop does."""
    model = tiny_net().double()
    net = SparseModel(model, storage)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    method.prepare(net, Samples(no_samples))
    net.attach(optimizer)
    data = batches(4, torch.float64)
    for step in range(steps):
        method.before_step(net, step)
        x, y = data[step % 4]
        loss_of(model(x), y).backward()
        if not method.after_backward(net, step):
            optimizer.step()
        method.after_step(net, step)
        optimizer.zero_grad()
        if after is not None:
            after(net, optimizer, step)
    return net
