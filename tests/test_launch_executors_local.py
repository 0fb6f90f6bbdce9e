"""The queue on this machine: slots, order, workers that die, and SIGKILL at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
import torch
from in_process import forked
from test_launch_train import train

import launch.executors.local
import launch.executors.worker
import launch.training.run
from baselines.errors import UserError
from launch.cli import main
from launch.config.run import Run
from launch.executors.local import run_all
from launch.executors.worker import serve
from launch.runs.folder import RunFolder

WORK = launch.executors.worker.work


def note(machine, text):
    with (machine.runs / "log").open("a") as stream:
        stream.write(f"{time.monotonic()} {text}\n")


def stand_in(run, machine, report):
    """Replace a run: seed 1 kills its first worker, seed 2 every worker, seed 3 fails."""
    note(machine, f"+ {run.seed} {machine.device} {machine.threads}")
    time.sleep(0.05)
    marker = machine.runs / "died"
    if run.seed == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if run.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    report("epoch 1")
    note(machine, f"- {run.seed}")
    if run.seed == 3:
        return RuntimeError("it failed")
    return {"accuracy": 1.0, "seconds": 0.0}


@pytest.fixture
def stood_in(machine, monkeypatch):
    machine.runs.mkdir()
    context = multiprocessing.get_context("fork")  # so that the stand-in gets there
    monkeypatch.setattr(launch.executors.local.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(launch.executors.worker, "work", stand_in)
    return machine


def seeds(*numbers):
    return [Run.make("digits", "dense", seed=seed) for seed in numbers]


def log(machine):
    return [line.split()[1:] for line in (machine.runs / "log").read_text().splitlines()]


def test_a_worker_that_dies_and_a_run_that_fails_stop_no_other(stood_in):
    outcomes = {o.run.seed: o for o in run_all(seeds(*range(6)), stood_in, slots=2)}
    assert {s: o.result is not None for s, o in outcomes.items()} == {
        0: True, 1: True, 2: False, 3: False, 4: True, 5: True,
    }  # fmt: skip
    assert "process died 3 times (exit code -9" in outcomes[2].error
    assert outcomes[3].error == "it failed"


def test_there_are_never_more_runs_than_slots(stood_in):
    run_all(seeds(*range(10, 22)), stood_in, slots=3)
    now, most = 0, 0
    for event, *_ in log(stood_in):
        now += 1 if event == "+" else -1
        most = max(most, now)
    assert most == 3 and now == 0


def test_runs_wait_for_what_they_need_and_fail_with_it(stood_in):
    first, broken = seeds(10, 3)
    after = [
        Run.make("digits", "fixed", mask=f"{run.name}@final", seed=seed)
        for run, seed in ((first, 20), (broken, 21))
    ]
    outcomes = {o.run.seed: o for o in run_all([*after, first, broken], stood_in, slots=2)}
    order = [line[1] for line in log(stood_in)]
    assert order.index("20") > order.index("10") and "21" not in order
    assert outcomes[21].error == f"needs {broken.name}, which did not finish"


def test_a_run_that_another_process_trains_is_waited_for(machine):
    run = Run.make("digits", "dense", epochs=1)
    folder, held = RunFolder(run, machine.runs), threading.Event()

    def hold():
        with folder.opened():
            held.set()
            time.sleep(3)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    (outcome,) = run_all([run], machine, slots=1)
    holder.join()
    assert outcome.result is not None


def command(args):
    sys.exit(main(args))


def wait_for_an_epoch(runs, process):
    """Wait until some run has finished an epoch."""
    before, until = None, time.monotonic() + 60
    while process.is_alive() and time.monotonic() < until:
        sizes = {file: file.stat().st_mtime_ns for file in runs.glob("*/epochs.csv")}
        if before is not None and sizes != before:
            return
        before = sizes
        time.sleep(0.01)


def test_killed_at_random_nothing_is_lost_and_nothing_is_run_twice(
    forked_workers, machine, tmp_path
):
    """Workers and the whole command are killed with SIGKILL again and again."""
    grid = tmp_path / "grid.yaml"
    grid.write_text("method: random\nsparsity: 0.8\nepochs: 6\nseed: [0, 1, 2, 3, 4, 5]")
    args = ["grid", str(grid), "--slots", "2", "--device", "cpu", "--threads", "1"]
    args += ["--runs", str(machine.runs), "--data-dir", str(machine.data_dir)]
    run = Run.make("digits", "random", sparsity=0.8, epochs=6, seed=3)
    uninterrupted = replace(machine, runs=tmp_path / "other", threads=1)
    expected = train(run, uninterrupted)
    context = multiprocessing.get_context("fork")
    rng, kills = random.Random(0), 0
    for victim in ("worker", "parent", "worker", "parent", "worker", "parent"):
        process = context.Process(target=command, args=(args,))
        process.start()
        wait_for_an_epoch(machine.runs, process)
        time.sleep(rng.uniform(0, 0.1))
        if process.is_alive() and victim == "worker":
            for worker in psutil.Process(process.pid).children()[:1]:
                worker.kill()
                kills += 1
            wait_for_an_epoch(machine.runs, process)
        if process.is_alive():
            orphans = psutil.Process(process.pid).children()
            process.kill()
            kills += 1
            psutil.wait_procs(orphans, timeout=10)
            assert not any(orphan.is_running() for orphan in orphans)
        process.join()
    last = context.Process(target=command, args=(args,))
    last.start()
    last.join(120)
    last.kill()  # one that hangs fails, and does not stop the end of this process
    assert last.exitcode == 0
    assert kills >= 2
    results = sorted(machine.runs.glob("*/result.json"))
    assert len(results) == 6
    for file in results:
        with (file.parent / "epochs.csv").open() as stream:
            assert [line.split(",")[0] for line in stream][1:] == list("012345")
    found = json.loads((machine.runs / run.name / "result.json").read_text())
    assert found["loss"] == expected["loss"]
    before = {file: file.stat().st_mtime_ns for file in results}
    assert forked(lambda: main(args), tmp_path).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in results} == before


def test_a_run_that_dies_after_it_went_on_is_given_up(stood_in, monkeypatch):
    def dies(run, machine, report):
        note(machine, f"+ {run.seed}")
        report(f"{run.name}: resumes from epoch 4")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(launch.executors.worker, "work", dies)
    (outcome,) = run_all(seeds(9), stood_in, slots=1)
    assert "process died 3 times" in outcome.error and len(log(stood_in)) == 3


@pytest.mark.parametrize("uses_gpu", [False, True])
def test_a_run_that_may_have_lost_the_gpu_ends_its_worker(stood_in, monkeypatch, uses_gpu):
    def fails(run, machine, report=None, bar=None):
        note(machine, f"+ {os.getpid()}")
        raise UserError("wrong") if run.seed == 5 else RuntimeError("CUDA error: assert triggered")

    monkeypatch.setattr(launch.executors.worker, "work", WORK)
    monkeypatch.setattr(launch.training.run, "run_training", fails)

    def ends_slowly(*arguments):  # as a process with a CUDA context
        serve(*arguments)
        time.sleep(0.3)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: uses_gpu)
    monkeypatch.setattr(launch.executors.local, "serve", ends_slowly)
    monkeypatch.setattr(launch.executors.local, "MOST_DEATHS", 1)  # no run goes to one that ends
    outcomes = run_all(seeds(5, 6, 7), stood_in, slots=1)
    assert ["wrong" in o.error or "assert triggered" in o.error for o in outcomes] == [True] * 3
    first, second, third = (words[-1] for words in log(stood_in))
    assert first == second and (second == third) is not uses_gpu


def test_workers_may_have_workers_that_read_images(forked_workers, image_folder, machine):
    choices = {"data": str(image_folder), "image_size": 72, "batch_size": 8, "epochs": 1}
    run = Run.make("digits", "dense", model="resnet20", lr=0.01, **choices)
    (outcome,) = run_all([run], replace(machine, workers=1), slots=1)
    assert outcome.result is not None, outcome.error
