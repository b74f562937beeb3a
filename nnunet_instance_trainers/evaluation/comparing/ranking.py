"""Ranks, bootstrap intervals over cases, and paired tests: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from scipy import stats

__all__ = ["FEWEST_CASES", "bootstrap", "dense_ranks", "holm", "interval", "mean_ranks", "paired_p"]

FEWEST_CASES = 5
"""With fewer cases there is no interval: draws of so few say next to nothing of others."""

_DIGITS = 9
_EXACT = 13
_CHUNK = 4_000_000


def dense_ranks(values: Sequence[float] | np.ndarray, better: str) -> np.ndarray:
    """Rank models by one score; 1 is the best.

    Ties share a rank and the next value takes the next rank (1, 2, 2, 3), as in Table 1 of the ICI paper (Rachmadi et
    al. 2023). Values that agree to nine decimals tie, so that the order of a summation decides nothing.

    Args:
        values: (M,) a score per model; nan where it is undefined.
        better: "higher" or "lower".

    Returns:
        (M,) ranks; nan where the value is nan.

    Raises:
        ValueError: another direction.

    Example:
        >>> dense_ranks([0.7, 0.9, 0.7, 0.5], "higher")
        array([2., 1., 2., 3.])
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"better is 'higher' or 'lower', got {better!r}")
    rounded = np.round(np.asarray(values, float), _DIGITS)
    ranks = np.full(rounded.shape, np.nan)
    known = ~np.isnan(rounded)
    signed = rounded[known] if better == "lower" else -rounded[known]
    ranks[known] = np.unique(signed, return_inverse=True)[1] + 1
    return ranks


def mean_ranks(ranks: np.ndarray) -> np.ndarray:
    """The mean of each model's ranks (S, M) over the scores that have one; nan where none has."""
    known = ~np.isnan(ranks)
    return _divide(np.where(known, ranks, 0).sum(0), known.sum(0))


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
    generator = np.random.default_rng(seed)
    step = max(1, min(resamples, _CHUNK // max(n, 1)))  # so that a hundred thousand cases fit into memory too
    parts = []
    for start in range(0, resamples, step):
        times = generator.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start)).astype(float)
        parts.append(_divide(times @ above, times @ below))
    samples = np.concatenate(parts)
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


def paired_p(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test over the cases (N,) in which both have a value.

    Limits: 1 where no case differs; nan without any case; never below 0.05 with fewer than six differing cases.
    """
    difference = first - second
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return float("nan")
    difference = difference[difference != 0]
    sizes = np.round(np.abs(difference), _DIGITS)
    if not len(difference):
        return 1.0
    if len(difference) <= _EXACT and len(np.unique(sizes)) < len(sizes):
        return _exact_p(difference > 0, stats.rankdata(sizes))
    return float(stats.wilcoxon(difference).pvalue)


def _exact_p(positive: np.ndarray, ranks: np.ndarray) -> float:
    """The share of all signs that are as extreme; with ties scipy takes a second for what takes a millisecond here."""
    signs = np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1
    away = np.abs(np.vstack([positive, signs]) @ ranks - ranks.sum() / 2)
    return float(np.mean(away[1:] >= away[0] - 1e-9))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction of the p values of one family (Holm 1979); nan stays nan and counts for nothing.

    The smallest of n values is multiplied by n, the next by n - 1, and so on; none falls below one before it.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # nan is sorted to the end
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
