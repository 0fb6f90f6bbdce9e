"""A run resumes bit-identically after it was killed, and states a reason if it fails."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from needs import on_gpu
from safetensors.torch import load_file
from small_digits import BATCH, STEPS, small_digits
from torch import nn

import launch.runs.folder
import launch.training.loop
import launch.training.run
from analysis.checked import seal_json
from analysis.folder import LAST_STATE, read_config, read_layers, read_result, snapshot_path
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.finite import is_finite
from launch.config.run import Run
from launch.data import load_data
from launch.data.order import mix
from launch.measures.flops import count_flops
from launch.ranks import Ranks, Share
from launch.runs.folder import RunFolder
from launch.runs.reading import read_run
from launch.training.build import build_loop
from launch.training.constant_output import Collapsed
from launch.training.loop import Diverged, Loop, memory_format
from launch.training.run import run_training
from signin.signs import count_flips, signs

SIGN_IN = {"method": "random", "sparsity": 0.9, "sign_in": True}


def quiet(_line):
    pass


def train(run, machine):
    return run_training(run, machine, report=quiet, bar=False)


def what_it_left(run, machine):
    """Return everything in the folder that must not depend on interruptions."""
    folder = machine.runs / run.name
    rows = {}
    for file in ("epochs.csv", "layers.csv"):
        with (folder / file).open() as stream:
            rows[file] = [
                {k: v for k, v in row.items() if "seconds" not in k}
                for row in csv.DictReader(stream)
            ]
    snapshots = {p.name: load_file(p) for p in (folder / "snapshots").iterdir()}
    result = read_result(folder)
    return rows, snapshots, {k: v for k, v in result.items() if "seconds" not in k}


def stopped_after(epoch, run, machine, monkeypatch):
    """Train a run without interruption, and on a machine of its own until an epoch has ended.

    Returns:
        The run, the machine on which it was stopped, and the one on which it was not.
    """
    other = replace(machine, runs=machine.runs / "uninterrupted")
    train(run, other)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        interrupt_after(epoch, patch)
        train(run, machine)
    return run, machine, other


def assert_same(run, one, other):
    (rows, snapshots, result), (rows2, snapshots2, result2) = (
        what_it_left(run, machine) for machine in (one, other)
    )
    assert rows == rows2
    assert result == result2
    assert snapshots.keys() == snapshots2.keys()
    for name, tensors in snapshots.items():
        assert tensors.keys() == snapshots2[name].keys()
        assert all(torch.equal(t, snapshots2[name][k]) for k, t in tensors.items())


def interrupt_after(epochs, monkeypatch):
    """Make the next training stop at the start of an epoch."""
    original = Loop.train_epoch

    def stopping(self, epoch):
        if epoch == epochs:
            raise RuntimeError("pulled the plug")
        return original(self, epoch)

    monkeypatch.setattr(Loop, "train_epoch", stopping)


def train_until(seconds, run, machine):
    """Train in this process, which the kernel kills after some seconds of CPU time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    train(run, machine)


def test_killed_at_random_times_it_ends_as_if_never_interrupted(machine):
    machine = replace(machine, threads=1)  # OpenMP's threads do not live on in a forked process
    run = Run.make("digits", epochs=15, optimizer="adamw", lr=0.01, **SIGN_IN)
    other = replace(machine, runs=machine.runs / "uninterrupted")
    train(replace(run, seed=1), other)  # imports what has to be imported
    began = time.process_time()
    train(run, other)
    whole = time.process_time() - began

    context = multiprocessing.get_context("fork")
    rng = random.Random(0)
    for _ in range(10):
        seconds = rng.uniform(1e-3, whole / 12)  # ten of them never reach the end
        worker = context.Process(target=train_until, args=(seconds, run, machine))
        worker.start()
        worker.join(120)
        worker.kill()  # one that hangs fails, and does not stop the end of this process
        assert worker.exitcode == -signal.SIGPROF
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no file was left in a state that needs setting aside
        train(run, machine)
    assert_same(run, machine, other)


