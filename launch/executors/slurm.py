"""Runs on a Slurm cluster, through submitit: job arrays, with one job per run.

A submitted job runs the code as it was at submission, of which a copy is kept next to its logs.
When Slurm preempts a job or its time is up, it is requeued and resumes from its run's last epoch.
The same holds after a node has failed, where Slurm itself requeues the job. Each run's folder has
the id of its job, so that a second submission skips what is queued or finished.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from filelock import FileLock

from analysis.checked import FileError
from analysis.contents import Failure, Result
from analysis.folder import CONFIG, FAILURE, JOB, is_finished, read_epochs, read_failure
from baselines.errors import UserError
from launch.config.cluster import Cluster
from launch.config.dependencies import stages
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.code_copy import copy_code, own_modules
from launch.executors.queue import list_jobs, max_array_size, queued_job
from launch.plugins import import_plugins
from launch.runs.atomic import make_folder, remove_file, write_json
from launch.runs.provenance import write_config
from launch.training.check import missing_sources

NEARLY = 0.8  # of the time limit: a job that is stopped later has used it
EARLY = 90.0  # seconds: Slurm may signal 60 s early, and the script begins after the job
START = "SIGNBENCH_JOB_START"  # environment variable: when a job's script began, in seconds
PATIENCE = 120.0  # seconds that a job waits for the one before it to release the folder


@dataclass
class Job:
    """Training of one run as a job. A job that is signalled to stop asks to be requeued.

    Args:
        minutes: time limit of the job.
    """

    run: Run
    machine: Machine
    minutes: int
    before: int = field(default=0, init=False, compare=False)  # epochs that had ended before

    def __call__(self) -> Result:
        import submitit

        from launch.training.run import run_training

        self.before = self._epochs()
        import_plugins(self.machine.imports)
        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
            os.environ.setdefault("MASTER_PORT", str(master_port(environment.job_id, restarts)))
            distributed = submitit.helpers.TorchDistributedEnvironment()
            distributed.export(overwrite=True, set_cuda_visible_devices=False)
        return run_training(self.run, self.machine, bar=False, patience=PATIENCE)

    def checkpoint(self) -> Any:
        """Return the same job. Nothing is saved: the last epoch's state is in the run's folder.

        Raises:
            UserError: the time limit is shorter than an epoch. The run then counts as failed.
        """
        import submitit

        has_used = age_of_job() > used_up(self.minutes)
        if has_used and self._epochs() == self.before:
            raise UserError(
                f"no epoch ended in the time limit of {self.minutes} minutes: give a longer one "
                "with --timeout."
            )
        return submitit.helpers.DelayedSubmission(self)

    def _epochs(self) -> int:
        """Return the number of epochs that have ended; 0 if the rows are damaged."""
        try:
            return len(read_epochs(self.machine.runs / self.run.name))
        except FileError:  # `RunFolder.opened` sets aside what has to be
            return 0


def age_of_job() -> float:
    """Return the seconds since the script of this job began; 0 if that is not known."""
    now = time.time()
    return now - float(os.environ.get(START, now))


def used_up(minutes: int) -> float:
    """Return the seconds after which a job that is signalled has used its time limit."""
    limit = 60.0 * minutes
    return min(NEARLY * limit, limit - signal_delay(minutes) - EARLY)


def signal_delay(minutes: int) -> int:
    """Return how many seconds before its end a job is signalled to stop."""
    return min(120, 6 * minutes)


def master_port(job: str, restarts: str) -> int:
    """Return the port at which the ranks of a job meet, another one after each requeue.

    It is below the ports that Linux gives to clients (32768 and above), which may be in use.
    """
    return Random(f"{job} {restarts}").randrange(10_000, 32_768)


def parameters(cluster: Cluster, code: Path, after: Sequence[str] = ()) -> dict[str, Any]:
    """Return the parameters of submitit's executor.

    Args:
        code: the copy of the packages that the job imports.
        after: ids of jobs that must have ended before.
    """
    more: dict[str, Any] = {"requeue": True}
    if cluster.account:
        more["account"] = cluster.account
    more |= dict(pair.split("=", 1) for pair in cluster.slurm)
    if after:
        ended = "afterany:" + ":".join(sorted(set(after)))
        more["dependency"] = ",".join(filter(None, (ended, more.get("dependency"))))
    chosen: dict[str, Any] = {
        "name": "signbench",
        "nodes": cluster.nodes,
        "tasks_per_node": cluster.tasks,
        "cpus_per_task": cluster.cpus,
        "timeout_min": cluster.minutes,
        "slurm_signal_delay_s": signal_delay(cluster.minutes),
        "slurm_array_parallelism": cluster.parallel,
        "slurm_additional_parameters": more,
        "slurm_setup": [f"export {START}=$(date +%s)", *_use_code(code), *cluster.setup],
        "slurm_srun_args": [f"--cpus-per-task={cluster.cpus}"],
    }
    if cluster.partition:
        chosen["slurm_partition"] = cluster.partition
    if cluster.gpus:
        chosen["gpus_per_node"] = cluster.gpus
    if cluster.memory:
        chosen["slurm_mem"] = cluster.memory
    return chosen


def _use_code(code: Path) -> list[str]:
    """Return shell commands that make Python import the copy, not what is in the current folder."""
    # an empty entry would be the current folder
    path = f"{shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    return [f"export PYTHONPATH={path}", "export PYTHONSAFEPATH=1"]


def submit(
    runs: Sequence[Run], machine: Machine, cluster: Cluster, strict: bool = True
) -> list[tuple[Run, str]]:
    """Submit what is neither finished nor queued, as job arrays, each run after those it needs.

    Args:
        strict: refuse runs that need others which have failed, rather than leave them out with a
            warning.

    Returns:
        The runs that were submitted, with their job ids.

    Raises:
        UserError: Slurm is not installed, or refuses the jobs; or, if `strict`, a run needs one
            that has failed.
    """
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here: --executor slurm needs a Slurm login node.")
    machine = _absolute(machine)
    folder = machine.runs / "slurm"
    _check_name(folder)
    make_folder(folder)
    with FileLock(folder / "lock"):  # of two submissions at once, the second sees the first's jobs
        queued = list_jobs()
        concerned = {name for run in runs for name in (run.name, *run.needs)}
        jobs = {name: queued_job(machine.runs / name, queued) for name in concerned}
        active = {name: job for name, job in jobs.items() if job}
        todo = _to_submit(runs, active, machine.runs, strict)
        code = copy_code(folder, own_modules(runs, machine))
        submitted: list[tuple[Run, str]] = []
        most = max_array_size() if todo else 0
        for stage in stages(todo):
            known = active | {run.name: job for run, job in submitted}
            after = [known[name] for run in stage for name in run.needs if name in known]
            for part in _parts(stage, most):
                submitted += _submit_array(part, machine, cluster, folder, code, after)
    return submitted


def _to_submit(
    runs: Sequence[Run], active: Mapping[str, str], root: Path, strict: bool
) -> list[Run]:
    """Return the runs that are neither finished nor active and have all that they need."""
    todo = [run for run in runs if run.name not in active and not is_finished(root / run.name)]
    missing = missing_sources(todo, active, root)
    if missing and strict:
        reason = next(iter(missing.values()))
        share = f"{len(missing)} of {len(runs)} runs"
        raise UserError(f"{reason} Nothing was submitted: this holds for {share}.")
    for name, reason in missing.items():
        warnings.warn(f"{name} is not submitted: {reason}", stacklevel=3)
    return [run for run in todo if run.name not in missing]


def _check_name(folder: Path) -> None:
    """Raise UserError if Slurm or PYTHONPATH would take a part of a folder's name for a pattern."""
    bad = sorted({c for c in str(folder) if c in ":%\\" or not c.isprintable()})
    if bad:
        listed = ", ".join(map(repr, bad))
        raise UserError(f"Slurm jobs cannot use the folder {str(folder)!r}: its name has {listed}.")


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
    try:
        with _folders_of(runs, machine.runs), _outside_of_jobs():
            jobs = executor.submit_array([Job(run, machine, cluster.minutes) for run in runs])
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"sbatch refuses: {' '.join(str(error).split())}") from None
    for run, job in zip(runs, jobs, strict=True):
        home = machine.runs / run.name
        given = {"machine": asdict(machine), "cluster": asdict(cluster), "cwd": os.getcwd()}
        write_json(home / JOB, {"job": job.job_id, "log": str(job.paths.stderr), **given})
    return [(run, str(job.job_id)) for run, job in zip(runs, jobs, strict=True)]


