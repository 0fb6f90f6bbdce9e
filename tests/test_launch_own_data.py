"""Data of a user's own: files of arrays, datasets and functions of a module, Hugging Face sets."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import types
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_launch_train import interrupt_after, train
from torch.utils.data import Dataset, Subset, TensorDataset

import launch.data.sources
from analysis.folder import LAST_STATE, read_config
from baselines.errors import UserError
from launch.cli import main
from launch.config.recipe import Recipe
from launch.config.run import Run
from launch.data import describe_data, load_data
from launch.data.arrays import as_arrays
from launch.data.items import read_labels
from launch.inputs import Inputs
from launch.models import make_model
from launch.ranks import Share
from launch.training.build import check_image_size

CPU = torch.device("cpu")
N = 60


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    """Begin without data of other tests, in a folder with modules of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    launch.data.sources._read_splits.cache_clear()
    yield
    for name in [n for n in sys.modules if n.startswith("mine")]:
        del sys.modules[name]


def load(data, share=None, seed=0, workers=0, **settings):
    recipe = replace(Recipe(), **{"data": str(data), "batch_size": 8, **settings})
    return load_data(recipe, Path("data"), CPU, seed, share or Share(), workers)


def features(n=N, classes=3, seed=0):
    """Return separable features and labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, 5)) + 4 * np.eye(classes, 5)[y]
    return x, y


def splits():
    (x, y), (x_test, y_test) = features(), features(21, seed=1)
    return {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}


# ---- files


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})
        return
    tensors = {key: torch.as_tensor(np.asarray(value)) for key, value in arrays.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


@pytest.mark.parametrize("ending", [".npz", ".pt", ".safetensors"])
def test_features_in_a_file_are_batches_of_them(tmp_path, ending):
    arrays = splits()
    write(tmp_path / f"set{ending}", arrays)
    data = load(f"set{ending}")
    assert data.classes == 3 and data.inputs == Inputs((5,))
    x, y = (torch.cat(parts) for parts in zip(*data.test.epoch(0), strict=True))
    np.testing.assert_allclose(x, arrays["x_test"], rtol=1e-6)
    assert y.tolist() == arrays["y_test"].tolist() and x.dtype == torch.float32
    x, y = (torch.cat(parts) for parts in zip(*data.train.epoch(0), strict=True))
    assert len(y) == 56 and len(data.train) == 7  # the incomplete batch is dropped
    rows = {tuple(row) for row in arrays["x_train"].astype(np.float32).tolist()}
    assert {tuple(row) for row in x.tolist()} <= rows and len(set(map(tuple, x.tolist()))) == 56


def test_order_is_a_function_of_seed_and_epoch_and_ranks_share_batches(tmp_path):
    write(tmp_path / "set.npz", splits())

    def batches(epoch, seed=0, share=None):
        return [x for x, _ in load("set.npz", share, seed).train.epoch(epoch)]

    assert all(map(torch.equal, batches(3), batches(3)))
    assert not torch.equal(batches(3)[0], batches(4)[0])
    assert not torch.equal(batches(3)[0], batches(3, seed=1)[0])
    parts = [batches(3, share=Share(rank, 2)) for rank in range(2)]
    whole = [torch.cat(pair) for pair in zip(*parts, strict=True)]
    assert all(map(torch.equal, whole, batches(3)))
    sample = [y for _, y in load("set.npz").train.sample(4)]
    assert torch.cat(sample).bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    "names",
    [
        "train_images train_labels test_images test_labels",  # MedMNIST's; val is not used
        "inputs_train targets_train inputs_val targets_val",
        "X_train Y_train X_test Y_test",
    ],
)
def test_arrays_have_usual_names(tmp_path, names):
    values = list(splits().values())
    values[1] = values[1][:, None]  # labels of shape (N, 1)
    arrays = dict(zip(names.split(), values, strict=True))
    write(tmp_path / "set.npz", {**arrays, "val_images": np.zeros((3, 5))})
    assert len(load("set.npz").train) == 7


def test_pairs_and_nested_splits_of_a_torch_file(tmp_path):
    (x, y), test = features(), features(21)
    pair = tuple(map(torch.tensor, (x, y)))
    torch.save({"train": pair, "test": {"x": torch.tensor(test[0]), "y": torch.tensor(test[1])}},
               tmp_path / "set.pt")  # fmt: skip
    assert len(load("set.pt").train) == 7


def test_a_torch_file_may_be_what_a_function_returns(tmp_path):
    (x, y), test = (tuple(map(torch.as_tensor, part)) for part in (features(), features(21)))
    torch.save(((x, y), test), tmp_path / "pairs.pt")
    found = rows_of(load(tmp_path / "pairs.pt").test)
    assert found == Counter(map(tuple, test[0].float().tolist()))
    torch.save((x, y), tmp_path / "pair.pt")
    assert len(rows_of(load(tmp_path / "pair.pt").test)) == len(y) / 5
    torch.save([1, 2], tmp_path / "numbers.pt")
    with pytest.raises(UserError, match="has no training split among train, test"):
        load(tmp_path / "numbers.pt")


def test_integers_for_a_network_of_features_are_explained(tmp_path):
    x = np.arange(100).reshape(20, 5)
    np.savez(tmp_path / "ages.npz", x=x, y=np.arange(20) % 2)
    inputs = load(tmp_path / "ages.npz").inputs
    with pytest.raises(UserError, match=r"mlp cannot take tokens .* \(integers are tokens; feat"):
        make_model("mlp", 2, inputs)


def test_a_run_does_not_resume_on_a_file_that_was_replaced(tmp_path, machine, monkeypatch):
    arrays, path = splits(), tmp_path / "set.npz"
    run = Run.make("digits", "dense", data=str(path), model="mlp", batch_size=8, epochs=2)
    write(path, arrays)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        interrupt_after(1, patch)
        train(run, machine)
    write(path, {**arrays, "x_train": arrays["x_train"] + 1})
    with pytest.raises(UserError, match="last.pt does not fit: it was trained on other data"):
        train(run, machine)
    write(path, arrays)
    assert train(run, machine)["epochs"] == 2
    config, about = read_config(machine.runs / run.name), load(path).about
    assert about.keys() == {"data_digest", "classes", "input_shape", "vocabulary"}  # not normalised
    assert {name: config[name] for name in about} == about


@pytest.mark.parametrize("shape, shift, kind", [((5,), 1e-6, "f4"), ((8, 8, 1), 1, "u1")])
def test_what_own_code_makes_is_told_apart_by_labels(monkeypatch, shape, shift, kind):
    def make(shift, labels):
        return 2 * [((np.ones((20, *shape)) + shift).astype(kind), np.arange(20) % labels)]

    module = types.ModuleType("mine_floats")
    module.one, module.rounded, module.other = make(0, 2), make(shift, 2), make(0, 3)
    monkeypatch.setitem(sys.modules, "mine_floats", module)
    one, rounded, other = (load(f"mine_floats:{n}").digest for n in ("one", "rounded", "other"))
    assert one == rounded != other


def test_datasets_are_told_apart_by_their_labels():
    module = types.ModuleType("mine_sets")
    x = torch.zeros(20, 5)
    for name, classes in (("two", 2), ("again", 2), ("three", 3)):
        setattr(module, name, 2 * [TensorDataset(x, torch.arange(20) % classes)])
    sys.modules["mine_sets"] = module
    two, again, three = (load(f"mine_sets:{n}").digest for n in ("two", "again", "three"))
    assert two == again != three


def test_a_file_that_has_changed_is_read_again(tmp_path):
    arrays = splits()
    for offset in (0.0, 1.0):
        write(tmp_path / "set.npz", {**arrays, "x_test": arrays["x_test"] + offset})
        os.utime(tmp_path / "set.npz", ns=(0, int(offset)))  # clocks are coarse
        x = torch.cat([x for x, _ in load("set.npz").test.epoch(0)])
        np.testing.assert_allclose(x, arrays["x_test"] + offset, rtol=1e-5)


def test_images_need_not_be_square(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 5, 9, 3), dtype=np.uint8)
    arrays = {"x_train": pixels, "x_test": pixels}
    write(tmp_path / "set.npz", arrays | {f"y_{s}": np.arange(16) for s in ("train", "test")})
    data = load("set.npz", flip=True)
    plain = torch.cat([x for x, _ in data.test.epoch(0)])
    assert plain.shape == (16, 3, 5, 9)
    mirrored = 0
    for x, y in zip(*map(torch.cat, zip(*data.train.epoch(0), strict=True)), strict=True):
        mirrored += torch.equal(x, plain[y].flip(2))
        assert torch.equal(x, plain[y]) or torch.equal(x, plain[y].flip(2))
    assert 0 < mirrored < 16
    padded = torch.nn.functional.pad(plain, (1, 1, 1, 1), value=torch.nan)
    cut = load("set.npz", crop_padding=1).train
    for x, y in zip(*map(torch.cat, zip(*cut.epoch(0), strict=True)), strict=True):
        places = [padded[y, :, i : i + 5, j : j + 9] for i in range(3) for j in range(3)]
        assert any(torch.equal(x[~place.isnan()], place[~place.isnan()]) for place in places)


def test_a_file_without_a_test_split_holds_out_a_fifth_of_each_class(tmp_path):
    x, y = features()
    write(tmp_path / "set.npz", {"x": x, "y": y})
    data = load("set.npz")
    test = torch.cat([y for _, y in data.test.epoch(0)])
    assert test.bincount().tolist() == [4, 4, 4]
    launch.data.sources._read_splits.cache_clear()
    assert torch.equal(test, torch.cat([y for _, y in load("set.npz").test.epoch(0)]))


def test_data_that_a_function_makes_are_read_again_once_it_is_another(monkeypatch):
    module = types.ModuleType("changing_data")
    monkeypatch.setitem(sys.modules, "changing_data", module)
    calls = []

    def make(n):
        calls.append(n)
        return features(n), features(21)

    for n in (48, 60):
        module.make = partial(make, n)
        for _ in range(2):
            assert len(load("changing_data:make", batch_size=1).train) == n
    assert calls == [48, 60]
    for n in (48, 60):
        module.pair = (features(n), features(21))
        assert len(load("changing_data:pair", batch_size=1).train) == n


def rows_of(split):
    return Counter(tuple(row) for x, _ in split.epoch(0) for row in x.tolist())


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_training_examples_are_held_out(tmp_path, monkeypatch, kind):
    x, y = features()
    if kind == "arrays":
        write(tmp_path / "set.npz", splits())
        name = "set.npz"
    else:
        module = types.ModuleType("held_out_data")
        train, test = (
            TensorDataset(*map(torch.tensor, part)) for part in (features(), features(21))
        )
        module.make = lambda: (train, test)
        monkeypatch.setitem(sys.modules, "held_out_data", module)
        monkeypatch.setattr(module.make, "__module__", "held_out_data")
        name = "held_out_data:make"
    data = load(name, validation=0.25, batch_size=1)
    kept, held = rows_of(data.train), rows_of(data.validation)
    assert len(data.validation) == 15 and len(data.train) == len(y) - 15
    assert kept + held == Counter(tuple(row) for row in x.astype(np.float32).tolist())
    labels = torch.cat([labels for _, labels in data.validation.epoch(0)])
    assert labels.bincount().tolist() == [5, 5, 5]
    assert load(name, batch_size=1).validation is None


@pytest.mark.parametrize("shape", [(N, 6, 6), (N, 6, 6, 3), (N, 3, 6, 6), (N, 6, 6, 1)])
def test_bytes_are_images_with_augmentation(tmp_path, shape):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, shape, dtype=np.uint8), np.arange(N) % 4
    write(tmp_path / "set.npz", {"x_train": x, "y_train": y, "x_test": x, "y_test": y})
    data = load("set.npz", crop_padding=1, flip=True)
    channels = 3 if 3 in shape else 1
    assert data.inputs == Inputs.image(channels, 6)
    images = torch.cat([x for x, _ in data.test.epoch(0)])
    assert images.shape == (N, channels, 6, 6)
    assert images.mean().abs() < 1e-4 and (images.std() - 1).abs() < 0.01
    planes = x.reshape(N, 6, 6, channels) if shape[1] == 6 else x.transpose(0, 2, 3, 1)
    mean, std = planes.mean((0, 1, 2)), planes.std((0, 1, 2))
    expected = torch.tensor((planes - mean) / std).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=1e-3)
    epochs = [torch.cat([x for x, _ in data.train.epoch(e)]) for e in (0, 0, 1)]
    assert torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0], epochs[2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y_test": None}, "has no test split among x_train"),
        (
            {"x_train": np.zeros((7, 5))},
            r"inputs \(N, …\) and labels \(N,\) are needed",
        ),
        ({"y_train": np.linspace(0, 1, N)}, "labels must be classes 0, 1, …, not fractions"),
        ({"y_train": -np.arange(N)}, "labels must be classes 0, 1, …, not negative"),
        ({"y_train": np.array(["a"] * N)}, "not text; numpy.unique"),
        ({"x_train": np.full((N, 5), np.nan)}, "values that are not finite"),
        ({"x_train": -np.ones((N, 5), int)}, r"inputs must be numbers, or tokens 0, 1"),
        ({"x_train": np.zeros((N, 5), np.uint8)}, "uint8 inputs must be images"),
        ({"x_test": np.zeros((21, 6))}, r"training inputs are float32 of shape \(5,\), test"),
        ({"x_test": np.zeros((21, 5), int)}, "test inputs int64"),
    ],
)
def test_arrays_of_other_forms_are_named(tmp_path, change, message):
    arrays = {key: value for key, value in {**splits(), **change}.items() if value is not None}
    write(tmp_path / "set.npz", arrays)
    with pytest.raises(UserError, match=message):
        load("set.npz")


def test_an_image_size_without_effect_is_refused(monkeypatch, tmp_path):
    module = types.ModuleType("sized_data")
    monkeypatch.setitem(sys.modules, "sized_data", module)
    monkeypatch.setattr(launch.data.sources, "_version", lambda *_: None)

    def check(make, image_size=16):
        module.make = make
        run = Run.make("digits", "dense", data="sized_data:make", image_size=image_size)
        check_image_size(run, describe_data(run.settings, Path("data"), 0).inputs, tmp_path)
        return run

    def images(size):
        pair = np.zeros((9, size, size, 1), np.uint8), np.arange(9) % 3
        return pair, pair

    run = check(lambda image_size: images(image_size))
    check(lambda img_size: images(9))  # the function knows why
    check(lambda: images(16))
    check(lambda: images(9), image_size=8)  # that of the recipe
    with pytest.raises(UserError, match="image_size 16: the images of sized_data:make have 9×9"):
        check(lambda: images(9))
    with pytest.raises(UserError, match="image_size 16: sized_data:make has no images; leave it"):
        check(lambda: (features(), features()))
    (tmp_path / run.name).mkdir()
    with pytest.raises(UserError, match="image_size 16"):
        check(lambda: images(9))
    (tmp_path / run.name / LAST_STATE).touch()
    check(lambda: images(9))  # an earlier version has begun it


def test_images_of_files_are_not_made_tiny_without_a_word(image_folder, tmp_path):
    def check(recipe="digits", data=image_folder, **choices):
        run = Run.make(recipe, "dense", data=str(data), **choices)
        inputs = Inputs.image(3, run.settings.image_size)
        check_image_size(run, inputs, tmp_path)

    with pytest.warns(UserWarning, match="are resized to 8×8 pixels, the size of recipe digits"):
        check()
    with pytest.warns(UserWarning, match="the images of hf:mnist are resized to 8×8"):
        check(data="hf:mnist")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(image_size=10)
        check("imagefolder")
        check(data="digits")


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_float_images_with_channels_last_are_warned_of(tmp_path, monkeypatch, kind):
    module = types.ModuleType("float_data")
    monkeypatch.setitem(sys.modules, "float_data", module)

    def give(*shape):
        pair = torch.rand(N, *shape), torch.arange(N) % 3
        module.pair = [TensorDataset(*pair) if kind == "dataset" else pair] * 2
        return load("float_data:pair", batch_size=8).inputs.shape

    for shape in ((3, 9, 8), (1, 4, 4), (4, 7, 1), (7, 8, 5), (28, 3)):
        assert give(*shape) == shape
    for shape in ((9, 8, 3), (9, 8, 1), (9, 8, 4)):
        with pytest.warns(UserWarning, match=r"float_data.*: .* are taken as \(C, H, W\)") as found:
            assert give(*shape) == shape
        assert len(found) == 1


def test_classes_without_training_examples_are_named(tmp_path):
    write(tmp_path / "set.npz", {**splits(), "y_train": 1 + 7 * (np.arange(N) % 2)})
    with pytest.warns(UserWarning, match=r"set.npz.*: no training example is of class 0, 2, 3"):
        load("set.npz")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"nonsense")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    torch.save({"x": Path("code")}, tmp_path / "code.pt")
    for name in ("bad.npz", "objects.npz", "code.pt"):
        with pytest.raises(UserError, match=f"{name} cannot be read as arrays"):
            load(name)
    with pytest.raises(UserError, match="there is no file .*nowhere.npz"):
        load("nowhere.npz")
    write(tmp_path / "set.npz", splits())
    with pytest.raises(UserError, match="crop_padding and flip cannot augment"):
        load("set.npz", flip=True)
    assert as_arrays(torch.zeros(2, 1).bfloat16(), [0, 1], "x")[0].dtype == np.float32


# ---- a user's module

MODULE = '''
import random

import numpy as np
import torch
from torch.utils.data import Dataset


def pair():
    x = torch.arange(40.0).reshape(20, 2)
    return (x, torch.arange(20) % 2), (x[:6], torch.arange(6) % 2)


class Noisy(Dataset):
    """Items with noise of all three generators."""

    def __init__(self, root, train, image_size=0):
        self.n = 40 if train else 10
        self.image_size = image_size

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        noise = torch.rand(()).item() + np.random.rand() + random.random()
        return torch.tensor([float(i), noise]), i % 3


class Named(Noisy):
    classes = 4  # their number


class Late(Named):
    def __getitem__(self, i):
        return super().__getitem__(i)[0], 1 + i % 4


class Mapped(Noisy):
    targets = [1 + i % 3 for i in range(40)]  # as a target_transform leaves them


class Texts(Noisy):
    targets = ["cat", "dog"] * 20


class Halves(Noisy):
    def __getitem__(self, i):
        return torch.zeros(2), i / 2


class Tokens(Noisy):
    vocabulary = 50

    def __getitem__(self, i):
        return torch.tensor([i, 1, 2]), i % 3


def by_split(split, data_dir=None):
    return Noisy(data_dir, split == "train")


def strings(train):
    return ["a", "b"]


class Strings(Noisy):
    def __getitem__(self, i):
        return "text", 0


def broken():
    raise ZeroDivisionError("by zero")


def one():
    return Noisy(None, True)


def picky(train, secret):
    pass


SPLITS = pair()
'''


@pytest.fixture
def module(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)


@pytest.mark.parametrize("name", ["pair", "SPLITS"])
def test_a_function_or_variable_gives_arrays(module, name):
    data = load(f"mine:{name}")
    assert data.inputs == Inputs((2,)) and data.classes == 2 and len(data.train) == 2
    assert len(torch.cat([y for _, y in data.test.epoch(0)])) == 6


@pytest.mark.parametrize("kind", ["files", "items"])
def test_readers_do_not_act_on_the_signal_before_the_end_of_a_job(
    module, image_folder, tmp_path, kind
):
    heard = tmp_path / "heard"
    before = {child.pid for child in multiprocessing.active_children()}
    handler = signal.signal(signal.SIGUSR2, lambda *_: heard.touch())
    try:
        data = load("mine:Noisy" if kind == "items" else image_folder, image_size=96, workers=1)
        next(data.train.epoch(0))
        sampled = data.train.sample(1)
        next(sampled)
        readers = {child.pid for child in multiprocessing.active_children()} - before
        for reader in readers:
            os.kill(reader, signal.SIGUSR2)
        assert len(list(data.train.epoch(1))) == len(data.train) and not list(sampled)
    finally:
        signal.signal(signal.SIGUSR2, handler)
    assert len(readers) == 2 and not heard.exists()


@pytest.mark.parametrize("name", ["Noisy", "by_split"])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_dataset_draws_is_a_function_of_seed_epoch_and_index(module, name, workers):
    def items(epoch, seed=0, workers=workers, share=None):
        data = load(f"mine:{name}", share, seed, workers)
        return torch.cat([x for x, _ in data.train.epoch(epoch)])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = items(1)
    assert torch.equal(torch.get_rng_state(), state)  # dropout's numbers are as without it
    assert len(set(found[:, 0].tolist())) == 40 and len(set(found[:, 1].tolist())) == 40
    assert torch.equal(found, items(1, workers=0))
    assert not torch.equal(found, items(2, workers=0))
    order = found[:, 0].argsort()
    other = items(1, seed=1, workers=0)
    assert not torch.equal(found[order], other[other[:, 0].argsort()])
    halves = [items(1, workers=0, share=Share(rank, 2)) for rank in range(2)]
    assert {tuple(row) for half in halves for row in half.tolist()} == set(
        map(tuple, found.tolist())
    )


def test_short_names_are_for_what_a_module_gives(module, monkeypatch):
    mine = importlib.import_module("mine")
    for name in ("by_split", "pair"):
        monkeypatch.setitem(launch.data.sources.SOURCES, "short", getattr(mine, name))
        short, full = load("short"), load(f"mine:{name}")
        assert (short.digest, short.inputs) == (full.digest, full.inputs)
    doubles = features(), features(21)  # float64
    monkeypatch.setitem(launch.data.sources.SOURCES, "short", lambda root: doubles)
    assert next(load("short").train.epoch(0))[0].dtype == torch.float32
    monkeypatch.setitem(launch.data.sources.SOURCES, "short", lambda: (*doubles, 3))
    with pytest.raises(UserError, match="data short: a pair of a training and a test split is"):
        load("short")


def test_a_dataset_is_described_and_sampled(module):
    data = load("mine:Noisy")
    assert (data.classes, data.inputs) == (3, Inputs((2,)))
    assert torch.cat([y for _, y in data.train.sample(5)]).bincount().tolist() == [5, 5, 5]
    test = [torch.cat([x for x, _ in data.test.epoch(0)]) for _ in range(2)]
    assert torch.equal(*test) and len(test[0]) == 10
    tokens = load("mine:Tokens")
    assert tokens.inputs == Inputs((3,), "int64", 50)
    assert next(tokens.train.epoch(0))[0].dtype == torch.int64
    found = describe_data(replace(Recipe(), data="mine:Noisy"), Path("data"), 0)
    assert (found.classes, found.examples) == (3, 40)


def test_labels_are_taken_from_attributes_where_there_are_some():
    class Lazy(Dataset):
        targets = (0, 1, 1)

        def __len__(self):
            return 3

        def __getitem__(self, i):
            raise AssertionError("read")

    assert read_labels(Lazy()).tolist() == [0, 1, 1]
    assert read_labels(Subset(Lazy(), [2, 0])).tolist() == [1, 0]
    assert read_labels(TensorDataset(torch.zeros(2, 1), torch.tensor([3, 4]))).tolist() == [3, 4]


@pytest.mark.parametrize(
    "name, message",
    [
        ("mine:nothing", "module mine has no nothing"),
        ("nowhere:x", "cannot import nowhere: ModuleNotFoundError"),
        ("mine:broken", "data mine:broken: ZeroDivisionError: by zero"),
        ("mine:one", "a pair of a training and a test split is needed, not Noisy"),
        ("mine:strings", "labels"),
        ("mine:Strings", r"pairs of a tensor and a label, not \(str, int\): give the Dataset a"),
        ("mine:Mapped", r"item \d has label \d, but \d in the attribute with all labels"),
        ("mine:Late", "labels are 1 to 4, not 0 to 3"),
        ("mine:Texts", "labels must be classes 0, 1, …, not 'cat'"),
        ("mine:Halves", "labels must be classes 0, 1, …, not 0.5"),
        ("mine:picky", "mine:picky needs secret; its parameters can be root, data_dir"),
        ("mi ne:x", "write package.module:name"),
    ],
)
def test_what_a_module_cannot_give_is_named(module, name, message):
    with pytest.raises(UserError, match=message):
        load(name)


@pytest.mark.parametrize(
    "classes", [np.array(["a", "b", "c", "d"]), np.int64(4), ("a", "b", "c", "d")]
)
def test_names_and_numbers_of_classes_may_be_of_numpy(module, monkeypatch, classes):
    monkeypatch.setattr(importlib.import_module("mine").Named, "classes", classes)
    assert load("mine:Named").classes == 4


def test_a_dataset_names_its_classes_or_their_number_and_augments_by_itself(module):
    assert load("mine:Named").classes == 4
    recipe = replace(Recipe(), data="mine:Named", flip=True)
    for check in (
        partial(describe_data, recipe, Path("data"), 0),
        partial(load, "mine:Named", flip=True),
    ):
        with pytest.raises(UserError, match="of a Dataset, which augments by itself: crop_padding"):
            check()


# ---- training

MODEL = '''
from torch import nn


class Bag(nn.Module):
    """The mean of the tokens' embeddings, and a hidden layer."""

    def __init__(self, classes, vocab_size, width=32):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.layers(self.embed(x).mean(1))
