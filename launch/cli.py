"""The command line: `signbench COMMAND …`, or `python -m launch COMMAND …`.

Each command is a module of `launch.commands`, with a dataclass of its flags and a function
`command(args)`. It is imported when it is run, so that `signbench --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from launch.packages import PACKAGES, foreign_package

COMMANDS = {
    "run": "train one network:  signbench run --recipe digits --method random --sign-in",
    "grid": "run a grid and print its table:  signbench grid quick",
    "status": "show the state of all runs, and the time to their end",
    "runs": "list, show, retry or remove runs:  signbench runs retry --where recipe=digits",
    "cancel": "cancel the Slurm jobs of runs that have not finished",
    "transplant": "write a checkpoint with the mask, signs and magnitudes of different ones",
    "table": "print a table of the paper, or any comparison:  signbench table 9 --format latex",
    "figure": "draw a figure of the paper, curves, or a comparison:  signbench figure 9",
    "sharpness": "measure the largest Hessian eigenvalue at the snapshots of runs",
    "report": "write all tables and figures as one page:  signbench report -o report.html",
    "export": "export the network of a run for use elsewhere",
    "theory": "run the paper's student-teacher experiments:  signbench theory table8",
    "methods": "list the methods",
    "recipes": "list the recipes",
    "bench": "measure costs: steps, run, masks, scaling, loader, gpu",
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
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:11} {text}" for name, text in COMMANDS.items()]
        print(USAGE.format(commands="\n".join(lines)), end="")
        return 0
    if problem := foreign_package():
        sys.exit(f"signbench: error: {problem}")
    try:
        return _dispatch(args[0], args[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in PACKAGES:
            raise
        _error(f"no module {error.name!r}; install the whole suite: pip install -e '.[suite]'")
        return 2
    except KeyboardInterrupt:
        print("signbench: stopped; run the same command again to resume.", file=sys.stderr)
        return 130


def _dispatch(name: str, args: list[str]) -> int:
    from baselines.errors import UserError, unknown

    try:
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        code: int = importlib.import_module(f"launch.commands.{name}").command(args)
        return code
    except UserError as error:
        _error(str(error))
        return 2


def _error(text: str) -> None:
    print(f"signbench: error: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
