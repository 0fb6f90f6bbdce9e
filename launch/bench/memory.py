"""The memory that training takes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from baselines.errors import UserError, one_line
from launch.allocator import HUGE_PAGES
from launch.bench.variants import StepsBench, make_step
from launch.measures.timing import threads_set
from launch.ranks import join_ranks

PROCESSES = 3

# Return freed large tensors to the system. By default glibc keeps memory that is a quarter of the
# peak and differs by a tenth from process to process. Huge pages would be counted whole.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20), HUGE_PAGES: "0"}


def median_memory(options: StepsBench, model: str, variant: str) -> dict[str, float]:
    """Return medians over processes that take a few steps of one variant each.

    Raises:
        UserError: a process fails.
    """
    code = (
        "import sys; from launch.bench.memory import measure_memory; measure_memory(*sys.argv[1:])"
    )
    settings = json.dumps({**vars(options), "output": str(options.output)})
    found = []
    for _ in range(PROCESSES):
        done = subprocess.run(
            [sys.executable, "-c", code, model, variant, settings],
            capture_output=True,
            text=True,
            env={**os.environ, **ALLOCATOR},
        )
        if done.returncode:
            reason = [f"exit code {done.returncode}", *done.stderr.strip().splitlines()][-1]
            raise UserError(
                f"cannot measure the memory of {model}, {variant} (--no-memory leaves it out): "
                f"{one_line(reason)}"
            )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(f[key] for f in found) for key in found[0]}


def measure_memory(model: str, variant: str, settings: str) -> None:
    """Print as JSON the counted and the peak memory of one variant, in MiB."""
    options = StepsBench(**json.loads(settings))
    with threads_set(options.threads), join_ranks(options.device) as r:
        before = _used_mib(r.device, peak=False)
        step = make_step(options, model, variant, r.device)
        for _ in range(4):
            step.take()
        peak = _used_mib(r.device, peak=True) - before
    print(json.dumps({"counted MiB": step.held() / 2**20, "peak MiB": peak}))


def _used_mib(device: torch.device, peak: bool) -> float:
    if device.type == "cuda":
        read = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
        return read(device) / 2**20
    field = "VmHWM" if peak else "VmRSS"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise UserError("memory can be measured on Linux only.")
