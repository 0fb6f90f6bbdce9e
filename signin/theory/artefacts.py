"""The tables and figures of `signbench theory`, measured on all cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from baselines.errors import UserError, check_positive, unknown
from signin.theory import figures, flow, network, portraits, style, sweeps, tables
from signin.theory.experiment import Setting
from signin.theory.tables import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Job(Hashable, Protocol):
    """A measurement that is independent of all others."""

    @property
    def cost(self) -> float:
        """Relative time of the measurement. The most expensive ones are started first."""

    def measure(self) -> Any: ...


@dataclass(frozen=True)
class Budget:
    """The number of runs and steps. The defaults are the paper's; tests use fewer."""

    runs: int = 100
    steps: int = 200_000
    """Steps of Table 8. Its other settings and the sweeps take a tenth."""
    eta: tuple[float, ...] = (0.001, 0.01)
    """Learning rates of Table 2."""

    def __post_init__(self) -> None:
        check_positive(runs=self.runs, steps=self.steps)


class Folder:
    """The folder to write to, and the files written so far."""

    def __init__(self, path: Path, suffix: str) -> None:
        self.path, self.suffix = path, suffix
        self.written: list[Path] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):  # before anything is measured
                pass
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror}.") from None

    def table(self, name: str, table: pd.DataFrame) -> None:
        self.written.append(self.path / f"{name}.csv")
        table.to_csv(self.written[-1], index=False, float_format="%.6g")

    def figure(self, name: str, drawn: Figure) -> None:
        self.written.append(style.save(drawn, self.path, name, self.suffix))


@dataclass(frozen=True)
class Artefact:
    """A table or figure: its measurements, and the function that writes it and returns its text."""

    jobs: Callable[[Budget], Iterable[Job]]
    make: Callable[[Results, Budget, Folder], str]


def _table8(results: Results, budget: Budget, folder: Folder) -> str:
    settings = tables.table8_settings(budget.runs, budget.steps)
    table = tables.table8(results, settings)
    folder.table("table8", table)
    return tables.table8_text(table)


def _table2(results: Results, budget: Budget, folder: Folder) -> str:
    table = tables.table2(results, tables.table2_settings(budget.runs, budget.eta))
    folder.table("table2", table)
    swept = sweeps.sweep(results, sweeps.sweep_settings(budget.runs, _tenth(budget)))
    folder.table("sweeps", swept)
    folder.figure("sweeps", figures.figure_sweeps(swept))
    failure = sweeps.sweep(results, sweeps.failure_settings(budget.runs, _tenth(budget)))
    folder.table("failure", failure)
    folder.figure("failure", figures.figure_failure(failure))
    shown = failure.pivot_table("success", "method", "value").to_string(float_format="%.2f")
    text = (
        f"Appendix E's failure: teacher random in two inputs, by inputs d of the student\n{shown}"
    )
    return f"{tables.table2_text(table)}\n\n{text}"


def _figure2(results: Results, budget: Budget, folder: Folder) -> str:
    table = tables.table8(results, _table8_alone(budget))
    folder.figure("figure2", figures.figure2(table))
    return f"Figure 2: drawn from Table 8. {tables.describe_differences(table)}"


def _figure3(results: Results, budget: Budget, folder: Folder) -> str:
    found = flow.trajectories()
    ends = flow.end_points(found)
    folder.table("figure3", ends)
    folder.figure("figure3", portraits.figure3(found))
    reached = ends.assign(signs=tables.sign_names(ends["a_start"], ends["w_start"]))
    counts = reached.pivot_table("reached", "flow", "signs", sort=False)
    return (
        "Figure 3: fraction of the flows that end at the teacher\n"
        f"{counts[list(tables.SIGNS)].to_string(float_format='%.2f')}\n"
        "The Sign-In flow is that of the factors, with metric √(4θ² + β²) (the paper has "
        "√(θ² + β)); β₁ = 2, β₂ = 1."
    )


def _figure7(results: Results, budget: Budget, folder: Folder) -> str:
    settings = {
        "Overparameterised, $d = 5$": Setting(runs=5, steps=20_000),
        "Overparameterised + Sign-In, $d = 5$": Setting(runs=5, steps=20_000, betas=(1.0, 1.0)),
    }
    folder.figure("figure7", portraits.figure7(settings))
    return "Figure 7: 5 initialisations of each sign case, as in Table 8, T = 200."


def _figure4(results: Results, budget: Budget, folder: Folder) -> str:
    titles = [title for title in network.PANELS if title.startswith("Sparse, bad signs")]
    return _networks(results, budget, folder, "figure4", titles, titles)


