"""Checks of ranges, and exceptions in one line."""

from __future__ import annotations

import math

import pytest

from baselines import errors
from baselines.errors import UserError, describe, first_line

TINY = 1e-9

CHECKS = [  # of x: what is allowed, what is not
    (errors.check_positive, "must be positive", (TINY, math.inf), (0, -1)),
    (errors.check_not_negative, "must not be negative", (0, math.inf), (-TINY,)),
    (errors.check_finite, "must be finite", (-1e300, 0), (math.inf, -math.inf)),
    (errors.check_in_unit, "must be in [0, 1]", (0, 1), (-TINY, 1 + TINY)),
    (errors.check_inside_unit, "must be in (0, 1)", (TINY, 1 - TINY), (0, 1)),
    (errors.check_fraction, "must be in [0, 1)", (0, 1 - TINY), (-TINY, 1)),
    (lambda **x: errors.check_at_least(2, **x), "must be at least 2", (2, math.inf), (2 - TINY,)),
    (lambda **x: errors.check_at_most(1024, **x), "must be at most 1,024", (1024, -1), (1025,)),
]


@pytest.mark.parametrize("check, text, allowed, refused", CHECKS)
def test_ranges_are_checked_at_their_bounds(check, text, allowed, refused):
    for value in allowed:
        check(before=value, x=value)
    for value in (*refused, math.nan):
        with pytest.raises(UserError) as error:
            check(before=allowed[0], x=value)
        assert str(error.value) == f"x {text}, not {value}."


def test_an_exception_is_told_in_one_line():
    error = RuntimeError("\nshapes differ:\n  (2, 3)\n")
    assert describe(error) == "RuntimeError: shapes differ: (2, 3)"
    assert first_line(error) == "shapes differ:"
    assert first_line(EOFError()) == "EOFError"
