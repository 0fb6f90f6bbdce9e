"""Readers of run folders. No other module names the files."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

import launch.commands.cancel
import launch.executors.queue
import launch.executors.status
from analysis import folder
from analysis.checked import MOST_TEXT, BrokenFile
from analysis.folder import (
    list_runs,
    read_config,
    read_epochs,
    read_failure,
    read_job,
    read_json,
    read_layers,
    read_result,
    read_sharpness,
)
from analysis.frame import load_runs
from baselines.errors import UserError
from launch.cli import main
from launch.executors.status import Status, statuses, to_text
from launch.runs.atomic import write_csv, write_json

ROOT = Path(__file__).parent.parent
PACKAGES = ("analysis", "baselines", "launch", "signin")
JSON_READERS = {
    folder.CONFIG: read_config,
    folder.RESULT: read_result,
    folder.FAILURE: read_failure,
    folder.JOB: read_job,
}
CSV_READERS = {
    folder.EPOCHS: read_epochs,
    folder.LAYERS: read_layers,
    folder.SHARPNESS: read_sharpness,
}


def test_analysis_imports_no_torch():
    code = (
        "import analysis.tables, analysis.figures, analysis.report, sys; "
        "assert 'torch' not in sys.modules; "
        "assert not [name for name in sys.modules if name.split('.')[0] == 'launch']"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def texts(source):
    """Yield the string literals of a module that are not docstrings."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            yield str(node.value)


def test_only_one_module_names_the_files_of_a_run_folder():
    names = [*JSON_READERS, *CSV_READERS, folder.LAST_STATE, folder.PREVIOUS_STATE, "epoch-"]
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            named = [name for text in texts(path.read_text()) for name in names if name in text]
            if named:
                found[str(path.relative_to(ROOT))] = set(named)
    assert found == {"analysis/folder.py": set(names)}


def test_what_is_not_there_is_none_or_empty(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        assert all(read(place) is None for read in JSON_READERS.values())
        assert all(read(place) == [] for read in CSV_READERS.values())


@pytest.mark.parametrize("file", JSON_READERS)
@pytest.mark.parametrize("text", ["", "{", '{"run": {}', "[]", "null", "{}", "\udcff"])
def test_a_broken_json_file_is_named(tmp_path, file, text):
    (tmp_path / file).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BrokenFile, match=file):
        JSON_READERS[file](tmp_path)


def test_entries_of_another_type_are_refused(tmp_path):
    write_json(tmp_path / folder.RESULT, {"accuracy": "high"})
    write_json(tmp_path / folder.FAILURE, {"reason": None})
    for read in (read_result, read_failure):
        with pytest.raises(BrokenFile, match="no valid entry"):
            read(tmp_path)
    assert read_json(tmp_path / folder.RESULT) == {"accuracy": "high"}


