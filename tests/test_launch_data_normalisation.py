"""Normalisation by the constants of timm's pretrained models: numbers, refusals and warnings."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from test_launch_own_data import hub, save  # noqa: F401  # hub is a fixture
from test_launch_train import train

from baselines.errors import UserError
from launch.cli import main
from launch.config.machine import Machine
from launch.config.recipe import Recipe
from launch.config.run import Run
from launch.data import load_data
from launch.data.augment import Normalise
from launch.data.normalisation import constants_of_model, warn_of_constants
from launch.ranks import Share
from launch.runs.reading import read_run
from launch.training.check import check_runs

HALF = "test_resnet"  # timm's, with 0.5 for all
IMAGENET = "resnet18"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def recipe_of(data, **settings):
    settings = {"model": HALF, "batch_size": 4, "normalise": "model", **settings}
    return replace(Recipe(), data=str(data), **settings)


def load(recipe):
    return load_data(recipe, Path("data"), CPU, 0, Share(), 0)


def write_images(path, channels=3):
    """Write 12 images of 32×32 pixels of two classes; return those of the test split."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 32, 32, channels), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(12) % 2, x_test=x, y_test=np.arange(12) % 2)
    return x


def test_models_of_timm_have_their_own_constants():
    half, imagenet = (constants_of_model(name) for name in (f"{HALF}.r160_in1k", IMAGENET))
    assert [x.tolist() for x in half] == [[0.5] * 3] * 2
    assert imagenet[0].tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert imagenet[1].tolist() == pytest.approx([0.229, 0.224, 0.225])
    # of the suite, of one's own, without weights, without a configuration, with no such tag
    assert not timm.models.get_pretrained_cfg("test_mambaout").has_weights
    for name in ("resnet50", "mine:Net", "test_mambaout", "nothing", "resnet18.nothing"):
        assert constants_of_model(name) is None


def test_only_runs_with_constants_of_the_model_have_new_names(machine):
    plain, same, other = (
        Run.make("imagefolder", "dense", **choices)
        for choices in ({}, {"normalise": "data"}, {"normalise": "model"})
    )
    assert plain.name == same.name == "imagefolder-dense-seed0-309ad468"
    assert other.name != plain.name and other.conditions != plain.conditions
    assert plain.differences() == {k: v for k, v in other.differences().items() if "norm" not in k}


def test_small_images_of_a_file(tmp_path):
    x = write_images(tmp_path / "a.npz")
    data = load(recipe_of("a.npz", image_size=32))
    found = torch.cat([images for images, _ in data.test.epoch(0)])
    expected = (torch.from_numpy(x).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert data.about["mean"] == data.about["std"] == [0.5] * 3
    own = load(recipe_of("a.npz", image_size=32, normalise="data")).about["mean"]
    assert own == pytest.approx((x / 255).mean((0, 1, 2)))


def both(recipe):
    """Return the test images, and the same normalised by 0.5 by hand."""
    half, data = (load(r) for r in (recipe, replace(recipe, normalise="data")))
    x, other = (torch.cat([x for x, _ in d.test.epoch(0)]) for d in (half, data))
    mean, std = (torch.tensor(data.about[name])[:, None, None] for name in ("mean", "std"))
    assert half.about["mean"] == [0.5] * 3 and half.about["resize"] == data.about["resize"]
    (first, _), (again, _) = (next(d.train.sample(2)) for d in (half, data))
    torch.testing.assert_close(first, (again * std + mean - 0.5) / 0.5, rtol=0, atol=1e-5)
    return x, (other * std + mean - 0.5) / 0.5


@pytest.mark.parametrize("size", [16, 96])
def test_images_of_a_folder(image_folder, size):
    found, expected = both(recipe_of(image_folder, image_size=size))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("validation", [0.0, 0.5])
def test_large_images_of_hugging_face(hub, tmp_path, validation):  # noqa: F811
    from PIL import Image

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)) for _ in range(12)]
    kinds = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=["a", "b"])})
    rows = {"image": images, "label": [i % 2 for i in range(12)]}
    save(hub, tmp_path / "images", rows, rows, kinds)
    found, expected = both(recipe_of("hf:images", image_size=72, validation=validation))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


