"""Trackers: what is tracked, when a run resumes and fails, and the real libraries offline."""

from __future__ import annotations

import builtins
import json
import os
import sqlite3
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from needs import needs_library
from test_launch_train import interrupt_after, train

import launch.trackers.tracking
from analysis.folder import read_epochs, read_json, read_layers
from baselines.errors import UserError
from launch.cli import main
from launch.config.machine import Machine
from launch.config.run import Run
from launch.runs.atomic import write_json
from launch.trackers.tracking import Tracking, open_tracking
from launch.training.check import check_runs

RUN = {"recipe": "digits", "method": "rigl", "sign_in": True, "epochs": 3}


class Recorder:
    """A tracker that notes what it is told."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self, run, machine, known, epoch):
        self.id, self.known, self.epoch = known or "new", known, epoch
        self.logged, self.pictures, self.closed = [], [], []
        Recorder.made.append(self)

    def log(self, epoch, scalars, histograms):
        self.logged.append((epoch, dict(scalars), {k: dict(v) for k, v in histograms.items()}))

    def add_picture(self, name, path):
        assert path.read_bytes().startswith(b"\x89PNG")
        self.pictures.append(name)

    def close(self, result):
        self.closed.append(result)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(launch.trackers.tracking, "_adapter", lambda _: Recorder)
    return Recorder


def test_epochs_layers_figures_and_result_are_tracked(machine, recorder):
    run = Run.make(**RUN)
    result = train(run, replace(machine, tracker="wandb"))
    (tracker,) = recorder.made
    folder = machine.runs / run.name
    rows, layers = read_epochs(folder), read_layers(folder)
    assert [epoch for epoch, *_ in tracker.logged] == [1, 2, 3]
    for (_, scalars, histograms), row in zip(tracker.logged, rows, strict=True):
        assert scalars["test/accuracy"] == row["test_accuracy"] and scalars["lr"] == row["lr"]
        own = [layer for layer in layers if layer["epoch"] == row["epoch"]]
        flips = {n["layer"]: n["flips_init"] / n["compared_init"] for n in own}
        assert histograms["layers/flips"] == pytest.approx(flips)
        sparsity = {n["layer"]: 1 - n["nonzero"] / n["weights"] for n in own}
        assert histograms["layers/sparsity"] == pytest.approx(sparsity)
    assert tracker.pictures == ["curves", "figure 8", "figure 9"]
    assert tracker.closed[0]["accuracy"] == result["accuracy"]
    assert read_json(folder / "tracker.json") == {
        "tracker": "wandb",
        "id": "new",
        "epochs": 3,
        "closed": True,
    }


def test_validation_and_zeros_without_a_mask_are_tracked(recorder, tmp_path):
    """STR, SR-STE and Top-KAST have no mask until the last epoch."""
    row = {"epoch": 0, "validation_loss": 0.5, "validation_accuracy": 0.8}
    layer = {"epoch": 0, "layer": "a", "weights": 100, "active": 100, "density": 1.0, "nonzero": 30}
    tracker = Recorder(None, None, "", 0)
    with Tracking(tmp_path, "wandb", tracker) as tracking:
        tracking.update([row], [layer])
    ((_, scalars, histograms),) = tracker.logged
    assert scalars == {"validation/loss": 0.5, "validation/accuracy": 0.8}
    assert histograms == {"layers/sparsity": {"a": pytest.approx(0.7)}}


def test_a_resumed_run_goes_on_in_the_same_tracked_run(machine, recorder, monkeypatch):
    run, tracked = Run.make(**RUN), replace(machine, tracker="wandb")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        interrupt_after(2, patch)
        train(run, tracked)
    assert recorder.made[0].closed == [None]  # failed
    train(run, tracked)
    first, second = recorder.made
    assert (first.known, second.known, second.epoch) == ("", "new", 2)
    assert [e for t in (first, second) for e, *_ in t.logged] == [1, 2, 3]


def test_what_a_kill_after_the_result_has_left_is_completed_once(machine, recorder, monkeypatch):
    def pull_the_plug(*_):
        raise RuntimeError("pulled the plug")

    run, tracked = Run.make(**RUN), replace(machine, tracker="wandb")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        patch.setattr(Tracking, "finish", pull_the_plug)
        train(run, tracked)
    assert read_json(machine.runs / run.name / "tracker.json")["closed"] is False
    train(run, replace(tracked, tracker="mlflow"))  # it is not tracked there
    result = train(run, tracked)
    train(run, tracked)
    first, second = recorder.made
    assert len(first.logged) == 3 and second.logged == [] and second.known == "new"
    assert second.pictures == ["curves", "figure 8", "figure 9"]
    assert second.closed[0]["accuracy"] == result["accuracy"]


def test_epochs_from_before_the_tracker_are_added(machine, recorder, monkeypatch):
    run = Run.make(**RUN)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
        interrupt_after(2, patch)
        train(run, machine)
    train(run, replace(machine, tracker="mlflow"))
    (tracker,) = recorder.made
    assert [epoch for epoch, *_ in tracker.logged] == [1, 2, 3] and tracker.known == ""


def test_a_tracker_that_fails_does_not_stop_the_training(machine, recorder, monkeypatch):
    def fail(*_args):
        raise OSError("no network")

    monkeypatch.setattr(Recorder, "log", fail)
    message = "trackio failed and tracks no more: .*no network"
    with pytest.warns(UserWarning, match=message) as found:
        result = train(Run.make(**RUN), replace(machine, tracker="trackio"))
    assert result["epochs"] == 3 and sum("trackio" in str(w.message) for w in found) == 1
    (tracker,) = recorder.made
    assert tracker.pictures == [] and tracker.closed[0]["accuracy"] == result["accuracy"]
    assert not (machine.runs / Run.make(**RUN).name / "tracker.json").exists()  # it is not complete


def test_of_a_tracker_that_has_failed_no_further_epoch_is_tried(recorder, tmp_path, monkeypatch):
    tried = []

    def fail(*_args):
        tried.append(1)
        raise OSError("no network")

    tracker = Recorder(None, None, "", 0)
    for action in ("log", "close"):
        monkeypatch.setattr(tracker, action, fail)
    rows = [{"epoch": epoch} for epoch in range(3)]
    warned = pytest.warns(UserWarning, match="wandb failed and tracks no more")
    with warned as found, Tracking(tmp_path, "wandb", tracker) as tracking:
        tracking.update(rows, [])
        tracking.update(rows, [])
    assert len(tried) == 2 and len(found) == 1  # an epoch and the end


def test_a_figure_that_fails_ends_nothing_else(machine, recorder, monkeypatch):
    def add_picture(self, name, _path):
        if name == "figure 8":
            raise OSError("too large")
        self.pictures.append(name)

    monkeypatch.setattr(Recorder, "add_picture", add_picture)
    with pytest.warns(UserWarning, match="wandb failed and lacks the figure 8: .*too large"):
        result = train(Run.make(**RUN), replace(machine, tracker="wandb"))
    (tracker,) = recorder.made
    assert tracker.pictures == ["curves", "figure 9"]
    assert tracker.closed[0]["accuracy"] == result["accuracy"]


def test_a_run_that_the_tracker_does_not_find_is_tracked_anew(recorder, tmp_path, monkeypatch):
    write_json(tmp_path / "tracker.json", {"tracker": "mlflow", "id": "known", "epochs": 2})
    run, machine = Run.make(**RUN), Machine(runs=tmp_path, tracker="mlflow")
    assert open_tracking(run, machine, tmp_path, epoch=3).logged == 2

    def not_found(run, machine, _known, epoch):
        return Recorder(run, machine, "", epoch)

    monkeypatch.setattr(launch.trackers.tracking, "_adapter", lambda _: not_found)
    assert open_tracking(run, machine, tmp_path, epoch=3).logged == 0


def test_a_tracker_does_not_change_the_run(machine, recorder):
    run = Run.make(**RUN)
    plain = train(run, replace(machine, runs=machine.runs / "plain"))
    tracked = train(run, replace(machine, tracker="wandb"))
    assert plain["loss"] == tracked["loss"]


def test_a_library_that_is_missing_is_named_before_anything_is_made(machine, monkeypatch, capsys):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("mlflow", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "launch.trackers.mlflow", False)
    monkeypatch.setattr(builtins, "__import__", without)
    run, tracked = Run.make(**RUN), replace(machine, tracker="mlflow")
    for call in (train, lambda run, machine: check_runs([run], machine)):
        with pytest.raises(UserError, match="--tracker mlflow needs: pip install mlflow"):
            call(run, tracked)
    assert not machine.runs.exists()
    assert main(["run", "--tracker", "tensorbord"]) == 2
    assert "tensorboard" in capsys.readouterr().err


# ---- the real libraries


def interrupted_and_resumed(machine, monkeypatch, tracker):
    """Return a run that was stopped after two of three epochs and resumed, all tracked."""
    run, tracked = Run.make(**RUN), replace(machine, tracker=tracker)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*failed and")
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="plug"):
            interrupt_after(2, patch)
            train(run, tracked)
        train(run, tracked)
    return run, read_epochs(machine.runs / run.name)


@needs_library("tensorboard")
def test_tensorboard(machine, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, rows = interrupted_and_resumed(machine, monkeypatch, "tensorboard")
    events = EventAccumulator(str(machine.runs / "tensorboard" / run.name))
    events.Reload()
    tags = events.Tags()
    found = [(e.step, e.value) for e in events.Scalars("test/accuracy")]
    expected = [(row["epoch"] + 1, row["test_accuracy"]) for row in rows]
    assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    assert set(tags["histograms"]) == {"layers/sparsity", "layers/flips"}
    assert events.Histograms("layers/sparsity")[-1].histogram_value.num == 4
    assert set(tags["images"]) == {"curves", "figure_8", "figure_9"}
    assert "result/accuracy" in tags["scalars"]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| settings.sign_in.beta | 1.0 |" in text


@needs_library("tensorboard")
def test_tensorboard_hides_a_removed_run_of_the_same_name(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from launch.trackers.tensorboard import TensorBoard

    run = Run.make(**RUN)
    for epochs in (5, 3):
        tracker = TensorBoard(run, Machine(runs=tmp_path), "", 0)
        for epoch in range(1, epochs + 1):
            tracker.log(epoch, {"test/accuracy": epochs / 10}, {})
        tracker.close(None)
    events = EventAccumulator(str(tmp_path / "tensorboard" / run.name))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
    assert found == [(step, pytest.approx(0.3)) for step in (1, 2, 3)]


def wandb_records(file):
    """Yield the records of an offline run, in LevelDB's log format: blocks of 32 KiB of parts."""
    data = file.read_bytes()
    at, record = 7, b""  # behind the file's header
    while at + 7 <= len(data):
        if (left := -at % 32768) and left < 7:  # no part begins in the last bytes of a block
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def complete(file, messages):
    """Return the records of a run. wandb's own process may still write when `finish` returns."""
    for _ in range(100):
        records = [messages.Record.FromString(data) for data in wandb_records(file)]
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


