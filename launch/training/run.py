"""One run: from its description to its folder and result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial

from analysis.contents import EpochRow, LayerRow, Result
from baselines.checkpoint import Checkpoint
from baselines.errors import UserError
from launch.config.dependencies import require_constants
from launch.config.machine import Machine
from launch.config.run import Run
from launch.data import load_data
from launch.measures.flips import FlipTracker
from launch.measures.timing import threads_set
from launch.ranks import Ranks, join_ranks
from launch.runs.atomic import CsvText, one_sync
from launch.runs.folder import STATES, RowTexts, RunFolder
from launch.runs.provenance import note_start
from launch.trackers import Tracking, check_tracker, open_tracking
from launch.training.build import build_loop
from launch.training.constant_output import check_collapse
from launch.training.finished import complete, complete_if_needed, finished_text
from launch.training.kernel_speed import speed_text
from launch.training.result import device_name, make_result
from launch.training.rows import epoch_row, epoch_text, layer_rows
from launch.training.state import Misfit, State, has_last_rows, load_state


def run_training(
    run: Run,
    machine: Machine,
    report: Callable[[str], None] = print,
    bar: bool | None = None,
    patience: float = 0.0,
) -> Result:
    """Train or resume a run. Do nothing if it has finished.

    Args:
        report: called with one line per epoch.
        bar: whether to show a progress bar over the steps; by default if stderr is a terminal.
        patience: seconds to wait for another process that trains the run.

    Returns:
        The contents of result.json.

    Raises:
        UserError: the input cannot be used.
        Diverged: a loss or weight is NaN or infinite. The state of the last epoch is kept.
        Collapsed: the output of the final network is constant, and its sparsity is not the
            requested one.
    """
    require_constants([run], machine)
    check_tracker(machine.tracker)
    folder = RunFolder(run, machine.runs)
    result = None if "RANK" in os.environ else folder.result  # all ranks must agree, see below
    if result is not None:
        report(finished_text(run, machine, folder.path, result))
        complete_if_needed(run, machine, folder, result)
        return result
    with threads_set(machine.threads), join_ranks(machine.device) as r:
        make = partial(Training, run, machine, r, folder, report, bar)
        # what cannot be trained leaves no folder
        training = None if r.from_first(folder.path.exists()) else make().prepare()
        with folder.opened(patience) if r.is_first else nullcontext():
            try:
                found: Result | None = r.from_first(folder.result)
                if found is not None:  # maybe by another process, meanwhile
                    if r.is_first:
                        report(finished_text(run, machine, folder.path, found))
                        complete(run, machine, folder, found)
                    return found
                return (training or make()).finish()
            except Exception as error:  # on the first rank that raises one
                with suppress(UserError):  # on a full disk, the reason is the file before
                    folder.fail(f"{type(error).__name__}: {error}")
                raise


class Training:
    """A run on one rank. Rank 0 writes the folder."""

    def __init__(
        self,
        run: Run,
        machine: Machine,
        r: Ranks,
        folder: RunFolder,
        report: Callable[[str], None] = print,
        bar: bool | None = None,
    ) -> None:
        self.run, self.machine, self.ranks, self.folder = run, machine, r, folder
        self.report = report if r.is_first else silent
        data = load_data(
            run.settings, machine.data_dir, r.device, run.seed, r.share, machine.workers
        )
        self._make_loop = partial(
            build_loop, run, data, r, machine.compile, bar, machine.runs, machine.sparse_kernels
        )
        self._build()

    def _build(self) -> None:
        """Build everything that a state is loaded into."""
        self.loop = self._make_loop()
        self.net = self.loop.sparsifier.net
        keeper = self.folder if self.ranks.is_first else None
        self.flips = FlipTracker(self.net, self.run.early_epochs[0], keeper)
        self.epochs: list[EpochRow] = []
        self.layers: list[LayerRow] = []
        self._texts = CsvText(), CsvText()
        self.is_prepared = False

    def prepare(self) -> Training:
        """Let the method choose its first masks. Nothing is written."""
        self.loop.start()
        self.is_prepared = True
        return self

    def finish(self) -> Result:
        """Train from the last saved state to the end. Return the result."""
        if self.loop.epochs != self.run.settings.epochs:
            self.report(f"{self.run.title}: {self.loop.epochs} epochs in total")
        first = self.begin()
        machine = self.machine if self.ranks.is_first else replace(self.machine, tracker="none")
        with open_tracking(self.run, machine, self.folder.path, first) as tracking:
            tracking.update(self.epochs, self.layers)
            for epoch in range(first, self.loop.epochs):
                self.epoch(epoch)
                tracking.update(self.epochs, self.layers)
            return self._end(tracking)

    def _end(self, tracking: Tracking) -> Result:
        """Write the result, and return it."""
        result = make_result(self.run, self.loop, self.epochs, self.layers)
        check_collapse(self.loop, result, self.run.sparsity)
        if self.ranks.is_first:
            self.flips.add_final(self.layers)
            self._texts = CsvText(), CsvText()
            self.folder.write_rows(self._row_texts)
            self.folder.finish(result)
            tracking.finish(result)
        if "kernel_speed" in result:
            self.report(f"{self.run.title}: {speed_text(result['kernel_speed'])}")
        return result

    def epoch(self, epoch: int) -> EpochRow:
        """Train one epoch, evaluate, and write both to the folder. Return its row of epochs.csv."""
        began = time.perf_counter()
        loss, accuracy = self.loop.train_epoch(epoch)
        seconds = time.perf_counter() - began
        if self.loop.products and (news := self.loop.products.news()):
            self.report(f"{self.run.title}: {news}")
        with one_sync():
            flips = self.flips.count(epoch + 1)
            row = epoch_row(self.loop, epoch, loss, accuracy, seconds, self.flips.share(flips))
            self.epochs.append(row)
            self.layers += layer_rows(self.loop.sparsifier, epoch, flips)
            self._keep_rows(epoch)
        self._keep_state(epoch)
        self.report(epoch_text(row, self.loop.epochs))
        return row

    # ---- writing and reading the folder

    def begin(self) -> int:
        """Load the newest state that fits, or prepare a new run. Return the first epoch to train.

        Raises:
            UserError: there are states, but none fits, or the system fails to read one.
        """
        first = self._load_newest()
        if not first and not self.is_prepared:
            self.prepare()
        self._note_start(first)
        if first:
            self.report(f"{self.run.title}: resumes from epoch {first + 1}")
            return first
        self._snapshot(0)
        self.flips.begin()
        return 0

    def _load_newest(self) -> int:
        """Load the newest state that fits. Return the number of epochs that it has trained, or 0.

        A state that is damaged is set aside, and one that does not fit if the one before does.
        """
        misfits: dict[str, str] = {}
        for file in STATES:
            read = self.folder.read_state(file) if self.ranks.is_first else (None, "")
            state, problem = self.ranks.from_first(read)
            if problem:
                self._set_aside({file: problem})
            if state is None:
                continue
            if self.is_prepared or misfits:  # is_prepared: another process has trained it meanwhile
                self._build()
            misfit = self._load(state)
            if not misfit:
                self._set_aside(misfits)
                return int(state["epoch"]) + 1
            misfits[file] = misfit
        if misfits:
            file, misfit = next(iter(misfits.items()))
            raise UserError(
                f"{self.folder.path / file} does not fit: {misfit}. Restore data, code and "
                "libraries as they were, or remove the run."
            )
        return 0

    def _note_start(self, epoch: int) -> None:
        """Record in config.json the environment from an epoch on."""
        if self.ranks.is_first:
            with_what = {
                "device": device_name(self.ranks.device),
                **self.loop.data.about,
                "data_dir": str(self.machine.data_dir.resolve()),
                "sparse_kernels": self.machine.sparse_kernels,
            }
            note_start(self.folder.path, epoch, with_what)

    def _set_aside(self, problems: Mapping[str, str]) -> None:
        if self.ranks.is_first:
            for file, problem in problems.items():
                self.folder.set_aside(file, problem)

    def _load(self, state: State) -> str:
        """Load a state. Return why it does not fit, on any rank; empty if it does."""
        problem, rows = "", None
        try:
            done, rows = load_state(self.loop, self.flips, state)
            if self.ranks.is_first:
                rows = rows or self.folder.rows_before(done, self.net.layers)
                if done == self.loop.epochs and not has_last_rows(rows, done):
                    raise Misfit("the rows of its last epoch are lost")
                self.folder.warn_of_lost_snapshots(e for e in self._kept_epochs if e <= done)
        except Misfit as error:
            problem = str(error)
        problem = self.ranks.any_text(problem)
        if not problem:
            self.epochs, self.layers = self.ranks.from_first(rows)
        return problem

    @property
    def _kept_epochs(self) -> set[int]:
        """The epochs after which snapshots are kept."""
        return self.run.kept_epochs | {self.loop.epochs}

    def _keep_rows(self, epoch: int) -> None:
        """Write snapshot and rows.

        Raises:
            Diverged: a weight is not finite. Nothing is written.
        """
        self.loop.check_weights(f"after epoch {epoch}")
        if epoch + 1 in self._kept_epochs:
            self._snapshot(epoch + 1)
        if self.ranks.is_first:
            self.folder.write_rows(self._row_texts)

    def _keep_state(self, epoch: int) -> None:
        """Write the state, when all else is on disk."""
        if self.ranks.is_first:
            self.folder.save_state(
                {
                    "epoch": epoch,
                    "loop": self.loop.state_dict(),
                    "signs": self.flips.state_dict(),
                    "data": self.loop.data.digest,
                    "rows": self._row_texts,
                }
            )

    def _snapshot(self, epoch: int) -> None:
        if self.ranks.is_first:
            network = Checkpoint(self.net.model.state_dict(), self.net.masks)
            self.folder.save_snapshot(epoch, network)

    # ---- rows

    @property
    def _row_texts(self) -> RowTexts:
        epochs, layers = self._texts
        return epochs.extended(self.epochs), layers.extended(self.layers)


def silent(_: str) -> None:
    """Report nothing."""
