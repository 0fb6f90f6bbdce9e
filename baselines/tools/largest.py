"""Select the largest of many numbers on a CPU, in few passes over them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]
SAMPLE = 2**16  # numbers that bounds of the threshold are estimated from
CHUNK = 2**16  # numbers compared at a time, which stay in the cache


def largest(values: Values, k: int) -> NDArray[np.bool_]:
    """Return a mask of exactly k numbers, the largest; the first of equal ones wins.

    The k-th largest number is bounded from a random sample first, so that only the few numbers
    between the bounds are partitioned: numpy's partition is slow where many are equal, such as the
    scores of pruned weights. The result does not depend on the sample.

    Args:
        values: numbers without NaN, one-dimensional.
        k: at least 1.
    """
    if len(values) <= 2 * SAMPLE:
        return _exactly(values, k)
    low, high = _bounds(values, k)
    mask, near = _split(values, low, high)
    left = k - int(np.count_nonzero(mask))
    if 0 <= left <= len(near):
        mask[near[_exactly(values[near], left)]] = True
        return mask
    if left > len(near):  # the k-th largest number is the lower bound
        left -= len(near)
        ties = np.flatnonzero(values == low)[:left]
        if len(ties) == left:
            mask[near] = mask[ties] = True
            return mask
    return _exactly(values, k)  # the sample misled


def _bounds(values: Values, k: int) -> tuple[float, float]:
    """Return numbers that the k-th largest is very probably between."""
    n = len(values)
    sample = np.sort(values[np.random.default_rng(0).integers(n, size=SAMPLE)])[::-1]
    share = k / n
    spread = 5 * math.sqrt(SAMPLE * share * (1 - share)) + 5
    first, last = math.floor(share * SAMPLE - spread), math.ceil(share * SAMPLE + spread)
    high = sample[first] if first >= 0 else math.inf
    low = sample[last] if last < SAMPLE else -math.inf
    return float(low), float(high)


def _split(values: Values, low: float, high: float) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return a mask of the numbers above `high`, and the positions of others above `low`."""
    above = np.empty(len(values), dtype=np.bool_)
    near = []
    for first in range(0, len(values), CHUNK):
        part, mask = values[first : first + CHUNK], above[first : first + CHUNK]
        np.greater(part, high, out=mask)
        near.append(np.flatnonzero((part > low) != mask) + first)
    return above, np.concatenate(near)


def _exactly(values: Values, k: int) -> NDArray[np.bool_]:
    """Return a mask of the k largest numbers; k may be 0."""
    if k == 0:
        return np.zeros(len(values), dtype=np.bool_)
    at = len(values) - k
    threshold = np.partition(values, at)[at]
    mask: NDArray[np.bool_] = values > threshold
    ties = np.flatnonzero(values == threshold)
    mask[ties[: k - int(np.count_nonzero(mask))]] = True
    return mask