OWN = """
import torch
from torch.utils.data import TensorDataset

def floats():
    split = TensorDataset(torch.rand(8, 3, 8, 8), torch.arange(8) % 2)
    return split, split
"""


@pytest.mark.parametrize(
    "data, choices, message",
    [
        ("digits", {"model": "digits-cnn"}, "timm has no pretrained configuration of digits-cnn"),
        ("a.npz", {"model": "resnet50"}, "timm has no pretrained configuration of resnet50; use"),
        (
            "a.npz",
            {"model": "test_mambaout"},
            "has no pretrained configuration of test_mambaout",
        ),
        ("digits", {}, f"{HALF} has constants of 3 channels, and the images have 1; use"),
        ("normalised:floats", {}, "data normalised:floats are not normalised; use --normalise"),
        ("f.npz", {}, "data f.npz are not normalised; use --normalise data"),
    ],
)
def test_what_cannot_be_normalised_so_is_refused(tmp_path, machine, data, choices, message):
    write_images(tmp_path / "a.npz")
    np.savez(tmp_path / "f.npz", x=np.random.rand(20, 3, 8, 8), y=np.arange(20) % 2)
    (tmp_path / "normalised.py").write_text(OWN)
    settings = {"image_size": 8, "batch_size": 4, "model": HALF, **choices}
    run = Run.make("digits", "dense", data=data, normalise="model", **settings)
    machine = replace(machine, data_dir=tmp_path)
    for check in (partial(load, run.settings), partial(check_runs, [run], machine)):
        with pytest.raises(UserError, match=message):
            check()


def test_other_constants_than_those_of_a_checkpoint_are_warned_of():
    half = Normalise(torch.full((3,), 0.5), torch.full((3,), 0.5), 8)
    with pytest.warns(UserWarning, match=r"a.pt: images are normalised by mean 0.5, 0.5, 0.5 and "):
        warn_of_constants("a.pt", IMAGENET, half)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_constants("a.pt", HALF, half)
        warn_of_constants("a.pt", "resnet50", half)
        warn_of_constants("a.pt", IMAGENET, None)
        warn_of_constants("a.pt", IMAGENET, Normalise(torch.ones(1), torch.ones(1), 8))


def test_runs_and_barriers_follow_it_and_warn(tmp_path, machine: Machine, capsys):
    write_images(tmp_path / "a.npz")
    torch.save(timm.create_model(HALF, num_classes=2).state_dict(), "theirs.pt")
    shared = {
        "data": "a.npz",
        "model": HALF,
        "batch_size": 4,
        "epochs": 1,
        "sparsity": 0.5,
        "finetune": False,
    }
    make = partial(Run.make, "digits", "oneshot", init_from="theirs.pt", **shared)
    machine = replace(machine, data_dir=tmp_path)
    plain, half = make(), make(normalise="model")
    with pytest.warns(UserWarning, match="theirs.pt: images are normalised by .* Give --normalise"):
        train(plain, machine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(half, machine)
    assert not [w for w in caught if "normalised" in str(w.message)]
    assert read_run(machine.runs / half.name) == half
    with pytest.warns(UserWarning, match=f"{half.name}@final has --normalise model, this run data"):
        train(make(init_from=half.name), machine)
    flags = ["--points", "3", "--runs", str(machine.runs), "--device", "cpu", "--threads", "1"]
    flags += ["--data-dir", str(tmp_path)]
    with pytest.warns(UserWarning, match="theirs.pt: images are normalised by"):
        assert main(["barrier", plain.name, "theirs.pt", *flags]) == 0
    capsys.readouterr()
    assert main(["barrier", plain.name, half.name, *flags]) == 2
    assert "the runs differ in normalise: data and model" in capsys.readouterr().err
