"""Scores of pooled counts with bootstrap intervals over cases, and whether a gain exceeds chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.count_table import Table
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.resampling import FEWEST_CASES, draw_cases, interval

__all__ = ["Bootstrap", "Estimate", "cases_needed"]


@dataclass(frozen=True)
class Estimate:
    """What something scores on cases that it was not fitted to.

    Attributes:
        name: of a model, or the parts of a procedure.
        score, interval: pooled score, and its bootstrap interval over cases.
        gain, gain_interval: the same of the difference to the best single model.
        counts: pooled over cases and classes.
    """

    name: str
    score: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    counts: Counts


def cases_needed(tries: int, level: float) -> int:
    """With fewer cases a gain in every single one can be chance.

    As in a sign test: of n cases without any true gain all gain in one of 2^n trials, which must not exceed
    (1 - level) / 2 over all that is tried.

    Example:
        >>> cases_needed(1, 0.95), cases_needed(4, 0.95)
        (6, 8)
    """
    return math.ceil(math.log2(2 * max(tries, 1) / (1 - level)))


@dataclass
class Bootstrap:
    """Percentile intervals over cases, always the same draws of as many cases.

    Attributes:
        table: knows the score.
        level: of the intervals.
        samples, seed: of the draws.
    """

    table: Table
    level: float
    samples: int
    seed: int
    _drawn: dict[int, np.ndarray] = field(default_factory=dict)

    def difference(self, rows: np.ndarray, other: np.ndarray) -> float:
        """Of the scores of two (n cases, n classes, n counts)."""
        return self.table.score(rows.sum(0)) - self.table.score(other.sum(0))

    def interval(self, rows: np.ndarray, other: np.ndarray | None = None, *, tries: int = 1) -> tuple[float, float]:
        """Of the score of counts, or of its difference to that of other counts on the same draws; nan of few cases.

        Args:
            rows, other: (n cases, n classes, n counts).
            tries: how many intervals may be looked at; each is that much wider.
        """
        if len(rows) < FEWEST_CASES:
            return float("nan"), float("nan")
        draws = self._draws(len(rows))
        values = self._scores(draws, rows) - (0 if other is None else self._scores(draws, other))
        low, high = interval(values, 1 - (1 - self.level) / tries)
        return float(low), float(high)

    def chance(self, rows: np.ndarray, other: np.ndarray) -> float:
        """How often swapping the two in cases at random gains as much; intervals of few cases are too narrow."""
        n = len(rows)
        if 2**n <= self.samples:
            kept = np.arange(2**n)[:, None] >> np.arange(n) & 1
        else:
            kept = np.random.default_rng(self.seed).integers(0, 2, (self.samples, n))
            kept[0] = 1
        apart, base = rows - other, other.sum(0)
        swapped = self._scores(kept, apart, base) - self._scores(1 - kept, apart, base)
        return float(np.mean(swapped >= self.difference(rows, other) - 1e-9))

    def estimate(self, name: str, rows: np.ndarray, single: np.ndarray) -> Estimate:
        """Of counts, with the gain on those of the best single model."""
        return Estimate(
            name=name,
            score=self.table.score(rows.sum(0)),
            interval=self.interval(rows),
            gain=self.difference(rows, single),
            gain_interval=self.interval(rows, single),
            counts=Counts(*rows.sum((0, 1)).tolist()),
        )

    def _draws(self, n: int) -> np.ndarray:
        if n not in self._drawn:
            self._drawn[n] = np.concatenate(list(draw_cases(n, resamples=self.samples, seed=self.seed)))
        return self._drawn[n]

    def _scores(self, draws: np.ndarray, rows: np.ndarray, more: np.ndarray | float = 0.0) -> np.ndarray:
        totals = np.einsum("sn,nck->sck", draws, rows) + more
        return np.array([self.table.score(total) for total in totals])
