"""The cost of a whole run, compared with the bare loop.

Epochs of a real run, with data, logging, evaluation and snapshots, alternate with a bare PyTorch
loop that takes the same number of training steps, and of forward passes over test images, on a
batch on the device. Efficiency is the bare loop's time divided by the run's. Training and
evaluation are compared separately, and the work at the end of an epoch (flips, tables, snapshot,
state) is timed. The efficiency of an epoch of the data set's own size is computed from these three.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from baselines.errors import check_not_negative, check_positive
from launch.bench.bare import BareLoop
from launch.bench.generated_images import CLASSES, data_set, write_pictures
from launch.bench.variants import NEEDED
from launch.config.machine import Machine
from launch.config.recipe import Precision
from launch.config.run import Run
from launch.data.sources import RESIDENT_MAX_SIZE
from launch.measures.timing import threads_set, timed
from launch.ranks import Ranks, join_ranks
from launch.runs.folder import RunFolder
from launch.training.run import Training, silent

PHOTOGRAPH = (500, 375)  # pixels, about the mean size in ImageNet


@dataclass(frozen=True)
class RunBench:
    """Compare the epochs of a real run with the bare loop."""

    recipe: str = "cifar10-resnet20"
    """Recipe, except digits."""
    method: str = "random"
    """Method of the run."""
    sparsity: float = 0.9
    """Sparsity of the run; without effect for dense."""
    sign_in: bool = True
    """Whether the run is trained with Sign-In."""
    image_size: int = 0
    """Image size in pixels; 0: the recipe's."""
    batch_size: int = 0
    """Batch size; 0: the recipe's."""
    images: int = 0
    """Number of generated training images; 0: 50,000 small ones, or 20 batches of large ones."""
    precision: Precision | None = None
    """Precision of the training; None: the recipe's."""
    rounds: int = 3
    """Measured epochs of each, taken in turn, after one that is not measured."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads; 0: torch's default."""
    workers: int = 2
    """Processes that read images."""
    profile: Path | None = None
    """File for a trace of one more epoch (Perfetto, Chrome); its operations are printed."""

    def __post_init__(self) -> None:
        check_positive(rounds=self.rounds)
        check_not_negative(images=self.images, threads=self.threads)

    def run(self, data: Path) -> Run:
        """Return the run, on images in a folder."""
        choices: dict[str, object] = {"data": str(data), "epochs": self.rounds + 2}
        choices |= NEEDED.get(self.method, {})
        given = {name: getattr(self, name) for name in ("image_size", "batch_size", "precision")}
        choices |= {name: value for name, value in given.items() if value}
        sparse = {"sparsity": self.sparsity} if self.method != "dense" else {}
        return Run.make(self.recipe, self.method, sign_in=self.sign_in, **sparse, **choices)


@dataclass(frozen=True)
class Parts:
    """Seconds of the parts of an epoch."""

    train: float
    test: float
    end: float = 0.0

    def per_image(self, images: tuple[int, int], of: tuple[int, int]) -> float:
        """Return the seconds of an epoch of another size.

        Args:
            images: numbers of training and test images that were measured.
            of: those of the other epoch.
        """
        return self.train * of[0] / images[0] + self.test * of[1] / images[1] + self.end


def bench_run(options: RunBench) -> int:
    """Print the efficiency of each part and of the whole. Return the exit code."""
    with (
        threads_set(options.threads),
        tempfile.TemporaryDirectory() as folder,
        join_ranks(options.device) as r,
    ):
        data = Path(folder) / "images"
        recipe = options.run(data).settings
        small = recipe.image_size <= RESIDENT_MAX_SIZE
        full = data_set(recipe.image_size)
        train = options.images or (full[0] if small else 20 * recipe.batch_size)
        test = round(train * full[1] / full[0])
        shape = (recipe.image_size, recipe.image_size) if small else PHOTOGRAPH
        print(f"writing {train + test:,} images", file=sys.stderr, flush=True)
        write_pictures(data, train, test, *shape)
        training = _training(options, Path(folder), r)
        steps = training.loop.steps
        images = (steps * recipe.batch_size, max(test, CLASSES))
        bare = BareLoop(recipe, CLASSES, r.device)
        first = training.begin()
        real_parts, bare_parts = [], []
        for i in range(options.rounds + 1):
            found = (_epoch(training, first + i), _bare_epoch(bare, steps, images[1]))
            if i:  # the first epochs select kernels and fill caches
                real_parts.append(found[0])
                bare_parts.append(found[1])
        _print(real_parts, bare_parts, images, full)
        if options.profile:
            _profile(lambda: training.epoch(first + options.rounds + 1), options.profile)
    return 0


def _training(options: RunBench, folder: Path, r: Ranks) -> Training:
    run = options.run(folder / "images")
    machine = Machine(
        runs=folder / "runs", data_dir=folder, device=options.device, workers=options.workers
    )
    record = RunFolder(run, machine.runs)
    record.path.mkdir(parents=True)
    return Training(run, machine, r, record, silent, bar=False)


def _epoch(training: Training, epoch: int) -> Parts:
    seconds = timed(lambda: training.epoch(epoch), training.ranks.device)
    row = training.epochs[-1]
    train, test = float(row["seconds"]), float(row["test_seconds"])
    return Parts(train, test, seconds - train - test)


def _bare_epoch(bare: BareLoop, steps: int, test_images: int) -> Parts:
    def train_all() -> None:
        for _ in range(steps):
            bare.step()

    train = timed(train_all, bare.device)
    return Parts(train, timed(lambda: bare.evaluate(test_images), bare.device))


def _print(
    real: list[Parts], bare: list[Parts], images: tuple[int, int], full: tuple[int, int]
) -> None:
    def show(title: str, seconds: Callable[[Parts], float]) -> None:
        a, b = ([seconds(part) for part in parts] for parts in (real, bare))
        ratio = statistics.median(y / x for x, y in zip(a, b, strict=True))
        run, loop = statistics.median(a), statistics.median(b)
        print(f"{title:46} {run:9.2f} s, bare loop {loop:9.2f} s, efficiency {ratio:.3f}")

    show(f"training on {images[0]:,} images", lambda part: part.train)
    show(f"evaluation on {images[1]:,} images", lambda part: part.test)
    print(f"{'end of an epoch':46} {statistics.median(part.end for part in real):9.2f} s")
    computed = f" of {full[0]:,} + {full[1]:,} images, computed"
    show(f"an epoch{computed * (images != full)}", lambda part: part.per_image(images, full))


def _profile(work: Callable[[], object], trace: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as found:
        work()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    print(found.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=25))
    found.export_chrome_trace(str(trace))
    print("written:", trace)
