"""The terminal: one line per error and warning, and readers that leave."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings

import pytest
from in_process import forked

from baselines.errors import UserError, one_line
from launch.cli import main
from launch.console import exit_code_of


def test_a_reader_that_leaves_ends_nothing():
    line = f"{sys.executable} -m launch --help | head -1 | cut -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("command", ["--help", "recipes", "run --help", "status --runs ."])
def test_no_command_ends_when_its_reader_has_left(tmp_path, command):
    def into_a_closed_pipe():
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, sys.stdout.fileno())
        code = main(command.split())
        sys.stdout.flush()
        return code

    done = forked(into_a_closed_pipe, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


FULL = "signbench: error: cannot write the output: No space left on device.\n"


def test_output_that_cannot_be_written_is_an_error(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "launch", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (2, FULL)

        def to_full():
            os.dup2(full.fileno(), sys.stdout.fileno())
            return main(["recipes"])

        done = forked(to_full, tmp_path)
    assert (done.returncode, done.stderr) == (2, FULL)


@pytest.mark.parametrize(
    "error, text",
    [
        (UserError("several\n  lines"), "several lines"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 20), f"{'a' * 20}: File name"),
        (MemoryError(), "there is not enough memory"),
        (ModuleNotFoundError("x", name="pandas"), "no module 'pandas'; install the whole suite"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(capsys, error, text):
    def fails():
        raise error

    assert exit_code_of(fails) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("signbench: error: ") and text in line


def test_warnings_are_one_line_in_the_terminal(capsys):
    def warns():
        warnings.warn("a\nb", stacklevel=1)
        return 0

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda *args, **_: sys.stderr.write(warnings.formatwarning(*args))
        assert exit_code_of(warns) == 0
    assert capsys.readouterr().err == "signbench: warning: a b\n"


def test_characters_that_the_terminal_lacks_are_escaped():
    done = subprocess.run(
        [sys.executable, "-c", "from launch.cli import main; main(['θ\\udcff'])"],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
    )
    assert done.stderr.startswith(b"signbench: error: unknown command '\\u03b8\\udcff'")


def test_long_lines_lose_their_middle():
    text = "start " + "x" * 1000 + " end"
    short = one_line(text)
    assert len(short) == 300 and short.startswith("start") and short.endswith("end")
    assert one_line("a\n\tb") == "a b"
    for most in range(10, 60):
        assert len(one_line("y" * 100, most)) == most


def test_help_is_printed(capsys):
    assert main(["--help"]) == 0
    assert "signbench COMMAND" in capsys.readouterr().out
