"""The scripts that a submission gives to sbatch, without submitting anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import submitit

from analysis.folder import is_finished
from launch.config.cluster import Cluster
from launch.config.dependencies import stages
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.slurm import parameters


class _WithoutCluster(submitit.SlurmExecutor):  # type: ignore[misc,unused-ignore]
    """Submitit's executor on any machine."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def sbatch_scripts(runs: Sequence[Run], machine: Machine, cluster: Cluster) -> Iterator[str]:
    """Yield the script of each job array of the runs that have not finished.

    The copy of the code and the ids of jobs to wait for, which a submission makes, are in capitals.
    """
    folder = (machine.runs / "slurm").resolve()
    todo = [run for run in runs if not is_finished(machine.runs / run.name)]
    for number, stage in enumerate(stages(todo)):
        after = [f"JOBS_OF_ARRAY_{number}"] if number else []
        given = parameters(cluster, folder / "code" / "COPY", after)
        executor = _WithoutCluster(folder / "logs")
        executor.update_parameters(**_own(executor, given))
        executor.parameters["map_count"] = len(stage)  # as submitit does for arrays
        text = executor._make_submission_file_text(executor._submitit_command_str, "UID")
        yield f"# array {number + 1}: {len(stage)} runs\n{text.rstrip()}\n"


def _own(executor: _WithoutCluster, given: dict[str, Any]) -> dict[str, Any]:
    """Return parameters of submitit's AutoExecutor as those of an executor for Slurm."""
    prefix = "slurm_"
    common = {key: value for key, value in given.items() if not key.startswith(prefix)}
    special = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    return {**executor._convert_parameters(common), **special}
