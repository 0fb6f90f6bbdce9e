"""Slurm: submissions, and real jobs on a real cluster of two nodes on this machine."""

from __future__ import annotations

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import slurm_cluster
import submitit
import torch
from in_process import fork_two_ranks
from needs import needs_slurm
from slurm_cluster import run as shell
from slurm_cluster import wait_until
from test_launch_train import train

import launch.commands.cancel
import launch.executors.slurm as slurm_module
import launch.executors.status
from analysis.folder import (
    EPOCHS,
    FAILURE,
    JOB,
    LAST_STATE,
    PREVIOUS_STATE,
    RESULT,
    read_job,
    read_result,
    snapshot_path,
)
from baselines.errors import UserError
from launch.cli import main
from launch.config.cluster import Cluster
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors import queue, resubmission
from launch.executors.code_copy import own_modules
from launch.executors.queue import cancel_jobs, list_jobs, note_cancelled, queued_job
from launch.executors.slurm import START, Job, master_port, parameters, submit
from launch.executors.status import statuses
from launch.runs.atomic import write_json
from launch.runs.folder import RunFolder
from launch.runs.provenance import write_config

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster

CLUSTER = Cluster(timeout="10m", cpus=1)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def here(slurm, machine):
    """Return a machine. Its jobs are cancelled after the test.

    Trainings of the tests compute as the jobs do: with oneDNN.
    """
    torch.backends.mkldnn.enabled = True
    yield machine
    jobs = [s.job for s in statuses(machine.runs) if s.active]
    if jobs:  # a training ignores the signal of `cancel_jobs` for some seconds
        subprocess.run(["scancel", "--signal=KILL", *jobs], check=False)
    cancel_jobs(jobs)


def digits(seed=0, epochs=2, **choices):
    return Run.make("digits", "random", sparsity=0.8, seed=seed, epochs=epochs, **choices)


def state_of(machine, run):
    return next((s for s in statuses(machine.runs) if s.name == run.name), None)


def wait_for(machine, run, state, seconds=300.0):
    def there():
        found = state_of(machine, run)
        assert found.state != "failed" or state == "failed", (found.detail, logs(machine))
        return found.state == state

    return wait_until(there, seconds)


def logs(machine):
    return "\n".join(f.read_text()[-2000:] for f in (machine.runs / "slurm/logs").glob("*.err"))


def result(machine, run):
    found = read_result(machine.runs / run.name)
    return {k: v for k, v in found.items() if "seconds" not in k}


def epochs_of(machine, run):
    file = machine.runs / run.name / "epochs.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


# ---- what is submitted


def test_the_text_of_a_submission(monkeypatch, tmp_path):
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    given = Cluster(
        partition="gpu",
        nodes=2,
        gpus=8,
        cpus=10,
        memory="200GB",
        timeout="2d",
        account="lab",
        slurm=("constraint=a100",),
        setup=("module load cuda",),
    )
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm")
    executor.update_parameters(**parameters(given, Path("/code"), ["7_1", "6"]))
    text = executor._executor._make_submission_file_text("COMMAND", "uid")
    text = text.replace(str(tmp_path), "LOGS")
    assert text == (Path(__file__).parent / "golden_sbatch.sh").read_text()


def test_a_dry_run_prints_the_scripts_and_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--recipe digits --methods acdc --seeds 0,1 --epochs 2 --executor slurm --dry-run"
    assert main(["grid", "table1", *flags.split(), "--partition", "gpu", "--timeout", "90m"]) == 0
    _, first, second = capsys.readouterr().out.split("# array ")
    for script in (first, second):
        assert "#SBATCH --partition=gpu" in script and "#SBATCH --time=90" in script
    assert first.startswith("1: 2 runs") and "#SBATCH --array=0-1%2" in first
    assert "dependency" not in first and "dependency=afterany:JOBS_OF_ARRAY_1" in second
    assert not list(tmp_path.iterdir())


