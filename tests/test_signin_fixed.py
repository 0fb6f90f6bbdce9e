"""Masks, signs and magnitudes from different sources."""

from __future__ import annotations

import csv
import os
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_launch_train import train
from torch import nn

from analysis.folder import read_layers
from analysis.frame import load_runs
from analysis.target import misses_target
from baselines.checkpoint import Checkpoint
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Plan
from launch.config.grid_parts import from_mask_of
from launch.config.run import Run
from launch.runs.snapshots import read_source
from signin.fixed import Fixed, FixedOptions
from signin.signs import agreement
from signin.transplant import masks_of, transplant_weights


@pytest.fixture
def source(machine):
    """Train a run with snapshots 0, 1 and 3."""
    run = Run.make("digits", "gmp", sparsity=0.7, epochs=3, keep_epochs=(1,))
    train(run, machine)
    return run


def fixed(**choices):
    return Run.make("digits", "fixed", **{"sparsity": 0.7, "epochs": 1, "seed": 5, **choices})


def snapshot(run, machine, epoch):
    return load_file(machine.runs / run.name / "snapshots" / f"epoch-{epoch}.safetensors")


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.25, 1.0]))
def test_a_transplant_takes_each_part_from_its_source(seed, flip):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(40, 30, generator=g) < 0.3
    signs = torch.randn(40, 30, generator=g) * (torch.rand(40, 30, generator=g) < 0.8)
    sizes = torch.randn(40, 30, generator=g)
    weights, drawn = transplant_weights({"a": mask}, {"a": signs}, {"a": sizes}, g, flip)
    got = weights["a"]
    assert torch.equal(got != 0, mask) and torch.equal(got.abs(), sizes.abs() * mask)
    assert drawn["a"] == int((mask & (signs == 0)).sum())
    share = agreement(weights, {"a": signs}, {"a": mask})["a"]
    assert share == pytest.approx(1 - flip, abs=0.0 if flip in (0, 1) else 0.12)
    none = agreement(weights, {"a": signs}, {"a": torch.zeros_like(mask)})["a"]
    assert none != none  # NaN


@pytest.mark.parametrize("sign_in", [False, True])
def test_table_one_rows_start_from_what_they_say(machine, source, sign_in):
    run = fixed(
        mask=f"{source.name}@final",
        signs=f"{source.name}@1",
        sign_in=sign_in,
    )
    train(run, machine)
    start, final, early = (
        snapshot(run, machine, 0),
        snapshot(source, machine, 3),
        snapshot(source, machine, 1),
    )
    random = Run.make("digits", "dense", epochs=1, seed=5)
    train(random, machine)
    fresh = snapshot(random, machine, 0)
    drawn = 0
    for name in [key[5:] for key in start if key.startswith("mask:")]:
        mask = final["mask:" + name]
        assert torch.equal(start["mask:" + name], mask)
        assert torch.equal(start[name].abs(), fresh[name].abs() * mask)
        known = mask & (early[name] != 0)
        assert torch.equal(start[name].sign()[known], early[name].sign()[known])
        drawn += int((mask & (early[name] == 0)).sum())
    assert torch.equal(start["0.bias"], fresh["0.bias"])
    with (machine.runs / run.name / "layers.csv").open() as stream:
        assert sum(int(row["drawn_signs"]) for row in csv.DictReader(stream)) == drawn


def test_kept_weights_without_sign_or_magnitude_are_counted(machine, source, tmp_path):
    whole = snapshot(source, machine, 3)
    mask = whole["mask:2.weight"].bool()
    lost = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    save_file({**whole, "2.weight": whole["2.weight"] * ~lost}, tmp_path / "other.safetensors")
    other = str(tmp_path / "other.safetensors")
    for part, column in (("signs", "drawn_signs"), ("magnitudes", "zero_magnitudes")):
        run = fixed(mask=f"{source.name}@final", **{part: other})
        train(run, machine)
        found = read_layers(machine.runs / run.name)
        counts = {row["layer"]: row[column] for row in found}
        assert counts.pop("2.weight") == int(lost.sum()) > 0 and set(counts.values()) == {0}
        (other_column,) = {"drawn_signs", "zero_magnitudes"} - {column}
        assert {row[other_column] for row in found} == {0}


