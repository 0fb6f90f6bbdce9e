"""Densities compared with a bisection and with published numbers."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.tools.density import (
    DENSITIES,
    balanced,
    capped,
    erk,
    erk_plus,
    fill,
    keep_count,
    layer_counts,
    legacy_balanced,
    uniform_dense_first,
)
from baselines.tools.masks import top_k_mask
from launch.models import build_model

EXACT = ["uniform", "erk", "balanced"]

shapes_strategy = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple),
    min_size=1,
    max_size=8,
)


def shapes_of(model, classes, channels=3, size=32):
    net = SparseModel(build_model(model, classes, channels, size))
    return {name: tuple(shape) for name, shape in net.shapes.items()}


def by_bisection(raw, sizes, density):
    """Return the densities by a slow method: bisection of ε on the realised number of weights."""
    low, high = 0.0, max(1 / r for r in raw.values())
    for _ in range(200):
        mid = (low + high) / 2
        kept = sum(min(1.0, mid * raw[k]) * sizes[k] for k in raw)
        low, high = (mid, high) if kept < density * sum(sizes.values()) else (low, mid)
    return {k: min(1.0, high * raw[k]) for k in raw}


@given(shapes=shapes_strategy, density=st.floats(0.01, 1.0), kind=st.sampled_from(EXACT))
def test_densities_are_exact_and_do_not_depend_on_order(shapes, density, kind):
    sizes = {k: math.prod(s) for k, s in shapes.items()}
    got = DENSITIES[kind](shapes, density)
    assert all(0 < d <= 1 for d in got.values())
    kept = sum(got[k] * sizes[k] for k in sizes)
    assert kept == pytest.approx(density * sum(sizes.values()), rel=1e-9)
    shuffled = random.Random(0).sample(list(shapes.items()), len(shapes))
    again = DENSITIES[kind](dict(shuffled), density)
    assert again == pytest.approx(got, rel=1e-12)


@given(
    raw=st.dictionaries(
        st.text("abcd", min_size=1, max_size=2), st.floats(0.01, 10), min_size=1, max_size=6
    ),
    density=st.floats(0.05, 0.95),
    data=st.data(),
)
def test_fill_equals_bisection(raw, density, data):
    sizes = {k: data.draw(st.integers(1, 1000)) for k in raw}
    assert fill(raw, sizes, density) == pytest.approx(by_bisection(raw, sizes, density), rel=1e-6)


@pytest.mark.parametrize(
    "model, classes, realised",
    [
        ("resnet20", 10, ((0.1897, 0.0971, 0.0499), (0.1834, 0.0967, 0.0500))),
        ("resnet18-cifar", 100, ((0.1856, 0.0973, 0.0498), (0.1766, 0.0949, 0.0495))),
        ("resnet50", 1000, ((0.1988, 0.0997, 0.0499), (0.1959, 0.0999, 0.0500))),
    ],
)
def test_legacy_densities_lose_what_the_published_codes_lose(model, classes, realised):
    shapes = shapes_of(model, classes)
    total = sum(map(math.prod, shapes.values()))
    for kind, expected in zip(("legacy-balanced", "legacy-erk"), realised, strict=True):
        for density, value in zip((0.2, 0.1, 0.05), expected, strict=True):
            kept = sum(layer_counts(kind, shapes, 1 - density).values()) / total
            assert kept == pytest.approx(value, abs=1.01e-4)


def test_legacy_balanced_worked_examples():
    sizes = {"a": (10, 1), "b": (10, 10), "c": (89, 10)}
    expected = {"a": 1, "b": 0.411, "c": 0.0462}
    assert legacy_balanced(sizes, 0.1) == pytest.approx(expected, abs=1e-3)
    other = {"b": (10, 10), "c": (89, 10), "a": (10, 1)}  # it depends on the order
    expected = {"b": 1 / 3, "c": 0.0375, "a": 1}
    assert legacy_balanced(other, 0.1) == pytest.approx(expected, abs=1e-3)


def test_erk_plus_keeps_the_classifier_dense():
    shapes = shapes_of("resnet20", 10)
    got = erk_plus(shapes, 0.1)
    assert got["fc.weight"] == 1
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert sum(got[n] * sizes[n] for n in sizes) == pytest.approx(27089.6)
    ratios = {round(got[n] * sizes[n] / sum(shapes[n]), 6) for n in shapes if got[n] < 1}
    assert len(ratios) == 1
    with pytest.raises(UserError, match="alone has more weights"):
        erk_plus(shapes_of("resnet50", 1000), 0.05)


def test_uniform_with_a_dense_first_layer():
    shapes = shapes_of("resnet20", 10)
    got = uniform_dense_first(shapes, 0.1)
    assert list(got) == list(shapes) and got["conv1.weight"] == 1
    (rest,) = {d for name, d in got.items() if name != "conv1.weight"}
    assert rest == pytest.approx((27_089.6 - 432) / (270_896 - 432))
    assert sum(layer_counts("uniform-dense-first", shapes, 0.9).values()) == 27_090
    with pytest.raises(UserError, match="a alone has more weights than density 0.4 allows"):
        uniform_dense_first({"a": (10,), "b": (10,)}, 0.4)
    assert uniform_dense_first({"a": (10,)}, 0.4) == {"a": 1.0}


def test_balanced_worked_example():
    shapes = {"a": (10, 1), "b": (10, 10), "c": (89, 10)}
    got = balanced(shapes, 0.1)
    assert got == pytest.approx({"a": 1.0, "b": 0.45, "c": 45 / 890})


@pytest.mark.parametrize(
    "shapes, sparsity, expected",
    [
        ({"a": (2, 4), "b": (3, 6), "c": (2, 4, 6)}, 0.5, (1, 1 - 0.309524, 1 - 0.654762)),
        (
            {"a": (2, 4), "b": (3, 6), "c": (2, 4, 6)},
            0.8,
            (1 - 0.555556, 1 - 0.703704, 1 - 0.851852),
        ),
        (
            {"a": (8, 3, 3, 3), "b": (16, 8, 3, 3), "c": (10, 64)},
            0.8,
            (0.262129, 0.086734, 0.385098),
        ),
    ],
)
def test_erk_gives_rigls_numbers(shapes, sparsity, expected):
    # RigL's budget rounds the zeros of each layer down
    sizes = [math.prod(s) for s in shapes.values()]
    budget = sum(n - math.floor(sparsity * n) for n in sizes) / sum(sizes)
    assert list(erk(shapes, budget).values()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "model, classes, numel, layers, full_balanced, full_erk",
    [
        ("resnet20", 10, 270_896, 22, (10, 3, 2), (4, 2, 0)),
        ("resnet18-cifar", 100, 11_210_432, 21, (13, 8, 2), (9, 4, 2)),
        ("resnet50", 1000, 25_502_912, 54, (19, 12, 8), (8, 1, 0)),
    ],
)
def test_published_networks(model, classes, numel, layers, full_balanced, full_erk):
    shapes = shapes_of(model, classes)
    assert sum(map(math.prod, shapes.values())) == numel
    assert len(shapes) == layers
    for kind, expected in (("balanced", full_balanced), ("erk", full_erk)):
        for density, full in zip((0.2, 0.1, 0.05), expected, strict=True):
            got = DENSITIES[kind](shapes, density)
            assert sum(d == 1 for d in got.values()) == full
            counts = layer_counts(kind, shapes, 1 - density)
            assert sum(counts.values()) == keep_count(numel, 1 - density)
            assert all(abs(counts[k] - got[k] * math.prod(shapes[k])) <= 1.001 for k in shapes)


def test_resnet50_erk_densities():
    got = erk(shapes_of("resnet50", 1000), 0.2)
    assert got["conv1.weight"] == pytest.approx(0.8572, abs=1e-4)
    assert got["fc.weight"] == pytest.approx(0.1482, abs=1e-4)
    assert got["layer4.2.conv2.weight"] == pytest.approx(0.0435, abs=1e-4)
    got = erk(shapes_of("resnet50", 1000), 0.1)
    assert got["conv1.weight"] == pytest.approx(0.4200, abs=1e-4)
    assert [name for name, d in got.items() if d == 1] == ["layer1.0.conv1.weight"]


def test_resnet20_densities():
    shapes = shapes_of("resnet20", 10)
    got = balanced(shapes, 0.1)
    full = {name for name, d in got.items() if d == 1}
    assert full == {"conv1.weight", "fc.weight", "layer2.0.shortcut.0.weight"}
    rest = {round(d * math.prod(shapes[n]), 1) for n, d in got.items() if n not in full}
    assert rest == {round((27089.6 - 432 - 640 - 512) / 19, 1)} == {1342.4}
    assert got["layer1.0.conv1.weight"] == pytest.approx(0.583, abs=1e-3)
    counts = layer_counts("balanced", shapes, 0.9)
    assert {k for n, k in counts.items() if n not in full} <= {1342, 1343}
    got = erk(shapes, 0.1)
    assert {n for n, d in got.items() if d == 1} == {"fc.weight", "layer2.0.shortcut.0.weight"}


def test_deit_small_erk_densities_with_fused_attention():
    shapes = shapes_of("deit_small_patch16_224", 1000, size=224)
    assert sum(map(math.prod, shapes.values())) == 21_912_576
    got = erk(shapes, 0.1)
    expected = {
        "patch_embed.proj": 0.0412,
        "blocks.0.attn.qkv": 0.1007,
        "blocks.0.attn.proj": 0.1511,
        "blocks.0.mlp.fc1": 0.0944,
        "blocks.0.mlp.fc2": 0.0944,
        "head": 0.1046,
    }
    for name, density in expected.items():
        assert got[f"{name}.weight"] == pytest.approx(density, abs=1e-4)


@given(shapes=shapes_strategy, sparsity=st.floats(0, 0.999), kind=st.sampled_from(EXACT))
def test_counts_add_up_to_the_weight(shapes, sparsity, kind):
    sizes = {k: math.prod(s) for k, s in shapes.items()}
    counts = layer_counts(kind, shapes, sparsity)
    assert sum(counts.values()) == keep_count(sum(sizes.values()), sparsity)
    assert all(0 <= counts[k] <= sizes[k] for k in sizes)
    shuffled = random.Random(1).sample(list(shapes.items()), len(shapes))
    assert layer_counts(kind, dict(shuffled), sparsity) == counts


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: layer_counts("balnced", {"a": (2, 2)}, 0.5), "did you mean balanced"),
        (lambda: keep_count(10, 1.0), r"sparsity must be in \[0, 1\)"),
        (lambda: balanced({"a": (2, 2)}, 0.0), "density must be in"),
        (lambda: top_k_mask(torch.tensor([1.0, math.nan]), 1), "NaN"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_capped_counts_keep_their_sum():
    assert capped({"a": 5, "b": 3, "c": 2}, {"a": 4, "b": 3, "c": 9}) == {"a": 4, "b": 3, "c": 3}
    assert capped({"a": 5}, {"a": 4}) == {"a": 4}