def test_a_job_that_is_told_to_stop_asks_for_the_same_again(machine, monkeypatch):
    job = Job(digits(), machine, minutes=60)
    assert job.checkpoint().function == job
    monkeypatch.setenv(START, str(time.time()))
    assert job.checkpoint().function == job
    monkeypatch.setenv(START, str(time.time() - 55 * 60))  # it has used its time
    with pytest.raises(UserError, match="no epoch ended in the time limit of 60 minutes"):
        job.checkpoint()
    job.before = -1  # an epoch has ended since
    assert job.checkpoint().function == job


@pytest.mark.parametrize("minutes", [5, 6, 10, 30, 24 * 60])
def test_a_job_that_is_told_a_minute_early_has_used_its_time(machine, monkeypatch, minutes):
    job, delay = Job(digits(), machine, minutes), min(120, 6 * minutes)
    monkeypatch.setenv(START, str(time.time() - (60 * minutes - delay - 60 - 20)))
    with pytest.raises(UserError, match="no epoch ended"):
        job.checkpoint()
    monkeypatch.setenv(START, str(time.time() - 30 * minutes))  # preempted
    assert job.checkpoint().function == job


def test_damaged_rows_are_no_epochs(machine, monkeypatch):
    job = Job(digits(), machine, minutes=60)
    home = machine.runs / job.run.name
    home.mkdir(parents=True)
    (home / EPOCHS).write_text("epoch\nx\n")
    monkeypatch.setenv(START, str(time.time() - 55 * 60))
    with pytest.raises(UserError, match="no epoch ended"):
        job.checkpoint()


def submitted_as_7(run, machine):
    """Make the folder of a run that was submitted as job 7, and return it."""
    home = machine.runs / run.name
    home.mkdir(parents=True)
    write_config(home, run)
    given = {"machine": asdict(machine), "cluster": asdict(CLUSTER)}
    write_json(home / JOB, {"job": "7", "log": "out", **given})
    return home


def test_a_run_with_a_damaged_result_is_submitted_again(machine, monkeypatch):
    run = digits()
    home = submitted_as_7(run, machine)
    (home / RESULT).write_text("no")
    monkeypatch.setattr(resubmission, "list_jobs", dict)
    monkeypatch.setattr(resubmission, "submit", lambda runs, *_, **__: [(r, "8") for r in runs])
    assert resubmission.resubmit(machine.runs, {run.name}, cancelled=False) == [(run, "8")]
    write_json(home / RESULT, {"accuracy": 0.5})
    assert resubmission.resubmit(machine.runs, {run.name}, cancelled=False) == []


@pytest.mark.parametrize("state", ["COMPLETING", "RUNNING", "PENDING"])
def test_a_cancelled_job_that_is_still_ending_is_not_queued(machine, monkeypatch, state):
    run = digits()
    home = submitted_as_7(run, machine)
    queue_now = {"7": (state, "None")}
    assert queued_job(home, queue_now) == "7"  # a requeued job can be completing, too
    note_cancelled(home)
    assert queued_job(home, queue_now) == ("" if state == "COMPLETING" else "7")
    assert queued_job(home, {}) == ""
    monkeypatch.setattr(launch.executors.status, "list_jobs", lambda: queue_now)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    shown = {"COMPLETING": "cancelled", "RUNNING": "running", "PENDING": "waiting"}
    assert state_of(machine, run).state == shown[state]  # `runs retry` takes the cancelled ones
    monkeypatch.setattr(resubmission, "list_jobs", lambda: queue_now)
    monkeypatch.setattr(resubmission, "submit", lambda runs, *_, **__: [(r, "8") for r in runs])
    again = [(run, "8")] if state == "COMPLETING" else []
    assert resubmission.resubmit(machine.runs, {run.name}, cancelled=True) == again
    assert resubmission.resubmit(machine.runs, {run.name}, cancelled=False) == []


