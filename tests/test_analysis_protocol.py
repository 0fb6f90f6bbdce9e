"""The paper's tables of the runs that are made as by code of the paper's group."""

from __future__ import annotations

import pytest
from structure import Page
from test_analysis_tables import write_run

from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.protocol import protocols
from analysis.report.page import _paper_tables
from analysis.tables import make_table
from analysis.tables.sheet import to_text
from baselines.errors import UserError

RECIPE = {"recipe": "cifar10-resnet20"}


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path, "random", 0.1, **RECIPE)
    write_run(tmp_path, "random (legacy-balanced)", 0.2, **RECIPE)
    write_run(tmp_path, "snip", 0.3, **RECIPE)
    write_run(tmp_path, "synflow (iterations=1)", 0.4, **RECIPE)
    return load_runs(list_runs(tmp_path))


def accuracies(table):
    """Return the accuracies of the plain rows at a sparsity of 0.9."""
    found = table.numbers[table.numbers["column"] == "s = 0.9"].set_index("row")["accuracy"]
    return found.dropna().to_dict()


def test_each_protocol_shows_its_own_runs(runs):
    ours, theirs = (make_table("9", runs, protocol=p) for p in ("suite", "paper"))
    assert accuracies(ours) == {"Random": 10, "SNIP": 30}
    assert accuracies(theirs) == {"Random": 20, "SNIP": 30, "SynFlow": 40}
    text = to_text(ours.sheets[0])
    assert "one-shot SynFlow: --protocol paper" in text
    text = to_text(theirs.sheets[0])
    assert "protocol of code of the paper's group: one-shot SynFlow" in text
    assert "protocol" not in to_text(make_table("5", runs).sheets[0])


def test_the_report_has_both(runs):
    assert protocols(runs, "9") == ["suite", "paper"] and protocols(runs, "5") == ["suite"]
    own = runs[~runs["label"].str.contains("legacy|iterations")]
    assert protocols(own, "9") == ["suite"]
    tables = Page("".join(_paper_tables("cifar10-resnet20", runs, None).blocks)).tables
    nine = [title for title, _, _ in tables if title.startswith("Table 9")]
    assert len(nine) == 2 and nine[1] == f"{nine[0]}, protocol of code of the paper's group"


def test_other_tables_have_no_such_runs(runs):
    for name in ("1", "4", "compare"):
        with pytest.raises(UserError, match=f"for tables 3, 9, 10, 11, not {name}"):
            make_table(name, runs, protocol="paper")
