"""All runs as one DataFrame."""

from __future__ import annotations

import json
import math

import pytest

from analysis.decay import decays_of
from analysis.frame import load_runs


def write(folder, label, options, **fields):
    """Write the folder of a run that has a configuration only."""
    folder.mkdir()
    run = {"recipe": "digits", "method": label.split(" ")[0], "options": options, "settings": {}}
    run |= {"sparsity": 0.9, "sign_in": False, "seed": 0}
    (folder / "config.json").write_text(json.dumps({"run": run, "label": label, **fields}))
    return folder


def test_runs_with_the_defaults_of_before_are_told_from_those_with_new_ones(tmp_path):
    old = write(tmp_path / "a", "gmp", {"scope": "global"})
    explicit = write(tmp_path / "b", "gmp (layer)", {"scope": "layer"})
    new = {"new_defaults": {"scope": "layer"}}
    newer = write(tmp_path / "c", "gmp", {"scope": "layer"}, **new)
    chosen = write(tmp_path / "d", "gmp (global)", {"scope": "global"}, **new)
    further = write(tmp_path / "f", "gmp (begin=0.1)", {"scope": "global", "begin": 0.1})
    other = write(tmp_path / "e", "rigl", {})
    assert list(load_runs([old, other])["label"]) == ["gmp", "rigl"]
    found = load_runs([old, explicit, newer, chosen, further, other])
    assert list(found["label"]) == [
        "gmp (earlier)",
        "gmp (layer)",
        "gmp",
        "gmp (global)",
        "gmp (earlier, begin=0.1)",
        "rigl",
    ]
    assert "new_defaults" not in found


def test_fields_that_earlier_runs_do_not_have_are_at_their_first_defaults(tmp_path):
    """Earlier runs are told from those with another β in the last layer."""
    old = write(tmp_path / "a", "random", {})
    new = write(tmp_path / "b", "random", {})
    config = json.loads((new / "config.json").read_text())
    config["run"] |= {"ham": True, "settings": {"sign_in": {"beta_last": 2.0}}}
    (new / "config.json").write_text(json.dumps(config))
    found = load_runs([old, new])
    assert found["settings.sign_in.beta_last"].tolist() == [0.0, 2.0]
    assert found["ham"].tolist() == [False, True]


def test_str_of_version_0_1_is_str_target(tmp_path):
    constants = {"s_init": -100.0, "threshold_decay": 5e-4}
    target = {"mode": "target", "begin": 0.1, **constants}
    now = {"mode": "published", "s_init": 0.0, "threshold_decay": 0.0, "calibrated": [-20.0, 0.09]}
    new = {"new_defaults": {"mode": "published", "s_init": 0.0, "threshold_decay": 0.0}}
    folders = [
        write(tmp_path / "a", "str", target),
        write(tmp_path / "b", "str (begin=0.2)", {**target, "begin": 0.2}),
        write(tmp_path / "c", "str", target, **new),  # --method str --mode target
        write(tmp_path / "d", "str-target", {"begin": 0.1}),
        write(tmp_path / "e", "str", now, **new),
    ]
    found = load_runs(folders)
    labels = ["str-target", "str-target (begin=0.2)", "str-target", "str-target", "str"]
    assert list(found["label"]) == labels
    assert list(found["method"]) == ["str-target"] * 4 + ["str"]


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, {}),
        ({"weight_decay": 5e-4}, {"theta": 1e-4, "others": 0.0}),
        (
            {
                "weight_decay": 5e-4,
                "sign_in": {"frobenius_decay": 0.1, "sign_in_weight_decay": 2},
            },
            {"theta": 4.1, "others": 2},
        ),
        (
            {"weight_decay": 5e-4, "sign_in": {"sign_in_decay_scope": "factors"}},
            {"theta": 1e-4, "others": 5e-4},
        ),
        ({"weight_decay": 5e-4, "sign_in": {"beta": 2.0}}, {"theta": 2e-4, "others": 0.0}),
        ({"weight_decay": "x", "sign_in": 5}, {"theta": math.nan, "others": math.nan}),
        (
            {"weight_decay": 5e-4, "sign_in": {"frobenius_decay": "x"}},
            {"theta": math.nan, "others": 0.0},
        ),
    ],
)
def test_decays_of_a_run_of_an_earlier_version_are_those_of_its_settings(settings, expected):
    config = {"run": {"sign_in": True, "settings": settings}}
    assert decays_of(config) == pytest.approx(expected, nan_ok=True)


def test_earlier_runs_of_methods_with_factors_are_known(tmp_path):
    """Later ones say whether they train factors, also those of methods outside the suite."""
    runs = load_runs(
        [
            write(tmp_path / "a", "mw", {}),
            write(tmp_path / "b", "random", {}),
            write(tmp_path / "c", "mine", {}, factorised=True),
            write(tmp_path / "d", "package.module:Mine", {}),
        ]
    )
    assert runs["factorised"].tolist() == [True, False, True, False]


def test_theta_of_an_earlier_run_of_spred_decays_with_its_own_beta():
    run = {"method": "spred", "sign_in": False, "options": {"balance": 0.01}}
    config = {"run": run | {"settings": {"weight_decay": 5e-4}}}
    assert decays_of(config) == pytest.approx({"theta": 1e-6, "others": 0.0})