def test_runs_that_would_fail_again_are_only_submitted_if_they_are_chosen(
    machine, monkeypatch, capsys
):
    reasons = (
        "UserError: its source has not finished",
        "Diverged: loss is nan",
        "RuntimeError: NCCL",
        "",
    )
    names = [digits(seed).name for seed in range(4)]
    for seed, reason in enumerate(reasons):
        (machine.runs / names[seed]).mkdir(parents=True)
        write_config(machine.runs / names[seed], digits(seed))
        write_json(machine.runs / names[seed] / JOB, {"job": str(seed), "log": "out"})
        if reason:
            write_json(machine.runs / names[seed] / FAILURE, {"reason": reason})
    monkeypatch.setattr(launch.executors.status, "list_jobs", dict)
    monkeypatch.setattr(resubmission, "resubmit", lambda _, n, __: submitted.append(n) or [])
    for flags, expected in (
        ([], [names[0], *names[2:]]),
        (["--failed"], names),
        (["--where", "state=failed"], names),
        (["--where", "seed=1,2"], names[2:3]),
    ):
        submitted = []
        assert main(["status", "--resubmit", "--runs", str(machine.runs), *flags]) == 0
        assert submitted == [set(expected)]
        assert ("left out: 1 that" in capsys.readouterr().out) == (expected != names)


def test_a_run_is_submitted_again_from_where_it_was(tmp_path, monkeypatch):
    homes, submitted = [tmp_path / name for name in ("a", "b", "gone", "elsewhere")], []
    for seed, home in enumerate(homes[:3]):
        home.mkdir()
        monkeypatch.chdir(home)
        run = Run.make("digits", "dense", data="set.npz", seed=seed)  # a relative path
        machine = Machine(runs=tmp_path / "runs")
        folder = machine.runs / run.name
        folder.mkdir(parents=True)
        write_config(folder, run)
        given = {"machine": asdict(machine), "cluster": asdict(CLUSTER), "cwd": str(home)}
        write_json(folder / JOB, {"job": str(seed), "log": "out", **given})

    def submit(runs, machine, cluster, strict):
        submitted.extend((run.seed, Path.cwd(), machine.runs) for run in runs)
        return []

    monkeypatch.setattr(resubmission, "list_jobs", dict)
    monkeypatch.setattr(resubmission, "submit", submit)
    homes[2].rmdir()
    homes[3].mkdir()
    monkeypatch.chdir(homes[3])
    runs = Path("../runs")
    with pytest.warns(UserWarning, match="is not submitted: it was submitted from .*gone: No such"):
        resubmission.resubmit(runs, {path.name for path in runs.iterdir()}, cancelled=False)
    assert submitted == [(seed, homes[seed], tmp_path / "runs") for seed in (0, 1)]
    assert Path.cwd() == homes[3]


def test_jobs_that_are_ending_are_not_cancelled(machine, monkeypatch, capsys):
    finished, cancelled, _ = runs = [digits(seed) for seed in range(3)]
    for seed, run in enumerate(runs):
        home = machine.runs / run.name
        home.mkdir(parents=True)
        write_config(home, run)
        write_json(home / JOB, {"job": str(seed), "log": "out"})
    write_json(machine.runs / finished.name / RESULT, {"accuracy": 0.5})
    note_cancelled(machine.runs / cancelled.name)
    jobs = {"0": ("COMPLETING", ""), "1": ("COMPLETING", ""), "2": ("RUNNING", "")}
    called = []
    monkeypatch.setattr(launch.executors.status, "list_jobs", lambda: jobs)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(launch.commands.cancel, "cancel_jobs", called.extend)
    assert main(["cancel", "--runs", str(machine.runs)]) == 0
    assert called == ["2"] and "cancelled 1 jobs" in capsys.readouterr().out
    noted = [read_job(machine.runs / run.name).get("cancelled", False) for run in runs]
    assert noted == [False, True, True]


@pytest.fixture
def fake_slurm(monkeypatch):
    """Return the ids of the jobs in the queue, by run. Submitted runs become jobs 8_0, 8_1, …"""
    jobs = {}

    def submit_array(runs, machine, *_):
        new = {run: f"8_{len(jobs) + i}" for i, run in enumerate(runs)}
        jobs.update(new)
        for run, job in new.items():
            (machine.runs / run.name).mkdir(parents=True, exist_ok=True)
            write_json(machine.runs / run.name / JOB, {"job": job, "log": "out"})
        return list(new.items())

    def queue_now():
        return dict.fromkeys(jobs.values(), ("PENDING", "Priority"))

    for module in (slurm_module, resubmission, launch.executors.status):
        monkeypatch.setattr(module, "list_jobs", queue_now)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm_module, "max_array_size", lambda: 10)
    monkeypatch.setattr(slurm_module, "copy_code", lambda folder, _: folder / "code")
    monkeypatch.setattr(slurm_module, "_submit_array", submit_array)
    return jobs


