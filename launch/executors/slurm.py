"""Runs on a Slurm cluster, through submitit: job arrays, one job a run.

A submitted job runs the code as it was at submission, of which a copy is kept beside its logs. When
Slurm preempts a job, or its time is up, it is requeued and goes on from its run's last epoch;
likewise after a node has failed, where Slurm requeues it without a word. What a run's job is stands
in the run's folder, so that a second submission leaves alone what is queued or finished.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from analysis.contents import Result
from analysis.folder import FAILURE, JOB, read_job
from baselines.errors import UserError
from launch.config.grids import stages
from launch.config.run import Cluster, Machine, Run
from launch.runs.files import write_json
from launch.runs.folder import RunFolder
from launch.runs.provenance import REVISION, git_state

PACKAGES = ("analysis", "baselines", "launch", "signin")
PATIENCE = 120.0  # seconds that a requeued job waits for its predecessor to let go of the folder


@dataclass(frozen=True)
class Job:
    """What a job does, and what it does when it is told to stop: the same again, later."""

    run: Run
    machine: Machine

    def __call__(self) -> Result:
        import submitit

        from launch.training.run import run_training

        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            distributed = submitit.helpers.TorchDistributedEnvironment()
            distributed.export(overwrite=True, set_cuda_visible_devices=False)
        return run_training(self.run, self.machine, bar=False, patience=PATIENCE)

    def checkpoint(self) -> Any:
        """Nothing is saved here: the state of the last epoch is in the run's folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def parameters(cluster: Cluster, code: Path, after: Sequence[str] = ()) -> dict[str, Any]:
    """Of submitit's executor.

    Args:
        code: the copy of the packages that the job imports.
        after: ids of jobs that must have ended before.
    """
    more: dict[str, Any] = {"requeue": True}
    if cluster.account:
        more["account"] = cluster.account
    if after:
        more["dependency"] = "afterany:" + ":".join(sorted(set(after)))
    more |= dict(pair.split("=", 1) for pair in cluster.slurm)
    chosen: dict[str, Any] = {
        "name": "signbench",
        "nodes": cluster.nodes,
        "tasks_per_node": cluster.gpus or cluster.processes or 1,
        "cpus_per_task": cluster.cpus,
        "timeout_min": cluster.minutes,
        "slurm_signal_delay_s": min(120, 6 * cluster.minutes),
        "slurm_array_parallelism": cluster.parallel,
        "slurm_additional_parameters": more,
        "slurm_setup": [f"export PYTHONPATH={code}:$PYTHONPATH", *cluster.setup],
        "slurm_srun_args": [f"--cpus-per-task={cluster.cpus}"],
    }
    if cluster.partition:
        chosen["slurm_partition"] = cluster.partition
    if cluster.gpus:
        chosen["gpus_per_node"] = cluster.gpus
    if cluster.memory:
        chosen["slurm_mem"] = cluster.memory
    return chosen


def submit(runs: Sequence[Run], machine: Machine, cluster: Cluster) -> list[tuple[Run, str]]:
    """Submits what is neither finished nor queued, in job arrays; runs that need others after them.

    Returns:
        The runs that were submitted, with their job ids.

    Raises:
        UserError: no Slurm here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here: --executor slurm needs a Slurm login node.")
    folder = (machine.runs / "slurm").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    machine = _absolute(machine)
    with FileLock(folder / "lock"):  # of two who submit at once, the second sees the first's jobs
        code = snapshot_code(folder)
        queued = queue()
        jobs = {run.name: job_of(machine.runs / run.name) for run in runs}
        active = {name: job for name, job in jobs.items() if job in queued}
        todo = [
            run
            for run in runs
            if run.name not in active and RunFolder(run, machine.runs).result is None
        ]
        submitted: list[tuple[Run, str]] = []
        most = max_array_size() if todo else 0
        for stage in stages(todo):
            known = active | {run.name: job for run, job in submitted}
            after = [known[name] for run in stage for name in run.needs if name in known]
            for part in _parts(stage, most):
                submitted += _submit_array(part, machine, cluster, folder, code, after)
    return submitted


def _submit_array(
    runs: list[Run],
    machine: Machine,
    cluster: Cluster,
    folder: Path,
    code: Path,
    after: Sequence[str],
) -> list[tuple[Run, str]]:
    import submitit

    executor = submitit.AutoExecutor(
        folder=folder / "logs", cluster="slurm", slurm_max_num_timeout=1000
    )
    executor.update_parameters(**parameters(cluster, code, after))
    for run in runs:  # before a job can fail again
        (machine.runs / run.name / FAILURE).unlink(missing_ok=True)
    try:
        with _outside_of_jobs():
            jobs = executor.submit_array([Job(run, machine) for run in runs])
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"sbatch refuses: {' '.join(str(error).split())}") from None
    found = []
    for run, job in zip(runs, jobs, strict=True):
        home = machine.runs / run.name
        home.mkdir(parents=True, exist_ok=True)
        record = {"job": job.job_id, "log": str(job.paths.stderr)}
        write_json(home / JOB, record)
        found.append((run, str(job.job_id)))
    return found


def queue() -> dict[str, tuple[str, str]]:
    """State and reason of this user's jobs, by id; one call of squeue.

    Raises:
        UserError: squeue fails.
    """
    fields = "--format=%i %T %r"
    lines = _output("squeue", "--noheader", "--array", "--me", fields).splitlines()
    parts = [line.split(maxsplit=2) for line in lines if line.strip()]
    return {job: (state, "".join(reason)) for job, state, *reason in parts}


def cancel(jobs: Sequence[str]) -> None:
    """Takes jobs out of the queue, or stops them."""
    for i in range(0, len(jobs), 500):
        _output("scancel", *jobs[i : i + 500])


def job_of(folder: Path) -> str:
    """The id of the job that a run was last submitted as; empty if it never was."""
    record = read_job(folder)
    return record["job"] if record else ""


def max_array_size() -> int:
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output("scontrol", "show", "config"))
    return max(1, int(found[1])) if found else 1000


def snapshot_code(folder: Path) -> Path:
    """A copy of the packages as they are now, named by their contents."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    home = folder / "code" / digest
    if not home.exists():
        temporary = home.with_name(f"{digest}.{os.getpid()}.tmp")
        for file in files:
            target = temporary / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        write_json(temporary / REVISION, git_state())
        temporary.rename(home)
    return home


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without what Slurm tells the job that this is part of, if it is."""
    import submitit

    where = {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
    with submitit.helpers.clean_env():
        os.environ.update(where)
        yield


def _parts(runs: list[Run], most: int) -> list[list[Run]]:
    return [runs[i : i + most] for i in range(0, len(runs), most)]


def _absolute(machine: Machine) -> Machine:
    return replace(machine, runs=machine.runs.resolve(), data_dir=machine.data_dir.resolve())


def _output(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except FileNotFoundError:
        raise UserError(f"there is no {command[0]} here: this is no Slurm cluster.") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} does not answer.") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{command[0]} fails: {' '.join(error.stderr.split())}") from None