def test_a_state_of_an_earlier_version_does_not_say_how_many_magnitudes_are_zero():
    method = Fixed(Plan(0.5, 1, 1))
    net = SparseModel(nn.Sequential(nn.Linear(2, 3)))
    method.load_state_dict({"drawn": {"0.weight": 4}})
    assert method.columns(net) == {"drawn_signs": {"0.weight": 4}}


def test_init_takes_everything_from_one_source(machine, source):
    file = machine.runs / source.name / "snapshots" / "epoch-3.safetensors"
    for init in (str(file), str(machine.runs / source.name), f"{source.name}@final"):
        run = fixed(init=init)
        train(run, machine)
        start, expected = snapshot(run, machine, 0), load_file(file)
        assert start.keys() == expected.keys()
        assert all(torch.equal(start[name], tensor) for name, tensor in expected.items())


def test_layerwise_magnitudes_and_flipped_signs(machine, source):
    run = fixed(init=f"{source.name}@final", magnitude_kind="layer", flip_signs=0.3)
    train(run, machine)
    start, final = snapshot(run, machine, 0), snapshot(source, machine, 3)
    mask, weight = final["mask:4.weight"], final["4.weight"]
    sizes = start["4.weight"][mask].abs()
    torch.testing.assert_close(sizes, weight[mask].abs().mean().expand_as(sizes))
    share = agreement(start, final, {"4.weight": mask})["4.weight"]
    assert share == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".ckpt"])
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_checkpoints_of_all_styles_are_read(tmp_path, ending, prefix):
    state = {prefix + "0.weight": torch.randn(3, 2), prefix + "0.bias": torch.zeros(3)}
    file = tmp_path / f"checkpoint{ending}"
    if ending == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": state} if ending == ".ckpt" else state, file)
    assert read_source(str(file), tmp_path).weights.keys() == {"0.weight", "0.bias"}


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_no_code_of_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, save in (
        ("a.pt", torch.save),
        ("b.pth", lambda v, p: p.write_bytes(pickle.dumps(v))),
    ):
        save({"0.weight": Malicious()}, tmp_path / name)
        with pytest.raises(UserError, match="other contents than tensors and plain values"):
            read_source(str(tmp_path / name), tmp_path)
    assert not (tmp_path / "executed").exists()


def test_what_does_not_fit_is_named_and_nothing_is_trained(machine, source, tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "empty").mkdir()
    torch.save([1, 2], tmp_path / "list.pt")
    save_file({"mask:0.weight": torch.ones(24, 1, 3, 3)}, tmp_path / "part.safetensors")
    whole = snapshot(source, machine, 3)
    for name, change in {
        "shape": {"0.weight": torch.ones(2, 2)},
        "mask": {"mask:0.weight": torch.ones(2, 2)},
        "half": {"mask:0.weight": torch.full(whole["0.weight"].shape, 0.5)},
        "nan": {"2.weight": torch.full_like(whole["2.weight"], float("nan"))},
    }.items():
        save_file({**whole, **change}, tmp_path / f"{name}.safetensors")

    def file(name):
        return str(tmp_path / f"{name}.safetensors")

    for choices, message in [
        ({"mask": "nowhere.safetensors"}, "there is no file nowhere.safetensors"),
        ({"mask": "nobody@final"}, "there is no run .*nobody with snapshots"),
        ({"mask": f"{source.name}@2"}, "has no snapshot '2'; there are 0, 1, 3, init and final"),
        ({"mask": file("text")}, "cannot be read"),
        ({"mask": str(tmp_path / "list.pt")}, "holds no state dict"),
        ({"mask": str(tmp_path / "empty")}, "with snapshots"),
        ({"mask": file("part")}, "part.safetensors has no 2.weight"),
        ({"init": file("shape")}, r"0.weight has shape \(2, 2\)"),
        ({"mask": file("mask")}, r"the mask of 0.weight has shape \(2, 2\)"),
        ({"mask": file("half")}, "the mask of 0.weight has values other than 0 and 1"),
        ({"init": file("nan")}, "2.weight has values that are not finite"),
        ({"mask": f"{source.name}@final", "sparsity": 0.9}, "give its sparsity with --sparsity"),
    ]:
        with pytest.raises(UserError, match=message):
            train(fixed(**choices), machine)
        assert not (machine.runs / fixed(**choices).name / "snapshots").exists()