def fixed(mask, seed=0):
    return Run.make("digits", "fixed", mask=mask, sparsity=0.8, seed=seed, epochs=2)


def test_what_needs_a_failed_run_is_not_submitted(machine, fake_slurm, capsys):
    base = digits()
    dependent = fixed(f"{base.name}@final")
    second = fixed(f"{dependent.name}@final", seed=1)
    early = fixed(f"{base.name}@0", seed=2)  # this snapshot is there
    for run, reason in ((base, "Diverged: loss is nan"), (dependent, "UserError"), (second, "")):
        home = submitted_as_7(run, machine)
        if reason:
            write_json(home / FAILURE, {"reason": reason})
    submitted_as_7(early, machine)
    snapshot_path(machine.runs / base.name, 0).parent.mkdir()
    snapshot_path(machine.runs / base.name, 0).touch()
    flags = ["--runs", str(machine.runs)]
    with pytest.warns(UserWarning, match="is not submitted: .*It is not in the queue") as warned:
        assert main(["status", "--resubmit", *flags]) == 0
    assert list(fake_slurm) == [early] and len(warned) == 2
    assert "submitted 1 runs again." in capsys.readouterr().out
    with pytest.warns(UserWarning, match=f"{dependent.name} is not submitted"):
        assert main(["runs", "retry", dependent.name, "--executor", "slurm", *flags]) == 0
    assert "submitted 0 of 1 runs; 1 are queued, finished or left out." in capsys.readouterr().out
    run = ["run", "--method", "fixed", "--epochs", "2", "--sparsity", "0.8", "--seed", "3", *flags]
    assert main([*run, "--mask", base.name, "--executor", "slurm"]) == 2
    shown = capsys.readouterr().err
    assert "has not finished: there is no final snapshot yet. It is not in the queue." in shown
    assert "Nothing was submitted: this holds for 1 of 1 runs." in shown and list(fake_slurm) == [
        early
    ]
    assert main(["status", "--resubmit", "--failed", *flags]) == 0  # with the base
    assert list(fake_slurm) == [early, base, dependent, second]
    assert main([*run, "--mask", base.name, "--executor", "slurm"]) == 0  # it is in the queue
    assert len(fake_slurm) == 5


def test_runs_of_a_grid_that_never_were_submitted_are_counted(
    machine, fake_slurm, capsys, tmp_path
):
    grid = tmp_path / "grid.yaml"
    grid.write_text("recipe: digits\nmethod: random\nsparsity: 0.8\nseed: [0, 1, 2]\nepochs: 2\n")
    submitted_as_7(digits(0), machine)
    write_json(submitted_as_7(digits(1), machine) / RESULT, {"accuracy": 0.5})
    assert main(["grid", str(grid), "--resubmit", "--runs", str(machine.runs)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "submitted 1 runs again.",
        "1 runs were never submitted: repeat the command without --resubmit.",
    ]


@pytest.mark.parametrize(
    "given, after, expected",
    [
        ("afterok:7", ["5_1", "5_0"], "afterany:5_0:5_1,afterok:7"),
        ("singleton", [], "singleton"),
        ("", ["5"], "afterany:5"),
    ],
)
def test_a_dependency_of_the_user_holds_besides_those_of_the_runs(given, after, expected):
    cluster = Cluster(slurm=(f"dependency={given}",) if given else ())
    more = parameters(cluster, Path("code"), after)["slurm_additional_parameters"]
    assert more["dependency"] == expected


def test_a_refused_submission_leaves_all_as_it_was(machine, monkeypatch):
    def refuse(*_):
        raise submitit.core.utils.FailedJobError("invalid partition")

    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    monkeypatch.setattr(submitit.AutoExecutor, "submit_array", refuse)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm_module, "list_jobs", dict)
    monkeypatch.setattr(slurm_module, "max_array_size", lambda: 10)
    monkeypatch.setattr(slurm_module, "copy_code", lambda folder, _: folder / "code")
    failed, new = digits(0), digits(1)
    folder = RunFolder(failed, machine.runs)
    with folder.opened():
        folder.fail("Diverged")
    with pytest.raises(UserError, match="sbatch refuses: invalid partition"):
        submit([failed, new], machine, CLUSTER)
    assert not (machine.runs / new.name).exists()
    (found,) = statuses(machine.runs)
    assert (found.name, found.state, found.detail) == (failed.name, "failed", "Diverged")


