"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launch.cli import COMMANDS, parse_run

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.S))
def test_python_examples_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "sparsity 0.900" in capsys.readouterr().out


def commands():
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.S))
    inline = re.findall(r"`(signbench [a-z]+[^`…]*)`", README)
    return [line for line in [*re.split(r"\n|&&", shell), *inline] if "signbench " in line]


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    _, command, *args = shlex.split(line, comments=True)
    assert command in COMMANDS
    if command == "run" and "--help" not in args:
        run, _ = parse_run(args)
        assert run.method == "random"
