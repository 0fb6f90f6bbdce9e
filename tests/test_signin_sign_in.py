"""When Sign-In rescales: Algorithm 1, also with methods that change masks."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from literal import batches, loss_of, tiny_net

from baselines import sparsify
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.tools.schedules import acdc_phases
from signin import HAM, SignIn

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


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("period", [1, 3])
def test_a_rescale_clears_the_momentum_of_the_factors_if_asked_to(resets, period):
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    rule = SignIn(rescale_period=period, rescale_resets_state=resets)
    choices = {"sparsity": 0.5, "steps": 20, "steps_per_epoch": 2, "manual_begin": True}
    sparsifier = sparsify(model, optimizer, "random", sign_in=rule, **choices)
    for x, y in batches(2):
        sparsifier.begin_step()
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    if period > 1:  # no rescale is due but the one after a change of masks
        sparsifier.net.set_masks(sparsifier.masks)
    sparsifier.begin_step()
    factors = [latent for layer in sparsifier.net for latent in layer.latents.values()]
    assert {bool(optimizer.state.get(factor)) for factor in factors} == {not resets}
    assert optimizer.state[model[7].bias]


# ---- β by layer


def test_beta_changes_by_equal_factors_from_layer_to_layer():
    rule = SignIn(beta=0.5, beta_last=2.0)
    assert rule.betas(["a", "b", "c"]) == {"a": 0.5, "b": 1.0, "c": 2.0}
    falling = SignIn(beta=4.0, beta_last=0.5).betas(["a", "b", "c", "d"])
    assert list(falling.values()) == pytest.approx([4.0, 2.0, 1.0, 0.5])
    assert rule.betas(["alone"]) == {"alone": 0.5}
    assert SignIn(beta=0.5).betas(["a", "b"]) == {}


def test_factors_are_split_with_the_beta_of_their_layer():
    decays = {"frobenius_decay": 0.0, "sign_in_weight_decay": 0.0}
    storage = SignIn(beta=0.5, beta_last=2.0, **decays).storage(["a", "b", "c"])
    theta = torch.tensor([0.3, 0.0], dtype=torch.float64)
    m, w = storage.split([theta, theta], ["c", "a"])
    # β = 2: m = √(1 + √(0.09 + 1)), w = 0.3/m; a zero has (√β, 0)
    assert m[0].tolist() == pytest.approx([1.4296959, 1.4142136])
    assert w[0].tolist() == pytest.approx([0.2098348, 0.0])
    assert (m[1] ** 2 - w[1] ** 2).tolist() == pytest.approx([0.5, 0.5])


def scalings(net):
    """Return the inner scaling m² − w² of each layer's weights."""
    return {
        layer.name: layer.latents["m"].detach() ** 2 - layer.latents["w"].detach() ** 2
        for layer in net
    }


def test_attach_rescale_and_growth_set_the_beta_of_each_layer_and_keep_the_network():
    model = tiny_net().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    rule = SignIn(beta=0.5, beta_last=4.0, rescale_period=0)
    choices = {"sparsity": 0.5, "steps": 100, "steps_per_epoch": 5, "sign_in": rule}
    sparsifier = sparsify(model, optimizer, "random", **choices)
    net, wanted = sparsifier.net, dict(zip(sparsifier.masks, (0.5, 1.0, 2.0, 4.0), strict=True))

    def check():
        for name, found in scalings(net).items():
            torch.testing.assert_close(found, torch.full_like(found, wanted[name]))

    check()
    for name, mask in sparsifier.masks.items():
        torch.testing.assert_close(model.get_parameter(name), before[name] * mask)
    for x, y in batches(4, torch.float64):
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = {name: weight.clone() for name, weight in net.weights.items()}
    assert all(not torch.allclose(found, found.new_tensor(1.0)) for found in scalings(net).values())
    net.rescale()
    check()
    for name, weight in net.weights.items():
        torch.testing.assert_close(weight, trained[name], rtol=1e-14, atol=1e-15)
    net.set_masks({name: torch.ones_like(mask) for name, mask in sparsifier.masks.items()})
    check()


def test_a_negative_last_beta_is_refused():
    with pytest.raises(UserError, match="beta_last must not be negative, not -1"):
        SignIn(beta_last=-1.0)


# ---- what is refused, and warned of


@pytest.mark.parametrize(
    "rule, settings, message",
    [
        (SignIn, {"sign_in_decays": "theta"}, "unknown sign_in_decays 'theta'.* auto, factors, p"),
        (SignIn, {"sign_in_decay_scope": "factor"}, "'factor', did you mean factors"),
        (SignIn, {"rescale_period": 0.5}, "rescale_period must be of type int, not 0.5"),
        (SignIn, {"beta": "1"}, "beta must be of type float, not '1'"),
        (SignIn, {"rescale_after_masks": "no"}, "rescale_after_masks must be of type bool"),
        (HAM, {"ham_alpha": "strong"}, "ham_alpha must be of type float, not 'strong'"),
    ],
)
def test_settings_of_other_types_are_refused(rule, settings, message):
    with pytest.raises(UserError, match=message):
        rule(**settings)


def test_numbers_of_other_types_are_taken():
    rule = SignIn(beta=2, frobenius_decay=np.float64(0.1), rescale_period=np.int64(3))
    assert rule == SignIn(beta=2.0, frobenius_decay=0.1, rescale_period=3)


@pytest.mark.parametrize(
    "method, epochs, settings, warned",
    [
        ("random", 1, {}, True),
        ("random", 3, {}, True),
        ("random", 5, {}, True),
        ("random", 6, {}, False),
        ("random", 5, {"rescale_until": 1.0}, False),
        ("random", 5, {"rescale_period": 0}, False),
        ("random", 5, {"rescale_masks_late": True}, True),  # its masks do not change
        ("rigl", 5, {"rescale_masks_late": True}, False),
        ("rigl", 5, {"rescale_masks_late": True, "rescale_after_masks": False}, True),
        ("rigl", 5, {}, True),
        ("rigl", 100, {"rescale_period": 60}, False),  # after changes of masks
        ("random", 100, {"rescale_period": 60}, True),
    ],
)
def test_a_training_without_further_rescales_is_warned_of(method, epochs, settings, warned):
    model = tiny_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    choices = {"sparsity": 0.5, "steps": 2 * epochs, "steps_per_epoch": 2}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        sparsify(model, optimizer, method, sign_in=SignIn(**settings), **choices)
    texts = [str(warning.message) for warning in found]
    assert sum(f"too few epochs ({epochs}) for" in text for text in texts) == warned
