"""Data: functions of (seed, epoch), slices of one global batch, and errors that name the file."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from needs import needs_fashion_mnist
from PIL import Image, ImageOps
from test_launch_train import train
from torchvision import datasets
from torchvision.transforms.v2 import functional as F

import launch.data.images
import launch.data.sources
from baselines.errors import UserError
from launch.config.recipes import RECIPES
from launch.config.run import Run
from launch.data import load_data
from launch.data.augment import Normalise
from launch.data.images import read_image, scan
from launch.data.load import describe_data
from launch.data.order import mix
from launch.data.resident import Resident, pixel_statistics
from launch.inputs import Inputs
from launch.ranks import Share

CPU = torch.device("cpu")


def load(recipe, root=None, seed=0, share=None, workers=0):
    root = Path(recipe.data).parent / "cache" if root is None else root
    return load_data(recipe, Path(root), CPU, seed, share or Share(), workers)


def resident(n=50, batch_size=8, seed=0, share=None, **augmentation):
    images = np.arange(n * 6 * 6 * 3, dtype=np.int64).reshape(n, 6, 6, 3) * 7 % 251
    labels = np.arange(n)
    return Resident(
        images.astype(np.uint8),
        labels,
        batch_size,
        CPU,
        seed,
        share,
        Normalise(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4]), 6),
        shuffle=True,
        **augmentation,
    )


def images_of(n=50):
    values = np.arange(n * 6 * 6 * 3, dtype=np.int64).reshape(n, 6, 6, 3) * 7 % 251
    return values.astype(np.uint8)


def test_images_are_normalised_by_all_pixels():
    """Also those of large sets, where every second pixel would be of the same columns."""
    images = np.zeros((26_000, 28, 28, 2), np.uint8)
    images[:, :, 1::2, 0] = 255
    images[:, :, :, 1] = 51
    mean, std = pixel_statistics(images)
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.2]), rtol=1e-6, atol=0)
    torch.testing.assert_close(std, torch.tensor([0.5, 0.0]), rtol=1e-6, atol=1e-9)
    few = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    for found, exact in zip(
        pixel_statistics(few), (few.mean((0, 1, 2)), few.std((0, 1, 2), ddof=1)), strict=True
    ):
        np.testing.assert_allclose(found, exact / 255, rtol=1e-6)


def test_augmentation_equals_slow_crops_and_flips():
    data = resident(padding=2, flip=True)
    generator = torch.Generator().manual_seed(mix(0, 3))
    order = torch.randperm(50, generator=generator)
    corner = torch.randint(5, (50, 2), generator=generator)
    mirror = torch.randint(2, (50,), generator=generator, dtype=torch.bool)
    at = 0
    for x, y in data.epoch(3):
        for image, label in zip(x, y, strict=True):
            source = images_of()[order[at]]
            assert int(label) == int(order[at])
            padded = np.pad(source, ((2, 2), (2, 2), (0, 0)))
            top, left = corner[at].tolist()
            crop = padded[top : top + 6, left : left + 6]
            crop = crop[:, ::-1] if mirror[at] else crop
            expected = (crop / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
            np.testing.assert_allclose(image.permute(1, 2, 0), expected, rtol=1e-4, atol=1e-5)
            at += 1
    assert at == 48 == 8 * len(data)


def test_order_and_augmentation_are_functions_of_seed_and_epoch():
    def first(seed, epoch):
        return next(resident(seed=seed, padding=2, flip=True).epoch(epoch))[0]

    data = resident(padding=2, flip=True)
    for _ in data.epoch(0):  # what was read before does not matter
        pass
    assert torch.equal(next(data.epoch(5))[0], first(0, 5))
    assert not torch.equal(first(0, 5), first(0, 6))
    assert not torch.equal(first(0, 5), first(1, 5))


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_batches_together_are_the_single_batch(world):
    whole = list(resident(padding=1, flip=True).epoch(2))
    parts = [
        list(resident(padding=1, flip=True, share=Share(rank, world)).epoch(2))
        for rank in range(world)
    ]
    for i, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([part[i][0] for part in parts]), x)
        assert torch.equal(torch.cat([part[i][1] for part in parts]), y)


def test_digits_are_split_and_normalised():
    data = load(RECIPES["digits"])
    x = torch.cat([x for x, _ in data.train.epoch(0)])
    assert x.shape[1:] == (1, 8, 8) and data.classes == 10
    assert x.mean().abs() < 0.05 and (x.std() - 1).abs() < 0.05
    labels = torch.cat([labels for _, labels in data.test.epoch(0)])
    assert len(labels) == 599 and labels.bincount().min() > 50


def test_the_digits_and_their_split_are_those_of_scikit_learn(tmp_path):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8, 1) * 255 / 16).round()
    split = train_test_split(images, y, test_size=1 / 3, stratify=y, random_state=0)
    (x, y), (x_test, y_test), classes = launch.data.sources.SOURCES["digits"](tmp_path)
    for found, expected in zip((x, x_test, y, y_test), split, strict=True):
        assert np.array_equal(found, expected)
    assert classes == 10


def refuse(*_args, **_kwargs):
    raise OSError("no route to host")


def test_cifar_is_read_through_torchvision(tmp_path, monkeypatch):
    base = tmp_path / datasets.CIFAR10.base_folder
    rng = np.random.default_rng(0)
    files, lists = {}, {"train_list": [], "test_list": []}
    for key, names in (("train_list", ("data_batch_1",)), ("test_list", ("test_batch",))):
        for name in names:
            entry = {
                "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
                "labels": list(range(10)) * 2,
            }
            files[name] = entry
            lists[key].append([name, None])
    files["batches.meta"] = {"label_names": list("abcdefghij")}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", lists["train_list"])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", lists["test_list"])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)

    def download(self):  # no other process does, meanwhile
        with pytest.raises(Timeout), FileLock(tmp_path / ".CIFAR10.lock", timeout=0):
            pass
        base.mkdir(exist_ok=True)
        for name, entry in files.items():
            (base / name).write_bytes(pickle.dumps(entry))

    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    recipe = replace(RECIPES["cifar10-resnet20"], batch_size=10)
    data = load(recipe, tmp_path)
    assert (len(data.train), data.classes, data.inputs) == (2, 10, Inputs.image(3, 32))
    assert next(data.train.epoch(0))[0].shape == (10, 3, 32, 32)

    launch.data.sources._read_splits.cache_clear()
    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)  # as in a folder of another user
    monkeypatch.setattr(launch.data.sources, "FileLock", refuse)
    again = load(recipe, tmp_path)
    assert torch.equal(next(again.train.epoch(0))[0], next(data.train.epoch(0))[0])


def write_fashion_mnist(folder, train=20, test=10, suffix=""):
    """Write files in the format of Fashion-MNIST: random images, with the ten labels in turn."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, n in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            header = np.array([0x800 + array.ndim, *array.shape], dtype=">i4").tobytes()
            content = header + array.tobytes()
            file = folder / f"{split}-{kind}-idx{array.ndim}-ubyte{suffix}"
            file.write_bytes(gzip.compress(content) if suffix else content)