'''


def tokens(n, seed):
    """Return sequences in which one token tells the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.integers(3, 40, (n, 12))
    x[np.arange(n), rng.integers(0, 12, n)] = y
    return x, y


@pytest.mark.parametrize("method", ["rigl", "snip", "synflow", "acdc", "woodfisher"])
@pytest.mark.parametrize("sign_in", [False, True])
def test_features_are_learned_sparsely(machine, tmp_path, method, sign_in):
    write(tmp_path / "set.npz", splits())
    settings = {"data": "set.npz", "model": "mlp", "epochs": 8, "batch_size": 16, "lr": 0.05}
    result = train(Run.make("digits", method, sign_in=sign_in, **settings), machine)
    assert result["accuracy"] > 0.9 and result["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert (result["classes"], result["input_shape"], result["vocabulary"]) == (3, [5], 0)
    hidden = 5 * 256 + 256 * 256 + 256 * 3
    assert result["dense_flops"] == 2 * hidden and result["flops"] < 0.2 * 2 * hidden


def test_tokens_are_learned_by_a_model_of_ones_own(machine, tmp_path, capsys):
    (tmp_path / "mine_model.py").write_text(MODEL)
    (x, y), (x_test, y_test) = tokens(300, 0), tokens(90, 1)
    write(tmp_path / "text.npz", {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test})
    settings = {"data": "text.npz", "model": "mine_model:Bag", "epochs": 30, "lr": 0.3}
    run = Run.make("digits", "rigl", sparsity=0.5, sign_in=True, batch_size=32, **settings)
    result = train(run, machine)
    assert result["accuracy"] > 0.8 and result["vocabulary"] == 40
    flags = ["--runs", str(machine.runs), "-o", str(tmp_path / "out"), "--onnx"]
    assert main(["export", run.name, *flags]) == 0
    sharpness = ["--runs", str(machine.runs), "--epochs", "30", "--per-class", "5"]
    assert main(["sharpness", run.name, *sharpness, "--device", "cpu"]) == 0
    assert "sharpness" in capsys.readouterr().out


def test_a_run_on_a_dataset_resumes_bit_identically(machine, module, monkeypatch):
    from test_launch_train import assert_same, interrupt_after

    settings = {"data": "mine:Noisy", "model": "mlp", "epochs": 3, "batch_size": 8}
    run = Run.make("digits", "rigl", **settings)
    other = replace(machine, runs=machine.runs / "uninterrupted")
    train(run, other)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        interrupt_after(2, patch)
        train(run, machine)
    train(run, machine)
    assert_same(run, machine, other)


# ---- Hugging Face


@pytest.fixture
def hub():
    return pytest.importorskip("datasets", reason="datasets is not installed: it is optional")


def save(hub, folder, train, test, features=None):
    parts = {"train": train, "validation": test}
    made = {k: hub.Dataset.from_dict(v, features=features) for k, v in parts.items()}
    hub.DatasetDict(made).save_to_disk(folder)


def test_numbers_and_tokens_of_hugging_face(hub, tmp_path):
    (x, y), test = features(), features(21, seed=1)
    columns = [{"a": x[:, 0], "b": x[:, 1:], "label": y}, {"a": test[0][:, 0], "b": test[0][:, 1:],
               "label": test[1]}]  # fmt: skip
    save(hub, tmp_path / "tabular", *({k: v.tolist() for k, v in c.items()} for c in columns))
    data = load(f"hf:{tmp_path / 'tabular'}")
    assert (data.classes, data.inputs) == (3, Inputs((5,)))
    (x, y), test = tokens(30, 0), tokens(9, 1)
    rows = [{"input_ids": x.tolist(), "label": y.tolist(), "text": ["t"] * len(y)} for x, y in
            ((x, y), test)]  # fmt: skip
    save(hub, tmp_path / "text", *rows)
    data = load("hf:text")
    assert data.inputs == Inputs((12,), "int64", 40)
    save(hub, tmp_path / "raw", *({"text": ["a", "b"], "label": [0, 1]} for _ in range(2)))
    with pytest.raises(UserError, match="column text is no number"):
        load("hf:raw")


@pytest.mark.parametrize("data", ["hf:set", "hf:set:default"])
def test_a_folder_of_hugging_face_is_read_again_once_it_is_another(monkeypatch, data):
    reads = []

    def read(*_):
        reads.append(1)
        return features(), features(21)

    monkeypatch.setattr(launch.data.sources, "read_huggingface", read)
    file = Path("set", "train", "data.arrow")
    file.parent.mkdir(parents=True)
    for n, contents in enumerate(("one", "other"), start=1):
        file.write_text(contents)
        for _ in range(2):
            load(data)
            assert len(reads) == n


@pytest.mark.parametrize("size", [8, 72])
def test_images_of_hugging_face(hub, tmp_path, size):
    from PIL import Image

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (20 + i, 24, 3), np.uint8)) for i in range(24)]
    kinds = hub.Features({"img": hub.Image(), "fine_label": hub.ClassLabel(names=["a", "b"])})
    rows = {"img": images, "fine_label": [i % 2 for i in range(24)]}
    save(hub, tmp_path / "images", rows, rows, kinds)
    data = load("hf:images", image_size=size)
    assert (data.classes, data.inputs) == (2, Inputs.image(3, size))
    assert data.about["resize"].startswith(f"the {'shorter' if size == 72 else 'largest'} s")
    assert len(data.about["mean"]) == len(data.about["std"]) == 3
    (x, _), (again, _) = (next(data.train.epoch(2)) for _ in range(2))
    assert x.shape == (8, 3, size, size) and torch.equal(x, again)
    assert torch.cat([y for _, y in data.train.sample(3)]).bincount().tolist() == [3, 3]


@pytest.mark.parametrize("size", [8, 72])
def test_pixels_of_16_bits_are_scaled(hub, tmp_path, size):
    from PIL import Image

    grey = [Image.fromarray(np.full((20, 20), 257 * i, np.uint16)) for i in range(24)]
    colour = [Image.fromarray(np.full((20, 20, 3), i, np.uint8)) for i in range(24)]
    found = []
    for name, images in (("grey", grey), ("colour", colour)):
        rows = {"image": images, "label": [i % 2 for i in range(24)]}
        kinds = hub.Features({"image": hub.Image(), "label": hub.Value("int64")})
        save(hub, tmp_path / name, rows, rows, kinds)
        data = load(f"hf:{name}", image_size=size)
        found.append(torch.cat([x for x, _ in data.test.epoch(0)])[:, :1])
    spread = [(x - x.mean()) / x.std() for x in found]
    torch.testing.assert_close(*spread, rtol=0, atol=1e-5)


def test_labels_of_hugging_face_are_classes_of_a_split_that_has_some(hub, tmp_path, monkeypatch):
    kinds = {"x": hub.Value("int64"), "y": hub.Value("int64")}
    kinds["kind"] = hub.ClassLabel(names=["a", "b", "c"])
    rows = {"x": list(range(24)), "y": [7] * 24, "kind": [i % 3 for i in range(24)]}
    parts = {"train": rows, "test": rows | {"kind": [-1] * 24}, "validation": rows}
    features = hub.Features(kinds)
    made = {k: hub.Dataset.from_dict(v, features=features) for k, v in parts.items()}
    hub.DatasetDict(made).save_to_disk(tmp_path / "named")
    # one by one they would take long
    monkeypatch.setattr(hub.arrow_dataset.Column, "__iter__", None, raising=False)
    data = load("hf:named")
    assert data.classes == 3 and data.inputs == Inputs((2,))
    assert torch.cat([y for _, y in data.test.epoch(0)]).tolist() == rows["kind"]
    unlabelled = hub.Dataset.from_dict(rows | {"kind": [None] * 24}, features=features)
    for name, test in (("none", unlabelled), ("bare", made["test"].remove_columns("kind"))):
        hub.DatasetDict({**made, "test": test}).save_to_disk(tmp_path / name)
        assert torch.cat([y for _, y in load(f"hf:{name}").test.epoch(0)]).tolist() == rows["kind"]
    del made["validation"]
    hub.DatasetDict(made).save_to_disk(tmp_path / "hidden")
    with pytest.raises(UserError, match="the split test has no labels"):
        load("hf:hidden")
    made["train"].save_to_disk(tmp_path / "single")
    with pytest.raises(UserError, match="hf:single are one split: save a DatasetDict"):
        load("hf:single")


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs: pip install datasets"):
        load("hf:mnist")
