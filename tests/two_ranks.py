"""Run by torchrun: trains on two ranks and writes what each of them holds at the end."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from baselines.engine.sparse_model import SparseModel
from baselines.registry import methods
from baselines.tools.masks import random_mask
from launch.config.run import Machine, Run
from launch.data.loading import load_data
from launch.ranks import Ranks, ranks
from launch.runs.record import RunFolder
from launch.training.loop import Loop, Meter
from launch.training.run import Training, mask_hash
from signin import Product


def train_run(r: Ranks, out: Path) -> dict[str, torch.Tensor]:
    """A run of the suite; parameters and masks at its end."""
    run = Run.make("digits", "random", sign_in=True, epochs=2)
    machine = Machine(runs=out / "runs", device="cpu", threads=1)
    folder = RunFolder(run, machine.runs)
    with folder.opened() if r.is_first else nullcontext():
        training = Training(run, machine, r, folder, print, False)
        training.finish()
    return {**dict(training.net.model.named_parameters()), **mask_entries(training.net)}


def train_every_method(r: Ranks) -> None:
    """Masks must be equal on both ranks after every single step, and the network that of one
    process, whatever the method."""
    for name, method in methods().items():
        if not method.variants:
            continue  # needs a file
        sparsity = {"sparsity": 0.8} if method.is_sparse else {}
        choices = {**method.variants[0], **sparsity, "epochs": 2}
        run = Run.make("digits", name, sign_in=True, **choices)
        net = train_loop(run, r)
        for parameter in net.model.parameters():
            mine = parameter.detach().clone()
            dist.broadcast(mine, 0)
            assert torch.equal(mine, parameter), f"{name}: weights differ"
        if r.is_first:
            assert_close(name, net, train_loop(run, Ranks(0, 1, r.device)))


def train_loop(run: Run, r: Ranks) -> SparseModel:
    data = load_data(run.settings, Path("data"), r.device, run.seed, r.share, 0)
    loop = Loop(run, data, r, bar=False)
    loop.prepare()
    for epoch in range(loop.epochs):
        loop.begin_epoch(epoch)
        meter = Meter(loop.steps, r.device)
        for i, (x, y) in enumerate(data.train.epoch(epoch)):
            loop.step(epoch, i, x, y, meter)
            mine = mask_hash(loop.net.masks)
            assert r.from_first(mine) == mine, f"{run.method}: masks differ at step {i}"
    return loop.net


def assert_close(name: str, net: SparseModel, alone: SparseModel) -> None:
    """Two ranks with halves of each batch are one process with the whole, but for rounding, which
    can swap weights that are next to each other in a ranking."""
    other = alone.masks
    masks, other = net.masks, alone.masks
    apart = sum(int((mask != other[key]).sum()) for key, mask in masks.items())
    # CAP removes weights one by one, each moving the others: rounding makes another order of it
    most = 0.02 if name == "cap" else 0.001
    assert apart <= most * net.numel, f"{name}: {apart} positions differ from one process"
    for key, weight in net.weights.items() if not apart else ():
        torch.testing.assert_close(weight, alone.weights[key], rtol=0, atol=1e-4)


def mask_entries(net: SparseModel) -> dict[str, torch.Tensor]:
    return {f"mask.{name}": mask for name, mask in net.masks.items()}


def train_joint(r: Ranks) -> dict[str, torch.Tensor]:
    """A net without batch statistics: halves on two ranks must be the whole batch on one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3))
    net = SparseModel(model, Product())
    net.set_masks({n: random_mask(tuple(s), s.numel() // 2, 0, n) for n, s in net.shapes.items()})
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    net.attach(optimizer)
    called = DistributedDataParallel(model) if r.world > 1 else model
    for _ in range(10):
        x, y = torch.randn(8, 10), torch.randint(3, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(called(r.share.of(x)), r.share.of(y)).backward()
        optimizer.step()
    return dict(model.named_parameters())


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with ranks("cpu") as r:
        train_every_method(r)
        state = {**train_run(r, out), **{f"joint.{k}": v for k, v in train_joint(r).items()}}
        torch.save({k: v.detach() for k, v in state.items()}, out / f"rank{r.rank}.pt")
        if r.is_first:
            alone = train_joint(Ranks(0, 1, r.device))
            torch.save({k: v.detach() for k, v in alone.items()}, out / "alone.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
