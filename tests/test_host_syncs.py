"""A training step makes the host wait for a GPU only where masks change."""

from __future__ import annotations

import pytest
import torch
from host_syncs import HostSyncs
from literal import batches, loss_of
from test_baselines_sparse_model import OPTIMIZERS, STORAGES, make
from test_contract import CASES
from test_contract import make as make_run

from baselines.method import find_method
from launch.data.loading import Share, load_data
from launch.ranks import Ranks
from launch.training.loop import Loop, Meter


def if_(condition):
    return 1 if condition else 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.sum().item(),
        lambda t: float(t[0]),
        lambda t: int(t.count_nonzero()),
        lambda t: bool(t.any()),
        lambda t: if_(t[0]),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t.numpy(),
        lambda t: torch.equal(t, t),
        lambda t: t.nonzero(),
        lambda t: torch.where(t > 0),
        lambda t: t[t > 0],
        lambda t: t.masked_select(t > 0),
        lambda t: t.unique(),
        lambda t: t.__setitem__(t > 0, t[1]),
        lambda t: t[torch.tensor(2)],
    ],
)
def test_what_waits_is_found(wait):
    with HostSyncs() as syncs:
        wait(torch.arange(5.0))
    assert syncs.found


@pytest.mark.parametrize(
    "go",
    [
        lambda t: t.isfinite().all(),
        lambda t: torch.where(t > 0, t, 0.0),
        lambda t: t.masked_fill_(t > 0, 1.0),
        lambda t: t[torch.tensor([1, 2])],
        lambda t: t.index_copy_(0, torch.tensor([1, 2]), torch.ones(2)),
        lambda t: t.__setitem__(2, 3.0),
        lambda t: t.topk(2),
        lambda t: t.numel() + len(t) + t.shape[0],
    ],
)
def test_what_does_not_wait_is_not(go):
    with HostSyncs() as syncs:
        go(torch.arange(5.0))
    assert not syncs.found


# torch's own AdamW reads its counter, which is on the CPU
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS.keys() - {"adamw"}))
@pytest.mark.parametrize("storage", STORAGES)
def test_a_sparse_step_waits_for_nothing(storage, optimizer, density):
    net, opt = make(STORAGES[storage], density=density, optimizer=optimizer)
    for i, (x, y) in enumerate(batches(3)):
        with HostSyncs() as syncs:
            loss_of(net.model(x), y).backward()
            opt.step()
            opt.zero_grad()
        assert i == 0 or not syncs.found  # what comes first may look at what it finds


def steps(run, root):
    """For each step of a run: whether masks changed, and what the host waited for."""
    data = load_data(run.settings, root, torch.device("cpu"), run.seed, Share(), 0)
    loop = Loop(run, data, Ranks(0, 1, torch.device("cpu")), bar=False)
    loop.prepare()
    for epoch in range(loop.epochs):
        loop.begin_epoch(epoch)
        meter = Meter(loop.steps, torch.device("cpu"))
        for i, (x, y) in enumerate(data.train.epoch(epoch)):
            before = loop.net.changes
            with HostSyncs() as syncs:
                loop.step(epoch, i, x, y, meter)
            yield loop.net.changes != before, syncs.found


@pytest.fixture
def gpu_like(monkeypatch):
    """The loss is looked at after every step on a CPU alone, where that costs nothing."""
    monkeypatch.setattr(Loop, "_check", lambda *args: None)


# on a CPU, STR reads its threshold
@pytest.mark.parametrize("name, variant, sign_in", [c for c in CASES if c.values[0] != "str"])
def test_a_step_between_mask_changes_waits_for_nothing(gpu_like, tmp_path, name, variant, sign_in):
    run = make_run(name, variant, sign_in, epochs=2, clip_norm=1.0)
    quiet = [found for changed, found in steps(run, tmp_path) if not changed]
    assert quiet and not any(quiet)


@pytest.mark.parametrize("hook", ["before_step", "after_backward", "after_step"])
def test_a_method_that_waits_is_found(gpu_like, tmp_path, monkeypatch, hook):
    run = make_run("random", {}, True, epochs=1)

    def looks(self, net, step):
        return bool(net.weights["0.weight"].isnan().any())

    monkeypatch.setattr(find_method("random"), hook, looks)
    assert all(found == ["aten._local_scalar_dense.default"] for _, found in steps(run, tmp_path))
