"""Names of runs in labels are replaced by their methods."""

from __future__ import annotations

import json
import warnings

import pytest
from test_analysis_frame import write

from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.selection import choose_by_validation
from analysis.statistics import aggregate


def test_labels_of_transplants_say_which_part_is_of_which_run(tmp_path):
    """Runs whose parts differ are never averaged, nor taken for the same run."""
    write(tmp_path / "gmp", "gmp", {})
    ours = write(tmp_path / "gmp-2", "gmp", {})
    config = json.loads((ours / "config.json").read_text())
    config["run"]["sign_in"] = True
    (ours / "config.json").write_text(json.dumps(config))
    own = {"init": "", "mask": "gmp@final", "signs": "", "magnitudes": "", "others": ""}
    own |= {"key": "", "magnitude_kind": "each", "flip_signs": 0.0}
    expected = {
        "fixed (gmp@final)": {},
        "fixed (gmp + Sign-In@final)": {"mask": "gmp-2@final"},
        "fixed (gmp@final, signs=gmp@2)": {"signs": "gmp@2"},
        "fixed (gmp@final, magnitudes=gmp@2)": {"magnitudes": "gmp@2"},
        "fixed (gmp@final, init=gmp@final)": {"mask": "", "init": "gmp@final"},
        "fixed (gmp@final, others=gmp@2, flip_signs=0.1)": {"others": "gmp@2", "flip_signs": 0.1},
        "fixed (gmp@final, signs=gmp@3)": {"mask": "runs/gmp", "signs": "/runs/gmp@3"},
        "fixed (m.pt, signs=m.pt@ema)": {"mask": "m.pt", "signs": "m.pt@ema"},
    }
    for i, options in enumerate(expected.values()):
        options = own | options
        label = f"fixed ({', '.join(v for v in options.values() if v and isinstance(v, str))})"
        write(tmp_path / f"z{i}", label, options)
    found = load_runs(sorted(tmp_path.iterdir()))
    assert found["label"].tolist()[2:] == list(expected)
    assert found["mask.label"].tolist()[2:4] == ["gmp", "gmp + Sign-In"]
    by_path = found.iloc[8]
    assert [by_path[f"mask.{key}"] for key in ("label", "run", "at")] == ["gmp", "gmp", "final"]
    assert [by_path[f"signs.{key}"] for key in ("label", "run", "at")] == ["gmp", "gmp", "3"]


def write_chain(root, seed, rule="", accuracy=0.9):
    """Write a dense run, one that prunes it at once, and one that trains the mask of that one."""
    dense, pruned = f"digits-dense-seed{seed}", f"digits-oneshot{rule}-seed{seed}"
    fixed = {"mask": f"{pruned}@final", "init": "", "signs": "", "magnitudes": ""}
    options = {dense: {}, pruned: {"init_from": f"{dense}@final"}, f"fixed-{pruned}": fixed}
    labels = ("dense", f"oneshot ({dense}@final)", f"fixed ({pruned}@final)")
    for label, (name, own) in zip(labels, options.items(), strict=True):
        if (root / name).exists():
            continue
        path = write(root / name, label, own) / "config.json"
        config = json.loads(path.read_text())
        config["run"] |= {"seed": seed, "sign_in": bool(rule) and label != "dense"}
        path.write_text(json.dumps(config))
        (root / name / "result.json").write_text(json.dumps({"accuracy": accuracy}))


def test_networks_pruned_at_once_are_one_row_of_all_seeds(tmp_path):
    """Each starts from the dense network of its seed, which its label names."""
    for seed in range(3):
        write_chain(tmp_path, seed, "", 0.90 + seed / 100)
        write_chain(tmp_path, seed, "Sign-In", 0.91 + seed / 50)
    runs = load_runs(list_runs(tmp_path))
    table = aggregate(runs[runs["method"] == "oneshot"])
    assert table["label"].tolist() == ["oneshot (dense@final)"] * 2
    assert table["runs"].tolist() == [3, 3]
    assert table["accuracy"].tolist() == pytest.approx([91, 93])
    assert table["gain"][1] == pytest.approx(2)
    masks = set(runs[runs["method"] == "fixed"]["label"])
    one = "oneshot (dense@final)"
    assert masks == {f"fixed ({one}@final)", f"fixed ({one} + Sign-In@final)"}


@pytest.mark.parametrize(
    "value, option",
    [
        ("/home/a,b/a-dense@3", "dense@3"),
        ("runs/a-dense", "dense@final"),
        ("gone@final", "gone@final"),
        ("m.pt@ema", "m.pt@ema"),
    ],
)
def test_options_of_any_method_may_name_runs(tmp_path, value, option):
    folders = [write(tmp_path / "a-dense", "dense", {})]
    options = {"teacher": value, "scope": "layer"}
    folders.append(write(tmp_path / "b", f"mine ({value}, layer)", options))
    assert load_runs(folders)["label"][1] == f"mine ({option}, layer)"


def test_damaged_runs_that_name_each_other_are_read(tmp_path):
    sources = {"a": "b@final", "b": "a@final"}
    folders = [
        write(tmp_path / name, f"mine ({source})", {"teacher": source})
        for name, source in sources.items()
    ]
    assert load_runs(folders)["label"].str.startswith("mine (mine (").all()


def write_pruned(root, seed, damping, validation, epochs=20):
    """Write a dense run of a seed, and one that prunes its network."""
    dense = f"digits-dense-seed{seed}"
    pruned = f"digits-sparsegpt-{damping}-seed{seed}"
    options = {"init_from": f"{dense}@final", "damping": damping}
    label = f"sparsegpt ({dense}@final, damping={damping})"
    for name, own, shown in ((dense, {}, "dense"), (pruned, options, label)):
        if (root / name).exists():
            continue
        path = write(root / name, shown, own) / "config.json"
        config = json.loads(path.read_text())
        config["run"] |= {"seed": seed, "method": shown.partition(" ")[0]}
        if not own:
            config["run"]["settings"] = {"epochs": epochs}
        path.write_text(json.dumps(config))
        result = {"accuracy": validation, "validation_accuracy": validation}
        (root / name / "result.json").write_text(json.dumps(result))


def test_an_option_is_chosen_over_seeds_that_start_from_runs_of_their_own(tmp_path):
    """The best of each seed would be 90, 95 and 90 %."""
    for damping, accuracies in ((0.01, (0.9, 0.8, 0.9)), (0.1, (0.8, 0.95, 0.8))):
        for seed, accuracy in enumerate(accuracies):
            write_pruned(tmp_path, seed, damping, accuracy)
    runs = load_runs(list_runs(tmp_path))
    chosen = choose_by_validation(runs[runs["method"] == "sparsegpt"], ["damping"]).runs
    assert chosen["options.damping"].tolist() == [0.01] * 3
    assert chosen["result.accuracy"].tolist() == [0.9, 0.8, 0.9]


@pytest.mark.parametrize("epochs", [20, 150])
def test_a_warning_names_sources_with_other_settings(epochs, tmp_path):
    for seed in range(2):
        write_pruned(tmp_path, seed, 0.1, 0.9, epochs=(20, epochs)[seed])
    runs = load_runs(list_runs(tmp_path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        aggregate(runs[runs["method"] == "sparsegpt"])
    found = [str(w.message) for w in caught if "start from runs that differ" in str(w.message)]
    assert bool(found) == (epochs == 150)
    assert all("epochs 20" in text and "epochs 150" in text for text in found)
