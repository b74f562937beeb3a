"""Intervals and tests of means over cases *and* trainings, so that they hold for other patients and other seeds.

A score of an arm is a ratio of sums over its trainings and the cases. What is drawn with replacement:

- patients, n of n: the same draw for every arm and seed, for all predict the same cases. Cases of one patient stay
  together, since two images of an eye are not two eyes;
- within each fold seeds, S - 1 of S: the same seeds for every arm, so that differences are paired. n of n would say
  that a mean of three seeds varies by two thirds of what it does (Rao & Wu 1988); S - 1 makes that right. Seeds and
  patients are crossed, for each training predicts all cases of its fold.

With both drawn at once, what only a training and a patient together explain counts three times (Owen 2007, the
pigeonhole bootstrap); drawing each alone shows how much that is, and it is taken off. With few seeds a normal
distribution is too narrow, so the intervals are as wide as a t distribution with Satterthwaite's degrees of freedom:
two of three seeds where seeds are all that varies, those of the patients where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from nnunet_instance_trainers.evaluation.resampling import FEWEST_CASES, divide, draw_cases, interval

__all__ = ["Draws", "SeedBootstrap"]

_ROUNDING = 1e-12  # what differs by less does so by the order of its sums


@dataclass(frozen=True)
class Draws:
    """A score and its draws; differences of two are differences of scores on the same draws.

    Attributes:
        value: (*R) from all trainings and cases.
        both, patients, seeds: (D, *R) with both drawn, or one of them.
        freedom: degrees of freedom of patients and of seeds; 0 of seeds without a second one.
    """

    value: np.ndarray
    both: np.ndarray
    patients: np.ndarray
    seeds: np.ndarray
    freedom: tuple[int, int]

    def __sub__(self, other: Draws) -> Draws:
        return Draws(*(one - two for one, two in zip(self._arrays, other._arrays)), freedom=self.freedom)

    def __getitem__(self, place: tuple[int, ...] | int) -> Draws:
        index = place if isinstance(place, tuple) else (place,)
        value, *draws = self._arrays
        return Draws(value[index], *(drawn[(slice(None), *index)] for drawn in draws), freedom=self.freedom)

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        return self.value, self.both, self.patients, self.seeds

    def spread(self) -> tuple[np.ndarray, np.ndarray]:
        """The standard error (*R) and its degrees of freedom (*R); nan where nothing varies or nothing is known."""
        both, patients, seeds = (_variance(drawn) for drawn in (self.both, self.patients, self.seeds))
        variance = np.maximum.reduce([patients, seeds, 2 * (patients + seeds) - both])
        # Without a second seed there is none to draw: its variance is 0, and it takes no degrees of freedom.
        parts = patients**2 / self.freedom[0] + seeds**2 / max(self.freedom[1], 1)
        error = np.sqrt(variance)
        return np.where(error < _ROUNDING, 0, error), divide((patients + seeds) ** 2, parts)

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Its ends (*R); nan where there is none."""
        error, freedom = self.spread()
        tail = (1 + confidence) / 2
        low, high = interval(self.both, confidence)
        wider = divide(error, np.sqrt(_variance(self.both))) * stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)
        wider = np.where(error == 0, 1, wider)  # all draws agree, as for an arm and itself
        return self.value + (low - self.value) * wider, self.value + (high - self.value) * wider

    def p(self) -> np.ndarray:
        """(*R) two-sided p of the value being 0; 1 where all draws are 0, nan without draws."""
        error, freedom = self.spread()
        p = 2 * stats.t.sf(divide(np.abs(self.value), error), freedom)
        return np.where((error == 0) & (np.abs(self.value) < _ROUNDING), 1.0, p)


class SeedBootstrap:
    """Draws of patients and seeds for arrays of sums per training and case.

    Args:
        fold_of: (N) of each case the index of its fold.
        patient_of: (N) of each case the index of its patient.
        n_seeds: S.
        resamples: D.
        seed: of the draws.
    """

    def __init__(
        self, fold_of: np.ndarray, patient_of: np.ndarray, n_seeds: int, *, resamples: int = 2000, seed: int = 0
    ) -> None:
        self.fold_of, self.patient_of = np.asarray(fold_of), np.asarray(patient_of)
        self.n_seeds, self.n_folds = n_seeds, int(self.fold_of.max()) + 1
        self.n_patients = int(self.patient_of.max()) + 1
        self.times = np.concatenate(list(draw_cases(self.n_patients, resamples=resamples, seed=seed))).astype(float)
        self.weights = np.ones((resamples, self.n_folds, n_seeds))
        if n_seeds > 1:
            generator = np.random.default_rng([seed, 1])
            even = np.full(n_seeds, 1 / n_seeds)
            drawn = generator.multinomial(n_seeds - 1, even, size=(resamples, self.n_folds))
            self.weights = drawn * n_seeds / (n_seeds - 1)

    def __call__(self, above: np.ndarray, below: np.ndarray) -> Draws:
        """Draws of sum(above) / sum(below).

        Args:
            above, below: (*R, S, N) of each seed and case; finite, both 0 where there is no value.

        Returns:
            Draws of (*R) scores, nan in rows where fewer patients than
            :data:`~nnunet_instance_trainers.evaluation.resampling.FEWEST_CASES` have a value.
        """
        sums = [self._sums(array) for array in (above, below)]
        everyone, all_seeds = np.ones((1, self.n_patients)), np.ones((1, self.n_folds, self.n_seeds))
        value = self._ratio(sums, everyone, all_seeds)[0]
        few = sums[1].any(axis=(-3, -2)).sum(-1) < FEWEST_CASES
        ways = (self.times, self.weights), (self.times, all_seeds), (everyone, self.weights)
        draws = [self._ratio(sums, times, weights) for times, weights in ways]
        for drawn in draws:
            drawn[:, few] = np.nan
        freedom = (self.n_patients - 1, self.n_folds * (self.n_seeds - 1))
        return Draws(value, *draws, freedom=freedom)

    def _sums(self, array: np.ndarray) -> np.ndarray:
        """(*R, F, S, P) sums per fold, seed and patient."""
        sums = np.zeros((*array.shape[:-2], self.n_folds, self.n_seeds, self.n_patients))
        moved = np.moveaxis(array, -1, 0)  # (N, *R, S)
        target = np.moveaxis(sums, (-3, -1), (0, 1))  # (F, P, *R, S), a view
        np.add.at(target, (self.fold_of, self.patient_of), moved)
        return sums

    @staticmethod
    def _ratio(sums: list[np.ndarray], times: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(D, *R) for patients drawn ``times`` (D or 1, P) and seeds weighed by ``weights`` (D or 1, F, S)."""
        above, below = (
            np.einsum("d...fs,dfs->d...", *_alike(np.tensordot(times, array, axes=(1, -1)), weights)) for array in sums
        )
        return divide(above, below)


def _alike(drawn: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = max(len(drawn), len(weights))
    return np.broadcast_to(drawn, (n, *drawn.shape[1:])), np.broadcast_to(weights, (n, *weights.shape[1:]))


def _variance(drawn: np.ndarray) -> np.ndarray:
    """(*R) over the draws that have a value; nan where none has."""
    known = ~np.isnan(drawn)
    mean = divide(np.where(known, drawn, 0).sum(0), known.sum(0))
    return divide((np.where(known, drawn - mean, 0) ** 2).sum(0), known.sum(0))
