"""The copy of the code that Slurm jobs import."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from needs import needs_git

import launch.executors.code_copy
import launch.runs.provenance
from analysis.contents import Config, wrong_entry
from analysis.folder import read_json
from launch.config.cluster import Cluster
from launch.executors.code_copy import copy_code
from launch.executors.slurm import parameters
from launch.packages import root
from launch.runs.atomic import write_json


def test_the_code_is_kept_as_it_was(tmp_path):
    code = copy_code(tmp_path)
    assert copy_code(tmp_path) == code and len(list(code.parent.iterdir())) == 1
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import launch.runs.provenance as r; print(r.__file__, r.git_state())",
        ],
        env={**os.environ, "PYTHONPATH": str(code)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.startswith(str(code))
    assert str(launch.runs.provenance.git_state()["git"]) in found
    data = [file.relative_to(root()) for file in (root() / "launch").rglob("*.json")]
    assert len(data) > 1
    assert all((code / file).read_bytes() == (root() / file).read_bytes() for file in data)


def test_two_submissions_at_once_share_a_copy(tmp_path, monkeypatch):
    def write(path, value):
        write_json(path, value)
        home = path.parent.with_name(path.parent.name.partition(".")[0])
        shutil.copytree(path.parent, home)  # by the other one, just before

    monkeypatch.setattr(launch.executors.code_copy, "write_json", write)
    code = copy_code(tmp_path)
    assert (code / "revision.json").is_file() and list(code.parent.iterdir()) == [code]


def test_a_job_imports_the_copy_even_in_a_checkout(tmp_path):
    code = copy_code(tmp_path)
    setup = parameters(Cluster(), code)["slurm_setup"]
    found = subprocess.run(
        ["bash", "-c", "; ".join([*setup, f"{sys.executable} -m site"])],
        cwd=root(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path = [line.strip(" ',") for line in found.splitlines()[1:]]
    assert path[0] == str(code)  # not the current folder, as with `python -m` otherwise


def test_own_modules_in_the_current_folder_are_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_module.py").write_text("")
    Path("own_package").mkdir()
    for name in ("__init__.py", "part.py", "other.py"):
        (Path("own_package") / name).write_text("")
    Path("own_helper.py").write_text("")
    monkeypatch.setitem(sys.modules, "own_helper", importlib.import_module("own_helper"))
    code = copy_code(tmp_path / "slurm", ("own_module", "own_package.part", "numpy"))
    names = {path.name for path in code.iterdir()}
    assert {"own_module.py", "own_package", "own_helper.py", "launch"} <= names
    assert "numpy" not in names
    assert len(list((code / "own_package").iterdir())) == 3
    (Path("own_package") / "labels.txt").write_text("cat dog")  # data of the package
    Path("own_package/other.py").rename("own_package/renamed.py")
    again = copy_code(tmp_path / "slurm", ("own_module", "own_package.part"))
    names = {path.name for path in (again / "own_package").iterdir()}
    assert again != code and names == {"__init__.py", "part.py", "renamed.py", "labels.txt"}
    monkeypatch.setattr(launch.executors.code_copy, "MOST_BYTES", 6)
    with pytest.warns(
        UserWarning, match=r"the 1 data files of .*own_package \(0 MB\) are not copied"
    ):
        small = copy_code(tmp_path / "slurm", ("own_module", "own_package.part"))
    assert not (small / "own_package" / "labels.txt").exists()
    Path("own_package/renamed.py").rename("own_package/moved.py")
    assert copy_code(tmp_path / "slurm", ("own_module", "own_package.part")) != again


@needs_git
def test_the_revision_of_another_project_is_not_recorded(tmp_path, monkeypatch):
    """Its checkout can have the virtual environment in which the suite is installed."""
    file = tmp_path / ".venv" / "launch" / "runs" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "theirs.py").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    monkeypatch.setattr(launch.runs.provenance, "__file__", str(file))
    monkeypatch.setattr(launch.runs.provenance, "_git", launch.runs.provenance._git.__wrapped__)
    for command in (["init"], ["add", "theirs.py"], ["commit", "-m", "first"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    unknown = launch.runs.provenance.git_state()
    assert unknown == {"git": None, "git_dirty": None} and not wrong_entry(unknown, Config)
    for command in (["add", "-f", ".venv"], ["commit", "-m", "second"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert launch.runs.provenance.git_state() == {"git": head.strip(), "git_dirty": False}


def test_a_copy_records_the_revision_of_its_submission(tmp_path, monkeypatch):
    codes = []
    for revision in ("before", "after"):
        state = {"git": revision, "git_dirty": False}
        monkeypatch.setattr(launch.executors.code_copy, "git_state", lambda state=state: state)
        codes.append(copy_code(tmp_path))
        assert read_json(codes[-1] / "revision.json") == state
    assert codes[0] != codes[1]
