"""Intervals over patients and seeds: what they are drawn from, their limits, and how often they are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nnunet_instance_trainers.study.seed_bootstrap import Draws, SeedBootstrap


def made_up(
    simulations: int, *, n_seeds: int = 3, n_cases: int = 30, n_folds: int = 1, difference: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (simulations, 2 arms, S, N) and the fold of each case.

    Cases differ more than anything else; arms differ by case, by training, and by chance.
    """
    generator = np.random.default_rng(seed)
    fold_of = np.arange(n_cases) % n_folds
    shape = simulations, 2, n_seeds, n_cases
    scores = generator.normal(0, 1.0, (simulations, 1, 1, n_cases)) + generator.normal(
        0, 0.2, (simulations, 2, 1, n_cases)
    )
    scores = scores + generator.normal(0, 0.05, (simulations, 2, n_seeds, n_folds))[..., fold_of]
    scores = scores + generator.normal(0, 0.2, shape)
    scores[:, 1] += difference
    return scores, fold_of


def difference_of(scores: np.ndarray, fold_of: np.ndarray, patient_of: np.ndarray | None = None) -> Draws:
    """Second minus first arm, of every simulation."""
    patients = np.arange(scores.shape[-1]) if patient_of is None else patient_of
    draws = SeedBootstrap(fold_of, patients, scores.shape[-2], resamples=300)(scores, np.ones_like(scores))
    return draws[(slice(None), 1)] - draws[(slice(None), 0)]


@pytest.mark.parametrize("n_folds, n_seeds", [(1, 3), (1, 5), (2, 2)])
def test_a_known_difference_is_covered_as_often_as_it_should(n_folds: int, n_seeds: int) -> None:
    scores, fold_of = made_up(100, n_folds=n_folds, n_seeds=n_seeds, difference=0.1)
    low, high = difference_of(scores, fold_of).interval()
    assert 90 <= np.count_nonzero((low <= 0.1) & (high >= 0.1)) <= 99


@pytest.mark.parametrize("n_folds, n_seeds", [(1, 3), (1, 5), (2, 2)])
def test_no_difference_is_claimed_seldom(n_folds: int, n_seeds: int) -> None:
    draws = difference_of(*made_up(100, n_folds=n_folds, n_seeds=n_seeds, seed=1))
    low, high = draws.interval()
    assert np.count_nonzero((low > 0) | (high < 0)) <= 8
    assert np.count_nonzero(draws.p() < 0.05) <= 8


def test_seeds_that_are_left_out_would_claim_too_much() -> None:
    """What the module is for: with the seeds taken for granted, luck of a training becomes a finding."""
    generator = np.random.default_rng(2)
    scores = (
        np.zeros((100, 2, 3, 30)) + generator.normal(0, 0.1, (100, 2, 3, 1)) + generator.normal(0, 0.1, (100, 2, 3, 30))
    )
    mean = scores.mean(2, keepdims=True)
    alone, with_seeds = (np.count_nonzero(difference_of(s, np.zeros(30, int)).p() < 0.05) for s in (mean, scores))
    assert alone > 30
    assert with_seeds <= 12


def test_the_value_is_the_ratio_of_sums_over_seeds_and_cases() -> None:
    generator = np.random.default_rng(0)
    above, below = generator.integers(0, 5, (2, 3, 2, 8)), generator.integers(1, 5, (2, 3, 2, 8))
    draws = SeedBootstrap(np.arange(8) % 2, np.arange(8), 2, resamples=10)(above, below)
    np.testing.assert_allclose(draws.value, above.sum((-2, -1)) / below.sum((-2, -1)))


def test_the_error_of_seeds_alone_is_that_of_their_mean() -> None:
    """Each training gives all cases one value: what is left is the textbook's t interval over three seeds."""
    values = np.array([0.2, 0.5, 0.35])
    scores = np.repeat(values[:, None], 10, axis=1)
    draws = SeedBootstrap(np.zeros(10, int), np.arange(10), 3, resamples=20_000)(scores, np.ones_like(scores))
    error, freedom = draws.spread()
    assert error == pytest.approx(stats.sem(values), rel=0.03)
    assert freedom == pytest.approx(2)
    assert draws.p() == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=0.1)


def test_the_error_of_cases_alone_is_that_of_their_mean() -> None:
    cases = np.random.default_rng(0).normal(0, 1, 40)
    scores = np.repeat(cases[None], 3, axis=0)
    error, freedom = SeedBootstrap(np.zeros(40, int), np.arange(40), 3, resamples=5000)(
        scores, np.ones_like(scores)
    ).spread()
    assert error == pytest.approx(cases.std() / np.sqrt(40), rel=0.05)
    assert freedom == pytest.approx(39)


def test_what_a_training_and_a_patient_explain_together_counts_once() -> None:
    """With noise alone the mean varies by 1 / (S N), and drawing both says three times that (Owen 2007)."""
    scores = np.random.default_rng(0).normal(0, 1, (200, 3, 30))
    draws = SeedBootstrap(np.zeros(30, int), np.arange(30), 3, resamples=400)(scores, np.ones_like(scores))
    error, _ = draws.spread()
    assert np.mean(draws.both.var(0)) * 90 > 2.2
    assert 0.9 < np.mean(error**2) * 90 < 1.7


def test_images_of_one_patient_are_drawn_together() -> None:
    cases = np.random.default_rng(0).normal(0, 1, 10)
    scores = np.repeat(cases, 2)[None, None]  # two images of each patient, which say the same twice
    ones = np.ones_like(scores)
    together = SeedBootstrap(np.zeros(20, int), np.repeat(np.arange(10), 2), 1, resamples=4000)(scores, ones)
    apart = SeedBootstrap(np.zeros(20, int), np.arange(20), 1, resamples=4000)(scores, ones)
    assert together.spread()[0] / apart.spread()[0] == pytest.approx(np.sqrt(2), rel=0.05)


def test_an_arm_does_not_differ_from_itself() -> None:
    draws = difference_of(np.repeat(made_up(1)[0][:, :1], 2, axis=1), np.zeros(30, int))
    low, high = draws.interval()
    assert (draws.value, low, high, draws.p()) == (0, 0, 0, 1)


def test_of_few_patients_there_is_no_interval() -> None:
    scores = np.random.default_rng(0).normal(0, 1, (1, 3, 8))
    draws = SeedBootstrap(np.zeros(8, int), np.arange(8) // 2, 3, resamples=50)(scores, np.ones_like(scores))
    low, high = draws.interval()
    assert np.isnan([low, high, draws.p()]).all()
    assert not np.isnan(draws.value).any()