def test_scancel_is_called_for_all_jobs_if_it_fails_for_some(monkeypatch):
    called = []

    def fail(*command):
        called.append(len(command) - 1)
        raise UserError("scancel fails: invalid job id")

    monkeypatch.setattr(queue, "_output", fail)
    with pytest.raises(UserError, match="^scancel fails: invalid job id$"):
        cancel_jobs([str(job) for job in range(501)])
    assert called == [500, 1]


def test_without_slurm_it_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    flags = ["--executor", "slurm", "--runs", str(tmp_path)]
    assert main(["run", *flags]) == 2
    assert "needs a Slurm login node" in capsys.readouterr().err


# ---- real jobs


@needs_slurm
def test_an_array_in_parts_runs_once_however_often_it_is_submitted(here):
    runs = [digits(seed) for seed in range(3)]  # the cluster takes arrays of 2
    with ThreadPoolExecutor(2) as pool:  # two submit at once
        both = list(pool.map(lambda _: submit(runs, here, CLUSTER), range(2)))
    assert sorted(map(len, both)) == [0, 3]
    jobs = [job for _, job in max(both, key=len)]
    assert len(set(jobs)) == 3 and len({job.split("_")[0] for job in jobs}) == 2
    for run in runs:
        wait_for(here, run, "finished")
    assert submit(runs, here, CLUSTER) == []
    alone = replace(here, runs=here.runs.parent / "alone")
    train(runs[2], alone)
    assert result(here, runs[2]) == result(alone, runs[2])


def test_ranks_meet_at_a_port_that_no_client_has():
    ports = {master_port(str(job), restarts) for job in range(500) for restarts in "01"}
    assert len(ports) > 900 and min(ports) >= 10_000 and max(ports) < 32_768
    assert master_port("7", "0") == master_port("7", "0")


@needs_slurm
def test_four_ranks_on_two_nodes(here):
    run = digits()
    submit([run], here, replace(CLUSTER, nodes=2, gpus=2))
    wait_for(here, run, "finished")
    assert result(here, run)["ranks"] == 4


@needs_slurm
def test_a_preempted_run_resumes_and_ends_the_same(here):
    here = replace(here, threads=1)  # as the forks below
    run = digits(epochs=40)
    submit([run], here, replace(CLUSTER, nodes=2, partition="low", cpus=8))
    wait_until(lambda: epochs_of(here, run) > 5)
    everything = ["-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null"]
    shell("sbatch", *everything, "--wrap", "sleep 4")
    wait_for(here, run, "waiting", seconds=60)
    before = epochs_of(here, run)
    assert 5 < before < 40
    states = (here.runs / run.name / name for name in (LAST_STATE, PREVIOUS_STATE))
    # rows are written before it; between two renames only the previous state is there
    saved = torch.load(next(filter(Path.exists, states)))["epoch"]
    wait_for(here, run, "finished", seconds=150)
    assert saved + 1 in (before - 1, before)
    assert f"resumes from epoch {saved + 2}" in out(here)
    alone = replace(here, runs=here.runs.parent / "alone")
    flags = ["--method", "random", "--sparsity", "0.8", "--epochs", "40", "--device", "cpu"]
    flags += ["--runs", str(alone.runs), "--threads", "1"]
    fork_two_ranks(lambda: main(["run", *flags]), here.runs)
    assert result(here, run) == result(alone, run)


def out(machine):
    return "\n".join(f.read_text() for f in (machine.runs / "slurm/logs").glob("*.out"))


