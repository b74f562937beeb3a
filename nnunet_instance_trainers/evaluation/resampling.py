"""The bootstrap over cases: draws with replacement, ratios of sums anew for each draw, and percentile intervals.

``compare``, ``fit-ensemble``, FROC and the report all take their intervals from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

__all__ = ["FEWEST_CASES", "bootstrap", "divide", "draw_cases", "interval"]

FEWEST_CASES = 5
"""With fewer cases there is no interval: draws of so few say next to nothing of others."""

_CHUNK = 4_000_000


def draw_cases(n: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n cases comes up in draws of n with replacement, (D, n) at a time, ``resamples`` in all.

    In parts, so that a hundred thousand cases fit into memory too; the same seed gives the same draws for the same n.
    """
    generator = np.random.default_rng(seed)
    step = max(1, min(resamples, _CHUNK // max(n, 1)))
    for start in range(0, resamples, step):
        yield generator.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start))


def bootstrap(numerator: np.ndarray, denominator: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Draw cases with replacement and compute sum(numerator) / sum(denominator) anew for each draw.

    Every row sees the same draws, so differences between rows are paired. A mean over cases has a denominator of 1
    where the case has a value and 0 where not; a pooled ratio has its counts.

    Args:
        numerator, denominator: (*R, N) for any rows and N cases; finite.
        resamples: how many draws.
        seed: the same seed gives the same draws for the same N.

    Returns:
        (resamples, *R) ratios; nan where a draw has a denominator of 0, and in rows in which fewer than
        :data:`FEWEST_CASES` cases have another.
    """
    rows, n = numerator.shape[:-1], numerator.shape[-1]
    above, below = (array.reshape(-1, n).T.astype(float) for array in (numerator, denominator))
    drawn = (times.astype(float) for times in draw_cases(n, resamples=resamples, seed=seed))
    samples = np.concatenate([divide(times @ above, times @ below) for times in drawn])
    samples[:, np.count_nonzero(below, axis=0) < FEWEST_CASES] = np.nan
    return samples.reshape(resamples, *rows)


def interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of bootstrapped values (resamples, *R), as (low, high); nan where no draw has a value."""
    tail = (1 - confidence) / 2
    flat = samples.reshape(len(samples), prod(samples.shape[1:]))
    bounds = np.full((2, flat.shape[1]), np.nan)
    known = ~np.isnan(flat).all(0)
    bounds[:, known] = np.nanquantile(flat[:, known], (tail, 1 - tail), axis=0)
    low, high = bounds.reshape(2, *samples.shape[1:])
    return low, high


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, nan where below is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
