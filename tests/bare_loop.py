"""A loop as a user of the library writes it: knows nothing of sparsity but one call."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from baselines import sparsify
from baselines.tools.schedules import triangular
from launch.data import load_data
from launch.data.order import mix
from launch.models import build_model
from launch.ranks import Share
from launch.training.build import build_method


def sparsified(run, data, model, optimizer, **choices):
    """Apply the run's method to any model, as a user of the library does."""
    own = dict(vars(run.options))
    if run.method in ("str", "fixed"):  # know learning rates, or read files: by the suite's plan
        method, own = build_method(run, len(data.train), None), {}
    else:
        method = run.method
    rule = run.settings.sign_in if run.sign_in else run.settings.ham if run.ham else None
    steps = len(data.train)
    return sparsify(
        model,
        optimizer,
        method,
        sparsity=run.sparsity,
        steps=run.settings.epochs * steps,
        steps_per_epoch=steps,
        sign_in=rule,
        seed=run.seed,
        samples=data.train.sample,
        **choices,
        **own,
    )


def bare(run):
    """Return a model as the suite initialises it, and a user's optimizer for it."""
    torch.manual_seed(mix(run.seed))
    model = build_model("digits-cnn", 10, 1, 8)
    recipe = run.settings
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    return model, optimizer


def take_steps(model, optimizer, scheduler, data, first, last):
    """Take steps of an ordinary training loop without any code for sparsity."""
    per_epoch = len(data.train)
    epochs = range(first // per_epoch, -(-last // per_epoch))
    stream = ((e, b) for e in epochs for b in data.train.epoch(e))
    for step, (_, (x, y)) in enumerate(stream, first - first % per_epoch):
        if not first <= step < last:
            continue
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def digits(run, folder):
    device = torch.device("cpu")
    return load_data(run.settings, folder, device, run.seed, Share(0, 1), 0)


def schedule(run):
    return partial(triangular, warmup=run.settings.warmup, start=run.settings.lr_start)
