"""Train a grid from Python and read its results as a DataFrame.

Runs that have finished are not trained again. In a notebook it works the same. Run it with

    python examples/grid_from_python.py
"""

from __future__ import annotations

from analysis.statistics import aggregate
from launch import grid, results

frame = grid(
    recipe="digits",
    method=["random", "gmp"],
    sparsity=0.9,
    sign_in=[False, True],
    seed=[0, 1],
    epochs=3,
)  # or a named one: grid("table9", recipe="digits", epochs=3)
failed = frame.loc[frame["state"] != "finished", "folder"].tolist()
print(f"{len(frame)} runs, failed: {failed}")

# one row per run: settings.lr, result.accuracy, …
random = results("runs", where="method=random")
print(random[["label", "sign_in", "seed", "result.accuracy"]].to_string(index=False))

table = aggregate(frame)  # means over seeds, and what Sign-In gains
print(table[["label", "sign_in", "accuracy", "std", "gain"]].round(2).to_string(index=False))