@needs_library("wandb")
def test_wandb_offline(machine, monkeypatch):
    from wandb.proto import wandb_internal_pb2 as messages

    monkeypatch.setenv("WANDB_MODE", "offline")
    run, rows = interrupted_and_resumed(machine, monkeypatch, "wandb")
    files = sorted(machine.runs.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime)
    assert len(files) == 2 and len({file.stem for file in files}) == 1  # parts of the same run
    history, names, pictures = [], set(), set()
    for file in files:
        for record in complete(file, messages):
            names |= {record.run.display_name} - {""}
            items = record.history.item
            values = {"/".join(i.nested_key) or i.key: i.value_json for i in items}
            if "test/accuracy" in values:
                history.append((int(values["epoch"]), float(values["test/accuracy"])))
                assert values["layers/sparsity/_type"] == '"histogram"'
            pictures |= {
                key.removesuffix("/path")
                for key in values
                if key.startswith("figures/") and key.endswith("/path")
            }
    assert names == {run.name}
    assert history == [(row["epoch"] + 1, row["test_accuracy"]) for row in rows]
    assert pictures == {"figures/curves", "figures/figure 8", "figures/figure 9"}


@needs_library("wandb")
def test_a_wandb_run_that_was_left_open_is_ended_by_the_next(tmp_path, monkeypatch):
    from launch.trackers.wandb_like import Wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    machine = Machine(runs=tmp_path)
    left, next_one = (Wandb(Run.make(**RUN, seed=seed), machine, "", 0) for seed in (0, 1))
    assert next_one._run.id == next_one.id != left._run.id
    next_one.close(None)


