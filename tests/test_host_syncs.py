"""The detector of operations that make the host wait for a GPU. `test_devices` uses it."""

from __future__ import annotations

import pytest
import torch
from host_syncs import HostSyncs


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
