"""The fields that differ from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from launch.config.fields import differences


@dataclass(frozen=True)
class Options:
    rate: float = 0.1
    steps: int = 3
    on: bool = False
    kind: Literal["a", "b"] = "a"
    parts: tuple[int, ...] = ()


def test_fields_that_are_not_at_their_defaults_differ():
    @dataclass(frozen=True)
    class Later:
        given: str
        listed: tuple[int, ...] = field(default_factory=lambda: (1,))
        options: Options = field(default_factory=Options)

    assert differences(Later("x")) == {"given": "x"}
    later = Later("x", (2,), Options(steps=4))
    assert differences(later, "p.", leave_out=("options",)) == {"p.given": "x", "p.listed": (2,)}
    assert differences(later.options) == {"steps": 4}
