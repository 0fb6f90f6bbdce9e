"""Conversion of fields to their types, and what differs from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from baselines.errors import UserError
from baselines.fields import typed
from launch.config.fields import differences


@dataclass(frozen=True)
class Options:
    rate: float = 0.1
    steps: int = 3
    on: bool = False
    kind: Literal["a", "b"] = "a"
    parts: tuple[int, ...] = ()


def test_values_get_the_types_of_their_fields():
    found = typed(Options, {"rate": 1, "parts": [1, 2], "kind": "b"})
    assert found == {"rate": 1.0, "parts": (1, 2), "kind": "b"}
    assert isinstance(found["rate"], float)
    assert typed(Options(), {"rate": "1e-2"}) == {"rate": 0.01}  # YAML reads it as a string


@pytest.mark.parametrize(
    "values, message",
    [
        ({"steps": 1.5}, "steps must be of type int, not 1.5"),
        ({"steps": True}, "steps must be of type int, not True"),
        ({"on": 1}, "on must be of type bool, not 1"),
        ({"rate": "fast"}, "rate must be of type float, not 'fast'"),
        ({"rate": True}, "rate must be of type float, not True"),
        ({"kind": "c"}, "unknown kind 'c'"),
        ({"parts": "12"}, "parts must be a list, not '12'"),
        ({"parts": ["1"]}, "parts must be of type int, not '1'"),
    ],
)
def test_values_of_other_types_are_named(values, message):
    with pytest.raises(UserError, match=message):
        typed(Options, values)


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
