"""Run by torchrun: trains on two ranks. Each writes its final parameters and masks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch_settings
from small_digits import CHEAPER, small_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch_settings import THREADS

from baselines.engine.sparse_model import SparseModel
from baselines.registry import methods
from baselines.samples import Samples
from baselines.tools.masks import random_mask
from launch.config.machine import Machine
from launch.config.run import Run
from launch.data import load_data
from launch.data.batches import Batches
from launch.ranks import Ranks, join_ranks
from launch.runs.folder import RunFolder
from launch.training.build import build_loop
from launch.training.loop import Loop
from launch.training.meter import Meter
from launch.training.result import mask_hash
from launch.training.run import Training
from signin import Product


def train_run(r: Ranks, out: Path) -> dict[str, torch.Tensor]:
    """Train a run of the suite. Return its final parameters and masks."""
    run = Run.make("digits", "random", sign_in=True, epochs=2)
    machine = Machine(runs=out / "runs", device="cpu", threads=THREADS)
    folder = RunFolder(run, machine.runs)
    with folder.opened() if r.is_first else nullcontext():
        training = Training(run, machine, r, folder, print, False)
        training.finish()
    return {**dict(training.net.model.named_parameters()), **mask_entries(training.net)}


class Wide:
    """A split in float64, where rounding decides nothing."""

    def __init__(self, split: Batches) -> None:
        self.split, self.skipped = split, 0

    def __len__(self) -> int:
        return len(self.split)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.double(), y) for x, y in self.split.epoch(epoch))

    def sample(self, per_class: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.double(), y) for x, y in self.split.sample(per_class))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make that type the default of models that are built in the context."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def train_every_method(r: Ranks) -> None:
    """Check for all methods that masks are equal on both ranks after every step, and final weights.

    They are in float64, so that the network also equals that of one process.
    """
    for name, method in methods().items():
        if not method.variants:
            continue  # needs a file
        sparsity = {"sparsity": 0.8} if method.is_sparse else {}
        choices = {**method.variants[0], **CHEAPER.get(name, {}), **sparsity}
        choices |= small_digits(epochs=2)
        if name == "str":
            choices |= {"s_init": -8.0, "threshold_decay": 0.05}
        if name in ("woodfisher", "cap"):
            choices |= {"damping": 0.1, "relative_damping": True}  # 1e-7 amplifies rounding
        run = Run.make("digits", name, sign_in=True, **choices)
        net = train_loop(run, r).sparsifier.net
        for parameter in net.model.parameters():
            assert parameter.dtype == torch.float64
            mine = parameter.detach().clone()
            dist.broadcast(mine, 0)
            assert torch.equal(mine, parameter), f"{name}: weights differ"
        if r.is_first:
            assert_same(name, net, train_loop(run, Ranks(0, 1, r.device)).sparsifier.net)


def train_loop(run: Run, r: Ranks, sparse_kernels: str = "none") -> Loop:
    """Train a run and return its loop. Compare masks over the ranks after every step."""
    data = load_data(run.settings, Path("data"), r.device, run.seed, r.share, 0)
    if torch.get_default_dtype() == torch.float64:
        data = replace(data, train=Wide(data.train), test=Wide(data.test))
    loop = build_loop(run, data, r, bar=False, sparse_kernels=sparse_kernels)
    loop.start()
    net = loop.sparsifier.net
    for epoch in range(loop.epochs):
        loop.model.train()
        meter = Meter(loop.steps, r.device)
        for i, (x, y) in enumerate(data.train.epoch(epoch)):
            loop.step(x, y, meter)
            if r.world > 1:
                mine = mask_hash(net.masks)
                assert r.from_first(mine) == mine, f"{run.method}: masks differ at step {i}"
    return loop


def assert_same(name: str, net: SparseModel, alone: SparseModel) -> None:
    """Check that two ranks with half batches give the network of one process with whole batches.

    The network has no batch statistics, so only the order of sums differs. Weights are below 1;
    1e-12 is 5,000 roundings of float64, of which there are a few in each of 18 steps (measured:
    up to 1.3e-14, for WoodFisher's inverses). Float32 is off by 1e-6.
    """
    masks, other = net.masks, alone.masks
    apart = sum(int((mask != other[key]).sum()) for key, mask in masks.items())
    assert not apart, f"{name}: {apart} positions differ from one process"
    for key, weight in net.weights.items():
        torch.testing.assert_close(weight, alone.weights[key], rtol=0, atol=1e-12)


def mask_entries(net: SparseModel) -> dict[str, torch.Tensor]:
    return {f"mask.{name}": mask for name, mask in net.masks.items()}


def score_with_batch_statistics(r: Ranks) -> None:
    """Check that masks of scores are those of one process with another batch size, in float64."""
    for name in ("snip", "grasp"):
        masks = [
            initial_masks(Run.make("digits", name, model="resnet20", batch_size=size), ranks)
            for size, ranks in ((64, r), (50, Ranks(0, 1, r.device)))
        ]
        for layer, mask in masks[0].items():
            assert torch.equal(mask, masks[1][layer]), f"{name}: masks of {layer} differ"


def initial_masks(run: Run, r: Ranks) -> dict[str, Tensor]:
    """Return the masks that a method chooses before training."""
    data = load_data(run.settings, Path("data"), r.device, run.seed, r.share, 0)
    loop = build_loop(run, replace(data, train=Wide(data.train)), r, bar=False)
    loop.sparsifier.method.prepare(loop.sparsifier.net, Samples(loop.data.train.sample))
    return loop.sparsifier.net.masks


def train_joint(r: Ranks) -> dict[str, torch.Tensor]:
    """Train a network without batch statistics: two half batches must equal one whole batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    net = SparseModel(model, Product())
    net.set_masks({n: random_mask(tuple(s), s.numel() // 2, 0, n) for n, s in net.shapes.items()})
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    net.attach(optimizer)
    called = DistributedDataParallel(model) if r.world > 1 else model
    for _ in range(10):
        x, y = torch.randn(8, 10, dtype=torch.float64), torch.randint(3, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(called(r.share.of(x)), r.share.of(y)).backward()
        optimizer.step()
    return dict(model.named_parameters())


def main(out: Path) -> None:
    torch_settings.apply()
    with join_ranks("cpu") as r:
        with default_dtype(torch.float64):
            train_every_method(r)
            score_with_batch_statistics(r)
        state = {**train_run(r, out), **{f"joint.{k}": v for k, v in train_joint(r).items()}}
        torch.save({k: v.detach() for k, v in state.items()}, out / f"rank{r.rank}.pt")
        if r.is_first:
            alone = train_joint(Ranks(0, 1, r.device))
            torch.save({k: v.detach() for k, v in alone.items()}, out / "alone.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
