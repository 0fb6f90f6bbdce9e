"""The command line: `signbench COMMAND …`, or `python -m launch COMMAND …`.

Each command is a module of `launch.commands`, with a dataclass of its flags and a function
`command(args)`. It is imported when it is run, so that `signbench --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from launch.allocator import use_huge_pages
from launch.packages import foreign_package

COMMANDS = {
    "run": "train one network:  signbench run --recipe digits --method random --sign-in",
    "grid": "run a grid and print its table:  signbench grid quick",
    "calibrate": "find STR's constants for a recipe:  signbench calibrate str --sparsity 0.9",
    "status": "show the state of all runs, and the time to their end",
    "runs": "list, show, retry or remove runs:  signbench runs retry --where recipe=digits",
    "cancel": "cancel the Slurm jobs of runs that have not finished",
    "transplant": "write a checkpoint with the mask, signs and magnitudes of different ones",
    "table": "print a table of the paper, or any comparison:  signbench table 9 --format latex",
    "figure": "draw a figure of the paper, curves, or a comparison:  signbench figure 9",
    "sharpness": "measure the largest Hessian eigenvalue at the snapshots of runs",
    "barrier": "measure loss and error on the line between two runs:  signbench barrier RUN RUN",
    "report": "write all tables and figures as one page:  signbench report -o report.html",
    "export": "export the network of a run for use elsewhere",
    "theory": "run the paper's student-teacher experiments:  signbench theory table8",
    "methods": "list the methods",
    "recipes": "list the recipes",
    "bench": "measure costs: steps, run, masks, scores, scaling, loader, trackers, gpu, sparse, "
    "sparse-step",
}

USAGE = """usage: signbench COMMAND [OPTIONS]

Sparse training in PyTorch: baselines and Sign-In under one recipe.

commands:
{commands}

signbench COMMAND --help shows the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Return the exit code: 0 success, 1 a run failed, 2 bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    if problem := foreign_package():
        sys.exit(f"signbench: error: {problem}")
    use_huge_pages()
    from launch.console import exit_code_of

    return exit_code_of(lambda: _dispatch(args))


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:11} {text}" for name, text in COMMANDS.items()]
        print(USAGE.format(commands="\n".join(lines)), end="")
        return 0
    if args[0] not in COMMANDS:
        from baselines.errors import unknown

        raise unknown("command", args[0], COMMANDS)
    code: int = importlib.import_module(f"launch.commands.{args[0]}").command(args[1:])
    return code
