"""Names of methods in tables and figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.names import (
    FACTORISED,
    FAMILIES,
    NAMES,
    OTHERS,
    common_label,
    family_of,
    keeps_mask,
    name_of,
    short_names,
)
from baselines.registry import methods

INDEX = Path(__file__).parent.parent / "docs" / "methods" / "index.md"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("acdc", "AC/DC"),
        ("lrr (level_length=0.25)", "LRR (level_length=0.25)"),
        ("random (uniform)", "Random (uniform)"),
        ("fixed (rigl@final)", "RigL mask"),
        ("fixed (rigl@10, gmp@final)", "RigL mask @10, GMP@final"),
        ("fixed (wr (a=1, b=2)@final, gmp@3)", "WR (a=1, b=2) mask, GMP@3"),
        ("fixed (acdc + Sign-In@final, signs=gmp@3)", "AC/DC + Sign-In mask, signs=GMP@3"),
        ("fixed (acdc@final, lrr (a=1)@3)", "AC/DC mask, LRR (a=1)@3"),
        ("fixed (acdc@final, signs=lrr (a=1)@3)", "AC/DC mask, signs=LRR (a=1)@3"),
        ("fixed (acdc@final, signs=lrr (a=1, b=2)@3)", "AC/DC mask, signs=LRR (a=1, b=2)@3"),
        ("fixed (mask.safetensors)", "mask.safetensors mask"),
        ("fixed (mask.pt, signs=gmp@3)", "mask.pt mask, signs=GMP@3"),
        ("fixed (oneshot (dense@final)@final)", "One-shot (dense@final) mask"),
        ("fixed (oneshot (lrr (a=1)@3, layer)@final)", "One-shot (lrr (a=1)@3, layer) mask"),
        ("mine", "mine"),
    ],
)
def test_methods_are_spelled_as_in_their_papers(label, name):
    assert name_of(label) == name


def test_every_method_has_the_name_and_family_of_the_documentation():
    rows = re.findall(
        r"^\| \[(.+?)\]\([\w-]+\.md\) \| `([\w-]+)` \| (.+?) \|", INDEX.read_text(), re.M
    )
    pages = {method: (title, family) for title, method, family in rows if method != "fixed"}
    assert pages.keys() == set(methods()) - {"fixed"}
    assert NAMES.keys() == pages.keys() == {m for members in FAMILIES.values() for m in members}
    for method, (title, family) in pages.items():
        assert NAMES[method].split()[0] in (title.split()[0], "Random"), method
        assert family == family_of(method)
        assert keeps_mask(method) == methods()[method].keeps_masks(), method


def test_methods_that_train_factors_are_those_of_the_registry():
    assert set(FACTORISED) == {name for name, method in methods().items() if method.factorised}


def test_families_of_other_labels():
    assert family_of("random (uniform)") == "pruning at initialisation"
    assert family_of("fixed (rigl@final)") == "dynamic sparse" and family_of("mine") == OTHERS


def test_short_names_have_the_options_that_distinguish():
    labels = ["random", "random (uniform)", "lrr (level_length=0.25)", "fixed (random@final)"]
    names = ["Random", "Random (uniform)", "LRR", "Random mask"]
    assert list(short_names(labels).values()) == names
    labels = ["lrr (a=1, b=[1, 2])", "lrr (a=1)", "fixed (lrr (a=1)@final, magnitudes=random)"]
    names = ["LRR (b=[1, 2])", "LRR", "LRR (a=1) mask, magnitudes=random"]
    assert list(short_names(labels).values()) == names
    labels = [
        f"fixed (acdc@{at}, magnitudes=random{more})"
        for at in ("3", "final")
        for more in ("", ", a=1")
    ]
    names = ["AC/DC mask @3", "AC/DC mask @3, a=1", "AC/DC mask", "AC/DC mask, a=1"]
    assert list(short_names(labels).values()) == names


def test_methods_that_keep_their_masks():
    for name, method in methods().items():
        assert keeps_mask(name if name != "fixed" else "fixed (rigl@final)") == method.keeps_masks()


def test_a_common_label_has_the_options_that_all_labels_have():
    assert common_label(["rigl (a=1)"]) == "rigl (a=1)"
    assert common_label(["rigl (a=1)", "rigl"]) == common_label(["rigl", "rigl (b=2)"]) == "rigl"
    labels = ["rigl (a=1, uniform, b=[1, 2])", "rigl (uniform, b=[1, 2])"]
    assert common_label(labels) == "rigl (uniform, b=[1, 2])"