@pytest.mark.parametrize("file", CSV_READERS)
@pytest.mark.parametrize("text", ["epoch,a\n0\n", "epoch,a\n0,1,2\n", "a\n1\n", "epoch\nx\n"])
def test_a_broken_csv_file_is_named(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(BrokenFile, match=file):
        CSV_READERS[file](tmp_path)


def test_rows_survive_reading_and_writing(tmp_path):
    rows = [
        {"epoch": 0, "layer": "0.weight", "density": 1 / 3, "lr": 1e-05, "flips": float("inf")},
        {"epoch": 1, "layer": "8", "density": 1.0, "lr": -0.0, "later": 7},
    ]
    write_csv(tmp_path / folder.LAYERS, rows)
    text = (tmp_path / folder.LAYERS).read_bytes()
    found = read_layers(tmp_path)
    assert found[0] == rows[0] and "later" not in found[0]
    assert (
        found[1]["layer"] == "8"
        and isinstance(found[1]["density"], float)
        and found[1]["later"] == 7
    )
    write_csv(tmp_path / folder.LAYERS, found)
    assert (tmp_path / folder.LAYERS).read_bytes() == text


def test_rows_of_more_bytes_than_json_may_have_are_read(tmp_path):
    name = "layer" * 25_000
    text = "epoch,layer\n" + f"1,{name}\n" * (MOST_TEXT // len(name) + 1)
    assert len(text) > MOST_TEXT
    (tmp_path / folder.LAYERS).write_text(text)
    assert folder.read_layers(tmp_path)[-1] == {"epoch": 1, "layer": name}


def test_the_status_of_a_run_with_a_broken_file_names_it(tmp_path):
    for name, file in (("a", folder.RESULT), ("b", folder.EPOCHS), ("c", folder.CONFIG)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / folder.CONFIG, {"run": {}})
        (tmp_path / name / file).write_text('{"')
    found = {status.name: status for status in statuses(tmp_path)}
    assert {status.state for status in found.values()} == {"broken"}
    assert folder.RESULT in found["a"].detail and folder.CONFIG in found["c"].detail


@pytest.mark.parametrize(
    "queue, state, detail, active",
    [
        ({}, "failed", "job 7_1 exited without a result: see out.log", False),
        ({"7_1": ("PENDING", "Priority")}, "waiting", "job 7_1 pending (Priority)", True),
        ({"7_1": ("RUNNING", "None")}, "running", "epoch 0/?", True),
    ],
)
def test_the_status_of_a_job(tmp_path, monkeypatch, queue, state, detail, active):
    monkeypatch.setattr(launch.executors.status, "list_jobs", lambda: queue)
    monkeypatch.setattr(launch.executors.status.shutil, "which", lambda _: "squeue")
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / folder.JOB, {"job": "7_1", "log": "out.log"})
    assert statuses(tmp_path) == [Status("a", state, detail, "7_1", active)]


def test_a_job_does_not_count_as_ended_where_there_is_no_squeue(tmp_path, monkeypatch):
    monkeypatch.setattr(launch.executors.status.shutil, "which", lambda _: None)
    write_run(tmp_path / "run", slurm={"job": "7", "log": "out.log"})
    (found,) = statuses(tmp_path)
    assert found.state == "waiting" and "its queue cannot be read here" in found.detail
    write_json(tmp_path / "run" / folder.JOB, {"job": "7", "log": "out.log", "cancelled": True})
    assert statuses(tmp_path)[0].state == "cancelled"


@pytest.mark.parametrize(
    "row", ["0,x", "0,1e400\n0,inf\n1,", "99999999999999999999,1", "0.5,1", "0," + "9" * 5000]
)
def test_rows_of_odd_numbers_are_numbers_or_refused(tmp_path, row):
    (tmp_path / folder.EPOCHS).write_text(f"epoch,test_accuracy\n{row}\n")
    try:
        rows = read_epochs(tmp_path)
    except BrokenFile as error:
        assert folder.EPOCHS in str(error)
    else:
        assert all(isinstance(value, int | float) for row in rows for value in row.values())


def test_snapshots_with_other_names_are_ignored(tmp_path):
    (tmp_path / folder.SNAPSHOTS).mkdir()
    for name in ("epoch-3.safetensors", "epoch-x.safetensors", "epoch-.safetensors", "epoch-3"):
        (tmp_path / folder.SNAPSHOTS / name).write_text("")
    assert list(folder.find_snapshots(tmp_path)) == [3]


def config_of(seed=0, **changes):
    run = {"recipe": "digits", "method": "dense", "options": {}, "settings": {}}
    run |= {"sparsity": 0.0, "sign_in": False, "seed": seed, "exclude": []}
    return {"run": run, "label": "dense", "epochs": 5} | changes


def write_run(home, **files):
    home.mkdir()
    write_json(home / folder.CONFIG, config_of())
    for name, value in files.items():
        write_json(home / f"{name}.json", value)


def test_one_bad_folder_does_not_end_the_listing(tmp_path):
    write_run(tmp_path / "good", result={"accuracy": 0.5, "seconds": 3.0})
    for i, text in enumerate(("{}", "\udcff", "[" * 100_000, '{"run": {"a": 1}}')):
        (tmp_path / f"bad{i}").mkdir()
        (tmp_path / f"bad{i}" / folder.CONFIG).write_bytes(text.encode(errors="surrogateescape"))
    write_run(tmp_path / "times", result={"accuracy": 0.5, "seconds": float("nan")})
    write_run(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe" / folder.RESULT)
    (tmp_path / "folder" / folder.CONFIG).mkdir(parents=True)
    lines = to_text(statuses(tmp_path)).splitlines()
    assert "finished  good  accuracy 50.00%, 3 s" in lines
    assert lines[-1] == "7 broken, 1 finished"
    assert all(len(line) < 400 for line in lines)
    with pytest.warns(UserWarning, match="left out: "):
        runs = load_runs(list_runs(tmp_path))
    assert [path.name for path in runs["folder"]] == ["good"]
    assert len(runs.attrs["left_out"]) == 7


def test_a_stopped_run_on_a_read_only_file_system_is_stopped(tmp_path, monkeypatch):
    write_run(tmp_path / "run")
    (tmp_path / "run" / folder.LOCK).touch()
    original = os.open

    def read_only(path, flags, *args, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return original(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", read_only)
    (found,) = statuses(tmp_path)
    assert found.state == "stopped"


def test_a_run_whose_folder_is_locked_is_running(tmp_path):
    write_run(tmp_path / "run")
    with FileLock(tmp_path / "run" / folder.LOCK):
        assert statuses(tmp_path)[0].state == "running"


def test_without_flock_a_run_with_a_lock_file_is_running(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(launch.executors.status.fcntl, "flock", unknown)
    write_run(tmp_path / "run")
    assert statuses(tmp_path)[0].state == "stopped"
    (tmp_path / "run" / folder.LOCK).touch()
    assert statuses(tmp_path)[0].state == "running"


def test_what_cannot_be_cancelled_is_an_error(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "run", slurm={"job": "7", "log": "out.log"})
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert main(["cancel", "--runs", str(tmp_path)]) == 2
    assert "there is no squeue here" in capsys.readouterr().err
    assert main(["cancel", "--runs", str(tmp_path / "rnus")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_the_time_left_of_a_run_has_its_evaluations(tmp_path):
    write_run(tmp_path / "run")  # of five epochs
    rows = "".join(f"{i},10,50,0.5\n" for i in range(2))
    text = f"epoch,seconds,test_seconds,test_accuracy\n{rows}"
    (tmp_path / "run" / folder.EPOCHS).write_text(text)
    assert "epoch 2/5, accuracy 50.00%, 3 min 0 s left" in statuses(tmp_path)[0].detail


def test_a_cancelled_job_is_cancelled_until_it_is_submitted_again(tmp_path, monkeypatch, capsys):
    queue = {"7": ("PENDING", "Priority")}
    cancelled = []
    for module in (launch.executors.status, launch.commands.cancel):
        monkeypatch.setattr(module, "list_jobs", lambda: queue, raising=False)
    monkeypatch.setattr(launch.commands.cancel, "cancel_jobs", cancelled.extend)
    monkeypatch.setattr(launch.executors.status.shutil, "which", lambda _: "squeue")
    write_run(tmp_path / "run", slurm={"job": "7", "log": "out.log"})
    assert main(["cancel", "--runs", str(tmp_path)]) == 0
    assert cancelled == ["7"] and "cancelled 1 jobs" in capsys.readouterr().out
    queue.clear()
    (found,) = statuses(tmp_path)
    assert found.state == "cancelled" and "epoch 0/5" in found.detail
    write_json(tmp_path / "run" / folder.JOB, {"job": "8", "log": "out.log"})
    assert statuses(tmp_path)[0].state == "failed"


@pytest.mark.parametrize("squeue_fails", [False, True])
def test_what_scancel_does_not_reach_is_not_noted(tmp_path, monkeypatch, capsys, squeue_fails):
    queue = {"7": ("RUNNING", "None"), "8": ("PENDING", "Priority")}

    def fail(jobs):
        queue["7"] = ("COMPLETING", "None")
        raise UserError(f"scancel fails for one of {len(jobs)}")

    def ask():
        if squeue_fails:
            raise UserError("squeue does not answer.")
        return queue

    monkeypatch.setattr(launch.executors.status, "list_jobs", lambda: queue)
    monkeypatch.setattr(launch.executors.queue, "list_jobs", ask)
    monkeypatch.setattr(launch.commands.cancel, "cancel_jobs", fail)
    monkeypatch.setattr(launch.executors.status.shutil, "which", lambda _: "squeue")
    for job in queue:
        write_run(tmp_path / job, slurm={"job": job, "log": "out.log"})
    assert main(["cancel", "--runs", str(tmp_path)]) == 2
    assert "scancel fails for one of 2" in capsys.readouterr().err
    queue.clear()
    states = {found.name: found.state for found in statuses(tmp_path)}
    assert states == {"7": "failed" if squeue_fails else "cancelled", "8": "failed"}
