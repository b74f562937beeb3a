from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from nnunet_instance_trainers.evaluation.comparing import ranking
from nnunet_instance_trainers.evaluation.comparing.ranking import (
    bootstrap,
    dense_ranks,
    holm,
    interval,
    mean_ranks,
    paired_p,
)

# Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84 (2023) 102680,
# doi:10.1016/j.media.2022.102680, Table 7, the part of ISBI 2017: value and published rank per team. It ties as
# the ICI paper does: 0.645 twice is rank 3 twice, and the next value takes rank 4.
LITS = {
    "dice": (
        "higher",
        [0.674, 0.652, 0.645, 0.645, 0.576, 0.529, 0.476, 0.465, 0.417, 0.411, 0.188],
        [1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10],
    ),
    "surface distance": (
        "lower",
        [1.118, 1.076, 1.225, 1.006, 1.187, 1.130, 2.366, 2.778, 1.342, 2.776, 6.118],
        [3, 2, 6, 1, 5, 4, 8, 10, 7, 9, 11],
    ),
    "relative volume difference": (
        "lower",  # of its absolute value
        [-0.103, -0.025, -0.124, 0.016, -0.073, 0.031, -0.088, 0.045, -0.150, -0.263, -0.229],
        [7, 2, 8, 1, 5, 3, 6, 4, 9, 11, 10],
    ),
    "precision": (
        "higher",
        [0.354, 0.385, 0.529, 0.316, 0.273, 0.552, 0.105, 0.107, 0.057, 0.028, 0.008],
        [4, 3, 2, 5, 6, 1, 8, 7, 9, 10, 11],
    ),
    "recall": (
        "higher",
        [0.458, 0.406, 0.439, 0.431, 0.346, 0.383, 0.357, 0.080, 0.189, 0.172, 0.009],
        [1, 4, 2, 3, 7, 5, 6, 10, 8, 9, 11],
    ),
    "F1 of small lesions": (
        "higher",
        [0.103, 0.116, 0.109, 0.057, 0.038, 0.075, 0.054, 0.000, 0.014, 0.031, 0.000],
        [3, 1, 2, 5, 7, 4, 6, 10, 9, 8, 10],
    ),
}
LITS_SUMS = [11, 6, 17, 5, 14, 12, 20, 21, 24, 29, 31]
LITS_RERANKED = [3, 2, 6, 1, 5, 4, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("score", LITS)
def test_the_ranks_of_a_published_table_come_out_as_published(score: str) -> None:
    better, values, published = LITS[score]
    assert dense_ranks(np.abs(values), better).tolist() == published


def test_the_published_order_by_three_ranks_comes_out_as_published() -> None:
    names = ("dice", "surface distance", "relative volume difference")
    means = mean_ranks(np.array([dense_ranks(np.abs(LITS[name][1]), LITS[name][0]) for name in names]))
    np.testing.assert_allclose(means, np.array(LITS_SUMS) / 3)
    assert dense_ranks(means, "lower").tolist() == LITS_RERANKED


def test_all_equal_share_the_first_rank() -> None:
    assert dense_ranks([2.0, 2.0, 2.0], "lower").tolist() == [1, 1, 1]


def test_the_order_of_a_summation_decides_nothing() -> None:
    assert dense_ranks([0.1 + 0.2, 0.3], "higher").tolist() == [1, 1]
    assert dense_ranks([0.3, 0.3 + 1e-8], "higher").tolist() == [2, 1]


def test_an_undefined_score_has_no_rank_and_takes_none_away() -> None:
    np.testing.assert_equal(dense_ranks([np.nan, 0.2, 0.4], "higher"), [np.nan, 2, 1])
    ranks = np.array([[1, 2, np.nan], [3, 1, np.nan]])
    np.testing.assert_equal(mean_ranks(ranks), [2, 1.5, np.nan])


def test_another_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="'higher' or 'lower', got 'up'"):
        dense_ranks([1, 2], "up")


# --- bootstrap ---------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(ranking, "_CHUNK", 9 * 7)
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


# --- tests of pairs ----------------------------------------------------------------------------------------


def test_wilcoxon_by_hand() -> None:
    """All of n differences have one sign: 2 of the 2^n equally likely signs are as extreme."""
    base = np.zeros(7)
    for n in (5, 6, 7):
        assert paired_p(np.arange(1.0, n + 1), base[:n]) == pytest.approx(2 / 2**n)


def test_with_ties_few_cases_have_the_exact_p_of_a_plain_loop_over_all_signs() -> None:
    difference = np.array([0.1, -0.1, 0.2, 0.2, 0.0, 0.4, -0.3, 0.5, 0.5])
    ranks = [1.5, 1.5, 3.5, 3.5, 6, 5, 7.5, 7.5]  # of the sizes that are not 0
    centre, observed = sum(ranks) / 2, sum(ranks) - 1.5 - 5
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=8)]
    expected = sum(abs(total - centre) >= abs(observed - centre) for total in sums) / 2**8
    assert paired_p(difference, np.zeros(9)) == pytest.approx(expected)
    assert paired_p(np.zeros(9), difference) == pytest.approx(expected)


def test_wilcoxon_is_scipys_over_the_cases_with_both_values() -> None:
    a, b = np.random.default_rng(0).random((2, 20))
    known = np.arange(20) % 4 != 0
    b_with_gaps = np.where(known, b, np.nan)
    assert paired_p(a, b_with_gaps) == pytest.approx(stats.wilcoxon(a[known], b[known]).pvalue)


def test_no_difference_is_no_evidence_and_no_case_no_answer() -> None:
    assert paired_p(np.ones(5), np.ones(5)) == 1
    assert np.isnan(paired_p(np.array([np.nan]), np.array([1.0])))


def test_holm_by_hand() -> None:
    """Sorted: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04, raised to the 0.06 before it."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_ends_at_one_and_passes_over_nan() -> None:
    np.testing.assert_allclose(holm([0.6, 0.5]), [1, 1])
    np.testing.assert_allclose(holm([np.nan, 0.02, 0.03]), [np.nan, 0.04, 0.04])
    assert holm([0.2]).tolist() == [0.2]