def test_fashion_mnist_is_alike_from_torchvision_and_from_debian(tmp_path, monkeypatch):
    recipe = replace(RECIPES["fashion"], batch_size=10)
    monkeypatch.setattr(launch.data.sources, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    write_fashion_mnist(tmp_path / "FashionMNIST" / "raw")
    data = load(recipe, tmp_path)
    launch.data.sources._read_splits.cache_clear()
    write_fashion_mnist(tmp_path / "debian", suffix=".gz")
    debian = load(recipe, tmp_path / "elsewhere")
    assert (len(data.train), len(data.test), data.classes, data.inputs.shape[0]) == (2, 1, 10, 1)
    for split in ("train", "test"):
        for one, other in zip(
            getattr(data, split).epoch(0), getattr(debian, split).epoch(0), strict=True
        ):
            assert one[0].shape == (10, 1, 28, 28)
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_damaged_archive_of_fashion_mnist_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(launch.data.sources, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    write_fashion_mnist(tmp_path / "debian", suffix=".gz")
    archive = tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:-12])
    with pytest.raises(UserError, match="cannot read .*t10k-labels"):
        load(RECIPES["fashion"], tmp_path)


@needs_fashion_mnist
def test_a_run_on_the_real_fashion_mnist(machine):
    result = train(Run.make("fashion", "random", sparsity=0.9, epochs=1), machine)
    assert result["accuracy"] > 0.7


