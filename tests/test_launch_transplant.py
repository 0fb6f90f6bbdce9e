"""`signbench transplant`: from checkpoint files to a checkpoint file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_launch_train import train
from torch import nn
from torch.nn.utils import prune

from baselines.checkpoint import Checkpoint
from baselines.engine.prunable import prunable_weights
from baselines.engine.sparse_model import SparseModel
from baselines.method import Plan
from launch.cli import main
from launch.config.run import Run
from launch.models import build_model
from launch.plugins import import_attribute
from launch.runs.checkpoints import write_checkpoint
from launch.runs.snapshots import read_source
from signin.fixed import Fixed, FixedOptions


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write three checkpoints of one architecture: A half pruned, B in Lightning's format."""
    monkeypatch.chdir(tmp_path)
    models = []
    for seed, name in enumerate("ABC"):
        torch.manual_seed(seed)
        models.append(net())
        state = models[-1].state_dict()
        if name == "A":
            for tensor in (state["0.weight"], state["4.weight"]):
                tensor[torch.rand_like(tensor) < 0.5] = 0
            save_file(state, tmp_path / "A.safetensors")
        elif name == "B":
            torch.save({"state_dict": {"model." + k: t for k, t in state.items()}}, "B.ckpt")
        else:
            torch.save(state, "C.pt")
    return [{k: t.clone() for k, t in model.state_dict().items()} for model in models]


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5)
    )


TRANSPLANT = ["transplant", "--mask", "A.safetensors", "-o", "out.safetensors"]


