"""The training loop against one written down in plain PyTorch, and its optimizer's groups."""

from __future__ import annotations

import copy

import pytest
import torch
from bare_loop import digits
from small_digits import BATCH, STEPS, TEST, small_digits
from torch import nn

from baselines.engine.sparse_model import SparseModel
from launch.config.recipe import Recipe
from launch.config.run import Run
from launch.ranks import Ranks
from launch.training import build
from launch.training.build import build_loop, build_optimizer, lr_integral

# of nine steps the first three lead from 0.4 to 1, and the others to 0
FACTORS = [0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
SETTINGS = {
    "epochs": 1,
    "lr": 0.05,
    "warmup": 0.34,
    "lr_start": 0.4,
    "momentum": 0.8,
    "weight_decay": 0.02,
    "decay_norm_and_bias": False,
    "label_smoothing": 0.3,
}


@pytest.fixture(autouse=True)
def _with_normalisation(monkeypatch):
    """Train a network that computes otherwise in evaluation."""

    def make(*_):
        hidden = nn.Conv2d(1, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*hidden, nn.Linear(54, 10))

    monkeypatch.setattr(build, "make_model", make)


def loop_of(folder, **choices):
    """Return the loop of a run with a random mask, and a copy of its model before the start."""
    run = Run.make("digits", "random", sparsity=0.5, **small_digits(**{**SETTINGS, **choices}))
    ranks = Ranks(0, 1, torch.device("cpu"))
    loop = build_loop(run, digits(run, folder), ranks, bar=False)
    return loop, copy.deepcopy(loop.plain_model)


def literal_epoch(model, masks, batches, optimizer, clip_norm):
    """Train as the settings say. Return the mean loss and the fraction of correct answers."""
    losses, correct, weights = [], 0, dict(model.named_parameters())

    def clear():
        for name, mask in masks.items():
            weights[name].data *= mask

    clear()
    for factor, (x, y) in zip(FACTORS, batches, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * factor
        logits = model(x)
        one_hot = torch.zeros_like(logits).scatter_(1, y[:, None], 1.0)
        targets = 0.7 * one_hot + 0.3 / 10
        loss = -(targets * logits.log_softmax(1)).sum(1).mean()
        loss.backward()
        for name, mask in masks.items():
            weights[name].grad *= mask
        if clip_norm:
            norm = sum(w.grad.square().sum() for w in weights.values()).sqrt()
            assert norm > clip_norm
            for weight in weights.values():
                weight.grad *= clip_norm / norm
        optimizer.step()
        optimizer.zero_grad()
        clear()
        losses.append(loss.item())
        correct += int((logits.argmax(1) == y).sum())
    return sum(losses) / STEPS, correct / (BATCH * STEPS)


@pytest.mark.parametrize("optimizer, nesterov", [("sgd", True), ("sgd", False), ("adamw", False)])
@pytest.mark.parametrize("clip_norm", [0.0, 0.25])
def test_an_epoch_is_that_of_a_plain_loop(tmp_path, optimizer, nesterov, clip_norm):
    choices = {"optimizer": optimizer, "nesterov": nesterov, "clip_norm": clip_norm}
    loop, model = loop_of(tmp_path, **choices)
    loop.start()
    batches = [(x.clone(), y.clone()) for x, y in loop.data.train.epoch(0)]
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) is decays], "weight_decay": rate}
        for decays, rate in ((True, 0.02), (False, 0.0))
    ]
    if optimizer == "adamw":
        plain = torch.optim.AdamW(groups, 0.05)
    else:
        plain = torch.optim.SGD(groups, 0.05, 0.8, nesterov=nesterov)
    expected = literal_epoch(model, loop.sparsifier.masks, batches, plain, clip_norm)
    (loss, accuracy), images = loop.train_epoch(0), BATCH * STEPS
    assert loss == pytest.approx(expected[0], rel=1e-4)
    assert accuracy == pytest.approx(expected[1], abs=1.5 / images)  # rounding may decide one
    for name, value in loop.plain_model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5)

    model.eval()
    with torch.no_grad():
        x, y = (torch.cat(parts) for parts in zip(*loop.data.test.epoch(0), strict=True))
        loss = nn.functional.cross_entropy(model(x), y).item()
        accuracy = int((model(x).argmax(1) == y).sum()) / TEST
    found = loop.evaluate()
    assert found[0] == pytest.approx(loss, rel=1e-3)
    assert found[1] == pytest.approx(accuracy, abs=1.5 / TEST)


def test_the_seed_and_the_epoch_decide_what_is_drawn(tmp_path, monkeypatch):
    weights, numbers = [], []
    for seed in (0, 1, 1):
        loop, model = loop_of(tmp_path, seed=seed, epochs=2)
        loop.start()
        weights.append(float(model[0].weight[0, 0, 0, 0]))
        draws, step = [], loop.step

        def drawing(*args, draws=draws, step=step):
            draws.append(float(torch.rand(())))
            step(*args)

        monkeypatch.setattr(loop, "step", drawing)
        for epoch in (0, 1):
            loop.train_epoch(epoch)
        numbers.append(draws)
    assert weights[0] != weights[1] == weights[2] and numbers[1] == numbers[2]
    assert len({*numbers[0], *numbers[1]}) == 2 * 2 * STEPS


def test_the_sum_of_the_learning_rates():
    recipe = {"lr": 0.05, "warmup": 0.34, "lr_start": 0.4, "momentum": 0.8}
    assert lr_integral(Recipe(**recipe), STEPS) == pytest.approx(0.05 * 5.3 / 0.2)
    assert lr_integral(Recipe(optimizer="adamw", **recipe), STEPS) == pytest.approx(0.05 * 5.3)


class Positions(nn.Module):
    """Names a matrix that does not decay, as timm's transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.scale = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
        self.linear = nn.Linear(3, 4)

    def no_weight_decay(self):
        return {"position"}

    def forward(self, x):
        return self.linear((x + self.position) * self.scale)


@pytest.mark.parametrize("everything", [True, False])
def test_a_model_names_parameters_that_do_not_decay(everything):
    model = Positions()
    with pytest.warns(UserWarning, match="are prunable"):
        net = SparseModel(model)
    recipe = Recipe(weight_decay=0.3, decay_norm_and_bias=everything)
    groups = build_optimizer(net, recipe, None).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = [decays[id(p)] for p in (model.linear.weight, model.scale, model.position)]
    spared = 0.3 if everything else 0.0
    assert found == [0.3, 0.3, spared] and decays[id(model.linear.bias)] == spared
