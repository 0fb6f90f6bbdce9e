"""Crops equal torchvision's, and normalisation equals the formula."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from launch.data.augment import CentreCrop, Normalise, RandomResizedCrop, random_box


@pytest.fixture
def picture():
    """Return an image that is smooth with some noise, as photographs are."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((90, 64), Image.Resampling.BICUBIC), dtype=int)
    return (smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 99))
def test_boxes_lie_in_the_image(height, width, seed):
    top, left, h, w = random_box(height, width, Random(seed))
    assert 0 <= top <= height - h < height and 0 <= left <= width - w < width


@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (100, 300), (20, 500)])
def test_boxes_are_distributed_as_torchvision_draws_them(height, width):
    torch.manual_seed(0)
    image, theirs = torch.empty(3, height, width), []
    for _ in range(3000):
        theirs.append(v2.RandomResizedCrop(8).make_params([image]))
    ours = [random_box(height, width, Random(i)) for i in range(3000)]
    for i, name in enumerate(("top", "left", "height", "width")):
        found, expected = [box[i] for box in ours], [params[name] for params in theirs]
        assert ks_2samp(found, expected).pvalue > 0.001
    areas = [[h * w for *_, h, w in ours], [p["height"] * p["width"] for p in theirs]]
    assert ks_2samp(*areas).pvalue > 0.001


def test_a_crop_is_the_box_resized_and_flipped_half_of_the_times(picture):
    crop, mirrored = RandomResizedCrop(32, flip=True), 0
    for seed in range(40):
        top, left, h, w = random_box(*picture.shape[:2], Random(seed))
        box = Image.fromarray(picture[top : top + h, left : left + w])
        expected = np.asarray(box.resize((32, 32), Image.Resampling.BILINEAR), dtype=int)
        found = crop(torch.from_numpy(picture), Random(seed)).numpy()
        assert found.dtype == np.uint8
        straight = np.abs(found - expected).max() <= 1
        assert straight or np.abs(found[:, ::-1] - expected).max() <= 1
        mirrored += not straight
    assert 10 <= mirrored <= 30
    plain = RandomResizedCrop(32, flip=False)(torch.from_numpy(picture), Random(seed)).numpy()
    assert np.abs(plain - expected).max() <= 1


@pytest.mark.parametrize("shape", [(64, 90), (90, 64)])
def test_the_centre_is_that_of_torchvision(picture, shape):
    picture = picture.reshape(*shape, 3) if picture.shape[:2] == shape else picture.swapaxes(0, 1)
    theirs = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28), v2.PILToTensor()])
    expected = theirs(Image.fromarray(np.ascontiguousarray(picture))).permute(1, 2, 0).int()
    found = CentreCrop(28)(torch.from_numpy(np.ascontiguousarray(picture)), Random(0))
    assert found.shape == (28, 28, 3) and (found.int() - expected).abs().max() <= 1


def test_normalised_is_zero_mean_and_unit_variance():
    pixels = torch.randint(0, 256, (5, 8, 6, 3), dtype=torch.uint8)
    share = pixels.double() / 255
    std, mean = torch.std_mean(share, (0, 1, 2))
    found = Normalise(mean.float(), std.float(), width=6)(pixels)
    assert found.shape == (5, 3, 8, 6) and found.is_contiguous(memory_format=torch.channels_last)
    expected = ((share - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
