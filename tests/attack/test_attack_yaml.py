"""Grids from odd YAML files, and odd flags: a grid, or one line that says what is wrong."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

import yaml
from attack.child import signbench
from attack.mutate import ODD, alter, damage, odd, replace

from baselines.registry import methods
from launch.config.grids import GRIDS
from launch.config.recipe import Recipe
from launch.config.run import Run
from signin import SignIn

GRID: dict[str, Any] = {
    "recipe": "digits",
    "method": ["random", {"name": "rigl", "drop_fraction": 0.2}],
    "sparsity": [0.8, 0.9],
    "sign_in": [False, True],
    "seed": [0, 1, 2],
    "epochs": 5,
    "exclude": ["8.weight"],
    "keep_epochs": [[1], [2, 3]],
    "leave_out": [{"method": "rigl", "sign_in": True}],
    "add": [{"method": "dense", "seed": 0}],
}


def fields() -> list[str]:
    homes = [Run, Recipe, SignIn, *(method.options_class for method in methods().values())]
    return sorted({spec.name for home in homes for spec in dataclasses.fields(home)})


# ---- texts that are made to harm


def aliases(rng: Random) -> str:
    """Return a text of less than 1 kB with aliases of aliases."""
    width, depth = rng.choice(((9, 9), (2, 40), (20, 6)))
    lines = ["a0: &a0 [x, x]"]
    for i in range(1, depth):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]")
    last = f"*a{depth - 1}"
    return "\n".join([*lines, rng.choice((f"method: {last}", f"add: {last}", f"seed: {last}"))])


def merges(rng: Random) -> str:
    lines = ["b0: &b0 {x: 1}"]
    for i in range(1, 30):
        lines.append(f"b{i}: &b{i} {{<<: [*b{i - 1}, *b{i - 1}], y{i}: *b{i - 1}}}")
    return "\n".join(lines)


def itself(rng: Random) -> str:
    return rng.choice(("&a [*a]", "method: &a [*a]", "add: &a [{method: *a}]", "&a {*a : 1}"))


def nested(rng: Random) -> str:
    n = rng.choice((50, 5000, 60_000))
    return rng.choice(("method: " + "[" * n, "method: " + "{a: " * n, "- " * n, "? " * n, "[" * n))


def product(rng: Random) -> str:
    names = rng.sample(fields(), 12)
    n = rng.choice((2, 10, 400))
    return "\n".join(f"{name}: [{', '.join(map(str, range(n)))}]" for name in names)


def large(rng: Random) -> str:
    return f"seed: [{', '.join(map(str, range(rng.choice((3_000, 30_000, 300_000)))))}]"


def literal(rng: Random) -> str:
    values = (
        *("2001-99-99", "0x", "0o9", "!!int x", "!!python/object/apply:os.system [touch x]"),
        *("!!binary x", "!!float x", "!!timestamp x", "1:99:99", "~", ".nan", "-.inf", "1e999"),
        *("9" * 5000, "!!set {a, b}", "!!omap [a: 1]", "'\\0'", '"\\ud800"', "&a", "*a", "<<: 3"),
        *("5", "null", "[5]", "{a: b}", "[null]", "{name: 5}", "{name: null}", "{}", "{1: 2}"),
    )
    key = rng.choice(("recipe", "method", "seed", "1", "null", "[a]", "add", "leave_out", "lr"))
    return f"{key}: {rng.choice(values)}"


HARMFUL = (aliases, merges, itself, nested, product, large, literal, literal, literal)


def text_of(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(HARMFUL)(rng)
    value: Any = GRID
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = alter(value, rng)
        if isinstance(value, dict) and rng.random() < 0.5:
            name = rng.choice(fields())
            value[name] = rng.choice((odd(rng), [odd(rng), odd(rng)]))
    return yaml.dump(value)


def test_yaml(attack, world, tmp_path):
    path = tmp_path / "grid.yaml"
    for rng in attack.cases(few=10, share=0.2):
        try:
            text = text_of(rng)
            path.write_text(text)
        except (ValueError, UnicodeError):  # not to be written
            continue
        what = text[:60].replace("\n", "; ")
        if rng.random() < 0.15:
            what += f" {damage(path, rng) if rng.random() < 0.7 else replace(path, rng)}"
        args = rng.choice(([], ["--seeds", "0"], ["--methods", "random"], ["--epochs", "2"]))
        outcome = signbench("grid", path.name, "--dry-run", *args)
        # the table of a method may be at fault for the flag that was given
        names = [path.name, *(arg.removeprefix("--") for arg in args)]
        attack.note(outcome.problem(names), what)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    assert not (tmp_path / "x").exists()


# ---- flags

VALUES = [str(value) for value in ODD if "\0" not in str(value)]
NUMBERS = [
    *("0", "1", "2", "1000", "100000", str(10**7), str(10**18)),
    *("0.5", "-1", "1e9", "1e30", "nan", "inf", "-inf", "1e-30"),
]


CHOICES = ["all", "each", "layer", "erk", "skip", "adamw", "bfloat16", "true", "False", "random"]


def test_flags(attack, world, tmp_path):
    for rng in attack.cases(few=3, share=0.15):
        method = rng.choice([*methods()])
        args = _command(rng, method, _flags(rng, method))
        outcome = signbench(*args)
        attack.note(outcome.problem(), args)


def _flags(rng: Random, method: str) -> list[str]:
    homes = [Run, Recipe, SignIn, methods()[method].options_class]
    names = [spec.name for home in homes for spec in dataclasses.fields(home)]
    names += ["workers", "threads", "device", "compile", "import", "slots"]
    flags: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(names).replace("_", "-")
        kinds = (VALUES, CHOICES, NUMBERS, NUMBERS, NUMBERS)
        value = rng.choice(rng.choice(kinds))[:3000]
        style = rng.random()
        flags += [f"--{name}={value}"] if style < 0.5 else [f"--{name}", value]
        if style > 0.9:
            flags[-1:] = []
    return flags


def _command(rng: Random, method: str, flags: list[str]) -> list[str]:
    kind = rng.random()
    if kind < 0.75:
        start = ["run", "--method", method, "--batch-size", "512", *rng.choice(([], ["--sign-in"]))]
        return [*start, *flags, "--epochs", "1", "--runs", f"r{rng.random()}"]
    if kind < 0.9:
        return ["grid", rng.choice([*GRIDS, "x", ""]), *flags, "--dry-run"]
    commands = ("table", "figure", "report", "status", "methods", "recipes", "export", "transplant")
    return [rng.choice(commands), *flags[: rng.choice((0, 1, 9))]]
