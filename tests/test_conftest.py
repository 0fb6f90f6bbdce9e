"""How the tests themselves are run."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("one process")
def test_tests_of_a_group_run_in_one_process(request):
    # pytest 9.2 with pytest-xdist 3.8 ignores groups without a word (pytest-xdist#1386)
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@one process")