@pytest.mark.parametrize("size", [32, 96])
def test_image_folders_are_told_apart_by_the_names_of_their_files(image_folder, tmp_path, size):
    recipe = replace(RECIPES["digits"], data=str(image_folder), image_size=size, batch_size=8)
    first = load(recipe).digest
    copy = shutil.copytree(image_folder, tmp_path / "elsewhere")
    (copy / "train" / "ant" / "notes.txt").touch()  # ignored, with a warning
    with pytest.warns(UserWarning, match="ignored"):
        assert load(replace(recipe, data=str(copy), validation=0.3)).digest == first
    (copy / "train" / "ant" / "notes.txt").unlink()
    (copy / "train" / "ant" / "0.jpg").rename(copy / "train" / "bee" / "new.jpg")
    assert load(replace(recipe, data=str(copy))).digest != first


def test_cifar_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR100, "download", refuse)
    with pytest.raises(UserError, match="cannot get CIFAR100 in .*no route to host"):
        load(RECIPES["cifar100-resnet18"], tmp_path)


def small(folder, **changes):
    return replace(RECIPES["imagefolder"], data=str(folder), batch_size=4, **changes)


def test_small_images_of_a_folder_are_held_on_the_device(image_folder):
    data = load(small(image_folder, image_size=16))
    assert isinstance(data.train, Resident)
    x, y = next(data.train.epoch(0))
    assert x.shape == (4, 3, 16, 16) and data.classes == 3
    # the class is the brightest channel, also after the normalisation
    assert torch.equal(x.mean((2, 3)).argmax(1), y)


def test_small_images_are_decoded_once(image_folder, tmp_path, monkeypatch):
    recipe, root = small(image_folder, image_size=16), tmp_path / "cache"

    def batch():
        launch.data.sources._read_splits.cache_clear()
        return next(load(recipe, root).train.epoch(0))[0]

    read = []
    original = launch.data.images.read_image
    monkeypatch.setattr(launch.data.images, "read_image", lambda p: read.append(p) or original(p))
    first = batch()
    assert len(read) == 33 and torch.equal(batch(), first) and len(read) == 33
    for file in root.rglob("*.npy"):
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(damaged)
    assert torch.equal(batch(), first) and len(read) == 66  # damaged caches are remade
    Image.new("RGB", (30, 30)).save(image_folder / "test" / "bee" / "1.jpg")
    batch()
    assert len(read) == 75  # the test images, for one of them has changed


@pytest.mark.parametrize("workers", [0, 2])
def test_large_images_stream_alike_from_any_number_of_workers(image_folder, workers):
    recipe = small(image_folder, image_size=96)
    data = load(recipe, workers=workers)
    again = load(recipe, workers=1)
    assert (len(data.train), len(data.test)) == (6, 3)
    for epoch in (0, 1):
        for (x, y), (x2, y2) in zip(data.train.epoch(epoch), again.train.epoch(epoch), strict=True):
            assert x.shape == (4, 3, 96, 96)
            assert torch.equal(x, x2) and torch.equal(y, y2)
    one, two = (next(data.train.epoch(e))[0] for e in (0, 1))
    assert not torch.equal(one, two)
    labels = torch.cat([y for _, y in data.test.epoch(0)])
    assert labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


