"""CHTs removes by weighted draws and grows where the links suggest it."""

from __future__ import annotations

import math

import pytest
import torch
from method_cases import STORAGES, trained
from torch import nn

from baselines import sparsify
from baselines.errors import UserError
from baselines.method import Plan
from baselines.methods.chts import Chts, ChtsOptions
from baselines.tools.link_prediction import ch2_l3


@pytest.mark.parametrize("start, end", [(400, 400), (0, 1200), (600, 0)])
def test_an_update_keeps_what_is_large_and_grows_the_best_scores(start, end):
    """The power is 400 at step 25, which is a third of the steps with updates."""
    options = ChtsOptions(drop_fraction=0.5, start_power=start, end_power=end)
    method = Chts(Plan(0.8, 100, 1), options)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 5, 3, 3, generator=generator)
    mask = torch.rand(12, 5, 3, 3, generator=generator) < 0.3
    weight *= mask
    new = method.updated(weight, mask, "a", step=25)
    links = int(mask.sum())
    drops = int(links * 0.25 * (1 + math.cos(math.pi / 3)))  # a third of 0.75 · 100 steps
    assert int(new.sum()) == links and drops > 10
    sizes = weight.abs()[mask].sort(descending=True).values
    kept = weight.abs() >= sizes[links - drops - 1]  # at such a power the largest are kept
    assert (new & kept).sum() == kept.sum()
    scores, grown = ch2_l3(kept.flatten(1)).view(mask.shape), new & ~kept
    assert scores[grown].min() >= scores[~new].max()


def test_ties_are_drawn_among_missing_links():
    """No path has three links, so that all scores are 0."""
    method, mask = Chts(Plan(0.8, 100, 1), ChtsOptions(drop_fraction=1.0)), torch.eye(20) > 0
    found = [method.updated(torch.eye(20), mask, "a", step) for step in (1, 2, 3)]
    assert all(int(new.sum()) == 20 for new in found)
    rows = {tuple(new.nonzero()[:, 0].tolist()) for new in found}
    assert len(rows) == 3 and max(max(r) for r in rows) > 10


def test_the_first_links_are_between_near_units_at_a_locality_of_zero():
    nearest = torch.arange(6), 2 * torch.arange(6)  # six outputs on a ring of twelve inputs
    for locality, all_near in ((0.0, True), (1.0, False)):
        method = Chts(Plan(0.8, 100, 1), ChtsOptions(locality=locality))
        mask = method.first("a", (6, 12), 14)
        assert int(mask.sum()) == 14 and bool(mask[nearest].all()) is all_near


@pytest.mark.parametrize("start", ["receptive-field", "random"])
@pytest.mark.parametrize("storage", STORAGES)
def test_masks_change_at_updates_only_and_keep_their_sizes(start, storage):
    method = Chts(Plan(0.8, 40, 4), ChtsOptions(updates=3, start=start))
    seen, sizes = {}, []

    def look(net, optimizer, step):
        seen[step] = net.masks
        sizes.append([int(mask.sum()) for mask in net.masks.values()])

    net = trained(method, storage, after=look)
    assert net.nnz == net.numel - round(0.8 * net.numel) and len({*map(tuple, sizes)}) == 1
    changed = [
        step
        for step in range(1, 40)
        if any(not torch.equal(seen[step][n], seen[step - 1][n]) for n in seen[step])
    ]
    assert changed == [step for step in changed if step < 30] and len(changed) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"locality": 1.5}, r"locality must be in \[0, 1\], not 1.5"),
        ({"updates": -1}, "updates must not be negative, not -1"),
        ({"end_power": -1.0}, "end_power must not be negative, not -1"),
        ({"end_power": float("nan")}, "end_power must not be negative, not nan"),
        ({"start_power": float("inf")}, "start_power must be finite, not inf"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        ChtsOptions(**options)


def test_weights_that_are_no_network_of_links_are_refused():
    model = nn.LSTM(4, 4)
    with pytest.raises(UserError, match="chts needs weights of convolutions and Linear layers"):
        sparsify(model, torch.optim.SGD(model.parameters()), "chts", sparsity=0.5, steps=10)