@pytest.mark.parametrize("after", ["backward", "save"])
def test_killed_in_the_middle_of_an_epoch_or_between_its_files(machine, monkeypatch, after):
    # with running statistics; 36 steps
    run = Run.make("digits", model="resnet20", **small_digits(epochs=4, **SIGN_IN))
    other = replace(machine, runs=machine.runs / "uninterrupted")
    train(run, other)
    calls = 0

    def stop(*_args):
        nonlocal calls
        calls += 1
        if calls == (30 if after == "backward" else 3):
            raise RuntimeError("pulled the plug")
        return original(*_args)

    owner, name = (Loop, "step") if after == "backward" else (RunFolder, "save_state")
    original = getattr(owner, name)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        patch.setattr(owner, name, stop)
        train(run, machine)
    assert "plug" in (machine.runs / run.name / "failure.json").read_text()
    train(run, machine)
    assert not (machine.runs / run.name / "failure.json").exists()
    assert_same(run, machine, other)


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/signbench-was-here",)


def spoil(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if how == "garbage":
        path.write_bytes(b"\x00garbage" * 100)
    if how == "empty":
        path.write_bytes(b"")
    if how == "foreign":
        torch.save({"something": 1}, path)
    if how == "malicious":
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))


@pytest.mark.parametrize("how", ["truncated", "garbage", "empty", "foreign", "malicious"])
def test_an_unreadable_state_is_set_aside_and_the_one_before_is_used(machine, monkeypatch, how):
    run = Run.make("digits", **small_digits(epochs=4, **SIGN_IN))
    other = replace(machine, runs=machine.runs / "uninterrupted")
    train(run, other)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        interrupt_after(3, patch)
        train(run, machine)
    folder = machine.runs / run.name
    spoil(folder / "last.pt", how)
    with pytest.warns(UserWarning, match=r"last.pt cannot be used .* set aside"):
        train(run, machine)
    assert (folder / "last.pt.unreadable").exists()
    assert not Path("/tmp/signbench-was-here").exists()
    assert_same(run, machine, other)


def test_with_no_readable_state_it_starts_over(machine, monkeypatch):
    run = Run.make("digits", **small_digits(epochs=3, **SIGN_IN))
    other = replace(machine, runs=machine.runs / "uninterrupted")
    train(run, other)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        interrupt_after(2, patch)
        train(run, machine)
    for file in ("last.pt", "previous.pt"):
        (machine.runs / run.name / file).write_bytes(b"no")
    with pytest.warns(UserWarning) as warned:
        train(run, machine)
    assert len(warned) == 2
    assert_same(run, machine, other)


def test_a_finished_run_is_not_trained_again(machine, monkeypatch):
    run = Run.make("digits", "dense", epochs=1)
    result = train(run, machine)
    monkeypatch.setattr(launch.training.run, "Training", None)
    assert train(run, machine) == result
    said = []
    for there in (machine, replace(machine, data_dir=machine.runs)):
        run_training(run, there, report=said.append)
    text = f"{run.title}: finished before, accuracy {result['accuracy']:.2%}"
    assert said == [text, f"{text}, with the data in {machine.data_dir.resolve()}"]


def test_a_finished_run_gets_its_configuration_back(machine):
    run = Run.make("digits", "random", epochs=1)
    train(run, machine)
    config = machine.runs / run.name / "config.json"
    config.unlink()
    train(run, machine)
    assert read_run(config.parent) == run


