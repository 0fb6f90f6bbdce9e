"""`signbench barrier`: loss and error on the line between the networks of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from analysis.figures.style import ENDINGS
from baselines.checkpoint import Checkpoint, entries_of
from baselines.errors import UserError, check_at_least, check_not_negative, require
from launch.config.machine import Imports
from launch.data import load_data
from launch.data.normalisation import warn_of_constants
from launch.flags import leading_names, parse
from launch.measures.barrier import Named, Point, barrier, points_between
from launch.measures.timing import threads_set
from launch.plugins import import_plugins
from launch.ranks import Share, join_ranks
from launch.runs.atomic import write_csv
from launch.runs.reading import check_data, load_network, read_run
from launch.runs.snapshots import read_source, run_folder_of

_SAME = ("model", "data", "image_size", "normalise")  # settings that the two runs share


@dataclass(frozen=True)
class BarrierCommand:
    """Measure loss and error on the line between two networks, and the barrier: by how much the
    worst of them exceeds the line between the values of the two ends. Name two runs before the
    options, as RUN or RUN@EPOCH; the second may be a checkpoint file (FILE@KEY for one of several
    networks). The batch statistics of each
    network are computed again, in one pass over the training images."""

    points: int = 11
    """Number of networks that are measured, the two ends included."""
    output: tuple[Path, ...] = ()
    """Files to write, also -o: .csv, or a figure as .pdf, .svg or .png."""
    key: str = ""
    """Which network of a checkpoint file that has several, such as model_ema."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    data_dir: Path = Path("data")
    """Folder of the data sets."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads of the computation; 0: torch's default."""
    imports: Imports = ()
    """Import this Python module first, which defines methods, models or data of your own."""

    def __post_init__(self) -> None:
        check_at_least(3, points=self.points)
        check_not_negative(threads=self.threads)
        for path in self.output:
            if path.suffix not in (".csv", *ENDINGS):
                raise UserError(f"--output must end in .csv, .pdf, .svg or .png, not {path}.")
            require(path.parent.is_dir(), f"--output {path}: there is no folder {path.parent}.")

    @property
    def positions(self) -> list[float]:
        return [i / (self.points - 1) for i in range(self.points)]


def command(args: list[str]) -> int:
    """Measure the barrier between two runs."""
    names, flags = leading_names(args)
    given = parse(BarrierCommand, flags, "signbench barrier RUN RUN")
    if len(names) != 2:
        raise UserError("signbench barrier RUN RUN: give two runs, as RUN or RUN@EPOCH.")
    import_plugins(given.imports)
    with threads_set(given.threads):
        points = measure(names, given)
    for line in _summary(points):
        print(line)
    for path in given.output:
        _write(points, path)
        print(f"written: {path}")
    return 0


def measure(names: Sequence[str], given: BarrierCommand) -> list[Point]:
    """Return the points on the line between two runs.

    Raises:
        UserError: a run cannot be read, or the networks or their data are not alike.
    """
    folders = [run_folder_of(name, given.runs) for name in names]
    run, other = (read_run(folder) if folder else None for folder in folders)
    if run is None:
        raise UserError(f"the first of the two must be a run, not the file {names[0]}.")
    first = read_source(names[0], given.runs)
    for field in _SAME if other else ():
        one, two = (getattr(r.settings, field) for r in (run, other) if r)
        if one != two:
            raise UserError(f"the runs differ in {field}: {one} and {two}.")
    with join_ranks(given.device) as r:
        data = load_data(run.settings, given.data_dir, r.device, run.seed, Share(0, 1), workers=2)
        for folder in filter(None, folders):
            check_data(folder, data.digest)
        if other is None:
            warn_of_constants(names[1], run.settings.model, data.normalise)
        net = load_network(run, first, data.classes, data.inputs, r.device)
        template = net.model.state_dict()
        second = read_source(names[1], given.runs, given.key, template, print)
        ends = (_on(first, template, r.device), _on(second, template, r.device))
        model, positions = net.model, given.positions
        return list(points_between(model, ends, positions, data.train, data.test, r.device))


def _on(checkpoint: Checkpoint, template: Named, device: torch.device) -> dict[str, Tensor]:
    entries = entries_of(checkpoint, template)
    return {name: tensor.to(device, template[name].dtype) for name, tensor in entries.items()}


def _summary(points: Sequence[Point]) -> list[str]:
    """Return a table of the points, and a line with the barriers."""
    positions = [p.position for p in points]
    loss = barrier(positions, [p.loss for p in points])
    error = barrier(positions, [p.error for p in points])
    return [
        "position     loss    error",
        *(f"{p.position:8.3f} {p.loss:8.4f} {100 * p.error:7.2f}%" for p in points),
        f"barrier: {100 * error:.2f} percentage points of error, {loss:.4f} of loss",
    ]


def _write(points: Sequence[Point], path: Path) -> None:
    rows = [asdict(point) for point in points]
    if path.suffix == ".csv":
        write_csv(path, rows)
        return
    import pandas as pd

    from analysis.figures.barrier import draw_barrier
    from analysis.figures.style import save

    save(draw_barrier(pd.DataFrame(rows)), path)
