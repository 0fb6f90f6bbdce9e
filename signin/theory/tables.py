"""Tables 2 and 8: how often one neuron learns another, by method and initial signs."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from baselines.errors import UserError
from signin.theory.neuron import (
    PLAIN,
    Outcome,
    Population,
    Samples,
    Storages,
    Task,
    sign_in,
    train,
)

#: Signs of a and of w₁ at the start, in the paper's order.
CASES = ((1, 1), (-1, 1), (1, -1), (-1, -1))
SAMPLES, STEPS, RATE, RUNS = 1000, 200_000, 0.01, 100


@dataclass(frozen=True)
class Setting:
    """An experiment: what the paper leaves open (n, scale) and what it states."""

    width: int = 5
    """d, the number of inputs."""
    betas: tuple[float, float] | None = None
    """β₁ of a and β₂ of w with Sign-In; none without it."""
    samples: int = SAMPLES
    """n; 0 stands for infinitely many."""
    scale: float = 1.0
    """Standard deviation of the initial w; a has the norm of w."""
    rate: float = RATE
    steps: int = STEPS
    runs: int = RUNS
    """Initialisations of each sign case."""
    seed: int = 0
    """Of the data set; the initialisations are the same for all."""
    random_teacher: bool = False
    """w̃ ~ N(0, 1) in its first two entries for each run, in place of (1, 0, …)."""

    def __post_init__(self) -> None:
        for name in ("width", "scale", "rate", "steps", "runs"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.random_teacher and self.width < 2:
            raise UserError("a random teacher has two inputs; width must be 2 or more.")

    @property
    def storages(self) -> Storages:
        return PLAIN if self.betas is None else sign_in(*self.betas)


def students(setting: Setting, cases: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Balanced initial a [cases × runs] and w [cases × runs, d]; a sign of 0 is left to chance.

    All cases share the same sizes, so that only signs differ between them.
    """
    generator = torch.Generator().manual_seed(1000)
    shape = (setting.runs, setting.width)
    w = setting.scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    norm = w.norm(dim=1)
    inner = []
    for _, sign in cases:
        inner.append(w.clone())
        inner[-1][:, 0] = sign * w[:, 0].abs() if sign else w[:, 0]
    return torch.cat([sign * norm for sign, _ in cases]), torch.cat(inner)


def task(setting: Setting, count: int) -> Task:
    """The data set, for `count` runs in all."""
    teachers = torch.zeros(count, setting.width, dtype=torch.float64)
    teachers[:, 0] = 1
    if setting.random_teacher:
        generator = torch.Generator().manual_seed(2000)
        teachers[:, :2] = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    if not setting.samples:
        return Population(teachers)
    generator = torch.Generator().manual_seed(setting.seed)
    shape = (setting.samples, setting.width)
    return Samples(torch.randn(shape, generator=generator, dtype=torch.float64), teachers)


def run(setting: Setting, cases: tuple[tuple[int, int], ...] = CASES) -> list[Outcome]:
    """Where the students of each sign case end."""
    outer, inner = students(setting, cases)
    found = train(
        task(setting, len(outer)), outer, inner, setting.storages, setting.rate, setting.steps
    )
    parts = zip(*(part.split(setting.runs) for part in found), strict=True)
    return [Outcome(*part) for part in parts]


def success(setting: Setting, case: tuple[int, int]) -> float:
    """Fraction of runs that have learned the teacher."""
    return run(setting, (case,))[0].success.double().mean().item()


#: The rows of Table 8. Theorem 5.2 needs β₁ > β₂ for one input; for five, equal ones do.
METHODS: dict[str, Setting] = {
    "Sparse": Setting(width=1),
    "Overparam": Setting(),
    "Sign-In": Setting(width=1, betas=(2.0, 1.0)),
    "Overparam + Sign-In": Setting(betas=(1.0, 1.0)),
}
PAPER_TABLE8 = {
    "Sparse": (1, 0, 0, 0),
    "Overparam": (1, 0, 1, 0),
    "Sign-In": (1, 1, 0, 0),
    "Overparam + Sign-In": (1, 1, 1, 1),
}
#: What else was tried, by name: changes to all rows.
OTHERS: dict[str, dict[str, object]] = {
    "n = 20": {"samples": 20},
    "n = 100": {"samples": 100},
    "n = ∞": {"samples": 0},
    "scale 0.4": {"scale": 0.4},
    "scale 0.1": {"scale": 0.1},
    "β₁ = β₂": {"betas": (1.0, 1.0)},
    "β₁ = 1 < β₂ = 2": {"betas": (1.0, 2.0)},
    "T = 200": {"steps": 20_000},
}


def table8(runs: int = RUNS, steps: int = STEPS) -> pd.DataFrame:
    """Success by method and initial signs: a row a cell, with the paper's value beside ours."""
    settings = {
        name: dataclasses.replace(setting, runs=runs, steps=steps)
        for name, setting in METHODS.items()
    }
    return _cells("as in the paper", settings)


def table8_others(name: str, runs: int = RUNS, steps: int = STEPS) -> pd.DataFrame:
    """The same with one thing changed: a key of `OTHERS`. Rows that it leaves alone are left out."""
    settings = {}
    for method, default in METHODS.items():
        change = dict(OTHERS[name])
        if default.betas is None:
            change.pop("betas", None)
        base = dataclasses.replace(default, runs=runs, steps=steps)
        changed = dataclasses.replace(base, **change)  # type: ignore[arg-type]
        if changed != base:
            settings[method] = changed
    return _cells(name, settings)


def _cells(name: str, settings: dict[str, Setting]) -> pd.DataFrame:
    rows = []
    for method, setting in settings.items():
        for (a, w), paper, outcome in zip(
            CASES, PAPER_TABLE8[method], run(setting), strict=True
        ):
            rows.append(
                {"setting": name, "method": method, "a": a, "w": w, "paper": paper}
                | {"success": outcome.success.double().mean().item()}
                | {"a_recovered": (outcome.outer > 0).double().mean().item()}
                | describe(setting)
            )
    return pd.DataFrame(rows)


def describe(setting: Setting) -> dict[str, object]:
    """The setting as columns of a table."""
    betas = setting.betas or (None, None)
    return {
        "d": setting.width,
        "beta_a": betas[0],
        "beta_w": betas[1],
        "n": setting.samples or float("inf"),
        "scale": setting.scale,
        "rate": setting.rate,
        "steps": setting.steps,
        "runs": setting.runs,
        "seed": setting.seed,
    }


@functools.cache
def cached_table8() -> pd.DataFrame:
    """Table 8 is measured once, however many figures are drawn from it."""
    return table8()


def table2(runs: int = RUNS, rates: tuple[float, ...] = (0.001, 0.01)) -> pd.DataFrame:
    """Recoveries of the sign of a where it starts negative and w₁ is left to chance, T = 200."""
    rows = []
    for rate in rates:
        for betas in (None, (1.0, 1.0)):
            setting = Setting(betas=betas, rate=rate, steps=round(200 / rate), runs=runs)
            (outcome,) = run(setting, ((-1, 0),))
            rows.append(
                {"eta": rate, "method": "GF" if betas is None else "Sign-In GF"}
                | {"paper": 0.0 if betas is None else 100.0}
                | {"a_recovered": 100 * (outcome.outer > 0).double().mean().item()}
                | {"learned": 100 * outcome.success.double().mean().item()}
                | describe(setting)
            )
    return pd.DataFrame(rows)
