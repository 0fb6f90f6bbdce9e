"""Imports point downward only, between packages and between rooms, and have no cycles."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("baselines", "signin", "analysis", "launch")

# other packages that each package may import, and third-party modules
OURS = {
    "baselines": {"baselines"},
    "signin": {"baselines", "signin"},
    "analysis": {"analysis", "baselines.errors", "baselines.target"},
    "launch": set(PACKAGES),
}
THEIRS = {"baselines": {"torch", "numpy"}, "signin": {"torch", "numpy"}}
THEORY = {"matplotlib", "numpy", "pandas", "scipy", "seaborn", "torch", "tqdm"}

# rooms of launch and of baselines, from the bottom up; a room may import itself and lower ones
ROOMS = {
    "launch": (
        ("allocator", "inputs", "limits", "packages", "integrations"),
        ("console",),
        ("plugins",),
        ("models",),
        ("config",),
        ("ranks",),
        ("runs",),
        ("data",),
        ("measures", "trackers"),
        ("sparse_inference",),
        ("sparse_training",),
        ("training",),
        ("executors",),
        ("bench",),
        ("flags",),
        ("commands",),
        ("api", "cli"),
        ("__main__",),
    ),
    "baselines": (
        ("errors", "finite", "target"),
        ("checkpoint", "fields", "forward"),
        ("engine",),
        ("samples",),
        ("method",),
        ("sign_rule", "tools"),
        ("planned_steps", "registry", "training_state"),
        ("methods", "sparsifier"),
    ),
}


@cache
def modules() -> dict[str, Path]:
    files = [f for package in PACKAGES for f in (ROOT / package).rglob("*.py")]
    return {_name(file): file for file in files}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(module: str) -> frozenset[str]:
    """Return the names of the modules that a module imports, except for type checking."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(modules()[module].read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            assert node.module
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            known = inner & modules().keys()
            found |= known or {node.module}
        pending += ast.iter_child_nodes(node)
    return frozenset(found)


def top(name: str) -> str:
    return name.partition(".")[0]


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_is_below_them(package):
    for module in modules():
        if top(module) != package:
            continue
        for name in imports(module):
            if top(name) in PACKAGES:
                allowed = OURS[package]
                assert top(name) in allowed or name in allowed, f"{module} imports {name}"
            elif package in THEIRS and top(name) not in sys.stdlib_module_names:
                allowed = THEORY if module.startswith("signin.theory") else THEIRS[package]
                assert top(name) in allowed, f"{module} imports {name}"
            elif package == "analysis":
                assert top(name) != "torch", f"{module} imports {name}"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_what_is_below_them(package):
    height = {name: i for i, level in enumerate(ROOMS[package]) for name in level}
    missing = {room(m) for m in modules() if top(m) == package} - height.keys() - {"__init__"}
    assert not missing, f"say in ROOMS where these stand: {missing}"
    for module in modules():
        if top(module) != package or room(module) == "__init__":
            continue
        for name in imports(module):
            if top(name) == package and room(name) not in (room(module), "__init__"):
                assert height[room(name)] < height[room(module)], f"{module} imports {name}"


def test_there_are_no_import_cycles():
    graph = {
        module: {name for name in imports(module) if name in modules() and name != module}
        for module in modules()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_analysis_needs_no_torch():
    code = (
        "import analysis.tables, analysis.figures, analysis.report, sys; "
        "assert 'torch' not in sys.modules and 'launch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_file_is_long():
    long = {m: n for m, f in modules().items() if (n := len(f.read_text().splitlines())) > 300}
    assert not long
    methods = {m: f for m, f in modules().items() if m.startswith("baselines.methods.")}
    assert methods
    long = {m: n for m, f in methods.items() if (n := len(f.read_text().splitlines())) > 150}
    assert not long
