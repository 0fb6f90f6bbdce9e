"""Values get the types of a dataclass's fields, or are refused; differences from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import pytest

from baselines.errors import UserError
from baselines.fields import (
    changed,
    check_types,
    differences,
    earlier_defaults,
    first_default_of,
    new_defaults,
    typed,
)


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


def test_an_instance_is_checked_and_left_as_it_is():
    made = Options(rate=1, steps=np.int64(2), parts=[1])
    check_types(made)
    assert isinstance(made.rate, int) and isinstance(made.steps, np.int64)
    found = typed(Options, {"rate": np.float32(0.5), "steps": made.steps})
    assert found == {"rate": 0.5, "steps": 2} and type(found["steps"]) is int
    for values in ({"rate": "0.1"}, {"kind": "c"}, {"on": 1}, {"steps": None}):
        with pytest.raises(UserError, match=next(iter(values))):
            check_types(Options(**values))
    check_types(Sloppy())
    check_types(Sloppy(2, "x"))


@dataclass(frozen=True)
class Sloppy:
    """A default of another type than declared, and a union."""

    knob: int = None
    either: int | str | None = 1


def test_unknown_fields_are_named():
    with pytest.raises(UserError, match="unknown field 'rat', did you mean rate"):
        typed(Options, {"rat": 1.0})


def test_changed_defaults_are_known_with_those_of_before():
    @dataclass(frozen=True)
    class Changed(Options):
        steps: int = changed(5, before=3)
        later: bool = changed(True, before=None)

    assert Changed() == Changed(steps=5, later=True)
    assert new_defaults(Changed) == {"steps": 5, "later": True}
    assert earlier_defaults(Changed) == {"steps": 3}
    first = {spec.name: first_default_of(spec) for spec in fields(Changed)}
    assert first == {
        "rate": 0.1,
        "steps": 3,
        "on": False,
        "kind": "a",
        "parts": (),
        "later": None,
    }


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
