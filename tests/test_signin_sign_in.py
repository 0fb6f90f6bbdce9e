"""When Sign-In rescales: Algorithm 1, also with methods that change masks."""

from __future__ import annotations

import itertools

import pytest
import torch
from literal import batches, loss_of, tiny_net

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.tools.schedules import acdc_phases
from signin import SignIn

EPOCHS, PER_EPOCH = 20, 5


def rescales(monkeypatch, **settings):
    """Train AC/DC with Sign-In. Return the epochs i, counted from 1, in which it rescaled."""
    epochs, made = [], []
    original = SparseModel.rescale
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def rescale(self, reset_state=False):
        step = made[0].step if made else 0  # the first epoch begins while it is made
        epochs.append(1 + step // PER_EPOCH)
        original(self, reset_state)

    with monkeypatch.context() as patch:
        patch.setattr(SparseModel, "rescale", rescale)
        sparsifier = sparsify(
            model,
            optimizer,
            "acdc",
            sparsity=0.8,
            steps=EPOCHS * PER_EPOCH,
            steps_per_epoch=PER_EPOCH,
            sign_in=SignIn(**settings),
        )
        made.append(sparsifier)
        for x, y in itertools.islice(itertools.cycle(batches(4)), EPOCHS * PER_EPOCH):
            loss_of(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return epochs


def mask_changes():
    """Return the epochs, from 1, in which AC/DC changes masks: every fifth percent from 10."""
    phases = acdc_phases(EPOCHS, EPOCHS * PER_EPOCH)
    found = sorted(1 + step // PER_EPOCH for step in phases)
    assert found == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18]
    return found


@pytest.mark.parametrize("until, last", [(0.5, 9), (0.75, 14), (0.0, 0)])
def test_no_rescale_from_t2_on_even_if_masks_change(monkeypatch, until, last):
    found = rescales(monkeypatch, rescale_until=until)
    periodic, changes = range(1, EPOCHS + 1), mask_changes()
    assert sorted(found) == sorted(i for i in [*periodic, *changes] if i <= last)


def test_rescales_after_late_mask_changes_are_an_option(monkeypatch):
    found = rescales(monkeypatch, rescale_until=0.5, rescale_masks_late=True)
    assert sorted(found) == sorted([*range(1, 10), *mask_changes()])


def test_only_the_periodic_rescales(monkeypatch):
    found = rescales(monkeypatch, rescale_period=3, rescale_after_masks=False)
    assert found == [3, 6, 9]
    late = {"rescale_after_masks": False, "rescale_masks_late": True}
    assert rescales(monkeypatch, rescale_period=3, **late) == [3, 6, 9]
    assert not rescales(monkeypatch, rescale_period=0, rescale_masks_late=True)
