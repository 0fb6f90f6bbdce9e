"""What the README tells people to type works."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import COMMANDS
from launch.commands.run import parse_run
from launch.config.grid_file import read_grid

README = (Path(__file__).parent.parent / "README.md").read_text()


LOOP, METHOD = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_loop_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(LOOP, "README.md", "exec"), {})
    assert "sparsity 0.900" in capsys.readouterr().out


def test_the_method_is_found_and_runs_with_its_option(tmp_path):
    (tmp_path / "oneshot.py").write_text(METHOD)
    flags = "run --method oneshot:OneShot --at 0.3 --sign-in --epochs 2 --threads 1 --runs"
    paths = [str(tmp_path), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "launch", *flags.split(), str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "runs").glob("*oneshot*/result.json")
    assert json.loads(result.read_text())["sparsity"] == pytest.approx(0.9, abs=1e-4)


def commands():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.S))
    inline = re.findall(r"`(signbench [a-z]+[^`…]*)`", README)
    return [line for line in [*re.split(r"\n|&&", shell), *inline] if "signbench " in line]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    _, command, *args = shlex.split(line, comments=True)
    assert command in COMMANDS
    if command == "run" and not {"--help", "oneshot:OneShot"} & set(args):
        run = parse_run(args).run
        assert run.method in ("random", "fixed")


def test_the_grid_is_read(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    (tmp_path / "grid.yaml").write_text(text)
    runs = read_grid(tmp_path / "grid.yaml")
    # three methods, two sparsities, three seeds, twice; less rigl with Sign-In; and dense twice
    assert len(runs) - len([r for r in runs if r.method == "dense"]) == 3 * 2 * 3 * 2 - 6
    assert {run.sparsity for run in runs} == {0.0, 0.8, 0.9}
