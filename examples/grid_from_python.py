"""Train a grid from Python and read its results as a DataFrame.

Runs that have finished are not trained again. Run it with

    python examples/grid_from_python.py
"""

from __future__ import annotations

from pathlib import Path

from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.statistics import aggregate
from launch.config.machine import Machine
from launch.config.run import Run
from launch.executors.local import run_all

RUNS = Path("runs")


def main() -> None:
    runs = [
        Run.make("digits", method, sparsity=0.9, epochs=3, sign_in=sign_in, seed=seed)
        for method in ("random", "gmp")
        for sign_in in (False, True)
        for seed in (0, 1)
    ]  # or: launch.config.grids.find_grid("table9", recipe="digits", epochs=3)
    outcomes = run_all(runs, Machine(runs=RUNS))
    failed = [outcome.run.name for outcome in outcomes if outcome.result is None]
    print(f"{len(outcomes)} runs, failed: {failed}")

    frame = load_runs(list_runs(RUNS))  # one row per run: settings.lr, result.accuracy, …
    print(frame[["label", "sign_in", "seed", "result.accuracy"]].to_string(index=False))

    table = aggregate(frame)  # means over seeds, and what Sign-In gains
    print(table[["label", "sign_in", "accuracy", "std", "gain"]].round(2).to_string(index=False))


if __name__ == "__main__":
    main()
