"""Where and how a run is executed. It changes results by rounding at most, and no run's name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from baselines.errors import check_at_most, check_not_negative, require

Imports = Annotated[tuple[str, ...], tyro.conf.arg(name="import"), tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Machine:
    """Where and how a run is executed; not part of the run's identity."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    data_dir: Path = Path("data")
    """Folder of data sets; downloads go there too."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N. auto uses a GPU if there is one."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes (or threads) per rank that read image files, for each split that is read while
    training."""
    threads: int = 0
    """CPU threads of the computation; 0: torch's default."""
    compile: bool = False
    """Use torch.compile on the model."""
    sparse_kernels: Literal["none", "auto"] = "none"
    """auto: train with sparse products the linear layers for which a measurement shows a gain. On a
    CPU, in float32."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none"
    """Experiment tracker that shows settings, curves and figures of the runs."""
    imports: Imports = ()
    """Import this Python module first, which defines methods, models, data or recipes of your
    own."""

    def __post_init__(self) -> None:
        is_plain = self.sparse_kernels == "none" or not self.compile
        require(is_plain, "--sparse-kernels auto does not work with --compile: leave one out.")
        check_not_negative(workers=self.workers, threads=self.threads)
        check_at_most(1024, workers=self.workers, threads=self.threads)