def test_a_folder_is_released_though_an_exception_is_kept(machine, monkeypatch):
    folder = RunFolder(Run.make("digits", "random"), machine.runs)

    def fail(*_):
        raise UserError("stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(launch.runs.folder, "write_config", fail)
        with pytest.raises(UserError, match="stale") as kept, folder.opened():
            pass
    with folder.opened():
        assert kept.value.__traceback__ is not None  # as in a notebook


def test_a_run_that_another_process_holds_is_refused(machine):
    run = Run.make("digits", "dense", epochs=1)
    holder = RunFolder(run, machine.runs).opened()
    with holder, pytest.raises(UserError, match="in use by another process"):
        train(run, machine)
    assert train(run, machine)["epochs"] == 1


def test_a_folder_of_another_run_is_refused(machine):
    run = Run.make("digits", "dense", epochs=1)
    with RunFolder(run, machine.runs).opened():
        pass
    path = machine.runs / run.name / "config.json"
    config = read_config(path.parent)
    config["run"]["settings"]["lr"] = 7.0
    path.write_text(json.dumps(seal_json(config)))
    with pytest.raises(UserError, match="other settings"):
        train(run, machine)
    config["run"]["settings"].pop("lr")  # written by a version without the field
    path.write_text(json.dumps(config))
    assert train(run, machine)["epochs"] == 1


def test_settings_of_sign_in_are_no_part_of_a_plain_run(machine, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        interrupt_after(1, patch)
        train(Run.make("digits", "dense", epochs=2), machine)
    assert train(Run.make("digits", "dense", epochs=2, beta=2.0), machine)["epochs"] == 2


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_epoch_before(machine, monkeypatch):
    run = Run.make("digits", epochs=4, **SIGN_IN)
    original = launch.training.loop.forward
    calls = 0

    def forward(*args):
        nonlocal calls
        calls += 1
        output, loss = original(*args)
        return output, loss * float("nan") if calls == 18 * 2 + 6 else loss

    with monkeypatch.context() as patch:
        patch.setattr(launch.training.loop, "forward", forward)
        with pytest.raises(Diverged, match=r"loss is nan at epoch 2, step 5, lr 0\.02672"):
            train(run, machine)
    folder = RunFolder(run, machine.runs)
    assert "nan at epoch 2, step 5" in (folder.path / "failure.json").read_text()
    assert folder.result is None
    state, _ = folder.read_state(LAST_STATE)
    assert state["epoch"] == 1
    assert all(bool(t.isfinite().all()) for t in state["loop"]["model"].values())
    assert train(run, machine)["epochs"] == 4


@pytest.mark.parametrize(
    "choices",
    [
        {"method": "str-target", "lr": 1e6},
        {"method": "str-target", "lr": 1e3, "sign_in": True},
        {"method": "woodfisher", "lr": 100.0},
    ],
)
def test_a_training_that_diverges_says_so_whatever_fails_first(machine, choices):
    with pytest.raises(Diverged, match=r"epoch \d, step \d"):
        train(Run.make("digits", epochs=2, batch_size=128, **choices), machine)


def test_a_weight_that_is_not_finite_is_never_saved(machine, monkeypatch):
    run = Run.make("digits", "dense", epochs=2)
    original = Loop.train_epoch

    def spoiling(self, epoch):
        values = original(self, epoch)
        if epoch == 1:
            self.sparsifier.net.weights["8.weight"].data[0, 0] = float("inf")
        return values

    monkeypatch.setattr(Loop, "train_epoch", spoiling)
    with pytest.raises(Diverged, match="not finite after epoch 1"):
        train(run, machine)
    state, _ = RunFolder(run, machine.runs).read_state(LAST_STATE)
    assert state["epoch"] == 0


def test_a_folder_that_cannot_be_written_is_named(machine):
    machine.runs.parent.mkdir(exist_ok=True)
    machine.runs.write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot write to"):
        train(Run.make("digits", "dense", epochs=1), machine)


@pytest.mark.parametrize(
    "choices",
    [
        {"optimizer": "adamw", "lr": 0.01, "decay_norm_and_bias": False},
        {"clip_norm": 0.5, "label_smoothing": 0.1, "nesterov": True},
        {"precision": "bfloat16", "channels_last": True, "crop_padding": 1, "flip": True},
        {"model": "test_vit", "image_size": 160, "exclude": ("head", "patch_embed*"), "epochs": 1},
        {"warmup": 0.0, "batch_size": 1000, "keep_epochs": (2,)},
    ],
)
def test_settings_are_honoured_in_plain_and_sign_in_runs(machine, image_folder, choices):
    if "model" in choices:
        choices = {**choices, "data": str(image_folder), "batch_size": 8}
    for sign_in in (False, True):
        run = Run.make("digits", "random", sign_in=sign_in, **{"epochs": 2, **choices})
        result = train(run, machine)
        assert result["active"] == result["prunable"] - round(0.9 * result["prunable"])
        epochs = {0, 1, result["epochs"], *run.keep_epochs}
        kept = {f"epoch-{e}.safetensors" for e in epochs}
        assert {p.name for p in (machine.runs / run.name / "snapshots").iterdir()} == kept


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_images_have_the_memory_format_in_training_and_evaluation(machine, tmp_path, kind):
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8)).astype(kind)
    arrays = {"x_train": images, "y_train": np.arange(64) % 10, "x_test": images[:9]}
    np.savez(tmp_path / "set.npz", y_test=np.arange(9), **arrays)
    choices = {"data": str(tmp_path / "set.npz"), "model": "resnet20"}
    for last in (False, True):
        run, cpu = Run.make("digits", "random", channels_last=last, **choices), torch.device("cpu")
        data = load_data(run.settings, machine.data_dir, cpu, 0, Share(), 0)
        loop = build_loop(run, data, Ranks(0, 1, cpu), bar=False)
        loop.start()
        seen = []
        loop.plain_model.register_forward_pre_hook(lambda _, given, seen=seen: seen.extend(given))
        loop.train_epoch(0)
        loop.evaluate()
        assert [len(x) for x in seen] == [64, 9]
        assert all(x.is_contiguous(memory_format=memory_format(run.settings)) for x in seen)


