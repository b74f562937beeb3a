"""The bootstrap against plain loops and the normal approximation."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_instance_trainers.evaluation import resampling
from nnunet_instance_trainers.evaluation.resampling import bootstrap, interval


def random_parts(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.random(shape), generator.integers(1, 9, shape).astype(float)


def test_bootstrap_equals_a_plain_loop() -> None:
    above, below = random_parts(2, 3, 7)
    samples = bootstrap(above, below, resamples=20, seed=5)
    times = np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), size=20)
    assert samples.shape == (20, 2, 3)
    for draw, counts in zip(samples, times):
        cases = np.repeat(np.arange(7), counts)
        assert len(cases) == 7
        for row in np.ndindex(2, 3):
            assert draw[row] == pytest.approx(above[row][cases].sum() / below[row][cases].sum(), rel=1e-12)


def test_all_rows_see_the_same_draws() -> None:
    """So the difference between models is paired: a constant shift has no spread at all."""
    values, ones = np.random.default_rng(1).random(30), np.ones((2, 30))
    samples = bootstrap(np.stack([values, values + 0.25]), ones)
    np.testing.assert_allclose(samples[:, 1] - samples[:, 0], 0.25, rtol=1e-12)


def test_the_seed_decides() -> None:
    parts = random_parts(9)
    assert (bootstrap(*parts, seed=1) == bootstrap(*parts, seed=1)).all()
    assert (bootstrap(*parts, seed=1) != bootstrap(*parts, seed=2)).any()


def test_drawing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = random_parts(2, 9)
    whole = bootstrap(*parts, resamples=50)
    monkeypatch.setattr(resampling, "_CHUNK", 9 * 7)
    np.testing.assert_allclose(bootstrap(*parts, resamples=50), whole, rtol=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(10, 2, 400)
    low, high = interval(bootstrap(values, np.ones(400), resamples=4000))
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_less_confidence_is_a_narrower_interval() -> None:
    samples = np.arange(101.0)
    assert interval(samples) == pytest.approx((2.5, 97.5))
    assert interval(samples, 0.5) == pytest.approx((25, 75))


def test_cases_without_a_value_count_for_nothing() -> None:
    above, below = np.append(np.full(5, 3.0), np.zeros(9)), np.append(np.ones(5), np.zeros(9))
    samples = bootstrap(above, below, resamples=500)
    assert np.isnan(samples).any() and (samples[~np.isnan(samples)] == 3).all()
    assert interval(samples) == (3, 3)
    assert np.isnan(interval(bootstrap(np.zeros(4), np.zeros(4)))).all()


def test_fewer_than_five_cases_have_no_interval() -> None:
    """One case would get an interval of width zero, and two cases one that is far too narrow."""
    values, known = np.arange(7.0), np.array([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0]])
    low, high = interval(bootstrap(values * known, known))
    assert 0 < low[0] < 2 < high[0] < 4 and np.isnan([low[1], high[1]]).all()
    assert np.isnan(interval(bootstrap(np.ones(1), np.ones(1)))).all()
