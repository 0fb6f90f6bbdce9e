"""The cost of a training step, compared with a bare PyTorch loop on the same model and batch.

All variants take their steps in turn in one process, in a random order in each round, so that other
load on the machine affects all of them equally. Memory is measured in separate processes for each
variant, as the peak above the memory of the imports, and it is counted: parameters, gradients,
optimizer state, factors and their gradients, indices and buffers.

    bare         model, loss, backward, fused SGD; the batch is on the device in the model's format
    dense        the suite's loop: data, augmentation, learning rate, accuracy, checks, the method
    random       the same with a random mask
    … + Sign-In  the same with factors around the step
    in-forward   the bare loop with S ⊙ m ⊙ w in every forward pass, by torch's parametrize

With `--methods`, the cost that each method adds over a whole training. Its step is measured as
above at the start of the training, where methods that prune later still train all weights; with
Sign-In this is the most expensive part. All its hooks (mask updates, Sign-In's rescaling) are
called for every step of a schedule of `--epochs`, without forward and backward passes; their mean
is added.
"""

from __future__ import annotations

import random
import statistics
import sys
from typing import Any

import torch
from tqdm import tqdm

from launch.bench.memory import median_memory
from launch.bench.variants import StepsBench, make_step, run_choices, suite_loop
from launch.measures.timing import threads_set, timed
from launch.ranks import join_ranks
from launch.runs.atomic import make_folder, write_csv


def bench_steps(options: StepsBench) -> int:
    """Print the table and write it as CSV. Return the exit code."""
    make_folder(options.output.parent)
    rows = []
    with threads_set(options.threads), join_ranks(options.device) as r:
        for model in options.models:
            rows += _bench_model(options, model, r.device)
            write_csv(options.output, rows)
    print(_text(rows))
    print("written:", options.output)
    return 0


def _bench_model(options: StepsBench, model: str, device: torch.device) -> list[dict[str, Any]]:
    names = list(run_choices(options))
    # first, as a failure would lose the times
    memory = {name: median_memory(options, model, name) for name in names if options.memory}
    steps = {name: make_step(options, model, name, device).take for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for i in tqdm(range(options.steps + 2), model, disable=not sys.stderr.isatty()):
        for name in order.sample(names, len(names)):
            seconds = timed(steps[name], device)
            if i >= 2:  # the first steps compile, select kernels and fill caches
                times[name].append(seconds)
    del steps
    base = statistics.median(times["bare"])
    rows = []
    for name in names:
        # ratios within a round: other load on the machine affects both steps
        ratios = [t / b for t, b in zip(times[name], times["bare"], strict=True)]
        rows.append(
            {
                "model": model,
                "variant": name,
                "ms min": 1e3 * min(times[name]),
                "ms median": 1e3 * statistics.median(times[name]),
                "ms max": 1e3 * max(times[name]),
                "median / bare": statistics.median(times[name]) / base,
                "paired ratio": statistics.median(ratios),
                **memory.get(name, {}),
                **_whole_schedule(options, model, name, device, times),
            }
        )
    return rows


def _whole_schedule(
    options: StepsBench,
    model: str,
    variant: str,
    device: torch.device,
    times: dict[str, list[float]],
) -> dict[str, float]:
    """Return the seconds before the first step, and a mean step with hooks relative to dense."""
    if variant not in options.method_variants:
        return {}
    # the number of updates per step depends on them
    batches = max(1, options.images // options.batch_of(model))
    choices = {**run_choices(options)[variant], "epochs": options.epochs}
    loop = suite_loop(options, model, choices, device, batches)
    prepare = timed(loop.start, device)
    sparsifier = loop.sparsifier
    for parameter in sparsifier.net.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    steps = loop.epochs * loop.steps

    def hooks() -> None:
        for _ in tqdm(range(steps), variant, leave=False, disable=not sys.stderr.isatty()):
            sparsifier.begin_step()
            sparsifier.look_at_gradients()
            sparsifier.end_step()

    per_step = timed(hooks, device) / steps
    mean = statistics.median(times[variant]) + per_step
    hooks_ms = 1e3 * per_step
    print(f"{variant}: prepared in {prepare:.2f} s, hooks {hooks_ms:.3f} ms per step", flush=True)
    return {
        "prepare s": prepare,
        "hooks ms": hooks_ms,
        "mean / dense": mean / statistics.median(times["dense"]),
    }


def _text(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    return pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format, na_rep="")
