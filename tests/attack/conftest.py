"""The attack: seeded cases, a few hundred by default, as many as wanted with `--attack N`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from attack.runs import World, make_world


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--attack`, leave out what takes long, and make the `World` in one process only."""
    if config.option.attack:
        return
    items[:] = [item for item in items if not item.get_closest_marker("long_attack")]
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("attack"))


class Attack:
    """Cases of one part of the attack, and what is wrong with them.

    Args:
        total: number of cases of all parts; 0: the few of the ordinary suite.
    """

    def __init__(self, name: str, total: int, seed: int) -> None:
        self.name, self.total, self.seed = name, total, seed
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()

    def cases(self, few: int, share: float) -> Iterator[Random]:
        """Yield a seeded generator for each case.

        Args:
            few: number of cases in the ordinary suite.
            share: fraction of all cases with `--attack N`.
        """
        for i in range(round(self.total * share) if self.total else few):
            self.counts["cases"] += 1
            self._case = f"{self.name} {self.seed} {i}"
            yield Random(self._case)

    def note(self, problem: str, what: object) -> None:
        """Note what is wrong with the case, if anything is."""
        if problem:
            self.problems.append(f"{self._case}: {what}: {problem[:400]}")
            print(self.problems[-1], flush=True)  # at once with pytest -s


@pytest.fixture
def attack(request: pytest.FixtureRequest, record_property) -> Iterator[Attack]:
    options = request.config.option
    name = request.node.name.removeprefix("test_")
    found, began = Attack(name, options.attack, options.attack_seed), time.monotonic()
    yield found
    counts = ", ".join(f"{n} {what}" for what, n in found.counts.items())
    record_property("attack", name)
    record_property("cases", counts)
    record_property("seconds", time.monotonic() - began)
    shown = "\n".join(found.problems[:40])
    assert not found.problems, f"{len(found.problems)} of {counts}:\n{shown}"


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(_made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return runs that are finished, stopped or failed, and go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return _made