def test_snapshots_hold_the_effective_network_and_its_masks(machine):
    plain = Run.make("digits", "random", epochs=2, seed=3)
    sign_in = replace(plain, sign_in=True)
    states = {}
    for run in (plain, sign_in):
        train(run, machine)
        folder = RunFolder(run, machine.runs)
        states[run.sign_in] = [load_file(snapshot_path(folder.path, e)) for e in (0, 2)]
    assert states[True][0].keys() == states[False][0].keys()
    for key, start in states[False][0].items():  # the same network and mask to start from
        assert torch.equal(start, states[True][0][key])
    for first, last in states.values():
        masks = {k.removeprefix("mask:"): m for k, m in last.items() if k.startswith("mask:")}
        for name, mask in masks.items():
            assert torch.equal(first["mask:" + name], mask)
            assert torch.equal(last[name] != 0, mask)


def slow_flips(before, after, mask):
    pairs = zip(before[mask].tolist(), after[mask].tolist(), strict=True)
    pairs = [(b, a) for b, a in pairs if b != 0 and a != 0]
    return sum(a * b < 0 for b, a in pairs), len(pairs)


@pytest.mark.parametrize("choices", [SIGN_IN, {"method": "set", "sparsity": 0.8}])
def test_rows_say_what_the_snapshots_show(machine, choices):
    run = Run.make("digits", epochs=3, keep_epochs=(1, 2), **choices)
    result = train(run, machine)
    rows, snapshots, _ = what_it_left(run, machine)
    states = [snapshots[f"epoch-{e}.safetensors"] for e in range(4)]
    for row in rows["layers.csv"]:
        done, name = int(row["epoch"]) + 1, row["layer"]
        moments = {"init": 0, "previous": done - 1, "warmup": 1}
        for prefix, mask in (
            ("", states[done]["mask:" + name]),
            ("final_", states[3]["mask:" + name]),
        ):
            for moment, then in moments.items():
                found = row[f"{prefix}flips_{moment}"], row[f"{prefix}compared_{moment}"]
                expected = slow_flips(states[then][name], states[done][name], mask)
                if moment == "warmup" and done == 1:
                    assert found == ("", "")
                else:
                    assert tuple(map(int, found)) == expected
        assert int(row["active"]) == int(states[done]["mask:" + name].sum())
    last = [row for row in rows["layers.csv"] if row["epoch"] == "2"]
    share = sum(int(r["flips_init"]) for r in last) / sum(int(r["compared_init"]) for r in last)
    assert float(rows["epochs.csv"][-1]["flips"]) == pytest.approx(share) == result["flips"]
    assert [row["epoch"] for row in rows["epochs.csv"]] == ["0", "1", "2"]
    lrs = [float(row["lr"]) for row in rows["epochs.csv"]]
    assert lrs[0] > lrs[1] > lrs[2] > 0
    assert not (machine.runs / run.name / "signs").exists()


