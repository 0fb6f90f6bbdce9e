"""`signbench methods`: list the methods."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.errors import UserError, check_fraction
from baselines.method import Plan
from baselines.registry import methods
from launch.config.machine import Imports
from launch.config.recipes import find_recipe
from launch.flags import parse
from launch.plugins import import_plugins


@dataclass(frozen=True)
class MethodsCommand:
    """List the methods, with the number of epochs that each trains."""

    recipe: str = "digits"
    """Recipe whose epochs to count from."""
    sparsity: float = 0.9
    """Sparsity to reach; some methods train longer for more."""
    imports: Imports = ()
    """Import this Python module first, which defines methods, models or data of your own."""

    def __post_init__(self) -> None:
        check_fraction(sparsity=self.sparsity)


def command(args: list[str]) -> int:
    """Print one line per method. Return the exit code."""
    if args and args[0] in methods():
        raise UserError(f"the options of {args[0]}: signbench run --method {args[0]} --help")
    given = parse(MethodsCommand, args, "signbench methods")
    import_plugins(given.imports)
    plan = Plan(given.sparsity, find_recipe(given.recipe).epochs, steps_per_epoch=1)
    about = f"epochs of {given.recipe} at sparsity {given.sparsity:g}"
    print(f"{about} (options: run --method NAME --help):")
    for name, method in methods().items():
        print(f"{name:10} {method(plan).epochs:5}  {method.family:26} {method.paper}")
    return 0