@pytest.mark.parametrize(
    "size, resize",
    [
        (16, "the largest square in the middle is resized to 16 × 16 (PIL.ImageOps.fit)"),
        (96, "the shorter side is resized to 110 pixels (bilinear, antialiased), then 96 × 96"),
    ],
)
def test_what_is_recorded_of_images_makes_the_inputs(image_folder, size, resize):
    data = load(small(image_folder, image_size=size))
    about = json.loads(json.dumps(data.about))  # as config.json has it
    assert (about["classes"], about["input_shape"], about["vocabulary"]) == (3, [3, size, size], 0)
    assert about["data_digest"] == data.digest and about["resize"].startswith(resize)
    image = Image.open(image_folder / "test" / "ant" / "0.jpg")  # 24 × 20
    if size == 16:
        image = ImageOps.fit(image, (16, 16))
    pixels = F.pil_to_tensor(image)
    if size == 96:
        pixels = F.center_crop(F.resize(pixels, [110], antialias=True), [96, 96])
    mean, std = (torch.tensor(about[name])[:, None, None] for name in ("mean", "std"))
    (x, _), *_ = data.test.epoch(0)
    torch.testing.assert_close(x[0], (pixels / 255 - mean) / std, rtol=0, atol=1e-5)


def test_streamed_ranks_share_one_order(image_folder):
    recipe = small(image_folder, image_size=96)
    whole = [y for _, y in load(recipe).train.epoch(1)]
    parts = [[y for _, y in load(recipe, share=Share(r, 2)).train.epoch(1)] for r in (0, 1)]
    for y, *halves in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(halves), y)


def test_streaming_leaves_the_global_generator_alone(image_folder):
    data = load(small(image_folder, image_size=96))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    next(data.train.epoch(0))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("size", [16, 96])  # held on the device, and streamed
def test_a_rank_without_a_last_batch_has_one_less(image_folder, size):
    recipe = replace(small(image_folder, image_size=size), batch_size=8)
    parts = [load(recipe, share=Share(r, 2)).test for r in (0, 1)]
    labels = [[y.tolist() for _, y in part.epoch(0)] for part in parts]
    assert [len(part) for part in parts] == [2, 1] == [len(part) for part in labels]
    assert sum(len(y) for part in labels for y in part) == 9


def test_sixteen_bits_are_scaled_and_unknown_ranges_refused(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    pixels = read_image(tmp_path / "deep.png")
    np.testing.assert_allclose(pixels[..., 0].flatten(), np.arange(256), atol=1)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float.tif has pixels of mode F"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (9, 7), (200, 10, 10)).convert(mode).save(path)
    assert read_image(path).shape == (7, 9, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_have_the_pixels_that_pil_finds(tmp_path, mode, progressive):
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    path = tmp_path / "noise.jpg"
    Image.fromarray(noise).convert(mode).save(path, progressive=progressive)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_allclose(read_image(path), expected, rtol=0, atol=1 if mode == "CMYK" else 0)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.99, 0.9999])