def _figure6(results: Results, budget: Budget, folder: Folder) -> str:
    panels = list(network.PANELS)
    return _networks(results, budget, folder, "figure6", panels, [*panels, *network.EXTRA])


def _networks(
    results: Results,
    budget: Budget,
    folder: Folder,
    name: str,
    drawn: list[str],
    counted: list[str],
) -> str:
    panels = _panels(budget, [*network.PANELS, *counted])
    found = {title: results[panel] for title, panel in panels.items()}
    seed = network.example({title: found[title] for title in network.PANELS})
    shown = {title: found[title] for title in drawn}
    folder.figure(name, portraits.figure_networks(shown, seed))
    table = network.recoveries({title: found[title] for title in counted})
    folder.table(name, table)
    return (
        f"Figure {name[-1]}: fraction of {budget.runs} seeds with an error below "
        f"{network.RECOVERED:.0%} of the mean squared label;\nwith Sign-In, the number of failed "
        "seeds that it rescues, and of other seeds that it loses\n"
        f"{table.astype(object).fillna('').to_string(index=False)}\n"
        f"Drawn: seed {seed}, the first at which all four panels of Figure 6 end as in the paper."
    )


def _panels(budget: Budget, titles: Iterable[str]) -> dict[str, network.Panel]:
    known = network.PANELS | network.EXTRA
    return {title: replace(known[title], seeds=budget.runs) for title in titles}


def _table8_alone(budget: Budget) -> dict[tuple[str, str], Setting]:
    settings = tables.table8_settings(budget.runs, budget.steps)
    return {key: setting for key, setting in settings.items() if key[0] == "table"}


def _tenth(budget: Budget) -> int:
    return max(1, budget.steps // 10)


def _table2_jobs(budget: Budget) -> list[Job]:
    return [
        *tables.table2_settings(budget.runs, budget.eta).values(),
        *sweeps.sweep_settings(budget.runs, _tenth(budget)).values(),
        *sweeps.failure_settings(budget.runs, _tenth(budget)).values(),
    ]


ARTEFACTS = {
    "table2": Artefact(_table2_jobs, _table2),
    "table8": Artefact(lambda b: tables.table8_settings(b.runs, b.steps).values(), _table8),
    "figure2": Artefact(lambda b: _table8_alone(b).values(), _figure2),
    "figure3": Artefact(lambda b: (), _figure3),
    "figure4": Artefact(lambda b: _panels(b, network.PANELS).values(), _figure4),
    "figure6": Artefact(lambda b: _panels(b, network.PANELS | network.EXTRA).values(), _figure6),
    "figure7": Artefact(lambda b: (), _figure7),
}


def make(
    name: str, path: Path, suffix: str = "pdf", slots: int = 0, budget: Budget | None = None
) -> list[Path]:
    """Measure, write and print one artefact, or `all` of them.

    Args:
        suffix: format of the figures: pdf, png or svg.
        slots: number of measurements at a time; 0: one per CPU core.

    Returns:
        The files written.

    Raises:
        UserError: the name is unknown, or the folder cannot be written.
    """
    if name != "all" and name not in ARTEFACTS:
        raise unknown("table or figure", name, [*ARTEFACTS, "all"])
    names = list(ARTEFACTS) if name == "all" else [name]
    budget = budget or Budget()
    folder = Folder(path, suffix)
    jobs = dict.fromkeys(job for name in names for job in ARTEFACTS[name].jobs(budget))
    results = measure(list(jobs), slots or os.cpu_count() or 1)
    for name in names:
        print(ARTEFACTS[name].make(results, budget, folder), end="\n\n", flush=True)
    print("written:", *folder.written)
    return folder.written


def measure(jobs: list[Job], slots: int) -> Results:
    """Return the results by job. They do not depend on the number of processes."""
    jobs = sorted(jobs, key=lambda job: -job.cost)
    slots = min(slots, len(jobs))
    progress = Progress(len(jobs))
    results: dict[Job, Any] = {}
    if slots <= 1:
        for job in jobs:
            results[job] = job.measure()
            progress.update()
        return results
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(slots, mp_context=context) as pool:
        futures = {pool.submit(_measure, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                progress.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _measure(job: Job) -> Any:
    return job.measure()


class Progress:
    """A progress bar on a terminal, otherwise one line every ten seconds."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=total, desc="measuring", unit="setting", disable=None)
        self.done, self.total, self.shown = 0, total, time.monotonic()

    def update(self) -> None:
        self.done += 1
        self.bar.update()
        if self.done == self.total:
            self.bar.close()
        elif self.bar.disable and time.monotonic() - self.shown > 10:
            self.shown = time.monotonic()
            print(f"measured {self.done} of {self.total} settings", file=sys.stderr, flush=True)