@needs_slurm
def test_a_requeued_job_goes_on(here):
    run = digits(epochs=60)
    ((_, job),) = submit([run], here, CLUSTER)
    wait_until(lambda: epochs_of(here, run) > 5)
    shell("scontrol", "requeue", job)
    wait_for(here, run, "waiting")
    before = epochs_of(here, run)
    wait_for(here, run, "finished")
    assert before < 60 and epochs_of(here, run) == 60
    alone = replace(here, runs=here.runs.parent / "alone")
    train(run, alone)
    assert result(here, run) == result(alone, run)


@needs_slurm
def test_a_job_that_dies_without_a_word_is_reported(here):
    run = digits(epochs=2000)
    submit([run], here, CLUSTER)
    wait_until(lambda: epochs_of(here, run) > 1)
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        if "submitit.core._submit" in words and str(here.runs) in words:
            process.kill()
    took = wait_for(here, run, "failed", seconds=30)
    assert "exited without a result" in state_of(here, run).detail and took < 30
    submit([run], here, CLUSTER)  # and can be submitted again
    wait_for(here, run, "running")


@needs_slurm
def test_a_full_disk_is_the_reason_given(here):
    run = digits()
    submit([run], here, replace(CLUSTER, setup=("ulimit -f 40",)))
    wait_for(here, run, "failed")
    assert "cannot write" in state_of(here, run).detail
    assert not (here.runs / run.name / "result.json").exists()


@needs_slurm
def test_dependent_runs_and_the_command_line(here, capsys, tmp_path):
    grid = tmp_path / "grid.yaml"
    base = digits()
    mask = f"{base.name}@final"
    grid.write_text(
        "recipe: digits\nsparsity: 0.8\nepochs: 2\nseed: 0\nmethod: random\n"
        f"add: [{{method: {{name: fixed, mask: {mask}}}, seed: [1, 2]}}]\n"
    )
    flags = ["--runs", str(here.runs), "--data-dir", str(here.data_dir), "--device", "cpu"]
    flags += ["--threads", "1", "--workers", "0"]
    slurm_flags = ["--executor", "slurm", "--timeout", "10m", "--cpus", "1"]
    assert main(["grid", str(grid), *flags, *slurm_flags]) == 0
    assert "submitted 3 of 3 runs" in capsys.readouterr().out

    def finished():
        main(["status", "--runs", str(here.runs)])
        return "3 finished" in capsys.readouterr().out

    wait_until(finished, 90)
    assert main(["grid", str(grid), *flags, *slurm_flags]) == 0
    assert "submitted 0 of 3 runs; 3 are queued or finished" in capsys.readouterr().out


@needs_slurm
def test_cancelled_runs_leave_the_queue(here, capsys):
    runs = [digits(seed, epochs=2000) for seed in range(3)]
    submit(runs, here, CLUSTER)
    assert main(["cancel", "--runs", str(here.runs)]) == 0
    assert "cancelled 3 jobs" in capsys.readouterr().out
    jobs = [s.job for s in statuses(here.runs)]
    wait_until(lambda: not set(jobs) & set(list_jobs()), 30)
    time.sleep(0.5)
    assert all(not s.active for s in statuses(here.runs))


@needs_slurm
def test_what_has_ended_without_a_result_is_submitted_again(here, capsys):
    runs = [
        digits(seed, epochs=epochs) for seed, epochs in ((0, 2), *((i, 2000) for i in (1, 2, 3)))
    ]
    finished, preempted, cancelled, _queued = runs
    submit(runs, here, replace(CLUSTER, setup=("export ODD='a b'",)))
    wait_for(here, finished, "finished")
    wait_until(lambda: epochs_of(here, preempted) > 1)
    ended = [state_of(here, run).job for run in (preempted, cancelled)]
    shell("scancel", *ended)  # as a site does that preempts
    note_cancelled(here.runs / cancelled.name)  # as `signbench cancel` does
    wait_until(lambda: not set(ended) & set(list_jobs()))
    done = epochs_of(here, preempted)
    assert main(["status", "--resubmit", "--runs", str(here.runs)]) == 0
    out = capsys.readouterr().out
    assert preempted.title in out and "submitted 1 runs again" in out
    wait_until(lambda: epochs_of(here, preempted) > done)


