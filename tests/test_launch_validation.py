"""Held-out training images: which they are, and that nothing is trained on them."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from test_launch_data import load, small
from test_launch_train import interrupt_after, train

from analysis.folder import read_epochs
from baselines.errors import UserError
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.data.order import hold_out
from launch.runs.reading import load_network
from launch.runs.snapshots import read_source
from launch.training.build import check_held_out
from launch.training.check import check_sources


@pytest.mark.parametrize("fraction", [0.1, 0.25, 1 / 3])
def test_each_class_gives_its_share(fraction):
    labels = np.repeat([0, 1, 2, 5], [100, 37, 9, 1])
    np.random.default_rng(0).shuffle(labels)
    kept, held = hold_out(labels, fraction)
    assert sorted([*kept, *held]) == list(range(147))
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    found = Counter(labels[held].tolist())
    for label, n in ((0, 100), (1, 37), (2, 9)):
        assert abs(found[label] - fraction * n) < 1
    assert abs(len(held) - fraction * 147) <= 1
    assert found[5] == 0  # its only image is trained on


def test_a_larger_fraction_holds_out_what_a_smaller_one_does():
    labels = np.arange(200) % 4
    small, again, large = (hold_out(labels, part)[1].tolist() for part in (0.2, 0.2, 0.3))
    assert small == again and set(small) < set(large)
    assert abs(np.mean(small) - 99.5) < 30  # not the first or the last ones
    with pytest.raises(UserError, match=r"validation 0.001 of 200 images holds out none"):
        hold_out(labels, 0.001)


def test_runs_of_all_seeds_hold_out_the_same_images():
    """A mask of one seed is trained with another."""
    recipe = replace(RECIPES["digits"], validation=0.1)
    one, other = (load(recipe, seed=seed).validation for seed in (0, 1000))
    assert rows_of(one) == rows_of(other)


def test_a_source_must_not_be_trained_on_held_out_images(tmp_path):
    def check(own, others, **data):
        base = Run.make("digits", "rigl", validation=others, **data)
        source = f"{base.name}@{'init' if at_init else 'final'}"
        run = Run.make("digits", "fixed", mask=source, validation=own, seed=1000)
        check_sources(run, {base.name: base}, tmp_path, elsewhere=False)

    for at_init in (False, True):
        for own, others in ((0.0, 0.0), (0.0, 0.2), (0.1, 0.1), (0.1, 0.2)):
            check(own, others)
        check(0.2, 0.1, data="other.npz")
        if at_init:
            check(0.2, 0.1)
            continue
        for own, others in ((0.1, 0.0), (0.2, 0.1)):
            what = rf"@final was trained with validation {others:g}, on images that this run holds"
            with pytest.raises(UserError, match=what):
                check(own, others)


def rows_of(batches, epoch=0):
    return Counter(x.numpy().round(4).tobytes() for xs, _ in batches.epoch(epoch) for x in xs)


def test_digits_are_trained_on_or_held_out():
    """Not normalised alike: the mean is that of the images to train on."""
    whole = load(RECIPES["digits"])
    recipe = replace(RECIPES["digits"], validation=0.1, batch_size=1)
    data = load(recipe)
    assert whole.validation is None and len(data.splits) == 3
    assert (len(data.train), len(data.validation), len(data.test)) == (1078, 120, 599)
    train, held = (
        torch.cat([x for x, _ in split.epoch(0)]) for split in (data.train, data.validation)
    )
    everything = torch.cat([x for x, _ in load(replace(recipe, validation=0.0)).train.epoch(0)])
    assert abs(float(train.mean())) < 1e-4 < abs(float(held.mean()))

    def pixels(x):
        """Undo the normalisation, up to the factor and shift that the first image shows."""
        low, high = x.amin(), x.amax()  # every set has black and white pixels
        return ((x - low) / (high - low) * 255).round().to(torch.uint8).flatten(1)

    def rows(x):
        return Counter(row.numpy().tobytes() for row in pixels(x))

    assert rows(train) + rows(held) == rows(everything)
    labels = torch.cat([y for _, y in data.validation.epoch(0)]).bincount()
    assert labels.tolist() == pytest.approx([12] * 10, abs=1)


@pytest.mark.parametrize("size", [32, 96])
def test_images_of_a_folder_are_held_out(image_folder, size):
    data = load(small(image_folder, image_size=size, validation=0.25))
    held = torch.cat([y for _, y in data.validation.epoch(0)])
    assert held.tolist() == [0, 0, 1, 1, 2, 2] and len(data.train) == 4
    first, again = ([x for x, _ in data.validation.epoch(e)] for e in (0, 1))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))  # no augmentation
    other = load(small(image_folder, image_size=size, validation=0.25), seed=1)
    assert rows_of(other.validation) == rows_of(data.validation)


def test_a_run_records_validation_and_test(machine, monkeypatch):
    run = Run.make("digits", "random", validation=0.1, epochs=2, seed=1)
    folder = machine.runs / run.name
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        interrupt_after(1, patch)
        train(run, machine)
    result = train(run, machine)
    rows = read_epochs(folder)
    assert result["validation_accuracy"] == rows[-1]["validation_accuracy"]
    assert result["accuracy"] == rows[-1]["test_accuracy"]
    data = load(run.settings, seed=run.seed)
    snapshot = read_source(f"{run.name}@final", machine.runs)
    net = load_network(run, snapshot, data.classes, data.inputs, torch.device("cpu"))
    hits = sum(int((net.model(x).argmax(1) == y).sum()) for x, y in data.validation.epoch(0))
    assert Fraction(hits, 120) == Fraction(result["validation_accuracy"]).limit_denominator(1000)
    for fraction, fits in ((0.1, True), (0.2, False)):
        later = Run.make("digits", "oneshot", init_from=run.name, validation=fraction)
        with nullcontext() if fits else pytest.raises(UserError, match="holds out"):
            check_held_out(later, f"{run.name}@final", machine.runs)
    check_held_out(later, f"{folder}/snapshots/epoch-0.safetensors", machine.runs)
    assert "validation_accuracy" not in train(Run.make("digits", "random", epochs=1), machine)
    assert run.name != Run.make("digits", "random", epochs=2).name


def test_values_that_are_not_allowed_are_named():
    for value in (1.0, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"validation must be in \[0, 1\)"):
            Run.make("digits", "random", validation=value)