@needs_library("trackio")
def test_trackio_on_this_machine(machine, monkeypatch, tmp_path):
    import trackio
    import trackio.utils

    run, rows = interrupted_and_resumed(machine, monkeypatch, "trackio")
    (database,) = trackio.utils.TRACKIO_DIR.glob("signbench*.db")
    with sqlite3.connect(database) as connection:
        found = connection.execute("select run_name, step, metrics from metrics").fetchall()
    noted = json.loads((machine.runs / run.name / "tracker.json").read_text())
    own = [(step, json.loads(text)) for name, step, text in found if name == noted["id"]]
    history = [(step, m["test/accuracy"]) for step, m in own if "test/accuracy" in m]
    assert sorted(history) == [(row["epoch"] + 1, row["test_accuracy"]) for row in rows]
    assert any("layers/flips" in m for _, m in own) and any("figures/curves" in m for _, m in own)


@needs_library("mlflow")
def test_mlflow_makes_a_run_where_the_known_one_is_not(tmp_path, monkeypatch):
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST

    import launch.trackers.mlflow as adapter

    class Client:
        """The address of a server that has the run `here`, or whose proxy fails."""

        def __init__(self, _uri):
            self.running = []

        def get_run(self, known):
            if known != "here":
                missing = known == "elsewhere"
                code = RESOURCE_DOES_NOT_EXIST if missing else INTERNAL_ERROR
                raise adapter.MlflowException(known, code)

        def update_run(self, known, status):
            self.running.append((known, status))

    monkeypatch.setattr(adapter, "MlflowClient", Client)
    monkeypatch.setattr(adapter.MLflow, "_create", lambda *_: "new")
    run, machine = Run.make(**RUN), Machine(runs=tmp_path)
    for known, expected in (("here", "here"), ("elsewhere", "new"), ("", "new")):
        tracker = adapter.MLflow(run, machine, known, 2)
        assert tracker.id == expected and tracker._client.running == [(expected, "RUNNING")]
    with pytest.raises(adapter.MlflowException):
        adapter.MLflow(run, machine, "unknown, for it does not answer", 2)


@needs_library("mlflow")
def test_mlflow_in_a_file(machine, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, rows = interrupted_and_resumed(machine, monkeypatch, "mlflow")
    client = MlflowClient(f"sqlite:///{machine.runs.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("signbench")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == run.name and found.info.status == "FINISHED"
    assert found.data.params["settings.sign_in.beta"] == "1.0"
    history = client.get_metric_history(found.info.run_id, "test/accuracy")
    assert [(m.step, m.value) for m in history] == [
        (row["epoch"] + 1, pytest.approx(row["test_accuracy"])) for row in rows
    ]
    assert "layers/sparsity/0.weight" in found.data.metrics
    figures = {Path(f.path).name for f in client.list_artifacts(found.info.run_id, "figures")}
    assert figures == {"figure-curves.png", "figure-8.png", "figure-9.png"}
