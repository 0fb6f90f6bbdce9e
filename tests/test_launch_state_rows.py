"""The rows that a state has: the text of the tables, which grows by each epoch's rows."""

from __future__ import annotations

import csv

import pytest
from test_launch_checked import rewrite
from test_launch_train import stopped_after, train

from analysis.folder import EPOCHS, LAST_STATE, LAYERS
from launch.config.run import Run
from launch.runs import atomic
from launch.runs.archives import load_archive
from launch.runs.atomic import CsvText


@pytest.fixture
def stopped(machine, monkeypatch):
    """Return a run that was stopped after two of three epochs, and one that was not."""
    run = Run.make("digits", "random", epochs=3)
    return stopped_after(2, run, machine, monkeypatch)


def test_a_state_has_the_texts_of_the_tables(stopped):
    run, machine, _ = stopped
    folder = machine.runs / run.name
    state = load_archive(folder / LAST_STATE)
    for file, text in zip((EPOCHS, LAYERS), state["rows"], strict=True):
        assert (folder / file).read_bytes() == text.encode()


def test_rows_that_are_no_table_are_refused(stopped):
    run, machine, _ = stopped
    rewrite(machine.runs / run.name / LAST_STATE, lambda s: s.update(rows=("epoch\r\nx\r\n", "")))
    with pytest.warns(UserWarning, match="has a cell that is no number"):
        train(run, machine)


def test_a_text_that_grows_is_that_of_all_rows(tmp_path):
    rows = [{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 1e-17}]
    text = CsvText()
    for more in ({"epoch": 2, "loss": 0.5}, {"epoch": 3, "new": 4}, {"loss": 0.25, "epoch": 5}):
        text.extended(rows)
        text.extended(rows)
        rows.append(more)
        atomic.write_csv(tmp_path / EPOCHS, rows)
        assert text.extended(rows).encode() == (tmp_path / EPOCHS).read_bytes()


def test_rows_are_written_once(monkeypatch):
    written = []

    class Counted(csv.DictWriter):
        def writerows(self, rows):
            written.append(len(rows))
            super().writerows(rows)

    monkeypatch.setattr(atomic.csv, "DictWriter", Counted)
    text, rows = CsvText(), []
    for epoch in range(4):
        rows += [{"epoch": epoch, "layer": name} for name in "ab"]
        text.extended(rows)
        text.extended(rows)
    assert written == [2, 0] * 4
