"""Checked files: damage of states and snapshots is found, and the state before is used."""

from __future__ import annotations

import errno
import os
import random
import shutil
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_launch_train import assert_same, stopped_after, train
from torch_settings import THREADS

import launch.runs.folder
import launch.runs.provenance
from analysis.checked import BrokenFile, UnreadableFile, is_sealed, seal_json, unseal_json
from analysis.folder import (
    CONFIG,
    EPOCHS,
    LAST_STATE,
    LAYERS,
    PREVIOUS_STATE,
    RESULT,
    read_config,
    read_epochs,
    read_failure,
    read_layers,
    read_result,
    signs_path,
    snapshot_path,
)
from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from launch.config.machine import Machine
from launch.config.run import Run
from launch.runs import atomic
from launch.runs.archives import load_archive, save_archive
from launch.runs.atomic import write_json
from launch.runs.checkpoints import read_checkpoint
from launch.runs.folder import RunFolder
from launch.runs.provenance import write_config
from launch.runs.snapshots import read_snapshot, write_snapshot
from launch.runs.tensors import digest_of_tensors, load_tensors, save_tensors
from launch.training.check import check_runs
from launch.training.loop import Loop
from launch.training.run import run_training
from launch.training.state import rows_of

TENSORS = {
    "a": torch.randn(5, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "mask:a": torch.rand(5, 3) > 0.5,
    "count": torch.tensor(3),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """Train a run and stop it after three of four epochs, and once without interruption."""
    root = tmp_path_factory.mktemp("stopped")
    machine = Machine(runs=root, data_dir=root, device="cpu", workers=0, threads=THREADS)
    run = Run.make("digits", "rigl", epochs=4, sign_in=True)
    with pytest.MonkeyPatch.context() as patch:
        return stopped_after(3, run, machine, patch)


@pytest.fixture
def stopped(stopped_once, machine):
    """Return copies of a run that was stopped after three of four epochs, and one that was not."""
    run, trained, _ = stopped_once
    shutil.copytree(trained.runs, machine.runs)
    return run, machine, replace(machine, runs=machine.runs / "uninterrupted")


def flipped(data, rng, count=1):
    """Return data with so many random bits reversed."""
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_each_reversed_bit_is_found_or_harmless(tmp_path, name):
    save, load = (save_archive, load_archive) if name == "x.pt" else (save_tensors, load_tensors)
    path, rng = tmp_path / name, random.Random(0)
    save(TENSORS, path)
    data = path.read_bytes()
    for i in range(300):
        path.write_bytes(flipped(data, rng, count=1 + i % 3 * 8))
        try:
            found = load(path)
        except BrokenFile as error:
            assert name in str(error)
        else:  # a flag of an archive that nobody reads
            assert digest_of_tensors(found) == digest_of_tensors(TENSORS)
    for size in (0, 1, 10, len(data) // 2, len(data) - 73, len(data) - 1):
        path.write_bytes(data[:size])
        if size != len(data) - 73:  # whole, without the digest
            with pytest.raises(BrokenFile):
                load(path)


def test_other_readers_can_read_checked_files(tmp_path):
    save_archive(TENSORS, tmp_path / "x.pt")
    save_tensors(TENSORS, tmp_path / "x.safetensors")
    for found in (torch.load(tmp_path / "x.pt"), load_file(tmp_path / "x.safetensors")):
        assert all(torch.equal(found[name], t) for name, t in TENSORS.items())


def test_files_of_others_have_no_digest(tmp_path):
    torch.save(TENSORS, tmp_path / "x.pt")
    metadata = {"format": "pt", "model_hash": "ab" * 32, "notes": "x" * 200}
    save_file(TENSORS, tmp_path / "x.safetensors", metadata=metadata)
    for found in (load_archive(tmp_path / "x.pt"), load_tensors(tmp_path / "x.safetensors")):
        assert found.keys() == TENSORS.keys()
    assert not is_sealed(tmp_path / "x.pt")
    torch.save(TENSORS, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert load_archive(tmp_path / "x.pt").keys() == TENSORS.keys()


def test_a_weight_that_a_file_has_under_many_names_is_copied_once(tmp_path):
    """As one layer that is used six times: the copies had more than four times the file's bytes."""
    weight = torch.randn(100, 100)
    torch.save({**{f"{i}.weight": weight for i in range(6)}, "row": weight[3]}, tmp_path / "x.pt")
    for found in (read_checkpoint(tmp_path / "x.pt").weights, load_archive(tmp_path / "x.pt")):
        assert all(torch.equal(found[f"{i}.weight"], weight) for i in range(6))
        assert torch.equal(found["row"], weight[3])
        assert len({found[f"{i}.weight"].data_ptr() for i in range(6)}) == 1


def test_a_runs_own_snapshots_are_read_without_limits_of_size_and_type(tmp_path, monkeypatch):
    run = Run.make("digits", "random")
    folder = tmp_path / run.name
    folder.mkdir()
    write_config(folder, run)
    weights = {"w": torch.ones(4, 4), "buffer": torch.full((3,), 1 + 2j)}
    write_snapshot(folder, run.name, 0, Checkpoint(weights, {"w": torch.ones(4, 4).bool()}))
    monkeypatch.setenv("SIGNBENCH_MAX_CHECKPOINT_BYTES", "100")
    found = read_snapshot(folder, "init").weights
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    copy = shutil.copy(snapshot_path(folder, 0), tmp_path / "copy.safetensors")
    with pytest.raises(UserError, match="above the limit of 100"):
        read_checkpoint(Path(copy))
    monkeypatch.delenv("SIGNBENCH_MAX_CHECKPOINT_BYTES")
    with pytest.raises(UserError, match="buffer is a tensor of type complex64"):
        read_checkpoint(Path(copy))


def test_a_list_that_a_file_has_many_times_is_copied_once(tmp_path):
    nested = [1, torch.ones(2)]
    for _ in range(40):  # 2^40 lists if each is copied
        nested = [nested, nested]
    torch.save({"x": nested}, tmp_path / "x.pt")
    found = load_archive(tmp_path / "x.pt")["x"]
    for _ in range(40):
        found = found[1]
    assert found[0] == 1 and found[1].tolist() == [1.0, 1.0]


def test_digests_without_labels_are_verified(tmp_path):
    path = tmp_path / "x"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    path.write_bytes(f"abc\nsha256 {digest}\n".encode())
    assert is_sealed(path, label="one")
    path.write_bytes(f"abd\nsha256 {digest}\n".encode())
    with pytest.raises(BrokenFile, match="damaged"):
        is_sealed(path)


def test_the_checksums_of_files_of_others_are_verified(tmp_path):
    path, rng, bad = tmp_path / "x.pt", random.Random(0), 0
    torch.save({"a": torch.randn(10_000)}, path)
    whole, data = load_archive(path)["a"], path.read_bytes()
    for _ in range(100):
        path.write_bytes(flipped(data, rng))
        try:
            assert torch.equal(load_archive(path)["a"], whole)
        except BrokenFile:
            bad += 1
    assert bad > 90


def test_compressed_archives_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as there,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in there.infolist():
            bomb.writestr(entry.filename, there.read(entry))
    with pytest.raises(BrokenFile, match="compressed"):
        load_archive(tmp_path / "y.pt")


def test_json_without_its_digest_or_with_another_is_refused(tmp_path):
    value = {"a": 0.1, "b": [1, {"c": None}]}
    sealed = seal_json(value)
    assert unseal_json(sealed, tmp_path) == unseal_json(value, tmp_path) == value
    for change in ({"a": 0.2}, {"format": 1}, {"sha256": "0" * 64}, {"more": 1}):
        with pytest.raises(BrokenFile, match="damaged"):
            unseal_json({**sealed, **change}, tmp_path)
    for key in sealed:
        with pytest.raises(BrokenFile, match="damaged"):
            unseal_json({k: v for k, v in sealed.items() if k != key}, tmp_path)


def test_a_file_in_the_place_of_another_one_is_refused(stopped):
    run, machine, other = stopped
    folder = machine.runs / run.name
    twin = replace(run, seed=1)
    train(twin, machine)
    save_archive({}, folder / LAST_STATE, twin.name)
    state, problem = RunFolder(run, machine.runs).read_state(LAST_STATE)
    assert state is None and f"in the place of {run.name}: {twin.name}" in problem
    for epoch, place in ((0, 1), (1, 0)):
        path = snapshot_path(folder, place)
        path.write_bytes(snapshot_path(other.runs / run.name, epoch).read_bytes())
        with pytest.raises(BrokenFile, match=rf"in the place of {run.name}@{place}"):
            read_snapshot(folder, str(place))
    (folder / "result.json").write_text((machine.runs / twin.name / "result.json").read_text())
    with pytest.raises(BrokenFile, match="is that of another run"):
        read_result(folder)


# ---- states that are not what they should be


def rewrite(path, change):
    """Change a state and save it as if it were intact."""
    state = load_archive(path)
    change(state)
    save_archive(state, path, path.parent.name)


def groups(state):
    """Return the groups of the optimizer in a state."""
    return state["loop"]["optimizer"]["param_groups"]


def momentum(state):
    return next(iter(state["loop"]["optimizer"]["state"].values()))


def change_signs(kept):
    for name, sign in kept.items():
        kept[name] = torch.quantize_per_tensor(sign.float(), 1.0, 0, torch.qint8)


CHANGES = {
    "an epoch beyond the end": lambda s: s.update(epoch=99),
    "an epoch before": lambda s: s.update(epoch=1),
    "a negative epoch": lambda s: s.update(epoch=-3),
    "no number": lambda s: s.update(epoch=None),
    "an empty loop": lambda s: s.update(loop={}),
    "no model": lambda s: s["loop"].pop("model"),
    "another model": lambda s: s["loop"].update(model={"x": torch.ones(2)}),
    "another shape": lambda s: s["loop"]["model"].update({"0.weight": torch.ones(3, 3)}),
    "a mask that is none": lambda s: s["loop"]["sparsifier"]["net"]["masks"].popitem(),
    "another momentum": lambda s: momentum(s).update(momentum_buffer=torch.ones(7)),
    "another weight decay": lambda s: groups(s)[-1].update(weight_decay=7.0),
    "a flag of another type": lambda s: groups(s)[-1].update(nesterov=[]),
    "no groups": lambda s: s["loop"]["optimizer"].update(param_groups=[]),
    "signs of nothing": lambda s: s.update(signs={}),
    "signs of another shape": lambda s: s["signs"]["init"].update({"0.weight": torch.ones(1)}),
    "signs of another type": lambda s: change_signs(s["signs"]["init"]),
    "other entries": lambda s: s.clear(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_state_that_does_not_fit_is_set_aside_and_the_one_before_is_used(stopped, what):
    run, machine, other = stopped
    folder = machine.runs / run.name
    rewrite(folder / LAST_STATE, CHANGES[what])
    with pytest.warns(UserWarning, match=r"last.pt cannot be used .* set aside"):
        train(run, machine)
    assert (folder / "last.pt.unreadable").exists()
    assert_same(run, machine, other)


def contents(folder):
    """Return the states in a folder, by their files."""
    return {path.name: path.read_bytes() for path in folder.glob("*.pt*")}


@pytest.mark.parametrize(
    "change, reason",
    [
        (CHANGES["another momentum"], "momentum_buffer has shape"),
        (CHANGES["another shape"], "size mismatch for 0.weight"),
        (lambda s: s.update(data="others"), "it was trained on other data"),
    ],
)
def test_if_no_state_fits_the_run_is_refused_and_the_states_stay(stopped, change, reason):
    run, machine, _ = stopped
    folder = machine.runs / run.name
    for file in (LAST_STATE, PREVIOUS_STATE):
        rewrite(folder / file, change)
    before = contents(folder)
    with pytest.raises(UserError, match=rf"last\.pt does not fit: .*{reason}.*remove the run"):
        train(run, machine)
    assert contents(folder) == before and "does not fit" in read_failure(folder)["reason"]


def test_if_the_one_state_that_is_not_damaged_does_not_fit_the_run_is_refused(stopped):
    run, machine, _ = stopped
    folder = machine.runs / run.name
    (folder / LAST_STATE).write_bytes(b"no")
    rewrite(folder / PREVIOUS_STATE, CHANGES["another shape"])
    with (
        pytest.warns(UserWarning, match=r"last.pt cannot be used .* set aside"),
        pytest.raises(UserError, match=r"previous\.pt does not fit"),
    ):
        train(run, machine)
    assert set(contents(folder)) == {"last.pt.unreadable", PREVIOUS_STATE}


def test_an_error_of_the_gpu_sets_no_state_aside(stopped, monkeypatch):
    run, machine, other = stopped

    def fail(*_):
        raise RuntimeError("CUDA error: unspecified launch failure")

    before = contents(machine.runs / run.name)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="CUDA error"):
        patch.setattr(Loop, "load_state_dict", fail)
        train(run, machine)
    assert contents(machine.runs / run.name) == before
    train(run, machine)
    assert_same(run, machine, other)


@pytest.mark.parametrize("file", [LAST_STATE, CONFIG, "signs/epoch-2.npy"])
def test_a_file_that_the_system_fails_to_read_is_not_set_aside(stopped, monkeypatch, file):
    run, machine, other = stopped
    folder = machine.runs / run.name
    before = {path: path.read_bytes() for path in (folder / CONFIG, folder / EPOCHS)}
    with monkeypatch.context() as patch:
        fail_to_read(folder / file, errno.ESTALE, patch)
        with pytest.raises(UserError, match=rf"{file} cannot be read \(Stale file handle\), but"):
            train(run, machine)
    assert not list(folder.rglob("*.unreadable"))
    assert file.startswith("signs") or before == {path: path.read_bytes() for path in before}
    train(run, machine)
    assert_same(run, machine, other)


def test_a_finished_run_whose_result_the_system_fails_to_read_is_not_trained(machine, monkeypatch):
    run = Run.make("digits", "dense", epochs=1)
    result = train(run, machine)
    path = machine.runs / run.name / RESULT
    text = path.read_text()
    with monkeypatch.context() as patch:
        fail_to_read(path, errno.EACCES, patch)
        with pytest.raises(UserError, match=r"result\.json cannot be read \(Permission denied\)"):
            train(run, machine)
        with pytest.raises(UnreadableFile):
            check_runs([run], machine)
        with pytest.raises(UnreadableFile), RunFolder(run, machine.runs).opened():
            raise AssertionError("it is opened")
    assert path.read_text() == text and train(run, machine) == result


def fail_to_read(path, number, patch):
    original = os.open

    def fail(name, *arguments, **options):
        if Path(name) == path:
            raise OSError(number, os.strerror(number), str(name))
        return original(name, *arguments, **options)

    patch.setattr(os, "open", fail)


def test_what_differs_where_a_run_resumes_is_noted(stopped, monkeypatch):
    run, machine, _ = stopped
    folder = machine.runs / run.name
    first = read_config(folder)
    first["versions"]["torch"], first["git"] = "1.13", "a" * 40
    write_json(folder / CONFIG, first)
    now = {"git": "b" * 40, "git_dirty": first["git_dirty"]}
    monkeypatch.setattr(launch.runs.provenance, "git_state", lambda: now)
    with pytest.warns(UserWarning) as warned:
        train(run, replace(machine, data_dir=machine.runs))
    assert sorted(str(w.message).split(" resumes with ")[1] for w in warned) == [
        f"revision {'b' * 12}; it began with {'a' * 12}.",
        f"torch {version('torch'):.12}; it began with 1.13.",
    ]
    (resumed,) = read_config(folder)["resumed"]
    assert resumed == {
        "epoch": 3,
        "versions.torch": version("torch"),
        "git": "b" * 40,
        "data_dir": str(machine.runs.resolve()),
    }
    assert {**read_config(folder), "resumed": None} == {**first, "resumed": None}


def test_a_pipe_in_place_of_a_state_does_not_block(stopped):
    run, machine, other = stopped
    path = machine.runs / run.name / LAST_STATE
    path.unlink()
    os.mkfifo(path)
    with pytest.warns(UserWarning, match="not a regular file"):
        train(run, machine)
    assert_same(run, machine, other)


def test_a_damaged_snapshot_is_refused(stopped):
    run, machine, _ = stopped
    path = snapshot_path(machine.runs / run.name, 1)
    path.write_bytes(flipped(path.read_bytes(), random.Random(1)))
    with pytest.raises(BrokenFile, match="epoch-1"):
        load_tensors(path)


# ---- signs


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


LOSSES = {
    "removed": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\x93NUMPY" + b"\xff" * 100),
    "another shape": lambda path: np.save(path, np.zeros((2, 5), np.uint8)),
    "another type": lambda path: np.save(path, np.load(path).astype(float)),
    "a shorter digest": truncated,
    "a damaged digest and array": lambda path: path.write_bytes(
        path.read_bytes().replace(b"sha256", b"sha257").replace(b"\x00", b"\x01")
    ),
    "a reversed bit": lambda path: path.write_bytes(flipped(path.read_bytes(), random.Random(0))),
    "objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
}


@pytest.mark.parametrize("what", LOSSES)
def test_lost_signs_leave_empty_cells_and_the_result_as_it_is(stopped, what):
    run, machine, other = stopped
    folder = machine.runs / run.name
    LOSSES[what](signs_path(folder, 2))
    with pytest.warns(UserWarning, match=r"flips of some epochs stay empty: .*epoch.2"):
        train(run, machine)
    assert read_result(folder)["loss"] == read_result(other.runs / run.name)["loss"]
    empty, all_rows = {}, read_layers(other.runs / run.name)
    for row, whole in zip(read_layers(folder), all_rows, strict=True):
        assert row == {k: v for k, v in whole.items() if k in row}
        empty.setdefault(row["epoch"], set()).update(whole.keys() - row.keys())
    moments = ("init", "previous", "warmup")
    names = {f"final_{kind}_{m}" for kind in ("flips", "compared") for m in moments}
    assert empty[1] == names
    assert empty[2] == {name for name in names if "previous" in name}
    assert not empty[0] and not empty[3]


def test_lost_signs_at_the_end_of_the_warm_up(stopped):
    run, machine, other = stopped
    folder = machine.runs / run.name
    signs_path(folder, 1).unlink()
    with pytest.warns(UserWarning, match="flips of some epochs"):
        train(run, machine)
    rows = [r for f in (folder, other.runs / run.name) for r in read_layers(f) if r["epoch"] == 3]
    assert rows[: len(rows) // 2] == rows[len(rows) // 2 :]


# ---- rows and snapshots


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [Path.unlink, emptied, truncated])
@pytest.mark.parametrize("file", [EPOCHS, LAYERS])
def test_rows_that_are_lost_between_stop_and_resume_are_in_the_state(stopped, file, damage):
    run, machine, other = stopped
    damage(machine.runs / run.name / file)
    train(run, machine)
    assert_same(run, machine, other)


def test_a_lost_snapshot_is_named(stopped):
    run, machine, other = stopped
    snapshot_path(machine.runs / run.name, 1).unlink()
    with pytest.warns(UserWarning, match=r"a snapshot is lost: .*epoch-1"):
        train(run, machine)
    assert (
        read_result(machine.runs / run.name)["loss"] == read_result(other.runs / run.name)["loss"]
    )


@pytest.mark.parametrize("damage", [Path.unlink, emptied, truncated])
@pytest.mark.parametrize("read", [read_epochs, read_layers])
def test_rows_of_a_finished_run_that_have_changed_are_refused(stopped, read, damage):
    run, _, other = stopped
    folder = other.runs / run.name
    assert len(read(folder)) >= 4
    damage(folder / (EPOCHS if read is read_epochs else LAYERS))
    with pytest.raises(BrokenFile, match="damaged"):
        read(folder)


# ---- ends


@pytest.mark.parametrize("ranks", [False, True])
def test_a_kill_between_the_result_and_the_removal_of_states_is_tidied_up(
    machine, monkeypatch, ranks
):
    run = Run.make("digits", "dense", epochs=2)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        patch.setattr(RunFolder, "tidy", lambda self: pull_the_plug())
        train(run, machine)
    folder = machine.runs / run.name
    assert (folder / LAST_STATE).exists() and (folder / "signs").exists()
    if ranks:  # as torchrun does
        monkeypatch.setenv("RANK", "0")
    said = []
    run_training(run, machine, report=said.append, bar=False)
    assert "finished before, accuracy" in said[0]
    left = {path.name for path in folder.iterdir()}
    assert not left & {LAST_STATE, PREVIOUS_STATE, "signs"}


def pull_the_plug():
    raise RuntimeError("pulled the plug")


def test_a_damaged_result_is_set_aside_and_made_again(machine):
    run = Run.make("digits", "dense", epochs=1)
    result = train(run, machine)
    path = machine.runs / run.name / "result.json"
    path.write_text(path.read_text().replace('"accuracy": 0.', '"accuracy": 0.9'))
    with pytest.warns(UserWarning, match=r"result.json cannot be used .* set aside"):
        again = train(run, machine)
    assert again["loss"] == result["loss"] == read_result(path.parent)["loss"]


def test_on_a_full_disk_the_file_that_failed_is_named(machine, monkeypatch):
    def full(state, path, label):
        monkeypatch.setattr(atomic, "write_text", write_nothing)  # nor can the failure be
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def write_nothing(path, _text):
        raise UserError(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr(launch.runs.folder, "save_archive", full)
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: No space left on device"):
        train(Run.make("digits", "dense", epochs=1), machine)


def test_the_numbers_of_ranks_are_kept(stopped):
    run, machine, _ = stopped

    def two_ranks(state):
        epochs, _ = rows_of(state)
        for row in epochs[:2]:
            row["ranks"] = 2
        state["rows"] = atomic.CsvText().extended(epochs), state["rows"][1]

    rewrite(machine.runs / run.name / LAST_STATE, two_ranks)
    result = train(run, machine)
    assert result["ranks"] == 1 and result["all_ranks"] == [2, 1]
