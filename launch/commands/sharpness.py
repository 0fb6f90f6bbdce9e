"""`signbench sharpness`: the Hessian's largest eigenvalue at the snapshots of runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from torch import Tensor

from analysis.contents import SharpnessRow
from analysis.folder import (
    SHARPNESS,
    SHARPNESS_LOCK,
    find_run,
    find_snapshots,
    read_result,
    read_sharpness,
)
from baselines.errors import UserError, check_not_negative, check_positive, one_line
from baselines.tools.scores import scoring
from launch.commands.selection import Selection
from launch.config.machine import Imports
from launch.config.run import Run
from launch.console import duration
from launch.data import load_data
from launch.data.batches import Data
from launch.flags import leading_names, parse
from launch.measures.timing import threads_set
from launch.plugins import import_plugins
from launch.ranks import Share, join_ranks
from launch.runs.atomic import cannot_write, write_csv
from launch.runs.reading import OtherData, check_data, load_network, read_run
from launch.runs.snapshots import read_snapshot
from signin.transplant import masks_of

MOST_JOINED = 2**21  # input values of a batch that is made of several


@dataclass(frozen=True)
class SharpnessCommand:
    """Measure the largest Hessian eigenvalue at the snapshots of runs. Name the runs before the
    options; without names, all finished runs are measured. The Hessian is that of the cross
    entropy on training images, over the weights that the mask keeps (if no mask has a zero, those
    that are not zero), with the batch statistics of evaluation. Results go to the sharpness.csv of
    each run, for `signbench figure 5`."""

    epochs: tuple[int, ...] = ()
    """Epochs of the snapshots; all if not given."""
    per_class: int = 50
    """Number of training images of each class, the same for all runs; not augmented. With
    `validation`, they are chosen among the images that the run trained on."""
    top: int = 1
    """Number of eigenvalues, the largest first."""
    probes: int = 0
    """Number of random vectors to estimate the trace with; 0: do not."""
    relative: bool = False
    """Also measure the largest eigenvalue for changes relative to the norm of each layer, which
    does not depend on the scale of layers before normalisation."""
    tolerance: float = 1e-3
    """Relative error of the eigenvalues."""
    again: bool = False
    """Measure also what was measured before with the same number of images."""
    threads: int = 0
    """CPU threads of the computation; 0: torch's default."""
    selection: Selection = field(default_factory=Selection)
    data_dir: Path = Path("data")
    """Folder of the data sets."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    imports: Imports = ()
    """Import this Python module first, which defines methods, models or data of your own."""

    def __post_init__(self) -> None:
        check_positive(per_class=self.per_class, top=self.top, tolerance=self.tolerance)
        check_not_negative(probes=self.probes, threads=self.threads)


@dataclass(frozen=True)
class Task:
    """One snapshot to measure."""

    folder: Path
    epoch: int


def command(args: list[str]) -> int:
    """Measure sharpness."""
    names, flags = leading_names(args)
    given = parse(SharpnessCommand, flags, "signbench sharpness RUN …")
    import_plugins(given.imports)
    tasks = [task for folder in _folders(names, given.selection) for task in _tasks(folder, given)]
    print(f"{len(tasks)} snapshots to measure")
    with threads_set(given.threads):
        measure(tasks, given)
    return 0


def measure(tasks: Sequence[Task], given: SharpnessCommand) -> None:
    """Measure snapshots. Rows of other epochs in each run's sharpness.csv are kept.

    Raises:
        UserError: the data are not there, or a snapshot cannot be read. Or at the end: Lanczos'
            method has not converged at some snapshots, or the data of some runs have changed.
    """
    from launch.measures.hessian import NotConverged

    load = lru_cache(maxsize=1)(load_data)  # consecutive snapshots are of one run
    began, failed = time.perf_counter(), list[UserError | NotConverged]()
    for i, task in enumerate(tasks, start=1):
        where = f"[{i}/{len(tasks)}] {task.folder.name} epoch {task.epoch}:"
        try:
            found = _measure(task, given, load)
        except (NotConverged, OtherData) as error:
            failed.append(error)
            print(f"{where} not measured. {one_line(error)}", file=sys.stderr, flush=True)
            continue
        left = (time.perf_counter() - began) / i * (len(tasks) - i)
        print(
            f"{where} sharpness {found['sharpness']:.5g} (residual {found['residual']:.1e}), "
            f"{found['seconds']:.1f} s" + (f"; {duration(left)} left" if left else ""),
            flush=True,
        )
    if stuck := sum(isinstance(error, NotConverged) for error in failed):
        raise UserError(
            f"Lanczos' method has not converged at {stuck} of {len(tasks)} snapshots: measure "
            "them with a larger --tolerance."
        )
    if failed:
        raise UserError(
            f"{len(failed)} of {len(tasks)} snapshots were not measured: the data have changed."
        )


def _folders(names: list[str], selection: Selection) -> list[Path]:
    """Return the named runs, or else the finished ones among the selected."""
    if names:
        return [find_run(name, selection.runs) for name in names]
    runs = selection.load()
    return sorted(runs[runs["state"] == "finished"]["folder"])


def _tasks(folder: Path, given: SharpnessCommand) -> Iterator[Task]:
    """Yield the snapshots of a run that are to be measured."""
    known = sorted(find_snapshots(folder))
    epochs = given.epochs or tuple(known)
    for epoch in epochs or [""]:
        if epoch not in known:
            there = ", ".join(map(str, known)) or "none"
            raise UserError(f"{folder} has no snapshot {epoch}; there are: {there}.")
    rows = {row["epoch"]: row for row in read_sharpness(folder)}
    result = read_result(folder)
    classes = result.get("classes", 1) if result else 1  # rows of earlier versions are per image
    for epoch in epochs:
        row: Mapping[str, Any] = rows.get(epoch, {})
        is_there = (
            row.get("per_class", row.get("images", 0) / classes) == given.per_class
            and all(row.get(name, 1.0) <= given.tolerance for name in _residuals(given))
            and row.get("probes", 0) >= given.probes
        )
        if given.again or not is_there:
            yield Task(folder, epoch)


def _residuals(given: SharpnessCommand) -> list[str]:
    """Return the columns of the residuals of all eigenvalues that are to be measured."""
    further = [f"residual_{i}" for i in range(2, given.top + 1)]
    return ["residual", *further, *(["relative_residual"] if given.relative else [])]


def _measure(task: Task, given: SharpnessCommand, load: Callable[..., Data]) -> SharpnessRow:
    """Measure one snapshot and write its row.

    Args:
        load: `load_data`, or a function that keeps what it gave.
    """
    folder, run = task.folder, read_run(task.folder)
    with join_ranks(given.device) as r:
        # the run's own seed would give each seed other images
        data = load(run.settings, given.data_dir, r.device, 0, Share(0, 1), workers=2)
        check_data(folder, data.digest)
        found = _row(run, data, folder, task.epoch, r.device, given)
    _write(folder, task.epoch, found)
    return found


def _write(folder: Path, epoch: int, found: SharpnessRow) -> None:
    """Write a row. Rows that others have written meanwhile are kept, and so are further columns
    of the same images. Raises UserError."""
    try:
        with FileLock(folder / SHARPNESS_LOCK):
            rows = {row["epoch"]: row for row in read_sharpness(folder)}
            before = rows.get(epoch, found)
            rows[epoch] = {**before, **found} if before["images"] == found["images"] else found
            write_csv(folder / SHARPNESS, [rows[key] for key in sorted(rows)])
    except OSError as error:
        raise cannot_write(folder / SHARPNESS_LOCK, error) from error


def _row(
    run: Run, data: Data, folder: Path, epoch: int, device: torch.device, given: SharpnessCommand
) -> SharpnessRow:
    """Measure one snapshot."""
    from launch.measures.hessian import (
        Hessian,
        estimate_trace,
        largest_eigenvalues,
        without_tf32,
    )

    began = time.perf_counter()
    snapshot = read_snapshot(folder, str(epoch))
    net = load_network(run, snapshot, data.classes, data.inputs, device)
    batches = _join(list(data.train.sample(given.per_class)))
    weights = {name: layer.weight for name, layer in net.layers.items()}
    plain = torch.autocast(device.type, enabled=False)
    with scoring(net.model, train=False), plain, without_tf32():
        hessian = Hessian(net.model, weights, masks_of(snapshot, weights), batches)
        found = largest_eigenvalues(hessian, given.top, given.tolerance)
        pairs = list(zip(found.values, found.residuals, strict=True))
        row: dict[str, float] = {"epoch": epoch}
        row["sharpness"], row["residual"] = pairs[0]
        for i, pair in enumerate(pairs[1:], start=2):
            row[f"eigenvalue_{i}"], row[f"residual_{i}"] = pair
        if given.relative:
            scaled = largest_eigenvalues(hessian.relative(), 1, given.tolerance)
            row["relative_sharpness"], row["relative_residual"] = *scaled.values, *scaled.residuals
        if given.probes:
            row["trace"], row["trace_error"] = estimate_trace(hessian, given.probes)
            row["probes"] = given.probes
    row |= {"images": hessian.images, "per_class": given.per_class}
    row["seconds"] = time.perf_counter() - began
    return cast("SharpnessRow", row)


def _join(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return one batch of small ones: many short products take longer than one long one."""
    if sum(x.numel() for x, _ in batches) > MOST_JOINED:
        return batches
    inputs, labels = zip(*batches, strict=True)
    return [(torch.cat(inputs), torch.cat(labels))]