def test_a_part_of_a_jpeg_is_refused(tmp_path, part):
    path = tmp_path / "part.jpg"
    Image.effect_noise((120, 90), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(UserError, match=r"^cannot read image .*part\.jpg: .*$"):
        read_image(path)


def test_a_png_named_jpeg_is_read(image_folder):
    Image.new("RGB", (9, 7)).save(image_folder / "train" / "ant" / "z.JPEG", format="PNG")
    assert load(small(image_folder, image_size=16)).classes == 3


def broken(folder, what):
    if what == "no train folder":
        (folder / "train").rename(folder / "other")
    if what == "empty train folder":
        (folder / "train").rename(folder / "other")
        (folder / "train").mkdir()
    if what == "class without images":
        (folder / "train" / "dog").mkdir()
    if what == "class only in test":
        (folder / "test" / "bee").rename(folder / "test" / "dog")
    if what == "truncated image":
        path = folder / "train" / "bee" / "3.jpg"
        path.write_bytes(path.read_bytes()[:200])
    if what == "not an image":
        (folder / "test" / "cat" / "1.jpg").write_text("hello")


@pytest.mark.parametrize(
    "what, message",
    [
        ("no train folder", "no folder .*images/train"),
        ("empty train folder", "has no class folders"),
        ("class without images", "dog has no images"),
        ("class only in test", "test/dog is a class that the training set does not have"),
        ("truncated image", "cannot read image .*bee/3.jpg"),
        ("not an image", "cannot read image .*cat/1.jpg"),
    ],
)
def test_folders_that_cannot_be_used_are_named(image_folder, what, message):
    broken(image_folder, what)
    with pytest.raises(UserError, match=message):
        load(small(image_folder, image_size=16))


def test_a_truncated_image_in_a_stream_is_named(image_folder):
    broken(image_folder, "truncated image")
    for workers in (0, 2):
        train = load(small(image_folder, image_size=96), workers=workers).train
        for batches in (train.epoch(0), train.sample(8)):
            with pytest.raises(UserError, match="^cannot read image .*bee/3.jpg") as error:
                list(batches)
            assert "\n" not in str(error.value)


def test_sizes_that_do_not_fit_are_named(image_folder):
    with pytest.raises(UserError, match="above the 24 training examples"):
        load(replace(small(image_folder, image_size=16), batch_size=25))
    with pytest.raises(UserError, match="does not divide over 3 ranks"):
        load(small(image_folder, image_size=16), share=Share(0, 3))


def test_files_of_other_endings_are_named(image_folder):
    folder = image_folder / "train" / "bee"
    for name in ("moving.gif", "notes.txt", ".hidden.gif"):
        (folder / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"train: 2 files are ignored, such as moving.gif: images"):
        found = scan(image_folder / "train")
    assert not {path.suffix for path in found.paths} & {".gif", ".txt"}


@pytest.mark.parametrize("function", ["load_data", "describe_data"])
def test_padding_without_effect_is_refused(image_folder, function):
    recipe = small(image_folder, image_size=96, crop_padding=4)
    if function == "load_data":
        with pytest.raises(UserError, match="without padding"):  # also of Hugging Face's images
            load(replace(recipe, data="hf:any"))
    with pytest.raises(UserError, match="without padding: use --crop-padding 0"):
        if function == "load_data":
            load(recipe)
        else:
            describe_data(recipe, Path(), 0)


def test_class_order_is_alphabetical_and_val_is_a_test_split(image_folder):
    (image_folder / "test").rename(image_folder / "val")
    assert scan(image_folder / "train").classes == ("ant", "bee", "cat")
    assert len(load(small(image_folder, image_size=16)).test) == 3


def test_an_unreadable_file_is_an_error_or_skipped_and_counted(image_folder, machine):
    (image_folder / "train" / "bee" / "2.jpg").write_bytes(b"\xff\xd8 truncated")
    good = (image_folder / "test" / "cat" / "0.jpg").read_bytes()
    (image_folder / "test" / "cat" / "0.jpg").write_bytes(good[: len(good) // 2])
    choices = {"data": str(image_folder), "image_size": 96, "batch_size": 8, "epochs": 2}
    choices |= {"model": "resnet18", "lr": 0.01}
    with pytest.raises(UserError, match=r"cannot read image .*(bee/2|cat/0)\.jpg"):
        train(Run.make("digits", "dense", **choices), machine)
    run = Run.make("digits", "dense", bad_images="skip", **choices)
    train(run, machine)
    with (machine.runs / run.name / "epochs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["skipped"] for row in rows] == ["2", "2"]
    # eight of nine test images: accuracies are multiples of 1/8
    assert (8 * float(rows[0]["test_accuracy"])).is_integer()


def test_each_image_that_cannot_be_read_is_counted_once(image_folder):
    """However many files after it cannot be read either; samples are no part of an epoch."""
    for name in ("train/bee/2", "train/bee/3", "test/cat/0", "test/cat/1"):
        (image_folder / f"{name}.jpg").write_bytes(b"\xff\xd8 truncated")
    data = load(small(image_folder, image_size=96, bad_images="skip"))
    assert sum(len(y) for _, y in data.train.sample(8)) == 24
    assert data.train.skipped == 0
    assert [sum(len(y) for _, y in split.epoch(0)) for split in (data.train, data.test)] == [24, 7]
    assert (data.train.skipped, data.test.skipped) == (2, 2)
