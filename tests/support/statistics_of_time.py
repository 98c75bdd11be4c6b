"""Friedman's test on repeated measurements, with the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence


def friedman(rounds: Sequence[Sequence[float]]) -> float:
    """The probability of ranks at least as uneven as these if all treatments take the same time.

    Each round has one measurement of each treatment. Their number must be odd, so that the chi-square distribution
    has a closed form (even degrees of freedom). Ties share their ranks.
    """
    treatments, count = len(rounds[0]), len(rounds)
    assert treatments % 2 == 1
    sums = [0.0] * treatments
    for measured in rounds:
        for treatment, rank in enumerate(ranks(measured)):
            sums[treatment] += rank
    middle = (treatments + 1) / 2
    uneven = sum((each / count - middle) ** 2 for each in sums)
    return chi_square_tail(12 * count / (treatments * (treatments + 1)) * uneven, treatments - 1)


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value, 1 for the smallest; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for at in range(first, last + 1):
            found[order[at]] = (first + last) / 2 + 1
        first = last + 1
    return found


def chi_square_tail(value: float, degrees: int) -> float:
    """P(X >= value) for an even number of degrees of freedom."""
    half, term, total = value / 2, 1.0, 1.0
    for at in range(1, degrees // 2):
        term *= half / at
        total += term
    return math.exp(-half) * total