@needs_slurm
def test_a_grid_is_submitted_again_as_it_was(here, capsys, tmp_path, monkeypatch):
    first, grid = Path.cwd(), tmp_path / "grid.yaml"
    grid.write_text("recipe: digits\nmethod: random\nsparsity: 0.8\nseed: [0, 1]\nepochs: 2000\n")
    flags = [str(grid), "--runs", str(here.runs)]
    slurm_flags = ["--executor", "slurm", "--timeout", "11m", "--cpus", "1", "--device", "cpu"]
    assert main(["grid", *flags, *slurm_flags]) == 0
    wait_until(lambda: all(epochs_of(here, digits(seed, 2000)) for seed in (0, 1)))
    assert main(["cancel", "--runs", str(here.runs)]) == 0
    assert {state for state, _ in list_jobs().values()} == {"COMPLETING"}
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert main(["status", "--resubmit", "--runs", str(here.runs)]) == 0
    assert "submitted 0 runs again" in capsys.readouterr().out  # they were cancelled
    assert main(["grid", *flags, "--resubmit"]) == 0
    assert "submitted 2 runs again" in capsys.readouterr().out
    new = ["--me", "--array", "--states=PENDING,RUNNING"]
    shown = shell("squeue", "--noheader", *new, "--format=%l %Z").splitlines()
    assert shown == [f"11:00 {first}"] * 2
    assert main(["grid", *flags, "--resubmit"]) == 0
    assert "submitted 0 runs again" in capsys.readouterr().out
    done = epochs_of(here, digits(0, 2000))
    wait_until(lambda: epochs_of(here, digits(0, 2000)) > done)  # it has waited for its folder


ODD = """my $(touch x) `touch x`; 'it' "is" & ü#~*?[a]{b} |"""


@pytest.mark.parametrize("others", ["others", ""])
def test_paths_are_quoted_in_the_job_script(tmp_path, others):
    code = tmp_path / ODD / "code"
    setup = parameters(Cluster(), code)["slurm_setup"]
    script = "\n".join([*setup, 'printf %s "$PYTHONPATH"'])
    shown = subprocess.run(
        ["sh", "-c", script], env={"PYTHONPATH": others}, cwd=tmp_path, capture_output=True
    )
    assert shown.stdout.decode() == f"{code}:{others}".rstrip(":")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["a:b", "a%jb", "a\\b", "a\nb", "a\x7fb"])
def test_folders_that_slurm_would_take_for_patterns_are_refused(tmp_path, name, capsys):
    flags = ["--executor", "slurm", "--runs", str(tmp_path / name)]
    if not shutil.which("sbatch"):
        pytest.skip("no Slurm on this machine")
    assert main(["run", *flags]) == 2
    assert "its name has" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--partition=", "--account=", "--memory=", "--slurm=comment="])
def test_options_of_several_lines_are_refused(flag, capsys):
    assert main(["run", "--executor", "slurm", f"{flag}a\ntouch x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@needs_slurm
def test_odd_names_of_folders_and_options_reach_the_job(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    machine = replace(here, runs=tmp_path / ODD)
    run = digits()
    setup = ("printenv PYTHONPATH > path",)
    submit([run], machine, replace(CLUSTER, slurm=(f"comment={ODD}",), setup=setup))
    try:
        wait_for(machine, run, "finished")
    finally:
        cancel_jobs([s.job for s in statuses(machine.runs) if s.active])
    (code,) = (machine.runs / "slurm" / "code").iterdir()
    assert (tmp_path / "path").read_text().startswith(str(code))
    assert not (tmp_path / "x").exists()


def test_modules_of_own_methods_go_with_the_jobs(tmp_path, monkeypatch, machine):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_slurm_method.py").write_text(
        "from baselines import Method\n\nclass Own(Method):\n    name = 'own'\n"
    )
    run = Run.make("digits", "own_slurm_method:Own")
    other = replace(machine, imports=("plugin",))
    assert own_modules([run, digits()], other) == ["plugin", "own_slurm_method"]