def test_a_mask_of_str_is_trained_at_the_sparsity_that_it_has(machine):
    constants = {"s_init": -20.0, "threshold_decay": 0.5}  # end at 0.831
    base = Run.make("digits", "str", sparsity=0.838, epochs=1, **constants)
    learned, run = train(base, machine)["sparsity"], from_mask_of(base)
    assert 0.003 < abs(learned - base.sparsity) < 0.012
    assert train(run, machine)["sparsity"] == learned
    runs = load_runs([machine.runs / base.name, machine.runs / run.name])
    assert not misses_target(runs).any()
    assert list(runs["label"]) == [base.label, f"fixed ({base.label}@final)"]
    exact = Run.make("digits", "fixed", mask=base.name, sparsity=0.838, epochs=1)
    with pytest.raises(UserError, match="not 0.838: give its sparsity with --sparsity"):
        train(exact, machine)


def test_masks_without_zeros_are_those_of_the_weights():
    weights = {"a": torch.tensor([[1.0, 0.0], [2.0, 3.0]]), "b": torch.tensor([[0.0, 1.0]])}
    ones = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    found = masks_of(Checkpoint(weights, ones), weights)
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "a": [[True, False], [True, True]],
        "b": [[False, True]],
    }
    own = {**ones, "b": torch.tensor([[True, False]])}  # an active weight can be zero
    found = masks_of(Checkpoint(weights, own), weights)
    assert all(torch.equal(found[name], mask) for name, mask in own.items())


def test_runs_say_which_others_they_need():
    run = fixed(mask="a@final", signs="b@3", magnitudes="a@1", others="/some/path@final")
    assert run.options.needs == ("a", "b")
    assert fixed().options.needs == ()


def test_a_larger_share_reverses_the_signs_of_a_smaller_one_and_more():
    mask = torch.ones(30, 30, dtype=torch.bool)
    signs = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    reversed_ = []
    for share in (0.1, 0.35, 0.5):
        g = torch.Generator().manual_seed(1)
        weights, _ = transplant_weights({"a": mask}, {"a": signs}, {"a": signs}, g, share)
        reversed_.append(weights["a"] == -signs)
    assert not (reversed_[0] & ~reversed_[1]).any() and not (reversed_[1] & ~reversed_[2]).any()
    counts = [int(r.sum()) for r in reversed_]
    assert counts == pytest.approx([90, 315, 450], abs=45)


def test_signs_that_are_not_known_are_drawn_evenly():
    ones = torch.ones(100, 100)
    g = torch.Generator().manual_seed(0)
    weights, drawn = transplant_weights(
        {"a": ones.bool()}, {"a": torch.zeros(100, 100)}, {"a": ones}, g
    )
    assert drawn == {"a": 10_000} and weights["a"].mean() == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("choices", [{"signs": "zeros"}, {"flip_signs": 0.5}])
def test_the_seed_decides_which_signs_are_drawn_and_reversed(choices):
    def start(seed):
        layer = nn.Linear(20, 10, bias=False)

        def read(source, **_):
            values = torch.zeros(10, 20) if "zeros" in source else torch.ones(10, 20)
            return Checkpoint({"weight": values}, {"weight": torch.ones(10, 20).bool()})

        options = FixedOptions(init="ones", **choices)
        Fixed(Plan(0.0, 10, 10, seed, read=read), options).prepare(SparseModel(layer), None)
        return layer.weight.detach()

    assert torch.equal(start(0), start(0)) and not torch.equal(start(0), start(1))
