"""The wheel contains all packages and their data, and its command works outside the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OLDEST = ROOT / "tests" / "oldest.txt"
PACKAGES = ("analysis", "baselines", "launch", "signin")
NOT_DATA = (".pyc", ".md")
CLEAN = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def call(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that the checkout neither changes nor has an influence."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    call(*pip, "--wheel-dir", folder / "dist", folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Make a virtual environment with the wheel. Its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, env=CLEAN)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(call(python, "-c", code).strip())
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(paths))
    return folder


def test_the_oldest_versions_are_those_that_the_requirements_allow():
    requirements = (ROOT / "setup.cfg").read_text()
    least = dict(re.findall(r"^    ([\w-]+) >= ([\d.]+)", requirements, flags=re.M))
    oldest = re.findall(r"^([\w-]+) == ([\d.]+)", OLDEST.read_text(), flags=re.M)
    assert least.keys() <= dict(oldest).keys()
    assert not [name for name, version in oldest if not version.startswith(least.get(name, ""))]


def test_the_wheel_has_all_that_the_packages_have(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        (entry_points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "signbench = launch.cli:main" in archive.read(entry_points).decode()
    files = {f for name in PACKAGES for f in (ROOT / name).rglob("*") if f.is_file()}
    assert names == {str(f.relative_to(ROOT)) for f in files if f.suffix not in NOT_DATA}
    assert {Path(name).suffix for name in names} == {".py", ".csv", ".html", ".json", ".typed"}


def test_the_installed_command_works_from_another_folder(environment, tmp_path):
    signbench = environment / "bin" / "signbench"
    where = {"cwd": tmp_path, "env": CLEAN}
    python = environment / "bin" / "python"
    origin = call(python, "-c", "import launch.cli; print(launch.cli.__file__)", **where)
    assert Path(origin.strip()).is_relative_to(environment)
    flags = "--method random --sign-in --epochs 1 --threads 1"
    assert "results in runs/" in call(signbench, "run", *flags.split(), **where)
    commands = (
        "table compare",
        "table 3 -o table3.txt",  # next to the paper's values
        "figure curves -o curves.pdf",
        "report -o report.html",
    )
    code = f"from launch.cli import main; print([main(c.split()) for c in {commands}])"
    shown = call(python, "-c", code, **where)
    assert "Random" in shown and "[0, 0, 0, 0]" in shown
    assert "[" in (tmp_path / "table3.txt").read_text()
    assert (tmp_path / "curves.pdf").stat().st_size > 5000
    assert "</html>" in (tmp_path / "report.html").read_text()
