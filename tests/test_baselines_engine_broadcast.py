"""Ranks that begin with other weights, or prune with other data, train one network."""

from __future__ import annotations

import torch
import torch.distributed as dist
from in_process import fork_two_ranks
from literal import batches, loss_of, tiny_net
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from baselines import sparsify
from launch.ranks import join_ranks

STEPS = 8


def initial(seed):
    """Return the network with weights of a seed, and running statistics."""
    torch.manual_seed(seed)
    model = tiny_net()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    model[1].running_mean.fill_(seed)
    return model


def assert_same_on_ranks(name, tensors):
    for key, tensor in tensors.items():
        first = tensor.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, tensor), f"{name}: {key} differs"


def trained(method, rank, wrapped, **options):
    """Train on two ranks, with DDP around the model before or after `sparsify`."""
    model = initial(rank)
    called = DistributedDataParallel(model) if wrapped else model
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    sparsifier = sparsify(called, optimizer, method, sparsity=0.5, steps=STEPS, **options)
    called = called if wrapped else DistributedDataParallel(model)
    for x, y in batches(2 * STEPS)[rank::2]:
        loss_of(called(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sparsifier.sparsity() > 0.49
    assert_same_on_ranks(method, dict(model.named_parameters()))
    assert_same_on_ranks(f"{method}'s masks", sparsifier.masks)


def on_a_rank():
    with join_ranks("cpu") as r:
        trained("topkast", r.rank, wrapped=False)
        trained("srste", r.rank, wrapped=False)
        trained("gmp", r.rank, wrapped=False, begin=0.0, end=0.0, events=1)
        own = batches(4)[r.rank :]
        trained("sparsegpt", r.rank, wrapped=True, samples=lambda per_class: own)


def test_ranks_begin_with_the_model_of_rank_0(tmp_path):
    fork_two_ranks(on_a_rank, tmp_path)
