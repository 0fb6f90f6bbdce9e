"""Commands that list, show, retry and remove runs, and what is checked before a run is made."""

from __future__ import annotations

import json
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from synthetic_runs import write_runs

import launch.executors.status
from analysis.folder import find_snapshots
from baselines.errors import UserError
from launch.cli import main
from launch.commands.run import parse_run
from launch.commands.selection import Selection
from launch.commands.states import chosen_statuses
from launch.config.cluster import Cluster
from launch.config.machine import Machine
from launch.config.run import Run
from launch.console import duration
from launch.executors.estimate import time_left
from launch.executors.progress import Progress
from launch.executors.status import Status
from launch.runs.atomic import write_json
from launch.runs.provenance import write_config
from launch.runs.reading import read_run
from launch.training.check import check_runs

FLAGS = "--epochs 1 --threads 1 --device cpu"


@pytest.fixture
def root(tmp_path, capsys):
    """Return a folder with two finished runs, one that failed and one that was stopped."""
    for method in ("random", "snip", "gmp", "rigl"):
        assert main(["run", "--method", method, *FLAGS.split(), "--runs", str(tmp_path)]) == 0
    for pattern, reason in (("*gmp*", "Diverged: loss is nan"), ("*rigl*", "")):
        (folder,) = tmp_path.glob(pattern)
        (folder / "result.json").unlink()
        if reason:
            (folder / "failure.json").write_text(json.dumps({"reason": reason}))
    capsys.readouterr()
    return tmp_path


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_help_names_the_actions_and_each_has_its_own(capsys):
    assert main(["runs", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {action} " in shown for action in ("list", "show", "retry", "remove"))
    assert "signbench runs ACTION" in shown
    with pytest.raises(SystemExit):
        main(["runs", "retry", "--help"])
    assert "usage: signbench runs retry" in capsys.readouterr().out


def test_list_has_the_selected_runs(root, capsys):
    flags = ["--runs", str(root)]
    assert main(["runs", "list", *flags]) == 0
    *rows, summary = lines(capsys)
    assert summary == "1 stopped, 1 failed, 2 finished"
    assert [row.split()[0] for row in rows] == ["stopped", "failed", "finished", "finished"]
    assert "%" in rows[2] and "(epochs=1)" in rows[2]
    for selection, methods in (
        (["--failed"], ["gmp"]),
        (["--where", "state=stopped,failed"], ["rigl", "gmp"]),
        (["--where", "method=random,snip", "accuracy>0"], ["random", "snip"]),
        (["--where", "method!=random", "state=finished"], ["snip"]),
        (["--where", "method=gmp,rigl", "state=running,stopped"], ["rigl"]),
    ):
        assert main(["runs", "list", *flags, *selection]) == 0
        assert [row.split("-")[1] for row in lines(capsys)[:-1]] == methods
        assert main(["status", *flags, *selection]) == 0
        assert [row.split("-")[1] for row in lines(capsys)[:-1]] == methods
    assert main(["runs", "list", "*snip*", str(root / "digits-gm*"), *flags]) == 0
    assert [row.split("-")[1] for row in lines(capsys)[:-1]] == ["gmp", "snip"]
    for where in (("state=runing",), ("state=runing", "method=gmp")):
        with pytest.raises(UserError, match="state=runing: .* running, waiting, stopped, canc"):
            chosen_statuses(Selection(root, where))


def test_show_has_result_and_command(root, capsys):
    assert main(["runs", "show", "digits-snip-*", "--runs", str(root)]) == 0
    shown = lines(capsys)
    (command,) = (line for line in shown if line.startswith("  command: "))
    (folder,) = root.glob("*snip*")
    assert parse_run(shlex.split(command)[3:]).run.name == folder.name
    assert "  sparsity: 0.9" in "\n".join(shown) and f"  folder: {folder}" in shown
    assert main(["runs", "show", "--failed", "--runs", str(root)]) == 0
    assert "Diverged: loss is nan" in lines(capsys)[1]


def test_retry_trains_what_has_not_finished(forked_workers, root, capsys):
    flags = ["--runs", str(root), "--slots", "2", "--threads", "1", "--device", "cpu"]
    assert main(["runs", "retry", *flags, "--failed", "--where", "method=rigl"]) == 0
    assert lines(capsys)[0].startswith("0 of 0 runs")
    assert main(["runs", "retry", *flags]) == 0
    assert lines(capsys)[0].startswith("2 of 4 runs")
    assert main(["status", "--runs", str(root)]) == 0
    assert lines(capsys)[-1] == "4 finished"


def test_retry_leaves_out_what_lacks_its_sources(tmp_path, monkeypatch, capsys):
    runs = [Run.make("digits", "random")]
    runs += [Run.make("digits", "fixed", mask=m) for m in ("nobody-12345678", runs[0].name)]
    runs += [Run.make("digits", "fixed", mask=runs[1].name)]
    for run in runs:
        (tmp_path / run.name).mkdir()
        write_config(tmp_path / run.name, run)
    taken = []
    monkeypatch.setattr("launch.executors.local.run_all", lambda r, *_: taken.extend(r) or [])
    with pytest.warns(UserWarning, match=r"is not trained: .*12345678") as warned:
        assert main(["runs", "retry", "--device", "cpu", "--runs", str(tmp_path)]) == 0
    assert [run.name for run in taken] == [runs[0].name, runs[2].name] and len(warned) == 2
    assert lines(capsys)[0].startswith("2 of 4 runs to train")


def test_what_cannot_be_read_can_be_chosen_and_is_not_retried(forked_workers, root, capsys):
    (broken,) = root.glob("*rigl*")
    (broken / "config.json").write_text("{")
    (renamed,) = root.glob("*gmp*")
    renamed.rename(root / "mine")
    for where, failed, names in (
        (("state=broken",), False, {broken.name}),
        (("state!=finished",), False, {broken.name, "mine"}),
        ((), True, {broken.name, "mine"}),
    ):
        assert {s.name for s in chosen_statuses(Selection(root, where), failed)} == names
    with pytest.warns(UserWarning, match="is not trained"):
        assert main(["runs", "retry", "--runs", str(root), "--device", "cpu"]) == 0
    assert lines(capsys)[0].startswith("0 of 4 runs to train")


def test_remove_asks_and_spares_what_is_in_use(root, capsys, monkeypatch):
    flags = ["--runs", str(root)]
    before = sorted(root.iterdir())
    for args, message in (
        ([], "name the runs to remove, or choose with --where or --failed"),
        (["--failed"], "--yes removes them without a question"),
        (["no-such-run", "--yes"], "there is no run no-such-run"),
        (["--where", "nonsense=1", "--yes"], "unknown field 'nonsense'"),
    ):
        assert main(["runs", "remove", *args, *flags]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["runs", "remove", "--failed", *flags]) == 1
    (held,) = root.glob("*rigl*")
    with FileLock(held / "lock"):
        assert main(["runs", "remove", held.name, "--yes", *flags]) == 2
    assert "is running or waiting: stop it first" in capsys.readouterr().err
    assert sorted(root.iterdir()) == before
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["runs", "remove", "--failed", *flags]) == 0
    assert main(["runs", "remove", "--yes", "--where", "state=finished", *flags]) == 0
    assert [folder.name.split("-")[1] for folder in root.iterdir()] == ["rigl"]


@pytest.mark.parametrize("has_squeue", [False, True])
def test_runs_of_a_queue_that_is_not_known_are_taken_if_they_are_named(
    tmp_path, capsys, monkeypatch, has_squeue
):
    def fail():
        raise UserError("squeue fails: no cluster")

    monkeypatch.setattr(launch.executors.status, "list_jobs", fail)
    monkeypatch.setattr(shutil, "which", lambda _: "squeue" if has_squeue else None)
    run = Run.make("digits", "random", epochs=1)
    (tmp_path / run.name).mkdir()
    write_config(tmp_path / run.name, run)
    write_json(tmp_path / run.name / "slurm.json", {"job": "5_0", "log": "out"})
    taken, flags = [], ["--runs", str(tmp_path)]
    monkeypatch.setattr("launch.executors.local.run_all", lambda r, *_: taken.extend(r) or [])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert main(["status", *flags]) == 0
    assert [str(w.message) for w in warned] == (
        ["the queue is not known: squeue fails: no cluster"] if has_squeue else []
    )
    capsys.readouterr()
    assert main(["cancel", *flags]) == 2  # it cancels nothing, so it says why
    if has_squeue:  # their jobs may be in the queue
        for action in (["retry", run.name, "--device", "cpu"], ["remove", run.name, "--yes"]):
            assert main(["runs", *action, *flags]) == 2
            assert "squeue fails: no cluster" in capsys.readouterr().err
        assert taken == [] and (tmp_path / run.name).exists()
        return
    assert main(["runs", "retry", *flags, "--device", "cpu"]) == 0
    assert "1 may be in a queue that cannot be read here: name them" in capsys.readouterr().out
    assert taken == []
    assert main(["runs", "remove", "--where", "seed=0", "--yes", *flags]) == 2
    assert "cannot be read here: name it to remove it" in capsys.readouterr().err
    assert main(["runs", "retry", run.name, *flags, "--device", "cpu"]) == 0
    assert taken == [run]
    assert main(["runs", "remove", run.name, "--yes", *flags]) == 0
    assert not (tmp_path / run.name).exists()


def test_a_path_in_another_folder_is_not_taken_for_a_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs", "archive"):
        write_runs(tmp_path / folder, labels=("random",), seeds=(0,), rules=("",))
    (name,) = (folder.name for folder in (tmp_path / "runs").iterdir())
    for action in (["show"], ["list"], ["remove", "--yes"], ["retry"]):
        for path in (f"archive/{name}", "archive/*", str(tmp_path / "archive" / name)):
            assert main(["runs", action[0], path, *action[1:]]) == 2
            parent = path.rpartition("/")[0]
            assert f"{path} is not in runs: give --runs {parent}." in capsys.readouterr().err
    assert (tmp_path / "runs" / name).exists()
    assert main(["runs", "remove", f"archive/{name}", "--runs", "archive/", "--yes"]) == 0
    assert main(["runs", "list", f"../{tmp_path.name}/runs/*"]) == 0
    assert list((tmp_path / "archive").iterdir()) == []


def noted(function, calls):
    def call(*args, **kwargs):
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return call


def test_the_lock_is_removed_when_it_is_released(tmp_path, monkeypatch):
    """On NFS, a file that is removed while it is open keeps its folder from being removed."""
    (folder,) = write_runs(tmp_path, labels=("random",), seeds=(0,), rules=("",))["folder"]
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "epoch-0.safetensors").touch()
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    calls = []
    for kind, name in ((FileLock, "release"), (Path, "rmdir")):
        monkeypatch.setattr(kind, name, noted(getattr(kind, name), calls))
    assert main(["runs", "remove", folder.name, "--yes", "--runs", str(tmp_path)]) == 0
    assert calls[0] == "release" and calls.count("rmdir") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_linked_folder_is_not_emptied(tmp_path, capsys):
    (folder,) = write_runs(tmp_path / "a", labels=("random",), seeds=(0,), rules=("",))["folder"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / folder.name).symlink_to(folder, target_is_directory=True)
    before = sorted(folder.iterdir())
    assert main(["runs", "remove", folder.name, "--yes", "--runs", str(tmp_path / "b")]) == 2
    assert "it is a link" in capsys.readouterr().err and sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--model resnt20", "unknown model 'resnt20', did you mean resnet20"),
        ("--model levit_128s", "cannot take images of 1 × 8 × 8"),
        ("--data nowhere", "no folder data/nowhere/train"),
        ("--set batch_size=5000", "above the 1198 training examples"),
        ("--set exclude=nothing", "'nothing' matches none of"),
        ("--device cuda:99", "no GPU 99"),
        ("--recipe digit", "unknown recipe 'digit'"),
    ],
)
def test_a_mistake_leaves_nothing(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    grid = ["quick", "--methods", "random,rigl", *flags.split()]
    assert main(["grid", *grid]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    if "--set" not in flags:
        assert main(["run", "--method", "random", *flags.split()]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_another_sparsity_leaves_nothing(root, capsys):
    before = sorted(root.iterdir())
    (source,) = root.glob("*random*")
    flags = ["--mask", f"{source.name}@final", "--sparsity", "0.8", "--runs", str(root)]
    assert main(["run", "--method", "fixed", *flags]) == 2
    assert "has sparsity 0.9" in capsys.readouterr().err
    assert sorted(root.iterdir()) == before


def test_a_run_that_is_needed_must_be_there(tmp_path):
    machine = Machine(runs=tmp_path, device="cpu")
    needy = Run.make("digits", "fixed", mask="nobody@final")
    with pytest.raises(ValueError, match="there is no run nobody in .*Nothing was started"):
        check_runs([needy], machine)
    other = Run.make("digits", "random", epochs=2)
    check_runs([other, Run.make("digits", "fixed", mask=f"{other.name}@final")], machine)


@pytest.mark.parametrize(
    "source, message",
    [
        ("typo.pt", "there is no file typo.pt, which is needed"),
        ("{done}@7", "has no snapshot '7'; there are 0, 1, init and final"),
        ("{planned}@7", "keeps no snapshot of epoch 7"),
    ],
)
def test_what_a_run_starts_from_must_be_there(root, source, message):
    (done,) = root.glob("*random*")
    planned = Run.make("digits", "random", epochs=20)
    source = source.format(done=done.name, planned=planned.name)
    # a finished run may be of a version that kept other snapshots
    runs = [planned, read_run(done), Run.make("digits", "fixed", mask=source)]
    for cluster in (None, Cluster()):
        with pytest.raises(ValueError, match=message):
            check_runs(runs, Machine(runs=root, device="cpu"), cluster)


def test_of_a_cluster_neither_devices_nor_data_are_checked(tmp_path):
    machine = Machine(runs=tmp_path, device="cuda:7", data_dir=tmp_path)
    check_runs([Run.make("imagefolder", "random")], machine, Cluster())
    wrong = [
        ({"model": "resnt"}, machine, Cluster(), "unknown model"),
        ({}, machine, Cluster(gpus=2), "device 'cuda:7' with 2 ranks"),
        ({}, Machine(runs=tmp_path, device="gpu"), Cluster(), "device must be auto, cpu, cuda"),
        ({}, Machine(runs=tmp_path), Cluster(gpus=3), "does not divide over 3 ranks"),
    ]
    for fields, where, cluster, message in wrong:
        with pytest.raises(ValueError, match=message):
            check_runs([Run.make("imagefolder", "random", **fields)], where, cluster)


def test_data_that_leave_no_batch_or_cannot_be_augmented_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = np.random.rand(100, 8).astype(np.float32), np.arange(100) % 2
    np.savez("x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for fields, message in (
        ({"flip": True}, "crop_padding and flip cannot augment them"),
        ({"validation": 0.5}, "batch_size 64 is above the 50 training examples"),
    ):
        run = Run.make("digits", "random", data="x.npz", model="mlp", batch_size=64, **fields)
        with pytest.raises(ValueError, match=message):
            check_runs([run], Machine(runs=tmp_path, device="cpu"))


def test_a_run_that_another_process_has_begun_meanwhile_is_resumed(machine, monkeypatch):
    """Between the preparation of a run and the lock of its folder, others may train it."""
    from launch.training.loop import Loop
    from launch.training.run import Training, run_training

    run = Run.make("digits", "snip", epochs=2, sign_in=True)
    quiet = {"report": lambda _: None, "bar": False}
    original = Training.prepare

    def slow(self):
        monkeypatch.setattr(Training, "prepare", original)
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "train_epoch", stopping)
            with pytest.raises(RuntimeError, match="stop"):
                run_training(run, machine, **quiet)
        return original(self)

    trained = Loop.train_epoch

    def stopping(self, epoch):
        if epoch == 1:
            raise RuntimeError("stop")
        return trained(self, epoch)

    monkeypatch.setattr(Training, "prepare", slow)
    said: list[str] = []
    result = run_training(run, machine, report=said.append, bar=False)
    assert any("resumes from epoch 2" in line for line in said)
    other = Machine(runs=machine.runs / "other", device="cpu", workers=0, threads=machine.threads)
    assert result["mask_hash"] == run_training(run, other, **quiet)["mask_hash"]
    assert result["loss"] == run_training(run, other, **quiet)["loss"]
    assert find_snapshots(machine.runs / run.name)


def test_progress_counts_epochs():
    now = [0.0]
    runs = [Run.make("digits", "dense", epochs=10, seed=seed) for seed in range(3)]
    progress = Progress(runs, clock=lambda: now[0])
    assert progress.total == 30 and progress.seconds_left is None
    now[0] = 6.0
    for epoch in (1, 2):
        assert progress.report(runs[0], f"epoch   {epoch}/10  loss 1.0") == 1
    assert progress.report(runs[0], "digits: resumes") == 0
    assert progress.seconds_left == pytest.approx(3.0 * 28)
    assert progress.report(runs[1], "epoch   8/10  loss 1.0") == 1  # resumed after seven
    assert progress.total == 23 and progress.seconds_left == pytest.approx(2.0 * 20)
    progress.end(runs[2])  # failed
    assert progress.seconds_left == pytest.approx(2.0 * 10)


def test_durations_have_two_units():
    expected = {0: "0 s", 59.6: "1 min 0 s", 3700: "1 h 1 min", 200000: "2 d 7 h"}
    assert {seconds: duration(seconds) for seconds in expected} == expected


def test_time_left_is_that_of_all_pending_runs(tmp_path):
    def write(name, method, epochs, seconds):
        folder = tmp_path / name
        folder.mkdir()
        run = {"recipe": "digits", "method": method, "options": {}, "settings": {"model": "m"}}
        run |= {"sparsity": 0.9, "sign_in": False, "seed": 0, "exclude": []}
        config = {"run": run, "label": method, "epochs": epochs}
        (folder / "config.json").write_text(json.dumps(config))
        rows = "".join(f"{i},{s},1\n" for i, s in enumerate(seconds))
        (folder / "epochs.csv").write_text("epoch,seconds,test_seconds\n" + rows)

    write("a", "random", 10, [9.0] * 10)
    write("b", "random", 10, [19.0] * 4)  # 6 epochs of 20 s left
    write("c", "rigl", 10, [3.0] * 5)  # 5 epochs of 4 s left
    write("d", "random", 10, [])  # 10 epochs of (10 + 20)/2 s
    states = {"a": "finished", "b": "running", "c": "running", "d": "waiting", "e": "waiting"}
    found = [Status(name, state, "") for name, state in states.items()]
    # e has no folder: 10 epochs of the median of 10, 20 and 4 s; two run at a time
    assert time_left(tmp_path, found) == pytest.approx((120 + 20 + 150 + 100) / 2)
    assert time_left(tmp_path, found[:4]) == pytest.approx(150)  # no run is split
    assert time_left(tmp_path, found[:1]) is None
    assert time_left(tmp_path, found[1:2]) == pytest.approx(120)
