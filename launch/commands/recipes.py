"""`signbench recipes`: list the recipes."""

from __future__ import annotations

from dataclasses import dataclass

from launch.config.recipes import RECIPES, describe
from launch.flags import parse


@dataclass(frozen=True)
class RecipesCommand:
    """List the recipes."""


def command(args: list[str]) -> int:
    """Print one line per recipe. Return the exit code."""
    parse(RecipesCommand, args, "signbench recipes")
    for name, recipe in RECIPES.items():
        print(f"{name:20} {describe(recipe)}")
    return 0
