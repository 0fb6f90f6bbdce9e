"""What a job requests from Slurm."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from baselines.errors import UserError, check_not_negative, check_positive
from baselines.fields import KEEP_COMMAS

Executor = Literal["local", "slurm"]


@dataclass(frozen=True)
class Cluster:
    """What each job requests from Slurm. It has no effect with --executor local."""

    partition: str = ""
    """Partition, or several separated by commas; if not given, the cluster's default."""
    nodes: int = 1
    """Nodes of each run."""
    gpus: int = 0
    """GPUs per node of each run, with one process each; 0: one process per node, without GPU."""
    processes: int = 0
    """Processes per node of a run without GPUs; with GPUs there is one per GPU."""
    cpus: int = 4
    """CPU cores per process."""
    memory: str = ""
    """Memory per node, such as 64GB; if not given, the cluster's default."""
    timeout: str = "24h"
    """Time limit of each job: minutes, or with a unit: 90m, 24h, 2d. Longer runs are requeued."""
    parallel: int = 256
    """Maximum number of jobs of an array that run at the same time."""
    account: str = ""
    """Account to charge."""
    slurm: tuple[str, ...] = field(default=(), metadata=KEEP_COMMAS)
    """Further sbatch parameters as key=value, such as constraint=a100 or qos=low."""
    setup: tuple[str, ...] = field(default=(), metadata=KEEP_COMMAS)
    """Shell commands to execute before the run, such as "module load cuda"."""

    def __post_init__(self) -> None:
        check_positive(nodes=self.nodes, cpus=self.cpus, parallel=self.parallel)
        check_not_negative(gpus=self.gpus, processes=self.processes)
        if self.gpus and self.processes not in (0, self.gpus):
            raise UserError("with gpus there is one process per GPU: leave out processes.")
        if self.minutes < 5:
            raise UserError(f"timeout must be at least 5 minutes, not {self.timeout}.")
        for name in ("partition", "memory", "account"):
            if not getattr(self, name).isprintable():
                raise UserError(f"{name} must be of one line, not {getattr(self, name)!r}.")
        for pair in self.slurm:
            if not re.fullmatch(r"[A-Za-z][\w-]*=.*", pair) or not pair.isprintable():
                raise UserError(f"--slurm takes key=value, not {pair!r}.")

    @property
    def tasks(self) -> int:
        """Processes per node of each run."""
        return self.gpus or self.processes or 1

    @property
    def minutes(self) -> int:
        """The time limit in minutes.

        Raises:
            UserError: it is not a number with m, h or d.
        """
        found = re.fullmatch(r"(\d+)([mhd]?)", self.timeout)
        if not found:
            raise UserError(f"timeout must be such as 90m, 24h or 2d, not {self.timeout!r}.")
        return int(found[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[found[2]]