def test_each_part_comes_from_its_source(files, capsys):
    a, b, c = files
    assert main([*TRANSPLANT, "--signs", "B.ckpt", "--magnitudes", "C.pt"]) == 0
    out = load_file("out.safetensors")
    net().load_state_dict(out, strict=True)
    for name in ("0.weight", "4.weight"):
        mask = a[name] != 0
        assert torch.equal(out[name], torch.where(mask, b[name].sign() * c[name].abs(), 0.0))
    assert torch.equal(out["0.bias"], a["0.bias"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = next(row for row in rows if row[0] == "4.weight")
    mask = a["4.weight"] != 0
    agreed = (b["4.weight"].sign() == c["4.weight"].sign())[mask].float().mean()
    assert row[1:3] == ["360", str(int(mask.sum()))]
    assert row[4] == f"{agreed:.1%}" and row[5] == "100.0%"


def test_a_transplant_of_float64_from_itself_is_equal_to_the_bit(files):
    state = {name: t.double() / 3 if t.is_floating_point() else t for name, t in files[0].items()}
    save_file(state, "A.safetensors")
    assert main(TRANSPLANT) == 0
    found = load_file("out.safetensors")
    assert found.keys() == state.keys()
    assert all(
        torch.equal(found[name], t) and found[name].dtype == t.dtype for name, t in state.items()
    )


def test_layer_magnitudes_do_not_change_the_agreement_before(files, capsys):
    assert main([*TRANSPLANT, "--magnitude-kind", "layer"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = (row for row in rows if row[0] == "4.weight")
    assert row[4:] == ["100.0%", "100.0%"]


def test_fresh_magnitudes_need_a_model(files, capsys):
    assert main([*TRANSPLANT, "--magnitudes", "random"]) == 2
    assert "--model" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["classes", "channels", "image-size"])
def test_the_shape_of_a_model_needs_one(files, tmp_path, capsys, name):
    assert main([*TRANSPLANT, f"--{name}", "8"]) == 2
    assert f"--{name} is of --model, which is not given" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_random_parts_are_the_initialisation_of_a_run_with_the_same_seed(machine, capsys):
    run = Run.make("digits", "gmp", sparsity=0.7, epochs=1, seed=3)
    train(run, machine)
    shape = ["--model", "digits-cnn", "--classes", "10", "--channels", "1", "--image-size", "8"]
    out = machine.runs / "out.pt"
    sources = ["--mask", f"{run.name}@final", "--magnitudes", "random", "--others", "random"]
    given = [*sources, "--seed", "3", "--runs", str(machine.runs), "-o", str(out)]
    assert main(["transplant", *given, *shape[:2], "--channels", "3"]) == 2
    message = "not (24, 3, 3, 3) as in digits-cnn: give the --classes, --channels and --image-size"
    assert message in capsys.readouterr().err
    assert main(["transplant", *given, *shape]) == 0
    fresh, final = (  # GMP starts dense
        load_file(machine.runs / run.name / "snapshots" / f"epoch-{epoch}.safetensors")
        for epoch in (0, 1)
    )
    state = torch.load(out, weights_only=True)
    mask = final["mask:4.weight"]
    expected = torch.where(mask, final["4.weight"].sign() * fresh["4.weight"].abs(), 0.0)
    assert torch.equal(state["4.weight"], expected)
    assert torch.equal(state["0.bias"], fresh["0.bias"])
    again = Run.make("digits", "fixed", init=str(out), sparsity=0.7, epochs=1)
    assert train(again, machine)["sparsity"] == pytest.approx(0.7, abs=1e-4)


TIED = """
from torch import nn

def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[3].weight = model[1].weight
    return model
"""


def test_tied_layers_have_one_weight(tmp_path, monkeypatch):
    (tmp_path / "tied_layers.py").write_text(TIED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = import_attribute("tied_layers:tied", "model")()
    source = {name: 3 * tensor for name, tensor in model.state_dict().items()}
    torch.save(source, "A.pt")
    given = ["--mask", "A.pt", "--magnitudes", "random", "--model", "tied_layers:tied"]
    given += ["--classes", "4", "--channels", "1", "--image-size", "2"]
    assert main(["transplant", *given, "-o", "out.pt"]) == 0
    written = torch.load("out.pt", weights_only=True)
    assert torch.equal(written["1.weight"], written["3.weight"])
    assert not torch.equal(written["1.weight"], source["1.weight"])
    model.load_state_dict(written)
    assert torch.equal(model[1].weight, written["1.weight"])


def test_a_layer_that_is_used_twice_has_one_weight_without_a_model_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layer, last = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.ModuleDict({"a": layer, "b": layer, "c": last})
    masks = {name: torch.rand(4, 4) < 0.5 for name in ("a.weight", "c.weight")}
    for name, weight in (("a.weight", layer.weight), ("c.weight", last.weight)):
        weight.data *= masks[name]
    write_checkpoint(Path("A.safetensors"), Checkpoint(model.state_dict(), masks))
    torch.save({name: 3 * tensor + 1 for name, tensor in model.state_dict().items()}, "B.pt")
    given = ["--mask", "A.safetensors", "--magnitudes", "B.pt", "-o", "out.pt"]
    assert main(["transplant", *given]) == 0
    written = torch.load("out.pt", weights_only=True)
    magnitudes = (3 * layer.weight + 1).abs()
    expected = torch.where(masks["a.weight"], layer.weight.sign() * magnitudes, 0.0)
    assert torch.equal(written["a.weight"], expected)
    assert torch.equal(written["b.weight"], expected)
    assert not torch.equal(written["c.weight"], expected)


def test_with_a_model_the_signs_are_drawn_as_those_of_fixed(tmp_path):
    """A file has the layers in alphabetical order, in which 14.weight comes before 3.weight."""
    torch.manual_seed(0)
    model = build_model("fashion-cnn", 10, 1, 28)
    masks = {name: torch.rand(w.shape) < 0.5 for name, w in prunable_weights(model).items()}
    state = {k: t * masks[k] if k in masks else t for k, t in model.state_dict().items()}
    write_checkpoint(tmp_path / "A.safetensors", Checkpoint(state, masks))
    source, out = str(tmp_path / "A.safetensors"), str(tmp_path / "out.safetensors")
    given = ["--mask", source, "--flip-signs", "0.3", "--seed", "2", "--model", "fashion-cnn"]
    assert main(["transplant", *given, "-o", out]) == 0
    plan = Plan(0.5, 10, 10, 2, read=partial(read_source, root=tmp_path))
    options = FixedOptions(init=source, flip_signs=0.3, mask_within=1.0)
    net = SparseModel(model)
    Fixed(plan, options).prepare(net, None)
    found = load_file(out)
    assert all(torch.equal(found[name], weight) for name, weight in net.weights.items())


def test_what_torch_prunes_has_its_mask_read(tmp_path, capsys):
    model = net()
    prune.random_unstructured(model[4], "weight", 0.25)
    torch.save(model.state_dict(), tmp_path / "pruned.pt")
    out = tmp_path / "out.safetensors"
    assert main(["transplant", "--mask", str(tmp_path / "pruned.pt"), "-o", str(out)]) == 0
    found = load_file(out)
    net().load_state_dict(found, strict=True)
    assert torch.equal(found["4.weight"], model[4].weight_orig * model[4].weight_mask)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update({"4.weight": c["4.weight"][:, :9]}), "has shape (5, 9), not (5, 72)"),
        (lambda c: c.pop("4.weight"), "has no 4.weight"),
        (lambda c: c["0.weight"].fill_(float("nan")), "0.weight has values that are not finite"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_file(files, tmp_path, capsys, change, reason):
    c = files[2]
    change(c)
    torch.save(c, "C.pt")
    assert main([*TRANSPLANT, "--signs", "B.ckpt", "--magnitudes", "C.pt"]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_a_mask_must_be_of_zeros_and_ones(files, tmp_path, capsys):
    a = files[0]
    save_file({**a, "mask:0.weight": a["0.weight"].clone()}, "A.safetensors")
    assert main(TRANSPLANT) == 2
    assert "the mask of 0.weight has values other than 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["no/such/folder/out.pt", "out.npz"])
def test_an_output_that_cannot_be_written(files, tmp_path, capsys, output):
    assert main([*TRANSPLANT[:-1], output]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("output", ["A.safetensors", "./A.safetensors", "link.safetensors"])
def test_a_source_is_not_overwritten(files, tmp_path, capsys, output):
    (tmp_path / "link.safetensors").symlink_to("A.safetensors")
    before = Path("A.safetensors").read_bytes()
    mask = [
        "transplant",
        "--mask",
        "B.ckpt",
        "--align",
        "A.safetensors",
        "--model",
        "resnet20",
        "-o",
    ]
    for flags in (TRANSPLANT[:-1], mask):
        assert main([*flags, output]) == 2
        assert "is a source" in capsys.readouterr().err
    assert Path("A.safetensors").read_bytes() == before
