"""The code in the README works. Its commands are tested with those of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from launch.config.grid_file import read_grid

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GRIDS = (ROOT / "docs" / "guide" / "grids.md").read_text()


(LOOP,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_loop_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(LOOP, "README.md", "exec"), {})
    assert "sparsity 0.900" in capsys.readouterr().out


def test_it_stays_short():
    assert len(README.splitlines()) <= 150


def test_the_grid_is_read(tmp_path):
    text, sweep, final = re.findall(r"```yaml[^\n]*\n(.*?)```", GRIDS, flags=re.S)
    (tmp_path / "grid.yaml").write_text(text)
    runs = read_grid(tmp_path / "grid.yaml")
    # three methods, two sparsities, three seeds, twice; less rigl with Sign-In; and dense twice
    assert len(runs) - len([r for r in runs if r.method == "dense"]) == 3 * 2 * 3 * 2 - 6
    assert {run.sparsity for run in runs} == {0.0, 0.8, 0.9}
    (tmp_path / "sweep.yaml").write_text(sweep)
    runs = read_grid(tmp_path / "sweep.yaml")
    assert len(runs) == 2 * 2 * 3 * 3 and {run.settings.validation for run in runs} == {0.1}
    (tmp_path / "final.yaml").write_text(final)
    runs = read_grid(tmp_path / "final.yaml")
    chosen = {(run.method, run.sign_in): run.settings.lr for run in runs}
    assert len(runs) == 3 * 4 and chosen["random", True] == 0.2 and chosen["rigl", False] == 0.05
