from __future__ import annotations

import numpy as np
import pytest

from nnunet_instance_trainers.evaluation.digits import decimals


@pytest.mark.parametrize(
    "values, digits",
    [
        ([], 2),
        ([0.0, float("nan")], 2),
        ([12.345, 80], 2),
        ([0.81, 0.92], 2),
        ([0.8142, 0.8129], 3),
        ([0.0112, 0.0113], 4),
        ([4.2e-6], 7),  # a mouse's lesion in mL
        ([35.2, 0.0012], 2),  # at the scale of the largest nothing is hidden
        ([1 / 3, 1 / 3 + 1e-12], 2),  # a tie, whatever the order of a summation made of it
        ([-0.004, 0.004], 4),
    ],
)
def test_digits_follow_the_numbers(values: list[float], digits: int) -> None:
    assert decimals(values) == digits
    assert decimals(values, 5) == max(digits, 5)


def test_what_differs_looks_different() -> None:
    random = np.random.default_rng(0)
    for scale in (1e-5, 1e-2, 1, 1e4):
        values = random.uniform(0, scale, 6)
        assert len({f"{value:.{decimals(values)}f}" for value in values}) == 6