def test_costs_follow_the_densities(machine):
    dense = train(Run.make("digits", "dense", epochs=2), machine)
    # digits-cnn by hand: outputs × weights of each layer, two operations each
    by_hand = 2 * (64 * 216 + 16 * 10368 + 16 * 20736 + 1920)
    assert dense["dense_flops"] == dense["flops"] == by_hand
    assert dense["dense_epochs"] == 2
    short = train(Run.make("digits", "dense", **small_digits(epochs=2)), machine)
    assert short["training_flops"] == 2 * (STEPS * BATCH) * 3 * by_hand  # backward counts twice
    sparse_run = Run.make("digits", "random", density="uniform", sparsity=0.75, epochs=2)
    sparse = train(sparse_run, machine)
    assert sparse["flops"] == pytest.approx(by_hand / 4, rel=1e-3)
    assert sparse["dense_epochs"] == pytest.approx(0.5, rel=1e-3)
    assert sparse["training_flops"] == pytest.approx(dense["training_flops"] / 4, rel=1e-3)
    halved = train(Run.make("digits", "gmp", sparsity=0.75, epochs=2), machine)
    assert 0.5 < halved["dense_epochs"] < 2


@pytest.mark.parametrize("method", ["topkast", "str-target", "srste"])
def test_methods_without_masks_cost_what_their_nonzero_weights_do(machine, method):
    run = Run.make("digits", method, sparsity=0.9, epochs=3)
    result = train(run, machine)
    rows = read_layers(machine.runs / run.name)
    early = [row["nonzero"] / row["weights"] for row in rows if row["epoch"] == 1]
    assert min(early) < 0.9 and {row["density"] for row in rows if row["epoch"] == 1} == {1.0}
    outputs = {216: 64, 10368: 16, 20736: 16, 1920: 1}  # of the layers of digits-cnn, by size
    spent = sum(row["nonzero"] * outputs[row["weights"]] for row in rows)
    assert result["dense_epochs"] == pytest.approx(
        spent / sum(size * n for size, n in outputs.items())
    )


@pytest.mark.parametrize("device", ["cpu", on_gpu("cuda")])
@pytest.mark.parametrize("kind", ["attention", "encoder", "lstm", "gru", "rnn"])
def test_operations_are_those_of_the_weights_that_take_part(kind, device):
    length, d = 6, 8
    if kind == "attention":
        model = Attention(d)
    elif kind == "encoder":
        model = nn.TransformerEncoderLayer(d, 2, 16, batch_first=True)
    else:
        model = getattr(nn, kind.upper())(d, d, batch_first=True)
        share_storage(model)
    model.to(device)
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim == 2}
    libraries = torch.backends.mkldnn, torch.backends.cudnn
    used = [library.enabled for library in libraries]
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.extend(x.enabled for x in libraries))
    flops = count_flops(model, weights, torch.randn(1, length, d, device=device))
    assert seen == [False, False] and [library.enabled for library in libraries] == used
    assert flops.layers == {name: 2 * length * w.numel() for name, w in weights.items()}
    scores = 2 * (2 * length * length * d) if kind in ("attention", "encoder") else 0  # QKᵀ, AV
    assert flops.total == sum(flops.layers.values()) + scores
    assert flops.at(dict.fromkeys(weights, 0.0)) == scores


def share_storage(model):
    """Put all parameters into one storage, as recurrent layers on a GPU do."""
    flat = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(flat, model.parameters())
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == 1


class Products(nn.Module):
    """Multiplies by a weight entry by entry, without a product that is counted."""

    def __init__(self, classes, channels, image_size):
        super().__init__()
        self.layer = nn.Bilinear(64, 1, classes)

    def forward(self, x):
        return self.layer(x.flatten(1), x.new_ones(len(x), 1))


def test_a_model_without_counted_operations_has_no_costs(machine):
    result = train(Run.make("digits", "random", model=f"{__name__}:Products", epochs=1), machine)
    assert result["prunable"] == 640 and "flops" not in result and "dense_epochs" not in result


class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.mix = nn.MultiheadAttention(d, 2, batch_first=True)

    def forward(self, x):
        return self.mix(x, x, x)[0]


