"""Requirements of the packages, and the only list of them."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
import tomllib

import pytest

from launch.packages import PACKAGES, root


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(root() / "setup.cfg")
    return parser


def lines(text):
    return [line.split(">")[0].strip() for line in text.strip().splitlines()]


def test_every_list_of_the_packages_is_the_same(setup):
    pyproject = tomllib.loads((root() / "pyproject.toml").read_text())
    assert sorted(pyproject["tool"]["mypy"]["packages"]) == sorted(PACKAGES)
    include = lines(setup["options.packages.find"]["include"])
    assert include == [f"{name}*" for name in PACKAGES]
    assert all((root() / name / "py.typed").is_file() for name in PACKAGES)


def imported(folder):
    """Return the top-level names of all absolute imports in a package, also those in functions."""
    for file in folder.rglob("*.py"):
        if "theory" in file.parts:
            continue  # belongs to the suite
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.split(".")[0]


def test_the_library_needs_the_core_dependencies_and_no_others(setup):
    names = {name for package in ("baselines", "signin") for name in imported(root() / package)}
    others = names - set(sys.stdlib_module_names) - set(PACKAGES)
    assert others == set(lines(setup["options"]["install_requires"]))


MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}


def without(setup, code, *extra):
    """Run code in a process in which the packages of the suite cannot be imported."""
    suite = lines(setup["options.extras_require"]["suite"])
    blocked = [MODULES.get(name, name) for name in suite]
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
    return subprocess.run(
        [sys.executable, "-c", block + code, *extra], capture_output=True, text=True
    )


def test_the_library_works_with_the_core_dependencies(setup):
    code = (
        "import baselines, signin, signin.fixed; from baselines.registry import methods; methods()"
    )
    done = without(setup, code)
    assert done.returncode == 0, done.stderr


def test_without_the_suite_the_command_line_says_what_to_install(setup):
    commands = ["run", "grid quick", "recipes", "status", "table 9"]
    code = "from launch.cli import main; print([main(c.split()) for c in sys.argv[1:]])"
    done = without(setup, code, *commands)
    assert done.stdout == f"{[2] * len(commands)}\n"
    lines = done.stderr.splitlines()
    assert len(lines) == len(commands)
    assert all("install the whole suite: pip install -e '.[suite]'" in line for line in lines)