@contextmanager
def _folders_of(runs: Sequence[Run], root: Path) -> Iterator[None]:
    """Make the folders of runs that are submitted. If that fails, undo it."""
    homes = {root / run.name: run for run in runs}
    new = [home for home in homes if not home.exists()]
    failures = {home: failure for home in homes if (failure := _failure(home)) is not None}
    try:
        for home, run in homes.items():  # before a job can fail again
            make_folder(home)
            remove_file(home / FAILURE)
            write_config(home, run)
        yield
    except BaseException:
        for home, failure in failures.items():
            write_json(home / FAILURE, failure)
        for home in filter(Path.exists, new):
            if {file.name for file in home.iterdir()} <= {CONFIG}:  # no other process trains it
                shutil.rmtree(home)
        raise


def _failure(home: Path) -> Failure | None:
    """Return why a run has failed, if that can be read."""
    try:
        return read_failure(home)
    except FileError:
        return None


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide Slurm's environment variables of the job that this process may be part of."""
    import submitit

    where = {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
    with submitit.helpers.clean_env():
        os.environ.update(where)
        yield


def _parts(runs: list[Run], most: int) -> list[list[Run]]:
    return [runs[i : i + most] for i in range(0, len(runs), most)]


def _absolute(machine: Machine) -> Machine:
    return replace(machine, runs=machine.runs.resolve(), data_dir=machine.data_dir.resolve())