def test_flips_do_not_count_what_is_or_was_zero():
    before = {"a": torch.tensor([1.0, -2.0, 0.0, 3.0, -1.0])}
    after = {"a": torch.tensor([-1.0, -2.0, 5.0, 0.0, 4.0])}
    masks = {"a": torch.tensor([True, True, True, True, False])}
    assert count_flips(signs(before), after, masks) == {"a": (1, 2)}


def test_sign_in_rescales_until_t2(machine, monkeypatch):
    epochs = []
    original = SparseModel.rescale

    def rescale(self, reset_state=False):
        original(self, reset_state)
        epochs.append(len(epochs))

    monkeypatch.setattr(SparseModel, "rescale", rescale)
    choices = small_digits(epochs=10, **SIGN_IN)
    train(Run.make("digits", rescale_until=0.5, **choices), machine)
    assert len(epochs) == 4  # before i = 1, 2, 3, 4 < T2 = 5
    epochs.clear()
    train(Run.make("digits", rescale_period=0, **choices), machine)
    assert not epochs


def test_weight_decay_of_sign_in_replaces_the_recipes(machine):
    def decays(**choices):
        run = Run.make("digits", "random", weight_decay=0.3, **choices)
        data = load_data(run.settings, machine.data_dir, torch.device("cpu"), 0, Share(), 0)
        loop = build_loop(run, data, Ranks(0, 1, torch.device("cpu")), bar=False)
        return [group["weight_decay"] for group in loop.optimizer.param_groups]

    assert decays() == [0.3, 0.3]
    assert decays(decay_norm_and_bias=False) == [0.3, 0.0]
    assert decays(sign_in=True, sign_in_weight_decay=0.1) == [0.1, 0.1]
    both = {"sign_in_weight_decay": 0.1, "sign_in_decay_scope": "factors"}
    assert decays(sign_in=True, **both) == [0.1, 0.3]


def test_a_collapsed_run_is_a_failed_run(machine):
    """Published STR that prunes whole layers has no accuracy at the requested sparsity."""
    choices = {"s_init": -20.0, "threshold_decay": 0.2, "epochs": 10}
    run = Run.make("digits", "str", **choices)
    reason = r"does not depend on the input: sparsity 0.99\d\d instead of 0.9, with no weight left"
    for _ in range(2):  # also when it is started again
        with pytest.raises(Collapsed, match=reason):
            train(run, machine)
        failure = json.loads((machine.runs / run.name / "failure.json").read_text())
        assert re.match("Collapsed: the output " + reason, failure["reason"])
        assert not (machine.runs / run.name / "result.json").exists()


def test_a_dead_network_at_the_requested_sparsity_is_a_result(machine):
    run = Run.make("digits", "random", sparsity=0.9999, epochs=1)  # fewer weights than layers
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = train(run, machine)
    first, *_, last = [str(warning.message) for warning in caught]
    assert "does not depend on its input" in first
    assert re.match(r"the output does not depend on the input: sparsity 0.9999, with no", last)
    assert result["accuracy"] < 0.2 and result["tolerance"] == 0.0


def test_the_seed_decides_everything(machine):
    a = Run.make("digits", "random", epochs=1, seed=1)
    result = train(a, machine)
    again = train(a, replace(machine, runs=machine.runs / "again"))
    other = train(replace(a, seed=2), machine)
    assert result["mask_hash"] == again["mask_hash"] != other["mask_hash"]
    assert result["accuracy"] == again["accuracy"]
    assert mix(1, 2) != mix(2, 1)


def test_two_ranks_hold_the_same_network_and_share_its_record(machine, tmp_path):
    script = Path(__file__).with_name("two_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node=2", str(script), str(tmp_path)],
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key
    alone = torch.load(tmp_path / "alone.pt", weights_only=True)
    for key, value in alone.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, one[f"joint.{key}"], rtol=0, atol=1e-14)
    finished = list((tmp_path / "runs").glob("*/result.json"))
    assert [json.loads(f.read_text())["ranks"] for f in finished] == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_entry_that_is_not_finite_is_found(dtype):
    assert is_finite(torch.empty(0)) and is_finite(torch.tensor(1.0))
    for bad in (math.nan, math.inf, -math.inf):
        tensor = torch.randn(1000).to(dtype)
        assert is_finite(tensor)
        tensor[777] = bad
        assert not is_finite(tensor)
