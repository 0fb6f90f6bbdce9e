"""`signbench sharpness`: the Hessian's largest eigenvalue at the snapshots of runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from analysis.contents import SharpnessRow
from analysis.folder import (
    SHARPNESS,
    find_run,
    find_snapshots,
    is_finished,
    list_runs,
    read_sharpness,
)
from baselines.errors import UserError
from baselines.tools.scores import scoring
from launch.config.machine import Imports
from launch.config.run import Run
from launch.data import load_data
from launch.data.batches import Data
from launch.flags import leading_names, parse
from launch.plugins import import_plugins
from launch.ranks import Share, join_ranks
from launch.runs.files import write_csv
from launch.runs.network import load_network, read_run
from launch.runs.snapshots import read_snapshot


@dataclass(frozen=True)
class SharpnessCommand:
    """Measure the largest Hessian eigenvalue at the snapshots of runs. Name the runs before the
    options; without names, all finished runs are measured. The Hessian is that of the cross
    entropy on training images, over the weights that the mask keeps, with the batch statistics of
    evaluation. Results go to the sharpness.csv of each run, for `signbench figure 5`."""

    epochs: tuple[int, ...] = ()
    """Epochs of the snapshots; all if not given."""
    per_class: int = 50
    """Number of training images of each class, the same for all runs; not augmented."""
    top: int = 1
    """Number of eigenvalues, the largest first."""
    probes: int = 0
    """Number of random vectors to estimate the trace with; 0: do not."""
    tolerance: float = 1e-3
    """Relative error of the eigenvalues."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    data_dir: Path = Path("data")
    """Folder of the data sets."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    imports: Imports = ()
    """Import this Python module first, which defines methods of your own."""

    def __post_init__(self) -> None:
        if self.per_class < 1 or self.top < 1 or self.probes < 0 or self.tolerance <= 0:
            raise UserError("per_class, top and tolerance must be positive, probes not negative.")


def command(args: list[str]) -> int:
    """Measure sharpness."""
    names, flags = leading_names(args)
    given = parse(SharpnessCommand, flags, "signbench sharpness RUN …")
    import_plugins(given.imports)
    folders = [find_run(name, given.runs) for name in names]
    for folder in folders or filter(is_finished, list_runs(given.runs)):
        measure_run(folder, given)
    return 0


def measure_run(folder: Path, given: SharpnessCommand) -> None:
    """Measure the snapshots of one run. Rows of other epochs in its sharpness.csv are kept.

    Raises:
        UserError: there is no such snapshot, or the data are not there.
    """
    epochs = given.epochs or tuple(sorted(find_snapshots(folder)))
    if not epochs:
        raise UserError(f"{folder} has no snapshots.")
    rows, run = {row["epoch"]: row for row in read_sharpness(folder)}, read_run(folder)
    with join_ranks(given.device) as r:
        # the run's own seed would give each seed other images
        data = load_data(run.settings, given.data_dir, r.device, 0, Share(0, 1), workers=2)
        for epoch in epochs:
            found = rows[epoch] = _row(run, data, folder, epoch, r.device, given)
            print(
                f"{folder.name} epoch {epoch}: sharpness {found['sharpness']:.5g} "
                f"(residual {found['residual']:.1e}), {found['seconds']:.1f} s",
                flush=True,
            )
            write_csv(folder / SHARPNESS, [rows[epoch] for epoch in sorted(rows)])


def _row(
    run: Run, data: Data, folder: Path, epoch: int, device: torch.device, given: SharpnessCommand
) -> SharpnessRow:
    """Measure one snapshot."""
    from launch.measures.hessian import Hessian, estimate_trace, largest_eigenvalues

    began = time.perf_counter()
    snapshot = read_snapshot(folder, str(epoch))
    net = load_network(run, snapshot, data.classes, data.inputs, device)
    batches = [(x, y) for x, y in data.train.sample(given.per_class)]
    weights = {name: layer.weight for name, layer in net.layers.items()}
    with scoring(net.model, train=False), torch.autocast(device.type, enabled=False):
        hessian = Hessian(net.model, weights, net.masks, batches)
        found = largest_eigenvalues(hessian, given.top, given.tolerance)
        row: dict[str, float] = {
            "epoch": epoch,
            "sharpness": found.values[0],
            "residual": found.residuals[0],
            **{f"eigenvalue_{i}": v for i, v in enumerate(found.values[1:], start=2)},
        }
        if given.probes:
            row["trace"], row["trace_error"] = estimate_trace(hessian, given.probes)
    row |= {"images": hessian.images, "seconds": time.perf_counter() - began}
    return cast("SharpnessRow", row)
